//! Sockets to send from that are connected to one peer each.
//!
//! A send without address spares the kernel the search for a route: 0.3 us of 1.9, measured. The peer sees
//! another port of the same host; a session is known by its id and its token. Only for peers on loopback:
//! elsewhere a firewall may know of one port only, and the wire takes so long that nobody would notice.
//! Nothing is received here.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};

use rustc_hash::FxHashMap;
use socket2::SockRef;

use super::{UdpSocket, probe_mtu};
use crate::config::net::{PATH_IDLE, PATHS_MAX};
use crate::page::Time;

/// The sockets, by peer.
#[derive(Default)]
pub(super) struct Paths(FxHashMap<SocketAddr, Path>);

struct Path {
    /// `None`: it could not be made, and is not tried again and again.
    socket: Option<StdSocket>,
    used: Time,
}

impl Paths {
    /// The socket to this peer.
    pub(super) fn get(&self, to: SocketAddr) -> Option<&StdSocket> {
        self.0.get(&to)?.socket.as_ref()
    }

    /// There will be more traffic to this peer: makes a socket for it, if there is room for one.
    pub(super) fn expect(&mut self, now: Time, common: &UdpSocket, to: SocketAddr) {
        if !to.ip().is_loopback() {
            return;
        }
        if let Some(path) = self.0.get_mut(&to) {
            path.used = now;
            return;
        }
        if self.0.len() >= PATHS_MAX {
            self.0.retain(|_, path| now.since(path.used) < PATH_IDLE);
        }
        if self.0.len() < PATHS_MAX {
            self.0.insert(to, Path { socket: open(common, to).ok(), used: now });
        }
    }

    /// Something is wrong with the way to this peer.
    pub(super) fn close(&mut self, to: SocketAddr) {
        self.0.remove(&to);
    }
}

fn open(common: &UdpSocket, to: SocketAddr) -> io::Result<StdSocket> {
    let mut own = common.socket.local_addr()?;
    own.set_port(0);
    let socket = StdSocket::bind(own)?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    probe_mtu(&socket, own)?;
    // Nobody sends to it.
    SockRef::from(&socket).set_recv_buffer_size(0)?;
    SockRef::from(&socket).set_send_buffer_size(SockRef::from(&common.socket).send_buffer_size()? / 2)?;
    Ok(socket)
}
