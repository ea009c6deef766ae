//! Who is in the cluster and which regions exist: a value like the coherence protocol, with the same
//! rule of events in and actions out. One coordinator (daemon 0, or rank 0 without daemons) orders
//! joins, leaves, deaths and allocations; each change of members is a new view with a higher epoch.
//!
//! This is the first version: the coordinator's own death ends the cluster. It is not a consensus
//! protocol, and it moves no pages.

mod coordinator;
mod detector;
mod host;
pub(crate) mod keepers;
mod known;
mod mutation;
mod observe;
mod regions;
mod runners;
mod sound;
mod suspicion;
#[cfg(test)]
pub(crate) mod tests;
mod type_tag;
mod uses;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::coherence::{NodeSet, Placement, RegionInfo};
use crate::config::coherence::CACHE_PAGES_MIN;
use crate::config::membership::{DEATHS_MAX, EARLY_MAX, HOW_LEN_MAX, RETURNED_MAX};
use crate::page::{EXTENT_PAGES, Epoch, Incarnation, NodeId, PAGE_SIZE, PageId, PeerId, Time};
use coordinator::Coordinator;
pub(crate) use detector::{Detector, Finding};
pub use host::HostId;
use known::{Known, Told};
pub use mutation::{Mutation, Rules};
pub use observe::Observation;
pub use regions::{check_name, removal_command};
use suspicion::{Errands, Suspicions};
pub use type_tag::{ElementType, TypeTag};
use uses::Uses;
pub use uses::{RegionUse, Returned};
pub use view::{Runner, View};

/// The node that orders all changes.
pub const COORDINATOR: NodeId = NodeId(0);

/// A session as the shell names it; the core only hands it back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u64);

/// What a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// Long-lived; keeps homes.
    Daemon,
    /// One process of a program.
    Rank {
        /// The program's number.
        #[serde(with = "crate::codec::id")]
        program: u64,
        /// Which rank, below `ranks`.
        rank: u32,
        /// Ranks of the program.
        ranks: u32,
    },
}

impl Kind {
    /// A rank's number in its program.
    pub fn rank(&self) -> Option<u32> {
        match *self {
            Kind::Daemon => None,
            Kind::Rank { rank, .. } => Some(rank),
        }
    }

    /// The number of a rank's program.
    pub fn program(&self) -> Option<u64> {
        match *self {
            Kind::Daemon => None,
            Kind::Rank { program, .. } => Some(program),
        }
    }
}

/// What a node tells of itself when it joins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Introduction {
    /// This start of the node.
    pub incarnation: Incarnation,
    /// What it is.
    pub kind: Kind,
    /// For people: the program's name or `daemon`.
    pub name: String,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Where it runs.
    pub host: HostId,
    /// Its process.
    pub pid: u32,
    /// When that process started, in ticks of the kernel's clock; 0 if it could not find that out.
    pub started: u64,
    /// Bytes of pages that it can keep.
    pub memory_max: u64,
    /// Address of its arena; all members must agree.
    pub arena_base: u64,
    /// Bytes of its arena; all members must agree.
    pub arena_size: u64,
    /// Path of the socket at which its process takes the memory of other nodes of its host to keep; none if it keeps
    /// nothing.
    pub keeps_at: Option<String>,
    /// A daemon's place among the daemons, so that ids are known beforehand.
    pub index: Option<u16>,
}

/// A member of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its slot.
    pub id: NodeId,
    /// What it told of itself.
    pub intro: Introduction,
}

/// A region by its name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RegionRecord {
    /// The name, unique in the cluster.
    pub name: String,
    /// Length in bytes, as asked for.
    pub bytes: u64,
    /// Size and type of the elements; programs must agree.
    pub element: ElementType,
    /// Where it lies and who keeps it.
    pub info: RegionInfo,
    /// The program that made it.
    pub program: u64,
    /// No other region of the cluster has this number, now or later, and hardly one of another cluster: it tells a
    /// stale or foreign reference from one that leads to the region at its addresses.
    pub generation: u64,
}

