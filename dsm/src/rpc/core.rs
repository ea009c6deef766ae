//! All calls of a node as one value: what is open at which peer ([`client`]), what was seen, waits and runs here
//! ([`server`]). It takes events and the time, and gives back messages, and what threads of the node wait for.
//! It has no thread, lock, clock or socket, and knows services by number, so the simulator runs it.
//!
//! Duties of its owner: after each event, [`Calls::poll_output`] and [`Calls::next_message`] until there is
//! nothing; a message that was not taken comes back by [`Calls::handle_unsent`]; [`Calls::handle_timeout`] at
//! [`Calls::poll_timeout`]. Every [`Ticket`] that was started ends with one [`Output::Done`], unless it was cancelled.

pub(in crate::rpc) mod client;
pub(in crate::rpc) mod frame;
mod mutation;
mod seen;
pub(in crate::rpc) mod server;
pub(in crate::rpc) mod stats;

use std::collections::VecDeque;

use crate::codec::DecodeError;
use crate::config::rpc::{CALL_LEN_MAX, GATHER_LEN_MAX};
use crate::page::{PeerId, Span, Time};

use self::client::ClientCore;
pub use self::frame::CALL_HEADER_LEN;
pub use self::frame::Status;
use self::frame::{Frame, FrameKind, ONEWAY};
pub use self::mutation::{Mutation, Rules};
use self::server::ServerCore;
pub use self::server::{Counters, Job, Permit, Rank, ServiceId};
use self::stats::MethodReading;
use super::error::Error;
use super::interface::{Interface, Method};

/// Names a call of this node to another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// How a call ended: a status with its body, or why it failed.
pub type Outcome = Result<(Status, Vec<u8>), Error>;

/// How far a long call is, as its server says.
///
/// ```
/// fn percent(progress: pagemesh::rpc::Progress) -> u64 {
///     progress.done * 100 / progress.total.max(1)
/// }
/// # assert_eq!(percent(pagemesh::rpc::Progress { done: 1, total: 4 }), 25);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all.
    pub total: u64,
}

/// A message that was not queued. Nothing was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// There is no session with this start of the node, and none is being made.
    #[error("no session with this peer")]
    Unreachable,
    /// The queue to the peer is full.
    #[error("the queue to the peer is full")]
    Full,
    /// Longer than [`CALL_LEN_MAX`].
    #[error("message too long")]
    TooLong,
}

/// What a new call is made of.
#[derive(Debug)]
pub struct Start {
    /// What is called.
    pub method: &'static Method,
    /// The server.
    pub peer: PeerId,
    /// Servers to try, from the last on, when the first surely did not execute the call.
    pub others: Vec<PeerId>,
    /// When the caller gives up.
    pub deadline: Option<Time>,
}

/// What threads of the node are told.
#[derive(Debug)]
pub enum Output {
    /// The call has ended.
    Done(Ticket, Outcome),
    /// The next item of its stream.
    Item(Ticket, Vec<u8>),
    /// How far it is.
    Progress(Ticket, Progress),
    /// The call of this peer that runs here may send more items, or nobody takes them any more.
    Permit(PeerId, u64),
}

/// What follows from an event.
#[derive(Default)]
pub(in crate::rpc) struct Effects {
    sends: VecDeque<(PeerId, Vec<u8>)>,
    /// Calls whose request must be sent to a peer.
    requests: VecDeque<(PeerId, Ticket)>,
    outputs: VecDeque<Output>,
    /// Calls that were queued for workers.
    arrivals: usize,
}

/// All calls of a node, in both directions.
#[derive(Default)]
pub struct Calls {
    client: ClientCore,
    server: ServerCore,
    effects: Effects,
    rules: Rules,
    handled: u64,
}

/// From here on: events.
impl Calls {
    /// The same with other rules, in tests of the tests.
    pub fn with_rules(mut self, rules: Rules) -> Calls {
        (self.rules, self.server.rules, self.client.rules) = (rules, rules, rules);
        self
    }

    /// Opens a call. `request` are the arguments behind room for a header ([`CALL_HEADER_LEN`]).
    pub fn start(&mut self, now: Time, ticket: Ticket, start: Start, request: &[u8]) {
        self.client.start(now, ticket, start, request, &mut self.effects);
    }

    /// Fills in the header of a call without an answer, which its owner sends.
    pub fn start_oneway(&mut self, method: &'static Method, peer: PeerId, request: &mut [u8]) {
        self.client.start_oneway(method, peer, request);
    }

    /// Sends a message to the peer with the next ones.
    pub fn send(&mut self, peer: PeerId, message: &[u8]) {
        self.effects.sends.push_back((peer, message.to_vec()));
    }

