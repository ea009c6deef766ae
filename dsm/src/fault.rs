//! Page faults: the memory of a node, and how a load or a store to a page that is not here becomes a
//! call of the node.
//!
//! [`Arena`] is one file mapped twice. The application's view is protected page by page; the runtime's
//! view never faults and is the only one that the runtime touches. What a page may do is decided
//! elsewhere: this module carries [`Access`] to the MMU and [`PageFault`]s back, and knows no protocol.
//! The idea of handling page faults in user space to share memory is Li and Hudak's (IVY, 1989).

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use crate::error::{Error, Result};
use crate::fork;
use crate::page::{
    Access, Contents, Epoch, ExtentId, GlobalAddr, Memory, NodeId, PAGE_SIZE, PageBuf, PageId, PagePool,
    Version,
};

mod access;
#[allow(unsafe_code)]
mod ample_stack;
mod backend;
mod core_section;
mod counts;
mod doctor;
mod events;
#[allow(unsafe_code)]
mod handler;
mod kept;
#[allow(unsafe_code)]
mod map;
mod mapper;
mod mprotect;
mod probe;
#[allow(unsafe_code)]
mod record;
#[allow(unsafe_code)]
mod table;
#[cfg(test)]
#[allow(unsafe_code)]
mod tests;
#[allow(unsafe_code)]
mod uffd;

pub use backend::{Backend, BackendChoice};
pub use core_section::{CoreSection, asynchronous, check_thread_mask};
pub use counts::FaultCounts;
pub use doctor::{Check, Health, doctor};
pub(crate) use kept::Recovered;
pub(crate) use map::LENGTH_SEALS;
pub use record::Recorded;
#[cfg(test)]
pub(crate) use record::name_user;
pub(crate) use record::{User, user_of};

use access::{AccessMap, Backing};
use ample_stack::StackPool;
use map::{AppView, Store};
use mapper::Mapper;
use record::Record;

/// A load or store of the application that the MMU stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageFault {
    /// The page.
    pub page: PageId,
    /// What the instruction needs: [`Access::Read`] or [`Access::Write`]; a read-modify-write needs Write.
    pub access: Access,
    /// Address of the instruction; 0 if the backend does not know it.
    pub instruction: u64,
    /// The thread, by the kernel's id.
    pub thread: u32,
}

/// Who answers page faults: the node. Under the core's lock it first asks [`Arena::restore`], then its
/// protocol; an answer ends with a [`Memory`] call that raises the page's access.
pub trait FaultSink: Send + Sync {
    /// Called in the faulting thread, inside a signal handler; returns when the access was raised, or
    /// ends the process. If it returns early, the instruction faults again.
    fn resolve(&self, fault: PageFault);
    /// Called in the faulting thread, inside a signal handler, for a page of no region that is mapped here;
    /// true if a region that has the page is mapped now, and the instruction may be tried again.
    fn find_region(&self, _page: PageId) -> bool {
        false
    }
    /// Called by the handler thread of [`Backend::Thread`]; must not wait for anybody. The access that
    /// is raised later wakes the faulting thread. A fault may be over: another call has mapped the page
    /// before the handler thread came to it, and the thread has gone on.
    fn submit(&self, fault: PageFault);
    /// Called by that thread when it has submitted what was there: for a moment, it may wait for the
    /// answers itself.
    fn attend(&self) {}
}

/// How to make an [`Arena`].
#[derive(Clone)]
pub struct ArenaOptions {
    /// Bytes of address space; a multiple of [`PAGE_SIZE`]. Memory is used only for pages with contents.
    pub len: u64,
    /// Where the application's view starts; `None` lets the kernel choose, for tests with several
    /// nodes in one process.
    pub base: Option<usize>,
    /// The mechanism.
    pub backend: BackendChoice,
    /// Mappings that [`Backend::Mprotect`] may use; `None` for half of what the kernel allows.
    pub mappings_max: Option<usize>,
    /// Where [`Memory::read`] takes its buffers.
    pub pool: PagePool,
}

