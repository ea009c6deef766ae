//! Short time slices for threads that run errands.
//!
//! A thread that wakes up may have to wait until the running one's time slice is over, milliseconds, though
//! it needs the core for a few microseconds only. Since Linux 6.12 a thread can ask for shorter slices, and
//! is then let through as soon as it wakes up unless it has had more than its share (EEVDF; Stoica and
//! Abdel-Wahab, 1995). Its share of the core stays what it was, and no privilege is needed.

use std::mem::size_of;

use crate::config::node::ERRAND_SLICE;

/// Bytes of the kernel's `sched_attr` in its first version, which has all that is used here.
const ATTR_LEN: u32 = 48;
const _: () = assert!(size_of::<libc::sched_attr>() == ATTR_LEN as usize);

/// Asks for short slices for the calling thread. An older kernel does as before, and a policy other than the
/// usual one is somebody's decision and stays.
pub(super) fn shorten() {
    if let Some(mut attr) = read().filter(|attr| attr.sched_policy == libc::SCHED_OTHER as u32) {
        attr.sched_runtime = ERRAND_SLICE.0;
        // SAFETY: the kernel reads as many bytes as `size` says, which it wrote itself. 0: this thread, no flags.
        let _ = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    }
}

/// How the calling thread is scheduled.
fn read() -> Option<libc::sched_attr> {
    // SAFETY: the type consists of numbers, for which zero is a value.
    let mut attr: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most as many bytes as it is told. 0: this thread, no flags.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, ATTR_LEN, 0) };
    (result == 0).then_some(attr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_become_short_and_nothing_else_changes() {
        let before = read().expect("older than any kernel that runs this");
        shorten();
        let after = read().expect("as before");
        assert_eq!((after.sched_policy, after.sched_nice), (before.sched_policy, before.sched_nice));
        if before.sched_runtime == 0 {
            eprintln!("SKIPPED: this kernel has no time slices of a thread's own (Linux 6.12)");
        } else {
            assert_eq!(after.sched_runtime, ERRAND_SLICE.0);
        }
    }
}
