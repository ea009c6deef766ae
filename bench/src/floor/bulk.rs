//! Bulk UDP: one side asks for bursts of datagrams, the other sends them. Two bursts are under way,
//! and a burst fits the socket buffer that every user gets, so nothing is lost on a loopback.

use std::io;
use std::net::UdpSocket;
use std::ops::Range;
use std::os::fd::RawFd;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{REQUEST, Wait, adopt, connected_pair, receive};
use crate::Result;
use crate::child::{self, Child};
use crate::role::{Part, Role};
use crate::touch::{PAGE, Walk};

/// What the receiving side is told.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Pull {
    /// Bytes in all.
    pub(crate) bytes: usize,
    /// Bytes of a datagram.
    pub(crate) datagram: usize,
}

/// Both sides, seen from the parent.
pub(crate) struct Puller {
    client: Child<Pull, f64>,
    _server: Child<(), ()>,
}

impl Puller {
    pub(crate) fn start() -> Result<Puller> {
        let (a, b) = connected_pair()?;
        let server = Role::new(Part::PullServer { socket: child::number(&a) });
        let client = Role::new(Part::PullClient { socket: child::number(&b) });
        Ok(Puller { _server: Child::start(&server, &[&a])?, client: Child::start(&client, &[&b])? })
    }

    /// Pulls; gigabytes a second.
    pub(crate) fn pull(&mut self, pull: Pull) -> Result<f64> {
        self.client.ask(&pull)
    }
}

/// Bytes that a burst takes in the socket's buffer, the kernel's overhead included: two of them fit into
/// three quarters of what every user gets. The kernel gives up to a quarter back late.
const BURST_BYTES: usize = 76 << 10;
/// Pages of one datagram of the bare scan.
const SCAN_PAGES: usize = 15;

/// What a datagram takes in the kernel: its bytes and some headers in a power-of-two piece, or the long
/// ones in several.
fn footprint(datagram: usize) -> usize {
    let piece = (datagram + 1024).next_power_of_two();
    if datagram <= 16 << 10 { piece } else { piece.min(datagram + datagram / 4 + 4096) }
}

/// A request: how many datagrams, of which length, from which page on, and what is in them.
fn request(count: usize, datagram: usize, page: usize, stamp: u64) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    for (to, word) in bytes.chunks_exact_mut(8).zip([count as u64, datagram as u64, page as u64, stamp]) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// Runs the sending side: what it sends is stamped page by page, as the scan expects it.
pub(crate) fn serve_pulls(socket: RawFd) -> Result<()> {
    let socket = adopt(socket, Wait::Block)?;
    let mut memory = vec![0u8; 1 << 16];
    let mut bytes = [0; REQUEST];
    loop {
        if receive(&socket, &mut bytes)? != REQUEST {
            continue;
        }
        let word = |at: usize| u64::from_ne_bytes(bytes[at * 8..at * 8 + 8].try_into().expect("8 bytes"));
        let (count, len, first, stamp) = (word(0), word(1) as usize, word(2) as usize, word(3));
        let pages = len / PAGE;
        for datagram in 0..count as usize {
            for page in 0..pages {
                let value = Walk::word(stamp, first + datagram * pages + page);
                memory[page * PAGE..page * PAGE + 8].copy_from_slice(&value.to_ne_bytes());
            }
            socket.send(&memory[..len])?;
        }
    }
}

/// Runs the receiving side.
pub(crate) fn pull(socket: RawFd) -> Result<()> {
    let socket = adopt(socket, Wait::Block)?;
    socket.set_read_timeout(Some(std::time::Duration::from_secs(2)))?;
    let mut buffer = vec![0u8; 1 << 16];
    child::serve(|Pull { bytes, datagram }: Pull| {
        let burst = (BURST_BYTES / footprint(datagram)).max(1);
        let total = bytes.div_ceil(datagram).next_multiple_of(burst);
        let start = Instant::now();
        let ask = || socket.send(&request(burst, datagram, 0, 0));
        ask()?;
        for received in 0..total {
            if received % burst == 0 && received + burst < total {
                ask()?;
            }
            // Not `receive`, which would wait on where the time is up.
            socket.recv(&mut buffer).map_err(|error| format!("a burst of {datagram} B was lost: {error}"))?;
        }
        Ok((total * datagram) as f64 / 1e9 / start.elapsed().as_secs_f64())
    })
}

/// The bursts of a bare scan: the one being read, and the next one, asked for ahead.
pub(super) struct Bulk {
    pages: usize,
    stamp: u64,
    /// First page that was not asked for.
    asked: usize,
    buffer: Vec<u8>,
}

impl Bulk {
    pub(super) fn new(pages: usize, stamp: u64) -> Bulk {
        Bulk { pages, stamp, asked: 0, buffer: vec![0; 1 << 16] }
    }

    /// Fetches the burst that starts with `page`; which pages have come.
    pub(super) fn fetch(
        &mut self,
        socket: &UdpSocket,
        page: usize,
        mut write: impl FnMut(usize, &[u8]),
        populate: impl FnOnce(Range<usize>) -> io::Result<()>,
    ) -> io::Result<Range<usize>> {
        let burst = page..(page + SCAN_PAGES).min(self.pages);
        while self.asked < self.pages && self.asked <= burst.end {
            let end = (self.asked + SCAN_PAGES).min(self.pages);
            let len = (end - self.asked) * PAGE;
            socket.send(&request(1, len, self.asked, self.stamp))?;
            self.asked = end;
        }
        populate(burst.clone())?;
        let len = receive(socket, &mut self.buffer)?;
        write(page, &self.buffer[..len]);
        Ok(burst)
    }
}
