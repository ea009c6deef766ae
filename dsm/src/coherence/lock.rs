//! Locks: queued at the lock's home, handed from holder to waiter. The home forwards each request to
//! the node at the queue's end, which passes the lock on when it lets go: two messages for a free
//! lock, three for one that is handed on, none when the node that had it last takes it again. (The
//! distributed queue of TreadMarks; Keleher et al., USENIX 1994.)
//!
//! A lock that is idle here is *lent* to the node's threads, which take it and give it back by one atomic
//! instruction each. Whatever the core is to do with the lock, it recalls it first and then knows whether
//! a thread holds it; afterwards it lends it again, if it is still idle and nobody waits.
//!
//! A node whose threads ask again at once for a lock that it has just handed on *stays* with it when it gets it
//! back: for a while the lock goes to its own threads, although another node waits. Else each critical section of
//! a contended lock would cost a hand-off, which takes a hundred times as long. The stay lasts twice as long as a
//! hand-off takes by measurement, at most [`STAY_MAX`]; so between nodes a lock is fair within that time for each
//! turn. The first node that waits gets it then. A stay in which hardly any thread came is followed by none.
//!
//! A node's *tenure* is the span from its request to its handing the lock on; it is named by the
//! request's number, so that a late duplicate never acts on a later tenure. Each holder gets a fencing
//! token that only grows. A lock whose holder died is broken for good; recovery is not built yet.
//!
//! In a round, the home learns from all members who has the lock and who waits for it. If nobody has it, the place
//! behind the last that has had it tells: there it was, or was on its way to. If that one is dead, the lock is
//! broken; else it was on its way between the living, and is free.
//!
//! A node never gives its place in the queue back. A thread that waits no longer (its deadline has passed,
//! or it only tried) leaves the place without a waiter; when the lock comes, the node hands it on or keeps
//! it idle. A request that only tries is answered BUSY by the last node of the queue, if that node cannot
//! hand the lock on at once; so trying again costs no message while the place stands.

mod heir;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::copyset::NodeSet;
use super::fingerprint::{hash_map, sorted_keys};
use super::message::{Attempt, HeldLock, LockId, LockMessage, Req};
use super::placement::{Places, RegionInfo};
use super::plant::{Plant, Planted};
use super::round::{Nodes, Reports};
use super::{Failure, OpId, Outbox};
use crate::config::coherence::{
    HAND_OFF_START, LOCKS_REMEMBERED_MAX, STAY_AFTER, STAY_MAX, STAY_TENURES_MIN,
};
use crate::page::{Lent, LockWords, NodeId, Span, Time};

/// Both sides of all locks of a node.
#[derive(Clone)]
pub(super) struct Locks {
    tenures: FxHashMap<LockId, Tenure>,
    homes: FxHashMap<LockId, Home>,
    last_req: Req,
    leaving: bool,
    dead: NodeSet,
    /// When the event happened that is handled.
    now: Time,
    /// How long a lock takes from node to node, by measurement: a moving mean.
    hand_off: Span,
    /// Locks that this node has handed on, the newest last.
    handed_on: SmallVec<[HandedOn; LOCKS_REMEMBERED_MAX]>,
    /// When stays end with locks for which another node waits. Some may have ended otherwise.
    stay_ends: SmallVec<[(Time, LockId); 2]>,
    /// From the beginning of a round until all have reported.
    verdicts: Option<Verdicts>,
    /// This node is run on, and not all have reported: it does not know the queues that it kept.
    is_blind: bool,
    /// Tokens of locks of which this node has no queue are above this: it may be run on, and have had one before.
    base: u64,
}

/// What is reported of the locks of this home, and the messages that wait for the verdicts.
#[derive(Clone, Default, Hash)]
struct Verdicts {
    told: BTreeMap<LockId, Vec<(NodeId, HeldLock)>>,
    early: Vec<(NodeId, LockMessage)>,
    /// Members whose report is not complete.
    awaited: NodeSet,
    decided: BTreeSet<LockId>,
    /// Tokens of this round are above those of all earlier ones.
    first_token: u64,
}

