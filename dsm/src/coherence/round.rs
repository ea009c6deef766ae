//! A death begins a round: every message of a lower round is void, whoever sent it, and no copy or transaction is
//! mended by itself. Each member reports to each other one what it holds of that one's pages and locks, and goes
//! on at once. A home opens when it has the reports of all members of the view; until then it serves nobody. The
//! round is named by the epoch of the view that told the death. Another death at any moment begins another
//! round; nothing that was done before is wrong.
//!
//! It needs no flush, because a node keeps what it wrote last until the home says that the bytes are elsewhere: a
//! message that is void carries nothing that its sender does not have.
//!
//! This file counts reports; what they mean is decided by the home's sides, `directory` and `lock`.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use rustc_hash::{FxHashMap, FxHashSet};

use super::Coherence;
use super::copyset::NodeSet;
use super::fingerprint::hash_map;
use super::message::{Held, HeldLock, LockId, Message, REPORT_RUN_MAX, Report, ReportPart, Txn, Version};
use super::plant::Plant;
use crate::config::coherence::REPORT_PARTS_AT_ONCE;
use crate::page::{Epoch, LockWords, Memory, NodeId, PageId, Time};

/// Epochs are below this, and so are rounds.
const ROUND_BITS: u32 = 26;
/// Transactions of a page, and tokens of a lock, in one round.
const COUNT_BITS: u32 = 32;
const _: () =
    assert!(crate::config::membership::EPOCHS_MAX < 1 << ROUND_BITS && ROUND_BITS + COUNT_BITS < 64);

/// Transactions of pages, and tokens of locks, grow from here in the round that this epoch began.
pub(super) fn first_count(round: Epoch) -> u64 {
    round.0 << COUNT_BITS
}

/// The round of a node, and the reports that it waits for as a home.
#[derive(Clone, Default)]
pub(super) struct Round {
    epoch: Epoch,
    /// Members whose report is not complete.
    awaited: NodeSet,
    parts: FxHashMap<NodeId, Parts>,
}

/// The parts of a report that have come. They overtake each other, and some come twice.
#[derive(Clone, Default)]
struct Parts {
    /// How many there are, once that is known.
    total: Option<u32>,
    numbers: FxHashSet<u32>,
}

/// The reports that a node writes, by receiver.
#[derive(Clone, Default)]
pub(super) struct Reports {
    drafts: FxHashMap<NodeId, Vec<ReportPart>>,
}

impl Round {
    /// The round of a node that joined with this view: it hears nothing of earlier ones.
    pub(super) fn new(joined: Epoch) -> Round {
        Round { epoch: joined, ..Round::default() }
    }

    /// Whether a message of a sender that knew this view is void.
    pub(super) fn voids(&self, epoch: Epoch) -> bool {
        epoch < self.epoch
    }

    pub(super) fn begin(&mut self, epoch: Epoch, members: NodeSet) {
        *self = Round { epoch, awaited: members, parts: FxHashMap::default() };
    }

    /// Takes note of a part; true if it is new, and its sender's report is awaited.
    pub(super) fn is_news(&mut self, from: NodeId, number: u32) -> bool {
        if !self.awaited.contains(from) {
            return false;
        }
        self.parts.entry(from).or_default().numbers.insert(number)
    }

    /// A report has so many parts.
    pub(super) fn note_total(&mut self, from: NodeId, total: u32) {
        if self.awaited.contains(from) {
            self.parts.entry(from).or_default().total = Some(total);
        }
    }

    /// Whether the report of a member has just become complete.
    pub(super) fn completes(&mut self, from: NodeId) -> bool {
        let complete =
            self.parts.get(&from).is_some_and(|parts| parts.total == Some(parts.numbers.len() as u32));
        complete && self.forget(from)
    }

    /// Waits for the report of this node no longer; true if it did.
    pub(super) fn forget(&mut self, node: NodeId) -> bool {
        let awaited = self.awaited.contains(node);
        self.awaited.remove(node);
        self.parts.remove(&node);
        awaited
    }

    pub(super) fn fingerprint(&self, hasher: &mut impl Hasher) {
        (self.epoch, self.awaited).hash(hasher);
        hash_map(&self.parts, hasher, |parts, mut hasher| {
            (parts.total, parts.numbers.len()).hash(&mut hasher)
        });
    }
}

impl Reports {
    /// This node has a page, of that version; neighbours with the same state and version make one part.
    pub(super) fn page(&mut self, home: NodeId, page: PageId, state: Held, version: Version) {
        let parts = self.drafts.entry(home).or_default();
        if let Some(ReportPart::Pages { first, pages, state: other, version: same }) = parts.last_mut()
            && (first.0 + u64::from(*pages), *other, *same) == (page.0, state, version)
            && *pages < REPORT_RUN_MAX
        {
            *pages += 1;
        } else {
            parts.push(ReportPart::Pages { first: page, pages: 1, state, version });
        }
    }

    pub(super) fn lock(&mut self, home: NodeId, lock: LockId, held: HeldLock) {
        self.drafts.entry(home).or_default().push(ReportPart::Lock { lock, held });
    }

    /// One report for each member; most are empty.
    pub(super) fn address(mut self, members: NodeSet) -> VecDeque<(NodeId, Report)> {
        let mut all = VecDeque::new();
        for member in members.iter() {
            let parts = self.drafts.remove(&member).unwrap_or_default();
            all.push_back((member, Report::Total { parts: parts.len() as u32 }));
            all.extend((0..).zip(parts).map(|(number, part)| (member, Report::Part { number, part })));
        }
        all
    }
}

