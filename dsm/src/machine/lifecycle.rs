//! A node between its start and its end: joining, being a member, leaving step by step, ended.

use tracing::Level;

use super::{Cores, Host, Machine, Outcome, Output, close};
use crate::coherence::{Coherence, Failure, Input, NodeSet, OpId};
use crate::config::node::{CONSENT_MAX, FLUSH_MAX, LEAVE_STALL_MAX, WRITE_BACK_STALL_MAX};
use crate::membership::{COORDINATOR, Kind, Member, Membership};
use crate::net::SessionHandle;
use crate::page::{NodeId, PeerId, Span, Time};

/// Where a node is between its start and its end.
#[derive(Debug)]
pub enum Lifecycle {
    /// It is no member yet, or not all that it needs is there; the operation ends when it is.
    Joining(Option<OpId>),
    /// It is a member.
    Member,
    /// It leaves.
    Leaving(Leaving),
    /// It cannot go on. Its sessions are there still, for last words.
    Ended(Why),
    /// All its sessions were ended, and no others begin.
    Closed(Why),
}

/// Why a node is none any more.
#[derive(Clone, Debug)]
pub enum Why {
    /// It has left.
    Left,
    /// It never became a member.
    NotJoined(String),
    /// It was taken out of the cluster.
    Evicted(String),
    /// A node that everything here depends on is dead.
    Died {
        /// Its id.
        node: NodeId,
        /// Its description and how its death is known.
        name: String,
    },
    /// The cluster stops because somebody asked it to.
    Stopped(String),
    /// The memory or the socket of this node failed.
    Broken(String),
}

/// How a node is to leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Departing {
    /// Whether its pages and locks go back to their homes first. Without daemons they stay: all leave together.
    pub writes_back: bool,
    /// What makes it leave.
    pub by: Departure,
    /// Whether the coordinator is asked; not if this node could not meet the others at their end.
    pub asks: bool,
}

/// What makes a node leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Departure {
    /// The program has come to its end and says so.
    Wish,
    /// The process exits without having said so: its pages go back although other ranks may have died.
    Exit,
    /// A signal ends the process: as at exit, and no thread is to see the sessions end.
    Signal,
}

/// Why a departure lost something, or may have.
#[derive(Clone, Debug)]
pub enum LeaveFailure {
    /// The node or the cluster ended first; so many pages had not been written back.
    Ended(u64),
    /// No home took anything for so long; so many pages had not been written back.
    Stalled(u64, Span),
    /// Everything was given back, and the coordinator did not answer for so long.
    NoConsent(Span),
}

/// A departure under way. No step but the last words has a clock that runs while it gets on.
#[derive(Debug)]
pub struct Leaving {
    op: OpId,
    how: Departing,
    step: Step,
    /// Why the node could not go on, if that came in between.
    why: Option<Why>,
    failure: Option<LeaveFailure>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Pages and locks go back to their homes: `left` steps are missing since `since`.
    WritingBack { left: Option<u64>, since: Time },
    /// All members acknowledge what this node has sent them: pages, among others, that it gave away.
    Draining,
    /// Clients acknowledge their answers.
    Flushing { until: Time },
    /// The coordinator is asked.
    Asked { until: Time },
    /// It has consented, or is not asked: last words arrive.
    Closing { until: Time },
}

impl Lifecycle {
    /// Why the node cannot go on, if it cannot; a node that has left could.
    pub fn why(&self) -> Option<&Why> {
        match self {
            Lifecycle::Joining(_) | Lifecycle::Member => None,
            Lifecycle::Leaving(leaving) => leaving.why.as_ref(),
            Lifecycle::Ended(why) | Lifecycle::Closed(why) => {
                Some(why).filter(|why| !matches!(why, Why::Left))
            }
        }
    }

    /// Whether nothing that a thread waits for will come.
    pub(super) fn is_over(&self) -> bool {
        self.why().is_some() || self.is_closed()
    }

    /// Whether all sessions were ended.
    pub fn is_closed(&self) -> bool {
        matches!(self, Lifecycle::Closed(_))
    }

    /// Whether nothing that happens to the cluster concerns this node any more.
    pub(super) fn is_let_go(&self) -> bool {
        match self {
            Lifecycle::Leaving(leaving) => {
                matches!(leaving.step, Step::Closing { .. }) && leaving.was_let_go()
            }
            Lifecycle::Ended(Why::Left) | Lifecycle::Closed(Why::Left) => true,
            Lifecycle::Joining(_) | Lifecycle::Member | Lifecycle::Ended(_) | Lifecycle::Closed(_) => false,
        }
    }