/// A place in a lock's queue.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    node: NodeId,
    req: Req,
    /// Its process is dead: a later one with its number has no place by it.
    died: bool,
}

/// A tenure that has ended by handing the lock on.
#[derive(Clone, Copy, Hash)]
struct HandedOn {
    lock: LockId,
    at: Time,
    /// It was no stay, or one in which threads came.
    paid: bool,
}

/// The requester's side: this node waits for the lock or has it.
#[derive(Clone, Hash)]
struct Tenure {
    req: Req,
    /// The first request of this wait, of which `req` may be a repetition.
    since: Req,
    phase: Phase,
    token: u64,
    /// The node that gets the lock after this tenure, and its request.
    next: Option<(NodeId, Req)>,
    /// When this node learned of `next`.
    next_since: Time,
    /// When this node sent its request.
    asked_at: Time,
    /// Threads of this node are to have the lock first when it comes.
    stays: bool,
    /// So long, from its coming on.
    stays_until: Time,
    /// The token with which it came.
    first_token: u64,
    /// Threads of this node, first come first served.
    waiters: VecDeque<OpId>,
    /// The one of them that only tries. BUSY ends its wait.
    trying: Option<OpId>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
enum Phase {
    /// Requested.
    Waiting,
    /// A thread of this node is in the critical section.
    Held,
    /// Nobody wants it; kept for the next thread of this node.
    Idle,
    /// As before, but this node's threads take it and give it back without the core.
    Lent,
    /// Offered back to the home.
    Returning,
    /// Given up in the middle of a critical section: it must not be handed to anybody.
    Breaking,
}

/// The home's side.
#[derive(Clone, Default, Hash)]
struct Home {
    /// From the node that last was known to have the lock to the queue's end.
    chain: VecDeque<Place>,
    /// Token of the last tenure that ended here.
    token: u64,
    last: Vec<(NodeId, Req)>,
    broken: Option<NodeId>,
    /// What this node's record says: somebody has the lock, or it is broken.
    is_noted: bool,
}

impl Locks {
    pub(super) fn new(first: Req) -> Self {
        Locks {
            tenures: FxHashMap::default(),
            homes: FxHashMap::default(),
            last_req: first,
            leaving: false,
            dead: NodeSet::EMPTY,
            now: Time(0),
            hand_off: HAND_OFF_START,
            handed_on: SmallVec::new(),
            stay_ends: SmallVec::new(),
            verdicts: None,
            is_blind: false,
            base: 0,
        }
    }

    /// The time at which all that follows happens.
    pub(super) fn set_now(&mut self, now: Time) {
        self.now = now;
    }

    /// When [`Locks::end_stays`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.stay_ends.iter().map(|&(at, _)| at).min()
    }

    /// Takes the next lock from the list whose stay has come to its end, if there is one.
    pub(super) fn take_ended_stay(&mut self) -> Option<LockId> {
        let at = self.stay_ends.iter().position(|&(at, _)| at <= self.now)?;
        Some(self.stay_ends.swap_remove(at).1)
    }

    /// Hands a lock on whose stay has ended; a thread that is in the critical section does so at its end.
    pub(super) fn end_stay(
        &mut self,
        me: NodeId,
        home: NodeId,
        planted: Planted,
        outbox: &mut Outbox,
        lock: LockId,
    ) {
        if !planted.has(Plant::LockStayHasNoEnd) {
            self.settle(me, home, outbox, lock);
        }
    }

    /// Whether this node's threads have the lock before others, now.
    fn stays(&self, tenure: &Tenure) -> bool {
        tenure.stays && self.now < tenure.stays_until && !self.leaving
    }

    /// The core decides about the lock again. Goes before everything else that concerns a lock.
    pub(super) fn recall<M: LockWords>(&mut self, planted: Planted, lock: LockId, memory: &mut M) {
        let lent = |tenure: &&mut Tenure| tenure.phase == Phase::Lent;
        let Some(tenure) = self.tenures.get_mut(&lock).filter(lent) else { return };
        (tenure.phase, tenure.token) = match memory.recall_lock(lock.0) {
            Lent::Held { token } if planted.has(Plant::LockRecallMissesHolder) => (Phase::Idle, token),
            Lent::Held { token } => (Phase::Held, token),
            Lent::Free { token } => (Phase::Idle, token),
        };
    }

