//! What a message of the membership core may hold, and how a newcomer gets what does not fit one.

use super::*;

#[test]
fn a_node_joins_a_cluster_with_five_thousand_regions_of_the_longest_names() {
    const REGIONS: usize = 5_000;
    let mut cluster = Cluster::with_extents(2 * REGIONS as u64);
    cluster.nodes[0].view.members[0].intro.memory_max = 1 << 50;
    for number in 0..REGIONS {
        let name = format!("{number:x>NAME_LEN_MAX$}");
        cluster.alloc(0, &name, 5000).expect("a region");
        cluster.seen[0].clear();
    }
    let newcomer = cluster.join(rank(0));
    assert!(cluster.nodes[newcomer].regions().eq(cluster.nodes[0].regions()));
    assert_eq!(cluster.nodes[newcomer].regions().count(), REGIONS);
    let parts = cluster.seen[0]
        .iter()
        .filter(|action| matches!(action, Action::Send { control: Control::Regions(_), .. }));
    assert!(parts.count() > 20, "in parts");
}

/// The transport does not keep the order of messages.
#[test]
fn a_welcome_whose_parts_come_in_another_order_is_complete_with_the_last() {
    let mut coordinator = with_silent_ranks(0);
    for (op, name) in ["x", "y"].into_iter().enumerate() {
        coordinator.alloc(op as u64, name.into(), any(5000, ElementType::untagged(8)));
    }
    let regions: Vec<RegionRecord> = coordinator.regions().cloned().collect();
    let [x, y] = regions.clone().try_into().expect("two regions");
    let gone = Control::RegionGone { start: x.info.start };
    let mut view = coordinator.view().clone();
    view.members.push(Member { id: NodeId(1), intro: intro(2, rank(0)) });
    let joined = Control::Joined { id: NodeId(1), view, regions: 2 };
    let mut newcomer = Membership::newcomer(intro(2, rank(0)), LinkId(0));
    while newcomer.poll_action().is_some() {}
    for early in [Control::Regions(vec![y.clone()]), gone, joined] {
        newcomer.handle(Time(0), LinkId(0), Some(COORDINATOR), early);
        assert_eq!((newcomer.poll_action(), newcomer.me()), (None, None));
    }
    newcomer.handle(Time(0), LinkId(0), Some(COORDINATOR), Control::Regions(vec![x]));
    assert_eq!(newcomer.poll_action(), Some(Action::Joined));
    assert!(newcomer.regions().eq([&y]), "the other one is gone");
}

#[test]
fn a_newcomer_that_cannot_keep_up_with_the_changes_gives_up_aloud() {
    let mut newcomer = Membership::newcomer(intro(2, rank(0)), LinkId(0));
    while newcomer.poll_action().is_some() {}
    let gone = Control::RegionGone { start: PageId(64) };
    for _ in 0..EARLY_MAX {
        newcomer.handle(Time(0), LinkId(0), Some(COORDINATOR), gone.clone());
    }
    assert_eq!(newcomer.poll_action(), None);
    newcomer.handle(Time(0), LinkId(0), Some(COORDINATOR), gone);
    assert!(matches!(newcomer.poll_action(), Some(Action::JoinRefused(reason)) if reason.contains("again")));
}

#[test]
fn a_hundred_homes_take_few_bytes_in_a_message() {
    let homes: Vec<NodeId> = (0..NODES_MAX as u16).map(NodeId).collect();
    let quota = |index: u64| crate::coherence::Quota { share: 1 + u64::from(index < 3), spare: 9 };
    let quotas = (0..NODES_MAX as u64).map(quota).collect();
    let placement = Placement::FirstTouch;
    let info = RegionInfo { start: PageId(64), pages: 1 << 20, used: 1 << 20, placement, homes, quotas };
    let bytes = crate::codec::encode_control(&info);
    assert!(bytes.len() < 64, "{} bytes", bytes.len());
    assert_eq!(crate::codec::decode_control::<RegionInfo>(&bytes), Ok(info));
}

#[test]
fn a_name_without_bound_is_refused_before_it_is_sent() {
    let mut member = Membership::newcomer(intro(2, rank(0)), LinkId(0));
    while member.poll_action().is_some() {}
    let name = "x".repeat(MESSAGE_LEN_MAX);
    member.alloc(1, name.clone(), any(5000, ElementType::untagged(8)));
    member.remove(2, name);
    for asked in [1, 2] {
        let ended = member.poll_action();
        assert!(matches!(ended, Some(Action::Done { op, result: Err(_) }) if op == asked), "{ended:?}");
    }
}
