//! The one way out: messages of the coherence core go in batches, and what finds no session or no room in a
//! send queue waits here.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::{CoreOutput, Machine, Rules, Send, channel};
use crate::coherence::{BATCH_MESSAGES_MAX, Coherence, encode_batch_head};
use crate::config::node::BATCH_PAGES_MAX;
use crate::membership::Membership;
use crate::net::{Endpoint, OutMessage, Priority, SessionHandle};
use crate::page::{NodeId, Time};

/// Messages to members whose session has not come yet, or whose queue is full. What the cores say answers a
/// request or makes one, and those are bounded; so is what waits here.
#[derive(Default)]
pub(super) struct Egress {
    waiting: FxHashMap<NodeId, VecDeque<(OutMessage, Priority)>>,
}

/// How much the coherence core has put out.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Outputs {
    pub(super) sent: u64,
    pub(super) done: u64,
    /// Of what was sent, what answered the member that had just asked.
    pub(super) answers: u64,
    pub(super) asker: Option<NodeId>,
}

impl Outputs {
    /// A message went out: an answer if it went to the asker, or is the page that was asked for.
    pub(super) fn count_answer(&mut self, to: NodeId, carries_page: bool) {
        let is_answer = self.asker.is_some_and(|asker| asker == to || carries_page);
        self.answers += u64::from(is_answer);
    }

    /// Whether a peer was answered since, and no thread of this node. A peer that is only put in a queue, or
    /// referred to another node, will not ask for more at once.
    pub fn served_since(&self, before: &Outputs) -> bool {
        self.answers > before.answers && self.done == before.done
    }

    /// Whether anything was put out since.
    pub fn moved_since(&self, before: &Outputs) -> bool {
        (self.sent, self.done) != (before.sent, before.done)
    }
}

impl Egress {
    /// Sends to a member by its session, or keeps the message until it has one with room.
    pub(super) fn send(
        &mut self,
        now: Time,
        (endpoint, session): (&mut Endpoint, Option<SessionHandle>),
        to: NodeId,
        (message, priority): (OutMessage, Priority),
        rules: Rules,
    ) {
        let waits = self.waiting.get(&to).is_some_and(|waiting| !waiting.is_empty());
        match session {
            Some(session) if !waits && endpoint.has_room(session, &message, priority) => {
                // Closed: the event that says so is on its way.
                let _ = endpoint.send(now, session, message, priority);
            }
            Some(_) if !rules.keeps_messages_without_room() => {}
            Some(_) | None => self.waiting.entry(to).or_default().push_back((message, priority)),
        }
    }

    /// Sends what waited for room or for a session; true if there was anything.
    pub(super) fn send_waiting(
        &mut self,
        now: Time,
        endpoint: &mut Endpoint,
        session_of: impl Fn(NodeId) -> Option<SessionHandle>,
    ) -> bool {
        let mut any = false;
        if self.waiting.is_empty() {
            return any;
        }
        for (&node, waiting) in &mut self.waiting {
            let Some(session) = session_of(node) else { continue };
            while let Some((message, priority)) = waiting.front()
                && endpoint.has_room(session, message, *priority)
                && let Some((message, priority)) = waiting.pop_front()
            {
                let _ = endpoint.send(now, session, message, priority);
                any = true;
            }
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
        any
    }

    /// Messages that wait for a member's session, or for room in its queue.
    pub(super) fn waiting(&self, node: NodeId) -> usize {
        self.waiting.get(&node).map_or(0, VecDeque::len)
    }

    /// The most messages that wait for one member.
    pub(super) fn longest(&self) -> usize {
        self.waiting.values().map(VecDeque::len).max().unwrap_or(0)
    }

    /// A member is gone: the next one in its slot must not get its messages.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.waiting.remove(&node);
    }
}

impl Machine {
    /// Sends what the coherence core has put out, in batches; true if there was something.
    pub(super) fn send_outputs(&mut self, now: Time) -> bool {
        let has_runners = self.cores.membership.as_ref().is_some_and(|m| !m.view().runners.is_empty());
        // Kept from call to call for its memory.
        let mut sends = std::mem::take(&mut self.sends);
        let mut any = false;
        while let Some(output) = self.cores.coherence.as_mut().and_then(Coherence::poll_output) {
            any = true;
            match output {
                CoreOutput::Send { to, message, page } if has_runners && self.cores.is_run_on(to) => {
                    self.cores.outputs.sent += 1;
                    self.cores.carry(to, message, page);
                }
                CoreOutput::Send { to, message, page } => {
                    self.cores.outputs.sent += 1;
                    self.cores.outputs.count_answer(to, page.is_some());
                    if let Some(notice) = self.cores.notice_of_loss(&message) {
                        self.send(now, to, notice, Priority::Control);
                    }
                    sends.push((to, message, page));
                }
                CoreOutput::Done { op, result } => {
                    self.cores.outputs.done += 1;
                    self.cores.on_core_done(op, result);
                }
            }
        }
        while let Some(&(to, ..)) = sends.first() {
            let batch = self.take_batch(&[channel::COHERENCE], to, &mut sends);
            let priority = if batch.pages.is_empty() { Priority::Control } else { Priority::Bulk };
            self.send(now, to, batch, priority);
        }
        self.sends = sends;
        any
    }

    /// Takes what goes to `to` with the next batch, behind that head.
    pub(super) fn take_batch(&self, head: &[u8], to: NodeId, sends: &mut Vec<Send>) -> OutMessage {
        let rules = self.cores.rules;
        let (mut count, mut pages) = (0, 0);
        let mut fits = |(node, _, page): &Send| {
            let carried = usize::from(page.is_some());
            let fits = *node == to && count < BATCH_MESSAGES_MAX && pages + carried <= BATCH_PAGES_MAX;
            if fits {
                (count, pages) = (count + 1, pages + carried);
            }
            fits
        };
        let chosen: SmallVec<[bool; 256]> = sends.iter().map(&mut fits).collect();
        let mut out = OutMessage::default();
        out.head.extend_from_slice(head);
        let epoch = self.cores.membership.as_ref().map_or_else(Default::default, |m| m.view().epoch);
        encode_batch_head(&mut out.head, epoch, count);
        let mut chosen = chosen.into_iter();
        sends.retain_mut(|(_, message, page)| {
            let goes = chosen.next() == Some(true);
            if goes {
                message.encode(&mut out.head);
                out.pages.extend(page.take());
            }
            !goes
        });
        if !rules.keeps_pages_in_order() {
            out.pages.reverse();
        }
        out
    }

    pub(super) fn send(&mut self, now: Time, to: NodeId, message: OutMessage, priority: Priority) {
        let view = self.cores.membership.as_ref().map(Membership::view);
        if view.is_some_and(|view| view.runner(to).is_some()) {
            // It has no process of its own: of what was for that, nothing is for another one.
            return;
        }
        let is_member = view.is_some_and(|view| view.member(to).is_some());
        let session = self.cores.routes.session(to);
        if !is_member && session.is_none() && self.cores.rules.forgets_messages_of_the_departed() {
            // It has gone, and whoever gets its slot next must not get its messages.
            return;
        }
        let rules = self.cores.rules;
        self.cores.egress.send(now, (&mut self.endpoint, session), to, (message, priority), rules);
    }

    /// Sends what waited for a session or for room; true if there was anything.
    pub(super) fn send_waiting(&mut self, now: Time) -> bool {
        let routes = &self.cores.routes;
        self.cores.egress.send_waiting(now, &mut self.endpoint, |node| routes.session(node))
    }
}
