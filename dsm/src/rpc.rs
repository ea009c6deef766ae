//! Calls between nodes. An interface file becomes a client whose methods look like local ones, and a trait to
//! implement; this module is what runs between the two. A call takes one message each way, and no thread
//! besides the caller's and the one that received it at the server.
//!
//! A program writes `greeter.idl`, has its build script call `pagemesh_rpcgen::compile("greeter.idl")`, and takes
//! the stubs in by `pagemesh::include_idl!("greeter" as greeter)`; `docs/idl.md` has the language.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
//! use pagemesh::prelude::*;
//! use pagemesh::rpc::Policy;
//!
//! fn main() -> pagemesh::Result<()> {
//!     let dsm = Dsm::builder().arena_anywhere().join()?;
//!     // `Polite` implements the generated trait `greeter::Greeter`. Every member knows the server on return.
//!     dsm.serve(greeter::GreeterServer(Polite { globals: dsm.globals() }), 64)?;
//!
//!     let client = greeter::GreeterClient::new(dsm.channel(Policy::RoundRobin));
//!     assert_eq!(client.greet("Ada")?, "hello, Ada");
//!     dsm.leave()
//! }
//! ```
//!
//! The bytes, and what a client is promised, are in `docs/rpc.md`.

// One value decides (`core`), the same in the simulator; `Endpoint` is the shell around it, one a node, and `callers`
// what waits. A `Transport` carries the messages, a `Registry` names the servers; nothing here knows the node, its
// sockets or its memory.

mod call;
mod callers;
mod channel;
mod context;
#[doc(hidden)]
pub mod core;
#[doc(hidden)]
pub mod dynamic;
mod endpoint;
mod error;
mod interface;
#[doc(hidden)]
pub mod local;
mod meta;
#[rustfmt::skip]
mod meta_stubs;
mod port;
mod signal;
mod wire;
mod workers;

pub use crate::page::PeerId;
pub use call::{Call, Streaming};
pub use channel::{Channel, Policy, Registry};
pub use context::{Context, Sink};
pub use core::Progress;
pub use endpoint::{Batch, Endpoint};
pub use error::{Error, ErrorKind, Result};
pub use interface::Service;
pub use wire::Global;

// For generated stubs.
#[doc(hidden)]
pub use crate::codec::DecodeError;
#[doc(hidden)]
pub use channel::Prepared;
#[doc(hidden)]
pub use context::Reply;
#[doc(hidden)]
pub use error::MethodError;
#[doc(hidden)]
pub use interface::{Interface, Kind, Method};
#[doc(hidden)]
pub use wire::{
    Decoder, Field, Outside, Shape, Wire, begin_frame, end_frame, put_bytes, put_field, put_list, put_str,
    put_variant,
};

// For whatever carries calls: nodes, clients, tests.
pub(crate) use callers::{Callers, Deferred};
#[doc(hidden)]
pub use core::frame::{is_asked_again, is_message};
#[doc(hidden)]
pub use core::stats::MethodReading;
#[doc(hidden)]
pub use core::{Counters, SendError};
#[doc(hidden)]
pub use meta::serve_meta;
#[doc(hidden)]
pub use meta_stubs::{
    META, Meta, MetaCalls, MetaClient, MetaDescribeError, MetaServer, MethodStatistics, NoSuchInterface,
    Served,
};
pub(crate) use port::{Port, State, enter_nowhere};
pub use signal::Signal;
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
