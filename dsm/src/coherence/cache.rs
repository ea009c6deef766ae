//! The requester's side: what this node has of each page, what it has asked for, and who waits.
//!
//! At most one request of a node is outstanding for one page; everybody else who wants the page waits
//! for it. Invalidations and forwards are served at once in every state; only a hold delays them.
//!
//! What is mapped may be less than what the protocol allows, never more: pages that came ahead of need
//! are mapped at their first touch, many at a time ([`ahead`]). Such a touch is a page fault that needs
//! no message.

mod ahead;
mod eviction;
mod leaving;
mod round;

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::fingerprint::hash_map;
use super::instruction::{ANY_AGE, Age, Instructions};
use super::message::{Answer, Body, Req, ToHome, ToNode, Txn, Version};
use super::placement::{Places, RegionInfo};
use super::plant::{Plant, Planted};
use super::resident::Resident;
use super::stream::{Cause, Streams};
use super::table::PageTable;
use super::{Context, Failure, Fault, NodeSet, OpId};
use crate::config::coherence::INSTALLED_DELAY_MAX;
use crate::page::{Access, Contents, ExtentId, Memory, NodeId, PAGE_SIZE, PageBuf, PageId, Span, Time};

/// What the node has of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
enum State {
    /// Nothing mapped.
    #[default]
    Invalid,
    /// A readable copy.
    Shared,
    /// The only copy, writable.
    Modified,
    /// Unmapped; the bytes stay in place until the home has them.
    WritingBack,
    /// As before, but a forward was answered from the bytes; only the acknowledgement is due.
    GivenAway,
    /// Unmapped; the home was asked whether the bytes may go, and has not answered.
    Dropping,
}

/// Whether an owned page was lowered ahead of a reader.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Lowered {
    No,
    /// And no store has come since.
    Ahead,
    /// A store came before any reader: it is not done again before one has come.
    InVain,
}

#[derive(Clone, PartialEq, Hash)]
struct Entry {
    state: State,
    /// What the application's view allows: at most what the state does.
    mapped: Access,
    /// Whether it has been mapped since it came.
    touched: bool,
    lowered: Lowered,
    /// This node wrote the bytes last, as far as it knows: they stay until the home says that they are elsewhere.
    bound: bool,
    /// Version of the bytes that lie here; zero if there are none, or the page was never written.
    version: Version,
}

impl Default for Entry {
    fn default() -> Self {
        Entry::new(State::Invalid, Version::default())
    }
}

/// The request and the waits of a page; pages at rest have none.
#[derive(Clone, Default, Hash)]
struct Pending {
    request: Option<Request>,
    waiters: SmallVec<[Waiter; 2]>,
}

#[derive(Clone, Copy, Hash)]
struct Request {
    /// `None` while the home is being located.
    req: Option<Req>,
    access: Access,
    /// Somebody waits for the INSTALLED that follows.
    hurried: bool,
    place: Place,
}

/// Where the answer's bytes will be.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    /// The page has its memory, or lies at home.
    There,
    /// The request waits for room.
    Awaited,
    /// Kept free for the page.
    Reserved,
}

/// What a forward asks of the owner.
struct Forward {
    txn: Txn,
    version: Version,
    to: (NodeId, Req),
    access: Access,
}

#[derive(Clone, Copy, Hash)]
struct Waiter {
    op: OpId,
    thread: u64,
    /// Where the thread faulted; another page than it waits for if its instruction needs several.
    faulted: PageId,
    access: Access,
}

#[derive(Clone, Hash)]
struct Leaving {
    op: OpId,
    /// Pages not looked at yet.
    pages: Option<VecDeque<PageId>>,
    /// Homes whose LEAVE_ACK is due; `None` before LEAVE was sent.
    awaited: Option<NodeSet>,
}

