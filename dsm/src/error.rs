//! Why a call of the library failed. Each variant's text says what was left changed.

use std::fmt;
use std::io;

use crate::page::NodeId;

/// Shorthand for results of this library.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call of the library failed.
///
/// Both `Display` and `Debug` print the message, in one line, so that a `main` that returns
/// [`Result`] ends a failing program with a line that people can read.
///
/// ```
/// use pagemesh::{Dsm, Error};
///
/// fn main() -> pagemesh::Result<()> {
///     let dsm = Dsm::builder().arena_anywhere().join()?;
///     let refused = dsm.attach::<u64>("no such region").map(|_| ()).unwrap_err();
///     assert!(matches!(refused, Error::Refused(_)));
///     assert_eq!(format!("{refused:?}"), refused.to_string());
///     dsm.leave()
/// }
/// ```
#[derive(thiserror::Error)]
pub enum Error {
    /// A node that the call depended on died. The call had no effect, or an unknown part of it.
    #[error("{node} ({name}) died")]
    NodeDied {
        /// The dead node.
        node: NodeId,
        /// Its name: kind, process and address.
        name: String,
    },
    /// A node that the call depended on has left the cluster: it has called `leave`, or its process has ended in
    /// another way than by being killed. The call had no effect, or an unknown part of it.
    #[error("{name} has left the cluster (it called `leave`, or its process ended)")]
    NodeLeft {
        /// The node that has left.
        node: NodeId,
        /// Its name: kind, process and address.
        name: String,
    },
    /// The cluster has taken this node out: the others go on without it, and what it owned alone is lost.
    #[error("this node was taken out of the cluster: {why}")]
    Evicted {
        /// The cause, as the cluster or this node itself knows it.
        why: String,
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
    /// A call of a server's method failed; the message names the method, the server and the reason,
    /// which says whether the server may have executed the call.
    #[error("{0}")]
    Call(Box<dyn std::error::Error + Send + Sync>),
    /// This process is a forked child: its handles are copies of its parent's, and it is no member. Nothing
    /// was changed.
    #[error(
        "this process was forked from one that has joined a cluster, and cannot use it: start other programs with \
         exec, or fork before the first join"
    )]
    Forked,
    /// The node has left the cluster; this handle is of no use any more.
    #[error("this node has left the cluster")]
    Left,
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error {
    /// An [`Error::Os`] with the operation's name.
    ///
    /// ```
    /// let error = pagemesh::Error::os("read the input", std::io::ErrorKind::NotFound);
    /// assert!(error.to_string().starts_with("read the input: "));
    /// ```
    pub fn os(what: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::Os { what: what.into(), source: source.into() }
    }

    /// An [`Error::Call`]. Generated stubs convert the errors of their methods by it.
    ///
    /// ```
    /// let error = pagemesh::Error::call(std::fmt::Error);
    /// assert!(matches!(error, pagemesh::Error::Call(_)));
    /// ```
    pub fn call(error: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Call(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc;

    /// As `fn main() -> Result<()>` prints it.
    #[test]
    fn an_error_that_main_returns_prints_its_message() {
        let died = Error::NodeDied { node: NodeId(3), name: "rank 2 of counter".into() };
        assert_eq!(format!("{died:?}"), "node 3 (rank 2 of counter) died");
        let call = rpc::Error::from(rpc::ErrorKind::ServerDied { may_have_executed: true });
        assert_eq!(format!("{call:?}"), "server died (it may have executed)");
    }

    #[test]
    fn errors_of_calls_convert_where_an_error_of_the_library_is_returned() {
        fn call() -> std::result::Result<(), rpc::Error> {
            Err(rpc::Error::from(rpc::ErrorKind::Busy))
        }
        fn main() -> Result<()> {
            Ok(call()?)
        }
        let error = main().expect_err("the server is busy");
        assert_eq!(format!("{error:?}"), "busy");
        let Error::Call(source) = error else { panic!("{error}") };
        assert!(source.downcast_ref::<rpc::Error>().is_some_and(|error| error.kind == rpc::ErrorKind::Busy));
    }
}