/// One node's memory. [`Memory`] is implemented for `&Arena`. All calls that concern pages or regions
/// run under the node's core lock, one at a time: a thread may run on before the call that raised its
/// page's access has returned.
pub struct Arena {
    // The order of the fields is the order of the end: no handler may find the arena, and the handler
    // thread must have stopped, before the views go.
    _registration: Option<table::Registration>,
    mapper: Mapper,
    shared: Arc<Shared>,
    store: Store,
    record: Record,
    len: usize,
    pool: PagePool,
}

/// What the signal handlers and the handler thread know of an arena.
struct Shared {
    addresses: Range<usize>,
    /// The process that made the arena; a forked child has no view of it.
    process: u32,
    backend: Backend,
    access: AccessMap,
    counts: counts::Counters,
    stacks: StackPool,
    sink: OnceLock<Weak<dyn FaultSink>>,
    /// Set before the view loses all access for ever: from then on accesses fault by SIGSEGV on every backend.
    revoked: AtomicBool,
}

impl Arena {
    /// Reserves the address range and prepares the backend. Errors say what is in the way; nothing
    /// stays reserved then.
    pub fn reserve(options: &ArenaOptions) -> Result<Arena> {
        let len = usize::try_from(options.len).unwrap_or(0);
        if len == 0 || !len.is_multiple_of(PAGE_SIZE) {
            return Err(Error::Invalid(format!("an arena of {} bytes is not whole pages", options.len)));
        }
        // The system may map pages at 0 for a privileged process, but no reference leads there.
        if options.base == Some(0) {
            return Err(Error::Invalid(format!("an --arena-base is a multiple of {PAGE_SIZE} above 0")));
        }
        let backend = options.backend.decide()?;
        let view = match backend {
            Backend::None => None,
            Backend::Signal | Backend::Thread | Backend::Mprotect => Some(
                AppView::reserve(options.base, len)
                    .map_err(|errno| doctor::reserve_error(options.base, len, errno))?,
            ),
        };
        let store = Store::new(len).map_err(|error| doctor::store_error(len, error))?;
        let record =
            Record::new((len / PAGE_SIZE) as u64).map_err(|error| doctor::store_error(len, error))?;
        let shared = Arc::new(Shared {
            addresses: view.as_ref().map_or(0..0, AppView::addresses),
            process: std::process::id(),
            backend,
            access: AccessMap::new((len / PAGE_SIZE) as u64),
            counts: counts::Counters::default(),
            stacks: StackPool::new(),
            sink: OnceLock::new(),
            revoked: AtomicBool::new(false),
        });
        let registration = view.as_ref().map(|_| register(&shared)).transpose()?;
        let mapper = Mapper::start(view, &shared, options)?;
        let pool = options.pool.clone();
        Ok(Arena { _registration: registration, mapper, shared, store, record, len, pool })
    }

    /// Names the one who answers page faults; once, and before the first region is mapped. Weak,
    /// because the sink usually owns the arena.
    pub fn deliver_to(&self, sink: Weak<dyn FaultSink>) {
        assert!(self.shared.sink.set(sink).is_ok(), "faults are delivered to one sink for ever");
    }

    /// The mechanism that runs.
    pub fn backend(&self) -> Backend {
        self.shared.backend
    }

    /// Bytes of the arena.
    pub fn len_bytes(&self) -> u64 {
        self.len as u64
    }

    /// Where the application's view starts; `None` without one.
    pub fn base(&self) -> Option<usize> {
        self.mapper.view().map(|view| view.address(0))
    }

    /// A pointer to the byte at `addr` in the application's view; `None` without a view or outside it.
    pub fn pointer(&self, addr: GlobalAddr) -> Option<*mut u8> {
        let offset = usize::try_from(addr.0).ok().filter(|offset| *offset < self.len)?;
        let address = self.mapper.view()?.address(offset);
        Some(std::ptr::with_exposed_provenance_mut(address))
    }

