//! Which members keep the memory of a member beside its own process: those that run on its host, in a fixed order,
//! so that each node's memory lies with several processes and no process keeps all of them.

use super::{Kind, Member};
use crate::config::keep::KEEPERS;
use crate::page::Incarnation;

/// The members that can keep a member's memory, those first that should: a daemon, because it outlives programs, and a
/// rank; of each kind the next one cyclically, by id. Two nodes of one process cannot keep each other.
pub(crate) fn candidates<'a>(
    members: impl IntoIterator<Item = &'a Member>,
    of: &Member,
) -> impl Iterator<Item = &'a Member> {
    let is_able = |member: &&Member| {
        member.intro.keeps_at.is_some()
            && member.intro.host.shares_processes(&of.intro.host)
            && member.intro.pid != of.intro.pid
    };
    let next = |member: &&Member| (member.id <= of.id, member.id);
    let (mut daemons, mut ranks): (Vec<_>, Vec<_>) =
        members.into_iter().filter(is_able).partition(|member| member.intro.kind == Kind::Daemon);
    daemons.sort_unstable_by_key(next);
    ranks.sort_unstable_by_key(next);
    let (mut daemons, mut ranks) = (daemons.into_iter(), ranks.into_iter());
    let first: Vec<&Member> = daemons.next().into_iter().chain(ranks.next()).collect();
    first.into_iter().chain(daemons).chain(ranks)
}

/// The members that should keep a member's memory, but for those that have refused.
pub(crate) fn wanted<'a>(
    members: impl IntoIterator<Item = &'a Member>,
    of: &Member,
    has_refused: impl Fn(Incarnation) -> bool,
) -> Vec<&'a Member> {
    candidates(members, of).filter(|member| !has_refused(member.intro.incarnation)).take(KEEPERS).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::member as bare;
    use super::*;
    use crate::page::NodeId;

    fn member(id: u16) -> Member {
        let mut member = bare(NodeId(id));
        member.intro.keeps_at = Some(format!("/run/{id}"));
        member
    }

    fn rank(id: u16) -> Member {
        let mut member = member(id);
        member.intro.kind = Kind::Rank { program: 7, rank: u32::from(id), ranks: 8 };
        member
    }

    fn ids(members: &[Member], of: u16) -> Vec<u16> {
        let of = members.iter().find(|member| member.id == NodeId(of)).expect("a member");
        candidates(members, of).map(|member| member.id.0).collect()
    }

    #[test]
    fn a_daemon_and_the_next_rank_keep_a_nodes_memory() {
        let members = [member(0), rank(1), rank(2), rank(3)];
        let of = |id: usize| {
            let wanted = wanted(&members, &members[id], |_| false);
            wanted.iter().map(|member| member.id.0).collect::<Vec<_>>()
        };
        assert_eq!([0, 1, 2, 3].map(of), [[1, 2], [0, 2], [0, 3], [0, 1]]);
    }

    #[test]
    fn several_daemons_share_the_keeping_and_keep_each_other() {
        let members = [member(0), member(1), rank(2), rank(3)];
        assert_eq!(ids(&members, 0), [1, 2, 3]);
        assert_eq!(ids(&members, 1), [0, 2, 3]);
        assert_eq!(ids(&members, 2), [0, 3, 1]);
    }

    #[test]
    fn members_of_other_hosts_other_nodes_of_the_process_and_such_as_keep_nothing_are_not_asked() {
        let (mut elsewhere, mut same, mut unable) = (rank(2), rank(3), rank(4));
        elsewhere.intro.host.processes = "there 1".into();
        same.intro.pid = rank(1).intro.pid;
        unable.intro.keeps_at = None;
        let members = [rank(1), elsewhere, same, unable];
        assert_eq!(ids(&members, 1), Vec::<u16>::new());
    }

    #[test]
    fn in_the_place_of_a_member_that_has_refused_another_is_asked() {
        let members = [member(0), rank(1), rank(2), rank(3)];
        let refused = members[0].intro.incarnation;
        let wanted = wanted(&members, &members[1], |incarnation| incarnation == refused);
        assert_eq!(wanted.iter().map(|member| member.id.0).collect::<Vec<_>>(), [2, 3]);
    }
}
