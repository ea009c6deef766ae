//! Nodes whose processes have ended: their memory and record stay, and the runtime of another process opens them when
//! its machine orders so and the end is certain.

use pagemesh::coherence::Legacy;
use pagemesh::machine::{Event as MachineEvent, Machine};
use pagemesh::membership::Membership;
use pagemesh::page::{NodeId, PeerId, Span};

use crate::local::Local;

use super::process::{Phase, Stage};
use super::{Event, Machines};

/// One process in so many does not have the memory that it is to run on.
const MISSING_ONE_IN: u32 = 8;

impl Machines {
    /// Which process of the run a member is.
    fn process_of(peer: PeerId) -> usize {
        peer.incarnation.0 as usize - 1
    }

    /// A machine orders a node whose process has ended, or must.
    pub(super) fn order(&mut self, index: usize, node: PeerId, ran_at: PeerId) {
        self.log(index, || {
            format!("is to run p{} on, after p{}", node.incarnation.0 - 1, ran_at.incarnation.0 - 1)
        });
        self.processes[index].orders.insert(node, ran_at);
        let longest = [Span::from_us(50), Span::from_ms(5), Span::from_ms(300)][self.shared.rng.usize(..3)];
        let at = self.soon(longest);
        self.schedule(at, Event::Open { process: index, node: Self::process_of(node) });
    }

    /// The runtime makes the end certain, and opens the memory.
    pub(super) fn open(&mut self, index: usize, of: usize) {
        if self.processes[index].phase != Phase::Running {
            return;
        }
        if !self.processes[index].runs(self.shared.now) {
            let until = self.processes[index].starved_until;
            return self.schedule(until, Event::Open { process: index, node: of });
        }
        let order = self.processes[index].orders.iter().find(|(node, _)| Self::process_of(**node) == of);
        let Some((&node, &ran_at)) = order else { return };
        self.processes[index].orders.remove(&node);
        for may_live in [of, Self::process_of(ran_at)] {
            let holds = may_live == of || self.processes[may_live].local.keeps(of);
            if may_live != index && holds && self.processes[may_live].phase == Phase::Running {
                self.log(may_live, || "is killed: its nodes are run on elsewhere".to_owned());
                self.vanish(may_live);
            }
        }
        if let Some(other) = (0..self.processes.len()).find(|&other| self.processes[other].local.keeps(of)) {
            return self.fail(|| format!("a node's memory is open once: p{of}'s at p{other} and p{index}"));
        }
        if self.shared.rng.u32(..MISSING_ONE_IN) == 0 {
            self.log(index, || format!("does not have the memory of p{of}"));
            return self.give(index, MachineEvent::CannotRun(node));
        }
        self.log(index, || format!("runs p{of} on"));
        self.work.run_on += 1;
        let size = self.shared.plan.pages.len();
        let legacy = self.take_memory(index, of, size);
        self.give(index, MachineEvent::RunOn { node, legacy });
    }

    fn take_memory(&mut self, index: usize, of: usize, pages: usize) -> Legacy {
        let none = Local::new(NodeId(of as u16), pages, Vec::new());
        let mut memory = std::mem::replace(&mut self.processes[of].local, none);
        let legacy = memory.hand_over();
        self.processes[index].local.keep(of, memory);
        legacy
    }

    /// A machine runs a node on no more, or is not to begin.
    pub(super) fn forget_node(&mut self, index: usize, node: PeerId) {
        let of = Self::process_of(node);
        self.log(index, || format!("forgets p{of}"));
        self.processes[index].orders.remove(&node);
        let Some(memory) = self.processes[index].local.release(of) else { return };
        self.processes[of].local = memory;
        let membership = self.processes[index].machine.as_ref().and_then(Machine::membership);
        let view = membership.map(Membership::view);
        if view.is_some_and(|view| view.runner(node.node).is_none()) {
            // It has been drained.
            self.work.drained += 1;
            self.shared.oracle.gone(NodeId(of as u16));
        }
    }

    /// A process is no more; its memory is where it was, and that of the nodes that it ran on.
    pub(super) fn leave_memory(&mut self, index: usize) {
        self.release_memory(index);
        self.processes[index].local.end();
        self.shared.oracle.process_ended(NodeId(index as u16));
    }

    /// A process runs no node on any more.
    pub(super) fn release_memory(&mut self, index: usize) {
        for (of, memory) in self.processes[index].local.release_all() {
            self.processes[of].local = memory;
        }
        self.processes[index].orders.clear();
    }

    /// The views that a process has seen tell the end of nodes that nobody runs on: their memory is lost.
    pub(super) fn lose(&mut self, of: usize) {
        if self.lost.insert(of) {
            self.log(of, || "is lost".to_owned());
            self.shared.oracle.died(NodeId(of as u16));
        }
    }

    /// Whether a daemon's memory is there, in its own process or in another one.
    pub(super) fn has_memory(&self, index: usize) -> bool {
        let process = &self.processes[index];
        let is_well = |machine: &Machine| machine.lifecycle().why().is_none();
        let runs = process.phase == Phase::Running
            && process.stage != Stage::Failed
            && process.machine.as_ref().is_some_and(is_well);
        let coordinator = self.processes[0].machine.as_ref().and_then(Machine::membership);
        let id = NodeId(index as u16);
        runs || (index > 0 && coordinator.is_some_and(|membership| membership.view().runner(id).is_some()))
    }
}
