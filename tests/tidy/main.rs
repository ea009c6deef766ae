//! The rules of the source that no compiler checks: which module may know which, what the cores must not
//! know, where `unsafe` may stand, and how files look. A rule that hurts is changed here, with its reason.

mod floors;
mod paths;
mod platform;
mod shape;
mod source;
