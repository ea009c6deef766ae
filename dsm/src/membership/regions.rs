//! The coordinator's directory of regions: names, sizes, places in the arena, and who uses them.

use std::collections::BTreeMap;

use super::{RegionRecord, Returned, Want, pages_for};
use crate::coherence::{NodeSet, Placement, Quota, RegionInfo};
use crate::config::membership::NAME_LEN_MAX;
use crate::page::{EXTENT_PAGES, Incarnation, NodeId, PAGE_SIZE, PageId};

/// Regions by address. The arena's first extent is never given out: address 0 stays "nothing".
#[derive(Clone, Default)]
pub(super) struct Directory {
    regions: BTreeMap<PageId, Entry>,
    /// Extents from here on have never been given out; 0 before any was.
    unused_from: u64,
    /// The generation of the last region that was made; see [`is_of_one_cluster`].
    last_generation: u64,
}

#[derive(Clone)]
struct Entry {
    record: RegionRecord,
    /// Nodes that made or found it by its name.
    users: NodeSet,
    /// Nodes that opened references into it, and how often they were granted that.
    openers: BTreeMap<NodeId, u32>,
    /// To be removed when the last user goes.
    doomed: bool,
    /// Being unmapped; its place is not free yet.
    leaving: bool,
}

/// When a region that is to be removed goes.
pub(super) enum Removal {
    /// It has users; it goes with the last of them.
    WhenUnused,
    /// Nobody uses it.
    Now(PageId),
}

/// A node that keeps homes, and how many extents it has room for in all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Home {
    pub(super) node: NodeId,
    pub(super) extents: u64,
}

/// Bytes of an extent.
const EXTENT_LEN: u64 = EXTENT_PAGES * PAGE_SIZE as u64;

/// Bits of a generation that count the regions of one cluster. Those above are the cluster's own.
const COUNT_BITS: u32 = 32;
/// A generation is a number that every JSON reader holds exactly.
const GENERATION_BITS: u32 = 53;

/// Whether two regions, by their generations, were made in one cluster. Clusters draw their bits at random, so this
/// is for messages to people: another generation is refused in any case.
pub(super) fn is_of_one_cluster(one: u64, other: u64) -> bool {
    one >> COUNT_BITS == other >> COUNT_BITS
}

impl Directory {
    /// The directory of a new cluster.
    pub(super) fn of(founder: Incarnation) -> Directory {
        let cluster = founder.0 >> (u64::BITS + COUNT_BITS - GENERATION_BITS);
        Directory { last_generation: cluster << COUNT_BITS, ..Directory::default() }
    }

    pub(super) fn last_generation(&self) -> u64 {
        self.last_generation
    }

    pub(super) fn users(&self, start: PageId) -> NodeSet {
        self.regions.get(&start).map_or(NodeSet::EMPTY, Entry::users)
    }

    /// The region of that name, made if `want` allows; true if it is new.
    pub(super) fn alloc(
        &mut self,
        name: &str,
        want: Want,
        (user, program): (NodeId, u64),
        homes: &[Home],
        arena: u64,
    ) -> Result<(RegionRecord, bool), String> {
        check_name(name)?;
        if let Some(entry) = self.regions.values_mut().find(|entry| entry.record.name == name) {
            if entry.leaving {
                return Err(format!("region `{name}` is being removed"));
            }
            agree(entry, &want)?;
            entry.users.insert(user);
            return Ok((entry.record.clone(), false));
        }
        let Want::Any { bytes, element, placement } = want else {
            return Err(format!("there is no region `{name}`"));
        };
        if bytes == 0 {
            return Err(format!("region `{name}`: a region has at least one byte"));
        }
        let placement = placement.unwrap_or(Placement::FirstTouch);
        let ids: Vec<NodeId> = homes.iter().map(|home| home.node).collect();
        if let Placement::OnNode(node) = placement
            && !ids.contains(&node)
        {
            return Err(format!("region `{name}`: {node} keeps no homes; those that do: {ids:?}"));
        }
        let used = pages_for(bytes);
        let pages = used.next_multiple_of(EXTENT_PAGES);
        let start = self.find_place(pages, arena).ok_or_else(|| {
            format!("region `{name}` of {bytes} bytes does not fit the arena of {arena} bytes any more")
        })?;
        let mut info = RegionInfo { start, pages, used, placement, homes: ids, quotas: Vec::new() };
        info.quotas =
            self.find_room(&info, homes).map_err(|why| format!("region `{name}` of {bytes} bytes {why}"))?;
        self.last_generation += 1;
        self.unused_from = self.unused_from.max(start.0 + pages);
        let generation = self.last_generation;
        let record = RegionRecord { name: name.to_owned(), bytes, element, info, program, generation };
        let (users, openers) = (NodeSet::only(user), BTreeMap::new());
        let entry = Entry { record: record.clone(), users, openers, doomed: false, leaving: false };
        self.regions.insert(start, entry);
        Ok((record, true))
    }

