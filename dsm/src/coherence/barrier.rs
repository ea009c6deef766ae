//! Barriers: every member tells the barrier's home, which answers all when the last has come:
//! 2(n-1) messages, two hops. The home is the member with the lowest id, which each member knows from the set of
//! members: no process that takes no part handles a message. A barrier with a dead member breaks, for everybody
//! alike; when the home itself dies, a member may have heard of the end of the last generation, and another not.
//!
//! A member may withdraw its arrival while the generation has not ended. The home decides: either the
//! arrival does not count (WITHDRAWN), and the generation goes on waiting for this member as if it had
//! never come; or all had arrived before, and the member is released with the others. A member's arrivals
//! in one generation are numbered, so that a late duplicate of one that was withdrawn does not count.
//!
//! A member that comes no more says so to the home while it is still there. The home breaks the present
//! generation, for this member's own threads too, or the next one if the present one has ended.

use std::hash::{Hash, Hasher};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::copyset::NodeSet;
use super::fingerprint::{hash_map, sorted_keys};
use super::message::{BarrierId, BarrierMessage};
use super::plant::{Plant, Planted};
use super::{Failure, OpId, Outbox};
use crate::page::NodeId;

/// Barriers that a home keeps: a program that needs more has one for each number that it computes.
pub(super) const BARRIERS_MAX: usize = 1 << 16;

/// Both sides of all barriers of a node.
#[derive(Clone, Default)]
pub(super) struct Barriers {
    members: FxHashMap<BarrierId, Member>,
    homes: FxHashMap<BarrierId, Home>,
    /// Ranks of this node's program that died or left. They stay so when another node has got their number.
    gone: NodeSet,
    /// The program of each member that was told of.
    programs: FxHashMap<NodeId, Option<u64>>,
}

/// This node's own arrivals.
#[derive(Clone, Default, Hash)]
struct Member {
    /// Generations that have ended.
    generation: u64,
    /// Arrivals in the present generation, those that were withdrawn included.
    arrivals: u32,
    waiting: Option<OpId>,
    members: NodeSet,
    /// A member that died or left: this barrier never ends again.
    dead: Option<NodeId>,
    /// This node comes no more.
    has_quit: bool,
}

/// The home's count.
#[derive(Clone, Default, Hash)]
struct Home {
    generation: u64,
    arrived: NodeSet,
    members: NodeSet,
    /// The newest arrival of each member that withdrew one in this generation.
    withdrawn: SmallVec<[(NodeId, u32); 2]>,
    dead: Option<NodeId>,
}

/// The name of one arrival of a member.
#[derive(Clone, Copy)]
struct Arrival {
    barrier: BarrierId,
    generation: u64,
    number: u32,
}

/// The member that counts the arrivals. `None` for no members.
pub(super) fn home_of(members: NodeSet) -> Option<NodeId> {
    members.iter().next()
}

impl Home {
    /// The number of the member's newest arrival that was withdrawn; zero if there is none.
    fn last_withdrawn(&self, member: NodeId) -> u32 {
        self.withdrawn.iter().find(|(node, _)| *node == member).map_or(0, |&(_, number)| number)
    }

    fn note_withdrawn(&mut self, member: NodeId, number: u32) {
        self.withdrawn.retain(|(node, _)| *node != member);
        self.withdrawn.push((member, number));
    }
}

impl Barriers {
    pub(super) fn tell_program(&mut self, me: NodeId, member: NodeId, program: Option<u64>) {
        // A rank whose process failed before the ranks were complete may have a second one.
        if self.programs.get(&me) == Some(&program) {
            self.gone.remove(member);
        }
        self.programs.insert(member, program);
    }

    /// Whether a member can be one of this barrier.
    pub(super) fn may_come(&self, member: NodeId, barrier: BarrierId) -> bool {
        self.programs.get(&member).is_none_or(|program| *program == Some(barrier.program))
    }

    /// Barriers that this node is home of.
    pub(super) fn kept(&self) -> usize {
        self.homes.len()
    }

    pub(super) fn is_kept(&self, barrier: BarrierId) -> bool {
        self.homes.contains_key(&barrier)
    }

    pub(super) fn arrive(
        &mut self,
        me: NodeId,
        outbox: &mut Outbox,
        op: OpId,
        barrier: BarrierId,
        members: NodeSet,
    ) {
        if self.members.len() >= BARRIERS_MAX && !self.members.contains_key(&barrier) {
            return outbox.done(op, Err(Failure::BarrierMisuse));
        }
        let member = self.members.entry(barrier).or_default();
        if member.has_quit {
            return outbox.done(op, Err(Failure::Leaving));
        }
        if let Some(dead) = member.dead.or_else(|| self.gone.first_of(members)) {
            member.dead = Some(dead);
            return outbox.done(op, Err(Failure::NodeDied(dead)));
        }
        let Some(home) = home_of(members).filter(|_| member.waiting.is_none() && members.contains(me)) else {
            return outbox.done(op, Err(Failure::BarrierMisuse));
        };
        (member.waiting, member.members) = (Some(op), members);
        member.arrivals += 1;
        let (generation, arrival) = (member.generation, member.arrivals);
        outbox.send(me, home, BarrierMessage::Arrive { barrier, generation, arrival, members });
    }

