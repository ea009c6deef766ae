//! Distributed shared memory: several processes, on one host or many, share one address range.
//!
//! A load or a store to a page that is not here takes a page fault; the runtime fetches the page from
//! the node that has it, over reliable UDP of its own, and keeps all copies coherent by invalidation.
#![deny(unsafe_code)]

// Generated stubs name the runtime `dsm::rpc`, here as everywhere.
extern crate self as dsm;

pub mod codec;
pub mod config;
pub mod error;
pub mod page;
pub mod rpc;

pub use error::{Error, Result};
