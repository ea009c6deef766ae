//! Distributed shared memory: several processes, on one host or many, share one address range.
//!
//! A load or a store to a page that is not here takes a page fault; the runtime fetches the page from
//! the node that has it, over reliable UDP of its own, and keeps all copies coherent by invalidation.
#![deny(unsafe_code)]

// Generated stubs name the runtime `pagemesh::rpc`, here as everywhere.
extern crate self as pagemesh;

pub mod admin;
pub mod codec;
pub mod coherence;
pub mod config;
pub mod error;
pub mod fault;
pub mod guest;
#[allow(unsafe_code)]
pub mod io;
mod key;
pub mod membership;
pub mod net;
pub mod node;
pub mod page;
pub mod rpc;
pub mod settings;
pub mod shared;
pub mod sync;

/// The crate with the traits of plain values, which [`Pod`] builds on.
pub use bytemuck;
pub use coherence::Placement;
pub use error::{Error, Result};
pub use fault::{Check, Health, doctor};
pub use node::{Node, NodeConfig};
pub use page::{GlobalAddr, NodeId};
pub use settings::Settings;
pub use shared::{Builder, Dsm, Element, Globals, Pod, SharedSlice, Stats, Untagged};
pub use sync::{DsmMutex, DsmMutexGuard};

/// What a program needs.
pub mod prelude {
    pub use crate::{Dsm, DsmMutex, Error, GlobalAddr, NodeId, Placement, Pod, Result, SharedSlice};
}
