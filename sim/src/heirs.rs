//! Processes that end, and others that run their nodes on: memory and record of a node outlive its process as
//! values, a view names for each node the process that runs it, and that one begins when the end is certain.

use pagemesh::coherence::{Coherence, Input, NodeSet, Plant, RegionInfo};
use pagemesh::page::{Epoch, NodeId, Span};

use crate::local::NodeMemory;
use crate::plan::How;
use crate::trace::What;
use crate::world::{Death, Event, Phase, World};

impl World {
    fn slots(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u16).map(NodeId)
    }

    /// The nodes that a process runs.
    pub(crate) fn run_by(&self, process: NodeId) -> Vec<NodeId> {
        let is_one = |&slot: &NodeId| self.nodes[slot.0 as usize].runs_at == process;
        self.slots().filter(is_one).collect()
    }

    /// A process has ended, at any moment: all nodes that it ran are without one.
    pub(crate) fn process_ended(&mut self, process: NodeId) {
        let ended = self.run_by(process).into_iter();
        let ended: Vec<NodeId> = ended.filter(|slot| self.nodes[slot.0 as usize].takes_part()).collect();
        if ended.is_empty() {
            return;
        }
        self.record(process, What::Crashed);
        for &node in &ended {
            let slot = self.node(node);
            slot.local.end();
            slot.end();
            self.shared.oracle.process_ended(node);
        }
        self.check_nothing_is_lost();
        self.declare_dead(process);
    }

    /// A view says that a process has ended, and names others that run its nodes on.
    pub(crate) fn declare_dead(&mut self, process: NodeId) {
        let orphans: Vec<NodeId> =
            self.slots().filter(|&slot| self.nodes[slot.0 as usize].runner == process).collect();
        let orphans: Vec<NodeId> = orphans
            .into_iter()
            .filter(|&slot| !matches!(self.nodes[slot.0 as usize].phase, Phase::Gone | Phase::Left))
            .collect();
        let stays = |node: &NodeId| {
            let slot = &self.nodes[node.0 as usize];
            let leaves = self.shared.plan.departures.iter();
            let leaves = leaves.filter(|going| going.how == How::Leaves).any(|going| going.node == *node);
            slot.phase == Phase::Up && slot.runner == *node && *node != process && !leaves
        };
        let living: Vec<NodeId> = self.slots().filter(stays).collect();
        if orphans.is_empty() {
            return;
        }
        self.epoch += 1;
        let latest = 1 + self.shared.rng.u64(..20_000_000);
        for node in orphans {
            let by = living[self.shared.rng.usize(..living.len())];
            self.shared.oracle.declared_dead(node);
            let named = self.deaths.len() + 1;
            let slot = self.node(node);
            (slot.runner, slot.named) = (by, named);
            let at = self.shared.now + Span(self.shared.rng.u64(..latest));
            self.schedule(at, Event::BeginToRun { node, by });
        }
        let is_member = |at: &NodeId| self.nodes[at.0 as usize].phase != Phase::Gone;
        let members: NodeSet = self.slots().filter(is_member).collect();
        let run_on = members.iter().filter(|node| self.nodes[node.0 as usize].runner != *node).collect();
        self.deaths.push(Death { epoch: Epoch(self.epoch), node: process, members, run_on });
        let told = self.deaths.len() as u8;
        for survivor in self.slots().filter(|&other| other != process) {
            let at = self.shared.now + Span(self.shared.rng.u64(..latest));
            self.schedule(at, Event::LearnDeaths { node: survivor, told });
        }
    }

    /// A process runs a node on, as soon as it knows that it is to, and that the one before has ended.
    pub(crate) fn begin_to_run(&mut self, node: NodeId, by: NodeId) {
        let (slot, runner) = (&self.nodes[node.0 as usize], &self.nodes[by.0 as usize]);
        if slot.runner != by || slot.phase == Phase::Gone {
            // A later view names another one.
            return;
        }
        let knows = runner.told >= slot.named;
        let is_certain =
            slot.phase == Phase::Ended || self.shared.plant == Some(Plant::HeirBeginsBeforeTheEnd);
        if !(knows && is_certain) {
            let at = self.shared.now + Span::from_us(50);
            return self.schedule(at, Event::BeginToRun { node, by });
        }
        let (view, epoch, told, incarnation) =
            (runner.view.clone(), runner.epoch, runner.told, runner.incarnation);
        self.record(node, What::RunOn { by });
        let slot = self.node(node);
        let core = Coherence::heir(node, slot.local.hand_over(), None);
        slot.end();
        (slot.phase, slot.runs_at) = (Phase::RunOn, by);
        (slot.view, slot.epoch, slot.told) = (view, epoch, told);
        slot.view[by.0 as usize] = Some(incarnation);
        self.node(node).core = self.planted(core);
        for region in self.shared.plan.regions().map(RegionInfo::clone) {
            let slot = &mut self.nodes[node.0 as usize];
            let mut memory = NodeMemory { local: &mut slot.local, shared: &mut self.shared };
            slot.core.handle(memory.shared.now, Input::Region(region), &mut memory);
        }
        let Death { epoch, members, run_on, .. } = self.deaths[told - 1];
        // Some may have left since.
        let view = &self.nodes[node.0 as usize].view;
        let members = members.iter().filter(|member| view[member.0 as usize].is_some()).collect();
        self.feed(node, Input::Round { epoch, members, died: NodeSet::EMPTY, run_on });
    }
}
