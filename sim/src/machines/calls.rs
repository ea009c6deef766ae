//! Calls between the processes of a run, by the shipped cores: a call runs at most once, at the start that it was made
//! to; its answer is its own; every call ends, once, and says truly whether it may have run.

use pagemesh::config::rpc::CALLS_QUEUE_SHARE;
use pagemesh::machine::Machine;
use pagemesh::page::{PeerId, Span, Time};
use pagemesh::rpc::core::{CALL_HEADER_LEN, Output, Rank, Start, Status, Ticket};
use pagemesh::rpc::{ErrorKind, Interface, Kind, Method};

use super::Machines;
use super::process::incarnation;

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
    server: PeerId,
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

    /// A new call of a process to this peer.
    pub(super) fn open_call(&mut self, index: usize, peer: PeerId) -> (Ticket, Start, Vec<u8>) {
        let now = self.shared.now;
        self.next_call += 1;
        let (number, len) = (self.next_call, self.plan.call_len);
        let deadline = self.shared.rng.bool().then(|| now + Span::from_ms(1_000));
        let mut request = vec![0; CALL_HEADER_LEN + 16 + len];
        request[CALL_HEADER_LEN..][..8].copy_from_slice(&number.to_le_bytes());
        request[CALL_HEADER_LEN + 8..][..8].copy_from_slice(&peer.incarnation.0.to_le_bytes());
        let start = Start { method: &METHODS[0], peer, others: Vec::new(), deadline };
        self.open_calls.insert(number, OpenCall { caller: index, server: peer, since: now });
        self.log(index, || format!("calls {peer:?}: {number}"));
        (Ticket(number), start, request)
    }

    /// Calls of a process that have not ended.
    pub(super) fn open_calls_of(&self, index: usize) -> usize {
        self.open_calls.values().filter(|call| call.caller == index).count()
    }

    fn call(&mut self, index: usize, peer: PeerId) {
        let now = self.shared.now;
        if self.processes[index].machine.is_none() {
            return;
        }
        let (ticket, start, request) = self.open_call(index, peer);
        let Some(machine) = &mut self.processes[index].machine else { return };
        machine.calls_mut().start(now, ticket, start, &request);
        self.pump(index);
        let number = ticket.0;
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

    /// A call of a process has brought something. Returns its server, if that is said to be gone.
    pub(super) fn call_output(&mut self, index: usize, output: Output) -> Option<PeerId> {
        let Output::Done(Ticket(number), outcome) = output else { return None };
        self.log(index, || format!("call {number} ends: {outcome:?}"));
        let open = self.open_calls.remove(&number);
        if open.is_none_or(|open| open.caller != index) {
            self.fail(|| format!("each call ends once, at its caller: {number} of p{index} is {open:?}"));
            return None;
        }
        let has_run = self.calls_run.contains(&number);
        match outcome {
            Ok((Status::Done, body)) if body == (!number).to_le_bytes() && has_run => {}
            Ok(answer) => {
                self.fail(|| format!("an answer is its call's: {number} of p{index} gets {answer:?}"));
            }
            Err(error) => {
                let may_have_run = match &error.kind {
                    ErrorKind::Unreachable { may_have_executed }
                    | ErrorKind::ServerDied { may_have_executed } => *may_have_executed,
                    ErrorKind::Busy => false,
                    ErrorKind::Deadline | ErrorKind::Cancelled => true,
                    kind @ (ErrorKind::BadVersion { .. } | ErrorKind::Remote(_) | ErrorKind::Forked) => {
                        self.fail(|| format!("no call ends so: {number} of p{index}, {kind:?}"));
                        return None;
                    }
                };
                if has_run && !may_have_run {
                    self.fail(|| format!("a call that has run is not said not to have: {number}, {error}"));
                }
                let is_gone =
                    matches!(error.kind, ErrorKind::Unreachable { .. } | ErrorKind::ServerDied { .. });
                return open.filter(|_| is_gone).map(|open| open.server);
            }
        }
        None
    }

    /// Every call ends.
    pub(super) fn check_lateness(&mut self, index: usize) {
        let now = self.shared.now;
        let is_late = |call: &OpenCall| call.caller == index && now.since(call.since) > CALL_MAX;
        if let Some((number, call)) = self.open_calls.iter().find(|(_, call)| is_late(call)) {
            let text = format!("{number} {call:?}");
            self.fail(|| format!("every call ends: {text}"));
        }
    }

    /// Every call ends, and those of a process that has ended at once.
    pub(super) fn check_calls(&mut self, index: usize) {
        let Some(machine) = &self.processes[index].machine else { return };
        if machine.lifecycle().is_closed() || machine.lifecycle().why().is_some() {
            let open = self.open_calls_of(index);
            if open > 0 {
                self.fail(|| format!("every call ends with its process: {open} are open at p{index}"));
            }
        }
        self.check_lateness(index);
    }

    /// The threads of a process that is gone wait for nothing.
    pub(super) fn forget_calls(&mut self, index: usize) {
        self.open_calls.retain(|_, call| call.caller != index);
    }
}
