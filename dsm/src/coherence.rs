//! The coherence protocol as a value: it takes an event and the time, changes local memory through
//! [`Memory`], and yields messages and finished operations. It does no IO, reads no clock, holds no
//! lock and never blocks; the same code runs under the MMU and UDP, under the simulator, and under a
//! race written by hand.
//!
//! A home-based, invalidate-based directory protocol (MSI) in the line of Li and Hudak's fixed
//! distributed manager (TOCS 1989), with the tables of `docs/protocol.md`: the home runs one
//! transaction a page at a time, and a transaction ends when the requester has mapped the page.
//! `directory` is the home's side, `cache` the requester's, `lock` and `barrier` stand beside.

mod authority;
mod barrier;
mod batch;
mod cache;
mod copyset;
mod directory;
mod fingerprint;
mod heir;
mod instruction;
mod lock;
mod message;
mod outbox;
mod placement;
mod plant;
mod resident;
mod round;
mod stream;
mod table;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

pub use copyset::NodeSet;
pub use heir::Legacy;
pub use message::{
    Answer, Attempt, BATCH_MESSAGES_MAX, BarrierId, BarrierMessage, Batch, Body, Held, HeldLock, LockId,
    LockMessage, Message, Report, ReportPart, Req, ToHome, ToNode, Txn, Version, encode_batch_head,
};
pub use placement::{Placement, Quota, RegionInfo};
pub use plant::{Plant, Planted};
pub use resident::{MemoryLimit, Occupancy};

use crate::config::coherence::INSTRUCTION_PAGES_MAX;
use crate::config::membership::EPOCHS_MAX;
use crate::page::{Access, Epoch, LockWords, Memory, NodeId, PageBuf, PageId, Time};
use barrier::Barriers;
use cache::Cache;
use directory::Directory;
use lock::Locks;
use outbox::Outbox;
use placement::Places;
use round::{Reports, Round};

/// Request numbers that an incarnation may use before it would reach those of the next.
const REQS_PER_EPOCH: u64 = 1 << 40;
const _: () = assert!(EPOCHS_MAX <= u64::MAX / REQS_PER_EPOCH);

/// The caller's name for something it waits for; each is answered by one [`Output::Done`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpId(pub u64);

/// A page fault of an application thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fault {
    /// Answered when the page allows `access` (or when the instruction should be tried again).
    pub op: OpId,
    /// The faulting thread, as the system names it.
    pub thread: u64,
    /// Address of the faulting instruction; 0 where it is not known.
    pub instruction: u64,
    /// The page.
    pub page: PageId,
    /// `Read` or `Write`.
    pub access: Access,
}

