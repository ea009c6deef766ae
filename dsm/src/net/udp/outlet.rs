//! The way out of an endpoint: what sending must remember from one call to the next.
//!
//! Short datagrams of one length to one peer travel as a *train*: one system call, and one walk
//! through the kernel's stack, for up to 64 of them (UDP_SEGMENT). They are copied together for it,
//! which costs less than a tenth of the call; long datagrams go by themselves, gathered in place.

use std::net::SocketAddr;

use super::paths::Paths;
use super::{Sent, UdpSocket};
use crate::config::net::{
    MTU_LIMIT, ROOM_AGAIN_MAX, ROOM_AGAIN_MIN, TRAIN_DATAGRAM_MAX, TRAIN_DATAGRAMS_MAX,
};
use crate::error::Result;
use crate::net::Endpoint;
use crate::net::inject::Injector;
use crate::net::transmit::{Transmit, TransmitBuf};
use crate::net::wire::{TYPE_DATA, TYPE_DATA_ODD};
use crate::page::{Span, Time};

/// The way out of an endpoint. Belongs beside it, under the same lock.
#[derive(Default)]
pub struct Outlet {
    waiting: Train,
    /// What comes after it when it is blocked.
    next: Train,
    room: Room,
    paths: Paths,
    injector: Option<Injector>,
}

/// Whether the kernel had room for the last datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Room {
    #[default]
    Free,
    /// What waits could not be sent; to be tried again then, after that long a wait.
    Blocked(Time, Span),
}

impl Room {
    /// There was none once more: the next try is later.
    fn lacks(self, now: Time) -> Room {
        let wait = match self {
            Room::Free => ROOM_AGAIN_MIN,
            Room::Blocked(_, wait) => Span(2 * wait.0).min(ROOM_AGAIN_MAX),
        };
        Room::Blocked(now + wait, wait)
    }
}

/// Where a datagram may be sent from.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Kind {
    /// From any socket: its session is known by its id.
    OfSession,
    /// Answers go to where it came from: from the common socket.
    #[default]
    Handshake,
}

impl Kind {
    fn of(slices: &[&[u8]]) -> Kind {
        match slices.first().and_then(|slice| slice.first()) {
            Some(&(TYPE_DATA | TYPE_DATA_ODD)) => Kind::OfSession,
            Some(_) | None => Kind::Handshake,
        }
    }

    fn paths(self, paths: &mut Paths) -> Option<&mut Paths> {
        match self {
            Kind::OfSession => Some(paths),
            Kind::Handshake => None,
        }
    }
}

/// Datagrams of one kind to one address, all of one length but the last, which may be shorter.
#[derive(Default)]
struct Train {
    to: Option<SocketAddr>,
    kind: Kind,
    segment: usize,
    bytes: Vec<u8>,
}

impl Train {
    /// Whether a datagram of `len` bytes may follow.
    fn takes(&self, to: SocketAddr, kind: Kind, len: usize) -> bool {
        self.to == Some(to)
            && self.kind == kind
            && len <= self.segment
            && self.bytes.len().is_multiple_of(self.segment)
            && self.bytes.len() + len <= MTU_LIMIT
            && self.bytes.len() / self.segment < TRAIN_DATAGRAMS_MAX
    }

    fn begin(&mut self, to: SocketAddr, slices: &[&[u8]]) {
        self.to = Some(to);
        self.kind = Kind::of(slices);
        self.bytes.clear();
        self.append(slices);
        self.segment = self.bytes.len();
    }

    fn append(&mut self, slices: &[&[u8]]) {
        slices.iter().for_each(|slice| self.bytes.extend_from_slice(slice));
    }
}

impl Outlet {
    /// A way out, through a bad network if there is an injector.
    pub fn new(injector: Option<Injector>) -> Self {
        Outlet { injector, ..Outlet::default() }
    }

    /// Sends everything that the endpoint has to send now, until the kernel has no room.
    pub fn drain(
        &mut self,
        socket: &UdpSocket,
        now: Time,
        endpoint: &mut Endpoint,
        buf: &mut TransmitBuf,
    ) -> Result<()> {
        if self.flush(socket, now)? == Sent::Blocked {
            return Ok(());
        }
        while let Some(transmit) = endpoint.poll_transmit(now, buf) {
            let (to, len) = (transmit.to, transmit.len);
            match self.put(socket, now, &transmit)? {
                Sent::Done => {}
                Sent::Blocked => return Ok(()),
                Sent::TooLong => endpoint.handle_too_long(now, to, len),
            }
        }
        self.flush(socket, now).map(|_| ())
    }

    /// Sends one datagram, or keeps it for those that follow until [`Outlet::flush`]. Must not be called
    /// while an earlier one is [`Sent::Blocked`].
    fn put(&mut self, socket: &UdpSocket, now: Time, transmit: &Transmit<'_>) -> Result<Sent> {
        if transmit.is_one_of_many {
            self.paths.expect(now, socket, transmit.to);
        }
        if let Some(injector) = &mut self.injector {
            transmit.with_slices(|slices| injector.offer(now, transmit.to, slices));
            return self.release(socket, now);
        }
        transmit.with_slices(|slices| self.put_slices(socket, now, transmit.to, slices))
    }

