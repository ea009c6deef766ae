//! Nodes that leave, crash and join, as membership orders it: a message counts only while its receiver
//! regards the sender's incarnation as a member. A node that leaves is a member until its last
//! messages have arrived, as the session layer sees to. In half of the runs what it had
//! sent about pages is gone when its core says that no page depends on it; a dead one is cut off at each survivor when
//! that survivor learns of the death, each at its own time.

use pagemesh::coherence::{Input, NodeSet};
use pagemesh::page::{Epoch, NodeId, Span};

use crate::plan::How;
use crate::trace::What;
use crate::world::{BARRIER, Death, Event, Phase, World};

impl World {
    pub(crate) fn depart(&mut self, index: u8) {
        let going = self.shared.plan.departures[index as usize].clone();
        let node = going.node;
        match going.how {
            How::Leaves if self.node(node).phase == Phase::Up => {
                let holds = self.node(node).local.threads.iter().any(|thread| thread.holds.is_some());
                if holds && self.shared.rng.u32(..16) != 0 {
                    let at = self.shared.now + Span::from_us(50);
                    return self.schedule(at, Event::Depart { index });
                }
                let now = self.shared.now;
                self.node(node).phase = Phase::Leaving;
                self.node(node).leaving_since = Some(now);
                if holds {
                    // Its critical section will not end: the lock is broken for the others.
                    self.shared.oracle.deserts(node);
                }
                // A number of its own: what else befalls a seed does not depend on it.
                if now.0.is_multiple_of(2) {
                    self.shared.oracle.retires(node);
                    self.record(node, What::Retire);
                    let members = self.shared.plan.members;
                    self.give_up(node, Input::Retire { barrier: BARRIER, members });
                    let until_it_leaves = Span(now.0 / 2 % 2_000_000);
                    return self.schedule(now + until_it_leaves, Event::Depart { index });
                }
                self.leave(node);
            }
            How::Leaves => self.leave(node),
            How::Crashes | How::IsDeclaredDead if self.node(node).phase != Phase::Up => {}
            How::IsDeclaredDead => {
                self.declare_dead(node);
                let at = self.shared.now + Span(self.shared.rng.u64(..4_000_000));
                self.schedule(at, Event::End { node });
                if !going.in_a_call.is_empty() {
                    let steps = self.shared.rng.u32(going.in_a_call);
                    self.node(node).local.ends_after(steps);
                }
            }
            How::Crashes if !going.in_a_call.is_empty() => {
                let steps = self.shared.rng.u32(going.in_a_call);
                // In a call of any of the nodes that the process runs.
                let slots = self.run_by(node);
                let at = slots[self.shared.rng.usize(..slots.len())];
                self.node(at).local.ends_after(steps);
                // It may have nothing to do any more.
                self.shared.plan.departures[index as usize].in_a_call = 0..0;
                let at = self.shared.now + Span(self.shared.rng.u64(..4_000_000));
                self.schedule(at, Event::Depart { index });
            }
            How::Crashes => self.crashed(node),
        }
    }

    /// A process has ended, at any moment, also inside a call of its core.
    pub(crate) fn crashed(&mut self, node: NodeId) {
        if self.shared.plan.runs_on {
            return self.process_ended(self.nodes[node.0 as usize].runs_at);
        }
        if !matches!(self.node(node).phase, Phase::Up | Phase::Leaving) {
            return;
        }
        self.record(node, What::Crashed);
        self.node(node).local.end();
        self.check_nothing_is_lost();
        let replaced = self.shared.plan.departures.iter().any(|going| going.node == node && going.replaced);
        for page in 0..self.pages().len() {
            let id = self.shared.plan.pages[page];
            let has_bytes = self.shared.oracle.has_version(node, page);
            if has_bytes || self.node(node).core.may_have_written(id) {
                self.shared.oracle.may_be_lost(page);
            }
        }
        self.node(node).phase = Phase::Gone;
        self.shared.oracle.died(node);
        self.epoch += 1;
        let is_member = |at: &NodeId| self.nodes[at.0 as usize].phase != Phase::Gone;
        let members = (0..self.nodes.len() as u16).map(NodeId).filter(is_member).collect();
        let run_on = NodeSet::EMPTY;
        self.deaths.push(Death { epoch: Epoch(self.epoch), node, members, run_on });
        let told = self.deaths.len();
        let latest = 1 + self.shared.rng.u64(..20_000_000);
        for survivor in (0..self.nodes.len() as u16).map(NodeId).filter(|&other| other != node) {
            let at = self.shared.now + Span(self.shared.rng.u64(..latest));
            self.schedule(at, Event::LearnDeaths { node: survivor, told: told as u8 });
        }
        if replaced {
            self.schedule(self.shared.now + Span(latest), Event::Join { node });
        }
    }

    fn leave(&mut self, node: NodeId) {
        let op = self.next_op();
        self.node(node).leave_op = Some(op);
        self.record(node, What::Leave);
        self.give_up(node, Input::Leave { op });
    }

