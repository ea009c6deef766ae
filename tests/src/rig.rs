//! A cluster of threads: each rank is a node of its own in this process.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use pagemesh::net::ClusterKey;
use pagemesh::{Dsm, Node, NodeConfig, NodeId, Settings};

/// Longest that the ranks of a test may take: far beyond every bound of the system.
const PROGRAM_MAX: Duration = Duration::from_secs(60);

/// How the cluster of a test is built.
#[derive(Clone)]
pub struct Rig {
    /// Daemons of the cluster; none: the ranks hold the memory.
    pub daemons: u16,
    /// Ranks of each program.
    pub ranks: u32,
    /// Settings of all nodes.
    pub settings: Settings,
    longest: Duration,
}

impl Rig {
    /// `ranks` ranks that hold the memory themselves.
    pub fn without_daemons(ranks: u32) -> Rig {
        Rig { daemons: 0, ranks, settings: small(), longest: PROGRAM_MAX }
    }

    /// `ranks` ranks beside `daemons` daemons.
    pub fn with_daemons(daemons: u16, ranks: u32) -> Rig {
        Rig { daemons, ranks, settings: small(), longest: PROGRAM_MAX }
    }

    /// Lets its programs take so much longer.
    pub fn longer_by(mut self, time: Duration) -> Rig {
        self.longest += time;
        self
    }

    /// Sets one setting by its name.
    pub fn set(mut self, key: &str, value: &str) -> Rig {
        self.settings.apply(key, value).expect("a good setting");
        self
    }

    /// Runs `program` on every rank, each in a thread; returns what each returned, by rank.
    pub fn run<T: Send + 'static>(&self, program: impl Fn(Dsm) -> T + Send + Sync + 'static) -> Vec<T> {
        let daemons = self.start_daemons();
        let results = self.run_program(daemons.first().map(Node::local_addr), program);
        stop(daemons);
        results
    }

    /// Starts the daemons alone.
    pub fn start_daemons(&self) -> Vec<Node> {
        let mut daemons: Vec<Node> = Vec::new();
        for index in 0..self.daemons {
            let mut settings = self.settings.clone();
            settings.join = daemons.first().map(Node::local_addr);
            daemons.push(Node::start(NodeConfig::daemon(settings, index)).expect("a daemon starts"));
        }
        daemons
    }

    /// Runs `program` in the cluster of `coordinator`, or in one of its own.
    pub fn run_program<T: Send + 'static>(
        &self,
        coordinator: Option<SocketAddr>,
        program: impl Fn(Dsm) -> T + Send + Sync + 'static,
    ) -> Vec<T> {
        let number = new_program();
        // Without daemons rank 0 founds the cluster: the others need the address that it gets.
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let root = socket.local_addr().expect("an address");
        let mut root_socket = Some(socket);
        let program = Arc::new(program);
        let (sender, results) = mpsc::channel();
        for rank in 0..self.ranks {
            let mut settings = self.rank(number, rank, coordinator.or((rank > 0).then_some(root)));
            if settings.join.is_none() {
                let socket = root_socket.take().expect("one root");
                settings.socket = Some(socket.into());
            }
            let (program, sender) = (program.clone(), sender.clone());
            std::thread::spawn(move || {
                let result = catch_unwind(AssertUnwindSafe(|| program(join(settings))));
                // The test that listened may have failed already.
                let _ = sender.send((rank, result));
            });
        }
        let until = Instant::now() + self.longest;
        let mut ended = Vec::new();
        for _ in 0..self.ranks {
            let left = until.saturating_duration_since(Instant::now());
            let (rank, result) = results.recv_timeout(left).expect("every rank ends in time");
            ended.push((rank, result.unwrap_or_else(|panic| resume_unwind(panic))));
        }
        ended.sort_by_key(|&(rank, _)| rank);
        ended.into_iter().map(|(_, result)| result).collect()
    }

    /// The settings of one rank.
    pub fn rank(&self, program: u64, rank: u32, join: Option<SocketAddr>) -> Settings {
        let nearest = (self.daemons > 0).then(|| NodeId((rank % u32::from(self.daemons.max(1))) as u16));
        Settings { program, rank, ranks: self.ranks, join, nearest, ..self.settings.clone() }
    }
}

/// Joins with an arena at any address.
pub fn join(settings: Settings) -> Dsm {
    Dsm::builder().settings(settings).arena_anywhere().join().expect("joins")
}

/// Stops a cluster of daemons.
pub fn stop(daemons: Vec<Node>) {
    if let Some(coordinator) = daemons.first() {
        coordinator.request_shutdown();
    }
}

/// A number that no other program of this process has.
pub fn new_program() -> u64 {
    static NEXT_PROGRAM: AtomicU64 = AtomicU64::new(1);
    NEXT_PROGRAM.fetch_add(1, Ordering::Relaxed)
}

/// Waits for a condition that other threads bring about; panics after a bound far beyond the usual.
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < give_up, "in vain: {what}");
        std::thread::yield_now();
    }
}

/// Settings of small nodes, all with one key.
pub fn small() -> Settings {
    let key_file = Some(key_file().to_owned());
    Settings { arena_size: 1 << 28, memory_max: 1 << 28, key_file, ..Settings::default() }
}

/// The key of [`small`] nodes.
pub fn key() -> ClusterKey {
    ClusterKey::load(key_file()).expect("a key file")
}

/// A file beside the test programs, which all test programs of a build share.
fn key_file() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let program = std::env::current_exe().expect("this program's file");
        let file = program.with_file_name("tests.key");
        if !file.exists() {
            let fresh = program.with_file_name(format!("tests.key.{}", std::process::id()));
            ClusterKey::generate(&fresh).expect("a key file");
            match std::fs::hard_link(&fresh, &file) {
                // Another test program was first: its key is everybody's.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                linked => linked.expect("a key file"),
            }
            std::fs::remove_file(&fresh).expect("our own file");
        }
        file
    })
}
