//! The memory of this node with other processes of its host, and theirs here: one thread that offers, answers and
//! follows the view. It touches no page, and takes the node's lock only to read the view, so nothing that a thread waits
//! for ever waits for it.
//!
//! Which process goes on with a node whose process has ended is not decided here, but made possible (`run_on.rs`); a
//! node that is no member any more is not kept.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::SigmaskHow;
use nix::sys::time::TimeSpec;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::Level;

use super::neighbours::{Keeper, Neighbours};
use super::run_on::{Beginning, Begun, Order};
use super::{Runtime, poller};
use crate::config::keep::{ASK_AGAIN, MEMORY_LOOK, PATH_LEN_MAX};
use crate::error::{Error, Result};
use crate::fault::{Arena, CoreSection, asynchronous};
use crate::keep::{Change, Estate, KeepDirectory, Keeping, raise_limit};
use crate::membership::{Kind, Member, keepers};
use crate::page::{Incarnation, NodeId, PAGE_SIZE, PeerId, Time};
use crate::settings::Settings;

/// The processes that hold a node's memory beside its own, and the nodes whose memory its process holds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KeepStatus {
    /// The members whose processes hold this node's memory.
    pub kept_by: Vec<NodeId>,
    /// Why no other process does; none if one does, or has just been asked.
    pub unkept: Option<String>,
    /// The nodes of other processes whose memory this process holds.
    pub keeps: Vec<NodeId>,
    /// Why this process would hold nobody's; none if it would.
    pub keeps_nothing: Option<String>,
    /// The nodes whose processes have ended, and that this process runs on.
    pub runs_on: Vec<RunOnStatus>,
}

/// A node whose process has ended, at the process that runs it on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RunOnStatus {
    /// The node.
    pub node: NodeId,
    /// Bytes of its memory.
    pub resident_bytes: u64,
    /// The members whose processes hold its memory besides.
    pub kept_by: Vec<NodeId>,
}

/// This process's part, shared by its thread and those that ask.
pub(super) struct Keepers {
    state: Mutex<State>,
    /// Ends the thread's sleep.
    wake: EventFd,
}

struct State {
    keeping: Keeping,
    me: Incarnation,
    /// Bytes of pages that the kept nodes may hold together.
    keep_max: u64,
    keeps_nothing: Option<String>,
    here: Neighbours,
    /// Members that did not take a node's memory, in the order in which they were asked.
    refused: Vec<Refusal>,
    /// Nodes that are to be run on here.
    beginnings: Vec<Beginning>,
    /// Nodes that are run on here, and their memory.
    running: Vec<(PeerId, Arc<Arena>)>,
    /// When they are asked again.
    ask_again: Option<Time>,
    /// What was last told of this node's memory: whether it is kept.
    told: Option<bool>,
    has_ended: bool,
}

/// A member that did not take a node's memory.
struct Refusal {
    of: Incarnation,
    by: Incarnation,
    why: String,
}

/// What a step found out, for the operator.
pub(super) type Told = Vec<(Level, String)>;

impl Keepers {
    /// Listens, if anything is to be kept here and can be.
    pub(super) fn new(settings: &Settings, kind: Kind, me: Incarnation) -> Result<Keepers> {
        let mut keeping = Keeping::new()?;
        let keeps_nothing = match settings.keep_max {
            0 => Some("keep_max is 0".to_owned()),
            _ => listen(&mut keeping, settings.keep_dir.as_deref(), me).err().map(|error| error.to_string()),
        };
        if keeps_nothing.is_none() && kind == Kind::Daemon {
            raise_limit();
        }
        let state = State {
            keeping,
            me,
            keep_max: settings.keep_max,
            keeps_nothing,
            here: Neighbours::default(),
            refused: Vec::new(),
            beginnings: Vec::new(),
            running: Vec::new(),
            ask_again: None,
            told: None,
            has_ended: false,
        };
        Ok(Keepers { state: Mutex::new(state), wake: poller::wake_event()? })
    }

    /// Where other processes find this one's socket.
    pub(super) fn keeps_at(&self) -> Option<String> {
        let socket = self.state.lock().keeping.socket()?;
        socket.into_os_string().into_string().ok()
    }

    /// A line for the operator if this process would keep nobody's memory against its settings.
    pub(super) fn complaint(&self) -> Option<String> {
        let state = self.state.lock();
        let why = state.keeps_nothing.as_ref().filter(|_| state.keep_max > 0)?;
        Some(format!("this process cannot keep the memory of other nodes of its host: {why}"))
    }