    /// The operation of a departure under way.
    pub fn leaving_op(&self) -> Option<OpId> {
        match self {
            Lifecycle::Leaving(leaving) => Some(leaving.op),
            Lifecycle::Joining(_) | Lifecycle::Member | Lifecycle::Ended(_) | Lifecycle::Closed(_) => None,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let Lifecycle::Leaving(leaving) = self else { return None };
        match leaving.step {
            Step::WritingBack { since, .. } => Some(since + leaving.stall_max()),
            Step::Draining => None,
            Step::Flushing { until } | Step::Asked { until } | Step::Closing { until } => Some(until),
        }
    }
}

impl Departure {
    fn stall_max(self) -> Span {
        match self {
            Departure::Wish => LEAVE_STALL_MAX,
            Departure::Exit | Departure::Signal => WRITE_BACK_STALL_MAX,
        }
    }

    fn consent_max(self) -> Span {
        match self {
            Departure::Wish => CONSENT_MAX,
            Departure::Exit | Departure::Signal => WRITE_BACK_STALL_MAX,
        }
    }
}

impl Leaving {
    /// Whether the coordinator consented, at the end of the steps.
    fn was_let_go(&self) -> bool {
        self.how.asks && self.failure.is_none() && self.why.is_none()
    }

    fn stall_max(&self) -> Span {
        self.how.by.stall_max()
    }
}

impl Machine {
    pub(super) fn begin_leaving<H: Host>(&mut self, now: Time, op: OpId, how: Departing, host: &mut H) {
        let cores = &mut self.cores;
        let why = match std::mem::replace(&mut cores.lifecycle, Lifecycle::Member) {
            Lifecycle::Ended(why) => Some(why),
            Lifecycle::Joining(_) | Lifecycle::Member => None,
            // A second departure, or one of a node that has gone: nothing is left to do.
            other @ (Lifecycle::Leaving(_) | Lifecycle::Closed(_)) => {
                cores.lifecycle = other;
                return cores.done(op, Outcome::Left(Ok(())));
            }
        };
        let step = if how.writes_back && cores.rules.writes_back() {
            Step::WritingBack { left: None, since: now }
        } else {
            cores.after_write_back(now, how.by)
        };
        cores.lifecycle = Lifecycle::Leaving(Leaving { op, how, step, why, failure: None });
        if matches!(step, Step::WritingBack { .. }) {
            cores.input(now, Input::Leave { op }, host);
        }
    }

    /// Takes the steps of a departure that can be taken now; true if there was one.
    pub(super) fn continue_leaving(&mut self, now: Time) -> bool {
        let mut any = false;
        while let Some(next) = self.next_step(now) {
            any = true;
            let Lifecycle::Leaving(leaving) = &mut self.cores.lifecycle else { return true };
            match next {
                Next::Step(step) => {
                    leaving.step = step;
                    if let Step::Asked { .. } = step {
                        // When the coordinator names others for what this process runs on, it does so no more.
                        self.cores.forget_further();
                        if let Some(membership) = &mut self.cores.membership {
                            membership.leave();
                        }
                    }
                }
                Next::Fail(failure, step) => {
                    leaving.failure.get_or_insert(failure);
                    leaving.step = step;
                }
                Next::End => self.end_leaving(now),
            }
        }
        any
    }

    fn next_step(&self, now: Time) -> Option<Next> {
        let Lifecycle::Leaving(leaving) = &self.cores.lifecycle else { return None };
        let by = leaving.how.by;
        let ended = leaving.why.is_some();
        let asks = leaving.how.asks && leaving.failure.is_none() && !ended;
        match leaving.step {
            Step::WritingBack { left, since } => {
                let after = self.cores.after_write_back(now, by);
                let unsaved = || self.cores.coherence.as_ref().map_or(0, Coherence::unsaved_pages);
                let steps = self.cores.coherence.as_ref().and_then(Coherence::leave_steps);
                if steps.is_none() {
                    Some(Next::Step(after))
                } else if self.cores.is_beyond_saving(leaving) {
                    Some(Next::Fail(LeaveFailure::Ended(unsaved()), after))
                } else if steps != left {
                    Some(Next::Step(Step::WritingBack { left: steps, since: now }))
                } else if now.since(since) >= by.stall_max() {
                    Some(Next::Fail(LeaveFailure::Stalled(unsaved(), by.stall_max()), after))
                } else {
                    None
                }
            }
            Step::Draining => {
                let drained = ended || !self.has_pending_members();
                drained.then_some(Next::Step(Step::Flushing { until: now + FLUSH_MAX }))
            }
            Step::Flushing { until } if now < until && self.has_pending(now) => None,
            Step::Flushing { .. } if asks => Some(Next::Step(Step::Asked { until: now + by.consent_max() })),
            Step::Flushing { .. } => Some(Next::Step(Step::Closing { until: now + FLUSH_MAX })),
            Step::Asked { until } => {
                let closing = Step::Closing { until: now + FLUSH_MAX };
                if ended {
                    Some(Next::Fail(LeaveFailure::Ended(0), closing))
                } else if now >= until {
                    Some(Next::Fail(LeaveFailure::NoConsent(by.consent_max()), closing))
                } else {
                    None
                }
            }
            Step::Closing { until } => (now >= until || !self.has_pending(now)).then_some(Next::End),
        }
    }

