//! Giving pages up: readers' copies are dropped without a message, owned pages go back to their homes, and of
//! what this node wrote last the home is asked whether it may go. On demand, and when the node's memory is full,
//! in the order of [`super::super::resident`]'s clock.

use smallvec::SmallVec;

use super::{Cache, Entry, Place, Request, State};
use crate::coherence::instruction::{ANY_AGE, Age};
use crate::coherence::message::{Body, ToHome, Version};
use crate::coherence::placement::Places;
use crate::coherence::plant::Plant;
use crate::coherence::{Context, Occupancy};
use crate::config::coherence::{RECLAIM_PAGES_MAX, SHARED_FIRST_EXTENTS, SWEEP_EXTENTS_MAX, WRITE_BACKS_MAX};
use crate::page::{Access, Memory, PageId};

/// What the hand of the clock does with a page.
enum Verdict {
    /// Nothing: it is asked for, or held.
    Stays,
    /// Takes it from the application's view.
    Ages,
    /// Gives its memory back.
    Drops,
    /// Writes it back, or asks the home whether it may go, if nothing can be dropped without that.
    Returns,
}

impl Cache {
    /// Drops a reader's copy silently, starts to write an owned page back, or asks whether a page may go.
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
        let Some(&Entry { state, bound, .. }) = self.table.peek(page) else { return };
        let lets_go = ctx.planted.has(Plant::NodeDropsLastWritersCopySilently);
        match state {
            State::Modified => self.write_back(ctx, places, page),
            State::Shared if bound && lets_go => self.drop_page(ctx, page),
            State::Invalid | State::Shared if bound => self.ask_to_drop(ctx, places, page),
            State::Shared => self.drop_page(ctx, page),
            State::Invalid | State::WritingBack | State::GivenAway | State::Dropping => {}
        }
    }

    fn drop_page<M: Memory>(&mut self, ctx: &mut Context<'_, M>, page: PageId) {
        self.lower(ctx.memory, page, Access::None);
        self.give_memory_back(ctx, page);
        ctx.counters.evictions += 1;
    }

    fn give_memory_back<M: Memory>(&mut self, ctx: &mut Context<'_, M>, page: PageId) {
        *self.table.entry(page) = Entry::default();
        ctx.memory.discard(page);
        self.resident.vacate(page);
    }

    /// The home is given the bytes; they stay in place until it has stored them.
    fn write_back<M: Memory>(&mut self, ctx: &mut Context<'_, M>, places: &Places, page: PageId) {
        let Some(home) = places.home(page) else { return };
        let entry = self.table.entry(page);
        entry.state = State::WritingBack;
        let version = entry.version;
        // Unmap before reading: no store may land after.
        self.lower(ctx.memory, page, Access::None);
        let bytes = ctx.memory.read(page);
        if ctx.planted.has(Plant::NodeForgetsWrittenBackBytes) {
            ctx.memory.discard(page);
        }
        self.begin_return();
        ctx.counters.write_backs += 1;
        ctx.counters.pages_sent += 1;
        ctx.outbox.send_page(home, ToHome::WriteBack { page, version, body: Body::Page }, bytes);
    }

    /// The home is asked whether the bytes, which this node wrote last, are elsewhere by now.
    fn ask_to_drop<M: Memory>(&mut self, ctx: &mut Context<'_, M>, places: &Places, page: PageId) {
        let Some(home) = places.home(page) else { return };
        self.lower(ctx.memory, page, Access::None);
        let entry = self.table.entry(page);
        entry.state = State::Dropping;
        let version = entry.version;
        self.begin_return();
        ctx.counters.evictions += 1;
        ctx.send(home, ToHome::Drop { page, version });
    }

    fn begin_return(&mut self) {
        self.writing_back += 1;
        self.resident.begin_return();
    }

    /// A page that was on its way out is so no longer; true if it was. Its bytes are still here.
    pub(super) fn end_return(&mut self, page: PageId) -> bool {
        let Some(state) = self.table.peek(page).map(|entry| entry.state) else { return false };
        if state.awaits_ack() {
            self.table.entry(page).state = State::Invalid;
            self.writing_back -= 1;
            self.resident.end_return();
        }
        state.awaits_ack()
    }

    pub(super) fn on_write_back_ack<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        places: &Places,
        page: PageId,
        version: Version,
    ) {
        let known = self.table.entry(page).version;
        let same = known == version || ctx.planted.has(Plant::NodeIgnoresWriteBackAckVersion);
        if !same || !self.end_return(page) {
            ctx.counters.stale_messages += 1;
            return;
        }
        self.give_memory_back(ctx, page);
        self.advance(ctx, places, page);
    }

    pub(in crate::coherence) fn occupancy(&self) -> Occupancy {
        self.resident.occupancy()
    }
}

/// Room.
impl Cache {
    /// Whether a page that is asked for now must wait for a place.
    pub(super) fn must_wait<M: Memory>(&self, ctx: &Context<'_, M>) -> bool {
        let full = self.resident.room() == 0 || self.resident.is_crowded();
        full && !ctx.planted.has(Plant::NodeAsksWithoutRoom)
    }

