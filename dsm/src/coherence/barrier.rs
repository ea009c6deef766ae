//! Barriers: every member tells the barrier's home, which answers all when the last has come:
//! 2(n-1) messages, two hops. A barrier with a dead member breaks, for everybody alike.

use std::hash::{Hash, Hasher};

use rustc_hash::FxHashMap;

use super::copyset::NodeSet;
use super::fingerprint::hash_map;
use super::message::{BarrierId, BarrierMessage};
use super::plant::{Plant, Planted};
use super::{Failure, OpId, Outbox};
use crate::page::NodeId;

/// Both sides of all barriers of a node.
#[derive(Clone, Default)]
pub(super) struct Barriers {
    members: FxHashMap<BarrierId, Member>,
    homes: FxHashMap<BarrierId, Home>,
    dead: NodeSet,
}

/// This node's own arrivals.
#[derive(Clone, Default, Hash)]
struct Member {
    /// Generations that have ended.
    generation: u64,
    waiting: Option<OpId>,
    members: NodeSet,
    /// A member that died or left: this barrier never ends again.
    dead: Option<NodeId>,
}

/// The home's count.
#[derive(Clone, Default, Hash)]
struct Home {
    generation: u64,
    arrived: NodeSet,
    members: NodeSet,
    dead: Option<NodeId>,
}

impl Barriers {
    pub(super) fn arrive(
        &mut self,
        me: NodeId,
        home: NodeId,
        outbox: &mut Outbox,
        op: OpId,
        barrier: BarrierId,
        members: NodeSet,
    ) {
        let member = self.members.entry(barrier).or_default();
        let dead = member.dead.or_else(|| self.dead.first_of(members));
        if let Some(dead) = dead.or(self.dead.contains(home).then_some(home)) {
            member.dead = Some(dead);
            return outbox.done(op, Err(Failure::NodeDied(dead)));
        }
        if member.waiting.is_some() || !members.contains(me) {
            return outbox.done(op, Err(Failure::BarrierMisuse));
        }
        (member.waiting, member.members) = (Some(op), members);
        let generation = member.generation;
        outbox.send(me, home, BarrierMessage::Arrive { barrier, generation, members });
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
            BarrierMessage::Arrive { barrier, generation, members } => {
                self.on_arrive(me, planted, outbox, from, (barrier, generation), members);
            }
            BarrierMessage::Release { barrier, generation } => {
                let any = planted.has(Plant::BarrierIgnoresGeneration);
                let member = self.members.entry(barrier).or_default();
                if (member.generation == generation || any)
                    && let Some(op) = member.waiting.take()
                {
                    member.generation += 1;
                    outbox.done(op, Ok(0));
                }
            }
            BarrierMessage::Broken { barrier, generation, dead } => {
                let member = self.members.entry(barrier).or_default();
                if member.generation == generation
                    && let Some(op) = member.waiting.take()
                {
                    let misuse = dead == me;
                    member.dead = (!misuse).then_some(dead);
                    let failure = if misuse { Failure::BarrierMisuse } else { Failure::NodeDied(dead) };
                    outbox.done(op, Err(failure));
                }
            }
            BarrierMessage::Dead { barrier, generation, dead } => {
                // It may have overtaken the sender's arrival.
                if self.homes.entry(barrier).or_default().generation == generation {
                    self.break_barrier(me, outbox, barrier, dead);
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
        (barrier, generation): (BarrierId, u64),
        members: NodeSet,
    ) {
        let home = self.homes.entry(barrier).or_default();
        if generation != home.generation && !planted.has(Plant::BarrierIgnoresGeneration) {
            // A late duplicate. (Nobody is ahead: the release of this generation starts the next.)
            return;
        }
        if home.arrived.is_empty() {
            home.members = members;
        }
        if home.members != members || !members.contains(from) {
            // The sender's own number stands for "you disagree with the others".
            return outbox.send(me, from, BarrierMessage::Broken { barrier, generation, dead: from });
        }
        if let Some(dead) = home.dead {
            return outbox.send(me, from, BarrierMessage::Broken { barrier, generation, dead });
        }
        home.arrived.insert(from);
        if home.arrived == home.members {
            home.generation += 1;
            for member in std::mem::take(&mut home.arrived).iter() {
                outbox.send(me, member, BarrierMessage::Release { barrier, generation });
            }
        }
    }

    /// A node has died, or left in peace: what waits for it waits in vain.
    ///
    /// The home alone decides which generations end and which break, so that every member hears the
    /// same; the others tell it what they know. (It may not know the members yet. And a member may hear
    /// of a leave before it hears of its release.) Only the home's own death ends a wait here.
    pub(super) fn on_node_gone(&mut self, me: NodeId, home: NodeId, outbox: &mut Outbox, dead: NodeId) {
        self.dead.insert(dead);
        self.break_kept(me, outbox, dead);
        let mut met: Vec<BarrierId> = self.members.keys().copied().collect();
        met.sort_unstable();
        for barrier in met {
            let Some(member) = self.members.get_mut(&barrier) else { continue };
            if dead == home {
                if let Some(op) = member.waiting.take() {
                    outbox.done(op, Err(Failure::NodeDied(dead)));
                }
            } else if member.members.contains(dead) {
                member.dead = Some(dead);
                if member.waiting.is_some() {
                    let generation = member.generation;
                    outbox.send(me, home, BarrierMessage::Dead { barrier, generation, dead });
                }
            }
        }
    }

    /// Breaks the barriers that are kept here.
    fn break_kept(&mut self, me: NodeId, outbox: &mut Outbox, dead: NodeId) {
        let mut kept: Vec<BarrierId> = self.homes.keys().copied().collect();
        kept.sort_unstable();
        for barrier in kept {
            if self.homes.get(&barrier).is_some_and(|home| home.members.contains(dead)) {
                self.break_barrier(me, outbox, barrier, dead);
            }
        }
    }

    /// A newcomer in the slot is alive; barriers that its predecessor broke stay broken.
    pub(super) fn on_node_joined(&mut self, node: NodeId) {
        self.dead.remove(node);
    }

    fn break_barrier(&mut self, me: NodeId, outbox: &mut Outbox, barrier: BarrierId, dead: NodeId) {
        let home = self.homes.entry(barrier).or_default();
        home.dead = Some(dead);
        let generation = home.generation;
        for member in std::mem::take(&mut home.arrived).without(dead).iter() {
            outbox.send(me, member, BarrierMessage::Broken { barrier, generation, dead });
        }
    }

    pub(super) fn fingerprint(&self, hasher: &mut impl Hasher) {
        hash_map(&self.members, hasher, |member, mut hasher| member.hash(&mut hasher));
        hash_map(&self.homes, hasher, |home, mut hasher| home.hash(&mut hasher));
        self.dead.hash(hasher);
    }

    /// Forgets the barriers of a program that has ended.
    pub(super) fn forget_program(&mut self, program: u64) {
        self.members.retain(|barrier, _| barrier.program != program);
        self.homes.retain(|barrier, _| barrier.program != program);
    }
}