/// What can happen to a node.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// An application thread cannot go on without a page.
    Fault(Fault),
    /// The thread of an answered fault is about to try its instruction again. A hint: it tells a loop
    /// that faults again and again from an instruction that is kept from running.
    Resumed {
        /// As in the fault.
        thread: u64,
        /// As in the fault.
        page: PageId,
        /// As in the fault.
        access: Access,
    },
    /// Pages will be wanted: ask for them, with nobody waiting. Those that are here or asked for already
    /// are passed over, as are those outside the region of the first page and what exceeds
    /// [`crate::config::coherence::AHEAD_PENDING_MAX`].
    Prefetch {
        /// The first page.
        first: PageId,
        /// How many.
        pages: u64,
        /// `Read` or `Write`.
        access: Access,
    },
    /// The node should hold less: drop a shared copy, or write an owned page back. Ignored where the
    /// page is held, asked for, or at home.
    Evict {
        /// The page.
        page: PageId,
    },
    /// A message of a member of the present view; `page` has the bytes that it carries, or nothing.
    Message {
        /// The sender.
        from: NodeId,
        /// Of the view that the sender knew: not above this node's.
        epoch: Epoch,
        /// The message.
        message: Message,
        /// One page if [`Message::carries_page`], else empty.
        page: &'a [u8],
    },
    /// [`Coherence::poll_timeout`] has come.
    Timer,
    /// A thread wants a lock.
    Lock {
        /// Answered with the fencing token, or with [`Failure::LockBusy`] if it only tries.
        op: OpId,
        /// The lock.
        lock: LockId,
        /// Whether the thread waits if the lock is not free.
        attempt: Attempt,
    },
    /// A thread no longer waits for a lock. It is answered with [`Failure::Abandoned`], unless the
    /// lock was already its own.
    AbandonLock {
        /// The operation of [`Input::Lock`].
        op: OpId,
        /// The lock.
        lock: LockId,
    },
    /// The holder gives a lock back.
    Unlock {
        /// The lock, held by this node.
        lock: LockId,
    },
    /// The node's program has arrived at a barrier.
    Barrier {
        /// Answered when all members have arrived.
        op: OpId,
        /// The barrier.
        barrier: BarrierId,
        /// All members; the same set on each of them.
        members: NodeSet,
    },
    /// The program no longer waits at a barrier. The wait is answered with [`Failure::Abandoned`], and the
    /// arrival does not count, unless the barrier ends first.
    WithdrawBarrier {
        /// The operation of [`Input::Barrier`].
        op: OpId,
        /// The barrier.
        barrier: BarrierId,
    },
    /// A region exists from now on.
    Region(RegionInfo),
    /// A region exists no longer; nobody uses it.
    RegionGone {
        /// Its first page.
        start: PageId,
    },
    /// A program's ranks have all left; its barriers are forgotten.
    ProgramEnded {
        /// The program.
        program: u64,
    },
    /// A member has left in peace: what still waits for it at a barrier waits in vain.
    NodeLeft(NodeId),
    /// Processes of members have ended: a round begins. No message of the dead is handled after this.
    Round {
        /// Of the view that told the last of these deaths.
        epoch: Epoch,
        /// The members of that view, or of a later one.
        members: NodeSet,
        /// Of those whose process has ended, the nodes that nobody runs on.
        died: NodeSet,
        /// All members whose process has ended: another one runs, or will run, each of them on, with the same memory.
        run_on: NodeSet,
    },
    /// This node has just joined, in a view that tells deaths: others may wait for its report.
    Joined {
        /// The members of that view.
        members: NodeSet,
    },
    /// A fresh incarnation has come to a slot; what its predecessor left behind is forgotten. Given
    /// before the first message of the newcomer. The slot of a dead home stays empty: regions name it.
    NodeJoined(NodeId),
    /// The program comes to no other barrier than the one of its end, and takes no lock any more: its waits at
    /// this barrier and for locks end with [`Failure::Leaving`], the barrier breaks for its other members, and
    /// each lock is given back, as broken if it is held. The node's memory is served as before.
    Retire {
        /// The barrier to which it comes no more.
        barrier: BarrierId,
        /// All its members.
        members: NodeSet,
    },
    /// Write everything back, give every lock back, and be forgotten by all homes.
    Leave {
        /// Answered when nothing of the cluster depends on this node any more.
        op: OpId,
    },
}

/// What a node does in answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send a message, and the page that it carries.
    Send {
        /// To a member; never to itself.
        to: NodeId,
        /// The message.
        message: Message,
        /// Present if and only if [`Message::carries_page`].
        page: Option<PageBuf>,
    },
    /// An operation has ended.
    Done {
        /// Which.
        op: OpId,
        /// A lock's fencing token, else 0; or why it failed.
        result: Result<u64, Failure>,
    },
}

/// Why an operation failed. The page, lock or barrier is unchanged by the failed operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Failure {
    /// The page's home or manager, or a member of the barrier, is dead.
    NodeDied(NodeId),
    /// The last bytes of the page died with this node.
    PageLost(NodeId),
    /// The lock was held by, or on its way to, this node when it died.
    LockBroken(NodeId),
    /// No region has this page.
    NoRegion,
    /// The node is leaving.
    Leaving,
    /// The caller gave up waiting.
    Abandoned,
    /// The lock is not free, and the thread only tried.
    LockBusy,
    /// The barrier has a waiting thread of this node already, or the members disagree about who they are.
    BarrierMisuse,
}

