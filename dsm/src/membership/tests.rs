//! Membership driven by hand.

mod bounds;
mod deaths;
mod runners;

use super::*;
use crate::config::membership::{NAME_LEN_MAX, REGIONS_LEN_MAX};
use crate::config::{MESSAGE_LEN_MAX, NODES_MAX};
use crate::page::Incarnation;

fn intro(incarnation: u64, kind: Kind) -> Introduction {
    Introduction {
        incarnation: Incarnation(incarnation),
        kind,
        name: "test".into(),
        addr: SocketAddr::from(([127, 0, 0, 1], 1000 + incarnation as u16)),
        host: host("here", "here 1"),
        pid: incarnation as u32,
        started: 0,
        memory_max: 1 << 20,
        arena_base: 0,
        arena_size: 1 << 30,
        keeps_at: None,
        index: None,
    }
}

fn host(network: &str, processes: &str) -> HostId {
    HostId { processes: processes.into(), network: network.into() }
}

/// In an arena of so many extents, of which the first is never given out.
fn in_arena(extents: u64, intro: Introduction) -> Introduction {
    Introduction { arena_size: extents * EXTENT_PAGES * PAGE_SIZE as u64, ..intro }
}

/// A daemon with this id.
pub(crate) fn member(id: NodeId) -> Member {
    Member { id, intro: intro(u64::from(id.0) + 1, Kind::Daemon) }
}

fn rank(rank: u32) -> Kind {
    Kind::Rank { program: 7, rank, ranks: 3 }
}

/// No message that the core builds is too long for the transport.
fn assert_fits(control: &Control) {
    let (len, is_part) =
        (crate::codec::encode_control(control).len(), matches!(control, Control::Regions(_)));
    let most = if is_part { REGIONS_LEN_MAX } else { MESSAGE_LEN_MAX / 2 };
    assert!(len <= most, "{len} bytes");
}

/// A cluster whose messages arrive at once.
struct Cluster {
    nodes: Vec<Membership>,
    seen: Vec<Vec<Action>>,
    extents: u64,
}

impl Cluster {
    fn new() -> Self {
        Cluster::with_extents(1 << 12)
    }

    /// With an arena of so many extents.
    fn with_extents(extents: u64) -> Self {
        let coordinator = Membership::coordinator(in_arena(extents, intro(1, Kind::Daemon)));
        let mut cluster = Cluster { nodes: vec![coordinator], seen: vec![vec![]], extents };
        cluster.settle();
        cluster
    }

    fn join(&mut self, kind: Kind) -> usize {
        let at = self.nodes.len();
        let intro = in_arena(self.extents, intro(at as u64 + 1, kind));
        self.nodes.push(Membership::newcomer(intro, LinkId(0)));
        self.seen.push(vec![]);
        self.settle();
        at
    }

    fn at(&self, id: NodeId) -> Option<usize> {
        // A newcomer is a member before it knows its number; one that has left still gets its answer.
        let member = self.nodes[0].view().member(id).map(|member| member.intro.incarnation);
        let by_view = self.nodes.iter().position(|node| Some(node.intro.incarnation) == member);
        by_view.or_else(|| self.nodes.iter().rposition(|node| node.me() == Some(id)))
    }

    fn settle(&mut self) {
        while let Some((from, action)) =
            (0..self.nodes.len()).find_map(|i| self.nodes[i].poll_action().map(|action| (i, action)))
        {
            let sender = self.nodes[from].me();
            if let Action::Send { control, .. } | Action::SendLink { control, .. } = &action {
                assert_fits(control);
            }
            match action.clone() {
                Action::SendLink { link, control } => {
                    let to = link.0 as usize;
                    let known = if from == 0 { sender } else { None };
                    self.nodes[to].handle(Time(0), LinkId(from as u64), known, control);
                }
                Action::Send { to, control } => {
                    if let Some(to) = self.at(to) {
                        self.nodes[to].handle(Time(0), LinkId(from as u64), sender, control);
                    }
                }
                Action::MapRegion(record) => self.nodes[from].region_mapped(record.info.start),
                Action::UnmapRegion(record) => self.nodes[from].region_unmapped(record.info.start),
                Action::Joined
                | Action::JoinRefused(_)
                | Action::ViewChanged { .. }
                | Action::ProgramEnded { .. }
                | Action::Done { .. }
                | Action::Left
                | Action::Shutdown { .. }
                | Action::Ping(_)
                | Action::Inspect { .. }
                | Action::CoordinatorDied { .. }
                | Action::CutOff { .. } => {}
            }
            self.seen[from].push(action);
        }
    }

