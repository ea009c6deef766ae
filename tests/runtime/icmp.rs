//! ICMP messages that claim to be about datagrams of a node. Whoever guesses a port can send them: no key is needed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};
use pagemesh::net::udp::{DATAGRAM_MAX, Received, UdpSocket};

use crate::child::Child;
use crate::hostile::ports_of;
use system_tests::rig::{self, until};

const ANY_V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ANY_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
/// Port of a peer that nobody has.
const PEER_PORT: u16 = 9;

/// A way to send any ICMP message to a process of this host; needs privilege.
struct Icmp {
    host: IpAddr,
    raw: OwnedFd,
}

impl Icmp {
    fn open(host: IpAddr) -> Option<Icmp> {
        let (family, protocol) = match host {
            IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
            IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).ok();
        if raw.is_none() {
            eprintln!("SKIPPED: sending ICMP to {host} needs privilege, and that protocol");
        }
        Some(Icmp { host, raw: raw? })
    }

    /// Every type that may report an error, with every code that some type has. In ICMPv6 the upper half of
    /// the types has other purposes.
    fn messages(&self) -> impl Iterator<Item = (u8, u8)> + use<> {
        let types = if self.host.is_ipv4() { 0..=255 } else { 0..=127 };
        types.flat_map(|kind: u8| (0..=15).map(move |code| (kind, code)))
    }

    /// Whether the kernel tells a UDP socket of such a message.
    fn concerns_udp(&self, (kind, code): (u8, u8)) -> bool {
        match self.host {
            // Unreachable, time exceeded but not that of fragments, bad parameter.
            IpAddr::V4(_) => matches!((kind, code), (3 | 12, _) | (11, 0)),
            IpAddr::V6(_) => kind == 2 || kind == 3 || (kind == 1 && code <= 6) || (kind == 4 && code <= 2),
        }
    }

    /// Sends a message about a datagram that went from `port` of this host to another one.
    fn send(&self, (kind, code): (u8, u8), port: u16) {
        let mut udp = Vec::new();
        udp.extend(port.to_be_bytes());
        udp.extend(PEER_PORT.to_be_bytes());
        udp.extend([0, 8, 0, 0]);
        let mut message = vec![kind, code, 0, 0, 0, 0, 0x05, 0x00];
        match self.host {
            IpAddr::V4(host) => {
                message.extend([0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0]);
                message.extend(host.octets());
                message.extend(host.octets());
                message.extend(udp);
                let sum = checksum(&message);
                message[2..4].copy_from_slice(&sum.to_be_bytes());
            }
            // The kernel itself puts the checksum in.
            IpAddr::V6(host) => {
                message.extend([0x60, 0, 0, 0, 0, 8, 17, 64]);
                message.extend(host.octets());
                message.extend(host.octets());
                message.extend(udp);
            }
        }
        let to = SockaddrStorage::from(SocketAddr::new(self.host, 0));
        sendto(self.raw.as_raw_fd(), &message, &to, MsgFlags::empty()).expect("a message to this host");
    }
}

/// The Internet checksum of a message with an even number of bytes.
fn checksum(message: &[u8]) -> u16 {
    let words = message.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Loopback delivers before the sender goes on, so each message is looked at by itself.
#[test]
fn no_icmp_message_breaks_a_socket() {
    for icmp in [ANY_V4, ANY_V6].into_iter().filter_map(Icmp::open) {
        let bind = || UdpSocket::bind(SocketAddr::new(icmp.host, 0), 1 << 20).expect("a socket");
        let (socket, addr) = (bind(), |socket: &UdpSocket| socket.local_addr().expect("an address"));
        let mut buffer = vec![0; DATAGRAM_MAX];
        for message in icmp.messages() {
            let before = socket.counters().receive_errors;
            icmp.send(message, addr(&socket).port());
            if let Err(error) = socket.receive(&mut buffer) {
                panic!("type {}, code {} to {}: {error}", message.0, message.1, icmp.host);
            }
            let told = socket.counters().receive_errors > before;
            assert!(told || !icmp.concerns_udp(message), "{message:?} has not reached the socket");
        }
        while socket.receive(&mut buffer).expect("it works") != Received::Nothing {}
        let peer = std::net::UdpSocket::bind(SocketAddr::new(icmp.host, 0)).expect("a socket");
        peer.send_to(b"hello", addr(&socket)).expect("sent");
        let got = socket.receive(&mut buffer).expect("it works");
        assert!(matches!(got, Received::Datagrams { len: 5, .. }), "{got:?}");
    }
}

#[test]
fn no_icmp_message_ends_a_node() {
    for icmp in [ANY_V4, ANY_V6].into_iter().filter_map(Icmp::open) {
        let mut settings = rig::small();
        settings.bind = SocketAddr::new(icmp.host, 0);
        let mut child = Child::start("attacked", &settings);
        child.expect("runs");
        let pid = child.pid().as_raw();
        until("all five nodes listen", || ports_of(pid).len() >= 5);
        for message in icmp.messages() {
            ports_of(pid).into_iter().for_each(|port| icmp.send(message, port));
        }
        child.tell("stop");
        let [rounds, _, _, _, errors] = [(); 5].map(|()| child.line().parse::<u64>().expect("a number"));
        let (status, text) = child.end_within(Duration::from_secs(20));
        assert!(status.success() && !text.contains("panicked"), "{text}");
        assert!(rounds > 0 && errors > 0, "{rounds} rounds, {errors} errors of sockets");
    }
}