    /// Leaves an idle lock to this node's threads. Goes after everything else that concerns a lock.
    pub(super) fn lend<M: LockWords>(&mut self, lock: LockId, memory: &mut M) {
        let Some(tenure) = self.tenures.get(&lock) else { return };
        let is_wanted = tenure.next.is_some() && !self.stays(tenure) || !tenure.waiters.is_empty();
        if tenure.phase == Phase::Idle
            && !is_wanted
            && !self.leaving
            && memory.lend_lock(lock.0, tenure.token)
            && let Some(tenure) = self.tenures.get_mut(&lock)
        {
            tenure.phase = Phase::Lent;
        }
    }

    pub(super) fn lock(
        &mut self,
        me: NodeId,
        home: NodeId,
        outbox: &mut Outbox,
        op: OpId,
        (lock, attempt): (LockId, Attempt),
    ) {
        if self.leaving {
            return outbox.done(op, Err(Failure::Leaving));
        }
        match self.tenures.get_mut(&lock) {
            Some(tenure) if tenure.phase == Phase::Idle => {
                tenure.phase = Phase::Held;
                tenure.token += 1;
                outbox.done(op, Ok(tenure.token));
            }
            Some(tenure) => match attempt {
                Attempt::Wait => tenure.waiters.push_back(op),
                // Another thread of this node has it, or waits for it, or the node's place in the queue stands.
                Attempt::Try => outbox.done(op, Err(Failure::LockBusy)),
            },
            None => self.request(me, home, outbox, (lock, attempt), VecDeque::from([op])),
        }
    }

    pub(super) fn abandon(&mut self, outbox: &mut Outbox, op: OpId, lock: LockId) {
        self.end_wait(outbox, op, lock, Failure::Abandoned);
    }

    /// A thread waits no longer; the node's place in the queue stands.
    fn end_wait(&mut self, outbox: &mut Outbox, op: OpId, lock: LockId, failure: Failure) {
        let Some(tenure) = self.tenures.get_mut(&lock) else { return };
        if let Some(at) = tenure.waiters.iter().position(|&waiter| waiter == op) {
            tenure.waiters.remove(at);
            outbox.done(op, Err(failure));
        }
    }

    /// The nodes that the home of a lock knows to have it or to wait for it, in their order. Those in front
    /// may have handed it on already. Empty where the home is another node, or the lock is free.
    pub(super) fn queue(&self, lock: LockId) -> impl Iterator<Item = NodeId> {
        self.homes.get(&lock).into_iter().flat_map(|home| home.chain.iter().map(|place| place.node))
    }

    pub(super) fn unlock(&mut self, me: NodeId, home: NodeId, outbox: &mut Outbox, lock: LockId) {
        let Some(tenure) = self.tenures.get_mut(&lock).filter(|tenure| tenure.phase == Phase::Held) else {
            // Broken while it was held: there is nothing to give back.
            return;
        };
        tenure.phase = Phase::Idle;
        self.settle(me, home, outbox, lock);
    }

    fn request(
        &mut self,
        me: NodeId,
        home: NodeId,
        outbox: &mut Outbox,
        (lock, attempt): (LockId, Attempt),
        waiters: VecDeque<OpId>,
    ) {
        if self.dead.contains(home) {
            return fail(outbox, waiters, Failure::NodeDied(home));
        }
        self.last_req.0 += 1;
        let req = self.last_req;
        let trying = match attempt {
            Attempt::Wait => None,
            Attempt::Try => waiters.front().copied(),
        };
        let tenure = Tenure {
            req,
            since: req,
            phase: Phase::Waiting,
            token: 0,
            next: None,
            next_since: self.now,
            asked_at: self.now,
            stays: self.is_worth_a_stay(lock),
            stays_until: self.now,
            first_token: 0,
            waiters,
            trying,
        };
        self.tenures.insert(lock, tenure);
        outbox.send(me, home, LockMessage::Request { lock, req, attempt });
    }

