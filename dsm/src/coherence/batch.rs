//! A batch: its messages one by one, so ordered that neighbours are mapped and unmapped together.
//!
//! One system call lowers or maps a run of neighbours in little more time than one page. Nothing depends
//! on this: a mapping may always be less than the protocol allows, each message still lowers what it
//! must, and the network has no order that could be broken.

use smallvec::SmallVec;

use super::message::{Batch, Message, ToHome, ToNode};
use super::{Coherence, Input};
use crate::page::{Access, LockWords, Memory, NodeId, PageId, Time};

/// Neighbouring pages of one region that are downgraded to one access.
#[derive(Clone, Copy)]
struct Run {
    first: PageId,
    pages: u64,
    access: Access,
}

impl Coherence {
    /// Takes the messages of a batch as [`Coherence::handle`] takes each. Pages that nobody waits for
    /// come first: those that somebody waits for are then mapped together with them.
    pub fn handle_batch<M: Memory + LockWords>(
        &mut self,
        now: Time,
        from: NodeId,
        batch: &Batch<'_>,
        memory: &mut M,
    ) {
        if !self.round.voids(batch.epoch) {
            self.lower_runs(now, from, batch, memory);
        }
        let awaited = |core: &Self, message: &Message| match *message {
            Message::ToNode(ToNode::Data { page, .. }) => core.cache.is_awaited(page),
            Message::ToHome(_)
            | Message::ToNode(_)
            | Message::Lock(_)
            | Message::Barrier(_)
            | Message::Report(_) => false,
        };
        let mut last: SmallVec<[(Message, &[u8]); 2]> = SmallVec::new();
        for (message, page) in batch.iter() {
            if awaited(self, &message) {
                last.push((message, page));
            } else {
                self.handle(now, Input::Message { from, epoch: batch.epoch, message, page }, memory);
            }
        }
        for (message, page) in last {
            self.handle(now, Input::Message { from, epoch: batch.epoch, message, page }, memory);
        }
    }

    fn lower_runs<M: Memory>(&mut self, now: Time, from: NodeId, batch: &Batch<'_>, memory: &mut M) {
        let mut runs: SmallVec<[Run; 4]> = SmallVec::new();
        for (message, _) in batch.iter() {
            let Some((page, access)) = self.takes_away(from, &message) else { continue };
            let begins_region = || self.places.region(page).is_none_or(|region| region.start == page);
            match runs.last_mut() {
                Some(run)
                    if run.access == access && run.first.0 + run.pages == page.0 && !begins_region() =>
                {
                    run.pages += 1;
                }
                _ => runs.push(Run { first: page, pages: 1, access }),
            }
        }
        for run in runs.iter().filter(|run| run.pages > 1) {
            self.cache.lower_run(now, memory, (run.first, run.pages), run.access);
        }
    }

    /// To what a message will lower a page that is mapped here, as far as can be told before.
    fn takes_away(&self, from: NodeId, message: &Message) -> Option<(PageId, Access)> {
        let here = |page| self.directory.entry(page).is_some_and(|(owner, _, _)| owner == Some(self.me));
        let shared = |page| self.directory.entry(page).is_some_and(|(_, set, _)| set.contains(self.me));
        match *message {
            Message::ToHome(ToHome::GetS { page, .. }) if from != self.me && here(page) => {
                Some((page, Access::Read))
            }
            Message::ToHome(ToHome::GetM { page, .. }) if from != self.me && (here(page) || shared(page)) => {
                Some((page, Access::None))
            }
            Message::ToNode(ToNode::Inv { page, txn })
                if self.cache.copy_version(page).is_some_and(|version| version < txn) =>
            {
                Some((page, Access::None))
            }
            Message::ToNode(ToNode::Forward { page, version, access, .. })
                if self.cache.copy_version(page) == Some(version) =>
            {
                Some((page, if access == Access::Write { Access::None } else { Access::Read }))
            }
            Message::ToHome(_)
            | Message::ToNode(_)
            | Message::Lock(_)
            | Message::Barrier(_)
            | Message::Report(_) => None,
        }
        .filter(|&(page, access)| self.cache.mapped(page) > access)
    }
}