/// What a core has done since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs)]
pub struct Counters {
    pub read_faults: u64,
    pub write_faults: u64,
    pub upgrades: u64,
    pub spurious_faults: u64,
    /// Faults on pages that had come ahead of need: mapped without a message.
    pub local_faults: u64,
    pub pages_received: u64,
    pub zero_pages_received: u64,
    /// Pages that came ahead of need and were taken away untouched.
    pub pages_wasted: u64,
    pub pages_sent: u64,
    pub invalidations: u64,
    pub downgrades: u64,
    pub write_backs: u64,
    pub evictions: u64,
    /// Pages whose turn to go had come, and that were touched before they went.
    pub second_chances: u64,
    /// Faults whose page had to wait for room.
    pub room_waited_for: u64,
    pub holds_waited_for: u64,
    pub transactions: u64,
    /// Messages to and from other nodes, about pages, locks and barriers.
    pub messages_out: u64,
    pub messages_in: u64,
    /// Messages that no longer applied: duplicates, answers to abandoned requests.
    pub stale_messages: u64,
    /// Messages that the protocol's tables say cannot arrive.
    pub violations: u64,
    pub pages_lost: u64,
}

/// One node's part of the protocol.
#[derive(Clone)]
pub struct Coherence {
    me: NodeId,
    planted: Planted,
    round: Round,
    /// Members that another process runs on.
    run_on: NodeSet,
    /// This core runs a node on: it has no application.
    is_heir: bool,
    /// What the record says, until the first round.
    legacy: Option<Legacy>,
    /// What is still to be reported in this round, in slices: others want to be answered meanwhile.
    reports: VecDeque<(NodeId, Report)>,
    places: Places,
    directory: Directory,
    cache: Cache,
    locks: Locks,
    barriers: Barriers,
    outbox: Outbox,
    counters: Counters,
}

/// What a reaction may touch besides its own tables.
struct Context<'a, M: Memory> {
    me: NodeId,
    now: Time,
    planted: Planted,
    memory: &'a mut M,
    outbox: &'a mut Outbox,
    counters: &'a mut Counters,
}

impl Coherence {
    /// The protocol of node `me`, which knows no region and has no page yet. It joined with the view
    /// `joined`, from which its request numbers start: a slot's next incarnation must not repeat them.
    /// `nearest_home` becomes the home of what this node touches first.
    pub fn new(me: NodeId, joined: Epoch, nearest_home: NodeId) -> Self {
        let first = Req(joined.0.checked_mul(REQS_PER_EPOCH).expect("views of later epochs are refused"));
        Coherence {
            me,
            planted: Planted::default(),
            round: Round::new(joined),
            run_on: NodeSet::EMPTY,
            is_heir: false,
            legacy: None,
            reports: VecDeque::new(),
            places: Places::default(),
            directory: Directory::new(),
            cache: Cache::new(nearest_home, first),
            locks: Locks::new(first),
            barriers: Barriers::default(),
            outbox: Outbox::default(),
            counters: Counters::default(),
        }
    }

    /// The same core with a limit on the memory that pages take; pages at home are set aside in it.
    pub fn with_limit(mut self, limit: MemoryLimit) -> Self {
        assert!(
            limit.cache_min >= INSTRUCTION_PAGES_MAX as u64,
            "an instruction must find room for its pages"
        );
        self.cache.resident.set_limit(limit);
        self
    }

    /// The same core with a planted fault.
    #[cfg(feature = "planted")]
    pub fn with_planted(mut self, planted: Planted) -> Self {
        self.planted = planted;
        self.cache.planted = planted;
        self
    }

    /// Takes one event. Effects on memory have happened when it returns; messages and finished
    /// operations wait in [`Coherence::poll_output`].
    pub fn handle<M: Memory + LockWords>(&mut self, now: Time, input: Input<'_>, memory: &mut M) {
        self.cache.settle_postponed(memory);
        self.locks.set_now(now);
        self.react(now, input, memory);
        if !self.reports.is_empty() {
            self.send_reports();
        }
        // What this node says to itself arrives at once and in order; held-up messages run as soon
        // as their hold has ended, for whatever reason.
        loop {
            if let Some(message) = self.outbox.local.pop_front() {
                self.on_message(now, self.me, message, &[], memory);
            } else if let Some((from, message)) = self.cache.take_released(now) {
                self.on_message(now, from, message.into(), &[], memory);
            } else {
                break;
            }
        }
        self.continue_leaving(now, memory);
        let (cache, places, mut ctx) = self.cache_parts(now, memory);
        cache.make_room(&mut ctx, places);
        self.outbox.send_due(now);
    }