    /// Asks the home not to count this node's arrival. The wait goes on until the home has answered, or
    /// the barrier has ended or broken.
    pub(super) fn withdraw(&mut self, me: NodeId, outbox: &mut Outbox, op: OpId, barrier: BarrierId) {
        let waits = |member: &&Member| member.waiting == Some(op);
        if let Some(member) = self.members.get(&barrier).filter(waits)
            && let Some(home) = home_of(member.members)
        {
            let (generation, arrival) = (member.generation, member.arrivals);
            outbox.send(me, home, BarrierMessage::Withdraw { barrier, generation, arrival });
        }
    }

    /// This node comes to the barrier no more, which breaks for all its members. A thread that waits here goes on
    /// waiting until the barrier has ended or broken.
    pub(super) fn quit(&mut self, me: NodeId, outbox: &mut Outbox, barrier: BarrierId, members: NodeSet) {
        let member = self.members.entry(barrier).or_default();
        member.has_quit = true;
        if let Some(home) = home_of(members).filter(|home| !self.gone.contains(*home)) {
            outbox.send(me, home, BarrierMessage::Quit { barrier });
        }
    }

    /// The home of a barrier that this node has come to.
    pub(super) fn home(&self, barrier: BarrierId) -> Option<NodeId> {
        home_of(self.members.get(&barrier)?.members)
    }

    /// At the home: the members that have not arrived in the present generation, if any has. A member that has
    /// withdrawn its arrival counts as one that has not arrived.
    pub(super) fn missing(&self, barrier: BarrierId) -> NodeSet {
        let has_begun = |home: &&Home| !home.arrived.is_empty() || !home.withdrawn.is_empty();
        let Some(home) = self.homes.get(&barrier).filter(has_begun) else {
            return NodeSet::EMPTY;
        };
        home.members.iter().filter(|member| !home.arrived.contains(*member)).collect()
    }

    /// Generations that have ended here.
    pub(super) fn passed(&self, barrier: BarrierId) -> u64 {
        self.members.get(&barrier).map_or(0, |member| member.generation)
    }

    /// The barriers at which this node's arrival waits.
    pub(super) fn waited_at(&self) -> Vec<BarrierId> {
        let waits = |barrier: &BarrierId| self.members[barrier].waiting.is_some();
        sorted_keys(&self.members).into_iter().filter(waits).collect()
    }

    pub(super) fn on_message(
        &mut self,
        me: NodeId,
        planted: Planted,
        outbox: &mut Outbox,
        from: NodeId,
        message: BarrierMessage,
    ) {
        match message {
            BarrierMessage::Arrive { barrier, generation, arrival: number, members } => {
                let arrival = Arrival { barrier, generation, number };
                self.on_arrive(me, planted, outbox, from, arrival, members);
            }
            BarrierMessage::Release { barrier, generation } => {
                let any = planted.has(Plant::BarrierIgnoresGeneration);
                if let Some(member) = self.members.get_mut(&barrier)
                    && (member.generation == generation || any)
                    && let Some(op) = member.waiting.take()
                {
                    member.generation += 1;
                    member.arrivals = 0;
                    outbox.done(op, Ok(0));
                }
            }
            BarrierMessage::Broken { barrier, generation, dead } => {
                if let Some(member) = self.members.get_mut(&barrier)
                    && member.generation == generation
                    && let Some(op) = member.waiting.take()
                {
                    member.dead = (dead != me).then_some(dead);
                    let failure = match (dead == me, member.has_quit) {
                        (true, true) => Failure::Leaving,
                        (true, false) => Failure::BarrierMisuse,
                        (false, _) => Failure::NodeDied(dead),
                    };
                    outbox.done(op, Err(failure));
                }
            }
            BarrierMessage::Quit { barrier } => {
                // It may have overtaken the sender's arrival.
                let home = self.homes.entry(barrier).or_default();
                if home.arrived.remove(from) {
                    let generation = home.generation;
                    outbox.send(me, from, BarrierMessage::Broken { barrier, generation, dead: from });
                }
                self.break_barrier(me, outbox, barrier, from);
            }
            BarrierMessage::Withdraw { barrier, generation, arrival: number } => {
                let arrival = Arrival { barrier, generation, number };
                self.on_withdraw(me, planted, outbox, from, arrival);
            }
            BarrierMessage::Withdrawn { barrier, generation, arrival } => {
                if let Some(member) = self.members.get_mut(&barrier)
                    && (member.generation, member.arrivals) == (generation, arrival)
                    && let Some(op) = member.waiting.take()
                {
                    outbox.done(op, Err(Failure::Abandoned));
                }
            }
        }
    }

