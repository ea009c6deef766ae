//! The home's side: for each page its owner or its copyset, one transaction at a time, and a queue.
//!
//! A transaction starts when the home is idle and ends when the requester has said INSTALLED and,
//! after a forwarded read, the owner's bytes have come home. Reads overlap: while the open transaction
//! is a read and the home's bytes are current, further reads start beside it. No request is refused.
//! When a member dies, all transactions end, and the directory is made anew of what the others report.

mod rebuild;

use std::hash::{Hash, Hasher};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::Context;
use super::copyset::NodeSet;
use super::fingerprint::hash_map;
use super::message::{Answer, Body, Req, ToHome, ToNode, Txn, Version};
use super::placement::RegionInfo;
use super::plant::Plant;
use super::table::PageTable;
use crate::config::coherence::WANTED_GRANTS;
use crate::page::{Access, Contents, EXTENT_PAGES, Memory, NodeId, PageBuf, PageId};
use rebuild::Rebuild;

/// What the home knows of a page at rest.
#[derive(Clone, Default, PartialEq, Hash)]
struct Entry {
    /// Set implies an empty copyset.
    owner: Option<NodeId>,
    /// Everybody who may have a readable copy: a superset, copies are dropped silently.
    copyset: NodeSet,
    version: Version,
    txn: Txn,
    /// Version of the bytes in this node's memory, as far as they came as the home's. Its own cache may have
    /// written newer ones there.
    stored: Version,
    /// After a round, while `stored` is older than `version` and nobody owns the page: who has its bytes.
    source: Option<NodeId>,
    /// The dead node that had the page's last bytes.
    lost: Option<NodeId>,
    /// So many grants are to be acknowledged at once: somebody has waited for one that was not.
    wanted: u8,
    /// Newest request number of each node that ever asked.
    last: SmallVec<[(NodeId, Req); 1]>,
}

/// A page with an open transaction or a queue.
#[derive(Clone, Default, Hash)]
struct Busy {
    open: Option<Open>,
    queue: SmallVec<[Queued; 2]>,
    /// The page's source was asked for its bytes.
    is_fetching: bool,
}

#[derive(Clone, Hash)]
struct Open {
    access: Access,
    requester: NodeId,
    req: Req,
    have: Option<Version>,
    txn: Txn,
    /// The page's version when the transaction began.
    before: Version,
    /// Sharers whose INV_ACK is due.
    acks: NodeSet,
    /// Whether the answer to a write request still waits for `acks`.
    unanswered: bool,
    /// Owner whose DATA_HOME is due.
    copy: Option<NodeId>,
    /// Owner that was told to answer.
    forwarded: Option<NodeId>,
    /// Nodes whose INSTALLED is due.
    installs: SmallVec<[(NodeId, Txn); 2]>,
    /// When INSTALLED comes by itself.
    answer: Answer,
    /// The nodes have been asked for their INSTALLED.
    hurried: bool,
    /// INV_ACKs seen; only a planted fault looks at it.
    ack_count: usize,
}

#[derive(Clone, Hash)]
enum Queued {
    Get { from: NodeId, req: Req, access: Access, have: Option<Version> },
    WriteBack { from: NodeId, version: Version, bytes: Option<PageBuf> },
    Drop { from: NodeId, version: Version },
    Leave { from: NodeId },
}

/// The home's side of the protocol.
#[derive(Clone)]
pub(super) struct Directory {
    table: PageTable<Entry>,
    busy: FxHashMap<PageId, Busy>,
    /// Leaving nodes, with the number of pages whose transaction must end first.
    leaving: FxHashMap<NodeId, usize>,
    /// From the beginning of a round until all have reported.
    rebuild: Option<Rebuild>,
    /// Pages that have a source.
    sources: usize,
    /// This node is run on, and not all have reported: it does not know what it was home of.
    is_blind: bool,
    /// A node that may have taken the last bytes of any page along of which this node, while it was blind, heard of no
    /// mapped copy.
    doubted: Option<NodeId>,
    /// Transactions of the present round are above this.
    first: Txn,
}

impl Directory {
    pub(super) fn new() -> Self {
        Directory {
            table: PageTable::new(),
            busy: FxHashMap::default(),
            leaving: FxHashMap::default(),
            rebuild: None,
            sources: 0,
            is_blind: false,
            doubted: None,
            first: Txn(0),
        }
    }