    /// To which program a member belongs, if to any. A member of which nothing was told may come to any barrier.
    pub fn tell_program(&mut self, member: NodeId, program: Option<u64>) {
        self.barriers.tell_program(self.me, member, program);
    }

    /// The next thing to send or to tell, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outbox.outputs.pop_front();
        self.counters.messages_out += u64::from(matches!(output, Some(Output::Send { .. })));
        output
    }

    /// When to call with [`Input::Timer`] next.
    pub fn poll_timeout(&self) -> Option<Time> {
        if !self.reports.is_empty() {
            return Some(Time(0));
        }
        let lazy = self.outbox.lazy.iter().map(|&(_, _, due)| due).min();
        [self.cache.poll_timeout(), lazy, self.locks.poll_timeout()].into_iter().flatten().min()
    }

    /// What this core has done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Pages that this node has asked for and does not have yet.
    pub fn pages_asked_for(&self) -> usize {
        self.cache.pages_asked_for()
    }

    /// What is left to do before [`Input::Leave`] is answered, in steps of a page or a home; `None` if it was
    /// answered or never given. A number that does not change for long says that no peer acknowledges anything.
    pub fn leave_steps(&self) -> Option<u64> {
        self.cache.leave_steps()
    }

    /// Pages whose newest bytes are here alone, of those whose home is elsewhere. Looks at every page.
    pub fn unsaved_pages(&self) -> u64 {
        self.cache.unsaved_pages(&self.places, self.me)
    }

    /// Whether this node holds no more than it may; after a region has come, it may for a while.
    pub fn is_within_limit(&self) -> bool {
        self.cache.resident.is_within_limit()
    }

    /// Memory that pages of other homes take here.
    pub fn occupancy(&self) -> Occupancy {
        self.cache.occupancy()
    }

    /// What the application may do with a page here: what the protocol allows, or less.
    pub fn access(&self, page: PageId) -> Access {
        self.cache.access(page)
    }

    /// What is mapped of it: at most that.
    pub fn mapped(&self, page: PageId) -> Access {
        self.cache.mapped(page)
    }

    /// The page's home, as far as this node knows it.
    pub fn home(&self, page: PageId) -> Option<NodeId> {
        self.places.home(page)
    }

    /// How many pages this node has found lost as their home.
    pub fn pages_lost(&self) -> u64 {
        self.counters.pages_lost
    }

    /// After a round: the node that has a page's bytes, if its home has not fetched them yet.
    pub fn page_source(&self, page: PageId) -> Option<NodeId> {
        self.directory.source(page)
    }

    /// Whether this node wrote a page last, or may become its owner: if it dies, the page may be lost.
    pub fn may_have_written(&self, page: PageId) -> bool {
        self.cache.may_have_written(page)
    }

    /// Pages whose last bytes died with a node, of those whose home is here.
    pub fn lost_pages(&self) -> Vec<(PageId, NodeId)> {
        self.directory.lost_pages()
    }

    /// Whether a page's version is only known to its owner; for the checks of the simulator.
    pub fn directory_entry(&self, page: PageId) -> Option<(Option<NodeId>, NodeSet, Version)> {
        self.directory.entry(page)
    }

    /// At homes: the most requests that wait for one page.
    pub fn longest_queue(&self) -> usize {
        self.directory.longest_queue()
    }

    /// Whether nothing is outstanding: no request, no open transaction, no message held up.
    pub fn is_idle(&self) -> bool {
        self.cache.is_idle() && self.directory.is_idle()
    }

    /// The version of this node's copy, if it has one.
    pub fn copy_version(&self, page: PageId) -> Option<Version> {
        self.cache.copy_version(page)
    }

    /// At a lock's home: the nodes that have it or wait for it, in their order. Those in front may have
    /// handed it on already. Empty elsewhere, and when the lock is free.
    pub fn lock_queue(&self, lock: LockId) -> Vec<NodeId> {
        self.locks.queue(lock).collect()
    }

    /// The node that keeps a lock's queue.
    pub fn lock_home(&self, lock: LockId) -> Option<NodeId> {
        self.places.manager(lock.0)
    }

    /// The node that counts the arrivals at a barrier that this node has come to: its lowest member.
    pub fn barrier_home(&self, barrier: BarrierId) -> Option<NodeId> {
        self.barriers.home(barrier)
    }

    /// At the barrier's home: the members that have not arrived, or have withdrawn their arrival. Empty
    /// elsewhere, and when no member has come since the last one ended.
    pub fn barrier_missing(&self, barrier: BarrierId) -> NodeSet {
        self.barriers.missing(barrier)
    }

    /// How many barriers of this name have ended for this node.
    pub fn barriers_passed(&self, barrier: BarrierId) -> u64 {
        self.barriers.passed(barrier)
    }

    /// The barriers that a thread of this node waits at.
    pub fn barriers_waited_at(&self) -> Vec<BarrierId> {
        self.barriers.waited_at()
    }

    fn react<M: Memory + LockWords>(&mut self, now: Time, input: Input<'_>, memory: &mut M) {
        match input {
            Input::Message { from, epoch, message, page } => {
                self.counters.messages_in += 1;
                if self.is_void(epoch, &message) || self.is_for_application(&message) {
                    self.counters.stale_messages += 1;
                    return;
                }
                self.on_message(now, from, message, page, memory);
            }
            Input::Fault(fault) => {
                let (cache, places, mut ctx) = self.cache_parts(now, memory);
                cache.fault(&mut ctx, places, fault);
            }
            Input::Resumed { thread, page, access } => self.cache.resumed(now, thread, page, access),
            Input::Prefetch { first, pages, access } => {
                let (cache, places, mut ctx) = self.cache_parts(now, memory);
                if let Some(region) = places.region(first) {
                    let pages = (first.0..first.0.saturating_add(pages)).map(PageId);
                    cache.prefetch(&mut ctx, (places, region), pages, access);
                }
            }
            Input::Evict { page } => {
                let (cache, places, mut ctx) = self.cache_parts(now, memory);
                cache.evict(&mut ctx, places, page);
            }
            Input::Timer => self.end_stays(memory),
            Input::Lock { op, lock, attempt } => match self.places.manager(lock.0) {
                Some(home) => self.with_lock(lock, memory, |core| {
                    core.locks.lock(core.me, home, &mut core.outbox, op, (lock, attempt));
                }),
                None => self.outbox.done(op, Err(Failure::NoRegion)),
            },
            Input::AbandonLock { op, lock } => self.with_lock(lock, memory, |core| {
                core.locks.abandon(&mut core.outbox, op, lock);
            }),
            Input::Unlock { lock } => {
                let home = self.places.manager(lock.0).expect("a held lock lies in a region");
                self.with_lock(lock, memory, |core| {
                    core.locks.unlock(core.me, home, &mut core.outbox, lock);
                });
            }
            Input::Barrier { op, barrier, members } => {
                self.barriers.arrive(self.me, &mut self.outbox, op, barrier, members);
            }
            Input::WithdrawBarrier { op, barrier } => {
                self.barriers.withdraw(self.me, &mut self.outbox, op, barrier);
            }
            Input::Region(region) => {
                self.places.add(region);
                self.cache.resident.set_aside(self.places.pages_at(self.me));
            }
            Input::RegionGone { start } => {
                if let Some(region) = self.places.remove(start) {
                    self.cache.resident.set_aside(self.places.pages_at(self.me));
                    self.cache.forget_region(&region);
                    self.directory.forget_region(&region);
                    self.locks.forget_region(self.planted, &region, memory);
                }
            }
            Input::ProgramEnded { program } => self.barriers.forget_program(program),
            Input::NodeLeft(left) => {
                self.barriers.on_node_gone(self.me, &mut self.outbox, left);
                // It had nothing that any home does not know.
                if self.round.forget(left) {
                    self.report_completed(now, left, memory);
                }
            }
            Input::Round { epoch, members, died, run_on } => {
                self.begin_round(now, epoch, (members, died, run_on), memory);
            }
            Input::Joined { members } => {
                self.reports = Reports::default().address(members.without(self.me));
            }
            Input::NodeJoined(node) => {
                self.run_on.remove(node);
                self.places.on_node_joined(node);
                self.directory.on_node_joined(node);
                self.locks.on_node_joined(node);
            }
            Input::Retire { barrier, members } => {
                self.barriers.quit(self.me, &mut self.outbox, barrier, members);
                self.locks.start_leaving(self.planted, &mut self.outbox, memory);
            }
            Input::Leave { op } => {
                self.cache.start_leaving(op);
                self.locks.start_leaving(self.planted, &mut self.outbox, memory);
            }
        }
    }

    fn on_message<M: Memory + LockWords>(
        &mut self,
        now: Time,
        from: NodeId,
        message: Message,
        page: &[u8],
        memory: &mut M,
    ) {
        if !self.concerns_us(from, &message) {
            self.counters.violations += 1;
            return;
        }
        match message {
            Message::ToHome(ToHome::Locate { extent, nearest }) => {
                let home = self.places.decide(extent, nearest);
                if !self.planted.has(Plant::HomesAreNotRecorded) {
                    memory.note_home(extent, home);
                }
                self.outbox.send(self.me, from, ToNode::Located { extent, home });
            }
            Message::ToHome(message) => {
                let (directory, mut ctx) = self.directory_parts(now, memory);
                directory.on_message(&mut ctx, from, message, page);
            }
            // The home knows which owner is to answer its own request. Another requester does not.
            Message::ToNode(ToNode::Data { page, .. })
                if from != self.me
                    && self.is_home(page)
                    && !self.directory.awaits_bytes(page, from)
                    && !self.planted.has(Plant::HomeTakesPagesFromAnybody) =>
            {
                self.counters.stale_messages += 1;
            }
            Message::ToNode(message) => {
                if let ToNode::Located { extent, home } = message {
                    memory.note_home(extent, self.places.locate(extent, home));
                }
                let (cache, places, mut ctx) = self.cache_parts(now, memory);
                cache.on_message(&mut ctx, places, from, message, page);
            }
            Message::Lock(message) => self.with_lock(message.lock(), memory, |core| {
                core.locks.on_message(core.me, core.planted, &mut core.outbox, from, message);
            }),
            Message::Barrier(message) => {
                self.barriers.on_message(self.me, self.planted, &mut self.outbox, from, message);
            }
            Message::Report(message) => self.on_report(now, from, message, memory),
        }
    }

    /// Reacts to something that concerns a lock. Before, the core recalls it from the node's threads if
    /// they have it among themselves; afterwards they may have it again.
    fn with_lock<M: LockWords>(&mut self, lock: LockId, memory: &mut M, react: impl FnOnce(&mut Self)) {
        self.locks.recall(self.planted, lock, memory);
        react(self);
        self.locks.note(self.planted, lock, memory);
        self.locks.lend(lock, memory);
    }

    fn end_stays<M: LockWords>(&mut self, memory: &mut M) {
        while let Some(lock) = self.locks.take_ended_stay() {
            let Some(home) = self.places.manager(lock.0) else { continue };
            self.with_lock(lock, memory, |core| {
                core.locks.end_stay(core.me, home, core.planted, &mut core.outbox, lock);
            });
        }
    }

    fn continue_leaving<M: Memory>(&mut self, now: Time, memory: &mut M) {
        if self.locks.is_leaving() {
            self.locks.return_idle(self.me, &self.places, &mut self.outbox);
        }
        if !self.cache.is_leaving() {
            return;
        }
        let locks_returned = self.locks.holds_nothing();
        let (cache, places, mut ctx) = self.cache_parts(now, memory);
        cache.continue_leaving(&mut ctx, places, locks_returned);
    }

    fn directory_parts<'a, M: Memory>(
        &'a mut self,
        now: Time,
        memory: &'a mut M,
    ) -> (&'a mut Directory, Context<'a, M>) {
        let ctx = Context {
            me: self.me,
            now,
            planted: self.planted,
            memory,
            outbox: &mut self.outbox,
            counters: &mut self.counters,
        };
        (&mut self.directory, ctx)
    }

    fn cache_parts<'a, M: Memory>(
        &'a mut self,
        now: Time,
        memory: &'a mut M,
    ) -> (&'a mut Cache, &'a mut Places, Context<'a, M>) {
        let ctx = Context {
            me: self.me,
            now,
            planted: self.planted,
            memory,
            outbox: &mut self.outbox,
            counters: &mut self.counters,
        };
        (&mut self.cache, &mut self.places, ctx)
    }
}

impl<M: Memory> Context<'_, M> {
    fn send(&mut self, to: NodeId, message: impl Into<Message>) {
        self.outbox.send(self.me, to, message);
    }
}
