//! The regions that a node has heard of, whether or not it keeps homes of them: it maps each at its first
//! mention, by the coordinator's news or by an answer, and says so when it was told by the news.

use std::collections::BTreeSet;

use super::{Action, Control, Membership, Opened, RegionRecord, regions};
use crate::page::{GlobalAddr, PageId};

/// A region that this node has heard of.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) record: RegionRecord,
    /// The coordinator has told this node as it tells all members. An answer to a request of this node may
    /// come before that, and is not enough: the coordinator tells of a removal only after all have said that
    /// they were told of the region, or a late message could bring the region back.
    is_told: bool,
    is_mapped: bool,
}

/// Of which regions the coordinator has told this node, by generation. Its messages overtake each other.
#[derive(Clone, Default)]
pub(super) struct Told {
    /// Of all up to this one.
    until: u64,
    beyond: BTreeSet<u64>,
}

impl Told {
    pub(super) fn until(generation: u64) -> Told {
        Told { until: generation, beyond: BTreeSet::new() }
    }

    pub(super) fn known_until(&self) -> u64 {
        self.until
    }

    pub(super) fn add(&mut self, generation: u64) {
        if generation > self.until {
            self.beyond.insert(generation);
        }
        while self.beyond.remove(&(self.until + 1)) {
            self.until += 1;
        }
    }
}

impl Membership {
    /// Whether this node was told of all regions up to a generation: one of them that it does not know is gone.
    pub fn was_told_regions_until(&self, generation: u64) -> bool {
        self.told.known_until() >= generation
    }

    /// The region that has a page, if this node knows it.
    pub fn region_of(&self, page: PageId) -> Option<&RegionRecord> {
        let (_, known) = self.regions.range(..=page).next_back()?;
        known.record.info.contains(page).then_some(&known.record)
    }

    /// What a reference to `bytes` bytes at `addr` of the region `generation` leads to; why it leads nowhere.
    pub fn open(&mut self, addr: GlobalAddr, bytes: u64, generation: u64) -> Result<Opened, String> {
        let page = PageId::of(addr);
        let Some(record) = self.region_of(page) else {
            // Only its homes have heard of a new region for certain.
            return Ok(Opened::Unused { page });
        };
        let start = record.info.start;
        let end = addr.0.checked_add(bytes);
        if end.is_none_or(|end| end > start.start().0 + record.bytes) {
            return Err("is in no region of this node".into());
        }
        if !regions::is_of_one_cluster(record.generation, generation) {
            return Err("was made in another cluster, and leads to nothing in the one of this node".into());
        }
        if record.generation != generation {
            return Err(format!("is stale: its region is gone, and `{}` lies there now", record.name));
        }
        Ok(self.uses.open(start, generation).map_or(Opened::Unused { page }, Opened::Used))
    }

    /// Makes this node a user of the region that has the page, and tells the node of the region if it has not
    /// heard of it. Ends with [`Action::Done`], after which [`Membership::open`] finds the region used.
    pub fn ask_use(&mut self, op: u64, page: PageId, generation: Option<u64>) {
        self.ask(Control::Use { op, page, generation });
    }

    /// The shell has mapped a region.
    pub fn region_mapped(&mut self, start: PageId) {
        if let Some(known) = self.regions.get_mut(&start) {
            known.is_mapped = true;
            self.acknowledge(start);
        }
    }

    /// The shell has unmapped a region.
    pub fn region_unmapped(&mut self, start: PageId) {
        if let Some(generation) = self.unmapping.remove(&start) {
            self.ask(Control::RegionUnmapped { start, generation });
        }
    }

    fn acknowledge(&mut self, start: PageId) {
        let known = self.regions.get(&start).filter(|known| known.is_told && known.is_mapped);
        if let Some(generation) = known.map(|known| known.record.generation) {
            self.ask(Control::RegionMapped { start, generation });
        }
    }

    /// The coordinator tells all members of a region.
    pub(super) fn tell_region(&mut self, record: &RegionRecord) {
        self.told.add(record.generation);
        let known = self.learn_region(record);
        if !std::mem::replace(&mut known.is_told, true) {
            self.acknowledge(record.info.start);
        }
    }

    /// A region that this node uses, or is told of. It is mapped before an action that follows is done.
    pub(super) fn learn_region(&mut self, record: &RegionRecord) -> &mut Known {
        let Membership { regions, actions, .. } = self;
        regions.entry(record.info.start).or_insert_with(|| {
            actions.push_back(Action::MapRegion(record.clone()));
            Known { record: record.clone(), is_told: false, is_mapped: false }
        })
    }

    pub(super) fn drop_region(&mut self, start: PageId) {
        if let Some(Known { record, .. }) = self.regions.remove(&start) {
            self.uses.forget(start);
            self.unmapping.insert(start, record.generation);
            self.actions.push_back(Action::UnmapRegion(record));
        }
    }
}
