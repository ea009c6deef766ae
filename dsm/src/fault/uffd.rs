//! userfaultfd by raw system calls: open, register, map, write-protect, wake, read events.
//!
//! One method is one ioctl with its retries, nothing more: which page gets which access is decided
//! above. The `userfaultfd` crate is no help here: it lacks CONTINUE with write-protection and runs
//! bindgen on every build. Kernel side: Documentation/admin-guide/mm/userfaultfd.rst.

use std::fs::File;
use std::io;
use std::mem::{offset_of, size_of};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use linux_raw_sys::general as abi;
use linux_raw_sys::ioctl as request;
use nix::errno::Errno;

use crate::page::{Access, PAGE_SIZE};

/// Bits that `linux-raw-sys` does not carry, because the kernel writes them as casts.
const CONTINUE_MODE_WP: u64 = 1 << 1;
const WRITEPROTECT_MODE_WP: u64 = 1 << 0;
/// `_IO(0xAA, 0x00)` of /dev/userfaultfd.
const USERFAULTFD_IOC_NEW: u64 = 0xAA00;

const FEATURES_NEEDED: u32 = abi::UFFD_FEATURE_MISSING_SHMEM
    | abi::UFFD_FEATURE_MINOR_SHMEM
    | abi::UFFD_FEATURE_PAGEFAULT_FLAG_WP
    | abi::UFFD_FEATURE_WP_HUGETLBFS_SHMEM;

const MESSAGE_LEN: usize = 32;
const _: () = assert!(size_of::<abi::uffd_msg>() == MESSAGE_LEN);
const _: () = assert!(offset_of!(abi::uffd_msg, arg) == 8);
const _: () = assert!(size_of::<abi::uffdio_api>() == 24);
const _: () = assert!(size_of::<abi::uffdio_range>() == 16);
const _: () = assert!(size_of::<abi::uffdio_register>() == 32);
const _: () = assert!(size_of::<abi::uffdio_writeprotect>() == 24);
const _: () = assert!(size_of::<abi::uffdio_continue>() == 32);

/// A userfaultfd whose faults on shared memory are told apart into missing, minor and write-protect.
#[derive(Debug)]
pub(super) struct Uffd {
    fd: OwnedFd,
}

/// How the kernel reports a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Delivery {
    /// SIGBUS in the faulting thread; faults of the kernel itself (system calls) fail with EFAULT.
    Signal,
    /// A message on the descriptor; the faulting thread sleeps, system calls included.
    Message,
}

/// One fault, as read from the descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Event {
    /// Any address inside the page.
    pub(super) address: usize,
    /// What the instruction wanted: [`Access::Read`] or [`Access::Write`].
    pub(super) access: Access,
    /// The faulting thread's id.
    pub(super) thread: u32,
}

impl Uffd {
    /// Opens a descriptor. The error says which step failed.
    pub(super) fn open(delivery: Delivery) -> Result<Uffd, String> {
        let (flags, feature) = match delivery {
            Delivery::Signal => (abi::UFFD_USER_MODE_ONLY as i32, abi::UFFD_FEATURE_SIGBUS),
            Delivery::Message => (0, abi::UFFD_FEATURE_THREAD_ID),
        };
        let uffd = Uffd { fd: open_descriptor(flags | libc::O_CLOEXEC | libc::O_NONBLOCK)? };
        let mut api = abi::uffdio_api {
            api: abi::UFFD_API.into(),
            features: (FEATURES_NEEDED | feature).into(),
            ioctls: 0,
        };
        uffd.ioctl(request::UFFDIO_API, &mut api)
            .map_err(|errno| format!("UFFDIO_API: the kernel lacks a needed feature ({errno})"))?;
        Ok(uffd)
    }

    /// Registers an address range. All three modes: without MISSING a hole of the file would be
    /// mapped writable, with no fault at all.
    pub(super) fn register(&self, range: Range<usize>) -> io::Result<()> {
        let modes = abi::UFFDIO_REGISTER_MODE_MISSING
            | abi::UFFDIO_REGISTER_MODE_MINOR
            | abi::UFFDIO_REGISTER_MODE_WP;
        let mut register = abi::uffdio_register { range: abi_range(&range), mode: modes.into(), ioctls: 0 };
        Ok(self.ioctl(request::UFFDIO_REGISTER, &mut register)?)
    }