    /// The directory of a home whose own has ended with its process.
    pub(super) fn of_heir(doubted: Option<NodeId>) -> Self {
        Directory { is_blind: true, doubted, ..Directory::new() }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.busy.is_empty() && self.rebuild.is_none()
    }

    pub(super) fn entry(&self, page: PageId) -> Option<(Option<NodeId>, NodeSet, Version)> {
        self.table.peek(page).map(|entry| (entry.owner, entry.copyset, entry.version))
    }

    /// Whether an owner was told to send the page to a requester.
    pub(super) fn awaits_bytes(&self, page: PageId, owner: NodeId) -> bool {
        let open = self.busy.get(&page).and_then(|busy| busy.open.as_ref());
        open.is_some_and(|open| open.forwarded == Some(owner))
    }

    /// The most requests that wait for one page.
    pub(super) fn longest_queue(&self) -> usize {
        self.busy.values().map(|busy| busy.queue.len()).max().unwrap_or(0)
    }

    pub(super) fn lost_pages(&self) -> Vec<(PageId, NodeId)> {
        let lost = |page| Some((page, self.table.peek(page)?.lost?));
        self.table.pages().into_iter().filter_map(lost).collect()
    }

    pub(super) fn on_message<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        from: NodeId,
        message: ToHome,
        bytes: &[u8],
    ) {
        match message {
            ToHome::GetS { page, req } => {
                self.on_get(ctx, page, Queued::Get { from, req, access: Access::Read, have: None });
            }
            ToHome::GetM { page, req, have } => {
                self.on_get(ctx, page, Queued::Get { from, req, access: Access::Write, have });
            }
            ToHome::WriteBack { page, version, body } => {
                let bytes = (body == Body::Page).then(|| PageBuf::copy_of(bytes));
                let queued = Queued::WriteBack { from, version, bytes };
                if ctx.planted.has(Plant::HomeAcksWriteBackBeforeItsTurn) {
                    ctx.send(from, ToNode::WriteBackAck { page, version });
                }
                if ctx.planted.has(Plant::HomeTakesWriteBackWhileBusy) {
                    self.run(ctx, page, queued);
                } else {
                    self.enqueue(ctx, page, queued);
                }
            }
            ToHome::Drop { page, version } => {
                let queued = Queued::Drop { from, version };
                if ctx.planted.has(Plant::HomeAcksDropWhileBusy) && self.rebuild.is_none() {
                    self.run(ctx, page, queued);
                } else {
                    self.enqueue(ctx, page, queued);
                }
            }
            ToHome::DataHome { page, txn, body } => self.on_data_home(ctx, from, page, txn, body, bytes),
            ToHome::InvAck { page, txn } => self.on_inv_ack(ctx, from, page, txn),
            ToHome::Installed { page, txn } => self.on_installed(ctx, from, page, txn),
            ToHome::Copy { page, version, body } => self.on_copy(ctx, from, page, (version, body), bytes),
            ToHome::Leave => self.on_leave(ctx, from),
            ToHome::Locate { .. } => unreachable!("the manager's side answers it"),
        }
    }

    fn on_get<M: Memory>(&mut self, ctx: &mut Context<'_, M>, page: PageId, queued: Queued) {
        let Queued::Get { from, req, .. } = queued else { unreachable!("only requests come here") };
        if self.table.peek(page).is_none() && !ctx.planted.has(Plant::HomesAreNotRecorded) {
            // Where the first touch decides, this node may not have heard that it is the home.
            ctx.memory.note_home(page.extent(), ctx.me);
        }
        let last = &mut self.table.entry(page).last;
        match last.iter_mut().find(|slot| slot.0 == from) {
            Some(slot) if slot.1 >= req && !ctx.planted.has(Plant::HomeForgetsRequestNumbers) => {
                ctx.counters.stale_messages += 1;
                return;
            }
            Some(slot) => slot.1 = slot.1.max(req),
            None => last.push((from, req)),
        }
        let busy = self.busy.get(&page).is_some_and(|busy| busy.open.is_some());
        if busy && ctx.planted.has(Plant::HomeDropsQueuedRequest) {
            return;
        }
        self.enqueue(ctx, page, queued);
    }

    fn enqueue<M: Memory>(&mut self, ctx: &mut Context<'_, M>, page: PageId, queued: Queued) {
        let queue = &mut self.busy.entry(page).or_default().queue;
        // A node asks for one thing at a time; only a late duplicate, or a peer that breaks the protocol, is found here.
        let known = queue.iter().position(|other| other.is_like(&queued));
        match known.filter(|_| !ctx.planted.has(Plant::HomeQueuesWithoutBound)) {
            Some(at) if queue[at].precedes(&queued) => queue[at] = queued,
            Some(_) => ctx.counters.stale_messages += 1,
            None => queue.push(queued),
        }
        self.drain(ctx, page);
    }

    /// Ends the open transaction if nothing is due, then runs what may run from the queue's head.
    fn drain<M: Memory>(&mut self, ctx: &mut Context<'_, M>, page: PageId) {
        if (self.rebuild.is_some() && !self.is_decided(ctx, page))
            || (self.sources > 0 && self.lacks_bytes(ctx, page))
        {
            return;
        }
        while let Some(busy) = self.busy.get_mut(&page) {
            if busy.open.as_ref().is_some_and(Open::has_ended) {
                busy.open = None;
            }
            let runs = match (&busy.open, busy.queue.first()) {
                (_, None) => false,
                (None, Some(_)) => true,
                (Some(open), Some(Queued::Get { from, access: Access::Read, .. })) => {
                    let has_bytes = open.copy.is_none() || ctx.planted.has(Plant::HomeReadsBeforeDataHome);
                    open.access == Access::Read && has_bytes && !open.awaits_install(*from)
                }
                (Some(_), Some(_)) => false,
            };
            if runs {
                let head = busy.queue.remove(0);
                self.run(ctx, page, head);
            } else {
                if busy.open.is_none() && busy.queue.is_empty() {
                    self.busy.remove(&page);
                } else if !busy.queue.is_empty() && busy.hurry(ctx, page) == Some(Access::Write) {
                    self.table.entry(page).wanted = WANTED_GRANTS;
                }
                return;
            }
        }
    }

    fn run<M: Memory>(&mut self, ctx: &mut Context<'_, M>, page: PageId, queued: Queued) {
        match queued {
            Queued::Get { from, req, access, have } => {
                let entry = self.table.entry(page);
                // Of a page that nobody has named, nothing is known.
                let unnamed = self.doubted.filter(|_| *entry == Entry::default());
                if let Some(dead) = entry.lost.or(unnamed) {
                    ctx.send(from, ToNode::Lost { page, req, dead });
                } else if entry.owner == Some(from) {
                    ctx.counters.violations += 1;
                } else {
                    ctx.counters.transactions += 1;
                    entry.txn.0 = entry.txn.0.max(self.first.0) + 1;
                    match access {
                        Access::None | Access::Read => self.read(ctx, page, from, req),
                        Access::Write => self.write(ctx, page, from, req, have),
                    }
                }
            }
            Queued::WriteBack { from, version, bytes } => {
                let entry = self.table.entry(page);
                let current = entry.version == version || ctx.planted.has(Plant::HomeIgnoresWriteBackVersion);
                if entry.owner == Some(from) && current {
                    (entry.owner, entry.stored) = (None, entry.version);
                    store(ctx, page, entry.version, bytes.as_ref().map(PageBuf::as_slice));
                }
                // Otherwise a forward was answered from the bytes: they are older than the owner's.
                ctx.send(from, ToNode::WriteBackAck { page, version });
            }
            Queued::Drop { from, version } => {
                // No transaction is open: whoever took these bytes has them, or they are here. The sender stays
                // in the copyset: a late duplicate would take out a newer copy.
                if self.table.entry(page).version < version && !ctx.planted.has(Plant::HomeAcksDropWhileBusy)
                {
                    ctx.counters.violations += 1;
                    return;
                }
                if ctx.planted.has(Plant::HomeDropEndsSharing) {
                    self.table.entry(page).copyset.remove(from);
                }
                ctx.send(from, ToNode::WriteBackAck { page, version });
            }
            Queued::Leave { from } => {
                self.table.entry(page).copyset.remove(from);
                self.left_one(ctx, from);
            }
        }
    }

    fn read<M: Memory>(&mut self, ctx: &mut Context<'_, M>, page: PageId, from: NodeId, req: Req) {
        let entry = self.table.entry(page);
        let (txn, version) = (entry.txn, entry.version);
        let owner = entry.owner.take();
        entry.copyset.insert(from);
        let open = self.busy.entry(page).or_default().open.get_or_insert_with(|| Open::read(from, req, txn));
        if !ctx.planted.has(Plant::HomeDoesNotAwaitInstalled) {
            open.installs.push((from, txn));
        }
        match owner {
            Some(owner) => {
                entry.copyset.insert(owner);
                (open.copy, open.forwarded) = (Some(owner), Some(owner));
                if ctx.planted.has(Plant::HomeDoesNotAwaitDataHome) {
                    open.copy = None;
                }
                let access = Access::Read;
                ctx.send(owner, ToNode::Forward { page, txn, version, requester: from, req, access });
            }
            None => answer(ctx, page, (from, req), (txn, version), Access::Read, version),
        }
    }

    fn write<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        page: PageId,
        from: NodeId,
        req: Req,
        have: Option<Version>,
    ) {
        let entry = self.table.entry(page);
        let (txn, version) = (entry.txn, entry.version);
        let answer = Answer::AtOnce;
        let before = version;
        let mut open = Open { access: Access::Write, have, answer, before, ..Open::read(from, req, txn) };
        if let Some(owner) = entry.owner {
            (entry.owner, entry.version) = (Some(from), txn);
            open.forwarded = Some(owner);
            if !ctx.planted.has(Plant::HomeDoesNotAwaitInstalled) {
                open.installs.push((from, txn));
            }
            self.busy.entry(page).or_default().open = Some(open);
            let access = Access::Write;
            ctx.send(owner, ToNode::Forward { page, txn, version, requester: from, req, access });
            return;
        }
        open.acks = entry.copyset.without(from);
        open.unanswered = true;
        for sharer in open.acks.iter() {
            ctx.send(sharer, ToNode::Inv { page, txn });
        }
        let at_once = open.acks.is_empty() || ctx.planted.has(Plant::HomeGrantsBeforeAcks);
        self.busy.entry(page).or_default().open = Some(open);
        if at_once {
            self.answer_write(ctx, page);
        }
    }

    /// All sharers are gone: hand the page over.
    fn answer_write<M: Memory>(&mut self, ctx: &mut Context<'_, M>, page: PageId) {
        let entry = self.table.entry(page);
        let Some(busy) = self.busy.get_mut(&page) else { return };
        let is_awaited = !busy.queue.is_empty();
        let Some(open) = busy.open.as_mut() else { return };
        let (from, req, txn) = (open.requester, open.req, open.txn);
        let listed = entry.copyset.contains(from) || ctx.planted.has(Plant::HomeDecidesDataByRequester);
        let same = open.have == Some(entry.version)
            || (open.have.is_some() && ctx.planted.has(Plant::HomeDecidesDataByRequester))
            || ctx.planted.has(Plant::HomeDecidesDataByCopyset);
        let old = entry.version;
        (entry.owner, entry.version, entry.copyset) = (Some(from), txn, NodeSet::EMPTY);
        open.unanswered = false;
        if !ctx.planted.has(Plant::HomeDoesNotAwaitInstalled) {
            open.installs.push((from, txn));
        }
        if listed && same {
            let is_wanted = entry.wanted > 0 || from == ctx.me || is_awaited;
            open.answer = if is_wanted { Answer::AtOnce } else { Answer::Riding };
            entry.wanted = entry.wanted.saturating_sub(1);
            ctx.send(from, ToNode::Grant { page, req, txn, answer: open.answer });
        } else {
            answer(ctx, page, (from, req), (txn, txn), Access::Write, old);
        }
    }

    fn on_inv_ack<M: Memory>(&mut self, ctx: &mut Context<'_, M>, from: NodeId, page: PageId, txn: Txn) {
        let open = self.busy.get_mut(&page).and_then(|busy| busy.open.as_mut());
        let by_number = ctx.planted.has(Plant::HomeCountsAcksAsNumber);
        let any_txn = ctx.planted.has(Plant::HomeIgnoresInvAckTxn);
        let awaited = |open: &Open| {
            open.unanswered && (by_number || ((open.txn == txn || any_txn) && open.acks.contains(from)))
        };
        let Some(open) = open.filter(|open| awaited(open)) else {
            ctx.counters.stale_messages += 1;
            return;
        };
        open.ack_count += 1;
        if by_number {
            if open.ack_count < open.acks.len() {
                return;
            }
            open.acks = NodeSet::EMPTY;
        }
        open.acks.remove(from);
        self.table.entry(page).copyset.remove(from);
        if open.acks.is_empty() {
            self.answer_write(ctx, page);
            self.drain(ctx, page);
        }
    }

    fn on_data_home<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        from: NodeId,
        page: PageId,
        txn: Txn,
        body: Body,
        bytes: &[u8],
    ) {
        let open = self.busy.get_mut(&page).and_then(|busy| busy.open.as_mut());
        let any_txn = ctx.planted.has(Plant::HomeIgnoresDataHomeTxn);
        let Some(open) = open.filter(|open| open.copy == Some(from) && (open.txn == txn || any_txn)) else {
            ctx.counters.stale_messages += 1;
            return;
        };
        open.copy = None;
        let (requester, req) = (open.requester, open.req);
        let entry = self.table.entry(page);
        entry.stored = entry.version;
        if body != Body::InPlace {
            store(ctx, page, entry.version, (body == Body::Page).then_some(bytes));
        }
        if requester == ctx.me {
            let version = self.table.entry(page).version;
            let body = Body::InPlace;
            ctx.send(requester, ToNode::Data { page, req, txn, version, access: Access::Read, body });
        }
        self.drain(ctx, page);
    }

    fn on_installed<M: Memory>(&mut self, ctx: &mut Context<'_, M>, from: NodeId, page: PageId, txn: Txn) {
        let open = self.busy.get_mut(&page).and_then(|busy| busy.open.as_mut());
        let any_txn = ctx.planted.has(Plant::HomeIgnoresInstalledTxn);
        let due = open.and_then(|open| {
            let at = open.installs.iter().position(|&due| due.0 == from && (due.1 == txn || any_txn))?;
            Some(open.installs.remove(at))
        });
        match due {
            Some(_) => self.drain(ctx, page),
            None => ctx.counters.stale_messages += 1,
        }
    }

    pub(super) fn fingerprint(&self, hasher: &mut impl Hasher) {
        self.table.fingerprint(hasher);
        hash_map(&self.busy, hasher, |busy, mut hasher| busy.hash(&mut hasher));
        hash_map(&self.leaving, hasher, |left, mut hasher| left.hash(&mut hasher));
        if let Some(rebuild) = &self.rebuild {
            rebuild.fingerprint(hasher);
        }
    }

    pub(super) fn forget_region(&mut self, region: &RegionInfo) {
        self.busy.retain(|&page, _| !region.contains(page));
        if let Some(rebuild) = &mut self.rebuild {
            rebuild.forget_region(region);
        }
        if self.sources > 0 {
            let pages = self.table.pages();
            let gone = |&page: &PageId| region.contains(page) && self.source(page).is_some();
            self.sources -= pages.into_iter().filter(gone).count();
        }
        self.table.remove_extents(|extent| region.contains(PageId(extent.0 * EXTENT_PAGES)));
    }
}

