//! Whole-system tests live in the test targets of this package.
