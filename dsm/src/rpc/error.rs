//! Why a call failed: the reason, the method, the peer, and the time that was spent.

use std::fmt;

use crate::codec::DecodeError;
use crate::page::Span;

use super::interface::Method;
use super::wire::Decoder;
use crate::page::PeerId;

/// What a method without declared errors gives.
///
/// ```
/// fn twice(x: u32) -> pagemesh::rpc::Result<u32> {
///     x.checked_mul(2).ok_or_else(|| pagemesh::rpc::Error::remote("too large"))
/// }
/// # assert!(twice(u32::MAX).is_err());
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A call that brought no result. Both `Display` and `Debug` print the message. It converts into
/// [`pagemesh::Error`](crate::Error), so that `?` works where that is returned.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
/// # fn main() -> pagemesh::Result<()> {
/// # use greeter::*;
/// # use pagemesh::rpc::*;
/// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
/// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
/// let greeter = GreeterClient::new(dsm.channel(Policy::RoundRobin));
/// let error = greeter.sum(Global::new(pagemesh::GlobalAddr(0), 1, 0)).unwrap_err();
/// assert!(matches!(error.kind, ErrorKind::Remote(_)));
/// assert!(error.to_string().starts_with("Greeter.sum at node 0: "));
/// # dsm.leave()
/// # }
/// ```
#[derive(Clone, PartialEq)]
pub struct Error {
    /// Why.
    pub kind: ErrorKind,
    /// What was called, if it was a call.
    pub method: Option<&'static Method>,
    /// Whom, if it came so far.
    pub peer: Option<PeerId>,
    /// From the start of the call to its failure.
    pub spent: Span,
}

/// Why a call failed.
///
/// ```
/// fn is_safe_to_repeat(error: &pagemesh::rpc::Error) -> bool {
///     use pagemesh::rpc::ErrorKind;
///     matches!(error.kind, ErrorKind::Busy | ErrorKind::ServerDied { may_have_executed: false })
/// }
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ErrorKind {
    /// The server could not be reached, or its answer could not be had.
    #[error("unreachable{}", .may_have_executed.then_some(" (it may have executed)").unwrap_or_default())]
    Unreachable {
        /// Whether the server may have executed the call.
        may_have_executed: bool,
    },
    /// The time of the call was over. The server was told to stop; it may have executed.
    #[error("deadline passed")]
    Deadline,
    /// The call was cancelled, by dropping it or at the server. It may have executed in part.
    #[error("cancelled")]
    Cancelled,
    /// The server process is dead.
    #[error("server died{}", .may_have_executed.then_some(" (it may have executed)").unwrap_or_default())]
    ServerDied {
        /// Whether the server may have executed the call.
        may_have_executed: bool,
    },
    /// The server, or this client's limit, has no place for the call. Not executed.
    #[error("busy")]
    Busy,
    /// The two sides speak different versions. Not executed.
    #[error("the client speaks version {client}, {}", server_version(.server))]
    BadVersion {
        /// The client's version of the interface.
        client: u32,
        /// The server's; `None` if it does not serve the interface.
        server: Option<u32>,
    },
    /// The call is of a process from which this one was forked. Not executed.
    #[error("{}", crate::Error::Forked)]
    Forked,
    /// The server ran into an error that the method does not declare.
    #[error("{0}")]
    Remote(String),
}

fn server_version(version: &Option<u32>) -> String {
    match version {
        Some(version) => format!("the server version {version} with other methods or arguments"),
        None => "the server does not serve the interface".to_owned(),
    }
}

/// The errors of one method: the declared ones, and [`Error`]. Generated code implements it.
pub trait MethodError: From<Error> {
    /// Appends a declared error, or hands back the other kind.
    fn encode_thrown(&self, out: &mut Vec<u8>) -> Option<&Error>;
    /// Reads a declared error.
    fn decode_thrown(from: &mut Decoder<'_>) -> std::result::Result<Self, DecodeError>;
}

impl MethodError for Error {
    fn encode_thrown(&self, _: &mut Vec<u8>) -> Option<&Error> {
        Some(self)
    }

    fn decode_thrown(_: &mut Decoder<'_>) -> std::result::Result<Self, DecodeError> {
        Err(DecodeError::Bad("thrown type"))
    }
}

impl Error {
    /// What a server returns for an error that its method does not declare.
    ///
    /// ```
    /// let error = pagemesh::rpc::Error::remote("the disk is full");
    /// assert_eq!(error.to_string(), "the disk is full");
    /// ```
    pub fn remote(text: impl fmt::Display) -> Error {
        ErrorKind::Remote(text.to_string()).into()
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Error { kind, method: None, peer: None, spent: Span(0) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(method) = self.method {
            write!(f, "{}.{}", method.interface, method.name)?;
            if let Some(peer) = self.peer {
                write!(f, " at {}", peer.node)?;
            }
            write!(f, ": ")?;
        }
        write!(f, "{}", self.kind)?;
        if self.method.is_some() {
            write!(f, " after {:.3} ms", self.spent.0 as f64 / 1e6)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

impl From<Error> for crate::error::Error {
    fn from(error: Error) -> Self {
        crate::error::Error::call(error)
    }
}