/// Nodes that leave.
impl Directory {
    /// A node leaves. No transaction needs a message of it but those of pages that it shares: of what it owned or
    /// wrote last it has asked before whether the bytes may go, and that was answered between two transactions.
    fn on_leave<M: Memory>(&mut self, ctx: &mut Context<'_, M>, from: NodeId) {
        if self.rebuild.as_mut().is_some_and(|rebuild| rebuild.puts_leaver_off(from)) {
            return;
        }
        if self.leaving.contains_key(&from) {
            return;
        }
        // One more than the pages, so that the count cannot end before the loop does.
        self.leaving.insert(from, 1);
        for page in self.table.pages() {
            if self.rebuild.as_mut().is_some_and(|rebuild| rebuild.forgets_sharer(page, from)) {
                continue;
            }
            if !self.table.entry(page).copyset.contains(from) {
                continue;
            }
            match self.busy.get_mut(&page) {
                Some(busy) => {
                    busy.queue.push(Queued::Leave { from });
                    *self.leaving.entry(from).or_default() += 1;
                }
                // Not its request number: a late duplicate must not ask on behalf of a node that left.
                None => {
                    self.table.entry(page).copyset.remove(from);
                }
            }
        }
        self.left_one(ctx, from);
    }

    fn left_one<M: Memory>(&mut self, ctx: &mut Context<'_, M>, from: NodeId) {
        let Some(left) = self.leaving.get_mut(&from) else { return };
        *left -= 1;
        if *left == 0 {
            self.leaving.remove(&from);
            ctx.send(from, ToNode::LeaveAck);
        }
    }

