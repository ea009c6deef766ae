//! Which process runs a node on.

use super::*;

/// A cluster that names runners: daemon 0, the ranks 1 to 3 and the daemon 4, all of one host, all keep.
fn cluster() -> Cluster {
    let keeps = |id: u64, kind| Introduction { keeps_at: Some(format!("/run/{id}")), ..intro(id, kind) };
    let mut cluster = Cluster::new();
    let founder = Membership::coordinator(in_arena(1 << 12, keeps(1, Kind::Daemon)));
    cluster.nodes[0] = founder.with_runners(true);
    for (id, kind) in [(2, rank(0)), (3, rank(1)), (4, rank(2)), (5, Kind::Daemon)] {
        cluster.nodes.push(Membership::newcomer(in_arena(1 << 12, keeps(id, kind)), LinkId(0)));
        cluster.seen.push(vec![]);
        cluster.settle();
    }
    cluster
}

impl Cluster {
    fn ends(&mut self, node: u64) {
        self.nodes[0].observe(Time(0), Observation::ProcessEnded(Incarnation(node + 1)));
        self.settle();
    }

    /// As the last member and the coordinator see it.
    fn runner(&self, node: u16) -> Option<u16> {
        let of = |at: usize| self.nodes[at].view().runner(NodeId(node)).map(|runner| runner.0);
        assert_eq!(of(0), of(1), "views agree");
        of(0)
    }
}

fn node_of(death: &Death) -> Option<u16> {
    death.runner.map(|runner| runner.node.0)
}

#[test]
fn the_first_member_that_keeps_an_ended_nodes_memory_runs_it_on_as_the_same_member() {
    let mut cluster = cluster();
    let epoch = cluster.nodes[1].view().epoch;
    cluster.ends(2);
    // The next daemon by id, cyclically.
    assert_eq!(cluster.runner(2), Some(4));
    let view = cluster.nodes[1].view();
    assert!(view.epoch > epoch && view.member(NodeId(2)).is_some());
    let (told, death) = view.deaths.back().expect("the end is told");
    assert_eq!((*told, node_of(death), death.member.id), (view.epoch, Some(4), NodeId(2)));
    assert_eq!(view.ranks(7).count(), 2, "nobody waits for it at a barrier");
    let epoch = view.epoch;
    cluster.ends(2);
    assert_eq!(cluster.nodes[1].view().epoch, epoch, "it ends once");
}

#[test]
fn when_a_runner_ends_the_next_one_runs_it_and_what_it_ran_in_the_same_view() {
    let mut cluster = cluster();
    cluster.ends(2);
    let epoch = cluster.nodes[1].view().epoch;
    cluster.ends(4);
    assert_eq!(cluster.nodes[1].view().epoch.0, epoch.0 + 1, "one round");
    assert_eq!([2, 4].map(|node| cluster.runner(node)), [Some(0), Some(0)]);
    let joined = cluster.join(rank(1));
    assert_eq!(cluster.nodes[joined].me(), Some(NodeId(5)), "their ids are taken");
    assert_eq!([2, 4].map(|node| cluster.runner(node)), [Some(0), Some(0)], "the same in the next view");
}

#[test]
fn a_node_goes_to_the_next_one_if_its_runner_does_not_have_its_memory_and_at_last_to_nobody() {
    let mut cluster = cluster();
    cluster.ends(2);
    let of = Incarnation(3);
    // Somebody who is not its runner has no say.
    cluster.nodes[3].cannot_run(of);
    cluster.settle();
    assert_eq!(cluster.runner(2), Some(4));
    for (runner, next) in [(4, Some(3)), (3, Some(0)), (0, Some(1)), (1, None)] {
        let epoch = cluster.nodes[1].view().epoch;
        cluster.nodes[runner].cannot_run(of);
        cluster.settle();
        assert_eq!(cluster.runner(2), next);
        let view = cluster.nodes[1].view();
        assert!(view.epoch > epoch);
        let (told, death) = view.deaths.back().expect("told");
        assert_eq!((*told, node_of(death)), (view.epoch, next));
    }
    assert!(cluster.nodes[1].view().member(NodeId(2)).is_none(), "it is a member no more");
}