    /// The caller does not wait any more.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.client.cancel(ticket, &mut self.effects);
    }

    /// The caller has used so many items of its stream.
    pub fn use_items(&mut self, ticket: Ticket, used: u64) {
        self.client.use_items(ticket, used, &mut self.effects);
    }

    /// Takes a message of a peer. An error is one that no peer of ours writes: the session should end. What stood
    /// before the garbage counts.
    pub fn handle_message(&mut self, now: Time, from: PeerId, message: &[u8]) -> Result<(), DecodeError> {
        self.handled += 1;
        let outcome = self.handle_frames(now, from, message);
        if outcome.is_err() {
            self.server.counters.violations += 1;
        }
        outcome
    }

    fn handle_frames(&mut self, now: Time, from: PeerId, message: &[u8]) -> Result<(), DecodeError> {
        let mut rest = message;
        while !rest.is_empty() {
            let (frame, behind) = Frame::decode(rest)?;
            rest = behind;
            match frame.kind {
                FrameKind::Call | FrameKind::Credit | FrameKind::Cancel => {
                    self.server.handle_frame(now, from, &frame, &mut self.effects)?;
                }
                FrameKind::Reply | FrameKind::Item | FrameKind::Progress => {
                    self.client.handle_frame(now, from, &frame, &mut self.effects)?;
                }
            }
        }
        Ok(())
    }

    /// This start of the peer is dead. Every call to it ends now, and those that it made are cancelled.
    pub fn handle_peer_died(&mut self, now: Time, peer: PeerId) {
        self.client.handle_peer_died(now, peer, &mut self.effects);
        self.server.handle_peer_died(peer, &mut self.effects);
    }

    /// The session with this start of the peer is new; what was on the way is lost. Asks again.
    pub fn handle_peer_reset(&mut self, now: Time, peer: PeerId) {
        self.client.handle_peer_reset(now, peer, &mut self.effects);
    }

    /// This client has a session.
    pub fn handle_peer_back(&mut self, peer: PeerId) {
        self.server.handle_peer_back(peer);
    }

    /// This client has no session. It may come back: what it may ask again is kept while there is room. Its streams
    /// end, as a new session does not bring their items back.
    pub fn handle_peer_away(&mut self, now: Time, peer: PeerId) {
        self.server.handle_peer_away(now, peer, &mut self.effects);
    }

    /// This node goes: every call that is open ends now, those of others with their cancellation.
    pub fn handle_end(&mut self, now: Time) {
        if !self.rules.ends_calls_with_the_node() {
            return;
        }
        for peer in self.client.peers().into_iter().chain(self.server.peers()) {
            self.handle_peer_died(now, peer);
        }
    }

    /// Ends what is over its time, and shows that long calls live.
    pub fn handle_timeout(&mut self, now: Time) {
        self.client.handle_timeout(now, &mut self.effects);
        self.server.handle_timeout(now, &mut self.effects);
    }

    /// When [`Calls::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        [self.client.poll_timeout(), self.server.poll_timeout()].into_iter().flatten().min()
    }

    /// What follows for threads of the node.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.effects.outputs.pop_front()
    }

    /// Appends the next message to `out`, and says for whom it is. What is ready at the same time for the same peer
    /// travels together.
    pub fn next_message(&mut self, out: &mut Vec<u8>) -> Option<PeerId> {
        let start = out.len();
        let fits = |out: &Vec<u8>, more: usize| {
            let len = out.len() - start;
            len == 0 || (len < GATHER_LEN_MAX && len + more <= CALL_LEN_MAX)
        };
        let Effects { sends, requests, .. } = &mut self.effects;
        if let Some((peer, message)) = sends.pop_front() {
            out.extend_from_slice(&message);
            while let Some((to, message)) = sends.front()
                && *to == peer
                && fits(out, message.len())
            {
                out.extend_from_slice(message);
                sends.pop_front();
            }
            return Some(peer);
        }
        while let Some((peer, ticket)) = requests.pop_front() {
            let Some(request) = self.client.request(peer, ticket) else { continue };
            out.extend_from_slice(request);
            if !requests.is_empty() {
                requests.retain(|(to, ticket)| {
                    if *to != peer {
                        return true;
                    }
                    let Some(request) = self.client.request(peer, *ticket) else { return false };
                    let goes = fits(out, request.len());
                    if goes {
                        out.extend_from_slice(request);
                    }
                    !goes
                });
            }
            return Some(peer);
        }
        None
    }

    /// The message to the peer was not queued. Its calls end as they would have alone; what answers a peer is offered
    /// again, for nobody asks for a lost refusal or a lost credit.
    pub fn handle_unsent(&mut self, now: Time, peer: PeerId, message: &[u8], error: SendError) {
        let mut rest = message;
        while let Ok((frame, behind)) = Frame::decode(rest) {
            let bytes = &rest[..rest.len() - behind.len()];
            rest = behind;
            match frame.kind {
                FrameKind::Call if frame.flags & ONEWAY != 0 => self.server.counters.dropped += 1,
                FrameKind::Call => {
                    self.client.handle_unsent(now, peer, frame.sequence, error, &mut self.effects);
                }
                FrameKind::Reply
                | FrameKind::Item
                | FrameKind::Progress
                | FrameKind::Credit
                | FrameKind::Cancel => {
                    // With any other error its peer is dead, or begins anew with the next session.
                    if error == SendError::Full {
                        self.server.delay(now, peer, bytes.to_vec());
                    }
                }
            }
        }
    }
}

