//! A node: the cores, the memory and the socket under one lock, and the threads that bring events.
//!
//! Whoever has an event takes the lock, lets the cores handle it, sends what they put out and drops
//! the lock; nobody sleeps while holding it. Two kinds of thread bring events: the progress thread,
//! and every thread that waits for something. This is the only module that names coherence, fault
//! and net together.

mod choices;
mod collective;
mod control;
#[rustfmt::skip]
pub(crate) mod control_stubs;
mod cpu_affinity;
mod directory;
mod entry;
#[allow(unsafe_code)]
mod exit;
mod faults;
#[allow(unsafe_code)]
mod interrupt;
mod keeping;
mod leaving;
mod limit;
mod local;
mod lock_word;
mod mutation;
mod neighbours;
mod notes;
mod op;
#[allow(unsafe_code)]
mod poller;
mod progress;
mod pump;
mod receive;
mod reception;
mod rpc;
mod run_on;
pub mod status;
mod sync;
#[allow(unsafe_code)]
mod time_slice;
mod wait_policy;
mod wait_times;
mod watch;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam::queue::ArrayQueue;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use parking_lot::Mutex;

use crate::coherence::{Failure, Input, OpId, Placement};
use crate::config::membership::{JOIN_TIMEOUT, NAME_LEN_MAX};
use crate::config::node::{FLUSH_MAX, PAGE_POOL_MAX};
use crate::error::{Error, Result};
use crate::fault::{Arena, ArenaOptions, Backend, check_thread_mask};
use crate::fork;
use crate::key::KeyMark;
use crate::machine::{
    Command, Departure, EarlyBounds, Event, Machine, MachineConfig, Outcome, Why, describe,
};
use crate::membership::{ElementType, Introduction, Kind, RegionRecord, Want};
use crate::net::inject::Injector;
use crate::net::udp::{DATAGRAM_MAX, Outlet, UdpSocket};
use crate::net::{ClusterKey, Endpoint, EndpointConfig, Entropy, TransmitBuf, Version};
use crate::page::{Access, GlobalAddr, Incarnation, NodeId, PageId, PagePool, PeerId, Span, Time};
use crate::process::Process;
use crate::settings::Settings;
use cpu_affinity::CpuAffinity;
use keeping::Keepers;
use leaving::current_thread;
pub use local::LockHandle;
use local::LockTable;
use notes::Notes;
use op::{Ops, WakeWord};
use poller::Poller;
use receive::Kit;
use reception::Reception;
use run_on::RunOn;
use wait_policy::WaitPolicy;
use wait_times::WaitClock;
use watch::Watch;
pub use watch::host;

/// A node of the cluster. Dropping it leaves the cluster.
pub struct Node {
    runtime: Arc<Runtime>,
    progress: Option<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
}

/// What a node is to be.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Addresses, limits and the rest.
    pub settings: Settings,
    /// Daemon or rank.
    pub kind: Kind,
    /// For people: the program's name, or `daemon`.
    pub name: String,
    /// A daemon's place among the daemons: its node id.
    pub index: Option<u16>,
    /// Where the arena is mapped: `None` leaves it to the kernel, for several nodes in one process.
    pub arena_base: Option<usize>,
}

/// Shared by the node's handle, its threads and the page fault handler.
struct Runtime {
    state: Mutex<RuntimeState>,
    arena: Arena,
    socket: UdpSocket,
    addr: SocketAddr,
    /// Tells joiners of this host with another key why they get no answer.
    _mark: Option<KeyMark>,
    /// Its id, once it is a member.
    id: OnceLock<NodeId>,
    poller: Poller,
    /// Ends the search of the progress thread.
    progress_word: WakeWord,
    affinity: CpuAffinity,
    keepers: Keepers,
    clock: Instant,
    /// See [`Runtime::coarse_now`].
    coarse_clock: AtomicU64,
    calls: rpc::Calls,
    /// What threads at the socket need, and no thread uses now.
    kits: ArrayQueue<Kit>,
    kind: Kind,
    stopping: AtomicBool,
    left: AtomicBool,
    /// The program has called `leave`, and the memory is no longer this node's to use.
    memory_given_back: AtomicBool,
    /// The thread in which the process exits: any other that still touches shared memory ends with it, and
    /// need not hear why it is gone. Zero before.
    exiting: AtomicU32,
}

