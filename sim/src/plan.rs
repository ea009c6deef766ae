//! What a seed stands for: how many nodes, where homes are, which pages the programs touch, how the
//! network behaves, who joins, leaves and crashes when. Drawn once; the run then follows it.

use std::ops::{Range, RangeInclusive};

use fastrand::Rng;
use pagemesh::coherence::{MemoryLimit, NodeSet, Placement, Quota, RegionInfo};
use pagemesh::page::{EXTENT_PAGES, NodeId, PageId, Span, Time};

/// Where the region of every run starts: far from zero, at an extent's boundary.
const START: u64 = 16 * EXTENT_PAGES;

/// The smallest limit that nodes are given: what one instruction needs.
const CACHED_MIN: u64 = 4;
/// Pages of a crowd.
pub(crate) const CROWDED_PAGES: u64 = 8;

/// The scenario of one seed.
pub(crate) struct Plan {
    /// Nodes present from the start.
    pub(crate) nodes: u16,
    pub(crate) region: RegionInfo,
    /// The regions before and behind it, which no program touches.
    pub(crate) bystanders: [RegionInfo; 2],
    /// The pages that programs touch, ascending.
    pub(crate) pages: Vec<PageId>,
    /// Indices of pages whose neighbour is in `pages` too.
    pub(crate) adjacent: Vec<u8>,
    /// Indices of pages that are also locks.
    pub(crate) locks: Vec<u8>,
    pub(crate) threads_max: u8,
    pub(crate) operations: RangeInclusive<u32>,
    pub(crate) barrier_rounds: u32,
    /// Nodes whose first thread meets the others at barriers.
    pub(crate) members: NodeSet,
    pub(crate) pace: Pace,
    pub(crate) net: Net,
    /// Once in so many events at a node, it is told to drop or to ask for some page.
    pub(crate) evict_one_in: Option<u32>,
    pub(crate) prefetch_one_in: Option<u32>,
    /// Pages of other homes that a node may hold, if that is less than there are.
    pub(crate) cached_max: Option<u64>,
    /// Whether threads stop waiting for a lock, or only try, and withdraw from barriers.
    pub(crate) abandons: bool,
    pub(crate) tries: bool,
    pub(crate) withdraws: bool,
    pub(crate) departures: Vec<Departure>,
    /// Whether other processes run the nodes on whose processes have ended.
    pub(crate) runs_on: bool,
    /// Whether what a node has sent about pages is gone as soon as its core says that it has left.
    pub(crate) vanishes: bool,
}

/// How quickly threads go on.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// Shortest time from a wake-up, or from one instruction, to the next.
    pub(crate) step_min: Span,
    /// Longest such time, pauses apart.
    pub(crate) step: Span,
    /// One in so many steps and retries takes `pause` instead.
    pub(crate) pause_one_in: u32,
    pub(crate) pause: Span,
    /// One in so many Memory calls lets local threads run first.
    pub(crate) between_one_in: u32,
}

/// How the network behaves.
#[derive(Clone, Copy)]
pub(crate) struct Net {
    pub(crate) typical: Span,
    pub(crate) tail_one_in: Option<u32>,
    pub(crate) tail: Span,
    pub(crate) duplicate_one_in: Option<u32>,
}

/// A node goes, and perhaps a fresh one comes to its slot.
#[derive(Clone, Debug)]
pub(crate) struct Departure {
    pub(crate) node: NodeId,
    pub(crate) at: Time,
    pub(crate) how: How,
    pub(crate) replaced: bool,
    /// A crash comes after so many steps of the process from `at` on, in the middle of what its core does; at `at` if
    /// there is no number.
    pub(crate) in_a_call: Range<u32>,
}

/// How a node goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum How {
    Leaves,
    Crashes,
    /// A view says that its process has ended, and it ends a while later.
    IsDeclaredDead,
}

