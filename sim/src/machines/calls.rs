//! Calls between the ranks of a run: each message arrives at most once, and at the start of the process that it
//! was sent to.

use pagemesh::config::rpc::CALLS_QUEUE_SHARE;
use pagemesh::machine::CallEvent;
use pagemesh::page::Incarnation;

use super::Machines;

impl Machines {
    /// A rank sends some member a message of the calls.
    pub(super) fn call_somebody(&mut self, index: usize) {
        let now = self.shared.now;
        let Some(machine) = &mut self.processes[index].machine else { return };
        let Some(membership) = machine.membership() else { return };
        let members: Vec<_> = membership.view().members.iter().map(|member| member.id).collect();
        let node = members[self.shared.rng.usize(..members.len())];
        let Some(peer) = machine.peer(node) else { return };
        self.next_call += 1;
        // A oneway call, as the frames of the calls are: its method is the start of its receiver.
        let mut bytes = vec![0; 40 + self.plan.call_len];
        bytes[..2].copy_from_slice(&[1, 1]);
        bytes[4..8].copy_from_slice(&(self.plan.call_len as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.next_call.to_le_bytes());
        bytes[16..24].copy_from_slice(&peer.incarnation.0.to_le_bytes());
        // As an answer does, it may be meant for the start that had this node id before.
        let taken = machine.send_call(now, peer, &bytes).is_ok();
        let queued = machine.session_of(peer).map_or(0, |session| machine.endpoint().queued(session));
        // A message takes some bytes of its own beside what is charged for it.
        if taken && queued > self.plan.queue_max / CALLS_QUEUE_SHARE + 1_024 {
            self.fail(|| format!("calls have half of a queue: p{index} has {queued} bytes"));
        }
        self.processes[index].peers.push(peer);
        self.pump(index);
    }

    /// A rank answers a peer that it has called before, which may be gone.
    pub(super) fn answer_somebody(&mut self, index: usize) {
        let now = self.shared.now;
        let process = &mut self.processes[index];
        let (Some(machine), false) = (&mut process.machine, process.peers.is_empty()) else { return };
        let peer = process.peers[self.shared.rng.usize(..process.peers.len())];
        self.next_call += 1;
        let mut bytes = vec![0; 40];
        bytes[..2].copy_from_slice(&[1, 1]);
        bytes[8..16].copy_from_slice(&self.next_call.to_le_bytes());
        bytes[16..24].copy_from_slice(&peer.incarnation.0.to_le_bytes());
        let _ = machine.send_call(now, peer, &bytes);
        self.pump(index);
    }

    /// What has come for the calls of a process.
    pub(super) fn take_calls(&mut self, index: usize) {
        let Some(machine) = &mut self.processes[index].machine else { return };
        let own = machine.intro().incarnation;
        for event in machine.take_calls() {
            let CallEvent::Message(from, bytes) = event else { continue };
            if bytes.len() < 40 {
                continue;
            }
            let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
            let (number, to) = (word(8), Incarnation(word(16)));
            self.work.calls += 1;
            if to != own {
                self.fail(|| {
                    format!("a message reaches the start that it is for: {own:?} has one for {to:?}")
                });
            }
            if !self.calls.insert((from.incarnation.0, number)) {
                self.fail(|| format!("a message arrives at most once: {number} of {from:?} at {own:?}"));
            }
        }
    }
}