/// The requester's side of the protocol.
#[derive(Clone)]
pub(super) struct Cache {
    nearest_home: NodeId,
    table: PageTable<Entry>,
    pending: FxHashMap<PageId, Pending>,
    locating: FxHashMap<ExtentId, SmallVec<[PageId; 4]>>,
    instructions: Instructions,
    streams: Streams,
    /// Invalidations and forwards that a hold delays.
    held_up: Vec<(PageId, NodeId, ToNode)>,
    last_req: Req,
    writing_back: usize,
    pub(super) resident: Resident,
    homes_used: NodeSet,
    leaving: Option<Leaving>,
    /// From the wish to leave on, for ever: no page is asked for, and none is held.
    departs: bool,
    pub(super) planted: Planted,
    /// Unmaps that a planted fault has put off.
    postponed: Vec<PageId>,
}

impl Cache {
    pub(super) fn new(nearest_home: NodeId, first: Req) -> Self {
        Cache {
            nearest_home,
            table: PageTable::new(),
            pending: FxHashMap::default(),
            locating: FxHashMap::default(),
            instructions: Instructions::default(),
            streams: Streams::default(),
            held_up: Vec::new(),
            last_req: first,
            writing_back: 0,
            resident: Resident::new(),
            homes_used: NodeSet::EMPTY,
            leaving: None,
            departs: false,
            planted: Planted::default(),
            postponed: Vec::new(),
        }
    }

    pub(super) fn access(&self, page: PageId) -> Access {
        access_in(&self.table, page)
    }

    /// Whether a thread waits for the page.
    pub(super) fn is_awaited(&self, page: PageId) -> bool {
        self.pending.get(&page).is_some_and(|pending| !pending.waiters.is_empty())
    }

    pub(super) fn mapped(&self, page: PageId) -> Access {
        self.table.peek(page).map_or(Access::None, |entry| entry.mapped)
    }

    /// Lets the application do no more with a page than `access`; complete on return.
    fn lower<M: Memory>(&mut self, memory: &mut M, page: PageId, access: Access) {
        let entry = self.table.entry(page);
        if entry.mapped > access {
            entry.mapped = access;
            memory.protect(page, access);
        }
    }

    /// A page of a node that is run on: nobody has it mapped.
    pub(super) fn take_over(&mut self, page: PageId, version: Version) {
        let takes_rights = self.planted.has(Plant::HeirTakesTheRights);
        let state = if takes_rights { State::Modified } else { State::Invalid };
        *self.table.entry(page) = Entry { bound: true, ..Entry::new(state, version) };
    }

    pub(super) fn copy_version(&self, page: PageId) -> Option<Version> {
        let entry = self.table.peek(page)?;
        matches!(entry.state, State::Shared | State::Modified).then_some(entry.version)
    }

    pub(super) fn may_have_written(&self, page: PageId) -> bool {
        self.table.peek(page).is_some_and(|entry| entry.bound) || self.pending.contains_key(&page)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.held_up.is_empty() && self.writing_back == 0
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// The earliest end of a hold that somebody waits for, or the time to look for room.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let due = self.held_up.iter().map(|&(page, _, _)| self.held_until(page, ANY_AGE));
        // A hold without end ends with an event, not with time.
        due.filter(|&due| due < Time(u64::MAX)).chain(self.resident.poll_timeout()).min()
    }

    /// Carries out what the fault [`Plant::NodeAcksBeforeUnmap`] has put off.
    pub(super) fn settle_postponed<M: Memory>(&mut self, memory: &mut M) {
        for page in std::mem::take(&mut self.postponed) {
            let access = self.access(page);
            self.lower(memory, page, access);
        }
    }

