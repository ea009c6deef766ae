//! A round at the requester's side: what was asked is unsent, what is here is reported, and asked again.

use super::{Cache, Place, State};
use crate::coherence::fingerprint::sorted_keys;
use crate::coherence::message::{Body, Held, ToHome, Version};
use crate::coherence::placement::Places;
use crate::coherence::plant::Plant;
use crate::coherence::round::Reports;
use crate::coherence::{Context, Failure, NodeSet};
use crate::page::{Access, Memory, NodeId, PageId};

impl Cache {
    /// Reports every page that has bytes here; each stays until its home says that the bytes are elsewhere. Fails
    /// what only a dead home could have answered.
    pub(in crate::coherence) fn begin_round<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        places: &Places,
        died: NodeSet,
        reports: &mut Reports,
    ) {
        self.held_up.clear();
        self.locating.clear();
        for dead in died.iter() {
            self.homes_used.remove(dead);
        }
        if let Some(leaving) = &mut self.leaving {
            // What it has dropped stays dropped; what it was writing back is here again.
            (leaving.pages, leaving.awaited) = (None, None);
        }
        for page in self.table.pages() {
            // A page on its way out is here as before: nobody has acknowledged that it may go.
            self.end_return(page);
            let entry = self.table.entry(page);
            let state = match entry.state {
                State::Modified => Held::Modified,
                State::Shared => Held::Shared,
                State::Invalid | State::WritingBack | State::GivenAway | State::Dropping => Held::Bytes,
            };
            let has_bytes = entry.version > Version::default();
            if !has_bytes && state == Held::Bytes {
                continue;
            }
            let hides = ctx.planted.has(Plant::NodeDoesNotReportWhatItGave) && state == Held::Bytes;
            let Some(home) = places.home(page).filter(|&home| !places.is_dead(home) && !hides) else {
                continue;
            };
            if has_bytes && !ctx.planted.has(Plant::NodeDoesNotBindWhatItReported) {
                entry.bound = true;
            }
            reports.page(home, page, state, entry.version);
        }
        for page in sorted_keys(&self.pending) {
            if let Some(dead) = places.orphaned_by(page) {
                self.fail(ctx, page, Failure::NodeDied(dead));
            }
        }
    }

    /// Sends all requests again, under new numbers; who waits goes on waiting.
    pub(in crate::coherence) fn ask_again<M: Memory>(&mut self, ctx: &mut Context<'_, M>, places: &Places) {
        if ctx.planted.has(Plant::NodeDoesNotRepeatRequests) {
            return;
        }
        for page in sorted_keys(&self.pending) {
            let Some(pending) = self.pending.get_mut(&page) else { continue };
            let Some(request) = pending.request.filter(|request| request.place != Place::Awaited) else {
                // Its write-back or its drop was under way.
                self.advance(ctx, places, page);
                continue;
            };
            match (request.req, places.home(page)) {
                (Some(_), Some(home)) => {
                    self.send_request(ctx, home, page, (request.access, request.place));
                }
                (None, _) | (_, None) => self.request(ctx, places, page, request.access),
            }
        }
    }

    /// After a round the home has an older version, and somebody asks for the page. It is bound: it is here.
    pub(super) fn on_fetch<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        home: NodeId,
        page: PageId,
        version: Version,
    ) {
        let entry = self.table.entry(page);
        if version == Version::default() || entry.version != version || entry.access() == Access::Write {
            ctx.counters.stale_messages += 1;
            return;
        }
        let bytes = ctx.memory.read(page);
        ctx.counters.pages_sent += 1;
        ctx.outbox.send_page(home, ToHome::Copy { page, version, body: Body::Page }, bytes);
    }
}
