//! The socket: the only part of the transport that does IO. It decides nothing.
//!
//! [`UdpSocket`] may be used by several threads at once: whoever waits, receives. [`Outlet`] is what
//! sending must remember (a datagram that the kernel had no room for, an injected bad network) and
//! belongs beside the endpoint, under the same lock. A system call moves one datagram, or a train of
//! datagrams of one length (UDP_SEGMENT, UDP_GRO), where the kernel can do that.

mod outlet;
mod paths;

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::ppoll;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, cmsg_space, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use nix::sys::time::{TimeSpec, TimeValLike};
use smallvec::SmallVec;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::net::{ERRORS_IN_A_ROW, ERRORS_PAUSE, TRAIN_DATAGRAM_MAX};
use crate::error::{Error, Result};

pub use outlet::Outlet;
use paths::Paths;

/// Buffer that any datagram fits into.
pub const DATAGRAM_MAX: usize = 1 << 16;
/// A datagram of this length or more may have been part of a train, up to [`TRAIN_DATAGRAM_MAX`].
const COACH_LEN_MIN: usize = 1000;
/// So many of them, and trains are asked for.
const COACHES_MAX: u32 = 32;
/// Reports of earlier datagrams that one call passes over.
const TRIES: usize = 4;

mod options {
    //! Options that neither socket2 nor nix has.
    use nix::{getsockopt_impl, libc, setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// Whether the kernel may fragment IPv4 datagrams, and whether it keeps to its own idea of
        /// the path's MTU.
        MtuDiscover,
        SetOnly,
        libc::IPPROTO_IP,
        libc::IP_MTU_DISCOVER,
        libc::c_int
    );
    sockopt_impl!(
        /// The same for IPv6.
        MtuDiscoverV6,
        SetOnly,
        libc::IPPROTO_IPV6,
        libc::IPV6_MTU_DISCOVER,
        libc::c_int
    );
    sockopt_impl!(
        /// The socket's memory as the kernel counts it; `linux/sock_diag.h`, `SK_MEMINFO_*`.
        MemInfo,
        GetOnly,
        libc::SOL_SOCKET,
        libc::SO_MEMINFO,
        [u32; 9]
    );

    /// Set "don't fragment", ignore the kernel's path MTU: we look for it ourselves.
    pub(super) const PMTUDISC_PROBE: libc::c_int = libc::IP_PMTUDISC_PROBE;
    /// Index of the drops in [`MemInfo`].
    pub(super) const MEMINFO_DROPS: usize = 8;
}

/// What has passed a socket.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
pub struct SocketCounters {
    /// System calls that sent, those included that the kernel had no room for.
    pub send_calls: u64,
    /// System calls that received, those included that found nothing.
    pub receive_calls: u64,
    /// Datagrams handed to the kernel.
    pub datagrams_out: u64,
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Bytes handed to the kernel, UDP payload.
    pub bytes_out: u64,
    /// Bytes received, UDP payload.
    pub bytes_in: u64,
    /// Sends that found the kernel's buffer full.
    pub send_blocked: u64,
    /// Receives that gave an error instead of a datagram: what ICMP says of earlier datagrams.
    pub receive_errors: u64,
    /// Reports in the error queue that were read before a receive gave them.
    pub error_reports: u64,
    /// Sends that gave an error, those included that were tried again with success.
    pub send_errors: u64,
}

#[derive(Default)]
struct Counts {
    send_calls: AtomicU64,
    receive_calls: AtomicU64,
    datagrams_out: AtomicU64,
    datagrams_in: AtomicU64,
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
    send_blocked: AtomicU64,
    receive_errors: AtomicU64,
    error_reports: AtomicU64,
    send_errors: AtomicU64,
}

/// Errors since the last datagram.
#[derive(Default)]
struct ErrorsInARow(AtomicU32);

impl ErrorsInARow {
    /// Counts one more; gives how many there are at every [`ERRORS_IN_A_ROW`]th.
    fn add(&self) -> Option<u32> {
        let count = self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        count.is_multiple_of(ERRORS_IN_A_ROW).then_some(count)
    }

    fn end(&self) {
        // A load, so that receivers on several cores do not take the line from each other.
        if self.0.load(Ordering::Relaxed) > 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }
}

