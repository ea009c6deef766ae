//! Where homes are: regions, their placement, and the manager who decides the extents that no formula does.

mod wire;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;

use rustc_hash::FxHashMap;

use super::copyset::NodeSet;
use super::fingerprint::hash_map;
use crate::page::{EXTENT_PAGES, ExtentId, NodeId, PageId};

/// Which node is the home of a page.
///
/// ```
/// # use pagemesh::prelude::*;
/// # let dsm = Dsm::builder().arena_anywhere().join()?;
/// // The home of rank 0's rows is the daemon that comes first, and so on.
/// let matrix = dsm.alloc_with::<f64>("matrix", 512 * 512, Placement::Block)?;
/// # drop(matrix);
/// # dsm.leave()?;
/// # Ok::<(), Error>(())
/// ```
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

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Placement::FirstTouch => f.write_str("first touch"),
            Placement::Block => f.write_str("block"),
            Placement::Cyclic => f.write_str("cyclic"),
            Placement::OnNode(node) => write!(f, "on {node}"),
        }
    }
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
    /// The nodes that keep homes, as they were when the region was made, ascending; the same list on every
    /// node.
    #[serde(with = "wire::homes")]
    pub homes: Vec<NodeId>,
    /// Under [`Placement::FirstTouch`], what each of them has room for; empty for any number.
    #[serde(with = "wire::quotas")]
    pub quotas: Vec<Quota>,
}

/// How many extents of a region a home takes, so that first touches overfill nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, serde::Serialize, serde::Deserialize)]
pub struct Quota {
    /// Extents that are its own if nobody with room touches them first. All homes' make the region.
    pub share: u64,
    /// Extents that it can take beside.
    pub spare: u64,
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

    /// The pages that a program may touch.
    pub fn usable_pages(&self) -> Range<u64> {
        self.start.0..self.start.0 + self.used
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
            Placement::FirstTouch => self
                .quotas
                .get(index as usize)
                .map_or(extents, |quota| extents.min(quota.share + quota.spare)),
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

    /// The home that an extent has if who touches it first has no room: shares in the order of homes.
    fn fallback(&self, extent: ExtentId) -> Option<NodeId> {
        let mut index = extent.0 - self.start.extent().0;
        let mut shares = self.homes.iter().zip(&self.quotas);
        let (&home, _) = shares.find(|(_, quota)| {
            let is_its_own = index < quota.share;
            index = index.saturating_sub(quota.share);
            is_its_own
        })?;
        Some(home)
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
    /// For regions with quotas, by their start: extents that each home can take of those that are
    /// decided here.
    spare: FxHashMap<PageId, Vec<u64>>,
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
        self.spare.remove(&start);
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

    pub(super) fn is_dead(&self, node: NodeId) -> bool {
        self.dead.contains(node)
    }

    pub(super) fn on_node_died(&mut self, dead: NodeId) {
        self.dead.insert(dead);
    }

    pub(super) fn on_node_joined(&mut self, node: NodeId) {
        self.dead.remove(node);
    }

    pub(super) fn fingerprint(&self, hasher: &mut impl Hasher) {
        (&self.regions, self.dead).hash(hasher);
        hash_map(&self.spare, hasher, |spare, mut hasher| spare.hash(&mut hasher));
        hash_map(&self.located, hasher, |home, mut hasher| home.hash(&mut hasher));
    }

    /// Decides an extent's home, as its manager. `nearest` to who touches it first if that has room.
    pub(super) fn decide(&mut self, extent: ExtentId, nearest: NodeId) -> NodeId {
        if let Some(&home) = self.located.get(&extent) {
            return home;
        }
        let home = self.with_room(extent, nearest).unwrap_or(nearest);
        self.locate(extent, home)
    }

    /// A node is run on that knew this home.
    pub(super) fn restore(&mut self, me: NodeId, extent: ExtentId, home: NodeId) {
        let Some(region) = self.region(PageId(extent.0 * EXTENT_PAGES)) else { return };
        if region.fixed_home(extent).is_some() || !region.homes.contains(&home) {
            return;
        }
        if region.manager(extent) == me && !self.located.contains_key(&extent) {
            // Takes the place that was taken before.
            let _ = self.with_room(extent, home);
        }
        self.locate(extent, home);
    }

    fn with_room(&mut self, extent: ExtentId, nearest: NodeId) -> Option<NodeId> {
        let after = self.regions.partition_point(|region| region.start.extent() <= extent);
        let region = self.regions[..after].last()?;
        let fallback = region.fallback(extent)?;
        let at = |node| region.homes.iter().position(|&home| home == node);
        let (taker, giver) = (at(nearest)?, at(fallback)?);
        // Every home decides some extents, and has its part of what the others can spare.
        let parts = region.homes.len() as u64;
        let spare = self.spare.entry(region.start);
        let spare = spare.or_insert_with(|| region.quotas.iter().map(|quota| quota.spare / parts).collect());
        if taker == giver || spare[taker] == 0 {
            return Some(fallback);
        }
        spare[taker] -= 1;
        spare[giver] += 1;
        Some(nearest)
    }

    /// Remembers a manager's decision. The first one stands.
    pub(super) fn locate(&mut self, extent: ExtentId, home: NodeId) -> NodeId {
        *self.located.entry(extent).or_insert(home)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_touches_overfill_nobody() {
        let homes: Vec<NodeId> = (0..3).map(NodeId).collect();
        let quota = |share, spare| Quota { share, spare };
        let quotas = vec![quota(5, 7), quota(20, 0), quota(15, 9)];
        let (start, pages, placement) = (PageId(EXTENT_PAGES), 40 * EXTENT_PAGES, Placement::FirstTouch);
        let region =
            RegionInfo { start, pages, used: pages, placement, homes: homes.clone(), quotas: quotas.clone() };
        for greedy in &homes {
            let mut taken = [0; 3];
            let mut managers = [(); 3].map(|()| Places::default());
            managers.iter_mut().for_each(|places| places.add(region.clone()));
            for extent in (1..41).map(ExtentId) {
                let manager = &mut managers[region.manager(extent).0 as usize];
                let home = manager.decide(extent, *greedy);
                assert_eq!(manager.decide(extent, NodeId(0)), home, "a decision stands");
                taken[home.0 as usize] += 1;
            }
            for (taken, quota) in taken.iter().zip(&quotas) {
                assert!(
                    *taken <= quota.share + quota.spare,
                    "{taken} of {quota:?} when {greedy} comes first"
                );
            }
            let quota = quotas[greedy.0 as usize];
            assert!(
                taken[greedy.0 as usize] + 3 > quota.share + quota.spare,
                "it takes what it has room for"
            );
        }
    }

    #[test]
    fn what_a_node_may_be_home_of_adds_up() {
        let homes: Vec<NodeId> = (0..3).map(NodeId).collect();
        for placement in [Placement::Block, Placement::Cyclic, Placement::OnNode(NodeId(2))] {
            for extents in 1..9 {
                let pages = extents * EXTENT_PAGES;
                let (start, quotas) = (PageId(0), Vec::new());
                let region =
                    RegionInfo { start, pages, used: pages, placement, homes: homes.clone(), quotas };
                for node in &homes {
                    let at_home =
                        (0..extents).filter(|&x| region.fixed_home(ExtentId(x)) == Some(*node)).count();
                    assert_eq!(
                        region.pages_at(*node),
                        at_home as u64 * EXTENT_PAGES,
                        "{placement:?} {extents}"
                    );
                }
                assert_eq!(region.pages_at(NodeId(7)), 0);
            }
        }
    }
}
