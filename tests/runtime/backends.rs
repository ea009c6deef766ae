//! The same battery through every fault backend.

use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use pagemesh::Dsm;

use system_tests::rig::Rig;

/// Whether the `thread` backend may be used here; says so loudly if not.
pub(crate) fn thread_backend_works() -> bool {
    let works = pagemesh::fault::Arena::reserve(&pagemesh::fault::ArenaOptions {
        len: 1 << 20,
        base: None,
        backend: pagemesh::fault::BackendChoice::Only(pagemesh::fault::Backend::Thread),
        mappings_max: None,
        pool: pagemesh::page::PagePool::new(1),
    });
    if let Err(error) = &works {
        eprintln!("SKIPPED: the thread backend cannot run here: {error}");
    }
    works.is_ok()
}

fn battery(backend: &str) {
    for rig in [Rig::without_daemons(2), Rig::with_daemons(2, 3)] {
        rig.set("fault", backend).run(|dsm: Dsm| {
            let data = dsm.alloc::<u64>("data", 512 * 130).unwrap();
            let sum = dsm.alloc::<u64>("sum", 1).unwrap();
            let counter = dsm.mutex::<u64>("counter").unwrap();
            for index in dsm.my_block(data.len()) {
                data.set(index, index as u64 ^ 0x5a5a);
            }
            dsm.barrier().unwrap();
            for index in 0..data.len() {
                assert_eq!(data.get(index), index as u64 ^ 0x5a5a);
            }
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        for _ in 0..100 {
                            // SAFETY: a word of the region, accessed atomically only.
                            unsafe { AtomicU64::from_ptr(sum.as_mut_ptr()) }.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            for _ in 0..50 {
                *counter.lock().unwrap() += 1;
            }
            dsm.barrier().unwrap();
            let ranks = u64::from(dsm.ranks());
            assert_eq!(sum.get(0), 300 * ranks);
            assert_eq!(*counter.lock().unwrap(), 50 * ranks);
            dsm.leave().unwrap();
        });
    }
}

#[test]
fn the_signal_backend_keeps_memory_coherent() {
    battery("signal");
}

#[test]
fn the_mprotect_backend_keeps_memory_coherent() {
    battery("mprotect");
}

#[test]
fn the_thread_backend_keeps_memory_coherent() {
    if thread_backend_works() {
        battery("thread");
    }
}

#[test]
fn nodes_with_different_backends_share_memory() {
    let rig = Rig::with_daemons(1, 2);
    let daemons = rig.start_daemons();
    let program = system_tests::rig::new_program();
    let join = daemons.first().map(pagemesh::Node::local_addr);
    let ranks = [("signal", 0), ("mprotect", 1)].map(|(backend, rank)| {
        let settings = rig.clone().set("fault", backend).rank(program, rank, join);
        std::thread::spawn(move || {
            let dsm = system_tests::rig::join(settings);
            let sum = dsm.alloc::<u64>("sum", 1).unwrap();
            for _ in 0..300 {
                // SAFETY: a word of the region, accessed atomically only.
                unsafe { AtomicU64::from_ptr(sum.as_mut_ptr()) }.fetch_add(1, Ordering::Relaxed);
            }
            dsm.barrier().unwrap();
            assert_eq!(sum.get(0), 600);
            dsm.leave().unwrap();
        })
    });
    for rank in ranks {
        rank.join().expect("a rank ends well");
    }
    system_tests::rig::stop(daemons);
}

/// A file without a name with these bytes.
fn file_with(bytes: &[u8]) -> std::fs::File {
    let fd = nix::sys::memfd::memfd_create("input", nix::sys::memfd::MFdFlags::empty()).expect("memory");
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes).expect("room");
    file.seek(SeekFrom::Start(0)).expect("a file");
    file
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 + index / 4096) as u8).collect()
}

#[test]
fn the_thread_backend_serves_system_calls_on_memory_that_is_elsewhere() {
    if !thread_backend_works() {
        return;
    }
    Rig::with_daemons(1, 2).set("fault", "thread").run(|dsm| {
        let data = dsm.alloc::<u8>("data", 16 * 4096).unwrap();
        if dsm.rank() == 1 {
            data.copy_in(0, &vec![9; data.len()]).unwrap();
        }
        dsm.barrier().unwrap();
        if dsm.is_root() {
            let file = file_with(&pattern(data.len()));
            // SAFETY: the kernel writes at most `len` bytes of the region.
            let read = unsafe { libc::read(file.as_raw_fd(), data.as_mut_ptr().cast(), data.len()) };
            assert_eq!(read, data.len() as isize);
        }
        dsm.barrier().unwrap();
        let mut copy = vec![0; data.len()];
        data.copy_out(0, &mut copy).unwrap();
        assert!(copy == pattern(data.len()));
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    });
}

#[test]
fn the_library_reads_and_writes_files_with_memory_that_is_elsewhere() {
    for backend in ["signal", "mprotect"] {
        Rig::with_daemons(1, 2).set("fault", backend).run(|dsm| {
            let len = 40 * 4096 + 100;
            let data = dsm.alloc::<u8>("data", len).unwrap();
            if dsm.rank() == 1 {
                data.copy_in(0, &vec![9; len]).unwrap();
            }
            dsm.barrier().unwrap();
            if dsm.is_root() {
                let mut file = file_with(&pattern(len));
                // SAFETY: nobody else uses the region until the barrier.
                unsafe { pagemesh::io::read_exact(&mut file, data.as_mut_ptr(), len) }.unwrap();
            }
            dsm.barrier().unwrap();
            if dsm.rank() == 1 {
                let mut copy = Vec::new();
                // SAFETY: nobody writes the region until the barrier.
                unsafe { pagemesh::io::write_all(&mut copy, data.as_ptr(), len) }.unwrap();
                assert!(copy == pattern(len));
            }
            dsm.barrier().unwrap();
            dsm.leave().unwrap();
        });
    }
}