/// A bound, non-blocking UDP socket.
pub struct UdpSocket {
    socket: StdSocket,
    receive_buffer: usize,
    /// Whether the kernel still cuts trains for us.
    sends_trains: AtomicBool,
    /// Whether the kernel leaves trains coupled for us.
    receives_trains: AtomicBool,
    /// Datagrams received so far that may have been part of a train.
    coaches: AtomicU32,
    errors: ErrorsInARow,
    counts: Counts,
}

/// What a receive call found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// So many bytes of the buffer are datagrams from this address: see [`datagrams`].
    Datagrams {
        /// Bytes.
        len: usize,
        /// Bytes of each datagram; the last may have fewer.
        segment: usize,
        /// Their sender.
        from: SocketAddr,
    },
    /// The network says that nobody listens at this address: a hint for
    /// [`handle_refused`](crate::net::Endpoint::handle_refused).
    Refused {
        /// Where an earlier datagram of ours went.
        addr: SocketAddr,
    },
    /// The socket has given nothing but errors, once more [`ERRORS_IN_A_ROW`] of them. Call
    /// [`UdpSocket::pause`] before the next receive, without any lock: a socket that does not recover would keep
    /// a core busy.
    Failing {
        /// Errors since the last datagram.
        errors: u32,
        /// The last of them.
        error: Errno,
    },
    /// Nothing is there now.
    Nothing,
}

/// The datagrams of [`Received::Datagrams`], of which `bytes` is the filled part of the buffer.
pub fn datagrams(bytes: &mut [u8], segment: usize) -> impl Iterator<Item = &mut [u8]> {
    // An empty datagram is one, too.
    let empty = bytes.is_empty().then_some(&mut [][..]);
    empty.into_iter().chain(bytes.chunks_mut(segment.max(1)))
}

/// What became of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// The kernel has it, or it is lost: the session will notice.
    Done,
    /// The kernel has no room. The datagram is kept; send no other before [`Outlet::flush`] says
    /// [`Sent::Done`], when the socket has become writable.
    Blocked,
    /// No link of this host carries so long a datagram; it is dropped. Tell
    /// [`handle_too_long`](crate::net::Endpoint::handle_too_long).
    TooLong,
}

