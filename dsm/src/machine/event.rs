//! What a machine is told, and what it tells.

use std::net::SocketAddr;

use tracing::Level;

use super::{Departing, LeaveFailure};
use crate::coherence::{BarrierId, Failure, Input, Legacy, OpId};
use crate::membership::{RegionRecord, Want};
use crate::page::{Incarnation, PageId, PeerId, Time};

/// What a machine is told.
#[derive(Debug)]
pub enum Event<'a> {
    /// A datagram has come.
    Datagram {
        /// Its source address.
        from: SocketAddr,
        /// Its bytes, which are decrypted in place.
        bytes: &'a mut [u8],
    },
    /// The kernel reports that nobody listens at an address: a hint that anybody can forge.
    Refused(SocketAddr),
    /// The socket was empty at that moment, and all datagrams of before are handled.
    Drained(Time),
    /// Time has passed.
    Timer,
    /// The kernel says that the process of a member has ended.
    ProcessEnded(Incarnation),
    /// The kernel will say when the process of a member ends.
    Watched(Incarnation),
    /// A debugger has stopped the process of a member.
    Traced(Incarnation),
    /// [`Output::RunOn`] is done: the process that ran the node has certainly ended, and its memory is open here.
    RunOn {
        /// The node.
        node: PeerId,
        /// All that its record says, also of regions that are not known here.
        legacy: Legacy,
    },
    /// This process cannot run the node on: it does not have its memory.
    CannotRun(PeerId),
    /// What a thread of this node does with memory or wants of it: an [`Input`] that is neither a message
    /// nor a change of the view.
    Thread(Input<'a>),
    /// What a thread of this node wants of the cluster. It ends with one [`Output::Done`].
    Command {
        /// The operation.
        op: OpId,
        /// What is wanted.
        command: Command,
    },
    /// Somebody asks the cluster to stop.
    Shutdown,
    /// The memory or the socket of this node failed, because.
    Broken(String),
    /// All sessions end; the peers are told why.
    Close(&'a str),
}

/// What a thread wants of the cluster.
#[derive(Debug)]
pub enum Command {
    /// Ends when this node and all its peers are ready, and all ranks of its program have come.
    Join,
    /// Makes or finds a region by its name; ends with [`Outcome::Region`].
    Region(String, Want),
    /// Marks a region for removal.
    Remove(String),
    /// Counts this node among the users of the region with this first page and generation.
    Use(PageId, Option<u64>),
    /// Waits until all ranks of the program have come to this barrier.
    Barrier(BarrierId),
    /// Leaves the cluster; ends with [`Outcome::Left`].
    Leave(Departing),
}

/// How an operation ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A fault, lock or barrier.
    Coherence(Result<u64, Failure>),
    /// An allocation or removal.
    Region(Result<Option<RegionRecord>, String>),
    /// The node became a member with all its peers, or can answer nothing any more.
    Membership,
    /// The departure of this node.
    Left(Result<(), LeaveFailure>),
}

/// What a machine tells its owner.
#[derive(Debug)]
pub enum Output {
    /// An operation has ended.
    Done {
        /// The operation.
        op: OpId,
        /// How.
        outcome: Outcome,
    },
    /// Something that a thread waits for in the calls.
    Call(crate::rpc::core::Output),
    /// This start of a node is no member any more, or its process has ended and another one runs the node on.
    Gone(PeerId),
    /// The view names this process to run a node on. The process that ran it before must have ended: it is waited for,
    /// or killed. Then follows [`Event::RunOn`] or [`Event::CannotRun`]; others wait for it.
    RunOn {
        /// The node.
        node: PeerId,
        /// The member whose process has run it until now: itself, or another one that has run it on.
        ran_at: PeerId,
    },
    /// This process runs that node no more, or is not to begin: its memory and its record are closed here.
    Forget(PeerId),
    /// Text for the operator.
    Note(Level, String),
    /// Whether a debugger has stopped this process of this host is to be found out; then [`Event::Traced`].
    Inspect {
        /// The member.
        of: Incarnation,
        /// Its process.
        pid: u32,
    },
    /// Nothing that anybody waits for will come: every operation ends with [`Outcome::Membership`].
    Ended {
        /// But the departure of this node: it has an end of its own.
        departure: Option<OpId>,
    },
}
