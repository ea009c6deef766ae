//! Which members keep the memory of a member beside its own process: those that run on its host, in a fixed order,
//! so that each node's memory lies with several processes and no process keeps all of them.

use super::{Kind, Member, View};
use crate::page::NodeId;

/// Members beside itself that a node's memory lies with, where its host has so many.
pub(crate) const KEEPERS: usize = 2;

/// The members that can keep a member's memory, those first that should: a daemon, because it outlives programs, and a
/// rank; of each kind the next one cyclically, by id. Two nodes of one process cannot keep each other.
pub(crate) fn candidates<'a>(view: &'a View, of: &Member) -> Vec<&'a Member> {
    let is_beside = |member: &&Member| {
        member.intro.host.shares_processes(&of.intro.host) && member.intro.pid != of.intro.pid
    };
    let next = |member: &&Member| (member.id <= of.id, member.id);
    let (mut daemons, mut ranks): (Vec<_>, Vec<_>) =
        view.members.iter().filter(is_beside).partition(|member| member.intro.kind == Kind::Daemon);
    daemons.sort_unstable_by_key(next);
    ranks.sort_unstable_by_key(next);
    let (mut daemons, mut ranks) = (daemons.into_iter(), ranks.into_iter());
    let first: Vec<&Member> = daemons.next().into_iter().chain(ranks.next()).collect();
    first.into_iter().chain(daemons).chain(ranks).collect()
}

/// The members that a node should ask, given those that hold its memory or were asked, and those that have refused.
pub(crate) fn to_ask(view: &View, of: &Member, asked: &[NodeId], refused: &[NodeId]) -> Vec<NodeId> {
    let able: Vec<NodeId> = candidates(view, of).into_iter().map(|member| member.id).collect();
    let lacks = KEEPERS.saturating_sub(asked.iter().filter(|keeper| able.contains(keeper)).count());
    able.into_iter().filter(|id| !asked.contains(id) && !refused.contains(id)).take(lacks).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::member;
    use super::*;

    fn rank(id: u16) -> Member {
        let mut member = member(NodeId(id));
        member.intro.kind = Kind::Rank { program: 7, rank: u32::from(id), ranks: 8 };
        member
    }

    fn view(members: Vec<Member>) -> View {
        View { members, ..View::default() }
    }

    fn ids(view: &View, of: u16) -> Vec<u16> {
        let of = view.members.iter().find(|member| member.id == NodeId(of)).expect("a member");
        candidates(view, of).into_iter().map(|member| member.id.0).collect()
    }

    #[test]
    fn a_daemon_and_the_next_rank_keep_a_nodes_memory() {
        let view = view(vec![member(NodeId(0)), rank(1), rank(2), rank(3)]);
        assert_eq!(
            [0, 1, 2, 3].map(|id| ids(&view, id)[..2.min(ids(&view, id).len())].to_vec()),
            [vec![1, 2], vec![0, 2], vec![0, 3], vec![0, 1]]
        );
    }

    #[test]
    fn several_daemons_share_the_keeping_and_keep_each_other() {
        let view = view(vec![member(NodeId(0)), member(NodeId(1)), rank(2), rank(3)]);
        assert_eq!(ids(&view, 0), [1, 2, 3]);
        assert_eq!(ids(&view, 1), [0, 2, 3]);
        assert_eq!(ids(&view, 2), [0, 3, 1]);
    }

    #[test]
    fn members_of_other_hosts_and_other_nodes_of_the_process_keep_nothing() {
        let (mut elsewhere, mut same) = (rank(2), rank(3));
        elsewhere.intro.host.processes = "there 1".into();
        same.intro.pid = rank(1).intro.pid;
        let view = view(vec![rank(1), elsewhere, same]);
        assert_eq!(ids(&view, 1), Vec::<u16>::new());
    }

    #[test]
    fn in_the_place_of_a_keeper_that_has_refused_or_gone_another_is_asked() {
        let view = view(vec![member(NodeId(0)), rank(1), rank(2), rank(3)]);
        let me = &view.members[1];
        let ask = |asked: &[u16], refused: &[u16]| {
            let [asked, refused] =
                [asked, refused].map(|ids| ids.iter().copied().map(NodeId).collect::<Vec<_>>());
            to_ask(&view, me, &asked, &refused).into_iter().map(|id| id.0).collect::<Vec<_>>()
        };
        assert_eq!(ask(&[], &[]), [0, 2]);
        assert_eq!(ask(&[0, 2], &[]), Vec::<u16>::new());
        assert_eq!(ask(&[2], &[0]), [3]);
        assert_eq!(ask(&[2, 9], &[]), [0]);
    }
}
