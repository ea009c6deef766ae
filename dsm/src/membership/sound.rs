//! What no node of ours says. A peer that has the key may still be broken: nothing that it sends may end
//! this process, or take memory without a bound.

use super::{Control, Death, Introduction, RegionRecord, View};
use crate::coherence::{Placement, RegionInfo};
use crate::config::NODES_MAX;
use crate::config::keep::PATH_LEN_MAX;
use crate::config::membership::{DEATHS_MAX, EPOCHS_MAX, HOW_LEN_MAX, NAME_LEN_MAX};
use crate::page::{EXTENT_PAGES, NodeId, PAGE_SIZE};

impl Control {
    /// Whether the cores can take the message, in an arena of so many bytes.
    pub fn is_sound(&self, arena: u64) -> bool {
        match self {
            Control::Joined { id, view, regions: _ } => is_node(*id) && view.is_sound(),
            Control::Regions(regions) => regions.iter().all(|record| record.is_sound(arena)),
            Control::Alloc { name, .. } | Control::Remove { name, .. } => name.len() <= NAME_LEN_MAX,
            Control::View(view) => view.is_sound(),
            Control::Join(intro) => intro.is_sound(),
            Control::RegionAdded(record)
            | Control::AllocReply { result: Ok(record), .. }
            | Control::UseReply { result: Ok(record), .. } => record.is_sound(arena),
            Control::JoinRefused(_)
            | Control::AllocReply { result: Err(_), .. }
            | Control::Use { .. }
            | Control::UseReply { result: Err(_), .. }
            | Control::Unuse(_)
            | Control::RemoveReply { .. }
            | Control::RegionGone { .. }
            | Control::RegionMapped { .. }
            | Control::RegionUnmapped { .. }
            | Control::CannotRun { .. }
            | Control::Drained { .. }
            | Control::Leave
            | Control::LeaveAck
            | Control::Met
            | Control::Suspect { .. }
            | Control::Unsuspect { .. }
            | Control::ProcessEnded { .. }
            | Control::Probe { .. }
            | Control::Alive { .. }
            | Control::Shutdown { .. } => true,
        }
    }
}

impl View {
    fn is_sound(&self) -> bool {
        let ascending = self.members.is_sorted_by(|one, next| one.id < next.id);
        let dead = |(_, death): &(_, super::Death)| {
            let Death { member, how, runner: _ } = death;
            is_node(member.id) && member.intro.is_sound() && how.len() <= HOW_LEN_MAX
        };
        ascending
            && self.epoch.0 <= EPOCHS_MAX
            && self.members.last().is_none_or(|member| is_node(member.id))
            && self.members.iter().all(|member| member.intro.is_sound())
            && self.deaths.len() <= DEATHS_MAX
            && self.deaths.iter().all(dead)
            && self.has_sound_runners()
    }
}

impl Introduction {
    fn is_sound(&self) -> bool {
        let path_fits = |path: &String| path.len() <= PATH_LEN_MAX;
        self.name.len() <= NAME_LEN_MAX
            && self.host.is_sound()
            && self.keeps_at.as_ref().is_none_or(path_fits)
    }
}

impl RegionRecord {
    fn is_sound(&self, arena: u64) -> bool {
        let RegionInfo { start, pages, used, placement, homes, quotas } = &self.info;
        let end = start.0.checked_add(*pages).and_then(|end| end.checked_mul(PAGE_SIZE as u64));
        let aligned = start.0 % EXTENT_PAGES == 0 && pages % EXTENT_PAGES == 0 && *pages > 0;
        let home = match placement {
            Placement::OnNode(node) => is_node(*node),
            Placement::FirstTouch | Placement::Block | Placement::Cyclic => true,
        };
        let quota = |quota: &crate::coherence::Quota| {
            quota.share <= *pages && quota.spare <= *pages * homes.len() as u64
        };
        aligned
            && self.name.len() <= NAME_LEN_MAX
            && end.is_some_and(|end| end <= arena)
            && used <= pages
            && self.bytes <= used * PAGE_SIZE as u64
            && home
            && !homes.is_empty()
            && homes.len() <= NODES_MAX
            && homes.iter().all(|home| is_node(*home))
            && (quotas.is_empty() || quotas.len() == homes.len())
            && quotas.iter().all(quota)
    }
}

fn is_node(id: NodeId) -> bool {
    usize::from(id.0) < NODES_MAX
}

#[cfg(test)]
mod tests {
    use super::super::ElementType;
    use super::*;
    use crate::page::PageId;

    const ARENA: u64 = 1 << 30;

    fn record() -> RegionRecord {
        let info = RegionInfo {
            start: PageId(EXTENT_PAGES),
            pages: EXTENT_PAGES,
            used: 3,
            placement: Placement::Cyclic,
            homes: vec![NodeId(0), NodeId(1)],
            quotas: Vec::new(),
        };
        let (bytes, element) = (3 * PAGE_SIZE as u64, ElementType::untagged(8));
        RegionRecord { name: "region".into(), bytes, element, info, program: 1, generation: 1 }
    }

    #[test]
    fn a_region_that_no_core_can_take_is_not_sound() {
        assert!(Control::RegionAdded(record()).is_sound(ARENA));
        let spoils: [fn(&mut RegionRecord); 10] = [
            |record| record.name = "x".repeat(256),
            |record| record.info.homes.clear(),
            |record| record.info.homes[1] = NodeId(NODES_MAX as u16),
            |record| record.info.start.0 += 1,
            |record| record.info.pages += 1,
            |record| record.info.pages = 0,
            |record| record.info.start.0 = u64::MAX / EXTENT_PAGES * EXTENT_PAGES,
            |record| record.info.used = EXTENT_PAGES + 1,
            |record| record.info.placement = Placement::OnNode(NodeId(u16::MAX)),
            |record| record.bytes = u64::MAX,
        ];
        for spoil in spoils {
            let mut record = record();
            spoil(&mut record);
            assert!(!Control::RegionAdded(record.clone()).is_sound(ARENA), "{record:?}");
        }
        assert!(
            !Control::RegionAdded(record()).is_sound(EXTENT_PAGES * PAGE_SIZE as u64),
            "beyond the arena"
        );
    }

    #[test]
    fn a_view_names_each_node_once_and_none_that_cannot_be() {
        let member = |id| super::super::tests::member(NodeId(id));
        let view =
            |ids: &[u16]| View { members: ids.iter().copied().map(member).collect(), ..View::default() };
        assert!(Control::View(view(&[0, 1, 127])).is_sound(ARENA));
        let late = View { epoch: crate::page::Epoch(1 << 24), ..view(&[0]) };
        assert!(!Control::View(late).is_sound(ARENA), "no request number begins there");
        let long = "x".repeat(1 << 16);
        let spoils: [fn(&mut Introduction, String); 3] = [
            |intro, long| intro.name = long,
            |intro, long| intro.host.processes = long,
            |intro, long| intro.host.network = long,
        ];
        for spoil in spoils {
            let mut inflated = view(&[0]);
            spoil(&mut inflated.members[0].intro, long.clone());
            assert!(!Control::Join(inflated.members[0].intro.clone()).is_sound(ARENA));
            assert!(!Control::View(inflated).is_sound(ARENA), "a text without bound");
        }
        for ids in [&[0, 128][..], &[0, 0], &[1, 0]] {
            assert!(!Control::View(view(ids)).is_sound(ARENA), "{ids:?}");
        }
    }
}