/// What its lock guards.
struct RuntimeState {
    machine: Machine,
    /// Who waits for its calls.
    callers: crate::rpc::Callers,
    /// Members that have gone, of which workers are to tell.
    departed: Vec<PeerId>,
    /// The machine has ended, of which workers are to tell.
    has_ended: bool,
    /// The words of locks.
    words: LockTable,
    /// The memory of nodes whose processes have ended, and that this process runs on.
    run_on: RunOn,
    ops: Ops,
    /// How long threads of this node waited.
    wait_clock: WaitClock,
    notes: Notes,
    /// Processes of this host that are silent, to be looked at without the lock.
    inspections: Vec<(Incarnation, u32)>,
    /// A page fault that no thread waits for has failed.
    failed_fault: Option<Failure>,
    outlet: Outlet,
    transmit: TransmitBuf,
    reception: Reception,
    policy: WaitPolicy,
    watch: Watch,
    /// When the last wait ended, by the clock reading that it took.
    waited_until: Time,
}

impl NodeConfig {
    /// A rank of the program that the settings name.
    pub fn rank(settings: Settings) -> NodeConfig {
        let Settings { program, rank, ranks, arena_base, .. } = settings;
        let name = std::env::args_os().next().unwrap_or_default();
        let name = std::path::Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kind = Kind::Rank { program, rank, ranks };
        NodeConfig { settings, kind, name, index: None, arena_base: Some(arena_base) }
    }

    /// The daemon number `index`; daemon 0 founds the cluster.
    pub fn daemon(settings: Settings, index: u16) -> NodeConfig {
        let name = "daemon".to_owned();
        NodeConfig { settings, kind: Kind::Daemon, name, index: Some(index), arena_base: None }
    }
}

impl Node {
    /// Starts a node and joins the cluster: returns when it is a member and has a session to every
    /// other one, and, for a rank, when all ranks of its program are there. On an error nothing is
    /// left running.
    pub fn start(config: NodeConfig) -> Result<Node> {
        fork::watch()?;
        if matches!(config.kind, Kind::Rank { .. }) {
            // The workers inherit it.
            check_thread_mask()?;
        }
        let runtime = Runtime::new(&config)?;
        // Before anybody receives: an inherited socket may have other nodes' first words already.
        runtime.begin(config.settings.join);
        let progress = runtime.clone().spawn_progress()?;
        let mut node = Node { runtime, progress: Some(progress), workers: Vec::new() };
        node.workers = node.runtime.spawn_workers()?;
        node.workers.push(node.runtime.clone().spawn_keeping()?);
        node.runtime.serve_control(config.settings.join.is_none());
        node.runtime.join(&config)?;
        let id = node.runtime.with_machine(|machine| machine.membership().and_then(|m| m.me()));
        node.runtime.id.set(id.expect("it has joined")).expect("set only here");
        node.runtime.fetch_directory()?;
        if matches!(config.kind, Kind::Rank { .. }) {
            exit::leave_at_exit(Arc::downgrade(&node.runtime));
            interrupt::install()?;
        }
        Ok(node)
    }