/// What nodes say about membership and regions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Control {
    /// Newcomer to coordinator.
    Join(Introduction),
    /// Coordinator to newcomer: no, because.
    JoinRefused(String),
    /// Coordinator to newcomer: who you are.
    Joined {
        /// The newcomer's id.
        id: NodeId,
        /// The view with the newcomer in it.
        view: View,
        /// How many regions there are: they come in messages of their own.
        regions: u64,
    },
    /// Coordinator to newcomer: some of the regions.
    Regions(Vec<RegionRecord>),
    /// Coordinator to members: the view changed.
    View(View),
    /// Member to coordinator: make or find a region.
    Alloc {
        /// The asker's number for this request.
        op: u64,
        /// The region's name.
        name: String,
        /// What it must be like.
        want: Want,
    },
    /// Coordinator to asker.
    AllocReply {
        /// The number of the request.
        op: u64,
        /// The region, mapped by each of its homes; or why not.
        result: Result<RegionRecord, String>,
    },
    /// Member to coordinator: the region is to go when its last user goes.
    Remove {
        /// The asker's number for this request.
        op: u64,
        /// The region's name.
        name: String,
    },
    /// Coordinator to asker.
    RemoveReply {
        /// The number of the request.
        op: u64,
        /// Done, or why not.
        result: Result<(), String>,
    },
    /// Member to coordinator: a reference is to be opened here, count this node among the region's users.
    Use {
        /// The asker's number for this request.
        op: u64,
        /// A page of the region.
        page: PageId,
        /// Which region it is; none for whatever region has the page.
        generation: Option<u64>,
    },
    /// Coordinator to asker.
    UseReply {
        /// The number of the request.
        op: u64,
        /// The region, or why not.
        result: Result<RegionRecord, String>,
    },
    /// Member to coordinator: it uses these no more.
    Unuse(Vec<Returned>),
    /// Coordinator to members: map this.
    RegionAdded(RegionRecord),
    /// Coordinator to members: nobody uses this any longer.
    RegionGone {
        /// First page of the region.
        start: PageId,
    },
    /// Member to coordinator: I was told of the region, and have mapped it.
    RegionMapped {
        /// First page of the region.
        start: PageId,
        /// Which region it is.
        generation: u64,
    },
    /// Member to coordinator: I have unmapped the region.
    RegionUnmapped {
        /// First page of the region.
        start: PageId,
        /// Which region it was.
        generation: u64,
    },
    /// Member to coordinator: I am to run this node on, and do not have its memory.
    CannotRun {
        /// The node.
        of: Incarnation,
    },
    /// Member to coordinator: nothing of the cluster depends on this node any more, which I run on.
    Drained {
        /// The node.
        of: Incarnation,
    },
    /// Member to coordinator: nothing of the cluster depends on me any more.
    Leave,
    /// Coordinator to member: you are out.
    LeaveAck,
    /// Member to coordinator: I reach every member of my view. Who has not said so accuses nobody.
    Met,
    /// Member to coordinator: I have not heard of this member for too long. A question, no more.
    Suspect {
        /// The member.
        of: Incarnation,
    },
    /// Member to coordinator: I hear it again.
    Unsuspect {
        /// The member.
        of: Incarnation,
    },
    /// Member to coordinator: the kernel of our host says that the process of this member has ended.
    ProcessEnded {
        /// The member.
        of: Incarnation,
    },
    /// From the node that decides to another member: do you hear of this one?
    Probe {
        /// The suspected member.
        of: Incarnation,
        /// Number of the question.
        question: u64,
    },
    /// The answer, given when something has come of the suspected member since the question.
    Alive {
        /// The suspected member.
        of: Incarnation,
        /// Number of the question.
        question: u64,
    },
    /// Coordinator to members: everybody stops.
    Shutdown {
        /// Why.
        reason: String,
    },
}

/// What a region that is asked for must be like.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Want {
    /// Exists already, with such elements.
    Existing {
        /// Size and type of the elements.
        element: ElementType,
    },
    /// Is made if it does not exist.
    Any {
        /// Length in bytes.
        bytes: u64,
        /// Size and type of the elements.
        element: ElementType,
        /// The rule for its homes: that of a region that exists, too. None: any, and first touch if it is made.
        placement: Option<Placement>,
    },
}