    fn end_leaving(&mut self, now: Time) {
        let Lifecycle::Leaving(leaving) = std::mem::replace(&mut self.cores.lifecycle, Lifecycle::Member)
        else {
            return;
        };
        let code = if leaving.was_let_go() { close::DONE } else { close::ENDS };
        let result = match (leaving.failure, &leaving.why) {
            (Some(failure), _) => Err(failure),
            (None, Some(_)) => Err(LeaveFailure::Ended(0)),
            (None, None) => Ok(()),
        };
        self.cores.lifecycle = Lifecycle::Ended(leaving.why.unwrap_or(Why::Left));
        self.cores.done(leaving.op, Outcome::Left(result));
        if leaving.how.by != Departure::Signal {
            self.close_sessions(now, code, "left");
        }
    }

    /// Ends all sessions, and every wait.
    pub(super) fn close_all(&mut self, now: Time, reason: &str) {
        let code = if self.cores.lifecycle.is_let_go() { close::DONE } else { close::ENDS };
        self.close_sessions(now, code, reason);
        // No answer comes any more, and no thread takes one.
        self.cores.calls_end = true;
    }

    fn close_sessions(&mut self, now: Time, code: u16, reason: &str) {
        let cores = &mut self.cores;
        let why = match std::mem::replace(&mut cores.lifecycle, Lifecycle::Member) {
            Lifecycle::Ended(why) | Lifecycle::Closed(why) => why,
            Lifecycle::Leaving(leaving) => {
                cores.done(leaving.op, Outcome::Left(Err(LeaveFailure::Ended(0))));
                leaving.why.unwrap_or(Why::Left)
            }
            Lifecycle::Joining(_) | Lifecycle::Member => Why::Left,
        };
        cores.lifecycle = Lifecycle::Closed(why);
        cores.pending.push_back(Output::Ended { departure: None });
        for session in cores.routes.sessions().collect::<Vec<_>>() {
            self.endpoint.close(now, session, code, reason);
        }
    }

    /// Whether a member has yet to acknowledge something, or a message to one waits.
    pub(crate) fn has_pending_members(&self) -> bool {
        self.cores.routes.members().any(|(node, _)| self.owes(node))
    }

    /// Whether this member has yet to acknowledge something, or a message to it waits.
    pub(super) fn owes(&self, node: NodeId) -> bool {
        let session = self.cores.routes.session(node);
        session.is_some_and(|session| self.is_pending(session)) || self.cores.egress.waiting(node) > 0
    }

    /// Whether a member has yet to acknowledge something, or a client that was heard of lately.
    pub(crate) fn has_pending(&self, now: Time) -> bool {
        let is_here = |session: &SessionHandle| {
            self.endpoint.last_heard(*session).is_some_and(|at| now.since(at) < FLUSH_MAX)
        };
        let routes = &self.cores.routes;
        self.has_pending_members() || routes.clients().filter(is_here).any(|client| self.is_pending(client))
    }

    fn is_pending(&self, session: SessionHandle) -> bool {
        self.endpoint.pending(session).is_some_and(|count| count > 0)
    }
}

/// What a departure does next.
enum Next {
    Step(Step),
    Fail(LeaveFailure, Step),
    End,
}

impl Cores {
    fn after_write_back(&self, now: Time, by: Departure) -> Step {
        let closing = Step::Closing { until: now + FLUSH_MAX };
        match by {
            _ if !self.rules.drains() => closing,
            Departure::Wish | Departure::Exit => Step::Draining,
            // The process has little time: what is not acknowledged then is sent by nobody.
            Departure::Signal => Step::Flushing { until: now + FLUSH_MAX },
        }
    }

    /// Whether no home takes a page any more: the cluster has ended, or this node is out of it. At exit the pages
    /// go back though another rank of the program has died: their homes are in the daemons.
    fn is_beyond_saving(&self, leaving: &Leaving) -> bool {
        match (&leaving.why, leaving.how.by) {
            (None, _) => false,
            (Some(Why::Died { node, .. }), Departure::Exit | Departure::Signal) => {
                let is_rank = |member: &Member| matches!(member.intro.kind, Kind::Rank { .. });
                !self.last_dead(*node).is_some_and(is_rank)
            }
            (Some(_), _) => true,
        }
    }