    /// Where the node listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.runtime.addr
    }

    /// Its id; in a forked child the parent's.
    pub fn id(&self) -> NodeId {
        *self.runtime.id.get().expect("joined")
    }

    /// Its status now; in a forked child nothing but the parent's id.
    pub fn status(&self) -> status::NodeStatus {
        if fork::is_child() { self.unknown_status() } else { status::whole_status(&self.runtime) }
    }

    /// The same without what takes longer: its host's name, and its part of each region.
    pub(crate) fn counts(&self) -> status::NodeStatus {
        if fork::is_child() {
            return self.unknown_status();
        }
        self.runtime.with_locked(|locked| status::node_status(locked, &self.runtime))
    }

    /// What a forked child knows of its parent's node.
    fn unknown_status(&self) -> status::NodeStatus {
        status::NodeStatus { id: self.runtime.id.get().copied(), ..status::NodeStatus::default() }
    }

    /// The members on this host that the node knows of, their limits and the host's memory.
    pub fn host_memory(&self) -> status::HostMemory {
        status::host_memory(&self.runtime)
    }

    /// Which fault backend runs.
    pub fn backend(&self) -> Backend {
        self.runtime.arena.backend()
    }

    /// Makes or finds a region by its name; every member has mapped it on return. Without a placement, a region
    /// that exists may have any. An error in a thread that has the
    /// signals of page faults blocked.
    pub fn alloc(
        &self,
        name: &str,
        bytes: u64,
        element: ElementType,
        placement: Option<Placement>,
    ) -> Result<RegionRecord> {
        check_thread_mask()?;
        self.runtime.region(name, Some(Want::Any { bytes, element, placement }))?.ok_or(Error::Left)
    }

    /// Finds a region by its name.
    pub fn attach(&self, name: &str, element: ElementType) -> Result<RegionRecord> {
        check_thread_mask()?;
        self.runtime.region(name, Some(Want::Existing { element }))?.ok_or(Error::Left)
    }

    /// Marks a region for removal: it goes when the last node that uses it has left.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.runtime.region(name, None).map(drop)
    }

    /// Asks for pages that will be wanted; returns at once.
    pub fn prefetch(&self, pages: std::ops::Range<u64>, access: Access) {
        let (first, pages) = (PageId(pages.start), pages.end.saturating_sub(pages.start));
        self.runtime.cast(Input::Prefetch { first, pages, access });
    }

    /// Gives a page up, if nothing needs it now.
    pub fn evict(&self, page: PageId) {
        self.runtime.cast(Input::Evict { page });
    }

    /// Where a byte of the arena is mapped in this process.
    pub fn pointer(&self, addr: GlobalAddr) -> Option<*mut u8> {
        self.runtime.arena.pointer(addr)
    }

    /// Which byte of the arena a pointer of this process points to.
    pub fn global(&self, pointer: *const u8) -> Option<GlobalAddr> {
        self.runtime.arena.global(pointer)
    }

    /// Leaves the cluster: writes back what the node owns and gives its locks back. Without daemons,
    /// where the ranks hold the memory, it waits until all ranks leave.
    pub fn leave(&self) -> Result<()> {
        fork::check()?;
        let result = self.runtime.leave(Departure::Wish);
        self.calls().stop_serving();
        result
    }

    /// Waits until somebody asks the cluster to stop. An error names the node whose death ended it.
    pub fn wait_for_shutdown(&self) -> Result<()> {
        fork::check()?;
        match self.runtime.wait_for_end() {
            Why::Stopped(_) | Why::Left => Ok(()),
            fatal @ (Why::Died { .. } | Why::NotJoined(_) | Why::Evicted(_) | Why::Broken(_)) => {
                Err(to_error(&fatal))
            }
        }
    }

    /// Makes [`Node::wait_for_shutdown`] return, here and, from the coordinator, on every node.
    pub fn request_shutdown(&self) {
        self.runtime.request_shutdown();
    }

    /// In a forked child: leaves everything as it is, for the node is the parent's.
    fn abandon(&mut self) {
        // The threads do not exist here: their handles can be neither joined nor detached.
        self.workers.drain(..).chain(self.progress.take()).for_each(std::mem::forget);
        // Locks may be held by threads that are not here, descriptors are shared with the parent.
        std::mem::forget(self.runtime.clone());
    }

    fn stop(&mut self) {
        let Some(progress) = self.progress.take() else { return };
        self.runtime.stopping.store(true, Ordering::Release);
        self.runtime.poller.wake();
        self.runtime.wake_workers();
        self.runtime.keepers.wake();
        // A worker that drops the last handle on the node cannot wait for itself.
        let me = std::thread::current().id();
        for thread in self.workers.drain(..).chain([progress]).filter(|thread| thread.thread().id() != me) {
            let _ = thread.join();
        }
        // What the workers have left.
        self.calls().run_deferred();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if fork::is_child() {
            return self.abandon();
        }
        if self.progress.is_some() {
            let departure = if std::thread::panicking() { Departure::Exit } else { Departure::Wish };
            if let Err(error) = self.runtime.leave(departure) {
                tracing::warn!("leaving: {error}");
            }
            self.stop();
        }
    }
}

