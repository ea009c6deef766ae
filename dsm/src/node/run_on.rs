//! Nodes whose processes have ended, and that this process runs on: their memory here, and the way to it.
//!
//! The machine orders it; the thread of keeping makes the process's end certain, maps memory and record, and tells the
//! machine. Nothing that a thread waits for waits for that thread, but what lies with the ended node.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use tracing::Level;

use super::Runtime;
use super::keeping::Told;
use crate::coherence::{Legacy, LockId};
use crate::config::keep::{END_LOOK, END_TOLD, ENDS_BY_ITSELF_MAX};
use crate::config::node::PAGE_POOL_MAX;
use crate::error;
use crate::fault::{Arena, Recovered, User};
use crate::keep::{Keeping, Kept, has_ended, kill};
use crate::machine::Event;
use crate::membership::{Member, Membership};
use crate::page::{
    Access, Contents, Epoch, ExtentId, Lent, LockWords, Memory, NodeId, PAGE_SIZE, PageBuf, PageId, PagePool,
    PeerId, Time, Version,
};
use crate::process::is_stopped;

/// The memory of the nodes that this process runs on, and what the machine has ordered since the thread of keeping
/// last looked. Under the node's lock.
#[derive(Default)]
pub(super) struct RunOn {
    nodes: Vec<(PeerId, Arc<Arena>)>,
    orders: Vec<Order>,
}

/// What the machine wants done with a node.
pub(super) enum Order {
    /// To run it on.
    Begin(PeerId),
    /// Not to, from now on. Its memory comes along, if it was open: it is unmapped without the lock.
    Forget(PeerId, Option<Arc<Arena>>),
}

impl RunOn {
    pub(super) fn begin(&mut self, node: PeerId) {
        self.orders.push(Order::Begin(node));
    }

    pub(super) fn forget(&mut self, node: PeerId) {
        let at = self.nodes.iter().position(|(of, _)| *of == node);
        let memory = at.map(|at| self.nodes.swap_remove(at).1);
        self.orders.push(Order::Forget(node, memory));
    }

    pub(super) fn has_orders(&self) -> bool {
        !self.orders.is_empty()
    }

    pub(super) fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    /// This process runs nothing on any more. The memory is unmapped without the lock.
    fn end(&mut self) -> RunOn {
        std::mem::take(self)
    }

    /// Whether the machine has changed its mind meanwhile.
    fn is_countermanded(&self, node: PeerId) -> bool {
        self.orders.iter().any(|order| matches!(order, Order::Forget(of, _) if *of == node))
    }

    /// The memory of a node that is run on here.
    pub(super) fn memory(&self, node: PeerId) -> Option<KeptMemory<'_>> {
        self.nodes.iter().find(|(of, _)| *of == node).map(|(_, arena)| KeptMemory(arena))
    }

    /// The region exists from now on: also in what the ended nodes have left.
    pub(super) fn map_region(&self, start: PageId, pages: u64) -> error::Result<()> {
        self.nodes.iter().try_for_each(|(_, arena)| arena.adopt_region(start, pages))
    }

    pub(super) fn unmap_region(&self, start: PageId, pages: u64) -> error::Result<()> {
        self.nodes.iter().try_for_each(|(_, arena)| arena.unmap_region(start, pages))
    }

    pub(super) fn backed_pages(&self) -> u64 {
        self.nodes.iter().map(|(_, arena)| arena.backed_pages()).sum()
    }
}

/// The memory of an ended node, as the core that runs it on sees it. Nobody accesses its pages, and no thread takes its
/// locks.
pub(super) struct KeptMemory<'a>(&'a Arena);

impl Memory for KeptMemory<'_> {
    fn protect(&mut self, page: PageId, access: Access) {
        Memory::protect(&mut self.0, page, access);
    }

    fn protect_range(&mut self, first: PageId, pages: u64, access: Access) {
        Memory::protect_range(&mut self.0, first, pages, access);
    }

    fn read(&mut self, page: PageId) -> PageBuf {
        self.0.read(page)
    }

    fn install(&mut self, page: PageId, contents: Contents<'_>, access: Access, version: Version) {
        self.0.install(page, contents, access, version);
    }

    fn set_version(&mut self, page: PageId, version: Version) {
        self.0.set_version(page, version);
    }

    fn note_home(&mut self, extent: ExtentId, home: NodeId) {
        self.0.note_home(extent, home);
    }

    fn note_opened(&mut self, round: Epoch) {
        self.0.note_opened(round);
    }

    fn expect(&mut self, first: PageId, pages: u64) {
        self.0.expect(first, pages);
    }

    fn discard(&mut self, page: PageId) {
        if self.0.is_in_region(page) {
            return self.0.discard(page);
        }
        // The process has ended between the region's end and its own hearing of it.
        self.0.give_back_stray(page).expect("memory can be given back");
    }

    fn revoke_all(&mut self) {
        Memory::revoke_all(&mut self.0);
    }
}

