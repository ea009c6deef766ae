//! Clusters over several hosts, each of which is a set of namespaces on this machine. What kills a healthy member, and
//! how soon a dead one is known, is tried here on real processes: what members say of each other is judged by their
//! own log lines.
//!
//! `cargo test -p system-tests --test hosts` runs a sample; with `LONG=1` each test does all of what it is named for,
//! one test after the other, and states the worst that it has measured (`-- --nocapture` shows it).

mod cluster;
mod deaths;
mod hold;
mod member;
mod network;
mod starved;
