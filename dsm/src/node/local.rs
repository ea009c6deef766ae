//! What a node's coherence core may touch here: the pages of the arena, and the words of lent locks, by which
//! the node's threads take them.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::Node;
use super::lock_word::{Holder, LockWord};
use super::run_on::{KeptMemory, RunOn};
use crate::coherence::LockId;
use crate::fault::Arena;
use crate::machine::Host;
use crate::page::{
    Access, Contents, Epoch, ExtentId, Lent, LockWords, Memory, NodeId, PageBuf, PageId, PeerId, Time,
    Version,
};

/// A lock, as the threads of one node know it. Of use only to the node that made it.
#[derive(Debug)]
pub struct LockHandle {
    pub(super) lock: LockId,
    local: Arc<LocalLock>,
}

/// What all handles of a lock share on one node.
#[derive(Debug, Default)]
struct LocalLock {
    word: LockWord,
    holder: Holder,
}

impl LockHandle {
    /// Takes the lock by its word; `None` if the core must be asked.
    pub(super) fn try_take(&self, now: Time) -> Option<u64> {
        let token = self.local.word.try_take()?;
        self.taken(now);
        Some(token)
    }

    /// This thread has got the lock.
    pub(super) fn taken(&self, now: Time) {
        self.local.holder.set(now);
    }

    /// Gives the lock back by its word; false if the core must be told instead.
    pub(super) fn try_give(&self) -> bool {
        // First: the next holder writes it as soon as it has the lock.
        self.local.holder.clear();
        self.local.word.try_give()
    }

    pub(super) fn is_held_by_this_thread(&self) -> bool {
        self.local.holder.is_this_thread()
    }
}

impl Node {
    /// A handle of a lock, by which this node's threads take it.
    pub fn lock_handle(&self, lock: LockId) -> LockHandle {
        self.runtime.enter().words.handle(lock)
    }
}

/// The words of the locks that this node's threads have handles of.
#[derive(Default)]
pub(super) struct LockTable {
    words: FxHashMap<PageId, Arc<LocalLock>>,
    lending: Lending,
}

/// Whether threads may have locks among themselves.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Lending {
    #[default]
    On,
    /// The node cannot go on, or has left: a thread that wants a lock is told so.
    Ended,
}

impl LockTable {
    /// A handle of a lock, which from now on can be lent.
    pub(super) fn handle(&mut self, lock: LockId) -> LockHandle {
        let local = self.words.entry(lock.0).or_default().clone();
        LockHandle { lock, local }
    }

    /// Since when a thread of this node has had a lock; `None` if none has it.
    pub(super) fn held_since(&self, lock: PageId) -> Option<Time> {
        self.words.get(&lock)?.holder.held_since()
    }

    /// See [`Host::end_lending`].
    fn end_lending(&mut self) {
        if self.lending == Lending::Ended {
            return;
        }
        self.lending = Lending::Ended;
        self.words.values().for_each(|local| local.word.close());
    }

    /// A region is gone. Handles of its locks are of no use; the core, who has recalled what it had
    /// lent, says so.
    fn forget(&mut self, start: PageId, pages: u64) {
        self.words.retain(|page, _| !(start.0..start.0 + pages).contains(&page.0));
    }
}

/// A node's memory as its machine sees it.
pub(super) struct LocalMemory<'a> {
    pub(super) arena: &'a Arena,
    pub(super) words: &'a mut LockTable,
    pub(super) run_on: &'a RunOn,
}

impl<'a> LocalMemory<'a> {
    /// None if the node has left and this process lives on: another one may have the memory by now.
    fn used(&self) -> Option<&'a Arena> {
        Some(self.arena).filter(|arena| arena.is_used())
    }
}

impl Memory for LocalMemory<'_> {
    fn protect(&mut self, page: PageId, access: Access) {
        Memory::protect(&mut self.arena, page, access);
    }

    fn protect_range(&mut self, first: PageId, pages: u64, access: Access) {
        self.arena.protect_range(first, pages, access);
    }

    fn read(&mut self, page: PageId) -> PageBuf {
        self.arena.read(page)
    }

    fn install(&mut self, page: PageId, contents: Contents<'_>, access: Access, version: Version) {
        if let Some(mut arena) = self.used() {
            arena.install(page, contents, access, version);
        }
    }

    fn set_version(&mut self, page: PageId, version: Version) {
        if let Some(mut arena) = self.used() {
            arena.set_version(page, version);
        }
    }

    fn note_home(&mut self, extent: ExtentId, home: NodeId) {
        if let Some(mut arena) = self.used() {
            arena.note_home(extent, home);
        }
    }

    fn note_opened(&mut self, round: Epoch) {
        if let Some(mut arena) = self.used() {
            arena.note_opened(round);
        }
    }

    fn expect(&mut self, first: PageId, pages: u64) {
        if let Some(mut arena) = self.used() {
            arena.expect(first, pages);
        }
    }

    fn discard(&mut self, page: PageId) {
        if let Some(mut arena) = self.used() {
            arena.discard(page);
        }
    }

    fn revoke_all(&mut self) {
        self.arena.revoke_all();
    }
}

impl LockWords for LocalMemory<'_> {
    fn lend_lock(&mut self, page: PageId, token: u64) -> bool {
        match (self.words.words.get(&page), self.words.lending) {
            (Some(local), Lending::On) => {
                local.word.lend(token);
                true
            }
            (Some(_) | None, Lending::On | Lending::Ended) => false,
        }
    }

    fn recall_lock(&mut self, page: PageId) -> Lent {
        self.words.words.get(&page).expect("a lent lock has a word").word.recall()
    }

    fn note_lock(&mut self, page: PageId, is_taken: bool) {
        if let Some(arena) = self.used() {
            arena.note_lock(page, is_taken);
        }
    }
}

impl Host for LocalMemory<'_> {
    type Kept<'a>
        = KeptMemory<'a>
    where
        Self: 'a;

    fn kept(&mut self, node: PeerId) -> Option<KeptMemory<'_>> {
        self.run_on.memory(node)
    }

    fn map_region(&mut self, start: PageId, pages: u64) -> Result<(), String> {
        let mapped = self.arena.map_region(start, pages).and_then(|()| self.run_on.map_region(start, pages));
        mapped.map_err(|error| error.to_string())
    }

    fn unmap_region(&mut self, start: PageId, pages: u64) -> Result<(), String> {
        self.words.forget(start, pages);
        let unmapped = self.used().map_or(Ok(()), |arena| arena.unmap_region(start, pages));
        let unmapped = unmapped.and_then(|()| self.run_on.unmap_region(start, pages));
        unmapped.map_err(|error| error.to_string())
    }

    fn backed_pages(&self) -> u64 {
        self.arena.backed_pages() + self.run_on.backed_pages()
    }

    fn end_lending(&mut self) {
        self.words.end_lending();
    }
}