    pub(super) fn fault<M: Memory>(&mut self, ctx: &mut Context<'_, M>, places: &Places, fault: Fault) {
        let Some(region) = places.region(fault.page) else {
            return ctx.outbox.done(fault.op, Err(Failure::NoRegion));
        };
        if self.departs {
            return ctx.outbox.done(fault.op, Err(Failure::Leaving));
        }
        self.instructions.note(&fault, ctx.now);
        if self.access(fault.page) >= fault.access {
            self.touch(ctx, region, &fault);
            ctx.outbox.done(fault.op, Ok(0));
            return self.run_ahead(ctx, (places, region), &fault, Cause::FirstTouch);
        }
        match fault.access {
            Access::Write if self.access(fault.page) == Access::Read => ctx.counters.upgrades += 1,
            Access::Write => ctx.counters.write_faults += 1,
            Access::None | Access::Read => ctx.counters.read_faults += 1,
        }
        let is_asked_for = self.pending.contains_key(&fault.page);
        let cause = if is_asked_for { Cause::FirstTouch } else { Cause::Miss };
        let table = &self.table;
        let (page, access) =
            self.instructions.wanted(&fault, |page, access| access_in(table, page) >= access);
        let waiter = Waiter { op: fault.op, thread: fault.thread, faulted: fault.page, access };
        self.pending.entry(page).or_default().waiters.push(waiter);
        self.advance(ctx, places, page);
        // After the request that somebody waits for, so that this one travels first.
        self.run_ahead(ctx, (places, region), &fault, cause);
    }

    /// A thread goes on after a fault; only if the page is still there will its instruction run.
    pub(super) fn resumed(&mut self, now: Time, thread: u64, page: PageId, access: Access) {
        if self.access(page) >= access && !self.planted.has(Plant::NodeDoesNotHold) {
            self.instructions.resumed(thread, page, now);
        }
    }

