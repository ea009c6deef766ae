//! The system calls of waiting: epoll with nanoseconds, and futexes.
//!
//! nix has no epoll_pwait2 and no futex; each is one call here.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;
use nix::sys::time::TimeSpec;

use crate::error::{Error, Result};

/// Events taken from the kernel at one time.
const EVENTS_MAX: usize = 16;
const SOCKET: u64 = u64::MAX;
/// Bytes of a signal set as the kernel takes it: 64 signals.
const KERNEL_SIGSET_LEN: usize = 8;
const WAKE: u64 = u64::MAX - 1;

/// What the progress thread sleeps on: the socket while it is armed, a wake-up, ends of processes.
pub(super) struct Poller {
    epoll: Epoll,
    wake: EventFd,
}

/// The events that woke the progress thread.
#[derive(Clone, Default, Debug)]
pub(super) struct Woken {
    /// Watched processes that have ended, by the token of [`Poller::watch`].
    pub(super) ended: Vec<u64>,
    /// The socket has reports in its error queue.
    pub(super) socket_error: bool,
}

impl Woken {
    /// Both.
    pub(super) fn add(&mut self, other: Woken) {
        self.ended.extend(other.ended);
        self.socket_error |= other.socket_error;
    }
}

impl Poller {
    /// Watches the socket, armed.
    pub(super) fn new(socket: &impl AsFd) -> Result<Poller> {
        let fail = |errno| Error::os("epoll", errno);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(fail)?;
        let wake = wake_event()?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE)).map_err(fail)?;
        epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, SOCKET)).map_err(fail)?;
        Ok(Poller { epoll, wake })
    }

    /// The progress thread receives from now on. Level-triggered: what came meanwhile wakes it.
    pub(super) fn arm(&self, socket: &impl AsFd) {
        self.watch_socket(socket, EpollFlags::EPOLLIN);
    }

    /// Somebody else receives: datagrams wake the progress thread no longer, only errors do. Half of what
    /// it costs to take the socket off the list and put it back.
    pub(super) fn disarm(&self, socket: &impl AsFd) {
        self.watch_socket(socket, EpollFlags::empty());
    }

    fn watch_socket(&self, socket: &impl AsFd, events: EpollFlags) {
        let result = self.epoll.modify(socket, &mut EpollEvent::new(events, SOCKET));
        result.expect("the socket is on the list, and the list exists");
    }

    /// Reports the end of a process, once, as `token`.
    pub(super) fn watch(&self, process: &OwnedFd, token: u64) -> Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, token);
        self.epoll.add(process, event).map_err(|errno| Error::os("watching a process", errno))
    }

    /// Ends the progress thread's sleep, now or when it next begins.
    pub(super) fn wake(&self) {
        ring(&self.wake);
    }

    /// Sleeps until something happens or `timeout` is over, with `mask` instead of the thread's own.
    pub(super) fn wait(&self, timeout: Duration, mask: Option<&SigSet>) -> Woken {
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        let timeout = TimeSpec::from_duration(timeout);
        let mask: *const libc::sigset_t = mask.map_or(std::ptr::null(), |mask| mask.as_ref());
        // SAFETY: `EpollEvent` is a transparent `epoll_event`; the kernel writes at most `EVENTS_MAX` of
        // them. Its own signal set is the first 8 bytes of libc's.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.0.as_raw_fd(),
                events.as_mut_ptr(),
                EVENTS_MAX,
                std::ptr::from_ref(timeout.as_ref()),
                mask,
                KERNEL_SIGSET_LEN,
            )
        };
        let mut woken = Woken::default();
        for event in events.iter().take(usize::try_from(count).unwrap_or(0)) {
            match event.data() {
                SOCKET => woken.socket_error = event.events().contains(EpollFlags::EPOLLERR),
                WAKE => drain(&self.wake),
                token => woken.ended.push(token),
            }
        }
        woken
    }
}

/// A non-blocking event to wake a sleeper with.
pub(super) fn wake_event() -> Result<EventFd> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|errno| Error::os("eventfd", errno))
}

/// Wakes who sleeps on the event, now or when it next does.
pub(super) fn ring(event: &EventFd) {
    event.write(1).expect("an eventfd takes a 1");
}

/// Forgets the wake-ups so far.
pub(super) fn drain(event: &EventFd) {
    match event.read() {
        Ok(_) | Err(Errno::EAGAIN) => {}
        Err(errno) => panic!("an eventfd cannot be read: {errno}"),
    }
}

/// Sleeps until the socket has a datagram, somebody wakes us, or `timeout`.
/// True if the socket has reports in its error queue.
pub(super) fn wait_for_datagram(socket: &impl AsFd, wake: &EventFd, timeout: Duration) -> bool {
    let mut fds =
        [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
    // An interruption only means that the caller looks earlier.
    let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None);
    if fds[1].any().unwrap_or(false) {
        drain(wake);
    }
    fds[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLERR))
}

/// Whether a datagram lies in the socket.
pub(super) fn has_datagram(socket: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(Duration::ZERO)), None);
    fds[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLIN))
}

/// Sleeps while the word has this value, for `timeout` at most; may return early.
pub(super) fn futex_wait(word: &AtomicU32, value: u32, timeout: Option<Duration>) {
    let timeout = timeout.map(TimeSpec::from_duration);
    let timeout: *const libc::timespec = timeout.as_ref().map_or(std::ptr::null(), |time| time.as_ref());
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the kernel reads the word, which lives as long as the call, and a time or nothing.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, timeout) };
}

/// Wakes the thread that sleeps because of the word.
pub(super) fn futex_wake(word: &AtomicU32) {
    let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word's address is only compared.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, 1) };
}