/// Threads that take as long to wake up as an idle core does, and longer than a page takes to be taken
/// away again: who does not hold it never gets an instruction through.
const WAKES_SLOWLY: Pace = Pace {
    step_min: Span::from_us(30),
    step: Span::from_us(45),
    pause_one_in: 1 << 20,
    pause: Span::from_us(45),
    between_one_in: 2,
};
/// A network that such a thread always loses against.
const QUICK: Net =
    Net { typical: Span::from_us(4), tail_one_in: None, tail: Span(0), duplicate_one_in: None };

impl Plan {
    /// The scenario of a seed.
    pub(crate) fn draw(rng: &mut Rng) -> Plan {
        let nodes = match rng.u32(..10) {
            0..=4 => rng.u16(2..=3),
            5..=8 => rng.u16(4..=5),
            _ => rng.u16(6..=9),
        };
        let region = draw_region(nodes, rng);
        let cached_max = (rng.u32(..4) == 0).then(|| rng.u64(CACHED_MIN..=CACHED_MIN + 2));
        let pages = draw_pages(&region, cached_max, rng);
        let adjacent: Vec<u8> =
            (1..pages.len()).filter(|&i| pages[i].0 == pages[i - 1].0 + 1).map(|i| i as u8 - 1).collect();
        let locks = (0..pages.len() as u8).filter(|_| rng.u32(..3) == 0).take(2).collect();
        let (departures, runs_on) = draw_departures(nodes, &region.homes, rng);
        // Who leaves may have given its word to come to the barriers, and break it.
        let all_meet = rng.bool();
        let meets = |node: &NodeId| {
            all_meet || departures.iter().all(|going| going.node != *node || going.how != How::Leaves)
        };
        let (pace, net) = match rng.u32(..8) {
            0 => (WAKES_SLOWLY, QUICK),
            _ => (draw_pace(rng), draw_net(rng)),
        };
        let barrier_rounds = if rng.u32(..3) == 0 { rng.u32(1..=3) } else { 0 };
        Plan {
            nodes,
            members: (0..nodes).map(NodeId).filter(meets).collect(),
            bystanders: bystanders_of(&region),
            region,
            pages,
            adjacent,
            locks,
            threads_max: rng.u8(1..=3),
            operations: if nodes > 5 { 6..=10 } else { 8..=24 },
            barrier_rounds,
            pace,
            net,
            evict_one_in: [None, Some(rng.u32(2..8)), Some(rng.u32(8..40))][rng.usize(..3)],
            prefetch_one_in: (rng.u32(..3) == 0).then(|| rng.u32(3..40)),
            cached_max,
            abandons: rng.u32(..3) == 0,
            tries: rng.u32(..3) == 0,
            withdraws: rng.bool(),
            departures,
            runs_on,
            vanishes: rng.bool(),
        }
    }

    /// The fixed scenario of a livelock test: everybody starts at once and adds to one place.
    pub(crate) fn contended(nodes: u16, pages: Vec<PageId>) -> Plan {
        let homes = vec![NodeId(0), NodeId(1)];
        let region = RegionInfo {
            start: PageId(START),
            pages: 2 * EXTENT_PAGES,
            used: 2 * EXTENT_PAGES,
            placement: Placement::Cyclic,
            homes,
            quotas: Vec::new(),
        };
        let adjacent = vec![0];
        Plan {
            nodes,
            bystanders: bystanders_of(&region),
            region,
            pages,
            adjacent,
            locks: Vec::new(),
            threads_max: 1,
            operations: 0..=0,
            barrier_rounds: 0,
            members: NodeSet::EMPTY,
            pace: WAKES_SLOWLY,
            net: QUICK,
            evict_one_in: None,
            prefetch_one_in: None,
            cached_max: None,
            abandons: false,
            tries: false,
            withdraws: false,
            departures: Vec::new(),
            runs_on: false,
            vanishes: false,
        }
    }

    /// The fixed scenario of a crowd: eight pages in a row, and little room for them.
    pub(crate) fn crowded(nodes: u16, threads_max: u8) -> Plan {
        let edge = EXTENT_PAGES - 4;
        let pages = (edge..edge + CROWDED_PAGES).map(Plan::page).collect();
        let adjacent = (0..CROWDED_PAGES as u8 - 1).collect();
        Plan { threads_max, cached_max: Some(CACHED_MIN), adjacent, ..Plan::contended(nodes, pages) }
    }

