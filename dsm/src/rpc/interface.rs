//! What generated stubs say about an interface, and the trait by which the runtime runs its methods.

use crate::codec::DecodeError;

use super::context::{Context, Reply};
use super::wire::Decoder;

/// An interface as generated.
#[derive(PartialEq, Debug)]
pub struct Interface {
    /// Its name, under which servers are found.
    pub name: &'static str,
    /// Its version.
    pub version: u32,
    /// A number for everything that matters on the wire.
    pub hash: u64,
    /// Its methods, in the order of the file.
    pub methods: &'static [Method],
    /// Itself and its types in JSON, for calls without stubs.
    pub description: &'static str,
}

/// A method as generated.
#[derive(PartialEq, Debug)]
pub struct Method {
    /// Its interface.
    pub interface: &'static str,
    /// The interface's version.
    pub version: u32,
    /// Its name.
    pub name: &'static str,
    /// What a call carries: a hash of the interface's name above, of version and signature below. So every
    /// call is checked, and nothing must be agreed on again after a reconnection or a restart.
    pub id: u64,
    /// How its results travel.
    pub kind: Kind,
    /// `@deadline`, in microseconds.
    pub deadline_us: Option<u64>,
    /// May be executed again, so lost answers are asked for anew and other servers are tried.
    pub idempotent: bool,
    /// Shows that it lives; the client gives up when it hears nothing.
    pub longrunning: bool,
}

/// How the results of a method travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One answer.
    Unary,
    /// Any number of results, then the end.
    Stream,
    /// Nothing comes back.
    Oneway,
}

/// Runs the methods of one interface. Generated code implements it for `NameServer<S>`.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
/// # fn main() -> pagemesh::Result<()> {
/// # use greeter::*;
/// # use pagemesh::rpc::*;
/// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
/// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
/// let service = GreeterServer(Polite { globals: dsm.globals() });
/// assert_eq!(service.interface().name, "Greeter");
/// # dsm.leave()
/// # }
/// ```
pub trait Service: Send + Sync + 'static {
    /// What is served.
    fn interface(&self) -> &'static Interface;
    /// Decodes the arguments of method number `method`, runs it, and writes the answer. An error is one
    /// of the arguments; nothing was run then.
    fn dispatch(
        &self,
        method: usize,
        context: &Context<'_>,
        from: &mut Decoder<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), DecodeError>;
}

impl Interface {
    /// The half of the method ids that is the same for all methods and all versions.
    pub(super) fn family(id: u64) -> u32 {
        (id >> 32) as u32
    }
}
