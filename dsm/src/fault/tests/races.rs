//! Several threads at once: nothing is lost, nobody hangs.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

#[test]
fn threads_that_fault_on_one_page_together_all_go_on() {
    on_each_backend(1, |rig| {
        for _ in 0..100 {
            let start = Barrier::new(4);
            thread::scope(|scope| {
                for word in 0..4 {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        rig.atomic(0, word).fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
            rig.protect(0, Access::None);
        }
        for word in 0..4 {
            assert_eq!(rig.atomic(0, word).load(Ordering::Relaxed), 100);
        }
    });
}

#[test]
fn a_reader_and_a_writer_of_one_page_both_go_on() {
    on_each_backend(1, |rig| {
        for round in 0..100 {
            let start = Barrier::new(2);
            thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    let seen = rig.atomic(0, 0).load(Ordering::Relaxed);
                    assert!(seen == round || seen == round + 1);
                });
                start.wait();
                rig.atomic(0, 0).fetch_add(1, Ordering::Relaxed);
            });
            rig.protect(0, if round % 2 == 0 { Access::None } else { Access::Read });
        }
        assert_eq!(rig.runtime_word(0), 100);
    });
}

/// Writers count up, each in a word of its own, while the page is downgraded and read over and over.
/// A store that lands after the downgrade would differ between the two readings; a store that is lost
/// would be missing at the end.
#[test]
fn no_store_is_lost_or_late_while_pages_are_downgraded() {
    hammer(Access::Read);
}

/// The same with invalidation.
#[test]
fn no_store_is_lost_or_late_while_pages_are_invalidated() {
    hammer(Access::None);
}

fn hammer(lowered: Access) {
    const WRITERS: usize = 3;
    const FAULTS: usize = 200;
    const PAGES: u64 = 2;
    on_each_backend(PAGES, |rig| {
        let done = AtomicBool::new(false);
        let counts = thread::scope(|scope| {
            let writer = |writer: usize| {
                let done = &done;
                move || {
                    let mut count = 0;
                    while !done.load(Ordering::Relaxed) {
                        count += 1;
                        for page in 0..PAGES {
                            rig.atomic(page, writer).fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    count
                }
            };
            let writers: Vec<_> = (0..WRITERS).map(|w| scope.spawn(writer(w))).collect();
            let mut seen = [[0; WRITERS]; PAGES as usize];
            // Until the writers were stopped so often, so that no run passes by never racing.
            for round in (0..).take_while(|_| rig.core.lock().faults.len() < FAULTS) {
                let page = round % PAGES;
                rig.locked(|memory| {
                    memory.protect(PageId(page), lowered);
                    let first = memory.read(PageId(page));
                    let second = memory.read(PageId(page));
                    assert!(first == second, "a store landed after the downgrade");
                    for (writer, seen) in seen[page as usize].iter_mut().enumerate() {
                        let word = first.as_slice()[writer * 8..][..8].try_into().unwrap();
                        let now = u64::from_ne_bytes(word);
                        assert!(now >= *seen, "a store was lost");
                        *seen = now;
                    }
                });
                // Let the writers in, else the rounds are over before they have begun.
                thread::yield_now();
            }
            done.store(true, Ordering::Relaxed);
            writers.into_iter().map(|w| w.join().unwrap()).collect::<Vec<u64>>()
        });
        for (writer, count) in counts.iter().enumerate() {
            for page in 0..PAGES {
                assert_eq!(rig.atomic(page, writer).load(Ordering::Relaxed), *count);
            }
        }
    });
}

static TOUCHED_BY_HANDLER: std::sync::atomic::AtomicPtr<u64> =
    std::sync::atomic::AtomicPtr::new(std::ptr::null_mut());
static HANDLER_TEST: Mutex<()> = Mutex::new(());

extern "C" fn touch_shared_memory(_signal: i32) {
    let word = TOUCHED_BY_HANDLER.load(Ordering::Relaxed);
    // SAFETY: the test keeps its region mapped while it raises signals.
    unsafe { AtomicU64::from_ptr(word) }.fetch_add(1, Ordering::Relaxed);
}

fn with_handler_on(rig: &Rig, page: u64, test: impl FnOnce()) {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let _alone = HANDLER_TEST.lock();
    TOUCHED_BY_HANDLER.store(rig.word(page, 0), Ordering::Relaxed);
    let handler = SigHandler::Handler(touch_shared_memory);
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler touches only an atomic in shared memory, which is what is under test.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    test();
}

fn raise_signal() {
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGUSR1).unwrap();
}

#[test]
fn another_signal_handler_may_fault() {
    on_each_backend(2, |rig| {
        with_handler_on(rig, 1, || {
            for _ in 0..10 {
                raise_signal();
                rig.protect(1, Access::None);
            }
        });
        assert_eq!(rig.runtime_word(1), 10);
    });
}

#[test]
fn a_signal_waits_until_the_core_is_unlocked() {
    on_each_backend(2, |rig| {
        with_handler_on(rig, 1, || {
            rig.locked(|memory| {
                let _inner = CoreSection::enter();
                raise_signal();
                assert_eq!(memory.access(PageId(1)), Access::None);
            });
            assert_eq!(rig.runtime_word(1), 1);
        });
    });
}
