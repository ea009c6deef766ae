//! Calls between the processes of a run, by the shipped cores: a call runs at most once, at the start that it was made
//! to; its answer is its own; every call ends, once, and says truly whether it may have run.

use pagemesh::config::rpc::CALLS_QUEUE_SHARE;
use pagemesh::machine::Machine;
use pagemesh::page::{PeerId, Span, Time};
use pagemesh::rpc::core::{CALL_HEADER_LEN, Output, Rank, Start, Status, Ticket};
use pagemesh::rpc::{ErrorKind, Interface, Kind, Method};

use super::process::incarnation;
use super::{Machines, Phase};

/// What the processes serve. Running it twice would show.
static INTERFACE: Interface =
    Interface { name: "Count", version: 1, hash: 1, methods: &METHODS, description: "" };
static METHODS: [Method; 1] = [Method {
    interface: "Count",
    version: 1,
    name: "count",
    id: 1 << 32,
    kind: Kind::Unary,
    deadline_us: None,
    idempotent: false,
    longrunning: false,
}];

/// Calls of one process that may wait for a worker.
const CALLS_MAX: usize = 8;
/// Longest that a call may take: its peer's death must have been found out by then.
const CALL_MAX: Span = Span::from_ms(120_000);

/// A call that has not ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenCall {
    caller: usize,
    since: Time,
}

/// What a machine serves from its start.
pub(super) fn serve(machine: &mut Machine) {
    machine.calls_mut().serve(&INTERFACE, CALLS_MAX, Rank::Program);
}

impl Machines {
    /// A rank calls some member.
    pub(super) fn call_somebody(&mut self, index: usize) {
        let Some(machine) = &self.processes[index].machine else { return };
        let Some(membership) = machine.membership() else { return };
        let members: Vec<_> = membership.view().members.iter().map(|member| member.id).collect();
        let node = members[self.shared.rng.usize(..members.len())];
        let Some(peer) = machine.peer(node) else { return };
        self.processes[index].peers.push(peer);
        self.call(index, peer);
    }

    /// A rank calls a peer again that it has called before, which may be gone.
    pub(super) fn call_again(&mut self, index: usize) {
        let process = &self.processes[index];
        if process.peers.is_empty() {
            return;
        }
        let peer = process.peers[self.shared.rng.usize(..process.peers.len())];
        self.call(index, peer);
    }

    fn call(&mut self, index: usize, peer: PeerId) {
        let now = self.shared.now;
        self.next_call += 1;
        let (number, len) = (self.next_call, self.plan.call_len);
        let deadline = self.shared.rng.bool().then(|| now + Span::from_ms(1_000));
        let mut request = vec![0; CALL_HEADER_LEN + 16 + len];
        request[CALL_HEADER_LEN..][..8].copy_from_slice(&number.to_le_bytes());
        request[CALL_HEADER_LEN + 8..][..8].copy_from_slice(&peer.incarnation.0.to_le_bytes());
        let Some(machine) = &mut self.processes[index].machine else { return };
        let start = Start { method: &METHODS[0], peer, others: Vec::new(), deadline };
        self.open_calls.insert(number, OpenCall { caller: index, since: now });
        machine.calls_mut().start(now, Ticket(number), start, &request);
        self.log(index, || format!("calls {peer:?}: {number}"));
        self.pump(index);
        let Some(machine) = &self.processes[index].machine else { return };
        let queued = machine.session_of(peer).map_or(0, |session| machine.endpoint().queued(session));
        // A message takes some bytes of its own beside what is charged for it.
        if self.open_calls.contains_key(&number)
            && queued > self.plan.queue_max / CALLS_QUEUE_SHARE + 1_024 + self.plan.call_len
        {
            self.fail(|| format!("calls have half of a queue: p{index} has {queued} bytes"));
        }
    }

    /// Runs the calls that have come to a process; true if there were any.
    pub(super) fn run_calls(&mut self, index: usize) -> bool {
        let mut any = false;
        loop {
            let now = self.shared.now;
            let Some(machine) = &mut self.processes[index].machine else { return any };
            let Some(job) = machine.calls_mut().take_job(now, Rank::Program) else { return any };
            any = true;
            let word = |at: usize| u64::from_le_bytes(job.body[at..at + 8].try_into().expect("eight bytes"));
            let (number, to) = (word(0), word(8));
            machine.calls_mut().answer(job, &(!number).to_le_bytes());
            self.work.calls += 1;
            self.log(index, || format!("runs call {number}"));
            if to != incarnation(index) {
                self.fail(|| {
                    format!("a call reaches the start that it is for: p{index} runs one for p{}", to - 1)
                });
            }
            if !self.calls_run.insert(number) {
                self.fail(|| format!("a call runs at most once: {number} at p{index}"));
            }
        }
    }

    /// A call of a process has brought something.
    pub(super) fn call_output(&mut self, index: usize, output: Output) {
        let Output::Done(Ticket(number), outcome) = output else { return };
        self.log(index, || format!("call {number} ends: {outcome:?}"));
        let open = self.open_calls.remove(&number);
        if open.is_none_or(|open| open.caller != index) {
            return self
                .fail(|| format!("each call ends once, at its caller: {number} of p{index} is {open:?}"));
        }
        let has_run = self.calls_run.contains(&number);
        match outcome {
            Ok((Status::Done, body)) if body == (!number).to_le_bytes() && has_run => {}
            Ok(answer) => {
                self.fail(|| format!("an answer is its call's: {number} of p{index} gets {answer:?}"))
            }
            Err(error) => {
                let may_have_run = match &error.kind {
                    ErrorKind::Unreachable { may_have_executed }
                    | ErrorKind::ServerDied { may_have_executed } => *may_have_executed,
                    ErrorKind::Busy => false,
                    ErrorKind::Deadline | ErrorKind::Cancelled => true,
                    kind @ (ErrorKind::BadVersion { .. } | ErrorKind::Remote(_) | ErrorKind::Forked) => {
                        return self.fail(|| format!("no call ends so: {number} of p{index}, {kind:?}"));
                    }
                };
                if has_run && !may_have_run {
                    self.fail(|| format!("a call that has run is not said not to have: {number}, {error}"));
                }
            }
        }
    }

    /// Every call ends, and those of a process that has ended at once.
    pub(super) fn check_calls(&mut self, index: usize) {
        let now = self.shared.now;
        let Some(machine) = &self.processes[index].machine else { return };
        let has_ended = machine.lifecycle().is_closed() || machine.lifecycle().why().is_some();
        let is_late = |call: &OpenCall| has_ended || now.since(call.since) > CALL_MAX;
        let late = self.open_calls.iter().find(|(_, call)| call.caller == index && is_late(call));
        if let Some((number, call)) = late {
            let text = format!("{number} {call:?}");
            self.fail(|| format!("every call ends: {text}"));
        }
    }

    /// The threads of a process that is gone wait for nothing.
    pub(super) fn forget_calls(&mut self, index: usize) {
        debug_assert_eq!(self.processes[index].phase, Phase::Gone);
        self.open_calls.retain(|_, call| call.caller != index);
    }
}
