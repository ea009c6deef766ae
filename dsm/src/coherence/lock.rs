//! Locks: queued at the lock's home, handed from holder to waiter. The home forwards each request to
//! the node at the queue's end, which passes the lock on when it lets go: two messages for a free
//! lock, three for one that is handed on, none when the node that had it last takes it again. (The
//! distributed queue of TreadMarks; Keleher et al., USENIX 1994.)
//!
//! A lock that is idle here is *lent* to the node's threads, which take it and give it back by one atomic
//! instruction each. Whatever the core is to do with the lock, it recalls it first and then knows whether
//! a thread holds it; afterwards it lends it again, if it is still idle and nobody waits.
//!
//! A node's *tenure* is the span from its request to its handing the lock on; it is named by the
//! request's number, so that a late duplicate never acts on a later tenure. Each holder gets a fencing
//! token that only grows. A lock whose holder died is broken for good; recovery is not built yet.
//!
//! A node never gives its place in the queue back. A thread that waits no longer (its deadline has passed,
//! or it only tried) leaves the place without a waiter; when the lock comes, the node hands it on or keeps
//! it idle. A request that only tries is answered BUSY by the last node of the queue, if that node cannot
//! hand the lock on at once; so trying again costs no message while the place stands.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use rustc_hash::FxHashMap;

use super::copyset::NodeSet;
use super::fingerprint::{hash_map, sorted_keys};
use super::message::{Attempt, LockId, LockMessage, Req};
use super::placement::{Places, RegionInfo};
use super::plant::{Plant, Planted};
use super::{Failure, OpId, Outbox};
use crate::page::{Lent, LockWords, NodeId};

/// Both sides of all locks of a node.
#[derive(Clone)]
pub(super) struct Locks {
    tenures: FxHashMap<LockId, Tenure>,
    homes: FxHashMap<LockId, Home>,
    last_req: Req,
    leaving: bool,
    dead: NodeSet,
}

/// The requester's side: this node waits for the lock or has it.
#[derive(Clone, Hash)]
struct Tenure {
    req: Req,
    phase: Phase,
    token: u64,
    /// Who gets the lock after this tenure.
    next: Option<(NodeId, Req)>,
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
    chain: VecDeque<(NodeId, Req)>,
    /// Token of the last tenure that ended here.
    token: u64,
    last: Vec<(NodeId, Req)>,
    broken: Option<NodeId>,
    /// Deaths that are being looked into: who died, and who was asked.
    probing: Vec<(NodeId, NodeId)>,
}

impl Locks {
    pub(super) fn new(first: Req) -> Self {
        Locks {
            tenures: FxHashMap::default(),
            homes: FxHashMap::default(),
            last_req: first,
            leaving: false,
            dead: NodeSet::EMPTY,
        }
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
        let Some(tenure) = self.tenures.get_mut(&lock) else { return };
        let is_wanted = tenure.next.is_some() || !tenure.waiters.is_empty();
        if tenure.phase == Phase::Idle
            && !is_wanted
            && !self.leaving
            && memory.lend_lock(lock.0, tenure.token)
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
        self.homes.get(&lock).into_iter().flat_map(|home| home.chain.iter().map(|&(node, _)| node))
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
        let tenure = Tenure { req, phase: Phase::Waiting, token: 0, next: None, waiters, trying };
        self.tenures.insert(lock, tenure);
        outbox.send(me, home, LockMessage::Request { lock, req, attempt });
    }

