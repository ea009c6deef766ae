//! The few userfaultfd calls that the floor needs, by raw system calls.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use linux_raw_sys::general as abi;
use linux_raw_sys::ioctl as request;
use nix::errno::Errno;

use super::Mechanism;

/// Not in `linux-raw-sys`: the kernel writes them as casts.
const CONTINUE_MODE_WP: u64 = 1 << 1;
const WRITEPROTECT_MODE_WP: u64 = 1 << 0;

const _: () = assert!(size_of::<abi::uffdio_api>() == 24);
const _: () = assert!(size_of::<abi::uffdio_register>() == 32);
const _: () = assert!(size_of::<abi::uffdio_writeprotect>() == 24);
const _: () = assert!(size_of::<abi::uffdio_continue>() == 32);
const _: () = assert!(size_of::<abi::uffd_msg>() == MESSAGE_LEN);

const MESSAGE_LEN: usize = 32;

pub(super) struct Uffd(File);

impl Uffd {
    pub(super) fn open(mechanism: Mechanism) -> io::Result<Uffd> {
        let (flags, feature) = match mechanism {
            Mechanism::Thread => (0, 0),
            Mechanism::Signal | Mechanism::Mprotect => {
                (abi::UFFD_USER_MODE_ONLY as i32, abi::UFFD_FEATURE_SIGBUS)
            }
        };
        // SAFETY: userfaultfd takes only flags, no memory.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags | libc::O_CLOEXEC) };
        let fd = Errno::result(fd)? as i32;
        // SAFETY: the kernel has just given this descriptor to us alone.
        let uffd = Uffd(File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
        let features = abi::UFFD_FEATURE_MISSING_SHMEM
            | abi::UFFD_FEATURE_MINOR_SHMEM
            | abi::UFFD_FEATURE_WP_HUGETLBFS_SHMEM
            | feature;
        let mut api = abi::uffdio_api { api: abi::UFFD_API.into(), features: features.into(), ioctls: 0 };
        uffd.ioctl(request::UFFDIO_API, &mut api)?;
        Ok(uffd)
    }

    pub(super) fn register(&self, range: &Range<usize>) -> io::Result<()> {
        let mode = abi::UFFDIO_REGISTER_MODE_MISSING
            | abi::UFFDIO_REGISTER_MODE_MINOR
            | abi::UFFDIO_REGISTER_MODE_WP;
        let mut argument = abi::uffdio_register { range: abi_range(range), mode: mode.into(), ioctls: 0 };
        self.ioctl(request::UFFDIO_REGISTER, &mut argument)
    }

    /// Maps pages that have memory, write-protected, and wakes who waits for them.
    pub(super) fn map(&self, range: &Range<usize>) -> io::Result<()> {
        let (range, mode) = (abi_range(range), CONTINUE_MODE_WP);
        let mut argument = abi::uffdio_continue { range, mode, mapped: 0 };
        self.ioctl(request::UFFDIO_CONTINUE, &mut argument)
    }

    /// Makes mapped pages read-only.
    pub(super) fn protect(&self, range: &Range<usize>) -> io::Result<()> {
        let mut argument = abi::uffdio_writeprotect { range: abi_range(range), mode: WRITEPROTECT_MODE_WP };
        self.ioctl(request::UFFDIO_WRITEPROTECT, &mut argument)
    }

    /// Makes mapped pages writable and wakes who waits for them.
    pub(super) fn unprotect(&self, range: &Range<usize>) -> io::Result<()> {
        let mut argument = abi::uffdio_writeprotect { range: abi_range(range), mode: 0 };
        self.ioctl(request::UFFDIO_WRITEPROTECT, &mut argument)
    }

    /// Waits for a fault; its address.
    pub(super) fn read_address(&self) -> io::Result<usize> {
        let mut message = [0; MESSAGE_LEN];
        io::Read::read_exact(&mut &self.0, &mut message)?;
        let address: [u8; 8] = message[16..24].try_into().expect("8 bytes");
        Ok(usize::from_ne_bytes(address))
    }

    fn ioctl<T>(&self, number: u32, argument: &mut T) -> io::Result<()> {
        loop {
            // SAFETY: `argument` is the exclusively borrowed structure of request `number`: the callers
            // above pair them, and their sizes are asserted.
            let result =
                unsafe { libc::ioctl(self.0.as_raw_fd(), number as libc::Ioctl, &raw mut *argument) };
            match Errno::result(result) {
                Err(Errno::EAGAIN) => std::hint::spin_loop(),
                result => return Ok(result.map(drop)?),
            }
        }
    }
}

fn abi_range(range: &Range<usize>) -> abi::uffdio_range {
    abi::uffdio_range { start: range.start as u64, len: range.len() as u64 }
}
