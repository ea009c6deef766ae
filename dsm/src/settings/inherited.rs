//! A socket that a node is given instead of an address to bind: by the process that started it, whose number for
//! it stands in `PAGEMESH_SOCKET_FD`, or by the program itself.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{SockType, SockaddrStorage, getsockname, getsockopt, sockopt};
use parking_lot::Mutex;

/// A bound UDP socket. Copies share it; the first node that starts with one of them takes it.
#[derive(Clone, Debug)]
pub struct InheritedSocket(Arc<Mutex<Option<OwnedFd>>>);

/// Descriptors that this process was started with, by number: each is taken over once.
static OF_PROCESS: Mutex<BTreeMap<RawFd, InheritedSocket>> = Mutex::new(BTreeMap::new());

impl InheritedSocket {
    /// The socket that the process was started with under this number. A later question gets a copy.
    ///
    /// Nothing else in the process may own the descriptor of that number. Only the environment says so: the
    /// variable is a promise of the process that started this one.
    pub(super) fn of_process(number: RawFd) -> Result<InheritedSocket, String> {
        let mut known = OF_PROCESS.lock();
        if let Some(socket) = known.get(&number) {
            return Ok(socket.clone());
        }
        if number < 0 {
            return Err(format!("{number} is no descriptor"));
        }
        // SAFETY: looked at only during this call; a closed number is an error of each system call.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        check(fd).map_err(|why| format!("descriptor {number} {why}"))?;
        // SAFETY: it is open, and the starter of this process promises that it is for this purpose alone.
        let socket = InheritedSocket::from(unsafe { OwnedFd::from_raw_fd(number) });
        known.insert(number, socket.clone());
        Ok(socket)
    }

    /// Takes the socket. An error says that a node has it already, or what is wrong with it.
    pub(crate) fn take(&self) -> Result<OwnedFd, String> {
        let fd = self.0.lock().take().ok_or("the socket has been taken by another node already")?;
        check(fd.as_fd()).map_err(|why| format!("the socket that the settings pass on {why}"))?;
        Ok(fd)
    }
}

impl From<OwnedFd> for InheritedSocket {
    fn from(fd: OwnedFd) -> Self {
        // What this process starts from now on must not inherit it in turn. A descriptor that is none is found
        // out when it is taken.
        let _ = fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        InheritedSocket(Arc::new(Mutex::new(Some(fd))))
    }
}

impl From<UdpSocket> for InheritedSocket {
    fn from(socket: UdpSocket) -> Self {
        InheritedSocket::from(OwnedFd::from(socket))
    }
}

/// Two are equal if they are copies of one.
impl PartialEq for InheritedSocket {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What keeps a descriptor from being a bound UDP socket.
fn check(fd: BorrowedFd<'_>) -> Result<(), String> {
    match getsockopt(&fd, sockopt::SockType) {
        Ok(SockType::Datagram) => {}
        Ok(_) | Err(Errno::ENOTSOCK) => return Err("is no UDP socket".to_owned()),
        Err(Errno::EBADF) => return Err("is not open".to_owned()),
        Err(errno) => return Err(format!("cannot be used: {errno}")),
    }
    let addr = getsockname::<SockaddrStorage>(std::os::fd::AsRawFd::as_raw_fd(&fd));
    let addr = addr.map_err(|errno| format!("cannot be used: {errno}"))?;
    let port = addr.as_sockaddr_in().map(|v4| v4.port()).or(addr.as_sockaddr_in6().map(|v6| v6.port()));
    match port {
        Some(0) => Err("is not bound to an address".to_owned()),
        Some(_) => Ok(()),
        None => Err("is no UDP socket".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, IntoRawFd};

    use super::*;

    fn bound() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").expect("a socket on loopback")
    }

    fn refused(number: RawFd) -> String {
        InheritedSocket::of_process(number).expect_err("a refusal")
    }

    fn is_closed_on_exec(number: RawFd) -> bool {
        // SAFETY: the caller's own descriptor, which is open.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl(fd, FcntlArg::F_GETFD).expect("it is open") & FdFlag::FD_CLOEXEC.bits() != 0
    }

    #[test]
    fn a_number_that_is_no_bound_udp_socket_is_refused_with_its_reason() {
        assert_eq!(refused(-1), "-1 is no descriptor");
        assert_eq!(refused(1_000_000), "descriptor 1000000 is not open");
        let file = std::fs::File::open("/dev/null").expect("a file");
        assert!(refused(file.as_raw_fd()).ends_with("is no UDP socket"));
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
        assert!(refused(tcp.as_raw_fd()).ends_with("is no UDP socket"));
        let (local, _peer) = std::os::unix::net::UnixDatagram::pair().expect("sockets");
        assert!(refused(local.as_raw_fd()).ends_with("is no UDP socket"));
        let kind = (socket2::Domain::IPV4, socket2::Type::DGRAM);
        let unbound = socket2::Socket::new(kind.0, kind.1, None).expect("a socket");
        assert!(refused(unbound.as_raw_fd()).ends_with("is not bound to an address"));
        assert!(InheritedSocket::from(OwnedFd::from(unbound)).take().is_err());
    }

    #[test]
    fn a_socket_of_the_process_is_taken_once_however_often_its_number_is_read() {
        let number = bound().into_raw_fd();
        let (first, second) = (InheritedSocket::of_process(number), InheritedSocket::of_process(number));
        let (first, second) = (first.expect("a socket"), second.expect("the same"));
        assert_eq!(first, second);
        let taken = second.take().expect("not taken yet");
        assert_eq!(taken.as_raw_fd(), number);
        // It stays open, here and below: the tests of a process share the numbers.
        std::mem::forget(taken);
        for copy in [first, second, InheritedSocket::of_process(number).expect("known")] {
            assert_eq!(copy.take().unwrap_err(), "the socket has been taken by another node already");
        }
    }

    #[test]
    fn a_socket_that_is_passed_on_is_closed_in_programs_that_this_one_starts() {
        let socket = bound();
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).expect("as it is inherited");
        let number = socket.into_raw_fd();
        let socket = InheritedSocket::of_process(number).expect("a socket");
        assert!(is_closed_on_exec(number));
        std::mem::forget(socket.take());
    }
}