    /// How the last request of a node has ended.
    fn last_done(&self, node: usize) -> Option<&Action> {
        self.seen[node].iter().rfind(|action| matches!(action, Action::Done { .. }))
    }

    fn alloc(&mut self, node: usize, name: &str, bytes: u64) -> Result<RegionRecord, String> {
        self.ask(node, name, any(bytes, ElementType::untagged(8)))
    }

    fn ask(&mut self, node: usize, name: &str, want: Want) -> Result<RegionRecord, String> {
        self.nodes[node].alloc(5, name.into(), want);
        self.settle();
        match self.last_done(node) {
            Some(Action::Done { op: 5, result }) => result.clone().map(|record| record.expect("a region")),
            other => panic!("{other:?}"),
        }
    }
}

fn any(bytes: u64, element: ElementType) -> Want {
    Want::Any { bytes, element, placement: None }
}

#[test]
fn ids_are_given_in_order_and_reused_after_a_leave() {
    let mut cluster = Cluster::new();
    let a = cluster.join(rank(0));
    let b = cluster.join(rank(1));
    assert_eq!((cluster.nodes[a].me(), cluster.nodes[b].me()), (Some(NodeId(1)), Some(NodeId(2))));
    let epoch = cluster.nodes[b].view().epoch;
    cluster.nodes[a].leave();
    cluster.settle();
    assert!(cluster.seen[a].contains(&Action::Left));
    assert!(cluster.nodes[b].view().epoch > epoch);
    let c = cluster.join(rank(2));
    assert_eq!(cluster.nodes[c].me(), Some(NodeId(1)));
}

