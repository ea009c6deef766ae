//! Clusters of processes: how one is started, and its ranks seen from the parent.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use pagemesh::Settings;
use pagemesh::net::ClusterKey;
use pagemesh::settings::Encrypt;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::child::{self, AsDescriptor, Child};
use crate::rank::{Answer, Command, Traffic};
use crate::role::{Part, Role};

/// What a rank is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RankSettings {
    rank: u32,
    ranks: u32,
    join: Option<SocketAddr>,
    socket: Option<RawFd>,
    key_file: PathBuf,
    /// Further settings by name.
    more: BTreeMap<String, String>,
}

/// What a daemon is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DaemonSettings {
    index: u16,
    join: Option<SocketAddr>,
    socket: Option<RawFd>,
    key_file: PathBuf,
}

/// How a cluster is built.
#[derive(Clone, Default, Debug)]
pub(crate) struct Plan {
    pub(crate) daemons: u16,
    pub(crate) ranks: u32,
    settings: BTreeMap<String, String>,
}

/// Its processes. All end when it is dropped.
pub(crate) struct Cluster {
    pub(crate) ranks: Vec<Child<Command, Answer>>,
    pub(crate) daemons: Vec<Child<(), Traffic>>,
}

impl Plan {
    /// Ranks that hold the memory themselves.
    pub(crate) fn ranks(ranks: u32) -> Plan {
        Plan { ranks, ..Plan::default() }
    }

    /// Sets one of the ranks' settings.
    pub(crate) fn set(mut self, key: &str, value: impl Into<String>) -> Plan {
        self.settings.insert(key.to_owned(), value.into());
        self
    }

    /// Starts the cluster; returns when all have joined.
    pub(crate) fn start(&self) -> Result<Cluster> {
        // The founder inherits its socket, so that the others know its address before it runs.
        let root = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let key = KeyFile::generate()?;
        let (mut daemons, mut ranks) = (Vec::new(), Vec::new());
        for index in 0..self.daemons {
            let (join, socket) = founder_or_joiner(index == 0, &root)?;
            let key_file = key.0.clone();
            let role = Role::new(Part::Daemon(DaemonSettings { index, join, socket, key_file }));
            let mut daemon = start(&role, &root, socket)?;
            daemon.hear()?;
            daemons.push(daemon);
        }
        for rank in 0..self.ranks {
            let (join, socket) = founder_or_joiner(rank == 0 && self.daemons == 0, &root)?;
            let (ranks_of_all, key_file, more) = (self.ranks, key.0.clone(), self.settings.clone());
            let settings = RankSettings { rank, ranks: ranks_of_all, join, socket, key_file, more };
            ranks.push(start(&Role::new(Part::Rank(settings)), &root, socket)?);
        }
        // A rank has joined when all have.
        for rank in &mut ranks {
            Child::<Command, Answer>::hear(rank)?;
        }
        Ok(Cluster { ranks, daemons })
    }
}

/// A key file that is needed until all have joined.
struct KeyFile(PathBuf);

impl KeyFile {
    fn generate() -> Result<KeyFile> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(format!("pagemesh-bench-{process}-{count}.key"));
        ClusterKey::generate(&path)?;
        Ok(KeyFile(path))
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn founder_or_joiner(founds: bool, root: &UdpSocket) -> Result<(Option<SocketAddr>, Option<RawFd>)> {
    Ok(if founds { (None, Some(child::number(root))) } else { (Some(root.local_addr()?), None) })
}

fn start<C: Serialize, R: serde::de::DeserializeOwned>(
    role: &Role,
    root: &UdpSocket,
    socket: Option<RawFd>,
) -> Result<Child<C, R>> {
    let inherited: &[&dyn AsDescriptor] = if socket.is_some() { &[root] } else { &[] };
    Child::start(role, inherited)
}

impl Cluster {
    /// Asks one rank.
    pub(crate) fn ask(&mut self, rank: usize, command: &Command) -> Result<Answer> {
        self.ranks[rank].ask(command)
    }

    /// Asks one rank for numbers.
    pub(crate) fn times(&mut self, rank: usize, command: &Command) -> Result<Vec<f64>> {
        self.ask(rank, command)?.times()
    }

    /// Tells these ranks the same, and waits for all their answers.
    pub(crate) fn all(&mut self, ranks: std::ops::Range<usize>, command: &Command) -> Result<Vec<Answer>> {
        for rank in &mut self.ranks[ranks.clone()] {
            rank.tell(command)?;
        }
        self.ranks[ranks].iter_mut().map(Child::hear).collect()
    }
}

impl RankSettings {
    /// What the library wants to know.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let mut settings = Settings { program: 1, encrypt: encrypt()?, ..Settings::default() };
        (settings.rank, settings.ranks) = (self.rank, self.ranks);
        settings.join = self.join;
        settings.socket = self.socket.map(|socket| child::adopt(socket).into());
        settings.key_file = Some(self.key_file.clone());
        for (key, value) in &self.more {
            settings.apply(key, value).map_err(|error| format!("{key}: {error}"))?;
        }
        Ok(settings)
    }
}

impl DaemonSettings {
    /// Which daemon, and what the library wants to know.
    pub(crate) fn settings(&self) -> Result<(u16, Settings)> {
        let socket = self.socket.map(|socket| child::adopt(socket).into());
        let (join, key_file) = (self.join, Some(self.key_file.clone()));
        Ok((self.index, Settings { join, socket, key_file, encrypt: encrypt()?, ..Settings::default() }))
    }
}

/// `PAGEMESH_ENCRYPT` is the one setting that a run obeys: figures are given for both.
pub(crate) fn encrypt() -> Result<Encrypt> {
    match std::env::var("PAGEMESH_ENCRYPT") {
        Ok(name) => Encrypt::of_name(&name).ok_or_else(|| format!("PAGEMESH_ENCRYPT: `{name}`").into()),
        Err(_) => Ok(Encrypt::default()),
    }
}