    pub(super) fn on_message<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        places: &Places,
        from: NodeId,
        message: ToNode,
        bytes: &[u8],
    ) {
        match message {
            ToNode::Data { page, req, txn, version, access, body } => {
                let contents = match body {
                    Body::Zero => Contents::Zero,
                    Body::InPlace => Contents::InPlace,
                    Body::Page => Contents::Bytes(bytes),
                };
                self.on_data(ctx, places, page, (req, txn, version), access, contents);
            }
            ToNode::Grant { page, req, txn, answer } => {
                self.on_grant(ctx, places, page, (req, txn, answer));
            }
            ToNode::Inv { page, txn } => self.on_inv(ctx, from, page, txn),
            ToNode::Forward { page, txn, version, requester, req, access } => {
                let to = (requester, req);
                self.on_forward(ctx, from, page, Forward { txn, version, to, access });
            }
            ToNode::WriteBackAck { page, version } => self.on_write_back_ack(ctx, places, page, version),
            ToNode::Lost { page, req, dead } => self.on_lost(ctx, page, req, dead),
            ToNode::Fetch { page, version } => self.on_fetch(ctx, from, page, version),
            ToNode::Located { extent, .. } => {
                for page in self.locating.remove(&extent).unwrap_or_default() {
                    if let Some(request) = self.pending.get(&page).and_then(|pending| pending.request) {
                        self.request(ctx, places, page, request.access);
                    }
                }
            }
            ToNode::Hurry { page, .. } => {
                ctx.outbox.send_lazy(from);
                // It may have overtaken the page itself, which can come from farther away.
                let request = self.pending.get_mut(&page).and_then(|pending| pending.request.as_mut());
                if let Some(request) = request {
                    request.hurried = true;
                }
            }
            ToNode::LeaveAck => {
                if let Some(awaited) = self.leaving.as_mut().and_then(|leaving| leaving.awaited.as_mut()) {
                    awaited.remove(from);
                }
            }
        }
    }

    /// Asks for what the page's waiters want, if nothing is outstanding that they must wait for.
    fn advance<M: Memory>(&mut self, ctx: &mut Context<'_, M>, places: &Places, page: PageId) {
        let Some(pending) = self.pending.get(&page) else { return };
        let state = self.table.peek(page).map_or(State::Invalid, |entry| entry.state);
        if pending.request.is_some_and(|request| request.place == Place::Awaited) {
            return self.let_go_while_waiting(ctx, page);
        }
        let busy = pending.request.is_some() && !ctx.planted.has(Plant::NodeSendsSecondRequest);
        let given_back = state.awaits_ack() && !ctx.planted.has(Plant::NodeRequestsBeforeWriteBackAck);
        if busy || given_back {
            return;
        }
        match pending.waiters.iter().map(|waiter| waiter.access).max() {
            Some(access) => self.request(ctx, places, page, access),
            None if pending.request.is_none() => {
                self.pending.remove(&page);
            }
            None => {}
        }
    }

    fn request<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        places: &Places,
        page: PageId,
        access: Access,
    ) {
        if let Some(dead) = places.orphaned_by(page) {
            return self.fail(ctx, page, Failure::NodeDied(dead));
        }
        let pending = self.pending.entry(page).or_default();
        let Some(home) = places.home(page) else {
            pending.request = Some(Request { req: None, access, hurried: false, place: Place::There });
            let extent = page.extent();
            let waiting = self.locating.entry(extent).or_default();
            waiting.push(page);
            if waiting.len() == 1 {
                let manager = places.manager(page).expect("faults outside regions were refused");
                let nearest = places.nearest(page, self.nearest_home);
                ctx.send(manager, ToHome::Locate { extent, nearest });
            }
            return;
        };
        let place = if home == ctx.me || self.resident.has(page) { Place::There } else { Place::Reserved };
        if place == Place::Reserved && self.must_wait(ctx) {
            return self.wait_for_room(ctx, page, access);
        }
        self.ask(ctx, home, page, (access, place));
    }

    fn ask<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        home: NodeId,
        page: PageId,
        (access, place): (Access, Place),
    ) {
        if place == Place::Reserved {
            self.resident.reserve();
        }
        self.send_request(ctx, home, page, (access, place));
    }

    fn send_request<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        home: NodeId,
        page: PageId,
        (access, place): (Access, Place),
    ) {
        self.last_req.0 += 1;
        let req = self.last_req;
        self.pending.entry(page).or_default().request =
            Some(Request { req: Some(req), access, hurried: false, place });
        self.homes_used.insert(home);
        let entry = self.table.entry(page);
        let have = (entry.state == State::Shared).then_some(entry.version);
        match access {
            Access::None | Access::Read => ctx.send(home, ToHome::GetS { page, req }),
            Access::Write => ctx.send(home, ToHome::GetM { page, req, have }),
        }
    }

    fn on_data<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        places: &Places,
        page: PageId,
        (req, txn, version): (Req, Txn, Version),
        access: Access,
        contents: Contents<'_>,
    ) {
        let expected = self.pending.get(&page).and_then(|pending| pending.request);
        let ours = expected.is_some_and(|request| request.req == Some(req) && request.access == access)
            || ctx.planted.has(Plant::NodeIgnoresRequestNumber);
        if !ours {
            ctx.counters.stale_messages += 1;
            return;
        }
        let entry = self.table.entry(page);
        if entry.state != State::Invalid && !ctx.planted.has(Plant::NodeIgnoresRequestNumber) {
            ctx.counters.violations += 1;
            return;
        }
        match contents {
            Contents::Zero => ctx.counters.zero_pages_received += 1,
            Contents::Bytes(_) => ctx.counters.pages_received += 1,
            Contents::InPlace => {}
        }
        match expected.map(|request| request.place) {
            Some(Place::Reserved) => self.resident.fill(page),
            Some(Place::There | Place::Awaited) | None => self.resident.touch(page),
        }
        let (state, version) = match access {
            Access::None | Access::Read => (State::Shared, version),
            Access::Write => (State::Modified, txn),
        };
        // A reader's copy is not bound: its giver or the home has the bytes.
        *entry = Entry { bound: state == State::Modified, ..Entry::new(state, version) };
        ctx.memory.install(page, contents, Access::None, version);
        // Other reads run beside it, and a writer asks for it.
        let answer = if state == State::Shared { Answer::Riding } else { Answer::AtOnce };
        self.on_installed(ctx, places, page, txn, answer);
    }

    fn on_grant<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        places: &Places,
        page: PageId,
        (req, txn, answer): (Req, Txn, Answer),
    ) {
        let expected = self.pending.get(&page).and_then(|pending| pending.request);
        if !expected.is_some_and(|request| request.req == Some(req) && request.access == Access::Write) {
            ctx.counters.stale_messages += 1;
            return;
        }
        let entry = self.table.entry(page);
        if entry.state != State::Shared
            && !ctx.planted.has(Plant::NodeDoesNotPinUpgrade)
            && !ctx.planted.has(Plant::HomeDecidesDataByCopyset)
            && !ctx.planted.has(Plant::HomeDecidesDataByRequester)
        {
            ctx.counters.violations += 1;
            return;
        }
        (entry.state, entry.version, entry.bound) = (State::Modified, txn, true);
        let maps_first = ctx.planted.has(Plant::NodeMapsBeforeItRecords);
        if !maps_first {
            ctx.memory.set_version(page, txn);
        }
        self.resident.touch(page);
        self.on_installed(ctx, places, page, txn, answer);
        if maps_first {
            ctx.memory.set_version(page, txn);
        }
    }

    /// The page is here: map it if somebody waits for it, tell the home, and everybody who can go on.
    fn on_installed<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        places: &Places,
        page: PageId,
        txn: Txn,
        answer: Answer,
    ) {
        if self.is_awaited(page) {
            let region = places.region(page).expect("messages about other pages were refused");
            self.map_run(ctx, region, page);
        }
        let home = places.home(page).expect("the request went there");
        let access = self.access(page);
        let installed = ToHome::Installed { page, txn };
        let request = self.pending.get(&page).and_then(|pending| pending.request);
        let hurried = request.is_some_and(|request| request.hurried);
        if answer == Answer::Riding && !hurried {
            // It need not cost a datagram.
            ctx.outbox.send_later(ctx.me, home, installed, ctx.now + INSTALLED_DELAY_MAX);
        } else {
            ctx.send(home, installed);
        }
        if let Some(pending) = self.pending.get_mut(&page) {
            pending.request = None;
            pending.waiters.retain(|waiter| {
                let satisfied = waiter.access <= access;
                if satisfied {
                    ctx.outbox.done(waiter.op, Ok(0));
                    self.instructions.arrived(waiter.thread, |hold| hold_until(ctx, hold));
                }
                !satisfied
            });
        }
        self.advance(ctx, places, page);
    }

    fn on_inv<M: Memory>(&mut self, ctx: &mut Context<'_, M>, home: NodeId, page: PageId, txn: Txn) {
        let entry = self.table.entry(page);
        let (state, version) = (entry.state, entry.version);
        let old = version < txn || ctx.planted.has(Plant::NodeIgnoresInvVersion);
        match state {
            State::Shared if old => {
                let message = ToNode::Inv { page, txn };
                let defers = ctx.planted.has(Plant::NodeDefersInvWhileWaiting)
                    && self.pending.get(&page).is_some_and(|pending| pending.request.is_some());
                if self.hold_up(ctx, page, home, message) || defers {
                    return;
                }
                if ctx.planted.has(Plant::NodeAcksBeforeUnmap) {
                    self.postponed.push(page);
                } else {
                    // Unmap before acknowledging: the ack lets a writer start.
                    self.lower(ctx.memory, page, Access::None);
                }
                let entry = self.table.entry(page);
                // The home invalidates only what it has the bytes of.
                (entry.state, entry.bound) = (State::Invalid, false);
                ctx.counters.invalidations += 1;
                self.note_waste(ctx, page);
            }
            State::Modified if old && ctx.planted.has(Plant::NodeIgnoresInvVersion) => {
                self.lower(ctx.memory, page, Access::None);
                self.table.entry(page).state = State::Invalid;
            }
            State::Modified => {
                ctx.counters.stale_messages += 1;
                return;
            }
            State::Shared | State::Invalid | State::WritingBack | State::GivenAway | State::Dropping => {}
        }
        // Also without a copy: the home's copyset is a superset, and it counts on every answer.
        ctx.send(home, ToHome::InvAck { page, txn });
    }

    fn on_forward<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        home: NodeId,
        page: PageId,
        forward: Forward,
    ) {
        let Forward { txn, version, to: (requester, req), access } = forward;
        let write = access == Access::Write;
        let entry = self.table.entry(page);
        let (state, held_version) = (entry.state, entry.version);
        let has_bytes = matches!(state, State::Modified | State::WritingBack);
        let same = held_version == version || ctx.planted.has(Plant::NodeIgnoresForwardVersion);
        if !has_bytes || !same {
            ctx.counters.stale_messages += 1;
            return;
        }
        let message = ToNode::Forward { page, txn, version, requester, req, access };
        if state == State::Modified && self.hold_up(ctx, page, home, message) {
            return;
        }
        let bytes = if state == State::Modified {
            self.note_waste(ctx, page);
            self.lower_and_read(ctx, page, home, requester, write)
        } else {
            Some(ctx.memory.read(page))
        };
        self.table.entry(page).state = match (state, write) {
            (State::Modified, false) => State::Shared,
            (State::Modified, true) => State::Invalid,
            (_, _) => State::GivenAway,
        };
        self.table.entry(page).lowered = Lowered::No;
        if write && ctx.planted.has(Plant::OwnerClearsWhatItGives) {
            ctx.memory.set_version(page, Version::default());
        }
        if !write && !ctx.planted.has(Plant::OwnerSendsNoDataHome) {
            match &bytes {
                Some(bytes) if home != ctx.me => {
                    ctx.counters.pages_sent += 1;
                    let message = ToHome::DataHome { page, txn, body: Body::Page };
                    ctx.outbox.send_page(home, message, bytes.clone());
                }
                Some(_) | None => ctx.send(home, ToHome::DataHome { page, txn, body: Body::InPlace }),
            }
        }
        // A reading home takes the bytes from DATA_HOME.
        if let (Some(bytes), true) = (bytes, write || requester != home) {
            let access = if write { Access::Write } else { Access::Read };
            let version = if write { txn } else { version };
            ctx.counters.pages_sent += 1;
            let message = ToNode::Data { page, req, txn, version, access, body: Body::Page };
            ctx.outbox.send_page(requester, message, bytes);
        }
    }

    /// Downgrades or unmaps an owned page, then reads it for whoever needs its bytes.
    fn lower_and_read<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        page: PageId,
        home: NodeId,
        requester: NodeId,
        write: bool,
    ) -> Option<PageBuf> {
        let access = if write { Access::None } else { Access::Read };
        if write {
            ctx.counters.invalidations += 1;
        } else {
            ctx.counters.downgrades += 1;
        }
        if ctx.planted.has(Plant::OwnerReadsBeforeProtect) {
            let bytes = ctx.memory.read(page);
            self.lower(ctx.memory, page, access);
            return Some(bytes);
        }
        // Downgrade before reading: no store may land after.
        if !write {
            self.lower_ahead(ctx, page);
        }
        self.lower(ctx.memory, page, access);
        let stays_here = home == ctx.me && requester == ctx.me;
        (!stays_here).then(|| ctx.memory.read(page))
    }

    fn on_lost<M: Memory>(&mut self, ctx: &mut Context<'_, M>, page: PageId, req: Req, dead: NodeId) {
        let outstanding = self.pending.get(&page).and_then(|pending| pending.request);
        if outstanding.is_none_or(|request| request.req != Some(req)) {
            ctx.counters.stale_messages += 1;
            return;
        }
        self.fail(ctx, page, Failure::PageLost(dead));
    }

    fn fail<M: Memory>(&mut self, ctx: &mut Context<'_, M>, page: PageId, failure: Failure) {
        // The page may be a former need of an instruction that went on to others.
        self.instructions.forget(|other| other == page);
        let Some(mut pending) = self.pending.remove(&page) else { return };
        if pending.request.is_some_and(|request| request.place == Place::Reserved) {
            self.resident.cancel();
            // There may be memory already, made for it ahead.
            ctx.memory.discard(page);
        }
        for waiter in pending.waiters.drain(..) {
            let again = waiter.faulted != page;
            ctx.outbox.done(waiter.op, if again { Ok(0) } else { Err(failure) });
        }
    }

    pub(super) fn fingerprint(&self, now: Time, hasher: &mut impl Hasher) {
        self.table.fingerprint(hasher);
        hash_map(&self.pending, hasher, |pending, mut hasher| pending.hash(&mut hasher));
        hash_map(&self.locating, hasher, |pages, mut hasher| pages.hash(&mut hasher));
        self.instructions.fingerprint(now, hasher);
        self.streams.hash(hasher);
        (&self.held_up, self.last_req, self.writing_back, self.homes_used).hash(hasher);
        (&self.leaving, self.departs, &self.postponed).hash(hasher);
    }

    pub(super) fn forget_region(&mut self, region: &RegionInfo) {
        if self.writing_back > 0 {
            let pages = self.table.pages();
            pages.into_iter().filter(|&page| region.contains(page)).for_each(|page| {
                self.end_return(page);
            });
        }
        let pages: Vec<PageId> = self.pending.keys().copied().filter(|&page| region.contains(page)).collect();
        for page in pages {
            let reserved = |request: Request| request.place == Place::Reserved;
            if self.pending.remove(&page).and_then(|pending| pending.request).is_some_and(reserved) {
                self.resident.cancel();
            }
        }
        // An instruction must not ask for a page that has no home any more.
        self.instructions.forget(|page| region.contains(page));
        let gone = |extent: ExtentId| region.contains(PageId(extent.0 * crate::page::EXTENT_PAGES));
        // A later region in this place has a home of its own to ask for.
        self.locating.retain(|extent, _| !gone(*extent));
        self.table.remove_extents(gone);
        self.resident.remove_extents(gone);
    }
}