    /// Decides who has an idle lock next: another node that waits, else a thread of this node.
    /// (Other nodes first: else a busy node would keep the lock for ever.)
    fn settle(&mut self, me: NodeId, home: NodeId, outbox: &mut Outbox, lock: LockId) {
        let Some(tenure) = self.tenures.get_mut(&lock) else { return };
        if !matches!(tenure.phase, Phase::Idle | Phase::Returning) {
            return;
        }
        if let Some((next, req)) = tenure.next {
            let token = tenure.token + 1;
            outbox.send(me, next, LockMessage::Grant { lock, req, token });
            let waiters = self.tenures.remove(&lock).map(|tenure| tenure.waiters).unwrap_or_default();
            if !waiters.is_empty() {
                self.request(me, home, outbox, (lock, Attempt::Wait), waiters);
            }
        } else if let Some(op) = tenure.waiters.pop_front() {
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
            LockMessage::Request { lock, req, attempt } => {
                self.on_request(me, planted, outbox, from, (lock, req, attempt));
            }
            LockMessage::Forward { lock, tenure, next, next_req, attempt } => {
                let any = planted.has(Plant::LockForwardIgnoresTenure);
                let found = self.tenures.get_mut(&lock).filter(|found| found.req == tenure || any);
                if let Some(found) = found.filter(|found| found.next.is_none()) {
                    let behind = Some((next, next_req));
                    found.next = behind;
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
            LockMessage::Grant { lock, req, token } => {
                let any = planted.has(Plant::LockGrantIgnoresRequest);
                let found = self.tenures.get_mut(&lock).filter(|found| found.req == req || any);
                if let Some(found) = found.filter(|found| found.phase == Phase::Waiting || any) {
                    (found.phase, found.token) = (Phase::Idle, token - 1);
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
            LockMessage::Probe { lock, req } => {
                let waiting = |found: &Tenure| found.req == req && found.phase == Phase::Waiting;
                let reached = !self.tenures.get(&lock).is_some_and(waiting);
                outbox.send(me, from, LockMessage::ProbeReply { lock, req, reached });
            }
            LockMessage::ProbeReply { lock, req, reached } => {
                self.on_probe_reply(me, outbox, from, lock, req, reached);
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

    pub(super) fn on_node_died(&mut self, me: NodeId, places: &Places, outbox: &mut Outbox, dead: NodeId) {
        self.dead.insert(dead);
        for lock in sorted_keys(&self.tenures).into_iter().filter(|lock| places.manager(lock.0) == Some(dead))
        {
            // Whoever has the lock keeps it, and gives it to those it was told of; nobody else gets it.
            let tenure = self.tenures.remove(&lock).expect("just listed");
            match tenure.phase {
                Phase::Held | Phase::Idle | Phase::Lent => {
                    self.tenures.insert(lock, tenure);
                }
                Phase::Waiting | Phase::Returning | Phase::Breaking => {
                    fail(outbox, tenure.waiters, Failure::NodeDied(dead))
                }
            }
        }
        for lock in sorted_keys(&self.homes) {
            self.look_into(me, outbox, lock, dead);
        }
    }

    /// A newcomer's request numbers start again, and it has no place in any queue.
    pub(super) fn on_node_joined(&mut self, node: NodeId) {
        self.dead.remove(node);
        for home in self.homes.values_mut() {
            home.last.retain(|slot| slot.0 != node);
            home.chain.retain(|slot| slot.0 != node);
        }
    }

    pub(super) fn fingerprint(&self, hasher: &mut impl Hasher) {
        hash_map(&self.tenures, hasher, |tenure, mut hasher| tenure.hash(&mut hasher));
        hash_map(&self.homes, hasher, |home, mut hasher| home.hash(&mut hasher));
        (self.last_req, self.leaving, self.dead).hash(hasher);
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
        self.homes.retain(|lock, _| !region.contains(lock.0));
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
        let home = self.homes.entry(lock).or_default();
        match home.last.iter_mut().find(|slot| slot.0 == from) {
            Some(slot) if slot.1 >= req && !planted.has(Plant::LockForgetsRequestNumbers) => return,
            Some(slot) => slot.1 = req,
            None => home.last.push((from, req)),
        }
        if let Some(dead) = home.broken {
            return outbox.send(me, from, LockMessage::Broken { lock, req, dead });
        }
        // A node that asks again has handed the lock on: everything before its last place is past.
        if let Some(at) = home.chain.iter().position(|&(node, _)| node == from) {
            home.chain.drain(..=at);
        }
        match home.chain.back().copied() {
            None => {
                home.token += 1;
                outbox.send(me, from, LockMessage::Grant { lock, req, token: home.token });
            }
            Some((tail, tenure)) => {
                let forward = LockMessage::Forward { lock, tenure, next: from, next_req: req, attempt };
                outbox.send(me, tail, forward);
            }
        }
        home.chain.push_back((from, req));
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
        let home = self.homes.entry(lock).or_default();
        if broken && home.chain.contains(&(from, req)) {
            home.chain.retain(|slot| slot.0 != from);
            self.break_lock(me, outbox, lock, from);
            outbox.send(me, from, LockMessage::ReturnAck { lock, req });
        } else if home.chain.back() == Some(&(from, req)) {
            home.chain.clear();
            home.token = home.token.max(token);
            outbox.send(me, from, LockMessage::ReturnAck { lock, req });
        }
        // Otherwise a forward is on its way to the node, which will hand the lock on; or the lock was broken, as it
        // will hear; or it never had the lock.
    }

    /// A queued node died. If the lock had passed it, the queue goes on without it; if it had not,
    /// the lock is broken. The first living node behind it knows.
    fn look_into(&mut self, me: NodeId, outbox: &mut Outbox, lock: LockId, dead: NodeId) {
        let Some(home) = self.homes.get_mut(&lock) else { return };
        home.last.retain(|slot| slot.0 != dead);
        let Some(at) = home.chain.iter().position(|&(node, _)| node == dead) else { return };
        let asked_died = home.probing.iter().any(|&(_, asked)| asked == dead);
        match home.chain.get(at + 1).copied() {
            Some((behind, req)) if !asked_died => {
                home.probing.push((dead, behind));
                outbox.send(me, behind, LockMessage::Probe { lock, req });
            }
            Some(_) | None => {
                home.chain.retain(|slot| slot.0 != dead);
                self.break_lock(me, outbox, lock, dead);
            }
        }
    }

    fn on_probe_reply(
        &mut self,
        me: NodeId,
        outbox: &mut Outbox,
        from: NodeId,
        lock: LockId,
        req: Req,
        reached: bool,
    ) {
        let Some(home) = self.homes.get_mut(&lock) else { return };
        let Some(probe) = home.probing.iter().position(|&(_, asked)| asked == from) else { return };
        let (dead, _) = home.probing.remove(probe);
        if !reached {
            self.break_lock(me, outbox, lock, dead);
        } else if let Some(at) = home.chain.iter().position(|&slot| slot == (from, req)) {
            home.chain.drain(..at);
        }
    }

    fn break_lock(&mut self, me: NodeId, outbox: &mut Outbox, lock: LockId, dead: NodeId) {
        let home = self.homes.entry(lock).or_default();
        home.broken = Some(dead);
        home.probing.clear();
        for (node, req) in std::mem::take(&mut home.chain) {
            outbox.send(me, node, LockMessage::Broken { lock, req, dead });
        }
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
