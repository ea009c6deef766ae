//! One entry for each page that was ever touched, in chunks of an extent: a scan of memory touches
//! one hash bucket per 64 pages, and an untouched terabyte costs nothing.

use std::hash::{Hash, Hasher};

use rustc_hash::FxHashMap;

use super::fingerprint::sorted_keys;
use crate::page::{EXTENT_PAGES, ExtentId, PageId};

const CHUNK: usize = EXTENT_PAGES as usize;

/// Page to entry; pages never touched have the default entry.
#[derive(Clone)]
pub(super) struct PageTable<T> {
    chunks: FxHashMap<ExtentId, Box<[T]>>,
}

impl<T: Default + Clone> PageTable<T> {
    pub(super) fn new() -> Self {
        PageTable { chunks: FxHashMap::default() }
    }

    /// The page's entry, if any page of its extent was touched.
    pub(super) fn peek(&self, page: PageId) -> Option<&T> {
        self.chunks.get(&page.extent()).map(|chunk| &chunk[index(page)])
    }

    /// The page's entry, made now if need be.
    pub(super) fn entry(&mut self, page: PageId) -> &mut T {
        let chunk =
            self.chunks.entry(page.extent()).or_insert_with(|| vec![T::default(); CHUNK].into_boxed_slice());
        &mut chunk[index(page)]
    }

    /// All pages of touched extents from `from` on, ascending, so that runs repeat exactly.
    pub(super) fn pages(&self) -> Vec<PageId> {
        sorted_keys(&self.chunks)
            .into_iter()
            .flat_map(|extent| (0..EXTENT_PAGES).map(move |i| PageId(extent.0 * EXTENT_PAGES + i)))
            .collect()
    }

    /// Hashes what differs from a page that was never touched.
    pub(super) fn fingerprint(&self, hasher: &mut impl Hasher)
    where
        T: Hash + PartialEq,
    {
        let fresh = T::default();
        for page in self.pages() {
            if let Some(entry) = self.peek(page).filter(|&entry| *entry != fresh) {
                (page, entry).hash(hasher);
            }
        }
    }

    /// Forgets the entries of whole extents for which `gone` holds.
    pub(super) fn remove_extents(&mut self, gone: impl Fn(ExtentId) -> bool) {
        self.chunks.retain(|&extent, _| !gone(extent));
    }
}

fn index(page: PageId) -> usize {
    (page.0 % EXTENT_PAGES) as usize
}
