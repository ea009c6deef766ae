//! Distributed shared memory: several processes, on one host or many, share one address range.
//!
//! A load or a store to a page that is not here takes a page fault; the runtime fetches the page from
//! the node that has it, over reliable UDP of its own, and keeps all copies coherent by invalidation.
#![deny(unsafe_code)]

pub mod admin;
pub mod codec;
pub mod coherence;
pub mod config;
pub mod error;
mod key;
pub mod membership;
pub mod net;
pub mod fault;
#[allow(unsafe_code)]
pub mod io;
pub mod node;
pub mod page;
pub mod settings;

pub use error::{Error, Result};