/// What [`Membership::open`] finds.
#[derive(Clone, Debug)]
pub enum Opened {
    /// This node uses the region: it stays while the share lives.
    Used(RegionUse),
    /// This node does not use the region, or has not heard of it; [`Membership::ask_use`] first.
    Unused {
        /// The page that the reference leads to.
        page: PageId,
    },
}

/// A member that died.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Death {
    /// Who.
    pub member: Member,
    /// How it is known.
    pub how: String,
    /// The member whose process was named to run it on: it is a member still. None: nobody can.
    pub runner: Option<PeerId>,
}

/// What the shell must do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send to a session.
    SendLink {
        /// The session.
        link: LinkId,
        /// The message.
        control: Control,
    },
    /// Send to a member.
    Send {
        /// The member; never this node.
        to: NodeId,
        /// The message.
        control: Control,
    },
    /// This node is a member now; [`Membership::me`] tells who.
    Joined,
    /// Joining was refused; nothing was changed.
    JoinRefused(String),
    /// The view is a new one. Sessions to members that are gone end; newcomers will connect.
    ViewChanged {
        /// Members that are new.
        joined: Vec<Member>,
        /// Members that left in peace.
        left: Vec<Member>,
        /// Members that died.
        died: Vec<Death>,
    },
    /// A region must be mapped; then answer with [`Membership::region_mapped`].
    MapRegion(RegionRecord),
    /// A region must be unmapped; then answer with [`Membership::region_unmapped`].
    UnmapRegion(RegionRecord),
    /// A program's ranks are all gone.
    ProgramEnded {
        /// The program.
        program: u64,
    },
    /// A request of this node has ended.
    Done {
        /// The number given with it.
        op: u64,
        /// The region (none for a removal), or why not.
        result: Result<Option<RegionRecord>, String>,
    },
    /// This node has left.
    Left,
    /// Everybody stops.
    Shutdown {
        /// Why.
        reason: String,
    },
    /// Ask a member for a sign of life.
    Ping(NodeId),
    /// See whether somebody has stopped this process of this host to look at it; then
    /// [`Observation::Traced`].
    Inspect {
        /// The member.
        of: Incarnation,
        /// Its process.
        pid: u32,
    },
    /// The coordinator is dead: the cluster has ended.
    CoordinatorDied {
        /// How that is known.
        how: String,
    },
    /// This node and the coordinator cannot reach each other, and others reach the coordinator: this node is
    /// out.
    CutOff {
        /// How that is known.
        how: String,
    },
}

/// The coordinator's welcome to a newcomer, whose messages come in any order.
#[derive(Clone, Default)]
struct Welcome {
    /// Its number, the view with it, and how many regions there are.
    joined: Option<(NodeId, View, u64)>,
    regions: Vec<RegionRecord>,
}

/// One node's knowledge of the cluster; the coordinator's part too where it runs.
#[derive(Clone)]
pub struct Membership {
    me: Option<NodeId>,
    intro: Introduction,
    view: View,
    regions: BTreeMap<PageId, Known>,
    told: Told,
    /// Regions that are gone and not unmapped yet, with their generations.
    unmapping: BTreeMap<PageId, u64>,
    uses: Uses,
    coordinator: Option<Coordinator>,
    /// Whether it names processes that run ended nodes on, where it decides.
    names_runners: bool,
    detector: Detector,
    suspicions: Suspicions,
    errands: Errands,
    /// This node reaches all members, and may say of others that it does not.
    has_met: bool,
    rules: Rules,
    /// What overtook the coordinator's welcome.
    early: Vec<Control>,
    /// What has come of the coordinator's welcome; none once it is complete.
    welcome: Option<Welcome>,
    actions: VecDeque<Action>,
}

