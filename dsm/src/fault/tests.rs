//! Tests of the fault machinery under the real MMU, with a sink that grants access by itself in the
//! place of a protocol. Every test that can runs on every backend that this machine has.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;

use super::*;

mod children;
mod killed;
mod limits;
mod races;
mod revoked;
mod rules;
mod system_calls;

/// A node without a protocol: grants what is asked for, and remembers it.
struct Local {
    arena: Arena,
    /// In the place of the node's core lock.
    core: Mutex<Core>,
}

#[derive(Default)]
struct Core {
    faults: Vec<PageFault>,
    /// Bytes that "the others" have: installed at the next fault on the page.
    remote: HashMap<PageId, PageBuf>,
    /// A region, by its first page and its length, that is mapped when its pages are touched.
    unheard: Option<(PageId, u64)>,
}

impl Local {
    fn grant(&self, fault: PageFault) {
        // As a failed system call on the way would.
        nix::errno::Errno::set_raw(libc::EIO);
        let _section = CoreSection::enter();
        let mut core = self.core.lock();
        if self.arena.restore(&fault) {
            return;
        }
        core.faults.push(fault);
        let bytes = core.remote.remove(&fault.page);
        let contents = bytes.as_ref().map_or(Contents::InPlace, |b| Contents::Bytes(b.as_slice()));
        (&self.arena).install(fault.page, contents, fault.access, Version(1));
    }
}

impl FaultSink for Local {
    fn resolve(&self, fault: PageFault) {
        self.grant(fault);
    }

    fn find_region(&self, page: PageId) -> bool {
        let _section = CoreSection::enter();
        let Some((start, pages)) = self.core.lock().unheard.take() else { return false };
        self.arena.map_region(start, pages).expect("a region");
        (start.0..start.0 + pages).contains(&page.0)
    }

    fn submit(&self, fault: PageFault) {
        self.grant(fault);
    }
}

/// A [`Local`] whose first pages are a region.
struct Rig(Arc<Local>);

impl Deref for Rig {
    type Target = Local;
    fn deref(&self) -> &Local {
        &self.0
    }
}

impl Rig {
    fn new(backend: Backend, pages: u64) -> Rig {
        Rig::with(options(backend, pages))
    }

    fn with(options: ArenaOptions) -> Rig {
        let pages = options.len / PAGE_SIZE as u64;
        let arena = Arena::reserve(&options).expect("an arena");
        let local = Arc::new(Local { arena, core: Mutex::default() });
        let sink: Weak<Local> = Arc::downgrade(&local);
        local.arena.deliver_to(sink);
        local.arena.map_region(PageId(0), pages).expect("a region");
        Rig(local)
    }

    /// The `word`th word of a page in the application's view.
    fn word(&self, page: u64, word: usize) -> *mut u64 {
        let addr = GlobalAddr(PageId(page).start().0 + 8 * word as u64);
        self.arena.pointer(addr).expect("inside the arena").cast()
    }

    fn load(&self, page: u64) -> u64 {
        // SAFETY: the word is mapped shared memory; the fault machinery is what is under test.
        unsafe { self.word(page, 0).read_volatile() }
    }

    fn store(&self, page: u64, value: u64) {
        // SAFETY: as in `load`.
        unsafe { self.word(page, 0).write_volatile(value) }
    }

    /// The word as the CPU's atomics see it.
    fn atomic(&self, page: u64, word: usize) -> &AtomicU64 {
        // SAFETY: aligned, mapped as long as the rig lives, and accessed atomically in such tests.
        unsafe { AtomicU64::from_ptr(self.word(page, word)) }
    }

    /// Runs `work` as the core does: under the lock, with signals blocked.
    fn locked<R>(&self, work: impl FnOnce(&mut &Arena) -> R) -> R {
        let _section = CoreSection::enter();
        let _core = self.core.lock();
        work(&mut &self.arena)
    }

    fn protect(&self, page: u64, access: Access) {
        self.locked(|memory| memory.protect(PageId(page), access));
    }

    /// The first word, through the runtime's view.
    fn runtime_word(&self, page: u64) -> u64 {
        first_word(&self.locked(|memory| memory.read(PageId(page))))
    }

    /// The faults since the last call, without those that were settled silently.
    fn faults(&self) -> Vec<(u64, Access)> {
        let _section = CoreSection::enter();
        let mut core = self.core.lock();
        core.faults.drain(..).map(|fault| (fault.page.0, fault.access)).collect()
    }
}

fn options(backend: Backend, pages: u64) -> ArenaOptions {
    ArenaOptions {
        len: pages * PAGE_SIZE as u64,
        base: None,
        backend: BackendChoice::Only(backend),
        mappings_max: None,
        pool: PagePool::new(16),
    }
}

/// Runs a test on each backend of this machine, and says aloud which it could not.
fn on_each_backend(pages: u64, test: impl Fn(&Rig)) {
    for backend in [Backend::Signal, Backend::Thread, Backend::Mprotect] {
        if is_available(backend) {
            test(&Rig::new(backend, pages));
        }
    }
}

/// Whether the backend works on this machine; says so aloud if not. A kernel that opens a descriptor
/// and is new enough must pass the probe, so that no run passes by skipping what we broke.
fn is_available(backend: Backend) -> bool {
    let Err(why) = BackendChoice::Only(backend).decide() else {
        return true;
    };
    let delivery = match backend {
        Backend::Signal => uffd::Delivery::Signal,
        Backend::Thread => uffd::Delivery::Message,
        Backend::Mprotect | Backend::None => panic!("{why}"),
    };
    let kernel = nix::sys::utsname::uname().expect("a kernel");
    let release = kernel.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let new_enough = (numbers.next(), numbers.next()) >= (Some(6), Some(4));
    assert!(!new_enough || uffd::Uffd::open(delivery).is_err(), "Linux {release}: {why}");
    eprintln!("SKIPPED on backend {backend}: {why}");
    false
}

fn first_word(page: &PageBuf) -> u64 {
    u64::from_ne_bytes(page.as_slice()[..8].try_into().expect("8 bytes"))
}

fn page_of_words(word: u64) -> PageBuf {
    PageBuf::copy_of(&word.to_ne_bytes().repeat(PAGE_SIZE / 8))
}