    pub(super) fn wait_for_room<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        page: PageId,
        access: Access,
    ) {
        let pending = self.pending.entry(page).or_default();
        if pending.waiters.is_empty() {
            // A prefetch: nobody waits for it.
            self.pending.remove(&page);
            return;
        }
        ctx.counters.room_waited_for += 1;
        pending.request = Some(Request { req: None, access, hurried: false, place: Place::Awaited });
        self.let_go_while_waiting(ctx, page);
        self.resident.enqueue(page, ctx.now);
    }

    /// Threads that wait for room keep nothing from others: that could be what makes room.
    pub(super) fn let_go_while_waiting<M: Memory>(&mut self, ctx: &Context<'_, M>, page: PageId) {
        let Some(pending) = self.pending.get(&page) else { return };
        if !ctx.planted.has(Plant::NodeHoldsWhileItWaitsForRoom) {
            pending.waiters.iter().for_each(|waiter| self.instructions.awaits(waiter.thread, None));
        }
    }

    /// Finds room where it is short, and gives it to who waits for it, first come, first served.
    pub(in crate::coherence) fn make_room<M: Memory>(&mut self, ctx: &mut Context<'_, M>, places: &Places) {
        if !self.resident.is_due(ctx.now) {
            return;
        }
        if self.resident.poll_timeout().is_some_and(|due| due <= ctx.now) {
            let found = self.reclaim(ctx, places);
            self.resident.swept(ctx.now, found);
        }
        while let Some(page) = self.resident.admit() {
            let Some(pending) = self.pending.get(&page) else { continue };
            let waits = pending.request.is_some_and(|request| request.place == Place::Awaited);
            let (Some(home), true) = (places.home(page), waits) else { continue };
            let access = pending.waiters.iter().map(|waiter| waiter.access).max().unwrap_or(Access::Read);
            for waiter in &pending.waiters {
                self.instructions.awaits(waiter.thread, Some(page));
            }
            if !ctx.planted.has(Plant::NodeForgetsWhoWaits) {
                self.ask(ctx, home, page, (access, Place::Reserved));
            }
        }
    }

    /// Turns the hand until enough pages go. Gives how many will.
    fn reclaim<M: Memory>(&mut self, ctx: &mut Context<'_, M>, places: &Places) -> u64 {
        let wanted = self.resident.shortage().min(RECLAIM_PAGES_MAX);
        let (mut found, mut owned) = (0, SmallVec::<[PageId; 64]>::new());
        let oldest = self.oldest_without_room().unwrap_or(ANY_AGE);
        // Who waits must not wait for another round: what the first one ages, the second one takes.
        let rounds = if self.resident.is_crowded() { 2 } else { 1 };
        let extents = (rounds * self.resident.round()).min(SWEEP_EXTENTS_MAX);
        for passed in 0..extents {
            if found >= wanted || (owned.len() as u64 >= wanted && passed >= SHARED_FIRST_EXTENTS) {
                break;
            }
            let Some(turn) = self.resident.turn() else { break };
            for (page, aged) in turn.pages() {
                match self.judge(ctx, places, (page, oldest), aged) {
                    Verdict::Drops if found < wanted => {
                        self.drop_page(ctx, page);
                        found += 1;
                    }
                    Verdict::Ages => {
                        self.lower(ctx.memory, page, Access::None);
                        self.resident.age(page);
                    }
                    Verdict::Returns if (owned.len() as u64) < wanted && !owned.contains(&page) => {
                        owned.push(page);
                    }
                    Verdict::Stays | Verdict::Drops | Verdict::Returns => {}
                }
            }
        }
        let free = (wanted - found).min(WRITE_BACKS_MAX.saturating_sub(self.writing_back) as u64);
        for page in owned.into_iter().take(free as usize) {
            match self.table.entry(page).state {
                State::Modified => self.write_back(ctx, places, page),
                State::Invalid | State::Shared => self.ask_to_drop(ctx, places, page),
                State::WritingBack | State::GivenAway | State::Dropping => {
                    unreachable!("it is not given back twice")
                }
            }
            found += 1;
        }
        found
    }

    /// The age of the oldest instruction that waits for room.
    fn oldest_without_room(&self) -> Option<Age> {
        let waiters = self.resident.crowd().filter_map(|page| self.pending.get(&page));
        let threads = waiters.flat_map(|pending| pending.waiters.iter().map(|waiter| waiter.thread));
        threads.filter_map(|thread| self.instructions.age(thread)).min()
    }

    /// Whether a page stays, ages, is dropped or goes back to its home, if an instruction of that age waits for room.
    fn judge<M: Memory>(
        &self,
        ctx: &Context<'_, M>,
        places: &Places,
        (page, oldest): (PageId, Age),
        aged: bool,
    ) -> Verdict {
        let outstanding = self.pending.contains_key(&page) && !ctx.planted.has(Plant::NodeDoesNotPinUpgrade);
        let held = self.held_until(page, oldest) > ctx.now && !ctx.planted.has(Plant::NodeEvictsHeldPage);
        if outstanding || held {
            return Verdict::Stays;
        }
        let Some(&Entry { state, bound, .. }) = self.table.peek(page) else { return Verdict::Drops };
        let lets_go = ctx.planted.has(Plant::NodeDropsLastWritersCopySilently);
        match state {
            State::Shared | State::Modified if !aged => Verdict::Ages,
            // Its home is dead: nobody else can ever ask for it.
            State::Invalid | State::Shared | State::Modified if places.orphaned_by(page).is_some() => {
                Verdict::Drops
            }
            State::Modified if ctx.planted.has(Plant::NodeDropsOwnedPage) => Verdict::Drops,
            State::Modified => Verdict::Returns,
            State::Shared if bound && lets_go => Verdict::Drops,
            State::Invalid | State::Shared if bound => Verdict::Returns,
            State::Invalid | State::Shared => Verdict::Drops,
            State::WritingBack | State::GivenAway | State::Dropping => Verdict::Stays,
        }
    }
}
