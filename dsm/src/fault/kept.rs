//! The memory of a node whose process has ended, in the process that goes on with the node: the same files, without an
//! application's view. The caller has made sure that nobody else uses them any more.
//!
//! Bytes count only where the record names their version. What lies elsewhere was left half written, and is given back.

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use super::access::{AccessMap, Backing};
use super::ample_stack::StackPool;
use super::map::{Store, data_of};
use super::mapper::Mapper;
use super::record::{Record, Recorded, User};
use super::{Arena, Backend, Shared, bytes, counts, run_of};
use crate::error::{Error, Result};
use crate::page::{Epoch, ExtentId, NodeId, PAGE_SIZE, PageId, PagePool, Version};

/// What the record of an ended process says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Recovered {
    /// The pages whose bytes are complete, by ascending number, and the version of the bytes.
    pub(crate) pages: Vec<(PageId, Version)>,
    /// Pages of which the record says what no node writes. Their bytes stay, and count for nothing.
    pub(crate) doubtful: Vec<PageId>,
    /// Homes of extents, as far as the node knew them.
    pub(crate) homes: Vec<(ExtentId, NodeId)>,
    /// Of the locks of which the node is home, those that somebody had.
    pub(crate) locks: Vec<PageId>,
    /// The last round in which the node knew all about the pages of which it is home.
    pub(crate) opened: Epoch,
}

impl Arena {
    /// Maps the memory and the record of an ended process, `user`, whose place this one takes. None of its regions can
    /// be used yet.
    pub(crate) fn open(memory: File, record: File, pool: PagePool, user: User) -> Result<Arena> {
        let fails = |error| Error::os("mapping the memory of an ended process", error);
        let len_of = |file: &File| file.metadata().map(|found| found.len()).map_err(fails);
        let (len, record_len) = (len_of(&memory)?, len_of(&record)?);
        let len = usize::try_from(len).ok().filter(|len| *len > 0 && len.is_multiple_of(PAGE_SIZE));
        let len = len.ok_or_else(|| Error::Invalid("an arena that is not whole pages".to_owned()))?;
        let pages = (len / PAGE_SIZE) as u64;
        if record_len != Record::len(pages) as u64 {
            return Err(Error::Invalid(format!("a record of {record_len} bytes for {pages} pages")));
        }
        let shared = Arc::new(Shared {
            addresses: 0..0,
            process: std::process::id(),
            backend: Backend::None,
            access: AccessMap::new(pages),
            counts: counts::Counters::default(),
            stacks: StackPool::new(),
            sink: OnceLock::new(),
            revoked: AtomicBool::new(false),
        });
        let store = Store::open(memory, len).map_err(fails)?;
        let record = Record::open(record, pages).map_err(fails)?;
        if !record.take(user) {
            return Err(Error::Refused("another process has taken its memory".to_owned()));
        }
        Ok(Arena { _registration: None, mapper: Mapper::Nothing, shared, store, record, len, pool })
    }

    /// Reads all of the record, and looks only where it was written.
    pub(crate) fn recover(&self) -> Recovered {
        let pages = 0..(self.len / PAGE_SIZE) as u64;
        let (homes, locks) = (self.record.homes().collect(), self.record.locks().collect());
        let opened = self.record.opened();
        let mut recovered = Recovered { homes, locks, opened, ..Recovered::default() };
        for page in self.record.written(pages).flatten().map(PageId) {
            match self.record.get(page) {
                Recorded::Nothing => {}
                Recorded::Version(version) => recovered.pages.push((page, version)),
                Recorded::Doubt => recovered.doubtful.push(page),
            }
        }
        recovered
    }

    /// Goes on with a region of the ended process: without access to any page, with the bytes that are recorded, and
    /// with no others.
    pub(crate) fn adopt_region(&self, start: PageId, pages: u64) -> Result<()> {
        let range = self.checked(start, pages)?;
        if range.clone().any(|page| self.shared.access.in_region(PageId(page))) {
            return Err(Error::Invalid(format!("the region at {start:?} is in use already")));
        }
        self.shared.access.open(range.clone());
        let recorded = self.record.written(range.clone()).flatten().map(PageId);
        for page in recorded.filter(|page| self.record.get(*page) != Recorded::Nothing) {
            self.shared.access.set_backed(page, Backing::Memory);
        }
        let given_back = self.give_back_unrecorded(&range);
        given_back.map_err(|error| Error::os(format!("giving back pages at {start:?}"), error))
    }

    /// Whether a page lies in a region that is mapped, or adopted.
    pub(crate) fn is_in_region(&self, page: PageId) -> bool {
        self.shared.access.in_region(page)
    }

    /// Gives back the bytes of a page of the ended process that lies in no region any more.
    pub(crate) fn give_back_stray(&self, page: PageId) -> Result<()> {
        self.checked(page, 1)?;
        self.record.clear(page);
        let given_back = self.store.punch(bytes(&run_of(page)));
        given_back.map_err(|error| Error::os(format!("giving back {page:?}"), error))
    }

    fn give_back_unrecorded(&self, range: &Range<u64>) -> std::io::Result<()> {
        let place = bytes(range);
        let page = |byte: u64| byte / PAGE_SIZE as u64;
        let has_memory: Vec<Range<u64>> =
            data_of(self.store.file(), place.start as u64..place.end as u64).collect();
        for mut rest in has_memory.into_iter().map(|data| page(data.start)..page(data.end)) {
            let is_needless = |page: &u64| !self.shared.access.is_backed(PageId(*page));
            while let Some(first) = rest.find(is_needless) {
                let end = rest.find(|page| !is_needless(page)).unwrap_or(rest.end);
                self.store.punch(bytes(&(first..end)))?;
            }
        }
        Ok(())
    }
}