    /// Where a pointer into the application's view leads; `None` outside it.
    pub fn global(&self, pointer: *const u8) -> Option<GlobalAddr> {
        let address = pointer.addr();
        let range = &self.shared.addresses;
        range.contains(&address).then(|| GlobalAddr((address - range.start) as u64))
    }

    /// Cuts a region from the arena: its pages have no memory and no access, and fault from now on.
    /// An error leaves the range as it was.
    pub fn map_region(&self, start: PageId, pages: u64) -> Result<()> {
        let range = self.checked(start, pages)?;
        if let Some(page) = range.clone().map(PageId).find(|page| self.shared.access.in_region(*page)) {
            return Err(Error::Invalid(format!("{page:?} is in a region already")));
        }
        assert!(self.shared.sink.get().is_some() || self.base().is_none(), "nobody answers page faults");
        let what = || format!("mapping a region of {pages} pages at {start:?}");
        self.mapper.open_region(&self.store, &range).map_err(|error| Error::os(what(), error))?;
        self.shared.access.open(range.clone());
        // Accessible only now that stores fault: a stray pointer can have changed nothing.
        self.mapper.admit(&self.shared.access, &range);
        Ok(())
    }

    /// Ends a region: its memory is given back and its addresses fault as strays. No thread may use it
    /// any more.
    pub fn unmap_region(&self, start: PageId, pages: u64) -> Result<()> {
        let range = self.checked(start, pages)?;
        let fails = |error| Error::os(format!("unmapping {pages} pages at {start:?}"), error);
        self.mapper.close_region(&self.shared.access, &range).map_err(fails)?;
        let has_bytes = |page: &PageId| self.shared.access.is_backed(*page);
        range.clone().map(PageId).filter(has_bytes).for_each(|page| self.record.clear(page));
        self.record.forget(range.clone());
        self.store.punch(bytes(&range)).map_err(fails)?;
        self.shared.access.close(range);
        Ok(())
    }

    /// The access that the last call gave the page.
    pub fn access(&self, page: PageId) -> Access {
        self.shared.access.granted(page)
    }

    /// The page's bytes will come soon: the memory that they are copied to is brought into the caches meanwhile.
    pub fn warm(&self, page: PageId) {
        if self.shared.access.is_backed(page) {
            self.store.prefetch(page.start().0 as usize);
        }
    }

