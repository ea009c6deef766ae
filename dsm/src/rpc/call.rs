//! A call that has been started: wait for it, poll it, await it, or drop it, which cancels it. And the
//! same for a call with a stream of results.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::codec::DecodeError;
use crate::config::rpc::STREAM_WINDOW;
use crate::fork;
use crate::page::{Span, Time};

use super::callers::{CallCell, Next, Waiter};
use super::core::{Outcome, Progress, Status, Ticket};
use super::endpoint::Endpoint;
use super::error::{Error, ErrorKind, MethodError};
use super::interface::Method;
use super::wire::{Decoder, Wire};
use crate::page::PeerId;

/// What calls and streams have in common.
struct Open {
    endpoint: Arc<Endpoint>,
    method: &'static Method,
    /// `None` when the caller has the outcome.
    call: Option<(Ticket, Arc<CallCell>)>,
    /// The call could not even be started.
    refused: Option<Error>,
    /// The first server, and since when.
    peer: Option<PeerId>,
    started: Time,
    /// Items of the stream that the caller has got, and for how many its server has credit.
    used: u64,
    granted: u64,
}

/// A call that was started: what its outcome comes into, and its first server.
pub(super) struct Started {
    pub(super) ticket: Ticket,
    pub(super) cell: Arc<CallCell>,
    pub(super) peer: PeerId,
    pub(super) at: Time,
}

/// A call on its way. It runs whether it is polled or not; dropping it cancels it.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
/// # fn main() -> pagemesh::Result<()> {
/// # use greeter::*;
/// # use pagemesh::rpc::*;
/// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
/// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
/// let greeter = GreeterCalls::new(dsm.channel(Policy::RoundRobin));
/// let (first, second) = (greeter.greet("Ada"), greeter.greet("Grace")); // both are on their way
/// assert_eq!(second.wait()?, "hello, Grace");
/// assert_eq!(first.wait()?, "hello, Ada");
/// # dsm.leave()
/// # }
/// ```
#[must_use = "dropping a call cancels it: wait for it or await it"]
pub struct Call<T, E = Error> {
    open: Open,
    result: PhantomData<fn() -> (T, E)>,
}

/// The results of a `stream` method, one after the other. Dropping it cancels the call.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
/// # fn main() -> pagemesh::Result<()> {
/// # use greeter::*;
/// # use pagemesh::rpc::*;
/// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
/// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
/// let greeter = GreeterClient::new(dsm.channel(Policy::RoundRobin));
/// let numbers: Result<Vec<u32>> = greeter.count(3).collect();
/// assert_eq!(numbers?, [0, 1, 2]);
/// # dsm.leave()
/// # }
/// ```
#[must_use = "dropping a stream cancels it: take its items"]
pub struct Streaming<T, E = Error> {
    open: Open,
    result: PhantomData<fn() -> (T, E)>,
}

impl<T: Wire, E: MethodError> Call<T, E> {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        method: &'static Method,
        started: Result<Started, Error>,
    ) -> Self {
        Call { open: Open::new(endpoint, method, started), result: PhantomData }
    }

    /// Blocks the thread until the result is there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
    /// # fn main() -> pagemesh::Result<()> {
    /// # use greeter::*;
    /// # use pagemesh::rpc::*;
    /// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
    /// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
    /// let greeter = GreeterCalls::new(dsm.channel(Policy::RoundRobin));
    /// assert_eq!(greeter.greet("Ada").wait()?, "hello, Ada");
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn wait(mut self) -> Result<T, E> {
        let endpoint = self.open.endpoint.clone();
        block_on(&endpoint, |waiter| self.poll_with(waiter))
    }

    /// The result, if it is there; at most once.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
    /// # fn main() -> pagemesh::Result<()> {
    /// # use greeter::*;
    /// # use pagemesh::rpc::*;
    /// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
    /// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
    /// let mut call = GreeterCalls::new(dsm.channel(Policy::RoundRobin)).greet("Ada");
    /// let greeting = loop {
    ///     // Something else is done meanwhile.
    ///     if let Some(result) = call.try_take() {
    ///         break result?;
    ///     }
    ///     std::thread::yield_now();
    /// };
    /// assert_eq!(greeting, "hello, Ada");
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn try_take(&mut self) -> Option<Result<T, E>> {
        self.poll_with(Waiter::None)
    }

    /// Whether the result is there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
    /// # fn main() -> pagemesh::Result<()> {
    /// # use greeter::*;
    /// # use pagemesh::rpc::*;
    /// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
    /// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
    /// let call = GreeterCalls::new(dsm.channel(Policy::RoundRobin)).greet("Ada");
    /// println!("{}", if call.is_done() { "there" } else { "not yet" });
    /// call.wait()?;
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn is_done(&self) -> bool {
        let call = self.open.call.as_ref().filter(|_| !fork::is_child());
        call.is_none_or(|(_, cell)| cell.is_done())
    }

    /// How far the server says it is.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
    /// # fn main() -> pagemesh::Result<()> {
    /// # use greeter::*;
    /// # use pagemesh::rpc::*;
    /// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
    /// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
    /// let call = GreeterCalls::new(dsm.channel(Policy::RoundRobin)).greet("Ada");
    /// if let Some(Progress { done, total }) = call.progress() {
    ///     println!("{done} of {total}");
    /// }
    /// call.wait()?;
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn progress(&self) -> Option<Progress> {
        let (_, cell) = self.open.call.as_ref().filter(|_| !fork::is_child())?;
        cell.progress()
    }

    fn poll_with(&mut self, waiter: Waiter) -> Option<Result<T, E>> {
        self.open.refuse_in_child();
        if let Some(error) = self.open.refused.take() {
            return Some(Err(error.into()));
        }
        let (_, cell) = self.open.call.as_ref().expect("a call gives its result once");
        let outcome = cell.take(waiter)?;
        self.open.call = None;
        Some(self.open.result(outcome))
    }
}

