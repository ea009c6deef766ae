//! The regions that this node uses, and what it owes the coordinator for it.
//!
//! A region stays while a node uses it. A node that makes or finds a region by its name uses it until it
//! leaves. A node that opens a reference asks the coordinator once, counts its handles here, and gives the use
//! back a while after the last handle has gone: opening again meanwhile costs no message.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::RegionRecord;
use crate::page::PageId;

/// A handle's share in the use of a region. Dropping the last one lets the region go.
#[derive(Clone, Debug, Default)]
pub struct RegionUse(Arc<()>);

/// Uses that a node gives back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Returned {
    /// First page of the region.
    pub start: PageId,
    /// Which region it was that began there.
    pub generation: u64,
    /// How often the coordinator granted its use.
    pub grants: u32,
}

/// The regions that this node uses.
#[derive(Clone, Default)]
pub(super) struct Uses {
    regions: BTreeMap<PageId, Use>,
}

#[derive(Clone)]
struct Use {
    generation: u64,
    handle: RegionUse,
    /// How often the coordinator granted it. Counted, because a grant may overtake what is given back.
    grants: u32,
    /// The node uses it until it leaves.
    is_lasting: bool,
    /// It was opened since the last look.
    is_fresh: bool,
}

impl Uses {
    /// A share in the use of a region, if this node uses it.
    pub(super) fn open(&mut self, start: PageId, generation: u64) -> Option<RegionUse> {
        let used = self.regions.get_mut(&start).filter(|used| used.generation == generation)?;
        used.is_fresh = true;
        Some(used.handle.clone())
    }

    /// The coordinator counts this node among the users of the region, because a reference is to be opened.
    pub(super) fn grant(&mut self, record: &RegionRecord) {
        let used = self.entry(record);
        used.grants += 1;
        used.is_fresh = true;
    }

    /// The coordinator counts this node among the users until it leaves.
    pub(super) fn keep(&mut self, record: &RegionRecord) {
        self.entry(record).is_lasting = true;
    }

    fn entry(&mut self, record: &RegionRecord) -> &mut Use {
        let generation = record.generation;
        let used = self.regions.entry(record.info.start).or_insert_with(|| Use::new(generation));
        if used.generation != generation {
            *used = Use::new(generation);
        }
        used
    }

    /// Takes out what no handle has used since the last look but one.
    pub(super) fn take_idle(&mut self) -> Vec<Returned> {
        let mut returned = Vec::new();
        self.regions.retain(|&start, used| {
            let is_idle = !used.is_lasting && !used.is_fresh && Arc::strong_count(&used.handle.0) == 1;
            used.is_fresh = false;
            if is_idle {
                returned.push(Returned { start, generation: used.generation, grants: used.grants });
            }
            !is_idle
        });
        returned
    }

    /// The region is gone.
    pub(super) fn forget(&mut self, start: PageId) {
        self.regions.remove(&start);
    }
}

impl Use {
    fn new(generation: u64) -> Use {
        Use { generation, handle: RegionUse::default(), grants: 0, is_lasting: false, is_fresh: false }
    }
}