    /// Sends what waits, and what the injector held back until now.
    pub fn flush(&mut self, socket: &UdpSocket, now: Time) -> Result<Sent> {
        if let Room::Blocked(again, _) = self.room
            && now < again
        {
            return Ok(Sent::Blocked);
        }
        if self.send_waiting(socket, now)? == Sent::Blocked || self.release(socket, now)? == Sent::Blocked {
            return Ok(Sent::Blocked);
        }
        self.send_waiting(socket, now)
    }

    /// When [`Outlet::flush`] has something to do: the socket may have room again, or a datagram that was
    /// held back is to go. By the clock, and not by waiting for room: whoever sleeps now need not know.
    pub fn poll_timeout(&self) -> Option<Time> {
        match self.room {
            Room::Blocked(again, _) => Some(again),
            Room::Free => self.injector.as_ref().and_then(Injector::poll_timeout),
        }
    }

    /// Takes out of the injector what is to be sent by now.
    fn release(&mut self, socket: &UdpSocket, now: Time) -> Result<Sent> {
        while let Some((to, bytes)) = self.injector.as_mut().and_then(|injector| injector.poll(now)) {
            // A datagram that came late is not told from a lost one, so `TooLong` is of no interest.
            let sent = self.put_slices(socket, now, to, &[&bytes])?;
            if let Some(injector) = &mut self.injector {
                injector.recycle(bytes);
            }
            if sent == Sent::Blocked {
                return Ok(sent);
            }
        }
        Ok(Sent::Done)
    }

    fn put_slices(
        &mut self,
        socket: &UdpSocket,
        now: Time,
        to: SocketAddr,
        slices: &[&[u8]],
    ) -> Result<Sent> {
        assert!(self.room == Room::Free, "a blocked datagram goes first");
        let len = slices.iter().map(|slice| slice.len()).sum();
        let is_short = len <= TRAIN_DATAGRAM_MAX;
        let kind = Kind::of(slices);
        if is_short && self.waiting.takes(to, kind, len) {
            self.waiting.append(slices);
            return Ok(Sent::Done);
        }
        if self.send_waiting(socket, now)? == Sent::Blocked {
            self.next.begin(to, slices);
            return Ok(Sent::Blocked);
        }
        if is_short {
            self.waiting.begin(to, slices);
            return Ok(Sent::Done);
        }
        let sent = socket.send_slices(kind.paths(&mut self.paths), to, slices)?;
        if sent == Sent::Blocked {
            self.waiting.begin(to, slices);
            self.room = self.room.lacks(now);
        }
        Ok(sent)
    }

    fn send_waiting(&mut self, socket: &UdpSocket, now: Time) -> Result<Sent> {
        while let Some(to) = self.waiting.to.filter(|_| !self.waiting.bytes.is_empty()) {
            let Train { kind, bytes, segment, .. } = &self.waiting;
            if socket.send_train(kind.paths(&mut self.paths), to, bytes, *segment)? == Sent::Blocked {
                self.room = self.room.lacks(now);
                return Ok(Sent::Blocked);
            }
            self.waiting.bytes.clear();
            std::mem::swap(&mut self.waiting, &mut self.next);
        }
        self.room = Room::Free;
        Ok(Sent::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_found_no_room_is_tried_again_by_the_clock() {
        let (socket, peer) = (open(), open());
        let mut outlet = Outlet::default();
        let now = Time(0) + Span::from_ms(1);
        outlet.put_slices(&socket, now, peer.local_addr().unwrap(), &[b"datagram"]).unwrap();
        // As if the kernel had had no room for it.
        outlet.room = Room::Free.lacks(now);
        let again = now + ROOM_AGAIN_MIN;
        assert_eq!(outlet.poll_timeout(), Some(again));
        assert!(outlet.flush(&socket, now).unwrap() == Sent::Blocked, "not at every occasion");
        assert!(outlet.flush(&socket, again).unwrap() == Sent::Done);
        assert_eq!(outlet.poll_timeout(), None);
        assert!(outlet.waiting.bytes.is_empty());
    }

    #[test]
    fn a_slow_link_is_asked_ever_more_rarely() {
        let mut room = Room::Free;
        for _ in 0..10 {
            room = room.lacks(Time(0));
        }
        assert!(room == Room::Blocked(Time(0) + ROOM_AGAIN_MAX, ROOM_AGAIN_MAX));
    }

    fn open() -> UdpSocket {
        let any = (std::net::Ipv4Addr::LOCALHOST, 0).into();
        UdpSocket::bind(any, crate::config::net::SOCKET_BUFFER).expect("a socket on loopback")
    }
}