    /// What each home gives a region; an error if that is not enough. Room is counted in whole extents.
    fn find_room(&self, info: &RegionInfo, homes: &[Home]) -> Result<Vec<Quota>, String> {
        let taken = |node| self.regions.values().map(|entry| entry.record.info.pages_at(node)).sum::<u64>();
        let left = |home: &Home| home.extents.saturating_sub(taken(home.node) / EXTENT_PAGES);
        let left: Vec<u64> = homes.iter().map(left).collect();
        let (room, all) = (left.iter().sum::<u64>(), homes.iter().map(|home| home.extents).sum::<u64>());
        if info.pages / EXTENT_PAGES > room {
            return Err(format!(
                "is larger than what the homes have left: {} of {} bytes (memory_max of all of them) are taken",
                (all - room) * EXTENT_LEN,
                all * EXTENT_LEN,
            ));
        }
        if info.placement == Placement::FirstTouch {
            return Ok(quotas(info.pages / EXTENT_PAGES, &left));
        }
        for (home, left) in homes.iter().zip(left) {
            let wanted = info.pages_at(home.node) / EXTENT_PAGES;
            if wanted > left {
                return Err(format!(
                    "needs {} bytes on {}, which has {} bytes of its memory_max left; first-touch placement takes them where there are any",
                    wanted * EXTENT_LEN,
                    home.node,
                    left * EXTENT_LEN,
                ));
            }
        }
        Ok(Vec::new())
    }

    /// Addresses that no region has had, so that a pointer into a region that is gone leads nowhere as long as
    /// possible; when there are no more, the first fit.
    fn find_place(&self, pages: u64, arena: u64) -> Option<PageId> {
        let fits = |at: u64| {
            let end = at.checked_add(pages).and_then(|end| end.checked_mul(PAGE_SIZE as u64));
            end.is_some_and(|end| end <= arena)
        };
        let unused = self.unused_from.max(EXTENT_PAGES);
        if fits(unused) {
            return Some(PageId(unused));
        }
        let mut at = EXTENT_PAGES;
        for (start, entry) in &self.regions {
            if start.0 - at >= pages {
                break;
            }
            at = start.0 + entry.record.info.pages;
        }
        fits(at).then_some(PageId(at))
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<Removal, String> {
        let found = self.regions.iter_mut().find(|(_, entry)| entry.record.name == name && !entry.leaving);
        let Some((&start, entry)) = found else {
            return Err(format!("there is no region `{name}`"));
        };
        entry.doomed = true;
        if entry.is_used() {
            return Ok(Removal::WhenUnused);
        }
        entry.leaving = true;
        Ok(Removal::Now(start))
    }

    /// A node is gone; returns the regions that go with it.
    pub(super) fn user_gone(&mut self, node: NodeId) -> Vec<PageId> {
        let mut unused = Vec::new();
        for (&start, entry) in &mut self.regions {
            entry.users.remove(node);
            entry.openers.remove(&node);
            if entry.goes_now() {
                unused.push(start);
            }
        }
        unused
    }

    /// A node opens a reference into a region, or follows a pointer into one that it has not heard of.
    pub(super) fn open(
        &mut self,
        page: PageId,
        generation: Option<u64>,
        node: NodeId,
    ) -> Result<RegionRecord, String> {
        let entry = self.regions.range_mut(..=page).next_back().map(|(_, entry)| entry);
        let entry = entry.filter(|entry| {
            let is_it = generation.is_none_or(|generation| entry.record.generation == generation);
            is_it && entry.record.info.contains(page) && !entry.leaving
        });
        if generation.is_some_and(|generation| !is_of_one_cluster(self.last_generation, generation)) {
            return Err("the reference was made in another cluster".into());
        }
        let entry = entry.ok_or_else(|| "the reference is stale: its region is gone".to_owned())?;
        *entry.openers.entry(node).or_default() += 1;
        Ok(entry.record.clone())
    }

    /// A node gives grants back; returns the region if it goes with that.
    pub(super) fn close(&mut self, returned: &Returned, node: NodeId) -> Option<PageId> {
        let entry = self.regions.get_mut(&returned.start)?;
        let grants =
            entry.openers.get_mut(&node).filter(|_| entry.record.generation == returned.generation)?;
        *grants = grants.saturating_sub(returned.grants);
        if *grants == 0 {
            entry.openers.remove(&node);
        }
        entry.goes_now().then_some(returned.start)
    }

    /// The region's place is free again.
    pub(super) fn forget(&mut self, start: PageId) {
        self.regions.remove(&start);
    }
}

impl Entry {
    fn users(&self) -> NodeSet {
        let mut users = self.users;
        self.openers.keys().for_each(|node| users.insert(*node));
        users
    }