/// Why a newcomer with this address, on this host, is refused by a coordinator at `founder` on the network `here`.
fn refusal(founder: &str, newcomer: &str, network: &str) -> Option<String> {
    let addressed = |intro: Introduction, addr: &str| Introduction { addr: addr.parse().unwrap(), ..intro };
    let mut coordinator = Membership::coordinator(addressed(intro(1, Kind::Daemon), founder));
    while coordinator.poll_action().is_some() {}
    let joins = Introduction { host: host(network, "there 1"), ..addressed(intro(2, rank(0)), newcomer) };
    coordinator.handle(Time(0), LinkId(2), None, Control::Join(joins));
    match coordinator.poll_action() {
        Some(Action::SendLink { control: Control::JoinRefused(reason), .. }) => Some(reason),
        Some(Action::SendLink { control: Control::Joined { .. }, .. }) => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_address_that_some_member_cannot_send_to_is_refused() {
    let refused = |founder, newcomer, host, words: &str| {
        let reason = refusal(founder, newcomer, host).expect("a refusal");
        assert!(reason.contains(words), "{reason}");
    };
    refused("10.0.0.1:1", "0.0.0.0:2", "here", "it listens at 0.0.0.0:2");
    refused("10.0.0.1:1", "[::]:2", "there", "it listens at [::]:2");
    refused("10.0.0.1:1", "127.0.0.1:2", "there", "it listens at 127.0.0.1:2, to which daemon 0");
    refused("127.0.0.1:1", "10.0.0.2:2", "there", "daemon 0, process 1 at 127.0.0.1:1 listens at a loopback");
    for newcomer in ["127.0.0.1:2", "10.0.0.1:2"] {
        assert_eq!(refusal("127.0.0.1:1", newcomer, "here"), None, "one network namespace");
    }
    assert_eq!(refusal("10.0.0.1:1", "10.0.0.2:2", "there"), None, "two hosts");
    assert_eq!(refusal("127.0.0.1:1", "127.0.0.1:2", ""), None, "a host that does not know its network");
}

#[test]
fn a_start_of_a_node_joins_once() {
    let mut coordinator = Membership::coordinator(intro(1, Kind::Daemon));
    let reply = |coordinator: &mut Membership, link| {
        coordinator.handle(Time(0), LinkId(link), None, Control::Join(intro(2, rank(0))));
        std::iter::from_fn(|| coordinator.poll_action()).find_map(|action| {
            let Action::SendLink { control: Control::JoinRefused(reason), .. } = action else { return None };
            Some(reason)
        })
    };
    assert_eq!(reply(&mut coordinator, 2), None);
    assert!(reply(&mut coordinator, 3).expect("it is a member").contains("joined before"));
    coordinator.observe(Time(0), Observation::ProcessEnded(Incarnation(2)));
    assert!(reply(&mut coordinator, 4).expect("it is dead").contains("joined before"));
}

#[test]
fn a_cluster_of_very_many_changes_refuses_newcomers_and_lets_members_go() {
    let mut cluster = Cluster::new();
    let a = cluster.join(rank(0));
    cluster.nodes[0].view.epoch = Epoch(crate::config::membership::EPOCHS_MAX - 2 * NODES_MAX as u64);
    let refused = cluster.join(rank(1));
    assert!(
        matches!(&cluster.seen[refused][..], [.., Action::JoinRefused(reason)] if reason.contains("new one"))
    );
    cluster.nodes[a].leave();
    cluster.settle();
    assert!(cluster.seen[a].contains(&Action::Left));
}

#[test]
fn a_rank_number_is_taken_once() {
    let mut cluster = Cluster::new();
    cluster.join(rank(1));
    let twice = cluster.join(rank(1));
    assert!(
        matches!(&cluster.seen[twice][..], [.., Action::JoinRefused(reason)] if reason.contains("already"))
    );
}

#[test]
fn a_region_is_told_of_to_all_members_and_found_by_its_name() {
    let mut cluster = Cluster::new();
    let a = cluster.join(rank(0));
    let b = cluster.join(rank(1));
    let first = cluster.alloc(a, "x", 5000).unwrap();
    assert!(cluster.seen[b].contains(&Action::MapRegion(first.clone())));
    assert_eq!(cluster.alloc(b, "x", 5000).unwrap(), first);
    assert_ne!(first.info.start, PageId(0));
}

/// What the coordinator says to a member, of all that it has to say.
fn told(coordinator: &mut Membership, member: NodeId) -> Vec<Control> {
    let actions = std::iter::from_fn(|| coordinator.poll_action());
    let to_member = actions.filter_map(|action| {
        let Action::Send { to, control } = action else { return None };
        (to == member).then_some(control)
    });
    to_member.collect()
}

/// A coordinator that keeps all homes, and ranks that say nothing by themselves.
fn with_silent_ranks(count: u64) -> Membership {
    let mut coordinator = Membership::coordinator(intro(1, Kind::Daemon));
    for node in 1..=count {
        let newcomer = Control::Join(intro(node + 1, rank(node as u32 - 1)));
        coordinator.handle(Time(0), LinkId(node), None, newcomer);
    }
    while coordinator.poll_action().is_some() {}
    coordinator
}

#[test]
fn an_allocation_waits_for_the_homes_and_for_no_other_member() {
    let mut coordinator = with_silent_ranks(2);
    let (one, two) = (NodeId(1), NodeId(2));
    let alloc = |op| {
        let want = any(5000, ElementType::untagged(8));
        Control::Alloc { op, name: "x".into(), want }
    };
    coordinator.handle(Time(0), LinkId(1), Some(one), alloc(5));
    coordinator.handle(Time(0), LinkId(2), Some(two), alloc(6));
    let actions: Vec<Action> = std::iter::from_fn(|| coordinator.poll_action()).collect();
    let is_answer =
        |action: &Action| matches!(action, Action::Send { control: Control::AllocReply { .. }, .. });
    assert!(!actions.iter().any(is_answer), "the home has yet to map it");
    let told_two = |action: &Action| matches!(action, Action::Send { to, control: Control::RegionAdded(_) } if *to == two);
    assert!(actions.iter().any(told_two), "others are told at once");
    let start = coordinator.regions().next().expect("the region").info.start;
    coordinator.region_mapped(start);
    let actions: Vec<Action> = std::iter::from_fn(|| coordinator.poll_action()).collect();
    assert_eq!(actions.iter().filter(|action| is_answer(action)).count(), 2, "{actions:?}");
    coordinator.handle(Time(0), LinkId(2), Some(two), alloc(7));
    assert!(matches!(&told(&mut coordinator, two)[..], [Control::AllocReply { op: 7, result: Ok(_) }]));
}

#[test]
fn an_allocation_ends_when_a_home_dies_that_has_yet_to_map_the_region() {
    let mut coordinator = Membership::coordinator(intro(1, rank(0)));
    for node in [1, 2] {
        let newcomer = Control::Join(intro(node + 1, rank(node as u32)));
        coordinator.handle(Time(0), LinkId(node), None, newcomer);
    }
    let one = NodeId(1);
    let want = any(5000, ElementType::untagged(8));
    coordinator.handle(Time(0), LinkId(1), Some(one), Control::Alloc { op: 5, name: "x".into(), want });
    let RegionRecord { info, generation, .. } = coordinator.regions().next().expect("the region").clone();
    assert!(info.homes.contains(&NodeId(2)));
    let start = info.start;
    coordinator.region_mapped(start);
    coordinator.handle(Time(0), LinkId(1), Some(one), Control::RegionMapped { start, generation });
    let is_answer = |control: &Control| matches!(control, Control::AllocReply { .. });
    assert!(!told(&mut coordinator, one).iter().any(is_answer), "node 2 has yet to map it");
    coordinator.observe(Time(0), Observation::ProcessEnded(Incarnation(3)));
    assert!(told(&mut coordinator, one).iter().any(is_answer));
}

/// Found by a seed of the simulator: a rank leaves while it waits, and a newcomer gets its number.
#[test]
fn an_answer_that_a_departed_member_waited_for_goes_to_no_newcomer() {
    let mut coordinator = with_silent_ranks(1);
    let one = NodeId(1);
    let want = any(5000, ElementType::untagged(8));
    coordinator.handle(Time(0), LinkId(1), Some(one), Control::Alloc { op: 5, name: "x".into(), want });
    coordinator.handle(Time(0), LinkId(1), Some(one), Control::Leave);
    coordinator.handle(Time(0), LinkId(9), None, Control::Join(intro(9, rank(2))));
    assert_eq!(coordinator.view().member(one).map(|member| member.intro.incarnation), Some(Incarnation(9)));
    while coordinator.poll_action().is_some() {}
    let start = coordinator.regions().next().expect("the region").info.start;
    coordinator.region_mapped(start);
    assert_eq!(told(&mut coordinator, one), []);
}

/// The answer to a request may come before the news that all members get, and the removal after both.
#[test]
fn a_member_maps_a_region_at_its_first_mention_and_answers_for_it_when_it_was_told() {
    let mut coordinator = with_silent_ranks(1);
    let one = NodeId(1);
    let want = any(5000, ElementType::untagged(8));
    coordinator.handle(Time(0), LinkId(1), Some(one), Control::Alloc { op: 5, name: "x".into(), want });
    let start = coordinator.regions().next().expect("the region").info.start;
    coordinator.region_mapped(start);
    let [added, reply] = told(&mut coordinator, one).try_into().expect("the news and the answer");
    let mut member = Membership::newcomer(intro(2, rank(0)), LinkId(0));
    let view = coordinator.view().clone();
    let joined = Control::Joined { id: one, view, regions: 0 };
    member.handle(Time(0), LinkId(0), Some(COORDINATOR), joined);
    while member.poll_action().is_some() {}
    member.handle(Time(0), LinkId(0), Some(COORDINATOR), reply);
    assert!(matches!(member.poll_action(), Some(Action::MapRegion(_))), "its thread is told afterwards");
    assert!(matches!(member.poll_action(), Some(Action::Done { op: 5, result: Ok(_) })));
    member.region_mapped(start);
    assert_eq!(member.poll_action(), None, "the news is on its way");
    member.handle(Time(0), LinkId(0), Some(COORDINATOR), added.clone());
    assert!(matches!(member.poll_action(), Some(Action::Send { control: Control::RegionMapped { .. }, .. })));
    member.handle(Time(0), LinkId(0), Some(COORDINATOR), added);
    assert_eq!(member.poll_action(), None, "it is mapped once");
}

#[test]
fn a_reference_into_a_region_that_its_node_has_not_heard_of_opens() {
    let mut cluster = Cluster::new();
    let (a, b) = (cluster.join(rank(0)), cluster.join(rank(1)));
    let region = cluster.alloc(a, "x", 5000).unwrap();
    // As it was before the news came.
    cluster.nodes[b].regions.clear();
    cluster.seen[b].clear();
    let page = PageId(region.info.start.0 + 1);
    let addr = page.start();
    assert!(
        matches!(cluster.nodes[b].open(addr, 8, region.generation), Ok(Opened::Unused { page: p }) if p == page)
    );
    cluster.nodes[b].ask_use(9, page, None);
    cluster.settle();
    let mapped = cluster.seen[b].iter().position(|action| *action == Action::MapRegion(region.clone()));
    let done =
        cluster.seen[b].iter().position(|action| matches!(action, Action::Done { op: 9, result: Ok(_) }));
    assert!(mapped.is_some() && mapped < done, "{:?}", cluster.seen[b]);
    assert!(matches!(cluster.nodes[b].open(addr, 8, region.generation), Ok(Opened::Used(_))));
    // Nothing lies behind the region.
    cluster.nodes[b].ask_use(9, PageId(1 << 11), None);
    cluster.settle();
    assert!(matches!(cluster.last_done(b), Some(Action::Done { op: 9, result: Err(_) })));
}

#[test]
fn two_programs_that_disagree_on_a_size_are_told_both_sizes() {
    let mut cluster = Cluster::new();
    let a = cluster.join(rank(0));
    let b = cluster.join(rank(1));
    cluster.alloc(a, "x", 5000).unwrap();
    let error = cluster.alloc(b, "x", 6000).unwrap_err();
    assert!(error.contains("5000") && error.contains("6000"), "{error}");
}

#[test]
fn a_region_of_one_type_is_refused_as_another_with_both_names() {
    let mut cluster = Cluster::new();
    let (a, b) = (cluster.join(rank(0)), cluster.join(rank(1)));
    let of = |size, text: &str| ElementType { size, tag: Some(TypeTag::new(text).expect("a tag")) };
    let made = cluster.ask(a, "x", any(4096, of(8, "<u8"))).unwrap();
    assert_eq!(cluster.ask(b, "x", any(4096, of(8, "<u8"))).as_ref(), Ok(&made));
    assert_eq!(cluster.ask(b, "x", Want::Existing { element: of(8, "<u8") }).as_ref(), Ok(&made));
    for want in [any(4096, of(8, "<f8")), Want::Existing { element: of(8, "<f8") }] {
        let error = cluster.ask(b, "x", want).unwrap_err();
        assert!(error.contains("`x`") && error.contains("`<u8` (u64)"), "{error}");
        assert!(error.contains("`<f8` (f64)"), "{error}");
    }
    // Without a tag on either side the type is not compared.
    assert!(cluster.ask(b, "x", Want::Existing { element: ElementType::untagged(8) }).is_ok());
    cluster.ask(a, "y", any(4096, ElementType::untagged(1))).unwrap();
    assert!(cluster.ask(b, "y", Want::Existing { element: of(8, "<f8") }).is_ok());
    assert!(cluster.ask(b, "y", Want::Existing { element: of(4097, "|V4097") }).is_err());
}

#[test]
fn a_region_of_one_placement_is_refused_as_another_with_both_names() {
    let mut cluster = Cluster::new();
    let (a, b) = (cluster.join(rank(0)), cluster.join(rank(1)));
    let placed = |placement| {
        let element = ElementType::untagged(8);
        Want::Any { bytes: 4096, element, placement }
    };
    let made = cluster.ask(a, "x", placed(Some(Placement::Block))).unwrap();
    assert_eq!(cluster.ask(b, "x", placed(Some(Placement::Block))).as_ref(), Ok(&made));
    assert_eq!(cluster.ask(b, "x", placed(None)).as_ref(), Ok(&made), "any placement");
    for (other, name) in [
        (Placement::FirstTouch, "first touch"),
        (Placement::Cyclic, "cyclic"),
        (Placement::OnNode(NodeId(1)), "on node 1"),
    ] {
        let error = cluster.ask(b, "x", placed(Some(other))).unwrap_err();
        assert!(error.contains("`x`") && error.contains(&format!("placement block, not {name};")), "{error}");
    }
    // Without a rule a region is made for first touch.
    cluster.ask(a, "y", placed(None)).unwrap();
    let error = cluster.ask(b, "y", placed(Some(Placement::Cyclic))).unwrap_err();
    assert!(error.contains("placement first touch, not cyclic"), "{error}");
}

#[test]
fn a_region_beyond_the_homes_limits_is_refused() {
    let mut cluster = Cluster::new();
    let a = cluster.join(rank(0));
    let error = cluster.alloc(a, "x", 2 << 20).unwrap_err();
    assert!(error.contains("larger than what the homes have left"), "{error}");
}

#[test]
fn a_region_s_name_fits_a_line_of_a_table() {
    let mut cluster = Cluster::new();
    let a = cluster.join(rank(0));
    for name in ["", "two\nlines", "a\ttab", "\u{1b}[2J", &"x".repeat(256)] {
        let error = cluster.alloc(a, name, 5000).unwrap_err();
        assert!(error.contains("name") && !error.contains(char::is_control), "{error}");
    }
    for name in ["a b", "-x", "naïve/ü", &"x".repeat(255)] {
        assert!(cluster.alloc(a, name, 8).is_ok(), "{name}");
    }
}

#[test]
fn a_removed_region_goes_with_its_last_user_and_frees_its_place() {
    // Two regions fit.
    let mut cluster = Cluster::with_extents(3);
    let a = cluster.join(rank(0));
    let b = cluster.join(rank(1));
    let first = cluster.alloc(a, "x", 5000).unwrap();
    cluster.nodes[a].remove(6, "x".into());
    cluster.settle();
    assert!(!cluster.seen[b].contains(&Action::UnmapRegion(first.clone())), "a still uses it");
    cluster.nodes[a].leave();
    cluster.settle();
    assert!(cluster.seen[b].contains(&Action::UnmapRegion(first.clone())));
    let second = cluster.alloc(b, "y", 5000).unwrap();
    assert_ne!(second.info.start, first.info.start, "there are addresses that no region has had");
    let third = cluster.alloc(b, "z", 5000).unwrap();
    assert_eq!(third.info.start, first.info.start);
    assert_ne!(third.generation, first.generation);
}

#[test]
fn a_region_whose_removal_is_pending_says_so_to_a_program_that_wants_another_size() {
    let mut cluster = Cluster::new();
    let (a, b) = (cluster.join(rank(0)), cluster.join(rank(1)));
    cluster.alloc(a, "x", 5000).unwrap();
    cluster.nodes[b].remove(6, "x".into());
    cluster.settle();
    let error = cluster.alloc(b, "x", 616).unwrap_err();
    assert!(error.contains("5000 bytes") && error.contains("removal is pending"), "{error}");
    assert!(error.contains("node 1") && !error.contains("regions rm"), "{error}");
}

#[test]
fn the_command_that_removes_a_region_can_be_pasted_into_a_shell() {
    let mut cluster = Cluster::new();
    let a = cluster.join(rank(0));
    for (name, command) in [
        ("data", "`pagemesh regions rm data`"),
        ("mutex t", "`pagemesh regions rm 'mutex t'`"),
        ("it's $HOME", "`pagemesh regions rm \"it's \"'$HOME'`"),
        ("-rf", "`pagemesh regions rm -- -rf`"),
    ] {
        cluster.alloc(a, name, 5000).unwrap();
        let error = cluster.alloc(a, name, 616).unwrap_err();
        assert!(error.contains(command), "{error}");
    }
}

#[test]
fn a_reference_of_another_cluster_is_refused_although_it_has_the_same_place() {
    let mut records = [0, 1].map(|high| {
        let founder = intro(high << 63 | 1, Kind::Daemon);
        let coordinator = Membership::coordinator(in_arena(8, founder));
        let mut cluster = Cluster { nodes: vec![coordinator], seen: vec![vec![]], extents: 8 };
        cluster.settle();
        let record = cluster.alloc(0, "x", 5000).unwrap();
        (cluster, record)
    });
    let (own, foreign) = (records[0].1.clone(), records[1].1.clone());
    assert_eq!(own.info.start, foreign.info.start);
    let error = open(&mut records[0].0, 0, &foreign).unwrap_err();
    assert!(error.contains("another cluster"), "{error}");
    assert!(open(&mut records[0].0, 0, &own).is_ok());
}

/// Lets the time of two heartbeats pass, so that what no handle uses goes back to the coordinator.
fn two_heartbeats(cluster: &mut Cluster, node: usize) {
    for _ in 0..2 {
        cluster.nodes[node].return_idle_uses();
        cluster.settle();
    }
}

fn open(cluster: &mut Cluster, node: usize, record: &RegionRecord) -> Result<Opened, String> {
    cluster.nodes[node].open(record.info.start.start(), record.bytes, record.generation)
}

/// The share of a node that uses the region.
fn share(cluster: &mut Cluster, node: usize, record: &RegionRecord) -> RegionUse {
    match open(cluster, node, record) {
        Ok(Opened::Used(share)) => share,
        other => panic!("{other:?}"),
    }
}

/// Opens a reference on a node that does not use the region yet.
fn use_first(cluster: &mut Cluster, node: usize, record: &RegionRecord) -> RegionUse {
    assert!(matches!(open(cluster, node, record), Ok(Opened::Unused { page }) if page == record.info.start));
    cluster.nodes[node].ask_use(9, record.info.start, Some(record.generation));
    cluster.settle();
    assert_eq!(cluster.last_done(node), Some(&Action::Done { op: 9, result: Ok(Some(record.clone())) }));
    share(cluster, node, record)
}

#[test]
fn a_region_stays_until_the_last_handle_on_an_opened_reference_is_dropped() {
    let mut cluster = Cluster::new();
    let (a, b) = (cluster.join(rank(0)), cluster.join(rank(1)));
    let region = cluster.alloc(a, "x", 5000).unwrap();
    let share = use_first(&mut cluster, b, &region);
    cluster.nodes[a].remove(6, "x".into());
    cluster.nodes[a].leave();
    two_heartbeats(&mut cluster, b);
    let gone = Action::UnmapRegion(region.clone());
    assert!(!cluster.seen[b].contains(&gone), "b uses it");
    let clone = share.clone();
    drop(share);
    two_heartbeats(&mut cluster, b);
    assert!(!cluster.seen[b].contains(&gone), "b uses it still");
    drop(clone);
    two_heartbeats(&mut cluster, b);
    assert!(cluster.seen[b].contains(&gone));
    cluster.nodes[b].ask_use(9, region.info.start, Some(region.generation));
    cluster.settle();
    assert!(matches!(cluster.last_done(b), Some(Action::Done { op: 9, result: Err(_) })));
}

#[test]
fn a_region_goes_when_the_node_that_opened_a_reference_dies() {
    let mut cluster = Cluster::new();
    let (a, b) = (cluster.join(rank(0)), cluster.join(rank(1)));
    let region = cluster.alloc(a, "x", 5000).unwrap();
    let _share = use_first(&mut cluster, b, &region);
    cluster.nodes[a].remove(6, "x".into());
    cluster.nodes[a].leave();
    cluster.settle();
    assert!(!cluster.seen[0].contains(&Action::UnmapRegion(region.clone())));
    cluster.nodes[0].observe(Time(0), Observation::ProcessEnded(Incarnation(b as u64 + 1)));
    cluster.settle();
    assert!(cluster.seen[0].contains(&Action::UnmapRegion(region)));
}

#[test]
fn a_region_that_a_node_uses_is_opened_without_a_message() {
    let mut cluster = Cluster::new();
    let (a, b) = (cluster.join(rank(0)), cluster.join(rank(1)));
    let region = cluster.alloc(a, "x", 5000).unwrap();
    drop(use_first(&mut cluster, b, &region));
    for node in [0, a, b] {
        cluster.seen[node].clear();
    }
    // One that made it, and one that opens a reference in each call: some calls in each heartbeat.
    for _ in 0..5 {
        drop((share(&mut cluster, a, &region), share(&mut cluster, b, &region)));
        drop(share(&mut cluster, b, &region));
        cluster.nodes[a].return_idle_uses();
        cluster.nodes[b].return_idle_uses();
        cluster.settle();
    }
    assert!(cluster.seen.iter().all(Vec::is_empty), "{:?}", cluster.seen);
    // All uses go back in one message.
    let other = cluster.alloc(a, "y", 5000).unwrap();
    drop((use_first(&mut cluster, b, &other), share(&mut cluster, b, &region)));
    cluster.seen[b].clear();
    two_heartbeats(&mut cluster, b);
    assert!(
        matches!(&cluster.seen[b][..], [Action::Send { control: Control::Unuse(all), .. }] if all.len() == 2)
    );
}

/// Messages overtake each other: the coordinator hears of the second use before it hears that the first was given
/// back.
#[test]
fn a_use_counts_that_overtakes_the_return_of_an_earlier_one() {
    let mut cluster = Cluster::new();
    let (a, b) = (cluster.join(rank(0)), cluster.join(rank(1)));
    let region = cluster.alloc(a, "x", 5000).unwrap();
    drop(use_first(&mut cluster, b, &region));
    cluster.nodes[b].return_idle_uses();
    cluster.nodes[b].return_idle_uses();
    let Some(Action::Send { control: late @ Control::Unuse(_), .. }) = cluster.nodes[b].poll_action() else {
        panic!("it is given back");
    };
    let share = use_first(&mut cluster, b, &region);
    let id = cluster.nodes[b].me();
    cluster.nodes[0].handle(Time(0), LinkId(b as u64), id, late);
    cluster.nodes[a].remove(6, "x".into());
    cluster.nodes[a].leave();
    cluster.settle();
    assert!(!cluster.seen[b].contains(&Action::UnmapRegion(region.clone())), "b uses it");
    drop(share);
    two_heartbeats(&mut cluster, b);
    assert!(cluster.seen[b].contains(&Action::UnmapRegion(region)));
}

#[test]
fn a_reference_to_a_region_that_is_gone_does_not_lead_into_its_successor() {
    // One region fits.
    let mut cluster = Cluster::with_extents(2);
    let (a, b) = (cluster.join(rank(0)), cluster.join(rank(1)));
    let gone = cluster.alloc(a, "x", 5000).unwrap();
    cluster.nodes[a].remove(6, "x".into());
    cluster.nodes[a].leave();
    cluster.settle();
    let present = cluster.alloc(b, "y", 5000).unwrap();
    assert_eq!(present.info.start, gone.info.start, "it has the same addresses");
    let error = open(&mut cluster, b, &gone).unwrap_err();
    assert!(error.contains("stale") && error.contains("`y`"), "{error}");
    // Nor where the opener has not heard of it yet.
    cluster.nodes[b].ask_use(9, gone.info.start, Some(gone.generation));
    cluster.settle();
    let refused =
        |action: &Action| matches!(action, Action::Done { op: 9, result: Err(why) } if why.contains("stale"));
    assert!(cluster.last_done(b).is_some_and(refused), "{:?}", cluster.last_done(b));
    share(&mut cluster, b, &present);
}

#[test]
fn a_death_is_told_to_all_with_its_cause() {
    let mut cluster = Cluster::new();
    let a = cluster.join(rank(0));
    let b = cluster.join(rank(1));
    let (id, incarnation) = (cluster.nodes[a].me().unwrap(), Incarnation(a as u64 + 1));
    cluster.nodes[0].observe(Time(0), Observation::ProcessEnded(incarnation));
    cluster.settle();
    let told = cluster.seen[b].iter().any(|action| {
        matches!(action, Action::ViewChanged { died, .. } if died.len() == 1 && died[0].how == "its process has ended")
    });
    assert!(told);
    assert!(cluster.nodes[b].view().member(id).is_none());
}

#[test]
fn a_death_of_an_earlier_incarnation_changes_nothing() {
    let mut cluster = Cluster::new();
    let a = cluster.join(rank(0));
    let id = cluster.nodes[a].me().unwrap();
    cluster.nodes[0].observe(Time(0), Observation::ProcessEnded(Incarnation(99)));
    cluster.settle();
    assert!(cluster.nodes[0].view().member(id).is_some());
}

/// Node 1 asks for a region that is removed, and dies before node 2 has mapped it.
#[test]
fn a_removal_does_not_take_the_acknowledgements_of_an_allocation() {
    // Two regions fit.
    let mut coordinator = Membership::coordinator(in_arena(3, intro(1, Kind::Daemon)));
    for node in [1, 2] {
        let newcomer = in_arena(3, intro(node + 1, rank(node as u32 - 1)));
        coordinator.handle(Time(0), LinkId(node), None, Control::Join(newcomer));
    }
    let (one, two) = (NodeId(1), NodeId(2));
    let told = |coordinator: &mut Membership| {
        let mut to_two = Vec::new();
        while let Some(action) = coordinator.poll_action() {
            if let Action::Send { to, control } = action
                && to == two
            {
                to_two.push(control);
            }
        }
        to_two
    };
    let want = any(5000, ElementType::untagged(8));
    let x = Control::Alloc { op: 5, name: "x".into(), want: want.clone() };
    coordinator.handle(Time(0), LinkId(1), Some(one), x);
    let told_of = told(&mut coordinator);
    let Some(Control::RegionAdded(record)) = told_of.last() else { panic!("{told_of:?}") };
    let (start, generation) = (record.info.start, record.generation);
    coordinator.region_mapped(start);
    coordinator.remove_now("x").expect("it is there");
    coordinator.observe(Time(0), Observation::ProcessEnded(Incarnation(2)));
    let gone = |controls: &[Control]| controls.contains(&Control::RegionGone { start });
    assert!(!gone(&told(&mut coordinator)), "node 2 may still be mapping it");
    coordinator.handle(Time(0), LinkId(2), Some(two), Control::RegionMapped { start, generation });
    assert!(gone(&told(&mut coordinator)));
    // Only now is the place free.
    coordinator.region_unmapped(start);
    // A late word about the allocation is not taken for one about the removal.
    coordinator.handle(Time(0), LinkId(2), Some(two), Control::RegionMapped { start, generation });
    coordinator.handle(
        Time(0),
        LinkId(2),
        Some(two),
        Control::Alloc { op: 6, name: "y".into(), want: want.clone() },
    );
    assert!(matches!(&told(&mut coordinator)[..], [Control::RegionAdded(y)] if y.info.start != start));
    coordinator.handle(Time(0), LinkId(2), Some(two), Control::RegionUnmapped { start, generation });
    coordinator.handle(Time(0), LinkId(2), Some(two), Control::Alloc { op: 7, name: "z".into(), want });
    assert!(matches!(&told(&mut coordinator)[..], [Control::RegionAdded(z)] if z.info.start == start));
}
