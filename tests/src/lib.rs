//! Whole-system tests live in the test targets of this package; here is what several of them start from.

pub mod rig;
