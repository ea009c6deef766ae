//! What a node's coherence core may touch here: the pages of the arena, and the words of lent locks; and how
//! threads take a lock, by its word or by the core.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::Node;
use super::lock_word::LockWord;
use crate::coherence::{Input, LockId};
use crate::error::Result;
use crate::fault::Arena;
use crate::page::{Access, Contents, Lent, Memory, PageBuf, PageId};

/// A lock, as the threads of one node know it. Of use only to the node that made it.
#[derive(Debug)]
pub struct LockHandle {
    pub(super) lock: LockId,
    pub(super) word: Arc<LockWord>,
}

impl Node {
    /// A handle of a lock, by which this node's threads take it.
    pub fn lock_handle(&self, lock: LockId) -> LockHandle {
        self.inner.with_core(|core| core.brain.words.handle(lock))
    }

    /// Takes a lock; returns its fencing token.
    pub fn lock(&self, handle: &LockHandle) -> Result<u64> {
        match handle.word.try_take() {
            Some(token) => Ok(token),
            None => self.inner.call(None, |core, op| core.input(Input::Lock { op, lock: handle.lock })),
        }
    }

    /// Gives a lock back.
    pub fn unlock(&self, handle: &LockHandle) {
        if !handle.word.try_give() {
            self.inner.cast(Input::Unlock { lock: handle.lock });
        }
    }
}

/// The words of the locks that this node's threads have handles of.
#[derive(Default)]
pub(super) struct LockWords {
    words: FxHashMap<PageId, Arc<LockWord>>,
    lending: Lending,
}

/// Whether threads may have locks among themselves.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Lending {
    #[default]
    On,
    /// The node cannot go on: everybody who wants a lock is to hear of it.
    Ended,
}

impl LockWords {
    /// A handle of a lock, which from now on can be lent.
    pub(super) fn handle(&mut self, lock: LockId) -> LockHandle {
        let word = self.words.entry(lock.0).or_insert_with(|| Arc::new(LockWord::new())).clone();
        LockHandle { lock, word }
    }

    /// From now on every thread that wants a lock, or gives one back, asks the core.
    pub(super) fn end_lending(&mut self) {
        self.lending = Lending::Ended;
        self.words.values().for_each(|word| word.close());
    }

    /// A region is gone. Handles of its locks are of no use; the core, who has recalled what it had
    /// lent, says so.
    pub(super) fn forget(&mut self, start: PageId, pages: u64) {
        self.words.retain(|page, _| !(start.0..start.0 + pages).contains(&page.0));
    }
}

/// A node's memory as its core sees it.
pub(super) struct Local<'a> {
    pub(super) arena: &'a Arena,
    pub(super) words: &'a LockWords,
}

impl<'a> Local<'a> {
    fn arena(&self) -> impl Memory + 'a {
        self.arena
    }
}

impl Memory for Local<'_> {
    fn protect(&mut self, page: PageId, access: Access) {
        self.arena().protect(page, access);
    }

    fn protect_range(&mut self, first: PageId, pages: u64, access: Access) {
        self.arena.protect_range(first, pages, access);
    }

    fn read(&mut self, page: PageId) -> PageBuf {
        self.arena().read(page)
    }

    fn install(&mut self, page: PageId, contents: Contents<'_>, access: Access) {
        self.arena().install(page, contents, access);
    }

    fn expect(&mut self, first: PageId, pages: u64) {
        self.arena().expect(first, pages);
    }

    fn discard(&mut self, page: PageId) {
        self.arena().discard(page);
    }

    fn lend_lock(&mut self, page: PageId, token: u64) -> bool {
        match (self.words.words.get(&page), self.words.lending) {
            (Some(word), Lending::On) => {
                word.lend(token);
                true
            }
            (Some(_) | None, Lending::On | Lending::Ended) => false,
        }
    }

    fn recall_lock(&mut self, page: PageId) -> Lent {
        self.words.words.get(&page).expect("a lent lock has a word").recall()
    }
}