impl Runtime {
    fn new(config: &NodeConfig) -> Result<Arc<Runtime>> {
        let settings = &config.settings;
        limit::check(config)?;
        let socket = open_socket(settings)?;
        let addr = socket.local_addr()?;
        check_reach(settings, addr)?;
        let key = key_of(config)?;
        let mark = KeyMark::show(&key, addr);
        let pool = PagePool::new(PAGE_POOL_MAX);
        let arena = Arena::reserve(&ArenaOptions {
            len: settings.arena_size as u64,
            base: config.arena_base,
            backend: choices::backend(config)?,
            mappings_max: None,
            pool,
        })?;
        let incarnation = Incarnation(random()?);
        // Before anybody hears of it.
        let keepers = Keepers::new(settings, config.kind, incarnation)?;
        let mut endpoint = EndpointConfig::new(key, incarnation, Version::ours(), socket.receive_buffer());
        endpoint.mtu_max = crate::config::net::MTU_LIMIT;
        endpoint.encrypt = settings.encrypt;
        endpoint.own_ip = Some(addr.ip()).filter(|ip| !ip.is_unspecified());
        let endpoint = Endpoint::new(endpoint, Entropy::from_system()?);
        let injector = choices::injector(settings)?;
        let machine = MachineConfig {
            intro: Introduction { keeps_at: keepers.keeps_at(), ..introduction(config, incarnation, addr) },
            nearest: settings.nearest,
            silence_max: settings.silence_max_ms.map(Span::from_ms),
            early: EarlyBounds::default(),
            runs_on: true,
            rules: mutation::machine_rules(),
            membership_rules: mutation::membership_rules(),
        };
        let locked = RuntimeState {
            machine: Machine::new(endpoint, machine),
            callers: crate::rpc::Callers::default(),
            departed: Vec::new(),
            has_ended: false,
            words: LockTable::default(),
            run_on: RunOn::default(),
            ops: Ops::default(),
            wait_clock: WaitClock::default(),
            notes: Notes::default(),
            inspections: Vec::new(),
            failed_fault: None,
            outlet: Outlet::new(injector.map(Injector::new)),
            transmit: TransmitBuf::default(),
            reception: Reception::default(),
            policy: WaitPolicy::default(),
            watch: Watch::default(),
            waited_until: Time(0),
        };
        let (poller, clock) = (Poller::new(&socket)?, Instant::now());
        let workers =
            (0..settings.rpc_workers.max(1)).map(|_| poller::wake_event()).collect::<Result<_>>()?;
        let kits = ArrayQueue::new(16);
        let _ = kits.push(Kit::new()?); // There is room.
        let runtime = Arc::new_cyclic(|node: &Weak<Runtime>| Runtime {
            state: Mutex::new(locked),
            arena,
            socket,
            addr,
            _mark: mark,
            id: OnceLock::new(),
            poller,
            progress_word: WakeWord::default(),
            clock,
            coarse_clock: AtomicU64::new(0),
            calls: rpc::Calls::new(node.clone(), clock, workers),
            affinity: CpuAffinity::new(),
            keepers,
            kits,
            kind: config.kind,
            stopping: AtomicBool::new(false),
            left: AtomicBool::new(false),
            memory_given_back: AtomicBool::new(false),
            exiting: AtomicU32::new(0),
        });
        let sink: Weak<Runtime> = Arc::downgrade(&runtime);
        runtime.arena.deliver_to(sink);
        Ok(runtime)
    }