    /// A newcomer's request numbers start again.
    pub(super) fn on_node_joined(&mut self, node: NodeId) {
        for page in self.table.pages() {
            self.table.entry(page).forget(node);
        }
    }
}

impl Queued {
    /// Whether both are requests, or both say the same of a version, of one node.
    fn is_like(&self, other: &Queued) -> bool {
        match (self, other) {
            (Queued::Get { from, .. }, Queued::Get { from: other, .. })
            | (Queued::WriteBack { from, .. }, Queued::WriteBack { from: other, .. })
            | (Queued::Drop { from, .. }, Queued::Drop { from: other, .. }) => from == other,
            (_, _) => false,
        }
    }

    /// Whether another of its like is newer.
    fn precedes(&self, other: &Queued) -> bool {
        match (self, other) {
            (Queued::Get { req, .. }, Queued::Get { req: other, .. }) => req < other,
            (Queued::WriteBack { version, .. }, Queued::WriteBack { version: other, .. })
            | (Queued::Drop { version, .. }, Queued::Drop { version: other, .. }) => version < other,
            (_, _) => false,
        }
    }
}

impl Entry {
    fn forget(&mut self, node: NodeId) {
        self.copyset.remove(node);
        self.last.retain(|slot| slot.0 != node);
    }
}

impl Busy {
    /// Something waits for the open transaction to end: its INSTALLED may be waiting for an occasion. Returns
    /// for which access it was asked for just now.
    fn hurry<M: Memory>(&mut self, ctx: &mut Context<'_, M>, page: PageId) -> Option<Access> {
        let open = self.open.as_mut().filter(|open| open.answer == Answer::Riding && !open.hurried)?;
        open.hurried = true;
        for &(reader, txn) in &open.installs {
            if reader != ctx.me {
                ctx.send(reader, ToNode::Hurry { page, txn });
            }
        }
        Some(open.access)
    }
}