/// Holds.
impl Cache {
    fn held_until(&self, page: PageId, youngest: Age) -> Time {
        let allows = |page, access| self.access(page) >= access;
        let held_until = self.instructions.held_until(self.planted, page, youngest, allows);
        held_until.filter(|_| !self.departs).unwrap_or_default()
    }

    fn is_held(&self, page: PageId, now: Time) -> bool {
        self.held_until(page, ANY_AGE) > now
    }

    /// Puts a message off while the page is held; true if it was.
    fn hold_up<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        page: PageId,
        from: NodeId,
        message: ToNode,
    ) -> bool {
        if !self.is_held(page, ctx.now) {
            return false;
        }
        ctx.counters.holds_waited_for += 1;
        let held_up = (page, from, message);
        // A duplicate waits once.
        if !self.held_up.contains(&held_up) {
            self.held_up.push(held_up);
        }
        true
    }

    /// A message whose page is held no longer.
    pub(super) fn take_released(&mut self, now: Time) -> Option<(NodeId, ToNode)> {
        let at = self.held_up.iter().position(|&(page, _, _)| !self.is_held(page, now))?;
        let (_, from, message) = self.held_up.remove(at);
        Some((from, message))
    }
}

impl State {
    /// Whether the page is on its way out, and the home's acknowledgement is due.
    fn awaits_ack(self) -> bool {
        match self {
            State::WritingBack | State::GivenAway | State::Dropping => true,
            State::Invalid | State::Shared | State::Modified => false,
        }
    }
}

impl Entry {
    /// A page that has just come.
    fn new(state: State, version: Version) -> Entry {
        Entry { state, mapped: Access::None, touched: false, lowered: Lowered::No, bound: false, version }
    }

    /// What the protocol allows.
    fn access(&self) -> Access {
        match self.state {
            State::Invalid | State::WritingBack | State::GivenAway | State::Dropping => Access::None,
            State::Shared => Access::Read,
            State::Modified => Access::Write,
        }
    }
}

fn access_in(table: &PageTable<Entry>, page: PageId) -> Access {
    table.peek(page).map_or(Access::None, Entry::access)
}

/// When a hold that begins now ends.
fn hold_until<M: Memory>(ctx: &Context<'_, M>, hold: Span) -> Time {
    if ctx.planted.has(Plant::NodeHoldsForEver) {
        Time(u64::MAX)
    } else if ctx.planted.has(Plant::NodeDoesNotHold) {
        Time(0)
    } else {
        ctx.now + hold
    }
}

// The wire carries whole pages.
const _: () = assert!(PAGE_SIZE == 4096);
