//! Leaving: everything is written back, then every home that was ever asked forgets this node.

use std::collections::VecDeque;

use super::{Cache, Leaving, State};
use crate::coherence::message::ToHome;
use crate::coherence::placement::Places;
use crate::coherence::plant::Plant;
use crate::coherence::{Context, NodeSet, OpId};
use crate::config::NODES_MAX;
use crate::config::coherence::LEAVE_WRITE_BACKS_MAX;
use crate::page::{Access, Memory, NodeId, PageId};

impl Cache {
    pub(in crate::coherence) fn start_leaving(&mut self, op: OpId) {
        assert!(self.leaving.is_none(), "a node leaves once");
        self.departs = true;
        self.leaving = Some(Leaving { op, pages: None, awaited: None });
    }

    /// See [`crate::coherence::Coherence::leave_steps`].
    pub(in crate::coherence) fn leave_steps(&self) -> Option<u64> {
        let leaving = self.leaving.as_ref()?;
        let pages = leaving.pages.as_ref().map_or(0, VecDeque::len);
        let homes = leaving.awaited.map_or(NODES_MAX, |awaited| awaited.iter().count());
        Some((pages + self.writing_back + self.pending.len() + self.held_up.len() + homes) as u64)
    }

    /// See [`crate::coherence::Coherence::unsaved_pages`].
    pub(in crate::coherence) fn unsaved_pages(&self, places: &Places, me: NodeId) -> u64 {
        let unsaved = |page: &PageId| {
            let state = self.table.peek(*page).map(|entry| entry.state);
            let newest = matches!(state, Some(State::Modified | State::WritingBack));
            newest && places.home(*page) != Some(me)
        };
        self.table.pages().iter().filter(|page| unsaved(page)).count() as u64
    }

    pub(in crate::coherence) fn continue_leaving<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        places: &Places,
        locks_returned: bool,
    ) {
        let Some(mut leaving) = self.leaving.take() else { return };
        let pages = leaving.pages.get_or_insert_with(|| self.table.pages().into());
        while self.writing_back < LEAVE_WRITE_BACKS_MAX {
            let Some(page) = pages.pop_front() else { break };
            if self.pending.contains_key(&page) && self.access(page) != Access::None {
                // An upgrade is under way; come back when it is answered.
                pages.push_back(page);
                break;
            }
            self.evict(ctx, places, page);
        }
        let drained = pages.is_empty() && self.is_idle();
        // A page that an outstanding request brought in after its turn.
        if drained && leaving.awaited.is_none() && locks_returned {
            let left_over: VecDeque<PageId> = self.table.pages().into_iter().collect();
            let owned = |page: &PageId| {
                let is_bound = self.table.peek(*page).is_some_and(|entry| entry.bound);
                (self.access(*page) != Access::None || is_bound)
                    && places.home(*page) != Some(ctx.me)
                    && places.orphaned_by(*page).is_none()
            };
            let left_over: VecDeque<PageId> = left_over.into_iter().filter(owned).collect();
            if !left_over.is_empty() {
                leaving.pages = Some(left_over);
                self.leaving = Some(leaving);
                return self.continue_leaving(ctx, places, locks_returned);
            }
            let homes = self.homes_used.without(ctx.me);
            for home in homes.iter() {
                ctx.send(home, ToHome::Leave);
            }
            leaving.awaited = Some(homes);
        }
        let acknowledged = leaving.awaited.is_some_and(NodeSet::is_empty)
            || (leaving.awaited.is_some() && ctx.planted.has(Plant::NodeLeavesWithoutAck));
        if acknowledged {
            ctx.outbox.done(leaving.op, Ok(0));
        } else {
            self.leaving = Some(leaving);
        }
    }
}