impl UdpSocket {
    /// Binds `addr` and asks for a receive buffer of `buffer` bytes; the kernel may give less, see
    /// [`UdpSocket::receive_buffer`].
    pub fn bind(addr: SocketAddr, buffer: usize) -> Result<Self> {
        let what = |step: &str| format!("{step} UDP socket {addr}");
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))
            .map_err(|e| Error::os(what("create"), e))?;
        socket.bind(&addr.into()).map_err(|e| Error::os(what("bind"), e))?;
        Self::adopt(OwnedFd::from(socket), buffer)
    }

    /// Takes a bound UDP socket over, one that was inherited for instance. Programs that this process starts do
    /// not inherit it: they would keep its port, and take datagrams that are for this process.
    pub fn adopt(fd: OwnedFd, buffer: usize) -> Result<Self> {
        let socket = StdSocket::from(fd);
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
            .map_err(|errno| Error::os("close-on-exec mode of the UDP socket", errno))?;
        let addr = socket.local_addr().map_err(|e| Error::os("address of the UDP socket", e))?;
        let fail = |step: &str, e: io::Error| Error::os(format!("{step} of UDP socket {addr}"), e);
        socket.set_nonblocking(true).map_err(|e| fail("non-blocking mode", e))?;
        Self::grow_buffers(&socket, buffer);
        let reports = if addr.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)
        };
        reports.map_err(|e| fail("options", e.into()))?;
        probe_mtu(&socket, addr).map_err(|e| fail("options", e.into()))?;
        let receive_buffer =
            SockRef::from(&socket).recv_buffer_size().map_err(|e| fail("receive buffer", e))?;
        Ok(UdpSocket {
            socket,
            receive_buffer,
            sends_trains: AtomicBool::new(true),
            receives_trains: AtomicBool::new(false),
            coaches: AtomicU32::new(0),
            errors: ErrorsInARow::default(),
            counts: Counts::default(),
        })
    }

    /// Asks for larger buffers than the system's limit if privileges allow it, else for what the
    /// limit allows. What was really given is read back, so that a refusal is no error.
    fn grow_buffers(socket: &StdSocket, buffer: usize) {
        let reference = SockRef::from(socket);
        if setsockopt(socket, sockopt::RcvBufForce, &buffer).is_err() {
            let _ = reference.set_recv_buffer_size(buffer);
        }
        if setsockopt(socket, sockopt::SndBufForce, &buffer).is_err() {
            let _ = reference.set_send_buffer_size(buffer);
        }
    }

    /// Bytes of the receive buffer that the kernel really gives; what
    /// [`EndpointConfig::socket_buffer`](crate::net::EndpointConfig) wants to know.
    pub fn receive_buffer(&self) -> usize {
        self.receive_buffer
    }

    /// The address that the socket is bound to.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.socket.local_addr().map_err(|e| Error::os("address of the UDP socket", e))
    }

    /// Receives a datagram, or several of one length, into `buf`, which should have [`DATAGRAM_MAX`] bytes,
    /// without waiting. An error means that the socket is of no use any more; what the network reports is none.
    pub fn receive(&self, buf: &mut [u8]) -> Result<Received> {
        for _ in 0..TRIES {
            self.counts.receive_calls.fetch_add(1, Ordering::Relaxed);
            match self.receive_once(buf) {
                Ok((len, segment, from)) => {
                    let count = len.div_ceil(segment.max(1)).max(1);
                    self.counts.datagrams_in.fetch_add(count as u64, Ordering::Relaxed);
                    self.counts.bytes_in.fetch_add(len as u64, Ordering::Relaxed);
                    self.errors.end();
                    return Ok(Received::Datagrams { len, segment, from });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Received::Nothing),
                Err(error) if is_about_the_socket(&error) => {
                    return Err(Error::os("receive from the UDP socket", error));
                }
                // The report of an earlier datagram takes the place of one result.
                Err(error) => {
                    self.counts.receive_errors.fetch_add(1, Ordering::Relaxed);
                    if let Some(errors) = self.errors.add() {
                        let error = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
                        return Ok(Received::Failing { errors, error });
                    }
                    if let Some(addr) = self.take_refusal() {
                        return Ok(Received::Refused { addr });
                    }
                }
            }
        }
        Ok(Received::Nothing)
    }

    fn receive_once(&self, buf: &mut [u8]) -> io::Result<(usize, usize, SocketAddr)> {
        if self.receives_trains.load(Ordering::Relaxed) {
            return self.receive_train(buf);
        }
        let (len, from) = self.socket.recv_from(buf)?;
        if (COACH_LEN_MIN..=TRAIN_DATAGRAM_MAX).contains(&len) {
            self.expect_trains();
        }
        Ok((len, len, from))
    }

    /// Asks for trains once enough datagrams have come that look like parts of some. Before that, every
    /// receive is spared the control message that says where a train comes apart. Who receives in another
    /// thread at this very moment may mistake a train for a datagram, which its checksum tells: a loss.
    fn expect_trains(&self) {
        if self.coaches.fetch_add(1, Ordering::Relaxed) == COACHES_MAX {
            self.receives_trains.store(true, Ordering::Relaxed);
            // A kernel that cannot do it goes on delivering datagrams one by one.
            let _ = setsockopt(&self.socket, sockopt::UdpGroSegment, &true);
        }
    }

    fn receive_train(&self, buf: &mut [u8]) -> io::Result<(usize, usize, SocketAddr)> {
        let mut control = [0; cmsg_space::<i32>()];
        let mut slices = [IoSliceMut::new(buf)];
        let fd = self.socket.as_raw_fd();
        let message =
            recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
        let from = message.address.and_then(to_std).ok_or(Errno::EPROTO)?;
        let segment = message.cmsgs()?.find_map(|one| train_segment(&one)).unwrap_or(message.bytes);
        Ok((message.bytes, segment, from))
    }

    /// The pause of [`ERRORS_PAUSE`] after [`Received::Failing`]. It does not wait for the socket, whose errors
    /// would end it at once.
    pub fn pause(&self) {
        // A signal that ends it early does no harm.
        let _ = ppoll(&mut [], Some(TimeSpec::nanoseconds(ERRORS_PAUSE.0 as i64)), None);
    }

    /// Empties the socket's error queue up to the first report that nobody listens at an address.
    /// Call it when waiting for the socket reports an error: until the queue is empty, it would
    /// report that again and again.
    pub fn take_refusal(&self) -> Option<SocketAddr> {
        let mut byte = [0; 1];
        let mut control = nix::cmsg_space!([u8; 64]);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        loop {
            let mut slices = [IoSliceMut::new(&mut byte)];
            let fd = self.socket.as_raw_fd();
            let report = recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut control), flags).ok()?;
            // With the last report the error goes that the next receive would have given.
            self.counts.error_reports.fetch_add(1, Ordering::Relaxed);
            // The address of a report is where the datagram that caused it went.
            if report.cmsgs().is_ok_and(|mut all| all.any(|one| is_refusal(&one))) {
                return report.address.and_then(to_std);
            }
        }
    }

    /// Sends slices as one datagram.
    fn send_slices(&self, paths: Option<&mut Paths>, to: SocketAddr, slices: &[&[u8]]) -> Result<Sent> {
        self.send_with(paths, to, 1, |socket, to| send_once(socket, to, slices))
    }

    /// Sends datagrams of `segment` bytes each, the last perhaps shorter. What is too long for the path
    /// is lost.
    fn send_train(
        &self,
        mut paths: Option<&mut Paths>,
        to: SocketAddr,
        bytes: &[u8],
        segment: usize,
    ) -> Result<Sent> {
        let count = bytes.len().div_ceil(segment);
        if count == 1 {
            return self.send_slices(paths, to, &[bytes]);
        }
        if self.sends_trains.load(Ordering::Relaxed) {
            let send = |socket: &StdSocket, to| send_segmented(socket, to, bytes, segment);
            match self.send_with(paths.as_deref_mut(), to, count as u64, send)? {
                Sent::TooLong => {}
                sent @ (Sent::Done | Sent::Blocked) => return Ok(sent),
            }
        }
        for datagram in bytes.chunks(segment) {
            // A blocked one in the middle of a train is lost; its session will notice.
            self.send_slices(paths.as_deref_mut(), to, &[datagram])?;
        }
        Ok(Sent::Done)
    }

    /// By the peer's own path if there may be one, which needs no address, else from the common socket.
    fn send_with(
        &self,
        paths: Option<&mut Paths>,
        to: SocketAddr,
        count: u64,
        send: impl Fn(&StdSocket, Option<SocketAddr>) -> io::Result<usize>,
    ) -> Result<Sent> {
        if let Some(paths) = paths
            && let Some(path) = paths.get(to)
        {
            self.counts.send_calls.fetch_add(1, Ordering::Relaxed);
            match send(path, None) {
                Ok(len) => return Ok(self.count_sent(count, len)),
                // The common socket has room of its own, and tells what is wrong.
                Err(error) if error.kind() == ErrorKind::WouldBlock || is_too_long(&error) => {}
                Err(_) => paths.close(to),
            }
        }
        let mut last = None;
        for _ in 0..TRIES {
            self.counts.send_calls.fetch_add(1, Ordering::Relaxed);
            match send(&self.socket, Some(to)) {
                Ok(len) => return Ok(self.count_sent(count, len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.counts.send_blocked.fetch_add(1, Ordering::Relaxed);
                    return Ok(Sent::Blocked);
                }
                Err(error) if is_about_the_socket(&error) => {
                    return Err(Error::os(format!("send to {to}"), error));
                }
                // The report of an earlier datagram, to another peer perhaps, keeps this one from being sent:
                // again. Such a report is taken for an error of this datagram only if that comes twice.
                Err(error) => {
                    self.counts.send_errors.fetch_add(1, Ordering::Relaxed);
                    let twice = last == error.raw_os_error();
                    last = error.raw_os_error();
                    if twice && is_too_long(&error) {
                        // The kernel has also queued a report of it, which is of no use.
                        while self.take_refusal().is_some() {}
                        return Ok(Sent::TooLong);
                    }
                    if twice && count > 1 && is_about_trains(&error) {
                        self.sends_trains.store(false, Ordering::Relaxed);
                        return Ok(Sent::TooLong);
                    }
                }
            }
        }
        // No route, a firewall, a memory shortage, an address that nobody can have: to the session these
        // are loss.
        Ok(Sent::Done)
    }

    fn count_sent(&self, count: u64, len: usize) -> Sent {
        self.counts.datagrams_out.fetch_add(count, Ordering::Relaxed);
        self.counts.bytes_out.fetch_add(len as u64, Ordering::Relaxed);
        Sent::Done
    }

    /// What has passed so far.
    pub fn counters(&self) -> SocketCounters {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        SocketCounters {
            send_calls: load(&self.counts.send_calls),
            receive_calls: load(&self.counts.receive_calls),
            datagrams_out: load(&self.counts.datagrams_out),
            datagrams_in: load(&self.counts.datagrams_in),
            bytes_out: load(&self.counts.bytes_out),
            bytes_in: load(&self.counts.bytes_in),
            send_blocked: load(&self.counts.send_blocked),
            receive_errors: load(&self.counts.receive_errors),
            error_reports: load(&self.counts.error_reports),
            send_errors: load(&self.counts.send_errors),
        }
    }

    /// Datagrams that the kernel has dropped for want of room in the receive buffer.
    pub fn dropped(&self) -> Result<u64> {
        let memory = nix::sys::socket::getsockopt(&self.socket, options::MemInfo)
            .map_err(|e| Error::os("memory of the UDP socket", e))?;
        Ok(u64::from(memory[options::MEMINFO_DROPS]))
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends from `socket`; no address if it is connected.
fn send_once(socket: &StdSocket, to: Option<SocketAddr>, slices: &[&[u8]]) -> io::Result<usize> {
    if let [only] = slices {
        return to.map_or_else(|| socket.send(only), |to| socket.send_to(only, to));
    }
    let slices: SmallVec<[IoSlice<'_>; 36]> = slices.iter().map(|s| IoSlice::new(s)).collect();
    let socket = SockRef::from(socket);
    match to {
        None => socket.send_vectored(&slices),
        Some(to) => socket.send_to_vectored(&slices, &to.into()),
    }
}

fn send_segmented(
    socket: &StdSocket,
    to: Option<SocketAddr>,
    bytes: &[u8],
    segment: usize,
) -> io::Result<usize> {
    let segment = u16::try_from(segment).map_err(|_| Errno::EMSGSIZE)?;
    let control = [ControlMessage::UdpGsoSegments(&segment)];
    let to = to.map(SockaddrStorage::from);
    let slices = [IoSlice::new(bytes)];
    Ok(sendmsg(socket.as_raw_fd(), &slices, &control, MsgFlags::MSG_DONTWAIT, to.as_ref())?)
}

/// Makes the kernel send the datagrams of `socket`, an IPv4 or IPv6 socket as `addr` is, in one piece, whatever
/// it believes to be the path's MTU. An error leaves the socket as it was.
pub fn probe_mtu(socket: &StdSocket, addr: SocketAddr) -> nix::Result<()> {
    if addr.is_ipv4() {
        setsockopt(socket, options::MtuDiscover, &options::PMTUDISC_PROBE)
    } else {
        setsockopt(socket, options::MtuDiscoverV6, &options::PMTUDISC_PROBE)
    }
}

/// Errors that no other datagram would be spared. All others tell of the network, and whoever can send an ICMP
/// message can cause them: the kernel makes an error number of each, and reports it in place of a datagram.
fn is_about_the_socket(error: &io::Error) -> bool {
    [Errno::EBADF, Errno::ENOTSOCK, Errno::EFAULT]
        .iter()
        .any(|&errno| error.raw_os_error() == Some(errno as i32))
}

/// No link of this host carries so long a datagram, or ICMP says that of an earlier one.
fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EMSGSIZE as i32)
}

/// Errors that mean that this kernel or this link cannot cut a train.
fn is_about_trains(error: &io::Error) -> bool {
    [Errno::EIO, Errno::EINVAL, Errno::EOPNOTSUPP, Errno::ENOPROTOOPT]
        .iter()
        .any(|&errno| error.raw_os_error() == Some(errno as i32))
}

fn train_segment(control: &ControlMessageOwned) -> Option<usize> {
    // Foreign enum: the other kinds of control message are none of ours.
    let ControlMessageOwned::UdpGroSegments(segment) = control else { return None };
    usize::try_from(*segment).ok()
}

fn is_refusal(control: &ControlMessageOwned) -> bool {
    let refused = Errno::ECONNREFUSED as u32;
    // Foreign enum: the other kinds of control message are none of ours.
    matches!(control, ControlMessageOwned::Ipv4RecvErr(e, _) | ControlMessageOwned::Ipv6RecvErr(e, _)
        if e.ee_errno == refused)
}

fn to_std(addr: SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = addr.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    // With its scope: a link-local address means nothing without the interface.
    addr.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> UdpSocket {
        UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1 << 20).unwrap()
    }

    #[test]
    fn what_goes_to_an_impossible_address_is_lost_and_no_error() {
        let socket = socket();
        for addr in ["127.0.0.1:0", "[::1]:9", "255.255.255.255:9"] {
            let sent = socket.send_slices(None, addr.parse().unwrap(), &[b"x"]);
            assert_eq!(sent.map_err(|error| error.to_string()), Ok(Sent::Done), "{addr}");
        }
    }

    /// Loopback delivers before `sendmsg` returns; an ICMP report too.
    fn receive(socket: &UdpSocket, buf: &mut [u8]) -> Received {
        let found = socket.receive(buf).unwrap();
        assert_ne!(found, Received::Nothing);
        found
    }

    #[test]
    fn a_datagram_is_gathered_from_its_slices_and_counted() {
        let (a, b) = (socket(), socket());
        let mut buf = vec![0; DATAGRAM_MAX];
        assert_eq!(b.receive(&mut buf).unwrap(), Received::Nothing);
        let to = b.local_addr().unwrap();
        let page = [7; 4096];
        let slices = [&b"head"[..], &page, b"tail"];
        assert_eq!(a.send_slices(None, to, &slices).unwrap(), Sent::Done);
        let Received::Datagrams { len, segment, from } = receive(&b, &mut buf) else { panic!("a datagram") };
        assert_eq!((len, segment, from), (4104, 4104, a.local_addr().unwrap()));
        assert!(buf[..4] == *b"head" && buf[4..4100] == page && buf[4100..4104] == *b"tail");
        let (out, into) = (a.counters(), b.counters());
        assert_eq!((out.send_calls, out.datagrams_out, out.bytes_out), (1, 1, 4104));
        assert_eq!((into.receive_calls, into.datagrams_in, into.bytes_in), (2, 1, 4104));
    }

    #[test]
    fn a_train_of_datagrams_is_one_call_a_side_and_comes_apart_again() {
        let (a, b) = (socket(), socket());
        let bytes: Vec<u8> = (0..5 * 1400 + 9).map(|i| i as u8).collect();
        let (mut buf, mut calls) = (vec![0; DATAGRAM_MAX], 0);
        // Trains are asked for only when many datagrams have come that could be in one.
        for _ in 0..=COACHES_MAX {
            assert_eq!(a.send_train(None, b.local_addr().unwrap(), &bytes, 1400).unwrap(), Sent::Done);
            let mut came = Vec::new();
            calls = b.counters().receive_calls;
            while let Received::Datagrams { len, segment, .. } = b.receive(&mut buf).unwrap() {
                came.extend(datagrams(&mut buf[..len], segment).map(|one| one.to_vec()));
            }
            assert_eq!(came, bytes.chunks(1400).map(<[u8]>::to_vec).collect::<Vec<_>>());
            calls = b.counters().receive_calls - calls;
        }
        let (out, into, trains) = (a.counters(), b.counters(), u64::from(COACHES_MAX) + 1);
        assert_eq!((out.send_calls, calls), (trains, 2), "the last call finds nothing");
        assert_eq!((out.datagrams_out, into.datagrams_in), (6 * trains, 6 * trains));
        assert_eq!(out.bytes_out, into.bytes_in);
        assert_eq!(datagrams(&mut [], 0).count(), 1, "an empty datagram is one");
    }

    #[test]
    fn a_port_without_listener_is_reported_with_its_address() {
        let a = socket();
        let nobody = socket().local_addr().unwrap();
        assert_eq!(a.send_slices(None, nobody, &[b"anyone?"]).unwrap(), Sent::Done);
        let found = receive(&a, &mut [0; 64]);
        assert_eq!(found, Received::Refused { addr: nobody });
        assert_eq!(a.receive(&mut [0; 64]).unwrap(), Received::Nothing);
    }

    #[test]
    fn a_dead_peer_keeps_no_datagram_from_a_live_one() {
        let (a, b) = (socket(), socket());
        let nobody = socket().local_addr().unwrap();
        let to = b.local_addr().unwrap();
        for _ in 0..10 {
            a.send_slices(None, nobody, &[b"anyone?"]).unwrap();
            assert_eq!(a.send_slices(None, to, &[b"hello"]).unwrap(), Sent::Done);
            assert!(matches!(receive(&b, &mut [0; 64]), Received::Datagrams { len: 5, .. }));
        }
        assert_eq!(a.take_refusal(), Some(nobody));
    }

    #[test]
    fn a_link_local_address_keeps_its_scope() {
        let addr = SocketAddr::from(std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 7400, 0, 3));
        assert_eq!(to_std(SockaddrStorage::from(addr)), Some(addr));
        let addr = SocketAddr::from(([127, 0, 0, 1], 7400));
        assert_eq!(to_std(SockaddrStorage::from(addr)), Some(addr));
    }

    #[test]
    fn only_an_error_of_the_socket_itself_ends_it() {
        let ends = |errno: &i32| is_about_the_socket(&io::Error::from_raw_os_error(*errno));
        let mut fatal = [Errno::EBADF, Errno::EFAULT, Errno::ENOTSOCK].map(|errno| errno as i32);
        fatal.sort_unstable();
        assert_eq!((1..4096).filter(ends).collect::<Vec<i32>>(), fatal);
    }

    #[test]
    fn a_thousand_errors_in_a_row_demand_one_pause_and_a_datagram_ends_the_row() {
        let (a, b) = (socket(), socket());
        let (nobody, to) = (socket().local_addr().unwrap(), a.local_addr().unwrap());
        let refused = || {
            a.send_slices(None, nobody, &[b"anyone?"]).unwrap();
            receive(&a, &mut [0; 64])
        };
        for row in 0..2 {
            for count in 1..ERRORS_IN_A_ROW {
                assert_eq!(refused(), Received::Refused { addr: nobody }, "{count} of row {row}");
            }
            let failing = Received::Failing { errors: ERRORS_IN_A_ROW, error: Errno::ECONNREFUSED };
            assert_eq!(refused(), failing, "row {row}");
            while a.take_refusal().is_some() {}
            assert_eq!(refused(), Received::Refused { addr: nobody }, "it goes on");
            b.send_slices(None, to, &[b"hello"]).unwrap();
            assert!(matches!(receive(&a, &mut [0; 64]), Received::Datagrams { len: 5, .. }));
        }
        assert_eq!(a.counters().receive_errors, 2 * u64::from(ERRORS_IN_A_ROW + 1));
    }

    /// ICMP says so of an earlier datagram, and perhaps a stranger made the ICMP message.
    #[test]
    fn one_error_that_may_be_about_an_earlier_datagram_changes_nothing() {
        let (a, to) = (socket(), socket().local_addr().unwrap());
        for errno in [Errno::EMSGSIZE, Errno::EOPNOTSUPP, Errno::ENOPROTOOPT, Errno::EINVAL] {
            let send_after = |errors: u32| {
                let left = std::cell::Cell::new(errors);
                let send = |_: &StdSocket, _| match left.replace(left.get().saturating_sub(1)) {
                    0 => Ok(9),
                    _ => Err(errno.into()),
                };
                a.send_with(None, to, 3, send).unwrap()
            };
            assert_eq!(send_after(1), Sent::Done, "{errno}");
            assert!(a.sends_trains.load(Ordering::Relaxed), "{errno}");
            assert_eq!(send_after(2), Sent::TooLong, "{errno}");
            a.sends_trains.store(true, Ordering::Relaxed);
        }
        assert_eq!(a.counters().send_errors, 4 * 3);
    }

    #[test]
    fn a_datagram_longer_than_any_link_is_refused() {
        let (a, b) = (socket(), socket());
        let long = vec![0; 65_508];
        let to = b.local_addr().unwrap();
        assert_eq!(a.send_slices(None, to, &[&long]).unwrap(), Sent::TooLong);
        assert_eq!(a.receive(&mut [0; 64]).unwrap(), Received::Nothing);
    }

    #[test]
    fn the_kernel_counts_what_it_drops_and_its_buffer_is_known() {
        let a = socket();
        let b = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1).unwrap();
        let to = b.local_addr().unwrap();
        let fit = b.receive_buffer() / 8448;
        for _ in 0..fit + 5 {
            a.send_slices(None, to, &[&[1; 4200]]).unwrap();
        }
        assert!(b.dropped().unwrap() > 0, "{} bytes held {fit} pages", b.receive_buffer());
        assert_eq!(a.dropped().unwrap(), 0);
    }
}