    /// The files of the memory and of its record: whoever holds a descriptor of both can go on with them.
    pub(crate) fn files(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.store.file().as_fd(), self.record.as_fd())
    }

    /// What the arena's record says of a page: the version of the bytes that lie there.
    pub fn recorded(&self, page: PageId) -> Recorded {
        self.record.get(page)
    }

    /// Notes for whoever may run this node on whether somebody has a lock of which it is home.
    pub fn note_lock(&self, page: PageId, is_taken: bool) {
        self.record.note_lock(page, is_taken);
    }

    /// Answers a fault on a page whose present access suffices (another thread's fault was answered
    /// meanwhile, or the kernel took the mapping): puts it back, and wakes who waits. False if the
    /// access does not suffice.
    pub fn restore(&self, fault: &PageFault) -> bool {
        let access = self.access(fault.page);
        if access < fault.access {
            return false;
        }
        self.shared.counts.count_settled();
        self.mapper.restore(&self.shared.access, &self.store, fault.page, access);
        true
    }

    /// [`Memory::protect`] for `pages` neighbouring pages: one system call for each run of equals.
    pub fn protect_range(&self, start: PageId, pages: u64, access: Access) {
        let mut rest = start.0..start.0 + pages;
        while !rest.is_empty() {
            let old = self.access(PageId(rest.start));
            let same = |page: &u64| self.access(PageId(*page)) == old;
            let end = rest.clone().take_while(same).last().expect("its first page is one") + 1;
            self.change(rest.start..end, old, access);
            rest.start = end;
        }
    }

    /// [`Memory::install`] for neighbouring pages, mapped by one system call if they have no access yet.
    pub fn install_range(&self, start: PageId, contents: &[(Contents<'_>, Version)], access: Access) {
        for (page, &(contents, version)) in (start.0..).map(PageId).zip(contents) {
            self.fill(page, contents, version);
        }
        self.protect_range(start, contents.len() as u64, access);
    }

    /// Allocates the memory of pages ahead of need (0.2 us a page instead of 3). Their bytes stay. The
    /// one call that needs no lock, being slow; the region must stay mapped meanwhile.
    pub fn populate(&self, start: PageId, pages: u64) -> Result<()> {
        let range = self.checked(start, pages)?;
        let what = || format!("allocating {pages} pages at {start:?}");
        self.store.populate(bytes(&range)).map_err(|error| Error::os(what(), error))?;
        for page in range.map(PageId) {
            self.shared.access.set_backed(page, Backing::Memory);
        }
        Ok(())
    }

    /// Pages that may hold memory now.
    pub fn backed_pages(&self) -> u64 {
        self.shared.access.backed_pages()
    }

    /// Pages of this range that may hold memory now. Looks at each; takes no lock.
    pub fn backed_pages_in(&self, pages: Range<u64>) -> u64 {
        self.shared.access.backed_pages_in(pages)
    }

    /// What happened so far.
    pub fn counts(&self) -> FaultCounts {
        self.shared.counts.read(self.mapper.reductions())
    }

    /// Takes all access to the application's view away for ever: when this returns, every load and store to a page
    /// faults, and no later call maps one again. The bytes stay, and [`Memory::read`] gives them. For the end of a
    /// node, whose sink ends the process in such a fault; a system call on a page fails with EFAULT. Threads that
    /// wait for what they have submitted fault again too, in [`FaultSink::resolve`]. May be repeated, and needs no
    /// lock.
    pub fn revoke_all(&self) {
        // Before the protection: the handler must know a fault that comes at once.
        self.shared.revoked.store(true, Ordering::SeqCst);
        self.mapper.revoke();
    }

    /// Whether [`Arena::revoke_all`] was called.
    pub(crate) fn is_revoked(&self) -> bool {
        self.shared.revoked.load(Ordering::SeqCst)
    }

    /// This process touches the memory never again, and says so to whoever runs the node on. Under the node's lock,
    /// after [`Arena::revoke_all`]; the caller makes no call that changes pages or regions any more.
    pub(crate) fn let_go(&self) {
        self.record.let_go();
    }

    /// Whether this process may touch the memory: it has not let go of it.
    pub(crate) fn is_used(&self) -> bool {
        self.record.is_used()
    }

    /// Carries a run of pages from one access to another.
    fn change(&self, run: Range<u64>, old: Access, new: Access) {
        if old == new {
            return;
        }
        self.mapper.change(&self.shared.access, &self.store, run.clone(), old, new);
        for page in run.map(PageId) {
            self.shared.access.set_granted(page, new);
            if new != Access::None {
                // Whoever may load the page may have made the kernel allocate it.
                self.shared.access.set_backed(page, Backing::Memory);
            }
        }
    }

    /// Writes a page's bytes into the store, and their version into the record: what lies there is recorded only
    /// while it is complete, and before the application may change it.
    fn fill(&self, page: PageId, contents: Contents<'_>, version: Version) {
        let new = match contents {
            Contents::InPlace => return self.record.set(page, version),
            Contents::Zero => None,
            Contents::Bytes(new) => Some(new),
        };
        // A reader must not see the page half old and half new.
        self.protect_range(page, 1, Access::None);
        self.record.clear(page);
        let offset = page.start().0 as usize;
        match new {
            Some(new) => {
                assert_eq!(new.len(), PAGE_SIZE, "contents are whole pages");
                self.store.write(offset, new);
            }
            None if self.shared.access.is_backed(page) => self.store.clear(offset, PAGE_SIZE),
            // The kernel hands out zeroed memory.
            None => self.store.touch(offset),
        }
        self.shared.access.set_backed(page, Backing::Memory);
        self.record.set(page, version);
    }

    fn checked(&self, start: PageId, pages: u64) -> Result<Range<u64>> {
        let end = start.0.checked_add(pages).filter(|end| *end <= (self.len / PAGE_SIZE) as u64);
        match end {
            Some(end) if pages > 0 => Ok(start.0..end),
            _ => Err(Error::Invalid(format!("{pages} pages at {start:?} do not fit into the arena"))),
        }
    }
}

impl Memory for &Arena {
    fn protect(&mut self, page: PageId, access: Access) {
        self.change(run_of(page), self.access(page), access);
    }

    fn protect_range(&mut self, first: PageId, pages: u64, access: Access) {
        Arena::protect_range(self, first, pages, access);
    }

    fn read(&mut self, page: PageId) -> PageBuf {
        let mut bytes = self.pool.take();
        if self.shared.access.is_backed(page) {
            self.store.read(page.start().0 as usize, bytes.as_mut_slice());
        } else {
            // Reading through the view would allocate the page.
            bytes.as_mut_slice().fill(0);
        }
        bytes
    }

    fn install(&mut self, page: PageId, contents: Contents<'_>, access: Access, version: Version) {
        self.fill(page, contents, version);
        self.protect(page, access);
    }

    fn set_version(&mut self, page: PageId, version: Version) {
        self.record.set(page, version);
    }

    fn note_home(&mut self, extent: ExtentId, home: NodeId) {
        self.record.note_home(extent, home);
    }

    fn note_opened(&mut self, round: Epoch) {
        self.record.note_opened(round);
    }

    fn expect(&mut self, first: PageId, pages: u64) {
        let holds = |page: &u64| self.shared.access.is_backed(PageId(*page));
        let mut rest = first.0..first.0 + pages;
        while let Some(start) = rest.find(|page| !holds(page)) {
            let end = rest.find(holds).unwrap_or(rest.end);
            // A machine without memory for it says so again when the page is written.
            let _ = self.populate(PageId(start), end - start);
        }
    }

    fn discard(&mut self, page: PageId) {
        assert_eq!(self.access(page), Access::None, "{page:?} is in use");
        // First: a page of zeros must not pass for this version.
        self.record.clear(page);
        expect(self.store.punch(bytes(&run_of(page))), "giving memory back");
        self.shared.access.set_backed(page, Backing::Hole);
    }

    fn revoke_all(&mut self) {
        Arena::revoke_all(self);
    }
}

impl Shared {
    fn page_of(&self, address: usize) -> PageId {
        PageId(((address - self.addresses.start) / PAGE_SIZE) as u64)
    }

    /// `None` once the node has left.
    fn sink(&self) -> Option<Arc<dyn FaultSink>> {
        self.sink.get()?.upgrade()
    }
}

/// Makes the signal handlers know the arena.
fn register(shared: &Arc<Shared>) -> Result<table::Registration> {
    // The handlers must tell a forked child from this process.
    fork::watch()?;
    handler::install()?;
    table::insert(shared.clone()).ok_or_else(|| Error::Refused("too many arenas in one process".to_owned()))
}

fn run_of(page: PageId) -> Range<u64> {
    page.0..page.0 + 1
}

fn bytes(pages: &Range<u64>) -> Range<usize> {
    PageId(pages.start).start().0 as usize..PageId(pages.end).start().0 as usize
}

/// The kernel refuses these calls only when it is out of memory, or when this module is wrong. Either
/// way pages are in a state that nobody knows, so there is no going on.
fn expect<E: std::fmt::Display>(result: std::result::Result<(), E>, what: &str) {
    if let Err(error) = result {
        panic!("{what}: {error}");
    }
}
