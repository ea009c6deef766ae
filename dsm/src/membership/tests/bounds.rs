//! What a message of the membership core may hold, and how a newcomer gets what does not fit one.

use super::*;
use crate::config::membership::{ASKERS_MAX, HEARTBEAT};

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

#[test]
fn who_asks_for_regions_without_end_is_refused_and_nobody_else_is() {
    let mut coordinator = with_silent_ranks(2);
    let (flood, other) = (NodeId(1), NodeId(2));
    let alloc = |coordinator: &mut Membership, from: NodeId, op| {
        let want = any(5000, ElementType::untagged(8));
        let control = Control::Alloc { op, name: "x".into(), want };
        coordinator.handle(Time(0), LinkId(u64::from(from.0)), Some(from), control);
    };
    let refused = |coordinator: &mut Membership, from: NodeId| {
        let actions = std::iter::from_fn(|| coordinator.poll_action());
        let is_refusal = |action: &Action| {
            matches!(action, Action::Send {
                to,
                control:
                    Control::AllocReply { result: Err(_), .. } | Control::UseReply { result: Err(_), .. },
            } if *to == from)
        };
        actions.filter(is_refusal).count()
    };
    // The region's home is the coordinator, which has yet to map it.
    (0..ASKERS_MAX as u64).for_each(|op| alloc(&mut coordinator, flood, op));
    assert_eq!(refused(&mut coordinator, flood), 0);
    alloc(&mut coordinator, flood, 9_000);
    let start = coordinator.regions().next().expect("it is on its way").info.start;
    let usage = Control::Use { op: 9_001, page: start, generation: None };
    coordinator.handle(Time(0), LinkId(1), Some(flood), usage);
    assert_eq!(refused(&mut coordinator, flood), 2);
    alloc(&mut coordinator, other, 1);
    assert_eq!(refused(&mut coordinator, other), 0);
    coordinator.region_mapped(start);
    let actions = std::iter::from_fn(|| coordinator.poll_action());
    let is_answer = |action: &Action| {
        matches!(action, Action::Send { control: Control::AllocReply { result: Ok(_), .. }, .. })
    };
    assert_eq!(actions.filter(is_answer).count(), ASKERS_MAX + 1, "all that were kept are answered");
}

/// Whether node 1, which is silent to the coordinator and to node 3, is dead after all were asked about it, if a
/// member says that it lives.
fn is_dead_though(says_so: NodeId) -> bool {
    let mut coordinator = with_silent_ranks(3);
    coordinator.met();
    let accused = Incarnation(2);
    coordinator.handle(Time(0), LinkId(3), Some(NodeId(3)), Control::Met);
    coordinator.handle(Time(0), LinkId(3), Some(NodeId(3)), Control::Suspect { of: accused });
    for beat in 1..40 {
        let now = Time(beat * HEARTBEAT.0);
        for living in [3, 4] {
            coordinator.observe(now, Observation::Heard(Incarnation(living), now));
        }
        coordinator.observe(now, Observation::Drained(now));
        while let Some(action) = coordinator.poll_action() {
            if let Action::Send { control: Control::Probe { of, question }, .. } = action {
                let alive = Control::Alive { of, question };
                coordinator.handle(now, LinkId(9), Some(says_so), alive);
            }
        }
    }
    coordinator.view().incarnation(accused).is_none()
}

#[test]
fn only_the_word_of_a_member_that_was_asked_keeps_a_silent_one_alive() {
    assert!(!is_dead_though(NodeId(2)), "it was asked");
    assert!(is_dead_though(NodeId(3)), "it accuses, and was not asked");
    assert!(is_dead_though(NodeId(1)), "it speaks of itself: that is heard, or is none of its words");
}