    fn spawn_progress(self: Arc<Self>) -> Result<JoinHandle<()>> {
        // Signals that end a process may still end it while every other thread waits with all of them
        // blocked; any other handler of the application's runs on the application's own threads.
        let mut blocked = SigSet::all();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
            blocked.remove(signal);
        }
        blocked.remove(Signal::SIGBUS);
        blocked.remove(Signal::SIGSEGV);
        let mask = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK).expect("valid arguments");
        let thread =
            std::thread::Builder::new().name("pm-progress".into()).spawn(move || self.run_progress());
        mask.thread_set_mask().expect("valid arguments");
        thread.map_err(|error| Error::os("starting the progress thread", error))
    }

    fn now(&self) -> Time {
        time_since(self.clock)
    }

    /// When the progress thread last looked: at most 250 ms ago if it got a core, and one load.
    fn coarse_now(&self) -> Time {
        Time(self.coarse_clock.load(Ordering::Relaxed))
    }

    fn with_machine<T>(&self, look: impl FnOnce(&mut Machine) -> T) -> T {
        look(&mut self.enter().machine)
    }

    fn with_locked<T>(&self, look: impl FnOnce(&mut RuntimeState) -> T) -> T {
        look(&mut self.enter())
    }

    fn begin(&self, join: Option<SocketAddr>) {
        self.enter().machine.start(self.now(), join);
    }

    fn join(&self, config: &NodeConfig) -> Result<()> {
        let join = config.settings.join;
        let ended = {
            let mut locked = self.enter();
            let until = self.now() + JOIN_TIMEOUT;
            let cell = self.start_op(&mut locked, |op| Event::Command { op, command: Command::Join });
            if locked.machine.lifecycle().why().is_some() {
                locked.end(cell.op(), Outcome::Membership);
            }
            self.wait(&mut locked, &cell, Some(until))
        };
        let with = join.map_or_else(|| self.addr.to_string(), |addr| addr.to_string());
        self.with_machine(|machine| {
            if let Some(fatal) = machine.lifecycle().why() {
                return Err(match fatal {
                    Why::NotJoined(reason) => {
                        Error::Refused(format!("cannot join the cluster at {with}: {reason}"))
                    }
                    Why::Left | Why::Died { .. } | Why::Evicted(_) | Why::Stopped(_) | Why::Broken(_) => {
                        to_error(fatal)
                    }
                });
            }
            ended.map(drop).ok_or_else(|| Error::Timeout {
                what: format!("joining the cluster at {with}: {}", machine.missing()),
                after_ms: JOIN_TIMEOUT.0 / 1_000_000,
            })
        })
        .and_then(|()| match self.kind {
            // Nobody may leave before everybody has seen everybody: a view without it would come
            // instead of the one that completes the program.
            Kind::Rank { .. } => self.barrier(FIRST_BARRIER, None),
            Kind::Daemon => Ok(()),
        })
        .inspect_err(|error| {
            self.left.store(true, Ordering::Release);
            self.close(&format!("could not join: {error}"));
        })
    }

    /// Starts an operation and waits for it. The error names the dead node if it fails because of one.
    fn call(&self, event: impl FnOnce(OpId) -> Event<'static>) -> Result<Outcome> {
        fork::check()?;
        self.sleep_if_ending(current_thread);
        let mut locked = self.enter();
        if let Some(fatal) = locked.machine.lifecycle().why() {
            return Err(to_error(fatal));
        }
        if locked.machine.lifecycle().is_closed() {
            return Err(Error::Left);
        }
        let cell = self.start_op(&mut locked, event);
        let outcome = self.wait(&mut locked, &cell, None);
        if self.is_ending() {
            // What it failed of may be that other ranks end too.
            locked.unlocked(|| self.sleep_if_ending(current_thread));
        }
        if let Some(fatal) = locked.machine.lifecycle().why() {
            return Err(to_error(fatal));
        }
        if locked.machine.lifecycle().is_closed() && matches!(outcome, Some(Outcome::Membership)) {
            return Err(Error::Left);
        }
        outcome.ok_or(Error::Left)
    }

    /// Asks the coordinator to count this node among the users of the region that has the page.
    fn use_region(&self, page: PageId, generation: Option<u64>) -> Result<()> {
        let command = Command::Use(page, generation);
        let outcome = self.call(|op| Event::Command { op, command })?;
        match outcome {
            Outcome::Region(result) => result.map(drop).map_err(Error::Refused),
            Outcome::Coherence(_) | Outcome::Membership | Outcome::Left(_) => Err(Error::Left),
        }
    }

    /// Gives the machine an event that nobody waits for.
    /// In a forked child it does nothing: such an event is a hint, or for the parent to give.
    fn cast(&self, input: Input<'_>) {
        if fork::is_child() {
            return;
        }
        self.tell(&mut self.enter(), Event::Thread(input));
    }

    fn region(&self, name: &str, want: Option<Want>) -> Result<Option<RegionRecord>> {
        let name = name.to_owned();
        let command = match want {
            Some(want) => Command::Region(name, want),
            None => Command::Remove(name),
        };
        let outcome = self.call(|op| Event::Command { op, command })?;
        match outcome {
            Outcome::Region(result) => result.map_err(Error::Refused),
            Outcome::Coherence(_) | Outcome::Membership | Outcome::Left(_) => Err(Error::Left),
        }
    }

    /// Ends all sessions; the peers are told why.
    fn close(&self, reason: &str) {
        self.tell(&mut self.enter(), Event::Close(reason));
        self.calls.directory.end();
        self.calls.mailbox.end();
        self.keepers.end();
    }

    fn wait_for_end(&self) -> Why {
        let fatal = {
            let mut locked = self.enter();
            loop {
                if let Some(fatal) = locked.machine.lifecycle().why().cloned() {
                    break fatal;
                }
                if locked.machine.lifecycle().is_closed() {
                    break Why::Left;
                }
                let cell = locked.ops.begin();
                let _ = self.wait(&mut locked, &cell, None);
            }
        };
        // The last word must arrive before this node goes, and the answer to who asked it to.
        let until = self.now() + FLUSH_MAX;
        self.flush_while(|locked| {
            let now = self.now();
            now < until && (self.calls.endpoint.is_serving() || locked.machine.has_pending(now))
        });
        fatal
    }

    fn request_shutdown(&self) {
        self.tell(&mut self.enter(), Event::Shutdown);
    }

    /// The error that a node has died, or has left; with what that matters for.
    fn gone(&self, node: NodeId, had: Option<&str>) -> Error {
        let (known, has_died) =
            self.with_machine(|machine| (machine.known_name(node), machine.has_died(node)));
        let name = known.unwrap_or_else(|| "of which nothing more is known".into());
        match (has_died, had) {
            (true, Some(had)) => Error::NodeDied { node, name: format!("{name}, {had}") },
            (true, None) => Error::NodeDied { node, name },
            (false, Some(had)) => Error::NodeLeft { node, name: format!("{name}, {had},") },
            (false, None) => Error::NodeLeft { node, name },
        }
    }

    fn failure(&self, failure: Failure) -> Error {
        match failure {
            Failure::NodeDied(node) => self.gone(node, None),
            Failure::PageLost(node) => self.gone(node, Some("which had the page's only copy")),
            Failure::LockBroken(node) => self.gone(node, Some("which had the lock")),
            Failure::NoRegion => Error::Invalid("the address is in no region".into()),
            Failure::Leaving => Error::Left,
            Failure::Abandoned | Failure::LockBusy => {
                Error::Timeout { what: "waiting for other ranks".into(), after_ms: 0 }
            }
            Failure::BarrierMisuse => Error::Invalid(
                "two threads of one rank at the same barrier, or ranks that disagree about its members"
                    .into(),
            ),
        }
    }
}