    /// Has the thread look at the view.
    pub(super) fn wake(&self) {
        self.wake.write(1).expect("an eventfd takes a 1");
    }

    /// Closes and forgets everything, and removes the socket's name: the node leaves.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.has_ended = true;
        state.keeping.end();
        state.beginnings.clear();
        drop(state);
        self.wake();
    }

    /// This process runs nothing on any more.
    pub(super) fn run_nothing(&self) {
        let running = std::mem::take(&mut self.state.lock().running);
        drop(running);
    }

    pub(super) fn status(&self) -> KeepStatus {
        self.state.lock().status()
    }

    /// A descriptor of the list on which the sockets are watched.
    fn readable(&self) -> Result<OwnedFd> {
        let readable = self.state.lock().keeping.as_fd().try_clone_to_owned();
        readable.map_err(|error| Error::os("watching the keepers' sockets", error))
    }
}

impl Runtime {
    pub(super) fn spawn_keeping(self: Arc<Self>) -> Result<JoinHandle<()>> {
        let readable = self.keepers.readable()?;
        let mask = asynchronous().thread_swap_mask(SigmaskHow::SIG_BLOCK).expect("valid arguments");
        let thread = std::thread::Builder::new().name("pm-keeping".into()).spawn(move || {
            CoreSection::mark_thread_blocked();
            self.run_keeping(&readable);
        });
        mask.thread_set_mask().expect("valid arguments");
        thread.map_err(|error| Error::os("starting the keeping thread", error))
    }

    fn run_keeping(&self, readable: &OwnedFd) {
        self.keep_until_the_end(readable);
        self.let_go_of_kept();
    }

    fn keep_until_the_end(&self, readable: &OwnedFd) {
        if let Some(complaint) = self.keepers.complaint() {
            self.note_of_keeping(vec![(Level::WARN, complaint)]);
        }
        let (mut seen, mut has_told_excess) = (None, false);
        loop {
            let here = self.members_here(&mut seen);
            let orders = self.with_locked(|locked| locked.run_on.take_orders());
            let now = self.now();
            let mut state = self.keepers.state.lock();
            if state.has_ended {
                return;
            }
            if let Some(here) = here {
                state.follow(here);
            }
            state.obey(now, orders);
            let mut told = Told::new();
            let begun = state.advance(now, &mut told);
            drop(state);
            let opened: Vec<_> =
                begun.into_iter().filter_map(|(node, begun)| self.begin_run(node, begun)).collect();
            let mut state = self.keepers.state.lock();
            if state.has_ended {
                return;
            }
            state.running.extend(opened);
            let (arena, record) = self.arena.files();
            told.extend(state.step(now, |node, incarnation| Estate { node, incarnation, arena, record }));
            let deadline = state.deadline(now);
            let runs_any = !state.running.is_empty();
            let ends = state.waits_for();
            drop(state);
            self.note_of_keeping(told);
            if runs_any {
                self.tell_of_excess(&mut has_told_excess);
            }
            let timeout =
                deadline.map(|deadline| TimeSpec::from(Duration::from_nanos(deadline.since(now).0)));
            let fds =
                [readable.as_fd(), self.keepers.wake.as_fd()].into_iter().chain(ends.iter().map(AsFd::as_fd));
            let mut fds: Vec<PollFd> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            // An interruption only means that the thread looks earlier.
            let _ = ppoll(&mut fds, timeout, None);
            poller::drain(&self.keepers.wake);
        }
    }

    fn begin_run(&self, node: PeerId, begun: Begun) -> Option<(PeerId, Arc<Arena>)> {
        match begun {
            Begun::Alone { kept, user } => Some((node, self.open_kept(node, kept, user)?)),
            Begun::Missing => {
                self.cannot_run(node);
                None
            }
        }
    }

    /// The members that run on this node's host, if the view has changed since `seen`.
    fn members_here(&self, seen: &mut Option<u64>) -> Option<Neighbours> {
        self.with_machine(|machine| {
            let changes = machine.view_changes();
            if *seen == Some(changes) || machine.lifecycle().why().is_some() {
                return None;
            }
            let neighbours = Neighbours::of(machine)?;
            *seen = Some(changes);
            Some(neighbours)
        })
    }

