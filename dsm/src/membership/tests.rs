//! Membership driven by hand.

use super::*;
use crate::page::Incarnation;

fn intro(incarnation: u64, kind: Kind) -> Introduction {
    Introduction {
        incarnation: Incarnation(incarnation),
        kind,
        name: "test".into(),
        addr: SocketAddr::from(([127, 0, 0, 1], 1000 + incarnation as u16)),
        host: "here".into(),
        pid: incarnation as u32,
        memory_max: 1 << 20,
        arena_base: 0,
        arena_size: 1 << 30,
        index: None,
    }
}

/// A daemon with this id.
pub(super) fn member(id: NodeId) -> Member {
    Member { id, intro: intro(u64::from(id.0) + 1, Kind::Daemon) }
}

fn rank(rank: u32) -> Kind {
    Kind::Rank { program: 7, rank, ranks: 3 }
}

/// A cluster whose messages arrive at once.
struct Cluster {
    nodes: Vec<Membership>,
    seen: Vec<Vec<Action>>,
}

impl Cluster {
    fn new() -> Self {
        let mut cluster =
            Cluster { nodes: vec![Membership::coordinator(intro(1, Kind::Daemon))], seen: vec![vec![]] };
        cluster.settle();
        cluster
    }

    fn join(&mut self, kind: Kind) -> usize {
        let at = self.nodes.len();
        self.nodes.push(Membership::newcomer(intro(at as u64 + 1, kind), LinkId(0)));
        self.seen.push(vec![]);
        self.settle();
        at
    }

    fn at(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().rposition(|node| node.me() == Some(id))
    }

    fn settle(&mut self) {
        while let Some((from, action)) =
            (0..self.nodes.len()).find_map(|i| self.nodes[i].poll_action().map(|action| (i, action)))
        {
            let sender = self.nodes[from].me();
            match action.clone() {
                Action::SendLink { link, control } => {
                    let to = link.0 as usize;
                    let known = if from == 0 { sender } else { None };
                    self.nodes[to].handle(LinkId(from as u64), known, control);
                }
                Action::Send { to, control } => {
                    if let Some(to) = self.at(to) {
                        self.nodes[to].handle(LinkId(from as u64), sender, control);
                    }
                }
                Action::MapRegion(record) | Action::UnmapRegion(record) => {
                    self.nodes[from].region_done(record.info.start);
                }
                Action::Joined
                | Action::JoinRefused(_)
                | Action::ViewChanged { .. }
                | Action::ProgramEnded { .. }
                | Action::Done { .. }
                | Action::Left
                | Action::Shutdown { .. } => {}
            }
            self.seen[from].push(action);
        }
    }

    fn alloc(&mut self, node: usize, name: &str, bytes: u64) -> Result<RegionRecord, String> {
        let want = Want::Any { bytes, element: 8, placement: Placement::FirstTouch };
        self.nodes[node].alloc(5, name.into(), want);
        self.settle();
        match self.seen[node].last() {
            Some(Action::Done { op: 5, result }) => result.clone().map(|record| record.expect("a region")),
            other => panic!("{other:?}"),
        }
    }
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
fn a_region_is_told_of_after_every_member_has_mapped_it() {
    let mut cluster = Cluster::new();
    let a = cluster.join(rank(0));
    let b = cluster.join(rank(1));
    let first = cluster.alloc(a, "x", 5000).unwrap();
    assert!(cluster.seen[b].contains(&Action::MapRegion(first.clone())));
    assert_eq!(cluster.alloc(b, "x", 5000).unwrap(), first);
    assert_ne!(first.info.start, PageId(0));
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
    let mut cluster = Cluster::new();
    let a = cluster.join(rank(0));
    let b = cluster.join(rank(1));
    let first = cluster.alloc(a, "x", 5000).unwrap();
    cluster.nodes[a].remove(6, "x".into());
    cluster.settle();
    assert!(!cluster.seen[b].contains(&Action::UnmapRegion(first.clone())), "a still uses it");
    cluster.nodes[a].leave();
    cluster.settle();
    assert!(cluster.seen[b].contains(&Action::UnmapRegion(first.clone())));
    assert_eq!(cluster.alloc(b, "y", 5000).unwrap().info.start, first.info.start);
}

#[test]
fn a_death_is_told_to_all_with_its_cause() {
    let mut cluster = Cluster::new();
    let a = cluster.join(rank(0));
    let b = cluster.join(rank(1));
    let (id, incarnation) = (cluster.nodes[a].me().unwrap(), Incarnation(a as u64 + 1));
    cluster.nodes[0].suspect(id, incarnation, "killed".into());
    cluster.settle();
    let told = cluster.seen[b].iter().any(|action| {
        matches!(action, Action::ViewChanged { died, .. } if died.len() == 1 && died[0].how == "killed")
    });
    assert!(told);
    assert!(cluster.nodes[b].view().member(id).is_none());
}

#[test]
fn a_death_of_an_earlier_incarnation_changes_nothing() {
    let mut cluster = Cluster::new();
    let a = cluster.join(rank(0));
    let id = cluster.nodes[a].me().unwrap();
    cluster.nodes[0].suspect(id, Incarnation(99), "late news".into());
    cluster.settle();
    assert!(cluster.nodes[0].view().member(id).is_some());
}

/// Node 1 asks for a region that is removed, and dies before node 2 has mapped it.
#[test]
fn a_removal_does_not_take_the_acknowledgements_of_an_allocation() {
    let mut coordinator = Membership::coordinator(intro(1, Kind::Daemon));
    for node in [1, 2] {
        let newcomer = intro(node + 1, rank(node as u32 - 1));
        coordinator.handle(LinkId(node), None, Control::Join(newcomer));
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
    let want = Want::Any { bytes: 5000, element: 8, placement: Placement::FirstTouch };
    coordinator.handle(LinkId(1), Some(one), Control::Alloc { op: 5, name: "x".into(), want });
    let told_of = told(&mut coordinator);
    let Some(Control::RegionAdded(record)) = told_of.last() else { panic!("{told_of:?}") };
    let start = record.info.start;
    coordinator.region_done(start);
    coordinator.remove_now("x").expect("it is there");
    let died = Control::Died { node: one, incarnation: Incarnation(2), how: "killed".into() };
    coordinator.handle(LinkId(2), Some(two), died);
    let gone = |controls: &[Control]| controls.contains(&Control::RegionGone { start });
    assert!(!gone(&told(&mut coordinator)), "node 2 may still be mapping it");
    coordinator.handle(LinkId(2), Some(two), Control::RegionAck { start });
    assert!(gone(&told(&mut coordinator)));
    // Only now is the place free.
    coordinator.region_done(start);
    coordinator.handle(LinkId(2), Some(two), Control::Alloc { op: 6, name: "y".into(), want });
    assert!(matches!(&told(&mut coordinator)[..], [Control::RegionAdded(y)] if y.info.start != start));
    coordinator.handle(LinkId(2), Some(two), Control::RegionAck { start });
    coordinator.handle(LinkId(2), Some(two), Control::Alloc { op: 7, name: "z".into(), want });
    assert!(matches!(&told(&mut coordinator)[..], [Control::RegionAdded(z)] if z.info.start == start));
}