    /// Whether this node is to stay with the lock when it comes: it has just handed it on.
    fn is_worth_a_stay(&mut self, lock: LockId) -> bool {
        let Some(last) = self.handed_on.iter_mut().find(|last| last.lock == lock) else { return false };
        // One that did not pay is followed by a tenure without.
        std::mem::replace(&mut last.paid, true) && self.now.since(last.at) <= STAY_AFTER
    }

    fn note_handed_on(&mut self, lock: LockId, tenure: &Tenure) {
        let paid = !tenure.stays || tenure.token.saturating_sub(tenure.first_token) >= STAY_TENURES_MIN;
        self.handed_on.retain(|last| last.lock != lock);
        if self.handed_on.len() == LOCKS_REMEMBERED_MAX {
            self.handed_on.remove(0);
        }
        self.handed_on.push(HandedOn { lock, at: self.now, paid });
    }

    /// Decides who has an idle lock next: another node that waits, unless this one stays, else a thread of this node.
    /// (Other nodes first: else a busy node would keep the lock for ever.)
    fn settle(&mut self, me: NodeId, home: NodeId, outbox: &mut Outbox, lock: LockId) {
        let Some(tenure) = self.tenures.get(&lock) else { return };
        if !matches!(tenure.phase, Phase::Idle | Phase::Returning) {
            return;
        }
        let (stays, next, end) = (self.stays(tenure), tenure.next, (tenure.stays_until, lock));
        if let Some((next, req)) = next.filter(|_| !stays)
            && let Some(tenure) = self.tenures.remove(&lock)
        {
            let (token, kept) = (tenure.token + 1, self.now.since(tenure.next_since));
            outbox.send(me, next, LockMessage::Grant { lock, req, token, kept });
            self.note_handed_on(lock, &tenure);
            if !tenure.waiters.is_empty() {
                self.request(me, home, outbox, (lock, Attempt::Wait), tenure.waiters);
            }
            return;
        }
        if next.is_some() {
            self.stay_ends.retain(|&mut (_, of)| of != lock);
            self.stay_ends.push(end);
        }
        let Some(tenure) = self.tenures.get_mut(&lock) else { return };
        if let Some(op) = tenure.waiters.pop_front() {
            tenure.phase = Phase::Held;
            tenure.token += 1;
            outbox.done(op, Ok(tenure.token));
        }
    }