    /// Feeds an input by which a node gives up the locks that it holds.
    fn give_up(&mut self, node: NodeId, input: Input<'_>) {
        self.feed(node, input);
        // A thread may have taken a lent lock before the core recalled it.
        if self.node(node).local.threads.iter().any(|thread| thread.holds.is_some()) {
            self.shared.oracle.deserts(node);
        }
    }

    /// A node is told of the first so many deaths of the run: views only grow. Several at a time make one round.
    pub(crate) fn learn_deaths(&mut self, node: NodeId, told: usize) {
        while self.node(node).told < told
            && self.nodes[node.0 as usize].runs_at == self.nodes[node.0 as usize].runner
        {
            let from = self.node(node).told;
            let to = if self.shared.rng.bool() { told } else { from + 1 };
            let died: NodeSet = self.deaths[from..to].iter().map(|death| death.node).collect();
            let died = if self.shared.plan.runs_on { NodeSet::EMPTY } else { died };
            let Death { epoch, members, run_on, .. } = self.deaths[to - 1];
            let slot = self.node(node);
            slot.told = to;
            slot.epoch = slot.epoch.max(epoch);
            died.iter().for_each(|dead| slot.view[dead.0 as usize] = None);
            // Who has left, its last messages still under way, no longer asks its core.
            if self.up().contains(node) {
                self.record(node, What::LearnsDeaths { died });
                self.feed(node, Input::Round { epoch, members, died, run_on });
            }
        }
    }

    /// The next view: all that take part hear of it at once, and of all deaths before.
    fn next_view(&mut self) {
        // Somebody may end when it hears of a death.
        while let Some(other) = self.up().iter().find(|&other| self.node(other).told < self.deaths.len()) {
            self.learn_deaths(other, self.deaths.len());
        }
        self.epoch += 1;
        for other in self.up().iter() {
            self.node(other).epoch = Epoch(self.epoch);
        }
    }

    /// The core says that nothing depends on this node any more: its mappings must be gone.
    pub(crate) fn has_left(&mut self, node: NodeId) {
        self.record(node, What::Left);
        self.node(node).phase = Phase::Left;
        self.shared.oracle.left(node);
        self.settle_left(node);
    }

    /// Once the last message of a node that left has arrived, it is a member no longer.
    pub(crate) fn settle_left(&mut self, node: NodeId) {
        let slot = self.node(node);
        if slot.phase != Phase::Left || slot.in_flight > 0 {
            return;
        }
        slot.phase = Phase::Gone;
        self.next_view();
        for other in 0..self.nodes.len() {
            self.nodes[other].view[node.0 as usize] = None;
        }
        for other in self.up().iter() {
            self.record(other, What::LearnsLeave { node });
            self.feed(other, Input::NodeLeft(node));
        }
        let replaced = self.shared.plan.departures.iter().any(|going| going.node == node && going.replaced);
        if replaced {
            let at = self.shared.now + Span(self.shared.rng.u64(..1_000_000));
            self.schedule(at, Event::Join { node });
        }
    }

    /// A fresh node comes to the slot; everybody hears of it before its first message.
    pub(crate) fn join(&mut self, node: NodeId) {
        self.next_view();
        let mut fresh = self.fresh_node(node);
        fresh.view = vec![None; self.nodes.len()];
        let incarnation = fresh.incarnation;
        *self.node(node) = fresh;
        self.record(node, What::Joined);
        for other in self.up().iter() {
            let known = self.node(other).incarnation;
            self.node(node).view[other.0 as usize] = Some(known);
            self.node(other).view[node.0 as usize] = Some(incarnation);
            if other != node {
                self.record(other, What::LearnsJoin { node });
                self.feed(other, Input::NodeJoined(node));
            }
            self.tell_program(other);
        }
        self.start(node);
        // It hears nothing of earlier rounds, but a home that died stays dead for whoever comes later.
        let died: NodeSet = self.deaths.iter().map(|death| death.node).collect();
        let died: NodeSet = died.iter().filter(|&dead| !self.up().contains(dead)).collect();
        if !died.is_empty() && !self.shared.plan.runs_on {
            let epoch = self.node(node).epoch;
            self.feed(
                node,
                Input::Round { epoch, members: NodeSet::from_iter([node]), died, run_on: NodeSet::EMPTY },
            );
        }
        let mut members = self.up();
        for other in (0..self.nodes.len() as u16).map(NodeId).filter(|&other| other != node) {
            let slot = self.node(other);
            if slot.phase == Phase::Ended || slot.runs_at != slot.runner {
                // Its heir will know the newcomer, which will know it.
                members.insert(other);
                slot.view[node.0 as usize] = Some(incarnation);
                let known = slot.incarnation;
                self.node(node).view[other.0 as usize] = Some(known);
            }
        }
        if !self.deaths.is_empty() {
            self.feed(node, Input::Joined { members });
        }
    }
}
