//! Whole endpoints under virtual time (`tests/rig.rs`): delivery under bad weather, flow and
//! fairness, opening and closing, what a hostile or broken network can send, and real sockets.

mod counting;
mod delivery;
mod flow;
mod hostile;
mod opening;
mod rig;
mod secrecy;
mod sockets;