    pub(super) fn note_of_keeping(&self, told: Told) {
        if told.is_empty() {
            return;
        }
        self.with_locked(|locked| told.into_iter().for_each(|(level, text)| locked.notes.add(level, text)));
        self.poller.wake();
    }
}

impl State {
    /// The view has changed: whoever has refused is asked again, and members that are gone neither keep nor are kept.
    fn follow(&mut self, here: Neighbours) {
        self.here = here;
        self.refused.clear();
        self.ask_again = None;
        let here = &self.here;
        self.keeping.retain(|of| here.find(of).is_some());
        self.keeping.retain_keepers(|by| here.running().any(|member| member.intro.incarnation == by));
    }

    /// Does what the machine has ordered.
    fn obey(&mut self, now: Time, orders: Vec<Order>) {
        for order in orders {
            match order {
                Order::Begin(node) => self.beginnings.push(Beginning::new(now, node)),
                Order::Forget(node, _memory) => {
                    self.beginnings.retain(|beginning| beginning.node() != node);
                    self.running.retain(|(of, _)| *of != node);
                    self.keeping.release(node.incarnation, |_| true);
                }
            }
        }
    }

    /// What has become of the nodes that are to be run on here.
    fn advance(&mut self, now: Time, told: &mut Told) -> Vec<(PeerId, Begun)> {
        let State { beginnings, keeping, here, .. } = self;
        let mut begun = Vec::new();
        beginnings.retain_mut(|beginning| match beginning.advance(now, keeping, here.members(), told) {
            Some(end) => {
                begun.push((beginning.node(), end));
                false
            }
            None => true,
        });
        begun
    }

    /// Descriptors that are readable when a process has ended that is waited for.
    fn waits_for(&self) -> Vec<OwnedFd> {
        let processes = self.beginnings.iter().filter_map(Beginning::waits_for);
        // Without a descriptor it is looked at a little later.
        processes.filter_map(|process| process.try_clone_to_owned().ok()).collect()
    }

