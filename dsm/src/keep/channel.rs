//! One connection between a node and a keeper: packets with descriptors, and the process at the other end.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Uid;
use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, accept_with, recvmsg, sendmsg,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::message::{Answer, PACKET_MAX, Request};

const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// Descriptors that are looked at in a packet; the kernel closes those beyond.
const FILES_MAX: usize = 4;
/// What the kernel says for a user of a namespace that this process cannot see.
const OVERFLOW_UID: u32 = 65_534;

/// The process at the other end of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) pid: u32,
    /// Readable when it has ended.
    pub(super) process: OwnedFd,
}

/// One end of a connection. No call blocks.
#[derive(Debug)]
pub(super) struct Channel {
    socket: OwnedFd,
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Channel {
    /// A connected socket that does not block.
    pub(super) fn new(socket: OwnedFd) -> Channel {
        Channel { socket }
    }

    /// The next connection that waits, if any.
    pub(super) fn accept(listener: &OwnedFd) -> Result<Option<Channel>, Errno> {
        match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => Ok(Some(Channel::new(socket))),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno_of(errno)),
        }
    }

    pub(super) fn send(&self, request: &Request, files: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        self.send_packet(&request.encode(), files)
    }

    pub(super) fn answer(&self, answer: &Answer) -> Result<(), Errno> {
        self.send_packet(&answer.encode(), &[])
    }

    /// The next request with its descriptors; `EAGAIN` if none is there.
    pub(super) fn receive(&self) -> Result<(Request, Vec<OwnedFd>), Errno> {
        let (bytes, files) = self.receive_packet()?;
        Ok((Request::decode(&bytes).map_err(|_| Errno::EBADMSG)?, files))
    }

    /// The answer to an offer; `EAGAIN` if it has not come.
    pub(super) fn receive_answer(&self) -> Result<Answer, Errno> {
        let (bytes, _) = self.receive_packet()?;
        Answer::decode(&bytes).map_err(|_| Errno::EBADMSG)
    }

    /// The process at the other end, which must be this user's.
    pub(super) fn peer(&self) -> Result<Peer, String> {
        let fail = |errno: Errno| format!("the process at the other end is not known: {errno}");
        let peer = getsockopt(&self.socket, sockopt::PeerCredentials).map_err(fail)?;
        let me = Uid::effective().as_raw();
        if peer.uid() == OVERFLOW_UID {
            return Err(format!(
                "as user {OVERFLOW_UID} runs whoever the system cannot name, so nobody is trusted"
            ));
        }
        if peer.uid() != me {
            return Err(format!(
                "the process at the other end runs as user {}, and this one as user {me}",
                peer.uid()
            ));
        }
        let pid = peer.pid().unsigned_abs();
        match getsockopt(&self.socket, sockopt::PeerPidfd) {
            Ok(process) => Ok(Peer { pid, process }),
            // Before Linux 6.5. The number is of that process as long as the connection stands: the process is
            // opened first and the connection looked at afterwards.
            Err(Errno::ENOPROTOOPT) => {
                let number = Pid::from_raw(peer.pid()).ok_or_else(|| fail(Errno::ESRCH))?;
                let process =
                    pidfd_open(number, PidfdFlags::empty()).map_err(|errno| fail(errno_of(errno)))?;
                if self.is_closed() { Err(fail(Errno::ESRCH)) } else { Ok(Peer { pid, process }) }
            }
            Err(errno) => Err(fail(errno)),
        }
    }

    fn is_closed(&self) -> bool {
        self.has(PollFlags::empty())
    }

    /// Whether something has come, or the other end has closed it.
    pub(super) fn is_readable(&self) -> bool {
        self.has(PollFlags::IN)
    }

    fn has(&self, events: PollFlags) -> bool {
        let mut fds = [PollFd::new(&self.socket, events)];
        !matches!(poll(&mut fds, Some(&AT_ONCE)), Ok(0))
    }

    fn send_packet(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FILES_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits = files.is_empty() || control.push(SendAncillaryMessage::ScmRights(files));
        debug_assert!(fits, "{} descriptors in one packet", files.len());
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags).map(drop).map_err(errno_of)
    }

    /// `ECONNRESET` if the other end has closed. Descriptors that come with an error are closed.
    fn receive_packet(&self) -> Result<(Vec<u8>, Vec<OwnedFd>), Errno> {
        let mut bytes = vec![0; PACKET_MAX];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FILES_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let packet = recvmsg(&self.socket, &mut slices, &mut control, flags).map_err(errno_of)?;
        if packet.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(Errno::EMSGSIZE);
        }
        if packet.bytes == 0 {
            return Err(Errno::ECONNRESET);
        }
        let mut files = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                files.extend(received);
            }
        }
        bytes.truncate(packet.bytes);
        Ok((bytes, files))
    }
}

/// The same number in the words of the crate that the rest of the library speaks.
pub(super) fn errno_of(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}
