//! The home's side of a round: the directory is made anew of what the members report.
//!
//! A page is decided as soon as somebody asks for it and the reports of those have come that the home's entry
//! names: its owner, its sharers, the parties of the transaction that the round has ended. Nobody else can have
//! bytes or rights that count. So a member that is stopped delays the pages that it had to do with, and no others.
//! When all have reported, all pages are decided.

use std::hash::{Hash, Hasher};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Busy, Directory, Entry, Queued, store};
use crate::coherence::fingerprint::{hash_map, sorted_keys};
use crate::coherence::message::{Body, Held, ToNode, Txn, Version};
use crate::coherence::placement::RegionInfo;
use crate::coherence::plant::Plant;
use crate::coherence::round::{Doubt, Found};
use crate::coherence::{Context, NodeSet};
use crate::page::{Access, Memory, NodeId, PageBuf, PageId};

/// What is reported of the pages of this home, and what it knew before.
#[derive(Clone, Default)]
pub(super) struct Rebuild {
    found: FxHashMap<PageId, Found>,
    doubts: FxHashMap<PageId, Doubt>,
    /// Nodes that a page's entry does not name: the parties of its last transaction, or its source.
    parties: FxHashMap<PageId, NodeSet>,
    died: NodeSet,
    /// Members whose report is not complete.
    awaited: NodeSet,
    decided: FxHashSet<PageId>,
    /// Transactions of this round start from here.
    first: Txn,
    /// Members that have asked to leave, and whose report is not complete.
    leavers: Vec<NodeId>,
}

impl Rebuild {
    pub(super) fn forget_region(&mut self, region: &RegionInfo) {
        self.found.retain(|&page, _| !region.contains(page));
        self.doubts.retain(|&page, _| !region.contains(page));
        self.parties.retain(|&page, _| !region.contains(page));
        self.decided.retain(|&page| !region.contains(page));
    }

    pub(super) fn fingerprint(&self, hasher: &mut impl Hasher) {
        hash_map(&self.found, hasher, |found, mut hasher| found.hash(&mut hasher));
        hash_map(&self.doubts, hasher, |doubt, mut hasher| doubt.hash(&mut hasher));
        hash_map(&self.parties, hasher, |parties, mut hasher| parties.hash(&mut hasher));
        let mut decided: Vec<PageId> = self.decided.iter().copied().collect();
        decided.sort_unstable();
        (self.died, self.awaited, decided, self.first, &self.leavers).hash(hasher);
    }

    /// Whom the home knows to have had a part in a page.
    fn names(&self, page: PageId, entry: &Entry) -> NodeSet {
        let parties = self.parties.get(&page).copied().unwrap_or_default();
        entry.copyset.iter().chain(entry.owner).chain(parties.iter()).collect()
    }

    /// Whether a member that leaves must wait until its own report is complete.
    pub(super) fn puts_leaver_off(&mut self, node: NodeId) -> bool {
        let waits = self.awaited.contains(node);
        if waits && !self.leavers.contains(&node) {
            self.leavers.push(node);
        }
        waits
    }

    /// If a page is not decided: what a member that leaves has reported of it is so no longer.
    pub(super) fn forgets_sharer(&mut self, page: PageId, node: NodeId) -> bool {
        let undecided = !self.decided.contains(&page);
        if let Some(found) = self.found.get_mut(&page).filter(|_| undecided) {
            found.copyset.remove(node);
        }
        undecided
    }
}