    pub(super) fn on_message(
        &mut self,
        me: NodeId,
        planted: Planted,
        outbox: &mut Outbox,
        from: NodeId,
        message: LockMessage,
    ) {
        match message {
            LockMessage::Request { lock, .. } | LockMessage::Return { lock, .. }
                if !self.is_decided(me, planted, outbox, lock) =>
            {
                self.verdicts.get_or_insert_default().early.push((from, message));
            }
            LockMessage::Request { lock, req, attempt } => {
                self.on_request(me, planted, outbox, from, (lock, req, attempt));
            }
            LockMessage::Forward { lock, tenure, next, next_req, attempt } => {
                let any = planted.has(Plant::LockForwardIgnoresTenure);
                let found = self.tenures.get_mut(&lock).filter(|found| found.req == tenure || any);
                if let Some(found) = found.filter(|found| found.next.is_none()) {
                    let behind = Some((next, next_req));
                    (found.next, found.next_since) = (behind, self.now);
                    self.settle(me, from, outbox, lock);
                    let stays = self.tenures.get(&lock).is_some_and(|found| found.next == behind);
                    if attempt == Attempt::Try && stays {
                        outbox.send(me, next, LockMessage::Busy { lock, req: next_req });
                    }
                }
            }
            LockMessage::Busy { lock, req } => {
                // A grant may have come first; then no thread tries any more.
                let waiting = |found: &&mut Tenure| found.req == req && found.phase == Phase::Waiting;
                let trying =
                    self.tenures.get_mut(&lock).filter(waiting).and_then(|found| found.trying.take());
                if let Some(op) = trying {
                    self.end_wait(outbox, op, lock, Failure::LockBusy);
                    if planted.has(Plant::LockBusyForgetsItsPlace) {
                        self.tenures.remove(&lock);
                    }
                }
            }
            LockMessage::Grant { lock, req, token, kept } => {
                let any = planted.has(Plant::LockGrantIgnoresRequest);
                let found = self.tenures.get_mut(&lock).filter(|found| found.req == req || any);
                if let Some(found) = found.filter(|found| found.phase == Phase::Waiting || any) {
                    (found.phase, found.token, found.first_token) = (Phase::Idle, token - 1, token);
                    let took = Span(self.now.since(found.asked_at).0.saturating_sub(kept.0)).min(STAY_MAX);
                    self.hand_off = Span((self.hand_off.0 * 7 + took.0) / 8);
                    found.stays_until = self.now + Span(self.hand_off.0 * 2).min(STAY_MAX);
                    if found.waiters.is_empty() {
                        found.token = token;
                    }
                    self.give_first(outbox, lock);
                    // Everybody gave up waiting: pass it on. The home is named by nobody here, but
                    // no request follows when no thread waits.
                    self.settle(me, from, outbox, lock);
                }
            }
            LockMessage::Return { lock, req, token, broken } => {
                self.on_return(me, outbox, from, (lock, req), token, broken);
            }
            LockMessage::ReturnAck { lock, req } => {
                if self.tenures.get(&lock).is_some_and(|found| found.req == req) {
                    self.tenures.remove(&lock);
                }
            }
            LockMessage::Broken { lock, req, dead } => {
                if self.tenures.get(&lock).is_some_and(|found| found.req == req) {
                    let tenure = self.tenures.remove(&lock);
                    let waiters = tenure.map(|tenure| tenure.waiters).unwrap_or_default();
                    fail(outbox, waiters, Failure::LockBroken(dead));
                }
            }
        }
    }

    /// A grant goes to the first waiting thread, even if another node waits already: it came first.
    fn give_first(&mut self, outbox: &mut Outbox, lock: LockId) {
        let Some(tenure) = self.tenures.get_mut(&lock) else { return };
        if let Some(op) = tenure.waiters.pop_front() {
            tenure.phase = Phase::Held;
            tenure.token += 1;
            outbox.done(op, Ok(tenure.token));
        }
    }

    /// A newcomer's request numbers start again, and it has no place in any queue.
    pub(super) fn on_node_joined(&mut self, node: NodeId) {
        self.dead.remove(node);
        for home in self.homes.values_mut() {
            home.last.retain(|slot| slot.0 != node);
            home.chain.retain(|place| place.node != node || place.died);
        }
    }

    pub(super) fn fingerprint(&self, hasher: &mut impl Hasher) {
        hash_map(&self.tenures, hasher, |tenure, mut hasher| tenure.hash(&mut hasher));
        hash_map(&self.homes, hasher, |home, mut hasher| home.hash(&mut hasher));
        (self.last_req, self.leaving, self.dead, &self.verdicts).hash(hasher);
    }

    pub(super) fn forget_region<M: LockWords>(
        &mut self,
        planted: Planted,
        region: &RegionInfo,
        memory: &mut M,
    ) {
        for lock in sorted_keys(&self.tenures).into_iter().filter(|lock| region.contains(lock.0)) {
            self.recall(planted, lock, memory);
            self.tenures.remove(&lock);
        }
        let noted = self.homes.iter().filter(|(lock, home)| home.is_noted && region.contains(lock.0));
        noted.for_each(|(lock, _)| memory.note_lock(lock.0, false));
        self.homes.retain(|lock, _| !region.contains(lock.0));
        if let Some(Verdicts { told, early, decided, .. }) = &mut self.verdicts {
            told.retain(|lock, _| !region.contains(lock.0));
            decided.retain(|lock| !region.contains(lock.0));
            early.retain(|(_, message)| !region.contains(message.lock().0));
        }
    }
}