/// From here on: what the node serves, and what it looks at.
impl Calls {
    /// Serves an interface. At most `calls_max` of its calls wait or run at one time; more are `Busy`.
    /// One interface has one server on a node: a second is a broken program.
    pub fn serve(&mut self, interface: &'static Interface, calls_max: usize, rank: Rank) -> ServiceId {
        self.server.register(interface, calls_max, rank)
    }

    /// Serves nothing any more.
    pub fn stop_serving(&mut self) {
        self.server.stop_serving();
    }

    /// The next call to run, of this rank or a higher one. Those that are over are answered and passed over.
    pub fn take_job(&mut self, now: Time, down_to: Rank) -> Option<Job> {
        self.server.take_job(now, down_to, &mut self.effects)
    }

    /// The method has run for so long.
    pub fn ran(&mut self, job: &Job, time: Span, failed: bool) {
        self.server.ran(job, time, failed);
    }

    /// The call has been answered with the frame `reply`, which its owner sends.
    pub fn finish(&mut self, job: Job, reply: &[u8]) {
        self.server.finish(job, reply);
    }

    /// The same for an answer of these bytes, which is sent with the next messages: for owners that run no methods.
    pub fn answer(&mut self, job: Job, body: &[u8]) {
        let mut frame = Frame::new(FrameKind::Reply, job.sequence, 0);
        (frame.aux, frame.body) = (Status::Done as u16, body);
        let (peer, reply) = (job.from, frame.to_vec());
        self.finish(job, &reply);
        self.send(peer, &reply);
    }

    /// Whether item number `index` of a stream may be sent; else [`Output::Permit`] says when that changes.
    pub fn permit(&mut self, job: &Job, index: u64) -> Permit {
        self.server.permit(job.from, job.sequence, index)
    }

    /// Whether nobody waits for the call any more.
    pub fn is_cancelled(&self, job: &Job) -> bool {
        job.flags & ONEWAY == 0 && self.server.is_cancelled(job.from, job.sequence)
    }

    /// The number of the next report about a call.
    pub fn next_report(&mut self, job: &Job) -> Option<u64> {
        self.server.next_report(job.from, job.sequence)
    }

    /// How many calls were queued for workers since it was last asked.
    pub fn take_arrivals(&mut self) -> usize {
        std::mem::take(&mut self.effects.arrivals)
    }

    /// Whether nothing has followed from what happened so far.
    pub fn is_quiet(&self) -> bool {
        let Effects { sends, requests, outputs, arrivals } = &self.effects;
        sends.is_empty() && requests.is_empty() && outputs.is_empty() && *arrivals == 0
    }

    /// Messages of peers so far.
    pub fn handled(&self) -> u64 {
        self.handled
    }

    /// Calls that wait for a worker.
    pub fn queue_len(&self) -> usize {
        self.server.queue_len()
    }

    /// Whether calls of the system wait.
    pub fn has_system_calls(&self) -> bool {
        self.server.has_system_calls()
    }

    /// Whether the next call may hold its worker for long.
    pub fn is_next_slow(&self) -> bool {
        self.server.is_next_slow()
    }

    /// Calls of this node that have not ended.
    pub fn open_calls(&self) -> usize {
        self.client.len()
    }

    /// Those that wait for an answer of the peer.
    pub fn in_flight(&self, peer: PeerId) -> usize {
        self.client.in_flight(peer)
    }

    /// Bytes of the replies that are kept in case they are asked for again.
    pub fn kept_bytes(&self) -> usize {
        self.server.kept_bytes()
    }

    /// What happened that nobody asked for.
    pub fn counters(&self) -> Counters {
        self.server.counters
    }

    /// The same, for arguments that did not decode.
    pub fn count_malformed(&mut self) {
        self.server.counters.malformed += 1;
    }

    /// The interfaces that are served here.
    pub fn interfaces(&self) -> Vec<&'static Interface> {
        self.server.interfaces()
    }

    /// What each method did since the node started.
    pub fn statistics(&self) -> Vec<(&'static Method, MethodReading)> {
        self.server.statistics()
    }
}
