//! What a running method sees of its call: who asks, how much time is left, whether anybody still
//! waits; where it reports progress and puts the items of a stream.

use std::marker::PhantomData;

use crate::fork;
use crate::page::{PeerId, Span, Time};

use super::core::frame::{Frame, FrameKind};
use super::core::{Job, Permit, SendError, Status};
use super::endpoint::Endpoint;
use super::error::{Error, ErrorKind, MethodError};
use super::interface::Method;
use super::wire::Wire;

/// The call that a method is running for.
///
/// ```
/// use pagemesh::rpc::{Context, Error};
///
/// // A method of a generated trait.
/// fn work(context: &Context<'_>, items: &[u64]) -> Result<u64, Error> {
///     let mut sum = 0;
///     for (done, item) in items.iter().enumerate() {
///         context.progress(done as u64, items.len() as u64)?;
///         sum += item;
///     }
///     Ok(sum)
/// }
/// ```
pub struct Context<'a> {
    endpoint: &'a Endpoint,
    job: &'a Job,
}

impl<'a> Context<'a> {
    pub(super) fn new(endpoint: &'a Endpoint, job: &'a Job) -> Self {
        Context { endpoint, job }
    }

    /// Who called.
    ///
    /// ```
    /// fn allowed(context: &pagemesh::rpc::Context<'_>) -> bool {
    ///     context.peer().node == pagemesh::NodeId(0)
    /// }
    /// ```
    pub fn peer(&self) -> PeerId {
        self.job.from
    }

    /// What was called.
    #[doc(hidden)]
    pub fn method(&self) -> &'static Method {
        self.job.method
    }

    /// The node that the call runs on, to call others from inside.
    #[doc(hidden)]
    pub fn endpoint(&self) -> &'a Endpoint {
        self.endpoint
    }

    /// Time until the caller gives up; `None` if it never does.
    #[doc(hidden)]
    pub fn remaining(&self) -> Option<Span> {
        self.job.deadline.map(|deadline| deadline.since(self.endpoint.now()))
    }

    /// Whether nobody waits for the result any more: the call was dropped, its time is over, or the
    /// caller is dead. A long method looks here from time to time.
    ///
    /// ```
    /// fn work(context: &pagemesh::rpc::Context<'_>) {
    ///     while !context.is_cancelled() {
    ///         // a part of it
    ///         # break;
    ///     }
    /// }
    /// ```
    pub fn is_cancelled(&self) -> bool {
        if fork::is_child() {
            return true; // the call is the parent's
        }
        let late = self.job.deadline.is_some_and(|deadline: Time| deadline <= self.endpoint.now());
        late || self.endpoint.with(|_, state| state.calls.is_cancelled(self.job))
    }

    /// Tells the caller how far the work is. Fails when nobody waits any more, so that `?` ends the work.
    ///
    /// ```
    /// fn work(context: &pagemesh::rpc::Context<'_>) -> pagemesh::rpc::Result<()> {
    ///     for part in 0..10 {
    ///         context.progress(part, 10)?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn progress(&self, done: u64, total: u64) -> Result<(), Error> {
        if fork::is_child() {
            return Err(ErrorKind::Forked.into());
        }
        if self.is_cancelled() {
            return Err(ErrorKind::Cancelled.into());
        }
        let number = self.endpoint.with(|_, state| state.calls.next_report(self.job));
        let Some(number) = number else { return Err(ErrorKind::Cancelled.into()) };
        let mut body = [0; 16];
        body[..8].copy_from_slice(&done.to_le_bytes());
        body[8..].copy_from_slice(&total.to_le_bytes());
        let mut frame = Frame::new(FrameKind::Progress, self.job.sequence, number);
        frame.body = &body;
        // A report that cannot be sent is no reason to stop: the next one says more.
        let _ = self.endpoint.send(self.job.from, &frame.to_vec());
        Ok(())
    }
}

/// Where a method puts the items of its stream.
///
/// ```
/// use pagemesh::rpc::{Context, Error, Sink};
///
/// // A `stream` method of a generated trait.
/// fn count(_context: &Context<'_>, below: u32, sink: &mut Sink<'_, u32>) -> Result<(), Error> {
///     for number in 0..below {
///         sink.send(&number)?;
///     }
///     Ok(())
/// }
/// ```
pub struct Sink<'a, T> {
    context: &'a Context<'a>,
    sent: u64,
    item: PhantomData<fn(T)>,
}

impl<'a, T: Wire> Sink<'a, T> {
    /// The sink of the call.
    #[doc(hidden)]
    pub fn new(context: &'a Context<'a>) -> Self {
        Sink { context, sent: 0, item: PhantomData }
    }

    /// Sends an item, waiting while the client has no room. Fails when nobody takes items any more.
    ///
    /// ```
    /// fn one(sink: &mut pagemesh::rpc::Sink<'_, u32>) -> pagemesh::rpc::Result<()> {
    ///     sink.send(&1)
    /// }
    /// ```
    pub fn send(&mut self, item: &T) -> Result<(), Error> {
        let Context { endpoint, job } = *self.context;
        if fork::is_child() {
            return Err(ErrorKind::Forked.into());
        }
        loop {
            let signal = endpoint.signal();
            let permit = endpoint.with(|_, state| {
                let permit = state.calls.permit(job, self.sent);
                if permit == Permit::Wait {
                    state.callers.expect_permit(job.from, job.sequence, &signal);
                }
                permit
            });
            let over = job.deadline.is_some_and(|deadline| deadline <= endpoint.now());
            match permit {
                Permit::Stop => return Err(ErrorKind::Cancelled.into()),
                Permit::Send | Permit::Wait if over => return Err(ErrorKind::Deadline.into()),
                Permit::Send => break,
                Permit::Wait => endpoint.port().wait(&signal, job.deadline),
            }
        }
        let mut body = Vec::new();
        item.encode(&mut body);
        let mut frame = Frame::new(FrameKind::Item, job.sequence, self.sent);
        frame.body = &body;
        match endpoint.send_when_room(job.from, &frame.to_vec()) {
            Ok(()) => {}
            Err(error @ SendError::TooLong) => return Err(ErrorKind::Remote(error.to_string()).into()),
            Err(SendError::Full | SendError::Unreachable) => {
                return Err(ErrorKind::Unreachable { may_have_executed: true }.into());
            }
        }
        self.sent += 1;
        Ok(())
    }
}

/// Where the dispatcher puts the answer.
pub struct Reply<'a> {
    out: &'a mut Vec<u8>,
    pub(super) status: Status,
    pub(super) items: u64,
}

impl<'a> Reply<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Reply { out, status: Status::Done, items: 0 }
    }

    /// The answer of a method with one result.
    pub fn answer<T: Wire, E: MethodError>(&mut self, result: Result<T, E>) {
        match result {
            Ok(value) => value.encode(self.out),
            Err(error) => self.fail(&error),
        }
    }

    /// The end of a stream.
    pub fn end<T: Wire, E: MethodError>(&mut self, result: Result<(), E>, sink: &Sink<'_, T>) {
        self.items = sink.sent;
        if let Err(error) = result {
            self.fail(&error);
        }
    }

    fn fail<E: MethodError>(&mut self, error: &E) {
        self.status = Status::Thrown;
        if let Some(error) = error.encode_thrown(self.out) {
            self.status = if error.kind == ErrorKind::Cancelled { Status::Cancelled } else { Status::Remote };
            self.out.extend_from_slice(error.to_string().as_bytes());
        }
    }
}