/// What is reported of one page, by all.
#[derive(Clone, Default, Hash)]
pub(super) struct Found {
    pub(super) owner: Option<(NodeId, Version)>,
    pub(super) copyset: NodeSet,
    /// The highest version, and one of the nodes that have its bytes.
    pub(super) top: Version,
    pub(super) source: Option<NodeId>,
}

impl Found {
    pub(super) fn add(&mut self, from: NodeId, state: Held, version: Version) {
        match state {
            Held::Modified => self.owner = Some((from, version)),
            Held::Shared => self.copyset.insert(from),
            Held::Bytes => {}
        }
        if version > self.top || self.source.is_none() {
            (self.top, self.source) = (version, Some(from));
        }
    }
}

/// A write that was granted and not acknowledged when the round began. If the node reports, it says itself what it
/// has; if it died, nobody knows whether it has written.
#[derive(Clone, Copy, Hash)]
pub(super) struct Doubt {
    pub(super) node: NodeId,
    pub(super) txn: Txn,
    /// It is dead.
    pub(super) is_lost: bool,
}

/// The members of a round.
#[derive(Clone, Copy)]
pub(super) struct Nodes {
    pub(super) members: NodeSet,
    /// Those that are members no longer.
    pub(super) died: NodeSet,
    /// They, and those whose process has ended since the last round.
    pub(super) gone: NodeSet,
    pub(super) run_on: NodeSet,
}

/// Rounds.
impl Coherence {
    /// Whether a message was sent in a lower round. What is said at barriers counts in any: their home alone
    /// decides, and it lives.
    pub(super) fn is_void(&self, epoch: Epoch, message: &Message) -> bool {
        let excepted = match message {
            Message::Barrier(_) => true,
            Message::Lock(_) => self.planted.has(Plant::LockTakesGrantsOfOlderRounds),
            Message::ToHome(_) | Message::ToNode(_) => {
                self.planted.has(Plant::NodeTakesMessagesOfOlderRounds)
            }
            Message::Report(_) => false,
        };
        self.round.voids(epoch) && !excepted
    }

    /// Members have died. This node forgets what it has asked and been asked, reports what it holds, and goes on.
    pub(super) fn begin_round<M: Memory + LockWords>(
        &mut self,
        now: Time,
        epoch: Epoch,
        (members, died, run_on): (NodeSet, NodeSet, NodeSet),
        memory: &mut M,
    ) {
        let ended = run_on.iter().filter(|&node| !self.run_on.contains(node));
        // Their programs and their rights are gone, whoever runs the nodes on.
        let gone: NodeSet = died.iter().chain(ended).collect();
        self.run_on = run_on;
        self.round.begin(epoch, members);
        self.outbox.void();
        died.iter().for_each(|dead| self.places.on_node_died(dead));
        self.inherit(memory);
        let (directory, mut ctx) = self.directory_parts(now, memory);
        directory.begin_round(&mut ctx, (members, died), first_count(epoch));
        let mut reports = Reports::default();
        let (cache, places, mut ctx) = self.cache_parts(now, memory);
        cache.begin_round(&mut ctx, places, died, &mut reports);
        let first_token = first_count(epoch);
        let nodes = Nodes { members, died, gone, run_on };
        self.locks.begin_round(&self.places, &mut self.outbox, nodes, first_token, &mut reports);
        self.reports = reports.address(members);
        let (cache, places, mut ctx) = self.cache_parts(now, memory);
        cache.ask_again(&mut ctx, places);
        self.locks.ask_again(self.me, self.planted, &self.places, &mut self.outbox);
        for dead in gone.iter() {
            self.barriers.on_node_gone(self.me, &mut self.outbox, dead);
        }
    }

    pub(super) fn send_reports(&mut self) {
        for _ in 0..REPORT_PARTS_AT_ONCE {
            let Some((member, report)) = self.reports.pop_front() else { return };
            self.outbox.send(self.me, member, report);
        }
    }

    pub(super) fn on_report<M: Memory + LockWords>(
        &mut self,
        now: Time,
        from: NodeId,
        report: Report,
        memory: &mut M,
    ) {
        match report {
            Report::Total { parts } => self.round.note_total(from, parts),
            Report::Part { number, part } => {
                if !self.round.is_news(from, number) {
                    self.counters.stale_messages += 1;
                    return;
                }
                match part {
                    ReportPart::Pages { first, pages, state, version } => {
                        let known = |page: &PageId| self.places.region(*page).is_some();
                        let pages = (first.0..first.0.saturating_add(u64::from(pages))).map(PageId);
                        let pages = pages.filter(known);
                        let refused = self.directory.hear(self.me, from, pages, (state, version));
                        self.counters.violations += refused;
                    }
                    ReportPart::Lock { lock, held } => {
                        if self.places.region(lock.0).is_some() {
                            self.locks.hear(from, lock, held);
                        }
                    }
                }
            }
        }
        if self.round.completes(from) {
            self.report_completed(now, from, memory);
        }
    }

    /// The last part of a member's report has come, or the member has left.
    pub(super) fn report_completed<M: Memory + LockWords>(
        &mut self,
        now: Time,
        from: NodeId,
        memory: &mut M,
    ) {
        let (directory, mut ctx) = self.directory_parts(now, memory);
        if directory.report_completed(&mut ctx, from) {
            memory.note_opened(self.round.epoch);
        }
        self.locks.report_completed(self.me, self.planted, &mut self.outbox, from);
        self.locks.note_all(self.planted, memory);
    }
}