    /// The regions of the run, by address.
    pub(crate) fn regions(&self) -> [&RegionInfo; 3] {
        let [before, behind] = &self.bystanders;
        [before, &self.region, behind]
    }

    /// The limit of a node: what it is home of fits, and a few pages more.
    pub(crate) fn limit(&self, node: NodeId) -> Option<MemoryLimit> {
        let at_home: u64 = self.regions().iter().map(|region| region.pages_at(node)).sum();
        let pages = at_home + self.cached_max?;
        Some(MemoryLimit { pages, cache_min: CACHED_MIN })
    }

    /// How long anybody may wait for anything.
    pub(crate) fn patience(&self) -> Span {
        // Some thousand hops, and some hundred of the longest holds.
        Span(3_000_000_000 + 1_000 * (self.net.typical.0 + self.net.tail.0))
    }

    /// The `index`-th page of the region of every plan.
    pub(crate) fn page(index: u64) -> PageId {
        PageId(START + index)
    }

    /// A page's index in `pages`; `None` for pages that no program touches, which come ahead of need.
    pub(crate) fn find(&self, page: PageId) -> Option<usize> {
        self.pages.iter().position(|&known| known == page)
    }

    /// The same for pages that programs touch.
    pub(crate) fn index(&self, page: PageId) -> usize {
        self.find(page).expect("only the plan's pages are touched")
    }
}

fn draw_region(nodes: u16, rng: &mut Rng) -> RegionInfo {
    let all: Vec<NodeId> = (0..nodes).map(NodeId).collect();
    let homes = match rng.u32(..3) {
        0 => vec![all[0]],
        1 => all[..rng.usize(1..all.len())].to_vec(),
        _ => all,
    };
    let placement = match rng.u32(..4) {
        0 => Placement::FirstTouch,
        1 => Placement::Block,
        2 => Placement::Cyclic,
        _ => Placement::OnNode(homes[rng.usize(..homes.len())]),
    };
    let quotas = if rng.bool() { Vec::new() } else { draw_quotas(homes.len() as u64, rng) };
    let pages = 3 * EXTENT_PAGES;
    RegionInfo { start: PageId(START), pages, used: pages, placement, homes, quotas }
}

/// Regions that lie back to back with `region`, one extent each.
fn bystanders_of(region: &RegionInfo) -> [RegionInfo; 2] {
    let homes = region.homes.clone();
    let behind = RegionInfo {
        start: PageId(region.start.0 + region.pages),
        pages: EXTENT_PAGES,
        used: EXTENT_PAGES,
        placement: Placement::OnNode(homes[0]),
        homes,
        quotas: Vec::new(),
    };
    let before = RegionInfo { start: PageId(region.start.0 - EXTENT_PAGES), ..behind.clone() };
    [before, behind]
}

/// Three extents' shares, and some room beside.
fn draw_quotas(homes: u64, rng: &mut Rng) -> Vec<Quota> {
    let share = |at| 3 / homes + u64::from(at < 3 % homes);
    (0..homes).map(|at| Quota { share: share(at), spare: rng.u64(..=homes) }).collect()
}

/// A few pages, among them neighbours in one extent and neighbours in two; more than fit into a node
/// that is limited.
fn draw_pages(region: &RegionInfo, cached_max: Option<u64>, rng: &mut Rng) -> Vec<PageId> {
    let edge = EXTENT_PAGES - 1;
    let indices: &[u64] = match rng.u32(..8) {
        // Runs long enough for streams, upwards, across an extent's edge, and with gaps to the region's end.
        6 => &[58, 59, 60, 61, 62, 63, 64, 65, 66],
        7 => &[173, 176, 179, 182, 185, 188, 191],
        0..=2 if cached_max.is_some() => &[3, 4, 5, 6, edge, edge + 1, edge + 9, 2 * edge + 9],
        _ if cached_max.is_some() => &[3, 4, edge, edge + 1, 2 * edge + 1, 2 * edge + 2],
        0 => &[7],
        1 => &[7, 8],
        2 => &[edge, edge + 1],
        3 => &[0, 1, 100],
        4 => &[3, edge, edge + 1, edge + 2],
        _ => &[1, 2, edge + 5, 2 * edge + 9],
    };
    indices.iter().map(|index| PageId(region.start.0 + index)).collect()
}

