//! Distributed shared memory: the processes of a program, on one host or on many, share a range of addresses.
//!
//! A load or a store to a page that is not in this process takes a page fault. The runtime gets the page from
//! the process that has it, over reliable UDP of its own, and the instruction runs. So plain loads, stores,
//! slices and raw pointers work on memory that several hosts share; there is nothing to send or to receive.
//! The processes of a program are its *ranks*. *Daemons*, one a host, keep memory that outlives a program; a
//! *node* is either.
//!
//! ```
//! use pagemesh::prelude::*;
//!
//! fn main() -> pagemesh::Result<()> {
//!     // What `pagemesh run -n 4 ./program` has set; a cluster of one if nothing is.
//!     let dsm = Dsm::builder().from_env()?.join()?;
//!
//!     // Every rank that names a region gets the same memory, at the same address.
//!     let squares = dsm.alloc::<u64>("squares", 10_000)?;
//!     for i in dsm.my_block(squares.len()) {
//!         squares.set(i, (i * i) as u64);
//!     }
//!     dsm.barrier()?; // what was written before is seen after, by all
//!
//!     let found = dsm.mutex::<u64>("found")?;
//!     for i in dsm.my_block(squares.len()) {
//!         if squares.get(squares.len() - 1 - i) % 1000 == 1 {
//!             *found.lock()? += 1;
//!         }
//!     }
//!     let longest = dsm.all_reduce(dsm.my_block(squares.len()).len() as u64, u64::max)?;
//!     dsm.barrier()?;
//!     if dsm.is_root() {
//!         println!("{} squares end in 001; no rank looked at more than {longest}", *found.lock()?);
//!         # assert_eq!(*found.lock()?, 80);
//!     }
//!     dsm.leave()
//! }
//! ```
//!
//! # The memory model
//!
//! Memory is sequentially consistent, in pages of 4 KiB: a page has one writer or many readers at any time,
//! and a load gives what the last store wrote, whichever rank made it. The compiler and the CPU reorder
//! accesses as they do between threads; so order them by barriers, locks or atomics, as between threads. In
//! Rust's terms other ranks are other threads: a `&T` to memory that another rank writes at the same time is
//! undefined behaviour, which is why slices of shared memory are `unsafe` to make, and why [`SharedSlice`]
//! has `get`, `set` and copies that are not.
//!
//! Two ranks that write to one page in turn send it back and forth, 4 KiB each time, even if they never touch
//! the same bytes: give each rank pages of its own where it writes often.
//!
//! # What happens on failure
//!
//! Memory does not survive a death. When a rank dies, the other ranks of its program get
//! [`Error::NodeDied`] from the call that they are in, or make next; a thread that waits for a page can get no
//! error, so the process writes one line to standard error and ends with code 70. Pages whose last copy was in
//! the dead process are lost, and never read as zero or as old bytes. Other programs and the daemons go on.
//! The death of a daemon ends the cluster. A rank that panics, or exits without [`Dsm::leave`], writes its pages
//! back first; ranks that wait for it get [`Error::NodeLeft`]. A wait for another rank ends with the answer, with the deadline that was given, or with that
//! rank's death; after 5 s one line on standard error says which rank is waited for.
//!
//! A program that uses shared memory after its own [`Dsm::leave`] gets [`Error::Left`] from calls that return a
//! result; any other use ends the process by SIGABRT, with a line that names the region.
//!
//! # Threads and signals
//!
//! All types may be used by many threads at once; a guard of a lock stays in its thread. Page faults are taken by
//! SIGBUS or SIGSEGV in the thread that touches the page: a thread that blocks these signals, or a program that
//! replaces their handlers, does not get its pages. A handler of another signal may touch shared memory. A
//! forked child has no shared memory, and must not use what its parent made.
//!
//! # System calls on shared memory
//!
//! A system call that is given shared memory fails with EFAULT, or comes up short, where a page is not here.
//! [`io`] has functions that read and write shared memory through a private buffer. Direct and registered
//! memory (O_DIRECT, io_uring, RDMA) is not supported.
//!
//! # When not to use it
//!
//! - Memory that must survive the death of a process: this version loses it.
//! - Many small writes by all ranks to the same pages: each costs a page transfer. Send messages (see [`rpc`]),
//!   or let each rank collect its own and merge at the end.
//! - Strangers on the network: messages are authenticated when a session begins, and not encrypted.
//! - Systems other than Linux, or ranks of different architectures.
#![deny(unsafe_code)]

// Generated stubs name the runtime `pagemesh::rpc`, here as everywhere.
extern crate self as pagemesh;

#[doc(hidden)]
pub mod admin;
#[doc(hidden)]
pub mod client;
#[doc(hidden)]
pub mod codec;
#[doc(hidden)]
pub mod coherence;
#[doc(hidden)]
pub mod config;
mod error;
#[doc(hidden)]
pub mod fault;
#[allow(unsafe_code)]
mod fork;
#[allow(unsafe_code)]
pub mod io;
mod keep;
mod key;
#[doc(hidden)]
pub mod machine;
#[doc(hidden)]
pub mod membership;
#[doc(hidden)]
pub mod mutation;
#[doc(hidden)]
pub mod net;
#[doc(hidden)]
pub mod node;
#[doc(hidden)]
pub mod page;
mod process;
pub mod rpc;
#[doc(hidden)]
pub mod settings;
mod shared;
mod sync;

/// The crate with the traits of plain values, which [`Pod`] builds on.
pub use bytemuck;
pub use coherence::Placement;
pub use error::{Error, Result};
#[doc(hidden)]
pub use fault::{Check, Health, doctor};
pub use membership::TypeTag;
#[doc(hidden)]
pub use node::{Node, NodeConfig};
pub use page::{GlobalAddr, NodeId};
pub use pagemesh_derive::Pod;
#[doc(hidden)]
pub use settings::Settings;
#[doc(hidden)]
pub use shared::derived;
pub use shared::{
    Atomic, AtomicCell, AtomicInteger, Builder, Dsm, Element, Globals, Pod, SharedSlice, Stats, Untagged,
};
pub use sync::{DsmMutex, DsmMutexGuard};

/// What most programs name, to be imported as a whole.
///
/// ```
/// use pagemesh::prelude::*;
///
/// fn sum(values: &SharedSlice<u32>) -> u32 {
///     (0..values.len()).map(|i| values.get(i)).sum()
/// }
/// # let dsm = Dsm::builder().arena_anywhere().join()?;
/// # assert_eq!(sum(&dsm.alloc("values", 3)?), 0);
/// # dsm.leave()?;
/// # Ok::<(), Error>(())
/// ```
pub mod prelude {
    pub use crate::{
        Builder, Dsm, DsmMutex, DsmMutexGuard, Error, GlobalAddr, NodeId, Placement, Pod, Result,
        SharedSlice, Stats,
    };
}

/// The Rust blocks of the documents, run as the examples of this page are.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}
