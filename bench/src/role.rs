//! What a process of this program can be.

use std::net::SocketAddr;
use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

use crate::floor::{FaultSide, Wait, Wire};
use crate::peer::{self, Facility};
use crate::{Result, awake, child, cluster, floor, idle, load, matmul, net, rank};

/// The part of a child process, told on its command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Role {
    parent: u32,
    part: Part,
}

/// The parts; descriptors are of inherited sockets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Part {
    /// A rank of a cluster.
    Rank(cluster::RankSettings),
    /// A daemon of a cluster.
    Daemon(cluster::DaemonSettings),
    /// A computing thread on every core, when told so.
    Load,
    /// The serving side of a bare fault.
    FaultServer(FaultSide),
    /// The faulting side of a bare fault.
    FaultClient(FaultSide),
    /// One of the processes of a bare barrier or hand-over.
    Meet { index: usize, sockets: Vec<RawFd>, wait: Wait },
    /// The sending side of a bare bulk transfer.
    PullServer { socket: RawFd },
    /// The receiving side of one.
    PullClient { socket: RawFd },
    /// One end of a TCP connection.
    Tcp { socket: RawFd },
    /// One endpoint of ours.
    Endpoint(net::EndpointSettings),
    /// One side of a bare echo.
    Echo { wire: Wire, socket: RawFd },
    /// Serves the echoes of another call facility.
    PeerServer { facility: String, socket: RawFd },
    /// Calls them.
    PeerClient { facility: String, addr: SocketAddr },
    /// Keeps the cores awake.
    Awake,
    /// Threads that multiply matrices in private memory.
    Threads,
}

impl Role {
    pub(crate) fn new(part: Part) -> Role {
        Role { parent: std::process::id(), part }
    }

    pub(crate) fn parse(text: &str) -> std::result::Result<Role, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// For messages to people.
    pub(crate) fn name(&self) -> &'static str {
        match self.part {
            Part::Rank(_) => "rank",
            Part::Daemon(_) => "daemon",
            Part::Load => "computing threads",
            Part::FaultServer(_) => "server of the fault's floor",
            Part::FaultClient(_) => "client of the fault's floor",
            Part::Meet { .. } => "bare barrier",
            Part::PullServer { .. } => "server of bulk UDP",
            Part::PullClient { .. } => "client of bulk UDP",
            Part::Tcp { .. } => "TCP",
            Part::Endpoint(_) => "endpoint",
            Part::Echo { .. } => "bare echo",
            Part::PeerServer { .. } => "server of a peer",
            Part::PeerClient { .. } => "client of a peer",
            Part::Awake => "awake",
            Part::Threads => "multiplying threads",
        }
    }

    /// Plays the part until the parent closes the pipe.
    pub(crate) fn run(self, facilities: &[&dyn Facility]) -> Result<()> {
        child::die_with(self.parent)?;
        match self.part {
            Part::Rank(settings) => rank::serve(settings),
            Part::Daemon(settings) => idle::serve(settings),
            Part::Load => load::serve(),
            Part::FaultServer(side) => floor::serve_faults(&side),
            Part::FaultClient(side) => floor::take_faults(&side),
            Part::Meet { index, sockets, wait } => floor::meet(index, &sockets, wait),
            Part::PullServer { socket } => floor::serve_pulls(socket),
            Part::PullClient { socket } => floor::pull(socket),
            Part::Tcp { socket } => floor::tcp(socket),
            Part::Endpoint(settings) => net::serve(&settings),
            Part::Echo { wire, socket } => floor::echo(wire, socket),
            Part::PeerServer { facility, socket } => peer::serve(facilities, &facility, socket),
            Part::PeerClient { facility, addr } => peer::call(facilities, &facility, addr),
            Part::Awake => awake::serve(),
            Part::Threads => matmul::serve_threads(),
        }
    }
}