impl LockWords for KeptMemory<'_> {
    fn lend_lock(&mut self, _page: PageId, _token: u64) -> bool {
        false
    }

    fn recall_lock(&mut self, page: PageId) -> Lent {
        unreachable!("the lock of {page:?} was never lent to a node without threads")
    }

    fn note_lock(&mut self, page: PageId, is_taken: bool) {
        self.0.note_lock(page, is_taken);
    }
}

/// A node that is to be run on here as soon as nobody else uses its memory.
pub(super) struct Beginning {
    node: PeerId,
    /// The process that uses its memory, and its number.
    user: Option<(OwnedFd, u32)>,
    since: Time,
    has_told: bool,
}

/// What has become of a beginning.
pub(super) enum Begun {
    /// Nobody else uses these files any more.
    Alone {
        /// The files.
        kept: Kept,
        /// Whose place this process takes.
        user: User,
    },
    /// They are not here.
    Missing,
}

impl Beginning {
    pub(super) fn new(now: Time, node: PeerId) -> Beginning {
        Beginning { node, user: None, since: now, has_told: false }
    }

    pub(super) fn node(&self) -> PeerId {
        self.node
    }

    /// Waits for the process that uses the node's memory, and ends it if it does not end by itself; takes the node's
    /// files when nobody uses them. `here` are the members of this host. Never blocks.
    pub(super) fn advance(
        &mut self,
        now: Time,
        keeping: &mut Keeping,
        here: &[Member],
        told: &mut Told,
    ) -> Option<Begun> {
        let Some(kept) = keeping.find(self.node.incarnation) else {
            told.push((Level::WARN, format!("{} cannot be run on: its memory is not here", self.node.node)));
            return Some(Begun::Missing);
        };
        match self.last_user(now, kept, here) {
            Ok(user) => keeping.take(self.node.incarnation).map(|kept| Begun::Alone { kept, user }),
            Err(why) => {
                if !self.has_told && now >= self.since + ENDS_BY_ITSELF_MAX + END_TOLD {
                    self.has_told = true;
                    let node = self.node.node;
                    told.push((Level::WARN, format!("{node} waits to be run on: {why}")));
                }
                None
            }
        }
    }

    /// The user that touches a node's memory no more, whatever else it does; why somebody may still store to it.
    fn last_user(&mut self, now: Time, kept: &Kept, here: &[Member]) -> Result<User, String> {
        let user = kept.user().map_err(|error| format!("its record cannot be read: {error}"))?;
        self.user = match user {
            User::Nobody => None,
            // This process has run it before, and is about to unmap it.
            User::Process(process) if process.pid == std::process::id() => {
                return Err("this process has not let go of its memory yet".to_owned());
            }
            User::Process(process) if process.started != 0 => {
                let opened = process.open().map_err(|errno| format!("process {}: {errno}", process.pid))?;
                opened.map(|opened| (opened, process.pid))
            }
            // Its start is not known. A keeper knows who has handed the memory over without that.
            User::Process(process) if process.pid != kept.pid => {
                return Err(format!("it is not known whether process {} has ended", process.pid));
            }
            // Noise names nobody.
            User::Process(_) | User::Doubt => {
                let process = kept.process.try_clone().map_err(|error| error.to_string())?;
                Some((process, kept.pid))
            }
        };
        if let Some((process, pid)) = self.user.as_ref().filter(|(process, _)| !has_ended(process)) {
            return Err(self.end(now, process, *pid));
        }
        let members: Vec<u32> = here.iter().map(|member| member.intro.pid).collect();
        match kept.mapped_by(&members) {
            None => Ok(user),
            Some(by) => Err(format!("process {by}, which its process has started, maps its memory: end it")),
        }
    }

    /// Ends a process, unless it has time left to do so itself; returns what is waited for.
    fn end(&self, now: Time, process: &OwnedFd, pid: u32) -> String {
        if now.since(self.since) < ENDS_BY_ITSELF_MAX && !is_stopped(pid) {
            return format!("process {pid} is about to end");
        }
        match kill(process, pid) {
            Ok(()) => format!("process {pid} is killed, and has not ended yet"),
            Err(why) => format!("process {pid} has not ended, and {why}"),
        }
    }

    /// When it is looked at again, if no process ends before.
    pub(super) fn look_again(now: Time) -> Time {
        now + END_LOOK
    }

