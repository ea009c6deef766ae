//! What a caller of the library can be told. Each variant says what was left changed.

use std::io;

use crate::page::NodeId;

/// Shorthand for results of this library.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call of the library failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A node that the call depended on died. The call had no effect, or an unknown part of it.
    #[error("{node} ({name}) died")]
    NodeDied {
        /// The dead node.
        node: NodeId,
        /// Its name: kind, process and address.
        name: String,
    },
    /// Nobody answered in time. Nothing was changed here.
    #[error("{what}: no answer within {after_ms} ms")]
    Timeout {
        /// What was tried, and with whom.
        what: String,
        /// How long it was tried, in milliseconds.
        after_ms: u64,
    },
    /// The cluster refused the request. Nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// A setting, flag or argument is wrong. Nothing was changed.
    #[error("{0}")]
    Invalid(String),
    /// The operating system refused an operation.
    #[error("{what}: {source}")]
    Os {
        /// The operation and what it was applied to.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The node has left the cluster; this handle is of no use any more.
    #[error("this node has left the cluster")]
    Left,
}

impl Error {
    /// An [`Error::Os`] with the operation's name.
    pub fn os(what: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::Os { what: what.into(), source: source.into() }
    }
}