impl Membership {
    /// The coordinator of a new cluster, its first member.
    pub fn coordinator(intro: Introduction) -> Self {
        let me = Member { id: COORDINATOR, intro: intro.clone() };
        let coordinator = Coordinator::of(intro.incarnation);
        let last_region = coordinator.last_region();
        Membership {
            me: Some(COORDINATOR),
            view: View { epoch: Epoch(1), members: vec![me], last_region, ..View::default() },
            told: Told::until(last_region),
            coordinator: Some(coordinator),
            has_met: true,
            ..Membership::new(intro, Action::Joined)
        }
    }

    /// A node that will join over the session to the coordinator.
    pub fn newcomer(intro: Introduction, coordinator: LinkId) -> Self {
        let control = Control::Join(intro.clone());
        Membership::new(intro, Action::SendLink { link: coordinator, control })
    }

    fn new(intro: Introduction, first: Action) -> Self {
        Membership {
            me: None,
            intro,
            view: View::default(),
            regions: BTreeMap::new(),
            told: Told::default(),
            unmapping: BTreeMap::new(),
            uses: Uses::default(),
            coordinator: None,
            names_runners: false,
            detector: Detector::default(),
            suspicions: Suspicions::default(),
            errands: Errands::default(),
            has_met: false,
            rules: Rules::default(),
            early: Vec::new(),
            welcome: None,
            actions: VecDeque::from([first]),
        }
    }

    /// This node's id, once it is a member.
    pub fn me(&self) -> Option<NodeId> {
        self.me
    }

    /// Whether this node orders the changes.
    pub fn is_coordinator(&self) -> bool {
        self.coordinator.is_some()
    }

    /// The present view.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// All regions, by ascending address.
    pub fn regions(&self) -> impl Iterator<Item = &RegionRecord> {
        self.regions.values().map(|known| &known.record)
    }

    /// Ranks that use a region; known to the coordinator only.
    pub fn users(&self, start: PageId) -> NodeSet {
        self.coordinator.as_ref().map_or(NodeSet::EMPTY, |coordinator| coordinator.users(start))
    }

    /// The next thing to do, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A control message; `from` is the member that the session belongs to, if it is one.
    pub fn handle(&mut self, now: Time, link: LinkId, from: Option<NodeId>, control: Control) {
        match control {
            Control::Joined { id, view, regions } if self.me.is_none() && from == Some(COORDINATOR) => {
                let welcome = self.welcome.get_or_insert_default();
                welcome.joined = Some((id, view, regions));
                self.check_welcome(now);
            }
            Control::Regions(regions) if self.me.is_none() && from == Some(COORDINATOR) => {
                self.welcome.get_or_insert_default().regions.extend(regions);
                self.check_welcome(now);
            }
            Control::JoinRefused(reason) if self.me.is_none() && from == Some(COORDINATOR) => {
                self.actions.push_back(Action::JoinRefused(reason));
            }
            Control::View(_) | Control::RegionAdded(_) | Control::RegionGone { .. }
                if self.me.is_none() && from == Some(COORDINATOR) =>
            {
                if self.early.len() < EARLY_MAX {
                    self.early.push(control);
                } else {
                    let reason = "the cluster has changed too often meanwhile: start this node again";
                    self.actions.push_back(Action::JoinRefused(reason.into()));
                }
            }
            Control::View(view) if from == Some(COORDINATOR) => self.install(view),
            Control::AllocReply { op, result } if from == Some(COORDINATOR) => {
                self.on_alloc_reply(op, result)
            }
            Control::UseReply { op, result } if from == Some(COORDINATOR) => self.on_use_reply(op, result),
            Control::RemoveReply { op, result } if from == Some(COORDINATOR) => {
                self.actions.push_back(Action::Done { op, result: result.map(|()| None) });
            }
            Control::RegionAdded(record) if from == Some(COORDINATOR) => self.tell_region(&record),
            Control::RegionGone { start } if from == Some(COORDINATOR) => self.drop_region(start),
            Control::LeaveAck if from == Some(COORDINATOR) => self.actions.push_back(Action::Left),
            Control::Shutdown { reason } if from == Some(COORDINATOR) => {
                self.actions.push_back(Action::Shutdown { reason });
            }
            Control::Join(_)
            | Control::Alloc { .. }
            | Control::Remove { .. }
            | Control::Use { .. }
            | Control::Unuse(_)
            | Control::RegionMapped { .. }
            | Control::RegionUnmapped { .. }
            | Control::CannotRun { .. }
            | Control::Drained { .. }
            | Control::Leave => self.handle_as_coordinator(link, from, control),
            Control::Met
            | Control::Suspect { .. }
            | Control::Unsuspect { .. }
            | Control::ProcessEnded { .. } => self.on_word(now, from, control),
            Control::Probe { of, question } => self.on_probe(now, from, of, question),
            Control::Alive { of, question } => self.on_alive(from, of, question),
            // From nobody who may say so, or too late.
            Control::Joined { .. }
            | Control::Regions(_)
            | Control::JoinRefused(_)
            | Control::View(_)
            | Control::AllocReply { .. }
            | Control::RemoveReply { .. }
            | Control::UseReply { .. }
            | Control::RegionAdded(_)
            | Control::RegionGone { .. }
            | Control::LeaveAck
            | Control::Shutdown { .. } => {}
        }
    }

