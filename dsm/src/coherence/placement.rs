//! Where homes are: regions, their placement, and the manager who decides the extents that no formula does.

use std::hash::{Hash, Hasher};

use rustc_hash::FxHashMap;

use super::copyset::NodeSet;
use super::fingerprint::hash_map;
use crate::page::{EXTENT_PAGES, ExtentId, NodeId, PageId};

/// Which node is the home of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, serde::Serialize, serde::Deserialize)]
pub enum Placement {
    /// Each extent's home is the home node nearest to whoever touches it first.
    FirstTouch,
    /// The region in as many contiguous blocks of extents as there are home nodes.
    Block,
    /// Extent by extent around the home nodes.
    Cyclic,
    /// All on one home node.
    OnNode(NodeId),
}

/// A region as every node knows it. It starts and ends at an extent's boundary.
#[derive(Clone, PartialEq, Eq, Debug, Hash, serde::Serialize, serde::Deserialize)]
pub struct RegionInfo {
    /// First page.
    pub start: PageId,
    /// Pages, a multiple of [`EXTENT_PAGES`].
    pub pages: u64,
    /// Of them, from the first on, those that a program may touch; the rest fills the last extent.
    pub used: u64,
    /// The rule for homes.
    pub placement: Placement,
    /// The nodes that keep homes, as they were when the region was made; the same list on every node.
    pub homes: Vec<NodeId>,
}

impl RegionInfo {
    /// Whether the page is in the region.
    pub fn contains(&self, page: PageId) -> bool {
        page.0 >= self.start.0 && page.0 - self.start.0 < self.pages
    }

    /// Whether a program may touch the page.
    pub fn uses(&self, page: PageId) -> bool {
        page.0 >= self.start.0 && page.0 - self.start.0 < self.used
    }

    /// The home that the placement alone decides; `None` under [`Placement::FirstTouch`].
    pub fn fixed_home(&self, extent: ExtentId) -> Option<NodeId> {
        let index = extent.0 - self.start.extent().0;
        match self.placement {
            Placement::FirstTouch => None,
            Placement::OnNode(node) => Some(node),
            Placement::Cyclic => Some(self.homes[(index % self.homes.len() as u64) as usize]),
            Placement::Block => {
                let extents = self.pages / EXTENT_PAGES;
                let block = extents.div_ceil(self.homes.len() as u64);
                Some(self.homes[(index / block) as usize])
            }
        }
    }

    /// Most pages that a node may become home of.
    pub fn pages_at(&self, node: NodeId) -> u64 {
        let Some(index) = self.homes.iter().position(|&home| home == node) else { return 0 };
        let (index, homes, extents) = (index as u64, self.homes.len() as u64, self.pages / EXTENT_PAGES);
        let extents = match self.placement {
            Placement::FirstTouch => extents,
            Placement::OnNode(home) => {
                if home == node {
                    extents
                } else {
                    0
                }
            }
            Placement::Cyclic => (extents + homes - 1 - index) / homes,
            Placement::Block => {
                let block = extents.div_ceil(homes);
                extents.saturating_sub(index * block).min(block)
            }
        };
        extents * EXTENT_PAGES
    }

    /// The node that decides and remembers an extent's home, and keeps its locks.
    pub fn manager(&self, extent: ExtentId) -> NodeId {
        self.fixed_home(extent).unwrap_or_else(|| {
            // Fibonacci hashing: neighbouring extents spread over the nodes.
            let hash = extent.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            self.homes[(hash % self.homes.len() as u64) as usize]
        })
    }
}

/// A node's knowledge of regions and homes.
#[derive(Clone, Default)]
pub(super) struct Places {
    /// Sorted by start.
    regions: Vec<RegionInfo>,
    /// Homes decided by a manager, as far as this node asked or decided.
    located: FxHashMap<ExtentId, NodeId>,
    dead: NodeSet,
}

impl Places {
    /// Adds a region. Panics on overlap: the coordinator cuts regions apart.
    pub(super) fn add(&mut self, region: RegionInfo) {
        assert!(region.start.0.is_multiple_of(EXTENT_PAGES) && region.pages.is_multiple_of(EXTENT_PAGES));
        assert!(!region.homes.is_empty(), "a region without home nodes");
        let at = self.regions.partition_point(|other| other.start < region.start);
        if self.regions.get(at) == Some(&region) {
            return;
        }
        let apart = |low: &RegionInfo, high: &RegionInfo| low.start.0 + low.pages <= high.start.0;
        assert!(at == 0 || apart(&self.regions[at - 1], &region), "regions overlap");
        assert!(at == self.regions.len() || apart(&region, &self.regions[at]), "regions overlap");
        self.regions.insert(at, region);
    }

    /// Forgets a region and the homes in it.
    pub(super) fn remove(&mut self, start: PageId) -> Option<RegionInfo> {
        let at = self.regions.iter().position(|region| region.start == start)?;
        let region = self.regions.remove(at);
        self.located.retain(|extent, _| !region.contains(PageId(extent.0 * EXTENT_PAGES)));
        Some(region)
    }

    /// Most pages that a node may be home of.
    pub(super) fn pages_at(&self, node: NodeId) -> u64 {
        self.regions.iter().map(|region| region.pages_at(node)).sum()
    }

    /// The region of a page.
    pub(super) fn region(&self, page: PageId) -> Option<&RegionInfo> {
        let after = self.regions.partition_point(|region| region.start <= page);
        self.regions[..after].last().filter(|region| region.contains(page))
    }

    /// The page's home, if this node knows it.
    pub(super) fn home(&self, page: PageId) -> Option<NodeId> {
        let fixed = self.region(page)?.fixed_home(page.extent());
        fixed.or_else(|| self.located.get(&page.extent()).copied())
    }

    /// The manager of a page's extent.
    pub(super) fn manager(&self, page: PageId) -> Option<NodeId> {
        Some(self.region(page)?.manager(page.extent()))
    }

    /// The home that this node proposes for a page: `preferred`, if the region has it. A home node that
    /// came after the region was made is none of the region's.
    pub(super) fn nearest(&self, page: PageId, preferred: NodeId) -> NodeId {
        match self.region(page) {
            Some(region) if !region.homes.contains(&preferred) => region.manager(page.extent()),
            Some(_) | None => preferred,
        }
    }

    /// The dead node without which nobody can say who has the page.
    pub(super) fn orphaned_by(&self, page: PageId) -> Option<NodeId> {
        self.home(page).or_else(|| self.manager(page)).filter(|&asked| self.dead.contains(asked))
    }

    pub(super) fn on_node_died(&mut self, dead: NodeId) {
        self.dead.insert(dead);
    }

    pub(super) fn on_node_joined(&mut self, node: NodeId) {
        self.dead.remove(node);
    }

    pub(super) fn fingerprint(&self, hasher: &mut impl Hasher) {
        (&self.regions, self.dead).hash(hasher);
        hash_map(&self.located, hasher, |home, mut hasher| home.hash(&mut hasher));
    }

    /// Remembers a manager's decision. The first one stands.
    pub(super) fn locate(&mut self, extent: ExtentId, home: NodeId) -> NodeId {
        *self.located.entry(extent).or_insert(home)
    }
}
