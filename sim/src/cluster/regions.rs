//! Regions in a cluster of membership values: processes make, open and remove them. Pages are not simulated.
//!
//! Rules: a process that is answered about a region finds it mapped at the region's homes and in itself; two
//! regions never have the same address at one time; a process that answers nothing about regions holds up
//! nobody else; and in the end all have mapped the same regions.

use std::collections::{BTreeMap, BTreeSet};

use pagemesh::membership::{Control, ElementType, Membership, Opened, RegionRecord, Want};
use pagemesh::page::{EXTENT_PAGES, Incarnation, PAGE_SIZE, PageId, Span, Time};

use super::{Cluster, Phase};

/// Bytes of an extent.
const EXTENT_LEN: u64 = EXTENT_PAGES * PAGE_SIZE as u64;
/// A few regions fill it, so that addresses are given out again.
pub(super) const ARENA_LEN: u64 = 5 * EXTENT_LEN;
/// Names of regions.
pub(super) const NAMES: u32 = 4;
/// Longest wait for an answer where nothing befalls anybody but one that is mute: three messages, late.
const ANSWER_MAX: Span = Span::from_ms(12_000);

/// What a process does about regions.
#[derive(Default)]
pub(super) struct Mapped {
    /// The regions that are mapped, by their first page.
    regions: BTreeMap<PageId, RegionRecord>,
    /// Requests that have not ended, and when they were made.
    asked: BTreeMap<u64, Time>,
    /// What has come about regions while the process takes in nothing about them.
    held: Option<Vec<(usize, Control)>>,
}

/// What is known of all regions of a run.
#[derive(Default)]
pub(super) struct Regions {
    requests: u64,
    /// The processes that are homes of a region, by its generation.
    homes: BTreeMap<u64, Vec<usize>>,
    /// Which process has ever mapped which generation.
    ever_mapped: BTreeSet<(usize, u64)>,
}

/// Whether the message says something about regions.
fn is_about_regions(control: &Control) -> bool {
    matches!(
        control,
        Control::AllocReply { .. }
            | Control::RemoveReply { .. }
            | Control::UseReply { .. }
            | Control::RegionAdded(_)
            | Control::RegionGone { .. }
    )
}

impl Cluster {
    /// Asks for a region of that name, which has one or two extents.
    pub(super) fn alloc(&mut self, index: usize, name: u32) {
        let bytes = (1 + u64::from(name % 2)) * EXTENT_LEN;
        let want = Want::Any { bytes, element: ElementType::untagged(8), placement: None };
        self.request(index, |membership, op| membership.alloc(op, format!("region {name}"), want));
    }

    pub(super) fn remove(&mut self, index: usize, name: u32) {
        self.request(index, |membership, op| membership.remove(op, format!("region {name}")));
    }

    /// Opens a reference into some region of the cluster, or follows a pointer into it.
    pub(super) fn open(&mut self, index: usize) {
        let there: Vec<RegionRecord> = self.processes[0].regions.regions.values().cloned().collect();
        if there.is_empty() {
            return;
        }
        let record = &there[self.rng.usize(..there.len())];
        let (addr, generation) = (record.info.start.start(), record.generation);
        let generation_known = self.rng.bool().then_some(generation);
        let Some(membership) = &mut self.processes[index].membership else { return };
        if let Ok(Opened::Unused { page }) = membership.open(addr, 8, generation) {
            self.request(index, |membership, op| membership.ask_use(op, page, generation_known));
        }
    }

    fn request(&mut self, index: usize, ask: impl FnOnce(&mut Membership, u64)) {
        self.regions.requests += 1;
        let op = self.regions.requests;
        self.processes[index].regions.asked.insert(op, self.now);
        if let Some(membership) = &mut self.processes[index].membership {
            ask(membership, op);
        }
        self.follow(index);
    }

    /// From now on, or no longer, the process takes in nothing about regions.
    pub(super) fn mute(&mut self, index: usize) {
        self.processes[index].regions.held.get_or_insert_default();
    }

    pub(super) fn unmute(&mut self, index: usize) {
        self.judge_waits(index);
        for (from, control) in self.processes[index].regions.held.take().into_iter().flatten() {
            self.on_control(index, from, control);
        }
        self.follow(index);
    }