/// The home's side.
impl Locks {
    fn on_request(
        &mut self,
        me: NodeId,
        planted: Planted,
        outbox: &mut Outbox,
        from: NodeId,
        (lock, req, attempt): (LockId, Req, Attempt),
    ) {
        let home = home_of(&mut self.homes, self.base, lock);
        match home.last.iter_mut().find(|slot| slot.0 == from) {
            Some(slot) if slot.1 >= req && !planted.has(Plant::LockForgetsRequestNumbers) => return,
            Some(slot) => slot.1 = req,
            None => home.last.push((from, req)),
        }
        if let Some(dead) = home.broken {
            return outbox.send(me, from, LockMessage::Broken { lock, req, dead });
        }
        // A node that asks again has handed the lock on: everything before its last place is past.
        if let Some(at) = home.chain.iter().position(|place| place.node == from) {
            home.chain.drain(..=at);
        }
        match home.chain.back().copied() {
            None => {
                home.token += 1;
                outbox.send(me, from, LockMessage::Grant { lock, req, token: home.token, kept: Span(0) });
            }
            Some(Place { node: tail, req: tenure, .. }) => {
                let forward = LockMessage::Forward { lock, tenure, next: from, next_req: req, attempt };
                outbox.send(me, tail, forward);
            }
        }
        home.chain.push_back(Place { node: from, req, died: false });
    }

    fn on_return(
        &mut self,
        me: NodeId,
        outbox: &mut Outbox,
        from: NodeId,
        (lock, req): (LockId, Req),
        token: u64,
        broken: bool,
    ) {
        let home = home_of(&mut self.homes, self.base, lock);
        let its_own = Place { node: from, req, died: false };
        if broken && home.chain.contains(&its_own) {
            home.chain.retain(|place| place.node != from);
            self.break_lock(me, outbox, lock, from);
            return outbox.send(me, from, LockMessage::ReturnAck { lock, req });
        }
        if home.chain.back() == Some(&its_own) {
            home.chain.clear();
            home.token = home.token.max(token);
        }
        // Without a place in the queue the lock was taken back before, in a round in which the answer became void; or
        // it was broken; or the sender never had it. With a place, a forward is on its way to the node, which will
        // hand the lock on.
        if !home.chain.contains(&its_own) {
            outbox.send(me, from, LockMessage::ReturnAck { lock, req });
        }
    }

    fn break_lock(&mut self, me: NodeId, outbox: &mut Outbox, lock: LockId, dead: NodeId) {
        let home = home_of(&mut self.homes, self.base, lock);
        home.broken = Some(dead);
        for Place { node, req, died } in std::mem::take(&mut home.chain) {
            if !died {
                outbox.send(me, node, LockMessage::Broken { lock, req, dead });
            }
        }
    }
}

/// A round.
impl Locks {
    /// Reports the locks that are here, and the waits. Every request, forward and grant under way is void.
    pub(super) fn begin_round(
        &mut self,
        places: &Places,
        outbox: &mut Outbox,
        Nodes { members, died, gone, run_on }: Nodes,
        first_token: u64,
        reports: &mut Reports,
    ) {
        died.iter().for_each(|dead| self.dead.insert(dead));
        // A round that begins in another one hears all reports again.
        self.base = first_token;
        self.verdicts = Some(Verdicts { awaited: members, first_token, ..Verdicts::default() });
        for home in self.homes.values_mut() {
            home.last.retain(|slot| !gone.contains(slot.0));
            home.chain.iter_mut().for_each(|place| place.died |= gone.contains(place.node));
        }
        for lock in sorted_keys(&self.tenures) {
            let (Some(home), Some(tenure)) = (places.manager(lock.0), self.tenures.get_mut(&lock)) else {
                continue;
            };
            // Who is behind asks again.
            tenure.next = None;
            // The home may have taken it back and given it to another, and not know it any more.
            let is_offered = tenure.phase == Phase::Returning && run_on.contains(home);
            tenure.phase = match tenure.phase {
                Phase::Returning => Phase::Idle,
                Phase::Breaking => Phase::Held,
                phase @ (Phase::Waiting | Phase::Held | Phase::Idle | Phase::Lent) => phase,
            };
            if !self.dead.contains(home) && !is_offered {
                let held = match tenure.phase {
                    Phase::Waiting => HeldLock::WaitsSince(tenure.since),
                    Phase::Held | Phase::Idle | Phase::Lent | Phase::Returning | Phase::Breaking => {
                        HeldLock::Here(tenure.req)
                    }
                };
                reports.lock(home, lock, held);
            } else if tenure.phase == Phase::Waiting && !is_offered {
                // Whoever has the lock keeps it; nobody else gets it.
                let waiters = std::mem::take(&mut tenure.waiters);
                self.tenures.remove(&lock);
                fail(outbox, waiters, Failure::NodeDied(home));
            }
        }
    }