#[test]
fn when_a_runner_leaves_the_next_one_runs_what_it_ran() {
    let mut cluster = cluster();
    cluster.ends(2);
    cluster.nodes[4].leave();
    cluster.settle();
    assert_eq!(cluster.runner(2), Some(0));
    assert!(cluster.nodes[1].view().member(NodeId(4)).is_none());
    let (told, death) = cluster.nodes[1].view().deaths.back().expect("a round begins");
    assert_eq!((*told, node_of(death)), (cluster.nodes[1].view().epoch, Some(0)));
}

#[test]
fn a_node_of_which_nothing_depends_any_more_goes_when_its_runner_says_so() {
    let mut cluster = cluster();
    cluster.ends(2);
    cluster.seen.iter_mut().for_each(Vec::clear);
    // Somebody who does not run it has no say.
    cluster.nodes[3].drained(Incarnation(3));
    cluster.settle();
    assert_eq!(cluster.runner(2), Some(4));
    cluster.nodes[4].drained(Incarnation(3));
    cluster.settle();
    let view = cluster.nodes[1].view();
    assert!(view.member(NodeId(2)).is_none() && view.runners.is_empty());
    let left = |action: &&Action| matches!(action, Action::ViewChanged { left, died, .. } if left.len() == 1 && died.is_empty());
    assert_eq!(cluster.seen[1].iter().filter(left).count(), 1, "as a member that leaves");
    let joined = cluster.join(rank(1));
    assert_eq!(cluster.nodes[joined].me(), Some(NodeId(2)), "its id is free");
}

#[test]
fn the_view_says_which_regions_an_ended_node_can_have_had_and_who_is_told_of_all_of_them_knows_them() {
    let mut cluster = cluster();
    cluster.ends(2);
    let of = |cluster: &Cluster| cluster.nodes[4].view().runners[&NodeId(2)].last_region;
    let before = of(&cluster);
    assert!(cluster.nodes[4].was_told_regions_until(before));
    assert!(!cluster.nodes[4].was_told_regions_until(before + 1));
    // Two regions later, its runner ends too: the node had none of them.
    for (op, name) in [(1, "a"), (2, "b")] {
        let element = ElementType::untagged(8);
        cluster.nodes[1].alloc(op, name.into(), Want::Any { bytes: 1, element, placement: None });
        cluster.settle();
    }
    cluster.ends(4);
    assert_eq!(cluster.nodes[1].view().runners[&NodeId(2)].last_region, before);
    assert_eq!(cluster.nodes[1].view().runners[&NodeId(4)].last_region, before + 2);
    assert!(cluster.nodes[1].was_told_regions_until(before + 2));
    assert!(!cluster.nodes[1].was_told_regions_until(before + 3));
    // Who joins now is told of those that exist; the others are gone.
    let joined = cluster.join(rank(1));
    assert!(cluster.nodes[joined].was_told_regions_until(before + 2));
    assert!(!cluster.nodes[joined].was_told_regions_until(before + 3));
}

#[test]
fn news_of_regions_may_overtake_each_other() {
    let mut told = super::super::known::Told::until(5);
    for (generation, until) in [(7, 5), (5, 5), (8, 5), (6, 8), (6, 8)] {
        told.add(generation);
        assert_eq!(told.known_until(), until);
    }
}

#[test]
fn a_node_that_nobody_keeps_is_a_member_no_more() {
    let mut cluster = Cluster::new();
    cluster.nodes[0].names_runners = true;
    let (a, b) = (cluster.join(rank(0)), cluster.join(rank(1)));
    cluster.ends(a as u64);
    assert!(cluster.nodes[b].view().member(NodeId(1)).is_none());
    assert_eq!(cluster.nodes[b].view().deaths.back().expect("told").1.runner, None);
}

#[test]
fn a_view_whose_runners_do_not_run_is_not_sound() {
    let view = |runners: &[(u16, u16)]| {
        let runners = runners
            .iter()
            .map(|&(node, by)| (NodeId(node), Runner { at: NodeId(by), last_region: 0 }))
            .collect();
        let members = [0, 1, 2].map(NodeId).map(member).into();
        Control::View(View { members, runners, ..View::default() })
    };
    assert!(view(&[(1, 0), (2, 0)]).is_sound(1 << 30));
    for bad in [[(1, 2), (2, 0)], [(1, 1), (2, 0)], [(1, 7), (2, 0)], [(7, 0), (2, 0)]] {
        assert!(!view(&bad).is_sound(1 << 30), "{bad:?}");
    }
}