/// The barrier that programs call.
const PROGRAM_BARRIER: u32 = 0;
/// Barrier of the ranks' common start.
const FIRST_BARRIER: u32 = u32::MAX - 1;
/// Barrier of the ranks' common end, where they hold the memory.
const LAST_BARRIER: u32 = u32::MAX;

fn to_error(fatal: &Why) -> Error {
    match fatal {
        Why::Died { node, name } => Error::NodeDied { node: *node, name: name.clone() },
        Why::Evicted(why) => Error::Evicted { why: why.clone() },
        Why::Left => Error::Left,
        Why::NotJoined(_) | Why::Stopped(_) | Why::Broken(_) => Error::Refused(describe(fatal)),
    }
}

/// The key that a node has, or, for a founder without one, a random key: then no other node can join.
fn key_of(config: &NodeConfig) -> Result<ClusterKey> {
    let settings = &config.settings;
    let alone = match (&settings.key_file, settings.join, config.kind) {
        (Some(path), Some(addr), _) => return ClusterKey::load_to_join(path, addr),
        (Some(path), None, _) => return ClusterKey::load(path),
        (None, Some(addr), _) => {
            return Err(Error::Invalid(format!(
                "joining the cluster at {addr} needs its key: set PAGEMESH_KEY_FILE or --key-file to its key file"
            )));
        }
        (None, None, Kind::Rank { ranks, .. }) if ranks > 1 => {
            return Err(Error::Invalid(format!(
                "rank 0 founds a cluster without a key, which {} more ranks could not join: set PAGEMESH_KEY_FILE",
                ranks - 1
            )));
        }
        (None, None, Kind::Rank { .. }) => true,
        (None, None, Kind::Daemon) => false,
    };
    if !alone {
        tracing::warn!("no key file is set: this cluster has a random key, and nobody can join it");
    }
    ClusterKey::random()
}

