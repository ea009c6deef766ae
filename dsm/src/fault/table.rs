//! The region table: where the signal handlers find the arena of an address. It is the only mutable
//! static of the library.
//!
//! A lookup takes no lock, because it runs in a signal handler that may have interrupted an insert.
//! A slot owns one reference count of its arena; a lookup adds its own while the slot's `readers`
//! count keeps the slot's from being given up.

use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Once};

use super::{Shared, map};
use crate::config::fault::ARENAS_MAX;
use crate::fork;

static TABLE: Table = Table { slots: [const { Slot::empty() }; ARENAS_MAX] };

struct Table {
    slots: [Slot; ARENAS_MAX],
}

struct Slot {
    arena: AtomicPtr<Shared>,
    /// Lookups that are between reading `arena` and owning a reference of their own.
    readers: AtomicUsize,
    /// The arena's addresses, as a hint that keeps lookups away from other slots' counts.
    start: AtomicUsize,
    end: AtomicUsize,
}

/// An arena's place in the table, given up on drop.
pub(super) struct Registration {
    slot: &'static Slot,
}

/// Makes an arena known to the signal handlers; `None` if the table is full.
pub(super) fn insert(arena: Arc<Shared>) -> Option<Registration> {
    static GUARD: Once = Once::new();
    GUARD.call_once(|| fork::on_fork(guard_in_child));
    let Range { start, end } = arena.addresses.clone();
    let arena = Arc::into_raw(arena).cast_mut();
    for slot in &TABLE.slots {
        let claim = slot.arena.compare_exchange(ptr::null_mut(), arena, Ordering::SeqCst, Ordering::Relaxed);
        if claim.is_ok() {
            // Hints after the arena: nobody faults in it before `insert` has returned.
            slot.start.store(start, Ordering::SeqCst);
            slot.end.store(end, Ordering::SeqCst);
            return Some(Registration { slot });
        }
    }
    // SAFETY: `arena` comes from `into_raw` above and went into no slot.
    drop(unsafe { Arc::from_raw(arena) });
    None
}

/// The arena that contains `address`.
pub(super) fn find(address: usize) -> Option<Arc<Shared>> {
    TABLE.slots.iter().find_map(|slot| slot.find(address))
}

/// Whether an arena of this process has any of these addresses.
pub(super) fn overlaps(addresses: &Range<usize>) -> bool {
    let taken = |slot: &Slot| slot.start.load(Ordering::SeqCst)..slot.end.load(Ordering::SeqCst);
    TABLE.slots.iter().map(taken).any(|taken| taken.start < addresses.end && addresses.start < taken.end)
}

/// The parent's views are not in a forked child. Whatever the child mapped at their addresses could be
/// reached by the handles that it inherited, so the addresses are taken before `fork` returns.
extern "C" fn guard_in_child() {
    for slot in &TABLE.slots {
        let addresses = slot.start.load(Ordering::SeqCst)..slot.end.load(Ordering::SeqCst);
        if !addresses.is_empty() {
            map::guard(&addresses);
        }
    }
}

impl Slot {
    const fn empty() -> Slot {
        Slot {
            arena: AtomicPtr::new(ptr::null_mut()),
            readers: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
        }
    }

    fn find(&self, address: usize) -> Option<Arc<Shared>> {
        let hint = self.start.load(Ordering::SeqCst)..self.end.load(Ordering::SeqCst);
        if !hint.contains(&address) {
            return None;
        }
        // Count before reading: `drop` below empties the slot before it looks at the count.
        self.readers.fetch_add(1, Ordering::SeqCst);
        let arena = self.arena.load(Ordering::SeqCst);
        let found = (!arena.is_null()).then(|| {
            // SAFETY: the slot still held its reference when it was read, and gives it up only after
            // it has seen `readers` at zero.
            unsafe { Arc::increment_strong_count(arena) };
            // SAFETY: the count taken above is this new reference's.
            unsafe { Arc::from_raw(arena) }
        });
        self.readers.fetch_sub(1, Ordering::SeqCst);
        found.filter(|arena| arena.addresses.contains(&address))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let slot = self.slot;
        slot.end.store(0, Ordering::SeqCst);
        slot.start.store(0, Ordering::SeqCst);
        let arena = slot.arena.swap(ptr::null_mut(), Ordering::SeqCst);
        // A reader is a few instructions away from being done, unless it was preempted there.
        while slot.readers.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
        // SAFETY: the pointer came from `into_raw` in `insert`, and no lookup can reach it any more.
        drop(unsafe { Arc::from_raw(arena) });
    }
}