impl<T: Wire, E: MethodError> Future for Call<T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.poll_with(Waiter::Task(context.waker().clone())) {
            Some(result) => Poll::Ready(result),
            None => {
                self.open.endpoint.port().attend();
                Poll::Pending
            }
        }
    }
}

impl<T: Wire, E: MethodError> Streaming<T, E> {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        method: &'static Method,
        started: Result<Started, Error>,
    ) -> Self {
        Streaming { open: Open::new(endpoint, method, started), result: PhantomData }
    }

    /// The next item, for executors: `None` after the end.
    #[doc(hidden)]
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<T, E>>> {
        let next = self.poll_with(Waiter::Task(context.waker().clone()));
        if next.is_pending() {
            self.open.endpoint.port().attend();
        }
        next
    }

    /// The next item, to be awaited: `None` after the end.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
    /// # fn main() -> pagemesh::Result<()> {
    /// # use greeter::*;
    /// # use pagemesh::rpc::*;
    /// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
    /// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
    /// let mut numbers = GreeterClient::new(dsm.channel(Policy::RoundRobin)).count(1);
    /// let all = async {
    ///     assert_eq!(numbers.next_item().await, Some(Ok(0)));
    ///     assert_eq!(numbers.next_item().await, None);
    /// };
    /// pollster::block_on(all);
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn next_item(&mut self) -> impl Future<Output = Option<Result<T, E>>> + '_ {
        std::future::poll_fn(|context| self.poll_next(context))
    }

    fn poll_with(&mut self, waiter: Waiter) -> Poll<Option<Result<T, E>>> {
        self.open.refuse_in_child();
        if let Some(error) = self.open.refused.take() {
            return Poll::Ready(Some(Err(error.into())));
        }
        let Some((ticket, cell)) = &self.open.call else { return Poll::Ready(None) };
        let (ticket, next) = (*ticket, cell.next(waiter));
        match next {
            Next::Item(bytes) => {
                self.open.use_item(ticket);
                Poll::Ready(Some(decode(&bytes).map_err(|error| self.open.garbled(error))))
            }
            Next::Pending => Poll::Pending,
            Next::End(outcome) => {
                self.open.call = None;
                let end: Result<(), E> = self.open.result(outcome);
                Poll::Ready(end.err().map(Err))
            }
        }
    }
}

/// Blocks the thread for each item.
impl<T: Wire, E: MethodError> Iterator for Streaming<T, E> {
    type Item = Result<T, E>;

    fn next(&mut self) -> Option<Self::Item> {
        let endpoint = self.open.endpoint.clone();
        block_on(&endpoint, |waiter| match self.poll_with(waiter) {
            Poll::Ready(item) => Some(item),
            Poll::Pending => None,
        })
    }
}

impl Open {
    fn new(endpoint: Arc<Endpoint>, method: &'static Method, started: Result<Started, Error>) -> Self {
        let (used, granted) = (0, STREAM_WINDOW);
        match started {
            Ok(Started { ticket, cell, peer, at: started }) => {
                let (call, peer) = (Some((ticket, cell)), Some(peer));
                Open { endpoint, method, call, refused: None, peer, started, used, granted }
            }
            Err(error) => {
                let (refused, started) = (Some(error), Time(0));
                Open { endpoint, method, call: None, refused, peer: None, started, used, granted }
            }
        }
    }

    /// The caller gets an item. Half a window at a time, its server may send more.
    fn use_item(&mut self, ticket: Ticket) {
        self.used += 1;
        if self.granted - self.used <= STREAM_WINDOW / 2 {
            self.granted = self.used + STREAM_WINDOW;
            let used = self.used;
            self.endpoint.with(|_, state| state.calls.use_items(ticket, used));
        }
    }

    /// In a forked child the call is the parent's, which gets its answer.
    fn refuse_in_child(&mut self) {
        if fork::is_child() && self.call.take().is_some() {
            let method = Some(self.method);
            self.refused = Some(Error { kind: ErrorKind::Forked, method, peer: self.peer, spent: Span(0) });
        }
    }

    fn result<T: Wire, E: MethodError>(&self, outcome: Outcome) -> Result<T, E> {
        let (status, body) = outcome?;
        if status == Status::Thrown {
            let mut from = Decoder::new(&body);
            let thrown = E::decode_thrown(&mut from);
            return Err(thrown.unwrap_or_else(|error| self.garbled(error)));
        }
        decode(&body).map_err(|error| self.garbled(error))
    }

    /// An answer that does not decode.
    fn garbled<E: MethodError>(&self, error: DecodeError) -> E {
        let kind = ErrorKind::Remote(format!("the answer does not decode: {error}"));
        let spent = self.endpoint.now().since(self.started);
        Error { kind, method: Some(self.method), peer: self.peer, spent }.into()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some((ticket, cell)) = self.call.take().filter(|_| !fork::is_child())
            && !cell.is_done()
        {
            self.endpoint.cancel(ticket);
        }
    }
}

/// Asks until there is something, and gives the thread away in between.
fn block_on<R>(endpoint: &Endpoint, mut ask: impl FnMut(Waiter) -> Option<R>) -> R {
    loop {
        let signal = endpoint.signal();
        if let Some(result) = ask(Waiter::Thread(signal.clone())) {
            return result;
        }
        endpoint.flush_batches();
        endpoint.port().wait(&signal, None);
    }
}

fn decode<T: Wire>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut from = Decoder::new(bytes);
    let value = T::decode(&mut from)?;
    from.finish()?;
    Ok(value)
}