impl Directory {
    /// Ends all transactions. What was known to be granted stays known until the page is decided, and what a
    /// write-back in the queue has brought is as good as ever.
    pub(in crate::coherence) fn begin_round<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        (members, died): (NodeSet, NodeSet),
        first: u64,
    ) {
        // A round that begins in another one finds what that one knew of the pages that it has not decided.
        let before = self.rebuild.take().unwrap_or_default();
        let first = if ctx.planted.has(Plant::VersionsStartAgain) { 0 } else { first };
        let (doubts, parties) = (before.doubts, before.parties);
        let mut rebuild = Rebuild { doubts, parties, died: before.died, ..Rebuild::default() };
        (rebuild.awaited, rebuild.first) = (members, Txn(first));
        self.first = rebuild.first;
        died.iter().for_each(|node| rebuild.died.insert(node));
        if self.is_blind {
            self.doubted = died.iter().next().or(self.doubted);
        }
        for page in sorted_keys(&self.busy) {
            let Some(Busy { open, queue, .. }) = self.busy.remove(&page) else { continue };
            let entry = self.table.entry(page);
            take_in(ctx, page, entry, &queue);
            let Some(open) = open else { continue };
            let parties = rebuild.parties.entry(page).or_default();
            let installs = open.installs.iter().map(|&(node, _)| node);
            for node in
                [Some(open.requester), open.forwarded, open.copy].into_iter().flatten().chain(installs)
            {
                parties.insert(node);
            }
            if open.access == Access::Write && !open.unanswered && entry.stored < open.txn {
                let doubt = Doubt { node: open.requester, txn: open.txn, is_lost: false };
                rebuild.doubts.insert(page, doubt);
                (entry.version, entry.owner) = (open.before, open.forwarded);
                take_in(ctx, page, entry, &queue);
            } else if open.copy.is_some() {
                entry.owner = open.copy;
            }
        }
        if std::mem::take(&mut self.sources) > 0 {
            for page in self.table.pages() {
                if let Some(source) = self.table.entry(page).source.take() {
                    rebuild.parties.entry(page).or_default().insert(source);
                }
            }
        }
        for doubt in rebuild.doubts.values_mut() {
            doubt.is_lost |= died.contains(doubt.node);
        }
        self.leaving.clear();
        self.rebuild = Some(rebuild);
    }

    /// Takes a part of a member's report. Rights count only from members that the entry names, and versions only up to
    /// what was granted: no member speaks for what it cannot have. (A home that is run on knows neither.) Returns how
    /// many claims were refused.
    pub(in crate::coherence) fn hear(
        &mut self,
        me: NodeId,
        from: NodeId,
        pages: impl Iterator<Item = PageId>,
        (state, version): (Held, Version),
    ) -> u64 {
        let mut refused = 0;
        for page in pages {
            let known = self.is_blind || self.table.peek(page).is_some();
            let Some(rebuild) = self.rebuild.as_mut().filter(|_| known) else { continue };
            let entry = self.table.entry(page);
            let granted =
                rebuild.doubts.get(&page).map_or(entry.version, |doubt| doubt.txn.max(entry.version));
            if rebuild.decided.contains(&page) {
                continue;
            }
            let is_named = rebuild.names(page, entry).contains(from);
            if !self.is_blind && (version > granted || (state != Held::Bytes && !is_named)) {
                refused += 1;
                continue;
            }
            if from == me {
                // The home's memory and its own cache's are one.
                entry.stored = entry.stored.max(version);
            }
            rebuild.found.entry(page).or_default().add(from, state, version);
        }
        refused
    }

    /// A member has reported all, or has left. What was granted to it, and not acknowledged, it has or will never
    /// have. Runs what waited for this report. True if it was the last one.
    pub(in crate::coherence) fn report_completed<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        from: NodeId,
    ) -> bool {
        let Some(Rebuild { found, doubts, awaited, leavers, .. }) = &mut self.rebuild else { return false };
        awaited.remove(from);
        let has_left = leavers.contains(&from);
        leavers.retain(|&leaver| leaver != from);
        let all_reported = awaited.is_empty();
        let table = &mut self.table;
        doubts.retain(|&page, doubt| {
            let is_settled = doubt.node == from && !doubt.is_lost;
            if is_settled && found.get(&page).is_some_and(|found| found.top >= doubt.txn) {
                let entry = table.entry(page);
                (entry.version, entry.owner) = (doubt.txn, Some(from));
            }
            !is_settled
        });
        if all_reported {
            for page in self.table.pages() {
                self.decide(ctx, page);
            }
            self.rebuild = None;
            self.is_blind = false;
        }
        if has_left {
            self.on_leave(ctx, from);
        }
        for page in sorted_keys(&self.busy) {
            self.drain(ctx, page);
        }
        all_reported
    }

    /// Whether a page can be served already: decides it if the reports that matter have come.
    pub(super) fn is_decided<M: Memory>(&mut self, ctx: &mut Context<'_, M>, page: PageId) -> bool {
        let Some(rebuild) = &self.rebuild else { return true };
        let entry = self.table.entry(page);
        let forgets = ctx.planted.has(Plant::HomeForgetsPartiesOfTheLastTransaction);
        let named: NodeSet = if forgets {
            entry.copyset.iter().chain(entry.owner).collect()
        } else {
            rebuild.names(page, entry)
        };
        let waits = named.iter().chain([ctx.me]).any(|node| rebuild.awaited.contains(node))
            || (self.is_blind && !ctx.planted.has(Plant::HeirOpensPageByPage));
        if waits && !rebuild.decided.contains(&page) && !ctx.planted.has(Plant::HomeOpensBeforeAllReported) {
            return false;
        }
        self.decide(ctx, page);
        true
    }

    /// The highest version of a page is the page.
    fn decide<M: Memory>(&mut self, ctx: &mut Context<'_, M>, page: PageId) {
        let Some(rebuild) = self.rebuild.as_mut().filter(|rebuild| !rebuild.decided.contains(&page)) else {
            return;
        };
        rebuild.decided.insert(page);
        rebuild.parties.remove(&page);
        let doubt = rebuild.doubts.remove(&page);
        let Found { owner, copyset, top, source } = rebuild.found.remove(&page).unwrap_or_default();
        let entry = self.table.entry(page);
        let has_copies = owner.is_some() || !copyset.is_empty();
        if let Some(dead) = self.doubted.filter(|_| self.is_blind && !has_copies) {
            (entry.txn, entry.lost) = (rebuild.first, Some(dead));
            ctx.counters.pages_lost += 1;
            return;
        }
        if *entry == Entry::default() && source.is_none() {
            return;
        }
        let top = top.max(entry.stored);
        let doubt = doubt.filter(|doubt| doubt.txn > top);
        let holder = doubt.map(|doubt| doubt.node).or(entry.owner);
        let lacks = entry.version > top || doubt.is_some();
        (entry.txn, entry.owner, entry.copyset, entry.source) = (rebuild.first, None, copyset, None);
        if let Some((owner, version)) = owner {
            ctx.counters.violations += u64::from(version < top || !copyset.is_empty());
            (entry.owner, entry.version, entry.copyset) = (Some(owner), version, NodeSet::EMPTY);
        } else if lacks && entry.lost.is_none() {
            // Its last bytes went with a member: never older ones instead.
            let died = rebuild.died;
            entry.lost = holder.filter(|&node| died.contains(node)).or_else(|| died.iter().next());
            ctx.counters.pages_lost += 1;
        } else if !lacks {
            entry.version = top;
            entry.source = source.filter(|_| entry.stored < top);
            self.sources += usize::from(entry.source.is_some());
        }
    }

    /// Whether the page's bytes must be fetched before anything of the queue runs: asks for them once.
    pub(super) fn lacks_bytes<M: Memory>(&mut self, ctx: &mut Context<'_, M>, page: PageId) -> bool {
        let &mut Entry { source, version, .. } = self.table.entry(page);
        let busy = self.busy.get_mut(&page).filter(|busy| !busy.queue.is_empty());
        let (Some(source), Some(busy)) = (source, busy) else { return false };
        if !std::mem::replace(&mut busy.is_fetching, true) {
            ctx.send(source, ToNode::Fetch { page, version });
        }
        true
    }

    pub(super) fn on_copy<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        from: NodeId,
        page: PageId,
        (version, body): (Version, Body),
        bytes: &[u8],
    ) {
        let entry = self.table.entry(page);
        if entry.source != Some(from) || entry.version != version {
            ctx.counters.stale_messages += 1;
            return;
        }
        (entry.stored, entry.source) = (version, None);
        self.sources -= 1;
        store(ctx, page, version, (body == Body::Page).then_some(bytes));
        if let Some(busy) = self.busy.get_mut(&page) {
            busy.is_fetching = false;
        }
        self.drain(ctx, page);
    }

    /// After a round: the node that has the page's bytes, if they are not here.
    pub(in crate::coherence) fn source(&self, page: PageId) -> Option<NodeId> {
        self.table.peek(page)?.source
    }
}

/// Stores what a queued write-back has brought of the page's version. Equal versions are equal bytes.
fn take_in<M: Memory>(ctx: &mut Context<'_, M>, page: PageId, entry: &mut Entry, queue: &[Queued]) {
    for queued in queue {
        if let Queued::WriteBack { version, bytes, .. } = queued
            && *version == entry.version
            && entry.stored < *version
        {
            entry.stored = *version;
            store(ctx, page, *version, bytes.as_ref().map(PageBuf::as_slice));
        }
    }
}