    /// Maps pages that have memory, readable or writable, and wakes their waiters. Pages that are
    /// mapped already get `access` too. `touch` allocates the page at an address: it is called for
    /// holes of the file, which CONTINUE refuses.
    pub(super) fn map(&self, range: Range<usize>, access: Access, touch: impl Fn(usize)) -> io::Result<()> {
        let mut next = range.start;
        while next < range.end {
            let (done, stopped_by) = self.try_continue(next..range.end, access);
            next += done;
            match stopped_by {
                None => return Ok(()),
                // Some pages were mapped, or the address space was changing: go on from there.
                Some(Errno::EAGAIN) => {}
                Some(Errno::EFAULT) => touch(next),
                Some(Errno::EEXIST) => {
                    let page = next..next + PAGE_SIZE;
                    self.write_protect(page.clone(), access)?;
                    // Write-protecting wakes nobody, and a spare wake-up is cheaper than a thread
                    // that sleeps for ever.
                    self.wake(page)?;
                    next += PAGE_SIZE;
                }
                Some(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Sets mapped pages to read-only or writable; writers that wait are woken by the latter.
    pub(super) fn write_protect(&self, range: Range<usize>, access: Access) -> io::Result<()> {
        let mode = match access {
            Access::Read => WRITEPROTECT_MODE_WP,
            Access::Write => 0,
            Access::None => unreachable!("no access is unmapping, not write-protection"),
        };
        let mut argument = abi::uffdio_writeprotect { range: abi_range(&range), mode };
        loop {
            match self.ioctl(request::UFFDIO_WRITEPROTECT, &mut argument) {
                Err(Errno::EAGAIN) => std::hint::spin_loop(),
                result => return Ok(result?),
            }
        }
    }

    /// Lets threads that wait in a fault on the range run again; they fault anew if need be.
    pub(super) fn wake(&self, range: Range<usize>) -> io::Result<()> {
        let mut argument = abi_range(&range);
        Ok(self.ioctl(request::UFFDIO_WAKE, &mut argument)?)
    }

    /// Reads the events that are there now, in `buffer` order; an empty list when there are none.
    pub(super) fn read_events(&self, events: &mut Vec<Event>, events_max: usize) -> io::Result<()> {
        const MESSAGES: usize = 32;
        let mut bytes = [0u8; MESSAGES * MESSAGE_LEN];
        let bytes = &mut bytes[..events_max.min(MESSAGES) * MESSAGE_LEN];
        events.clear();
        match nix::unistd::read(&self.fd, bytes) {
            Ok(len) => {
                events.extend(bytes[..len].chunks_exact(MESSAGE_LEN).filter_map(decode));
                Ok(())
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// One CONTINUE: how many bytes it mapped and what stopped it.
    fn try_continue(&self, range: Range<usize>, access: Access) -> (usize, Option<Errno>) {
        let mode = match access {
            Access::Read => CONTINUE_MODE_WP,
            Access::Write => 0,
            Access::None => unreachable!("mapping gives access"),
        };
        let mut argument = abi::uffdio_continue { range: abi_range(&range), mode, mapped: 0 };
        match self.ioctl(request::UFFDIO_CONTINUE, &mut argument) {
            Ok(()) => (range.len(), None),
            // `mapped` is a count after a partial success, and a negated errno otherwise.
            Err(errno) => (usize::try_from(argument.mapped).unwrap_or(0), Some(errno)),
        }
    }

    fn ioctl<T>(&self, number: u32, argument: &mut T) -> Result<(), Errno> {
        // SAFETY: `argument` is the exclusively borrowed structure that request `number` reads and
        // writes: the private callers pair them, and their sizes are asserted above.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), number as libc::Ioctl, argument) };
        Errno::result(result).map(drop)
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// By the system call, and by /dev/userfaultfd where the call is forbidden.
fn open_descriptor(flags: i32) -> Result<OwnedFd, String> {
    // SAFETY: userfaultfd takes only flags, no memory.
    let result = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    let refused = match Errno::result(result) {
        // SAFETY: a success is a new descriptor, owned by nobody else.
        Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
        Err(errno) => errno,
    };
    let device = File::open("/dev/userfaultfd")
        .map_err(|e| format!("userfaultfd: {refused}; /dev/userfaultfd: {e}"))?;
    // SAFETY: this request takes flags by value, no memory.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW as libc::Ioctl, flags) };
    match Errno::result(result) {
        // SAFETY: a success is a new descriptor, owned by nobody else.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Err(errno) => Err(format!("userfaultfd: {refused}; /dev/userfaultfd: {errno}")),
    }
}

/// A page fault's message; `None` for events that were not asked for.
fn decode(message: &[u8]) -> Option<Event> {
    let word = |at: usize| u64::from_ne_bytes(message[at..at + 8].try_into().expect("8 bytes"));
    if u32::from(message[0]) != abi::UFFD_EVENT_PAGEFAULT {
        return None;
    }
    let (flags, address, thread) = (word(8), word(16), word(24) as u32);
    let store = u64::from(abi::UFFD_PAGEFAULT_FLAG_WRITE | abi::UFFD_PAGEFAULT_FLAG_WP);
    let access = if flags & store == 0 { Access::Read } else { Access::Write };
    Some(Event { address: address as usize, access, thread })
}

fn abi_range(range: &Range<usize>) -> abi::uffdio_range {
    abi::uffdio_range { start: range.start as u64, len: range.len() as u64 }
}