    fn step<'a>(&mut self, now: Time, estate: impl Fn(NodeId, Incarnation) -> Estate<'a>) -> Told {
        if self.ask_again.is_some_and(|again| again <= now) {
            self.refused.clear();
            self.ask_again = None;
        }
        let State { keeping, here, me, keep_max, running, .. } = self;
        let changes = keeping.progress(now, |claim, kept| {
            let runs_on = running.iter().map(|(node, _)| node.incarnation);
            let holds = kept.iter().map(|kept| kept.incarnation).chain(runs_on).collect();
            here.admission(&Keeper { me: *me, keep_max: *keep_max, holds }, claim)
        });
        let mut told = Told::new();
        for change in changes {
            match change {
                Change::OfferFailed { of, keeper, why } => self.refuse(now, of, keeper, why),
                Change::Refused(why) => {
                    told.push((Level::DEBUG, format!("the memory of {why}: not kept here")))
                }
                Change::Holds(_) | Change::Forgot(_) | Change::KeptBy { .. } => {}
            }
        }
        if let Some(own) = self.own() {
            self.choose(now, &own, &estate(own.id, self.me));
        }
        for (node, arena) in self.running.clone() {
            let (arena, record) = arena.files();
            if let Some(member) = self.here.find(node.incarnation).cloned() {
                let estate = Estate { node: node.node, incarnation: node.incarnation, arena, record };
                self.choose(now, &member, &estate);
            }
        }
        told.extend(self.tell());
        told
    }

    /// Offers a node's memory to those that should keep it, and when all do takes it back from others.
    fn choose(&mut self, now: Time, of: &Member, estate: &Estate<'_>) {
        let (own_pid, start) = (std::process::id(), of.intro.incarnation);
        loop {
            let others = self.here.running().filter(|member| member.intro.pid != own_pid);
            let has_refused = |by| self.refused.iter().any(|refusal| (refusal.of, refusal.by) == (start, by));
            let wanted = keepers::wanted(others, of, has_refused);
            let known: Vec<(Incarnation, bool)> = self.keeping.keepers_of(start).collect();
            let is_new = |member: &&&Member| known.iter().all(|(by, _)| *by != member.intro.incarnation);
            let Some(next) = wanted.iter().find(is_new) else {
                let keeps = |member: &&Member| known.contains(&(member.intro.incarnation, true));
                if wanted.iter().all(keeps) && !wanted.is_empty() {
                    let is_needless =
                        |by: Incarnation| wanted.iter().all(|member| member.intro.incarnation != by);
                    self.keeping.release(start, is_needless);
                }
                return;
            };
            let (keeper, socket) = (next.intro.incarnation, next.intro.keeps_at.clone().unwrap_or_default());
            if let Err(error) = self.keeping.offer(now, (keeper, Path::new(&socket)), estate) {
                self.refuse(now, start, keeper, error.to_string());
            }
        }
    }

    fn refuse(&mut self, now: Time, of: Incarnation, by: Incarnation, why: String) {
        self.refused.push(Refusal { of, by, why });
        self.ask_again.get_or_insert(now + ASK_AGAIN);
    }

    /// A line when it is known whether this node's memory is kept, and when that changes.
    fn tell(&mut self) -> Option<(Level, String)> {
        let own = self.own()?;
        let kept_by = self.keepers_of(self.me);
        if (kept_by.is_empty() && self.is_asking())
            || self.told.replace(!kept_by.is_empty()) == Some(!kept_by.is_empty())
        {
            return None;
        }
        if kept_by.is_empty() {
            // A node that is alone is so for a good reason, or not for long.
            let level = if self.here.len() > 1 { Level::WARN } else { Level::INFO };
            let text = format!("no other process holds the memory of {}: {}", own.id, self.why_unkept());
            return Some((level, text));
        }
        let names: Vec<String> = kept_by.iter().map(NodeId::to_string).collect();
        Some((Level::INFO, format!("the memory of {} lies with {} too", own.id, names.join(", "))))
    }

    fn why_unkept(&self) -> String {
        match self.refused.iter().find(|refusal| refusal.of == self.me) {
            None if self.here.len() <= 1 => "it is alone on its host".to_owned(),
            None => "no other process of its host takes any".to_owned(),
            Some(Refusal { by, why, .. }) => match self.id_of(*by) {
                Some(id) => format!("{id} does not take it: {why}"),
                None => why.clone(),
            },
        }
    }

    fn status(&self) -> KeepStatus {
        let kept_by = self.keepers_of(self.me);
        let is_known = self.own().is_some() && !self.is_asking();
        KeepStatus {
            unkept: (kept_by.is_empty() && is_known).then(|| self.why_unkept()),
            kept_by,
            keeps: self.keeping.kept().iter().map(|kept| kept.node).collect(),
            keeps_nothing: self.keeps_nothing.clone(),
            runs_on: self.running.iter().map(|(node, arena)| self.status_of(*node, arena)).collect(),
        }
    }

    fn status_of(&self, node: PeerId, arena: &Arena) -> RunOnStatus {
        RunOnStatus {
            node: node.node,
            resident_bytes: arena.backed_pages() * PAGE_SIZE as u64,
            kept_by: self.keepers_of(node.incarnation),
        }
    }

    fn own(&self) -> Option<Member> {
        self.here.find(self.me).cloned()
    }

    fn id_of(&self, incarnation: Incarnation) -> Option<NodeId> {
        self.here.find(incarnation).map(|member| member.id)
    }

    fn keepers_of(&self, of: Incarnation) -> Vec<NodeId> {
        let keepers = self.keeping.keepers_of(of).filter(|(_, keeps)| *keeps);
        keepers.filter_map(|(by, _)| self.id_of(by)).collect()
    }

    fn is_asking(&self) -> bool {
        self.keeping.keepers_of(self.me).any(|(_, keeps)| !keeps)
    }

    fn deadline(&self, now: Time) -> Option<Time> {
        let ends = (!self.beginnings.is_empty()).then(|| Beginning::look_again(now));
        let memory = (!self.running.is_empty()).then(|| now + MEMORY_LOOK);
        self.keeping.deadline().into_iter().chain(self.ask_again).chain(ends).chain(memory).min()
    }
}

/// Listens in the first directory that can be used.
fn listen(keeping: &mut Keeping, directory: Option<&Path>, me: Incarnation) -> Result<()> {
    keeping.listen(KeepDirectory::of_settings(directory)?, me)?;
    let socket = keeping.socket().unwrap_or_default();
    // Every view tells it to every member.
    if socket.to_str().is_none_or(|path| path.len() > PATH_LEN_MAX) {
        keeping.end();
        return Err(Error::Invalid(format!(
            "{} is no text of at most {PATH_LEN_MAX} bytes: set keep_dir to another directory",
            socket.display()
        )));
    }
    Ok(())
}