    fn on_arrive(
        &mut self,
        me: NodeId,
        planted: Planted,
        outbox: &mut Outbox,
        from: NodeId,
        arrival: Arrival,
        members: NodeSet,
    ) {
        let Arrival { barrier, generation, number } = arrival;
        let home = self.homes.entry(barrier).or_default();
        if generation != home.generation && !planted.has(Plant::BarrierIgnoresGeneration) {
            // A late duplicate. (Nobody is ahead: the release of this generation starts the next.)
            return;
        }
        if number <= home.last_withdrawn(from) && !planted.has(Plant::BarrierIgnoresArrivalNumbers) {
            // A late duplicate, or the withdrawal has overtaken it.
            return;
        }
        if home.arrived.is_empty() {
            home.members = members;
        }
        if home.members != members || !members.contains(from) {
            // The sender's own number stands for "you disagree with the others".
            return outbox.send(me, from, BarrierMessage::Broken { barrier, generation, dead: from });
        }
        home.dead = home.dead.or_else(|| self.gone.first_of(members));
        if let Some(dead) = home.dead {
            return outbox.send(me, from, BarrierMessage::Broken { barrier, generation, dead });
        }
        home.arrived.insert(from);
        if home.arrived == home.members {
            home.generation += 1;
            home.withdrawn.clear();
            for member in std::mem::take(&mut home.arrived).iter() {
                outbox.send(me, member, BarrierMessage::Release { barrier, generation });
            }
        }
    }

    fn on_withdraw(
        &mut self,
        me: NodeId,
        planted: Planted,
        outbox: &mut Outbox,
        from: NodeId,
        arrival: Arrival,
    ) {
        let Arrival { barrier, generation, number } = arrival;
        let home = self.homes.entry(barrier).or_default();
        let has_ended = generation != home.generation;
        if has_ended && !planted.has(Plant::BarrierWithdrawsAfterItsEnd) {
            // All had arrived: the release is on its way.
            return;
        }
        if number <= home.last_withdrawn(from) {
            // A late duplicate; the member may have arrived again.
            return;
        }
        // The arrival may still be on its way.
        if !has_ended {
            home.arrived.remove(from);
            home.note_withdrawn(from, number);
        }
        outbox.send(me, from, BarrierMessage::Withdrawn { barrier, generation, arrival: number });
    }

    /// A node has died, or left in peace: what waits for it waits in vain.
    ///
    /// The home alone decides which generations end and which break, so that every member hears the same. (A member
    /// may hear of a leave before it hears of its release.) Only the home's own death ends a wait here: a home that
    /// left in peace had sent its members all before, and they had acknowledged it.
    pub(super) fn on_node_gone(&mut self, me: NodeId, outbox: &mut Outbox, dead: NodeId) {
        if let [Some(of), Some(own)] = [dead, me].map(|node| self.programs.get(&node))
            && of != own
        {
            return;
        }
        self.gone.insert(dead);
        self.break_kept(me, outbox, dead);
        for barrier in sorted_keys(&self.members) {
            let Some(member) = self.members.get_mut(&barrier) else { continue };
            let Some(home) = home_of(member.members).filter(|_| member.members.contains(dead)) else {
                continue;
            };
            member.dead = Some(dead);
            if let Some(op) = member.waiting.take_if(|_| dead == home) {
                outbox.done(op, Err(Failure::NodeDied(dead)));
            }
        }
    }

    /// Breaks the barriers that are kept here.
    fn break_kept(&mut self, me: NodeId, outbox: &mut Outbox, dead: NodeId) {
        for barrier in sorted_keys(&self.homes) {
            if self.homes.get(&barrier).is_some_and(|home| home.members.contains(dead)) {
                self.break_barrier(me, outbox, barrier, dead);
            }
        }
    }

    fn break_barrier(&mut self, me: NodeId, outbox: &mut Outbox, barrier: BarrierId, dead: NodeId) {
        let home = self.homes.entry(barrier).or_default();
        // All members are told of the one that was gone first.
        let dead = *home.dead.get_or_insert(dead);
        let generation = home.generation;
        for member in std::mem::take(&mut home.arrived).without(dead).iter() {
            outbox.send(me, member, BarrierMessage::Broken { barrier, generation, dead });
        }
    }

    pub(super) fn fingerprint(&self, hasher: &mut impl Hasher) {
        hash_map(&self.members, hasher, |member, mut hasher| member.hash(&mut hasher));
        hash_map(&self.homes, hasher, |home, mut hasher| home.hash(&mut hasher));
        self.gone.hash(hasher);
    }

    /// Forgets the barriers of a program that has ended.
    pub(super) fn forget_program(&mut self, program: u64) {
        self.members.retain(|barrier, _| barrier.program != program);
        self.homes.retain(|barrier, _| barrier.program != program);
    }
}