    fn on_alloc_reply(&mut self, op: u64, result: Result<RegionRecord, String>) {
        if let Ok(record) = &result {
            self.learn_region(record);
            self.uses.keep(record);
        }
        self.actions.push_back(Action::Done { op, result: result.map(Some) });
    }

    fn on_use_reply(&mut self, op: u64, result: Result<RegionRecord, String>) {
        if let Ok(record) = &result {
            self.learn_region(record);
            self.uses.grant(record);
        }
        self.actions.push_back(Action::Done { op, result: result.map(Some) });
    }

    /// Makes or finds a region for this node; ends with [`Action::Done`].
    pub fn alloc(&mut self, op: u64, name: String, want: Want) {
        // A name without bound does not fit a message.
        match check_name(&name) {
            Ok(()) => self.ask(Control::Alloc { op, name, want }),
            Err(reason) => self.actions.push_back(Action::Done { op, result: Err(reason) }),
        }
    }

    /// Marks a region for removal; ends with [`Action::Done`].
    pub fn remove(&mut self, op: u64, name: String) {
        match check_name(&name) {
            Ok(()) => self.ask(Control::Remove { op, name }),
            Err(reason) => self.actions.push_back(Action::Done { op, result: Err(reason) }),
        }
    }

    /// Gives back what no handle uses any more, in as few messages as fit it. For every heartbeat: what was opened since the
    /// last one stays.
    pub fn return_idle_uses(&mut self) {
        let idle = self.uses.take_idle();
        for idle in idle.chunks(RETURNED_MAX) {
            self.ask(Control::Unuse(idle.to_vec()));
        }
    }

    /// Removes a region for somebody who is no member; true, or why not.
    pub fn remove_now(&mut self, name: &str) -> Result<(), String> {
        let Some(mut coordinator) = self.coordinator.take() else {
            return Err("only the coordinator removes regions".into());
        };
        let result = coordinator.remove(self, name);
        self.coordinator = Some(coordinator);
        result
    }

    /// This node leaves; ends with [`Action::Left`]. Its pages and locks must be given back before.
    /// The coordinator leaves last.
    pub fn leave(&mut self) {
        match &mut self.coordinator {
            Some(coordinator) => {
                coordinator.leaving = true;
                self.leave_if_last();
            }
            None => self.ask(Control::Leave),
        }
    }

    fn leave_if_last(&mut self) {
        if self.view.running().count() == 1 {
            self.actions.push_back(Action::Left);
        }
    }

    /// Tells everybody to stop. Only the coordinator can.
    pub fn shut_down(&mut self, reason: &str) {
        if self.is_coordinator() {
            let reason = bounded(reason.to_owned(), HOW_LEN_MAX);
            self.broadcast(&Control::Shutdown { reason: reason.clone() });
            self.actions.push_back(Action::Shutdown { reason });
        }
    }

    /// Nodes that keep homes: the daemons, or without daemons the ranks.
    pub fn homes(&self) -> Vec<NodeId> {
        let daemons: Vec<NodeId> = self.view.daemons().map(|member| member.id).collect();
        if daemons.is_empty() { self.view.running().map(|member| member.id).collect() } else { daemons }
    }

