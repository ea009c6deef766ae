//! After [`Arena::revoke_all`] no page is accessible, whatever is called then or at that time. Access is tried by
//! system calls, which fail with EFAULT where a load or store would fault.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

use super::*;

type Kernel = std::result::Result<(), Errno>;

/// Whether the kernel may load from, and store to, a page for a system call.
fn access_of_system_calls(rig: &Rig, page: u64) -> (Kernel, Kernel) {
    let view = rig.arena.mapper.view().expect("a view");
    let offset = PageId(page).start().0 as usize;
    let pipe = || -> (OwnedFd, OwnedFd) { nix::unistd::pipe().expect("a pipe") };
    let (_reader, writer) = pipe();
    let loaded = view.system_load(offset, writer.as_fd());
    let (reader, writer) = pipe();
    nix::unistd::write(&writer, b"x").expect("a pipe has room");
    (loaded, view.system_store(offset, reader.as_fd()))
}

#[track_caller]
fn assert_revoked(rig: &Rig, pages: Range<u64>) {
    for page in pages {
        let refused = (Err(Errno::EFAULT), Err(Errno::EFAULT));
        assert_eq!(access_of_system_calls(rig, page), refused, "{}: page {page}", rig.arena.backend());
    }
}

#[test]
fn pages_in_every_state_lose_their_access_and_keep_their_bytes() {
    on_each_backend(4, |rig| {
        rig.store(0, 5);
        rig.store(1, 6);
        rig.protect(1, Access::Read);
        assert_eq!(access_of_system_calls(rig, 0), (Ok(()), Ok(())));
        let bytes = rig.runtime_word(0);
        rig.arena.revoke_all();
        assert_revoked(rig, 0..4);
        assert_eq!((rig.runtime_word(0), rig.runtime_word(1)), (bytes, 6));
        rig.arena.revoke_all();
        assert_revoked(rig, 0..4);
    });
}

#[test]
fn no_call_gives_access_once_all_was_taken() {
    on_each_backend(16, |rig| {
        rig.locked(|memory| memory.unmap_region(PageId(8), 8)).expect("unmapped");
        rig.store(0, 1);
        rig.store(1, 1);
        rig.protect(1, Access::Read);
        rig.arena.revoke_all();
        let bytes = page_of_words(9);
        let fault = |page| PageFault { page: PageId(page), access: Access::Read, instruction: 0, thread: 1 };
        rig.locked(|memory| {
            assert!(memory.restore(&fault(0)), "the record still has the access");
            memory.protect(PageId(1), Access::Write);
            memory.install(PageId(2), Contents::Bytes(bytes.as_slice()), Access::Write, Version(1));
            memory.install(PageId(3), Contents::Zero, Access::Read, Version(1));
            memory.protect_range(PageId(4), 4, Access::Write);
            memory.protect_range(PageId(4), 2, Access::None);
            memory.discard(PageId(4));
            memory.map_region(PageId(8), 4).expect("mapped");
            memory.install(PageId(8), Contents::Bytes(bytes.as_slice()), Access::Write, Version(1));
        });
        assert_revoked(rig, 0..12);
        assert_eq!((rig.runtime_word(2), rig.runtime_word(8)), (9, 9));
        rig.locked(|memory| memory.unmap_region(PageId(0), 8)).expect("unmapped");
        rig.locked(|memory| memory.unmap_region(PageId(8), 4)).expect("unmapped");
    });
}

/// The node's lock orders the first thread's calls, and not the revocation.
#[test]
fn no_access_is_left_by_calls_that_run_at_the_time() {
    for _ in 0..50 {
        on_each_backend(8, |rig| {
            rig.locked(|memory| memory.unmap_region(PageId(4), 4)).expect("unmapped");
            let (rounds, over) = (AtomicU64::new(0), AtomicBool::new(false));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(Ordering::SeqCst) {
                        rig.locked(|memory| {
                            memory.map_region(PageId(4), 4).expect("mapped");
                            memory.install(PageId(0), Contents::Zero, Access::Write, Version(1));
                            memory.protect_range(PageId(1), 3, Access::Write);
                            memory.protect_range(PageId(4), 4, Access::Write);
                            memory.protect_range(PageId(0), 4, Access::None);
                            memory.unmap_region(PageId(4), 4).expect("unmapped");
                        });
                        rounds.fetch_add(1, Ordering::SeqCst);
                    }
                    rig.locked(|memory| {
                        memory.map_region(PageId(4), 4).expect("mapped");
                        memory.protect_range(PageId(0), 4, Access::Write);
                        memory.protect_range(PageId(4), 4, Access::Write);
                    });
                });
                while rounds.load(Ordering::SeqCst) < 3 {
                    std::hint::spin_loop();
                }
                rig.arena.revoke_all();
                over.store(true, Ordering::SeqCst);
            });
            assert_revoked(rig, 0..8);
        });
    }
}
