//! Calls between nodes: what the stubs of `rpcgen` link against. Interface files become a client that
//! looks like a local call and a trait to implement; this is what runs between the two.
//!
//! Two cores that are plain values decide (`client`: what is open; `server`: what was seen, waits and
//! runs); [`Endpoint`] is the shell around both, one per node. What carries the messages is a
//! [`Transport`], what names the servers a [`Registry`]; nothing here knows the node, its sockets or its
//! memory. A call takes one message each way, and no thread besides the caller's and the one that
//! received it at the server.
//!
//! The bytes, and what a client is promised, are in `docs/rpc.md`.

mod call;
mod channel;
mod client;
mod context;
#[doc(hidden)]
pub mod dynamic;
mod endpoint;
mod error;
mod frame;
mod interface;
#[doc(hidden)]
pub mod local;
mod meta;
#[rustfmt::skip]
mod meta_stubs;
mod section;
mod seen;
mod server;
mod stats;
mod transport;
mod wire;
mod workers;

pub use call::{Call, Streaming};
pub use channel::{Channel, Policy};
pub use client::Progress;
pub use context::{Context, Reply, Sink};
pub use endpoint::{Batch, Endpoint};
pub use error::{Error, ErrorKind, Result};
pub use interface::Service;
pub use transport::PeerId;
pub use wire::{Global, Outside};

// For generated stubs.
#[doc(hidden)]
pub use crate::codec::DecodeError;
#[doc(hidden)]
pub use channel::Prepared;
#[doc(hidden)]
pub use error::MethodError;
#[doc(hidden)]
pub use interface::{Interface, Kind, Method};
#[doc(hidden)]
pub use wire::{
    Decoder, Field, Shape, Wire, begin_frame, end_frame, put_bytes, put_field, put_list, put_str, put_variant,
};

// For whoever carries calls: the node, guests, tests.
#[doc(hidden)]
pub use frame::{is_asked_again, is_message};
#[doc(hidden)]
pub use meta::serve_meta;
#[doc(hidden)]
pub use meta_stubs::{
    META, Meta, MetaCalls, MetaClient, MetaDescribeError, MetaServer, MethodStatistics, NoSuchInterface,
    Served,
};
pub(crate) use section::CallSection;
#[doc(hidden)]
pub use server::Counters;
#[doc(hidden)]
pub use stats::MethodReading;
#[doc(hidden)]
pub use transport::{GUEST, Registry, SendError, Signal, Transport};
#[doc(hidden)]
pub use workers::Workers;

/// Takes in the stubs that `pagemesh_rpcgen::compile` wrote in the build script, as a module of the file's name.
#[macro_export]
macro_rules! include_idl {
    ($name:literal as $module:ident) => {
        mod $module {
            include!(concat!(env!("OUT_DIR"), "/", $name, ".rs"));
        }
    };
}
