//! Reliable UDP between nodes: independent messages of up to 1 MiB, each delivered exactly once, in
//! no order, or the session ends with an error.
//!
//! [`Endpoint`] is the core: a value without socket, clock or thread. [`udp::UdpSocket`] is the
//! shell that moves its datagrams; [`inject`] makes them suffer on the way, for tests. The bytes,
//! timers and bounds are in `docs/transport.md`. It follows RFC 9002 (loss, congestion), RFC 8899
//! (path MTU) and, for the window of seen packets, RFC 6479.
//!
//! Deliberately absent: order between messages, a timer that declares a peer dead, address
//! migration, explicit congestion notification.

mod counters;
mod credit;
mod crypt;
mod endpoint;
mod entropy;
mod handshake;
pub mod inject;
mod message;
mod mutation;
mod session;
mod transmit;
pub mod udp;
pub mod wire;

#[cfg(test)]
mod tests;

pub use counters::Counters;
pub use crypt::{Cipher, KeyLife};
pub use endpoint::{
    CLOSE_VIOLATION, CloseReason, ConnectError, ConnectRefused, Endpoint, EndpointConfig, Event,
    SessionHandle, Side,
};
pub use entropy::{Entropy, StandIn};
pub use handshake::{ClusterKey, Series, Version};
pub use message::{OutMessage, Priority};
pub use mutation::{Mutation, Rules};
pub use session::{SendError, Taken, Violation};
pub use transmit::{Transmit, TransmitBuf};
