//! A lock that the core has lent to this node's threads: one word, taken and given back by one atomic
//! instruction each. It holds what the core must know when it recalls the lock: whether a thread is in
//! the critical section, and the last token that was given out.
//!
//! Each method changes the word by one instruction, so that its races are orders of such steps. The
//! simulator runs them with the core; here real threads do, for the order of memory.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::page::{Lent, Time};

/// The core decides.
const RECALLED: u64 = 0;
/// Lent, and nobody has it.
const FREE: u64 = 1;
/// Lent, and a thread has it.
const HELD: u64 = 2;
/// No thread takes it any more, whatever the rest says.
const CLOSED: u64 = 4;
/// The token stands above these bits.
const BITS: u32 = 3;

/// See the module's text. A new one is a lock that the core decides about.
#[derive(Debug, Default)]
pub(super) struct LockWord(AtomicU64);

const _: () = assert!(RECALLED == 0, "the default of a word");

/// Which thread of this node has a lock, and since when; apart from the word, for messages to people and
/// for a thread that takes its own lock again.
///
/// Only the thread that has the lock writes it, so a thread that finds itself here has the lock; what
/// others read may be old.
#[derive(Debug, Default)]
pub(super) struct Holder {
    /// Zero: no thread.
    thread: AtomicUsize,
    since: AtomicU64,
}

impl Holder {
    /// This thread has got the lock.
    pub(super) fn set(&self, now: Time) {
        self.since.store(now.0, Ordering::Relaxed);
        self.thread.store(this_thread(), Ordering::Release);
    }

    /// This thread is about to give the lock back.
    pub(super) fn clear(&self) {
        self.thread.store(0, Ordering::Relaxed);
    }

    pub(super) fn is_this_thread(&self) -> bool {
        self.thread.load(Ordering::Relaxed) == this_thread()
    }

    /// Since when the lock has been held; `None` if no thread of this node has it.
    pub(super) fn held_since(&self) -> Option<Time> {
        let is_held = self.thread.load(Ordering::Acquire) != 0;
        is_held.then(|| Time(self.since.load(Ordering::Relaxed)))
    }
}

/// A number that no other living thread has, and no system call: the address of something of its own.
fn this_thread() -> usize {
    thread_local! {
        static MARK: u8 = const { 0 };
    }
    MARK.with(|mark| std::ptr::from_ref(mark).addr())
}

impl LockWord {
    /// Takes the lock, if it is lent and free; its token. A thread that gets none asks the core.
    pub(super) fn try_take(&self) -> Option<u64> {
        let word = self.0.load(Ordering::Relaxed);
        let (state, token) = (word & ((1 << BITS) - 1), word >> BITS);
        if state != FREE {
            return None;
        }
        // Acquire: what the last holder on this node did is seen. Whoever gave the lock to the node did
        // it by the core, whose lock orders that before the lending, which the load of this word follows.
        let taken = (token + 1) << BITS | HELD;
        self.0.compare_exchange(word, taken, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(token + 1)
    }

    /// Gives the lock back that this thread has; false if the core must be told instead.
    pub(super) fn try_give(&self) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        let (state, token) = (word & ((1 << BITS) - 1), word >> BITS);
        state == HELD
            && self
                .0
                .compare_exchange(word, token << BITS | FREE, Ordering::Release, Ordering::Relaxed)
                .is_ok()
    }

    /// Lends the lock; under the core's lock.
    pub(super) fn lend(&self, token: u64) {
        let before = self.0.swap(token << BITS | FREE, Ordering::Release);
        assert_eq!(before, RECALLED, "a lock is lent once");
    }

    /// Ends that; under the core's lock.
    pub(super) fn recall(&self) -> Lent {
        let word = self.0.swap(RECALLED, Ordering::AcqRel);
        let token = word >> BITS;
        match word & (HELD | FREE) {
            HELD => Lent::Held { token },
            FREE => Lent::Free { token },
            _ => unreachable!("only a lent lock is recalled"),
        }
    }

    /// Sends every thread to the core from now on. The core may still recall the lock.
    pub(super) fn close(&self) {
        self.0.fetch_or(CLOSED, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    /// What the core is, to a lock: who waits is not modelled, they try again.
    enum Core {
        Idle { token: u64 },
        Held { token: u64 },
        Lent,
    }

    struct Lock {
        word: LockWord,
        core: Mutex<Core>,
        /// What it guards, in two halves that only the holder makes equal again.
        guarded: (AtomicU64, AtomicU64),
    }

    impl Lock {
        /// As the core does: recall, react, lend.
        fn react(&self, react: impl FnOnce(&mut Core)) {
            let mut core = self.core.lock().unwrap();
            if matches!(*core, Core::Lent) {
                *core = match self.word.recall() {
                    Lent::Free { token } => Core::Idle { token },
                    Lent::Held { token } => Core::Held { token },
                };
            }
            react(&mut core);
            if let Core::Idle { token } = *core {
                self.word.lend(token);
                *core = Core::Lent;
            }
        }

        fn take(&self) -> u64 {
            loop {
                if let Some(token) = self.word.try_take() {
                    return token;
                }
                let mut taken = None;
                self.react(|core| {
                    if let Core::Idle { token } = *core {
                        *core = Core::Held { token: token + 1 };
                        taken = Some(token + 1);
                    }
                });
                match taken {
                    Some(token) => return token,
                    None => thread::yield_now(),
                }
            }
        }

        fn give(&self) {
            if !self.word.try_give() {
                self.react(|core| match *core {
                    Core::Held { token } => *core = Core::Idle { token },
                    Core::Idle { .. } | Core::Lent => panic!("somebody else gave it back"),
                });
            }
        }
    }

    #[test]
    fn threads_and_a_core_that_recalls_at_any_time_leave_one_holder() {
        const TIMES: u64 = 20_000;
        let lock = Lock {
            word: LockWord::default(),
            core: Mutex::new(Core::Idle { token: 0 }),
            guarded: (AtomicU64::new(0), AtomicU64::new(0)),
        };
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let worker = || {
                let mut last = 0;
                for _ in 0..TIMES {
                    let token = lock.take();
                    assert!(token > last, "tokens grow");
                    last = token;
                    let (first, second) = &lock.guarded;
                    let value = first.load(Ordering::Relaxed);
                    assert_eq!(value, second.load(Ordering::Relaxed), "one holder");
                    first.store(value + 1, Ordering::Relaxed);
                    second.store(value + 1, Ordering::Relaxed);
                    lock.give();
                }
            };
            let workers = [scope.spawn(worker), scope.spawn(worker)];
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    lock.react(|_| {});
                }
            });
            for worker in workers {
                worker.join().unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(lock.take(), 2 * TIMES + 1);
        assert_eq!(lock.guarded.0.into_inner(), 2 * TIMES);
    }

    #[test]
    fn a_closed_word_sends_everybody_to_the_core() {
        let word = LockWord::default();
        assert_eq!(word.try_take(), None);
        word.lend(6);
        assert_eq!(word.try_take(), Some(7));
        word.close();
        assert!(!word.try_give());
        assert_eq!(word.recall(), Lent::Held { token: 7 });
        let word = LockWord::default();
        word.lend(6);
        word.close();
        assert_eq!(word.try_take(), None);
        assert_eq!(word.recall(), Lent::Free { token: 6 });
    }
}
