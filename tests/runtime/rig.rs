//! A cluster of threads: each rank is a node of its own in this process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dsm::{Dsm, Node, NodeConfig, Settings};

/// How the cluster of a test is built.
#[derive(Clone)]
pub(crate) struct Rig {
    pub(crate) daemons: u16,
    pub(crate) ranks: u32,
    pub(crate) settings: Settings,
}

impl Rig {
    /// `ranks` ranks that hold the memory themselves.
    pub(crate) fn without_daemons(ranks: u32) -> Rig {
        Rig { daemons: 0, ranks, settings: small() }
    }

    /// `ranks` ranks beside `daemons` daemons.
    pub(crate) fn with_daemons(daemons: u16, ranks: u32) -> Rig {
        Rig { daemons, ranks, settings: small() }
    }

    /// Sets one setting by its name.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Rig {
        self.settings.apply(key, value).expect("a good setting");
        self
    }

    /// Runs `program` on every rank, each in a thread; returns what each returned, by rank.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        program: impl Fn(Dsm) -> T + Send + Sync + 'static,
    ) -> Vec<T> {
        let daemons = self.start_daemons();
        let results = self.run_program(daemons.first().map(Node::local_addr), Arc::new(program));
        if let Some(coordinator) = daemons.first() {
            coordinator.request_shutdown();
        }
        results
    }

    /// Starts the daemons alone.
    pub(crate) fn start_daemons(&self) -> Vec<Node> {
        let mut daemons: Vec<Node> = Vec::new();
        for index in 0..self.daemons {
            let mut settings = self.settings.clone();
            settings.join = daemons.first().map(Node::local_addr);
            daemons.push(Node::start(NodeConfig::daemon(settings, index)).expect("a daemon starts"));
        }
        daemons
    }

    /// Runs `program` in the cluster of `coordinator`, or in one of its own.
    pub(crate) fn run_program<T: Send + 'static>(
        &self,
        coordinator: Option<SocketAddr>,
        program: Arc<dyn Fn(Dsm) -> T + Send + Sync>,
    ) -> Vec<T> {
        static NEXT_PROGRAM: AtomicU64 = AtomicU64::new(1);
        let number = NEXT_PROGRAM.fetch_add(1, Ordering::Relaxed);
        // Without daemons rank 0 founds the cluster: the others need the address that it gets.
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let root = socket.local_addr().expect("an address");
        let mut root_socket = Some(socket);
        let mut threads = Vec::new();
        for rank in 0..self.ranks {
            let mut settings = self.settings.clone();
            (settings.program, settings.rank, settings.ranks) = (number, rank, self.ranks);
            settings.join = coordinator.or((rank > 0).then_some(root));
            if self.daemons > 0 {
                settings.nearest = Some(dsm::NodeId((rank % u32::from(self.daemons)) as u16));
            }
            if settings.join.is_none() {
                let socket = root_socket.take().expect("one root");
                settings.socket_fd = Some(std::os::fd::IntoRawFd::into_raw_fd(socket));
            }
            let program = program.clone();
            threads.push(std::thread::spawn(move || {
                let dsm = Dsm::builder().settings(settings).arena_anywhere().join().expect("joins");
                program(dsm)
            }));
        }
        threads.into_iter().map(|thread| thread.join().expect("a rank ends well")).collect()
    }
}

fn small() -> Settings {
    Settings { arena_size: 1 << 28, memory_max: 1 << 28, ..Settings::default() }
}
