//! What a core has to say: outputs for the caller, messages of this node to itself, and messages that wait for
//! another one to ride on.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::message::Message;
use super::{Failure, OpId, Output};
use crate::config::coherence::LAZY_MESSAGES_MAX;
use crate::page::{NodeId, PageBuf, Time};

/// Outputs for the caller, and messages of this node to itself.
#[derive(Clone, Default)]
pub(super) struct Outbox {
    pub(super) outputs: VecDeque<Output>,
    pub(super) local: VecDeque<Message>,
    /// Messages that nobody waits for yet: each rides on the next message to the same node, or goes
    /// when it is due or asked for.
    pub(super) lazy: SmallVec<[(NodeId, Message, Time); 4]>,
}

impl Outbox {
    /// Forgets messages of a round that is over, those about barriers excepted.
    pub(super) fn void(&mut self) {
        let counts = |message: &Message| matches!(message, Message::Barrier(_));
        self.outputs.retain(|output| match output {
            Output::Send { message, .. } => counts(message),
            Output::Done { .. } => true,
        });
        self.local.retain(counts);
        self.lazy.clear();
    }

    /// A message without a page.
    pub(super) fn send(&mut self, me: NodeId, to: NodeId, message: impl Into<Message>) {
        let message = message.into();
        debug_assert!(!message.carries_page());
        if to == me {
            self.local.push_back(message);
        } else {
            self.send_lazy(to);
            self.outputs.push_back(Output::Send { to, message, page: None });
        }
    }

    /// A message that may wait until `due` for something to ride on.
    pub(super) fn send_later(&mut self, me: NodeId, to: NodeId, message: impl Into<Message>, due: Time) {
        if to == me || self.lazy.len() >= LAZY_MESSAGES_MAX {
            self.send(me, to, message);
        } else {
            self.lazy.push((to, message.into(), due));
        }
    }

    /// Sends what waits for an occasion to be sent to `to`.
    pub(super) fn send_lazy(&mut self, to: NodeId) {
        let outputs = &mut self.outputs;
        self.lazy.retain(|&mut (node, message, _)| {
            if node == to {
                outputs.push_back(Output::Send { to, message, page: None });
            }
            node != to
        });
    }

    /// Sends what has waited long enough.
    pub(super) fn send_due(&mut self, now: Time) {
        while let Some(&(to, _, _)) = self.lazy.iter().find(|&&(_, _, due)| due <= now) {
            self.send_lazy(to);
        }
    }

    /// A message to another node with the page that it carries.
    pub(super) fn send_page(&mut self, to: NodeId, message: impl Into<Message>, page: PageBuf) {
        let message = message.into();
        debug_assert!(message.carries_page());
        self.send_lazy(to);
        self.outputs.push_back(Output::Send { to, message, page: Some(page) });
    }

    pub(super) fn done(&mut self, op: OpId, result: Result<u64, Failure>) {
        self.outputs.push_back(Output::Done { op, result });
    }
}
