//! Nodes whose processes have ended, and that this process runs on: their memory here, and the way to it.
//!
//! The machine orders it; the thread of keeping makes the process's end certain, maps memory and record, and tells the
//! machine. Nothing that a thread waits for waits for that thread, but what lies with the ended node.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use tracing::Level;

use super::Runtime;
use super::keeping::Told;
use super::watch::open_member;
use crate::coherence::{Legacy, LockId};
use crate::config::keep::{END_LOOK, END_TOLD};
use crate::config::node::PAGE_POOL_MAX;
use crate::error::Result;
use crate::fault::{Arena, Recovered};
use crate::keep::{Keeping, Kept, has_ended, kill};
use crate::machine::Event;
use crate::membership::{Member, Membership};
use crate::page::{
    Access, Contents, Epoch, ExtentId, Lent, LockWords, Memory, NodeId, PageBuf, PageId, PagePool, PeerId,
    Time, Version,
};

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
    Begin {
        /// The node.
        node: PeerId,
        /// The member whose process has run it until now.
        ran_at: PeerId,
    },
    /// Not to, from now on. Its memory comes along, if it was open: it is unmapped without the lock.
    Forget(PeerId, Option<Arc<Arena>>),
}

impl RunOn {
    pub(super) fn begin(&mut self, node: PeerId, ran_at: PeerId) {
        self.orders.push(Order::Begin { node, ran_at });
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

    /// Whether the machine has changed its mind meanwhile.
    fn is_countermanded(&self, node: PeerId) -> bool {
        self.orders.iter().any(|order| matches!(order, Order::Forget(of, _) if *of == node))
    }

    /// The memory of a node that is run on here.
    pub(super) fn memory(&self, node: PeerId) -> Option<KeptMemory<'_>> {
        self.nodes.iter().find(|(of, _)| *of == node).map(|(_, arena)| KeptMemory(arena))
    }

    /// The region exists from now on: also in what the ended nodes have left.
    pub(super) fn map_region(&self, start: PageId, pages: u64) -> Result<()> {
        self.nodes.iter().try_for_each(|(_, arena)| arena.adopt_region(start, pages))
    }

    pub(super) fn unmap_region(&self, start: PageId, pages: u64) -> Result<()> {
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
    /// The process that has run it until now, if that is not the node's own.
    runner: Option<(OwnedFd, u32)>,
    since: Time,
    has_told: bool,
}

/// What has become of a beginning.
pub(super) enum Begun {
    /// Nobody else uses these files.
    Alone(Kept),
    /// They are not here.
    Missing,
}

impl Beginning {
    /// `here` are the members of this host.
    pub(super) fn new(now: Time, node: PeerId, ran_at: PeerId, here: &[Member]) -> Beginning {
        let runner = here.iter().find(|member| {
            ran_at != node && member.intro.incarnation == ran_at.incarnation && member.intro.pid != own_pid()
        });
        let runner = runner.and_then(|member| {
            let intro = &member.intro;
            // None: it has ended.
            Some((open_member(intro.pid, intro.started).ok()??, intro.pid))
        });
        Beginning { node, runner, since: now, has_told: false }
    }

    pub(super) fn node(&self) -> PeerId {
        self.node
    }

    /// Ends whoever may still use the node's memory, and takes its files when nobody does. Never waits.
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
        match who_uses(kept, self.runner.as_ref(), here) {
            None => keeping.take(self.node.incarnation).map(Begun::Alone),
            Some(why) => {
                if !self.has_told && now.since(self.since) >= END_TOLD {
                    self.has_told = true;
                    let node = self.node.node;
                    told.push((Level::WARN, format!("{node} waits to be run on: {why}")));
                }
                None
            }
        }
    }

    /// When it is looked at again, if no process ends before.
    pub(super) fn look_again(now: Time) -> Time {
        now + END_LOOK
    }

    /// Readable when a process has ended that is waited for.
    pub(super) fn waits_for<'a>(&'a self, keeping: &'a Keeping) -> impl Iterator<Item = BorrowedFd<'a>> {
        let kept = keeping.find(self.node.incarnation).map(|kept| &kept.process);
        let runner = self.runner.as_ref().map(|(process, _)| process);
        kept.into_iter().chain(runner).filter(|process| !has_ended(process)).map(AsFd::as_fd)
    }
}

/// Who may still store to a node's memory, and what is waited for. Processes that live are killed.
fn who_uses(kept: &Kept, runner: Option<&(OwnedFd, u32)>, here: &[Member]) -> Option<String> {
    let mut processes = vec![];
    if !kept.has_let_go() {
        processes.push((&kept.process, kept.pid));
    }
    processes.extend(runner.map(|(process, pid)| (process, *pid)).filter(|(process, _)| !has_ended(process)));
    if let Some((process, pid)) = processes.pop() {
        return Some(match kill(process, pid) {
            Ok(()) => format!("process {pid} is killed, and has not ended yet"),
            Err(why) => format!("process {pid} has not ended, and {why}"),
        });
    }
    let members: Vec<u32> = here.iter().map(|member| member.intro.pid).collect();
    let by = kept.mapped_by(&members)?;
    Some(format!("process {by}, which its process has started, maps its memory: end it"))
}

fn own_pid() -> u32 {
    std::process::id()
}

/// In the thread of keeping.
impl Runtime {
    /// Maps the memory of a node that nobody else uses, and tells the machine. Gives the memory to whoever hands it to
    /// further keepers.
    pub(super) fn open_kept(&self, node: PeerId, kept: Kept) -> Option<Arc<Arena>> {
        match self.open_and_tell(node, kept) {
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
    fn open_and_tell(&self, node: PeerId, kept: Kept) -> Result<Option<Arc<Arena>>> {
        let arena = Arc::new(Arena::open(kept.arena, kept.record, PagePool::new(PAGE_POOL_MAX))?);
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

    /// The machine cannot run a node on whose memory is not here.
    pub(super) fn cannot_run(&self, node: PeerId) {
        self.tell(&mut self.enter(), Event::CannotRun(node));
    }
}

/// What the record says, in the core's words. Doubtful pages count for nothing.
fn legacy_of(recovered: Recovered) -> Legacy {
    let Recovered { pages, doubtful: _, homes, locks, opened } = recovered;
    Legacy { pages, homes, opened, locks: locks.into_iter().map(LockId).collect() }
}

#[cfg(test)]
mod tests;
