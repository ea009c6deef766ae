//! Giving pages up: shared copies are dropped without a word, owned pages go back to their homes.

use super::{Cache, State};
use crate::coherence::Context;
use crate::coherence::message::{Body, ToHome, Version};
use crate::coherence::placement::Places;
use crate::coherence::plant::Plant;
use crate::page::{Access, Memory, PageId};

impl Cache {
    /// Drops a shared copy silently, or starts to write an owned page back.
    pub(in crate::coherence) fn evict<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        places: &Places,
        page: PageId,
    ) {
        // At home the bytes are the home's; with a dead home there is nowhere to write them back.
        let stays = places.home(page) == Some(ctx.me) || places.orphaned_by(page).is_some();
        let stays =
            stays && !(ctx.planted.has(Plant::HomePunchesItsPage) && self.access(page) == Access::Read);
        let outstanding = self.pending.contains_key(&page) && !ctx.planted.has(Plant::NodeDoesNotPinUpgrade);
        // A copy that an upgrade has named stays until the answer: the home may grant without bytes.
        if stays || outstanding || self.is_held(page, ctx.now) {
            return;
        }
        match self.table.peek(page).map_or(State::Invalid, |entry| entry.state) {
            State::Invalid | State::WritingBack | State::GivenAway => {}
            State::Shared => {
                self.table.entry(page).state = State::Invalid;
                self.lower(ctx.memory, page, Access::None);
                ctx.memory.discard(page);
                ctx.counters.evictions += 1;
            }
            State::Modified => self.write_back(ctx, places, page),
        }
    }

    fn write_back<M: Memory>(&mut self, ctx: &mut Context<'_, M>, places: &Places, page: PageId) {
        let Some(home) = places.home(page) else { return };
        let entry = self.table.entry(page);
        entry.state = State::WritingBack;
        let version = entry.version;
        // Unmap before reading: no store may land after.
        self.lower(ctx.memory, page, Access::None);
        let bytes = ctx.memory.read(page);
        ctx.memory.discard(page);
        if !ctx.planted.has(Plant::NodeForgetsWrittenBackBytes) {
            self.pending.entry(page).or_default().retained = Some(bytes.clone());
        }
        self.writing_back += 1;
        ctx.counters.write_backs += 1;
        ctx.counters.pages_sent += 1;
        ctx.outbox.send_page(home, ToHome::WriteBack { page, version, body: Body::Page }, bytes);
    }

    pub(super) fn on_write_back_ack<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        places: &Places,
        page: PageId,
        version: Version,
    ) {
        let entry = self.table.entry(page);
        let awaited = matches!(entry.state, State::WritingBack | State::GivenAway);
        let same = entry.version == version || ctx.planted.has(Plant::NodeIgnoresWriteBackAckVersion);
        if !awaited || !same {
            ctx.counters.stale_messages += 1;
            return;
        }
        entry.state = State::Invalid;
        self.writing_back -= 1;
        self.pending.entry(page).or_default().retained = None;
        self.advance(ctx, places, page);
    }
}