    /// Keeps a message that the process does not take in now; otherwise returns it.
    pub(super) fn hold(&mut self, index: usize, from: usize, control: Control) -> Option<Control> {
        match &mut self.processes[index].regions.held {
            Some(held) if is_about_regions(&control) => {
                held.push((from, control));
                None
            }
            Some(_) | None => Some(control),
        }
    }

    pub(super) fn map_region(&mut self, index: usize, record: &RegionRecord) {
        let (start, generation) = (record.info.start, record.generation);
        if index == 0 {
            let view = self.processes[0].membership.as_ref().map(Membership::view);
            let member = |home| Some(view?.member(home)?.intro.incarnation.0 as usize);
            let homes = record.info.homes.iter().filter_map(|&home| member(home)).collect();
            self.regions.homes.insert(generation, homes);
        }
        let overlaps = |other: &RegionRecord| {
            let end = |info: &pagemesh::coherence::RegionInfo| info.start.0 + info.pages;
            other.info.start.0 < end(&record.info)
                && start.0 < end(&other.info)
                && (other.generation != generation)
        };
        let clash = (0..self.processes.len()).find(|&other| {
            (other == index || self.is_counted(other))
                && self.processes[other].regions.regions.values().any(overlaps)
        });
        if let Some(other) = clash {
            self.oracle
                .fail(format!("an address is given out again when all have unmapped it: {index}, {other}"));
        }
        self.processes[index].regions.regions.insert(start, record.clone());
        self.regions.ever_mapped.insert((index, generation));
        if let Some(membership) = &mut self.processes[index].membership {
            membership.region_mapped(start);
        }
    }

    pub(super) fn unmap_region(&mut self, index: usize, record: &RegionRecord) {
        if self.processes[index].regions.regions.remove(&record.info.start).is_none() {
            self.oracle.fail(format!("what is unmapped was mapped: {index}"));
        }
        if let Some(membership) = &mut self.processes[index].membership {
            membership.region_unmapped(record.info.start);
        }
    }

    /// A request has ended.
    pub(super) fn answered(&mut self, index: usize, op: u64, record: Option<&RegionRecord>) {
        if self.processes[index].regions.asked.remove(&op).is_none() {
            self.oracle.fail(format!("a request ends once: {index}"));
        }
        let Some(RegionRecord { generation, .. }) = record else { return };
        self.work.regions += 1;
        let homes = self.regions.homes.get(generation).cloned().unwrap_or_default();
        let needed = homes.into_iter().filter(|&home| self.is_counted(home)).chain([index]);
        let missing = needed.into_iter().find(|&of| !self.regions.ever_mapped.contains(&(of, *generation)));
        if let Some(missing) = missing {
            self.oracle.fail(format!("a region is told of when its homes have it: {index}, not {missing}"));
        }
    }

    /// Whether a process runs and is a member to the coordinator.
    fn is_counted(&self, index: usize) -> bool {
        let coordinator = &self.processes[0];
        let view = coordinator.membership.as_ref().map(Membership::view);
        let is_member = view.is_some_and(|view| view.incarnation(Incarnation(index as u64)).is_some());
        coordinator.phase == Phase::Running && is_member && self.processes[index].phase == Phase::Running
    }

    /// Nobody else has waited for one that takes in nothing about regions.
    fn judge_waits(&mut self, mute: usize) {
        if !self.plan.only_mute || self.processes[mute].phase != Phase::Running {
            return;
        }
        let waits = |&index: &usize| {
            let asked = self.processes[index].regions.asked.values();
            index != mute && self.is_counted(index) && asked.into_iter().any(|&at| at + ANSWER_MAX < self.now)
        };
        if let Some(waiting) = (0..self.processes.len()).find(waits) {
            self.oracle.fail(format!("an allocation waits for homes alone: {waiting} waits for {mute}"));
        }
    }

    /// What is not at rest about the regions of the processes that run.
    pub(super) fn unsettled_regions(&self, running: &[usize]) -> Option<String> {
        let generations = |index: usize| {
            let regions = self.processes[index].regions.regions.values();
            regions.map(|record| record.generation).collect::<Vec<_>>()
        };
        running.iter().find_map(|&index| {
            let (own, expected) = (generations(index), generations(0));
            if own != expected {
                return Some(format!("{index} has mapped {own:?}, and the coordinator {expected:?}"));
            }
            let waits = !self.processes[index].regions.asked.is_empty();
            waits.then(|| format!("{index} waits for an answer about a region"))
        })
    }
}