    /// An operation of the coherence core has ended. That of a departure goes on.
    pub(super) fn on_core_done(&mut self, op: OpId, result: Result<u64, Failure>) {
        if self.lifecycle.leaving_op() != Some(op) {
            self.done(op, Outcome::Coherence(result));
        }
    }

    /// The node cannot go on: everybody who waits is told. The first reason stands.
    pub(super) fn end_with(&mut self, why: Why) {
        if self.lifecycle.is_let_go() {
            return;
        }
        if self.lifecycle.why().is_none() {
            let level = match &why {
                // Who joins is told so, and says it.
                Why::NotJoined(_) | Why::Left => Level::DEBUG,
                Why::Died { .. } | Why::Evicted(_) | Why::Stopped(_) | Why::Broken(_) => Level::ERROR,
            };
            self.note(level, super::describe(&why));
            if let Lifecycle::Leaving(leaving) = &mut self.lifecycle {
                leaving.why = Some(why);
            } else {
                self.lifecycle = Lifecycle::Ended(why);
            }
            self.calls_end = true;
        }
        if self.rules.ends_waits() {
            self.pending.push_back(Output::Ended { departure: self.lifecycle.leaving_op() });
        }
    }

    /// The coordinator knows that this node leaves, or is no more. From here on its end, which may well come
    /// before the thread that leaves has run again, is nothing to tell.
    pub(super) fn let_go(&mut self, now: Time) {
        if let Lifecycle::Leaving(leaving) = &mut self.lifecycle
            && let Step::Asked { .. } = leaving.step
        {
            leaving.step = Step::Closing { until: now + FLUSH_MAX };
        }
    }

    /// Whether this node counts on nothing of the cluster any more.
    pub(super) fn has_asked_to_leave(&self) -> bool {
        let step = match &self.lifecycle {
            Lifecycle::Leaving(leaving) => leaving.step,
            Lifecycle::Closed(_) => return true,
            Lifecycle::Joining(_) | Lifecycle::Member | Lifecycle::Ended(_) => return false,
        };
        matches!(step, Step::Asked { .. } | Step::Closing { .. })
    }

    /// Whether the coordinator was asked to let this node go.
    pub(super) fn asks_to_leave(&self) -> bool {
        matches!(&self.lifecycle, Lifecycle::Leaving(Leaving { step: Step::Asked { .. }, .. }))
    }

    /// The coordinator is no more, and the cluster with it.
    pub(super) fn coordinator_died(&mut self, now: Time, how: String) {
        let view = self.membership.as_ref().map(Membership::view);
        let Some(member) = view.and_then(|view| view.member(COORDINATOR)) else { return };
        let name = format!("{}: {how}", member.describe());
        if self.asks_to_leave() {
            // It has nobody left to let go.
            return self.let_go(now);
        }
        self.end_with(Why::Died { node: COORDINATOR, name });
    }

    pub(super) fn shut_down(&mut self) {
        match &mut self.membership {
            Some(membership) if membership.is_coordinator() => membership.shut_down("the coordinator stops"),
            Some(_) | None => self.end_with(Why::Stopped("asked to stop".into())),
        }
    }

    pub(super) fn join(&mut self, op: OpId) {
        match &mut self.lifecycle {
            Lifecycle::Joining(joining) => *joining = Some(op),
            Lifecycle::Member => self.done(op, Outcome::Membership),
            Lifecycle::Leaving(_) | Lifecycle::Ended(_) | Lifecycle::Closed(_) => {
                self.done(op, Outcome::Membership);
            }
        }
    }

    /// Ends the join when all members have a session and all ranks of the program are there.
    pub(super) fn check_joined(&mut self) {
        let (Lifecycle::Joining(Some(op)), Some(membership)) = (&self.lifecycle, &mut self.membership) else {
            return;
        };
        let op = *op;
        let Some(me) = membership.me() else { return };
        let has_session = |node| node == me || self.routes.session(node).is_some();
        let connected = membership.view().running().all(|member| has_session(member.id));
        if !connected {
            return;
        }
        membership.met();
        let view = membership.view();
        if let Kind::Rank { program, ranks, .. } = self.intro.kind {
            if view.ranks(program).count() != ranks as usize {
                return;
            }
            let ranked = view
                .ranks(program)
                .filter_map(|member| Some((member.intro.kind.rank()?, PeerId::from(member))));
            let mut ranked: Vec<(u32, PeerId)> = ranked.collect();
            ranked.sort_unstable_by_key(|&(rank, _)| rank);
            self.ranks_in_order = ranked.into_iter().map(|(_, peer)| peer).collect();
            self.ranks = self.ranks_in_order.iter().map(|peer| peer.node).collect::<NodeSet>();
        }
        self.lifecycle = Lifecycle::Member;
        self.done(op, Outcome::Membership);
    }
}