/// Without a key nobody can join, so nobody else needs to reach the node.
fn check_reach(settings: &Settings, addr: SocketAddr) -> Result<()> {
    if settings.key_file.is_some() || addr.ip().is_loopback() {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "a node without a key binds to loopback only, and {addr} is not: set PAGEMESH_KEY_FILE or --key-file, or bind to 127.0.0.1:0"
    )))
}

fn open_socket(settings: &Settings) -> Result<UdpSocket> {
    let buffer = settings.socket_buffer.unwrap_or(crate::config::net::SOCKET_BUFFER);
    match &settings.socket {
        None => UdpSocket::bind(settings.bind, buffer),
        Some(socket) => UdpSocket::adopt(socket.take().map_err(Error::Invalid)?, buffer),
    }
}

fn introduction(config: &NodeConfig, incarnation: Incarnation, addr: SocketAddr) -> Introduction {
    let own = Process::own();
    Introduction {
        incarnation,
        kind: config.kind,
        // For people; every view carries it.
        name: config.name[..config.name.floor_char_boundary(NAME_LEN_MAX)].to_owned(),
        addr,
        host: watch::host(),
        pid: own.pid,
        started: own.started,
        memory_max: config.settings.memory_max,
        arena_base: config.settings.arena_base as u64,
        arena_size: config.settings.arena_size as u64,
        keeps_at: None,
        index: config.index,
    }
}

fn random() -> Result<u64> {
    getrandom::u64().map_err(|error| Error::Refused(format!("random numbers: {error}")))
}

/// The time of the cores, by the node's clock. Not from zero: cores subtract spans from it.
fn time_since(clock: Instant) -> Time {
    Time(clock.elapsed().as_nanos() as u64) + Span::from_ms(1_000)
}

/// Receive buffers are as long as the longest datagram.
fn receive_buffer() -> Box<[u8]> {
    vec![0; DATAGRAM_MAX].into_boxed_slice()
}
