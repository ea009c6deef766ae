//! Another call facility in the comparison of calls: what it must be able to do, and its two processes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::child::{self, Child};
use crate::role::{Part, Role};

/// A call facility with an echo, used as its own documentation shows it.
pub trait Facility {
    /// Its name in the figures.
    fn name(&self) -> &'static str;
    /// Serves echoes on this listener until the process ends.
    fn serve(&self, listener: TcpListener) -> Result<()>;
    /// Connects to a server.
    fn connect(&self, addr: SocketAddr) -> Result<Box<dyn Caller>>;
}

/// A client of a [`Facility`].
pub trait Caller {
    /// Makes `count` calls of `bytes` each, one after the other; microseconds of each.
    fn one_by_one(&mut self, count: usize, bytes: usize) -> Result<Vec<f64>>;
    /// Makes `count` calls of `bytes` each with `in_flight` of them under way; calls a second.
    fn together(&mut self, count: usize, bytes: usize, in_flight: usize) -> Result<f64>;
}

/// A command to the client's process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Command {
    OneByOne { count: usize, bytes: usize },
    Together { count: usize, bytes: usize, in_flight: usize },
}

/// Both processes of a facility.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    client: Child<Command, Vec<f64>>,
    _server: Child<Command, Vec<f64>>,
}

impl Peer {
    pub(crate) fn start(facility: &dyn Facility) -> Result<Peer> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (addr, socket) = (listener.local_addr()?, child::number(&listener));
        let name = facility.name();
        let server =
            Child::start(&Role::new(Part::PeerServer { facility: name.to_owned(), socket }), &[&listener])?;
        let mut client = Child::start(&Role::new(Part::PeerClient { facility: name.to_owned(), addr }), &[])?;
        client.hear()?;
        Ok(Peer { name, client, _server: server })
    }

    pub(crate) fn one_by_one(&mut self, count: usize, bytes: usize) -> Result<Vec<f64>> {
        self.client.ask(&Command::OneByOne { count, bytes })
    }

    pub(crate) fn together(&mut self, count: usize, bytes: usize, in_flight: usize) -> Result<f64> {
        Ok(self.client.ask(&Command::Together { count, bytes, in_flight })?[0])
    }
}

/// In a child: runs the server of a facility.
pub(crate) fn serve(facilities: &[&dyn Facility], name: &str, socket: RawFd) -> Result<()> {
    find(facilities, name)?.serve(TcpListener::from(child::adopt(socket)))
}

/// In a child: runs the client of a facility.
pub(crate) fn call(facilities: &[&dyn Facility], name: &str, addr: SocketAddr) -> Result<()> {
    let mut caller = find(facilities, name)?.connect(addr)?;
    child::answer::<Vec<f64>>(&Ok(Vec::new()))?;
    child::serve(|command| match command {
        Command::OneByOne { count, bytes } => caller.one_by_one(count, bytes),
        Command::Together { count, bytes, in_flight } => {
            caller.together(count, bytes, in_flight).map(|rate| vec![rate])
        }
    })
}

fn find<'a>(facilities: &[&'a dyn Facility], name: &str) -> Result<&'a dyn Facility> {
    let found = facilities.iter().find(|facility| facility.name() == name);
    found.copied().ok_or_else(|| format!("this program has no facility {name}").into())
}
