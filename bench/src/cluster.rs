//! Clusters of processes: how one is started, and its ranks seen from the parent.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::RawFd;

use pagemesh::Settings;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::child::{self, AsDescriptor, Child};
use crate::rank::{Answer, Command};
use crate::role::{Part, Role};

/// What a rank is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RankSettings {
    rank: u32,
    ranks: u32,
    join: Option<SocketAddr>,
    socket: Option<RawFd>,
    /// Further settings by name.
    more: BTreeMap<String, String>,
}

/// What a daemon is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DaemonSettings {
    index: u16,
    join: Option<SocketAddr>,
    socket: Option<RawFd>,
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
    pub(crate) daemons: Vec<Child<(), ()>>,
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
        let (mut daemons, mut ranks) = (Vec::new(), Vec::new());
        for index in 0..self.daemons {
            let (join, socket) = founder_or_joiner(index == 0, &root)?;
            let role = Role::new(Part::Daemon(DaemonSettings { index, join, socket }));
            let mut daemon = start(&role, &root, socket)?;
            daemon.hear()?;
            daemons.push(daemon);
        }
        for rank in 0..self.ranks {
            let (join, socket) = founder_or_joiner(rank == 0 && self.daemons == 0, &root)?;
            let more = self.settings.clone();
            let role = Role::new(Part::Rank(RankSettings { rank, ranks: self.ranks, join, socket, more }));
            ranks.push(start(&role, &root, socket)?);
        }
        // A rank has joined when all have.
        for rank in &mut ranks {
            Child::<Command, Answer>::hear(rank)?;
        }
        Ok(Cluster { ranks, daemons })
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
        let mut settings = Settings { program: 1, ..Settings::default() };
        (settings.rank, settings.ranks) = (self.rank, self.ranks);
        (settings.join, settings.socket_fd) = (self.join, self.socket);
        for (key, value) in &self.more {
            settings.apply(key, value).map_err(|error| format!("{key}: {error}"))?;
        }
        Ok(settings)
    }
}

impl DaemonSettings {
    /// Which daemon, and what the library wants to know.
    pub(crate) fn settings(&self) -> (u16, Settings) {
        let (join, socket_fd) = (self.join, self.socket);
        (self.index, Settings { join, socket_fd, ..Settings::default() })
    }
}