    /// Readable when the process has ended that is waited for.
    pub(super) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        let (process, _) = self.user.as_ref()?;
        (!has_ended(process)).then(|| process.as_fd())
    }
}

/// In the thread of keeping.
impl Runtime {
    /// Maps the memory of a node that nobody else uses, and tells the machine. Gives the memory to whoever hands it to
    /// further keepers.
    pub(super) fn open_kept(&self, node: PeerId, kept: Kept, user: User) -> Option<Arc<Arena>> {
        match self.open_and_tell(node, kept, user) {
            Ok(arena) => arena,
            Err(error) => {
                let text = format!("{} cannot be run on: {error}", node.node);
                self.note_of_keeping(vec![(Level::ERROR, text)]);
                self.tell(&mut self.enter(), Event::CannotRun(node));
                None
            }
        }
    }

    /// None if the machine has changed its mind.
    fn open_and_tell(&self, node: PeerId, kept: Kept, user: User) -> error::Result<Option<Arc<Arena>>> {
        let arena = Arc::new(Arena::open(kept.arena, kept.record, PagePool::new(PAGE_POOL_MAX), user)?);
        let recovered = arena.recover();
        // Most of them without the lock: each page is looked at.
        let regions = self.mapped_regions();
        regions.iter().try_for_each(|&(start, pages)| arena.adopt_region(start, pages))?;
        let (held, doubtful) = (arena.backed_pages(), recovered.doubtful.len());
        let mut locked = self.enter();
        if locked.run_on.is_countermanded(node) {
            return Ok(None);
        }
        let mapped = self.mapped_regions_of(locked.machine.membership());
        for &(start, pages) in regions.iter().filter(|region| !mapped.contains(region)) {
            arena.unmap_region(start, pages)?;
        }
        for &(start, pages) in mapped.iter().filter(|region| !regions.contains(region)) {
            arena.adopt_region(start, pages)?;
        }
        locked.run_on.nodes.push((node, arena.clone()));
        let text = format!("{} is run on here, with {held} pages of its memory", node.node);
        locked.notes.add(Level::INFO, text);
        if doubtful > 0 {
            let text = format!("of {doubtful} pages of {} it is not known what lies there", node.node);
            locked.notes.add(Level::WARN, text);
        }
        self.tell(&mut locked, Event::RunOn { node, legacy: legacy_of(recovered) });
        Ok(Some(arena))
    }

    /// The regions that are mapped here: first page and pages.
    fn mapped_regions(&self) -> Vec<(PageId, u64)> {
        self.with_machine(|machine| self.mapped_regions_of(machine.membership()))
    }

    fn mapped_regions_of(&self, membership: Option<&Membership>) -> Vec<(PageId, u64)> {
        let regions = membership.into_iter().flat_map(Membership::regions);
        let mapped = regions.filter(|record| self.arena.is_in_region(record.info.start));
        mapped.map(|record| (record.info.start, record.info.pages)).collect()
    }

    /// This process ends, or leaves and lives on: whoever runs those nodes next finds nobody at their memory.
    pub(super) fn let_go_of_kept(&self) {
        let run_on = self.with_locked(|locked| locked.run_on.end());
        self.keepers.run_nothing();
        drop(run_on);
    }

    /// A line when the pages here are more than `memory_max` because nodes are run on: their pages exist, so nothing
    /// refuses them.
    pub(super) fn tell_of_excess(&self, has_told: &mut bool) {
        self.with_locked(|locked| {
            let (own, kept) = (self.arena.backed_pages(), locked.run_on.backed_pages());
            let limit = locked.machine.intro().memory_max / PAGE_SIZE as u64;
            let told = std::mem::replace(has_told, kept > 0 && own + kept > limit);
            if *has_told && !told {
                locked.notes.add(Level::WARN, excess(own, kept, limit));
            }
        });
    }

    /// The machine cannot run a node on whose memory is not here.
    pub(super) fn cannot_run(&self, node: PeerId) {
        self.tell(&mut self.enter(), Event::CannotRun(node));
    }
}

fn excess(own: u64, kept: u64, limit: u64) -> String {
    let mib = |pages: u64| (pages * PAGE_SIZE as u64) >> 20;
    format!(
        "{} MiB of pages are here, {} MiB of them of nodes that are run on, and memory_max is {} MiB: remove regions \
         that are needed no more",
        mib(own + kept),
        mib(kept),
        mib(limit)
    )
}

/// What the record says, in the core's words. Doubtful pages count for nothing.
fn legacy_of(recovered: Recovered) -> Legacy {
    let Recovered { pages, doubtful: _, homes, locks, opened } = recovered;
    Legacy { pages, homes, opened, locks: locks.into_iter().map(LockId).collect() }
}

#[cfg(test)]
mod tests;
