//! How many descriptors this process may still open: a keeper must leave enough for everything else.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::keep::{DESCRIPTORS, DESCRIPTORS_PERCENT};

/// Lets this process open as many descriptors as it may at all. For a process that is ours: in a program, what it calls
/// or starts may not take numbers above 1,023 (`select`), or close all numbers that there may be, one by one.
pub(crate) fn raise_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // It stays as it is, and fewer nodes are kept.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Whether another node's descriptors can be held, or why not.
pub(super) fn room() -> Result<(), String> {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    // One of them is the listing's own.
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    fits(open, usize::try_from(limit).unwrap_or(usize::MAX))
}

fn fits(open: usize, limit: usize) -> Result<(), String> {
    // In this order, because a limit may be the largest number.
    let usable = limit / 100 * DESCRIPTORS_PERCENT + limit % 100 * DESCRIPTORS_PERCENT / 100;
    if open.saturating_add(DESCRIPTORS) > usable {
        return Err(format!(
            "{open} of the {limit} descriptors that the process may have are open: raise its limit (ulimit -n)"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_descriptors_is_left_to_other_uses() {
        assert_eq!(fits(796, 1000), Ok(()));
        assert!(fits(797, 1000).expect_err("too many").contains("797 of the 1000 descriptors"));
        assert_eq!(fits(12, 20), Ok(()));
        assert!(fits(13, 20).is_err());
        assert_eq!(fits(1_000_000, usize::MAX), Ok(()));
        assert_eq!(room(), Ok(()), "this test's process");
    }
}
