//! What system calls see when they are given shared memory that is not here.

use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use super::*;

/// A file of `pages` pages of 0x5a, read from its start.
fn file(pages: usize) -> std::fs::File {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let mut file = std::fs::File::from(nix::sys::memfd::memfd_create(c"pagemesh-test", flags).unwrap());
    file.write_all(&vec![0x5a; pages * PAGE_SIZE]).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

fn read_into(file: &std::fs::File, start: *mut u64, len: usize) -> nix::Result<usize> {
    // SAFETY: the destination is shared memory, to which the test holds no reference.
    let result = unsafe { libc::read(file.as_raw_fd(), start.cast(), len) };
    Errno::result(result).map(|len| len as usize)
}

#[test]
fn a_read_into_pages_that_are_not_here_fails_or_is_served() {
    on_each_backend(4, |rig| {
        let result = read_into(&file(4), rig.word(0, 0), 4 * PAGE_SIZE);
        match rig.arena.backend() {
            Backend::Thread => {
                assert_eq!(result, Ok(4 * PAGE_SIZE));
                assert_eq!(rig.runtime_word(3), 0x5a5a_5a5a_5a5a_5a5a);
            }
            Backend::Signal | Backend::Mprotect | Backend::None => {
                assert_eq!(result, Err(Errno::EFAULT));
                assert_eq!(rig.faults(), []);
            }
        }
    });
}

#[test]
fn a_read_into_pages_of_which_some_are_here_comes_up_short_or_is_served() {
    on_each_backend(4, |rig| {
        rig.store(0, 1);
        assert_eq!(rig.load(1), 0); // readable only
        let result = read_into(&file(4), rig.word(0, 0), 4 * PAGE_SIZE);
        let wanted = if rig.arena.backend() == Backend::Thread { 4 * PAGE_SIZE } else { PAGE_SIZE };
        assert_eq!(result, Ok(wanted));
    });
}

#[test]
fn the_bounce_buffer_serves_every_backend() {
    on_each_backend(40, |rig| {
        let (mut input, mut output) = (file(40), file(0));
        let len = 40 * PAGE_SIZE - 3;
        let start = rig.word(0, 0).cast::<u8>();
        // SAFETY: the range is one region of this test's alone.
        unsafe { crate::io::read_exact(&mut input, start, len) }.unwrap();
        assert_eq!(rig.runtime_word(39), 0x5a5a_5a5a_5a5a_5a5a);
        rig.locked(|memory| memory.protect_range(PageId(0), 40, Access::None));
        // SAFETY: as above.
        unsafe { crate::io::write_all(&mut output, start, len) }.unwrap();
        assert_eq!(output.metadata().unwrap().len(), len as u64);
        // SAFETY: as above.
        let error = unsafe { crate::io::read_exact(&mut input, start, len) }.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn other_programs_can_be_started() {
    on_each_backend(2, |rig| {
        rig.store(0, 1);
        assert!(std::process::Command::new("true").status().unwrap().success());
        rig.store(1, 2);
        assert_eq!((rig.load(0), rig.load(1)), (1, 2));
    });
}