fn draw_departures(nodes: u16, homes: &[NodeId], rng: &mut Rng) -> (Vec<Departure>, bool) {
    let mut departures = Vec::new();
    let (crashes, runs_on) = [(true, false), (true, true), (false, false), (false, false)][rng.usize(..4)];
    // Somebody must be left that runs the others on.
    let survivor = runs_on.then(|| NodeId(rng.u16(..nodes)));
    if crashes {
        // Several at a time: one round begins in another.
        let (count, within) = (
            rng.u16(1..=if runs_on { 5 } else { 3 }).min(nodes - 1),
            [1_000_000, 20_000_000][rng.usize(..2)],
        );
        let first = rng.u64(..3_000_000);
        for crash in 0..count {
            let node = NodeId(rng.u16(..nodes));
            let at = Time(first + if crash == 0 { 0 } else { rng.u64(..within) });
            // The slot of a home stays empty: regions name it, and mean the home that is dead.
            let replaced = rng.bool() && !homes.contains(&node) && !runs_on;
            if departures.iter().all(|going: &Departure| going.node != node) && survivor != Some(node) {
                let is_early = runs_on && rng.u32(..4) == 0;
                let how = if is_early { How::IsDeclaredDead } else { How::Crashes };
                let in_a_call = if rng.u32(..4) > 0 { 0..[4, 20, 100][rng.usize(..3)] } else { 0..0 };
                departures.push(Departure { node, at, how, replaced, in_a_call });
            }
        }
    }
    for node in (0..nodes).map(NodeId).filter(|node| !homes.contains(node)) {
        let free = departures.iter().all(|going: &Departure| going.node != node);
        if free && survivor != Some(node) && rng.u32(..4) == 0 {
            let at = Time(rng.u64(..4_000_000));
            let (replaced, in_a_call) = (rng.bool(), 0..0);
            departures.push(Departure { node, at, how: How::Leaves, replaced, in_a_call });
        }
    }
    (departures, runs_on)
}

fn draw_pace(rng: &mut Rng) -> Pace {
    let pause = match rng.u32(..3) {
        0 => Span::from_us(1),
        1 => Span::from_us(200),
        _ => Span::from_ms(15),
    };
    Pace {
        step_min: Span(1),
        step: [Span(200), Span::from_us(2), Span::from_us(30)][rng.usize(..3)],
        pause_one_in: rng.u32(4..40),
        pause,
        between_one_in: rng.u32(1..=3),
    }
}

fn draw_net(rng: &mut Rng) -> Net {
    let (typical, tail_one_in, tail) = match rng.u32(..5) {
        0 => (Span::from_us(8), None, Span(0)),
        1 => (Span::from_us(100), None, Span(0)),
        2 => (Span::from_us(10), Some(8), Span::from_ms(2)),
        3 => (Span::from_us(20), Some(3), Span::from_ms(20)),
        _ => (Span::from_ms(2), Some(2), Span::from_ms(4)),
    };
    let duplicate_one_in = [None, Some(20), Some(3)][rng.usize(..3)];
    Net { typical, tail_one_in, tail, duplicate_one_in }
}

impl Net {
    /// How long one message or datagram is under way.
    pub(crate) fn delay(&self, rng: &mut Rng) -> Span {
        let base = Span(self.typical.0 / 2 + rng.u64(..=self.typical.0));
        match self.tail_one_in {
            Some(one_in) if rng.u32(..one_in) == 0 => Span(base.0 + rng.u64(..=self.tail.0)),
            Some(_) | None => base,
        }
    }

    /// Whether a thing that happens once in `one_in` times happens now.
    pub(crate) fn happens(one_in: Option<u32>, rng: &mut Rng) -> bool {
        one_in.is_some_and(|one_in| rng.u32(..one_in) == 0)
    }
}