    /// Sends all requests again, under new numbers.
    pub(super) fn ask_again(&mut self, me: NodeId, planted: Planted, places: &Places, outbox: &mut Outbox) {
        if planted.has(Plant::LockRequestsAreNotRepeated) {
            return;
        }
        for lock in sorted_keys(&self.tenures) {
            let (Some(home), Some(tenure)) = (places.manager(lock.0), self.tenures.get_mut(&lock)) else {
                continue;
            };
            if tenure.phase == Phase::Waiting {
                self.last_req.0 += 1;
                (tenure.req, tenure.asked_at) = (self.last_req, self.now);
                let attempt = if tenure.trying.is_some() { Attempt::Try } else { Attempt::Wait };
                outbox.send(me, home, LockMessage::Request { lock, req: tenure.req, attempt });
            }
        }
    }

    /// Takes a part of a member's report.
    pub(super) fn hear(&mut self, from: NodeId, lock: LockId, held: HeldLock) {
        if let Some(verdicts) = &mut self.verdicts {
            verdicts.told.entry(lock).or_default().push((from, held));
        }
    }

    /// A member has reported all, or has left: runs what waited for this.
    pub(super) fn report_completed(
        &mut self,
        me: NodeId,
        planted: Planted,
        outbox: &mut Outbox,
        from: NodeId,
    ) {
        let Some(verdicts) = &mut self.verdicts else { return };
        verdicts.awaited.remove(from);
        let early = std::mem::take(&mut verdicts.early);
        if verdicts.awaited.is_empty() {
            let told: Vec<LockId> = verdicts.told.keys().copied().collect();
            let told = if self.is_blind { told } else { Vec::new() };
            for lock in sorted_keys(&self.homes).into_iter().chain(told) {
                self.decide(me, planted, outbox, lock);
            }
            (self.verdicts, self.is_blind) = (None, false);
        }
        for (from, message) in early {
            self.on_message(me, planted, outbox, from, message);
        }
    }

    /// Whether a lock can be asked for already: decides who has it if all have reported that the home knows to be in
    /// its queue. Nobody else can have it.
    fn is_decided(&mut self, me: NodeId, planted: Planted, outbox: &mut Outbox, lock: LockId) -> bool {
        let Some(verdicts) = &self.verdicts else { return true };
        let chain = self.homes.get(&lock).into_iter().flat_map(|home| &home.chain);
        let waits = chain.into_iter().any(|place| !place.died && verdicts.awaited.contains(place.node))
            || self.is_blind;
        if waits && !verdicts.decided.contains(&lock) && !planted.has(Plant::LockOpensBeforeAllReported) {
            return false;
        }
        self.decide(me, planted, outbox, lock);
        true
    }