    fn is_used(&self) -> bool {
        !self.users.is_empty() || !self.openers.is_empty()
    }

    /// Whether its removal waited for its last user, and that one has gone; it is being unmapped then.
    fn goes_now(&mut self) -> bool {
        let goes = self.doomed && !self.leaving && !self.is_used();
        self.leaving |= goes;
        goes
    }
}

/// Shares in proportion to what the homes have left, so that they suffice; and up to half of that for
/// who is touched first by many. Where that is plenty, every manager's part of it is the whole region.
fn quotas(extents: u64, left: &[u64]) -> Vec<Quota> {
    let all: u128 = left.iter().map(|&left| u128::from(left)).sum();
    let part = |left: u64| (u128::from(extents) * u128::from(left) / all) as u64;
    let mut shares: Vec<u64> = left.iter().map(|&left| part(left)).collect();
    let mut rest = extents - shares.iter().sum::<u64>();
    for (share, &left) in shares.iter_mut().zip(left) {
        let more = u64::from(rest > 0 && *share < left);
        *share += more;
        rest -= more;
    }
    let plenty = extents * left.len() as u64;
    let spare = |share: u64, left: u64| (left / 2).saturating_sub(share).min(plenty);
    shares.into_iter().zip(left).map(|(share, &left)| Quota { share, spare: spare(share, left) }).collect()
}

/// Whether a region may have this name: names stand in tables and in lines of logs.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > NAME_LEN_MAX {
        return Err(format!("a region's name has 1 to {NAME_LEN_MAX} bytes, not {}", name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err(format!("region {name:?}: a name has no line ends or other control characters"));
    }
    Ok(())
}

/// The command that removes a region, as a shell reads it.
pub fn removal_command(name: &str) -> String {
    // Only a name with a zero byte cannot be quoted, and no region has one.
    let quoted = shlex::try_quote(name).unwrap_or(name.into());
    let end_of_flags = if name.starts_with('-') { "-- " } else { "" };
    format!("pagemesh regions rm {end_of_flags}{quoted}")
}

/// Whether the region that is there is the one that is wanted.
fn agree(entry: &Entry, want: &Want) -> Result<(), String> {
    let RegionRecord { name, bytes, element, info, .. } = &entry.record;
    let placement = info.placement;
    let (wanted_bytes, wanted, wanted_placement) = match want {
        Want::Existing { element } => (bytes, element, placement),
        Want::Any { bytes, element, placement: wanted } => (bytes, element, wanted.unwrap_or(placement)),
    };
    let (own, other) = if bytes != wanted_bytes || !element.opens_as(wanted, *bytes) {
        (format!("{bytes} bytes in {element}"), format!("{wanted_bytes} in {wanted}"))
    } else if placement != wanted_placement {
        (format!("placement {placement}"), wanted_placement.to_string())
    } else {
        return Ok(());
    };
    let remedy = if entry.doomed {
        let users: Vec<String> = entry.users().iter().map(|node| node.to_string()).collect();
        format!(
            "its removal is pending: the name is free when its last user has left or dropped it (now {})",
            users.join(", ")
        )
    } else {
        format!("a region that is left over goes with `{}`", removal_command(name))
    };
    Err(format!("region `{name}` exists with {own}, not {other}; {remedy}"))
}
