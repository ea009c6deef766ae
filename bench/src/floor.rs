//! The floors: the same work by the bare means of the machine, with no protocol. Nothing of the
//! library is used here, and the unsafe code of the benchmarks lives here.

mod bulk;
mod client;
mod echo;
mod meet;
mod server;
mod tcp;
mod uffd;
mod view;

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::RawFd;

use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};

use crate::Result;

pub(crate) use bulk::{Pull, Puller, pull, serve_pulls};
pub(crate) use client::{ClientCommand, take_faults};
pub(crate) use echo::{Echo, Wire, echo};
pub(crate) use meet::{Meeting, meet};
pub(crate) use server::{ServerCommand, serve_faults};
pub(crate) use tcp::{TcpCommand, tcp};

/// Receive buffer to ask for: what Linux gives every user by default.
const SOCKET_BUFFER: usize = 212_992;

/// How a load or store to a page that is not here is noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
pub(crate) enum Mechanism {
    /// userfaultfd, SIGBUS in the faulting thread.
    Signal,
    /// userfaultfd, a message to a handler thread.
    Thread,
    /// Page protection, SIGSEGV in the faulting thread.
    Mprotect,
}

impl Mechanism {
    pub(crate) const ALL: [Mechanism; 3] = [Mechanism::Signal, Mechanism::Thread, Mechanism::Mprotect];

    /// Its name in the settings and in the figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mechanism::Signal => "signal",
            Mechanism::Thread => "thread",
            Mechanism::Mprotect => "mprotect",
        }
    }
}

/// How one side waits for a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Wait {
    /// Looks again and again, without end.
    Spin,
    /// Sleeps in the kernel.
    Block,
}

/// One side of a bare fault.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct FaultSide {
    pub(crate) mechanism: Mechanism,
    /// Descriptor of its connected socket.
    pub(crate) socket: RawFd,
    pub(crate) wait: Wait,
    /// Pages of the memory.
    pub(crate) pages: usize,
}

/// Bytes of a request.
const REQUEST: usize = 64;

/// Two connected UDP sockets with the buffers that every user gets.
pub(crate) fn connected_pair() -> Result<(UdpSocket, UdpSocket)> {
    // As large as every user gets it, as a node asks for too: in half of it a burst of long datagrams was lost
    // now and then, and nothing here sends one again.
    let bind = || -> Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER)?;
        Ok(socket)
    };
    let (a, b) = (bind()?, bind()?);
    a.connect(b.local_addr()?)?;
    b.connect(a.local_addr()?)?;
    Ok((a, b))
}

/// Receives one datagram; spins or sleeps, as the socket was set up.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match socket.recv(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// An inherited socket, set up for a way of waiting.
fn adopt(fd: RawFd, wait: Wait) -> Result<UdpSocket> {
    let socket = UdpSocket::from(crate::child::adopt(fd));
    socket.set_nonblocking(wait == Wait::Spin)?;
    Ok(socket)
}