impl Open {
    fn read(requester: NodeId, req: Req, txn: Txn) -> Open {
        Open {
            access: Access::Read,
            requester,
            req,
            have: None,
            txn,
            before: Txn(0),
            acks: NodeSet::EMPTY,
            unanswered: false,
            copy: None,
            forwarded: None,
            installs: SmallVec::new(),
            answer: Answer::Riding,
            hurried: false,
            ack_count: 0,
        }
    }

    fn has_ended(&self) -> bool {
        !self.unanswered && self.copy.is_none() && self.installs.is_empty()
    }

    fn awaits_install(&self, node: NodeId) -> bool {
        self.installs.iter().any(|due| due.0 == node)
    }
}

/// Sends a page from the home's bytes. `old` is the version of those bytes: zero was never written.
fn answer<M: Memory>(
    ctx: &mut Context<'_, M>,
    page: PageId,
    (to, req): (NodeId, Req),
    (txn, version): (Txn, Version),
    access: Access,
    old: Version,
) {
    let body = match old {
        Txn(0) => Body::Zero,
        _ if to == ctx.me => Body::InPlace,
        _ => Body::Page,
    };
    let message = ToNode::Data { page, req, txn, version, access, body };
    if body == Body::Page {
        ctx.counters.pages_sent += 1;
        let bytes = ctx.memory.read(page);
        ctx.outbox.send_page(to, message, bytes);
    } else {
        ctx.send(to, message);
    }
}

/// Writes bytes that came home. Nobody here has the page mapped: its owner was elsewhere.
fn store<M: Memory>(ctx: &mut Context<'_, M>, page: PageId, version: Version, bytes: Option<&[u8]>) {
    let contents = bytes.map_or(Contents::Zero, Contents::Bytes);
    ctx.memory.install(page, contents, Access::None, version);
}
