//! Whole-system tests live in the test targets of this package; here is what several of them start from.

pub mod rig;

/// Whether this is the long run of `scripts/check.sh --long`, in which tests do everything that a short run
/// samples.
pub fn long() -> bool {
    std::env::var_os("LONG").is_some()
}