    fn ask(&mut self, control: Control) {
        if self.is_coordinator() {
            self.handle_as_coordinator(LinkId(0), self.me, control);
        } else {
            self.actions.push_back(Action::Send { to: COORDINATOR, control });
        }
    }

    fn handle_as_coordinator(&mut self, link: LinkId, from: Option<NodeId>, control: Control) {
        if let Some(mut coordinator) = self.coordinator.take() {
            coordinator.handle(self, link, from, control);
            self.coordinator = Some(coordinator);
        }
    }

    /// Becomes a member when the welcome is complete.
    fn check_welcome(&mut self, now: Time) {
        let complete = |welcome: &mut Welcome| {
            welcome.joined.as_ref().is_some_and(|(.., regions)| *regions == welcome.regions.len() as u64)
        };
        if let Some(Welcome { joined: Some((id, view, _)), regions }) = self.welcome.take_if(complete) {
            self.on_joined(now, id, view, regions);
        }
    }

    fn on_joined(&mut self, now: Time, id: NodeId, view: View, regions: Vec<RegionRecord>) {
        let ours = view.member(id).is_some_and(|member| member.intro.incarnation == self.intro.incarnation);
        if !ours {
            return;
        }
        self.me = Some(id);
        self.told = Told::until(view.last_region);
        self.view = view;
        self.follow_view();
        self.actions.push_back(Action::Joined);
        for record in regions {
            self.tell_region(&record);
        }
        for control in std::mem::take(&mut self.early) {
            self.handle(now, LinkId(0), Some(COORDINATOR), control);
        }
    }

    /// Takes a newer view; an older one arrived late and says nothing new.
    fn install(&mut self, view: View) {
        if view.epoch <= self.view.epoch && self.rules.views_grow() {
            return;
        }
        let old = std::mem::replace(&mut self.view, view);
        let news = self.view.deaths.iter().filter(|(epoch, _)| *epoch > old.epoch);
        let died: Vec<Death> = news.map(|(_, death)| death.clone()).collect();
        let is_here = |member: &Member| self.view.incarnation(member.intro.incarnation).is_some();
        let is_dead = |member: &Member| died.iter().any(|death| death.member == *member);
        let is_new = |member: &&Member| old.incarnation(member.intro.incarnation).is_none();
        let joined = self.view.members.iter().filter(is_new).cloned().collect();
        let is_gone = |member: &&Member| !is_here(member) && !is_dead(member);
        let left = old.members.iter().filter(is_gone).cloned().collect();
        self.follow_view();
        self.actions.push_back(Action::ViewChanged { joined, left, died });
    }

    fn broadcast(&mut self, control: &Control) {
        for member in self.view.running().filter(|member| Some(member.id) != self.me) {
            self.actions.push_back(Action::Send { to: member.id, control: control.clone() });
        }
    }
}

impl Introduction {
    /// Extents that it can be home of: what its limit allows, less what a rank caches in any case.
    pub fn home_extents(&self) -> u64 {
        let pages = self.memory_max / PAGE_SIZE as u64;
        let cached = match self.kind {
            Kind::Daemon => 0,
            Kind::Rank { .. } => CACHE_PAGES_MIN,
        };
        pages.saturating_sub(cached) / EXTENT_PAGES
    }
}

impl Member {
    /// For messages to people: what it is, where and which process.
    pub fn describe(&self) -> String {
        let Introduction { kind, name, addr, pid, .. } = &self.intro;
        match kind {
            Kind::Daemon => format!("daemon {}, process {pid} at {addr}", self.id.0),
            Kind::Rank { rank, .. } => format!("rank {rank} of {name}, process {pid} at {addr}"),
        }
    }
}

/// The text, or as much of it as the bound allows.
fn bounded(mut text: String, len_max: usize) -> String {
    text.truncate(text.floor_char_boundary(len_max));
    text
}

/// Whole pages for so many bytes.
fn pages_for(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_SIZE as u64)
}