    fn decide(&mut self, me: NodeId, planted: Planted, outbox: &mut Outbox, lock: LockId) {
        let Some(verdicts) = &mut self.verdicts else { return };
        if !verdicts.decided.insert(lock) {
            return;
        }
        let told = verdicts.told.remove(&lock).unwrap_or_default();
        let home = home_of(&mut self.homes, self.base, lock);
        home.token = home.token.max(verdicts.first_token);
        if planted.has(Plant::LockTokensStartAgain) {
            home.token = 0;
        }
        let is_blind = self.is_blind;
        let here = told.iter().find_map(|&(node, held)| match held {
            // Of a node without a place the home has taken the lock back before.
            HeldLock::Here(req)
                if is_blind || home.chain.iter().any(|place| place.node == node && !place.died) =>
            {
                Some(Place { node, req, died: false })
            }
            HeldLock::Here(_) | HeldLock::WaitsSince(_) => None,
        });
        // Whoever had it is not among the living, as far as a home can tell that is run on.
        let died_with = if is_blind { home.is_noted.then_some(me) } else { home.died_with(&told) };
        match (here, died_with) {
            (Some(place), _) => home.chain = VecDeque::from([place]),
            (None, Some(dead)) if !planted.has(Plant::LockForgetsDeadHolder) => {
                self.break_lock(me, outbox, lock, dead);
            }
            (None, _) => home.chain.clear(),
        }
    }
}

/// What a home knows of a lock; of one that it has not heard of, that tokens below `base` may have been given out.
fn home_of(homes: &mut FxHashMap<LockId, Home>, base: u64, lock: LockId) -> &mut Home {
    homes.entry(lock).or_insert_with(|| Home { token: base, ..Home::default() })
}

impl Home {
    /// If no member has the lock: the dead node that had it, or that it was on its way to.
    fn died_with(&self, told: &[(NodeId, HeldLock)]) -> Option<NodeId> {
        let waits = |place: &Place| {
            told.iter().any(|&(node, held)| {
                node == place.node && matches!(held, HeldLock::WaitsSince(since) if since <= place.req)
            })
        };
        let has_had = |place: &Place| !place.died && !waits(place);
        let behind = self.chain.iter().rposition(has_had).map_or(0, |at| at + 1);
        self.chain.get(behind).filter(|place| place.died).map(|place| place.node)
    }
}

/// Leaving.
impl Locks {
    /// Threads that still wait give up: a lock that came to them now would have to be broken.
    pub(super) fn start_leaving<M: LockWords>(
        &mut self,
        planted: Planted,
        outbox: &mut Outbox,
        memory: &mut M,
    ) {
        self.leaving = true;
        for lock in sorted_keys(&self.tenures) {
            self.recall(planted, lock, memory);
            let waiters = self.tenures.get_mut(&lock).map(|tenure| std::mem::take(&mut tenure.waiters));
            fail(outbox, waiters.unwrap_or_default(), Failure::Leaving);
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving
    }

    pub(super) fn holds_nothing(&self) -> bool {
        self.tenures.is_empty()
    }

    /// Offers every lock back that no thread holds; a held one is given back as broken, since its
    /// critical section will never end.
    pub(super) fn return_idle(&mut self, me: NodeId, places: &Places, outbox: &mut Outbox) {
        for lock in sorted_keys(&self.tenures) {
            let (Some(tenure), Some(home)) = (self.tenures.get_mut(&lock), places.manager(lock.0)) else {
                continue;
            };
            if self.dead.contains(home) {
                // Nobody is left to take it back.
                self.tenures.remove(&lock);
                continue;
            }
            if tenure.phase == Phase::Idle && tenure.next.is_some() {
                // This node stayed with it.
                self.settle(me, home, outbox, lock);
                continue;
            }
            let (req, token, broken) = (tenure.req, tenure.token, tenure.phase == Phase::Held);
            tenure.phase = match tenure.phase {
                Phase::Idle => Phase::Returning,
                Phase::Held => Phase::Breaking,
                Phase::Lent => unreachable!("all were recalled when leaving began, and none is lent since"),
                Phase::Waiting | Phase::Returning | Phase::Breaking => continue,
            };
            outbox.send(me, home, LockMessage::Return { lock, req, token, broken });
        }
    }
}

fn fail(outbox: &mut Outbox, waiters: impl IntoIterator<Item = OpId>, failure: Failure) {
    for op in waiters {
        outbox.done(op, Err(failure));
    }
}
