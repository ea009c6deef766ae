//! The members that run on this node's host, which processes run them, and whose memory is kept here.

use std::collections::BTreeMap;

use crate::keep::{Admission, Claim};
use crate::machine::Machine;
use crate::membership::Member;
use crate::page::{Incarnation, NodeId};

/// The members of this host, this node among them, as the view names them.
#[derive(Clone, Default, Debug)]
pub(super) struct Neighbours {
    members: Vec<Member>,
    /// Of nodes whose own process has ended: the member whose process runs them on.
    runners: BTreeMap<NodeId, NodeId>,
}

/// What is kept here already, and how much may be.
pub(super) struct Keeper {
    /// Which node keeps.
    pub(super) me: Incarnation,
    /// Bytes of pages that the kept nodes may hold together.
    pub(super) keep_max: u64,
    /// The nodes whose memory is kept, or run on, here.
    pub(super) holds: Vec<Incarnation>,
}

impl Neighbours {
    /// None if this node is no member.
    pub(super) fn of(machine: &Machine) -> Option<Neighbours> {
        let membership = machine.membership().filter(|membership| membership.me().is_some())?;
        let (view, own) = (membership.view(), machine.intro());
        let is_here = |member: &&Member| {
            member.intro.incarnation == own.incarnation || member.intro.host.shares_processes(&own.host)
        };
        let members: Vec<Member> = view.members.iter().filter(is_here).cloned().collect();
        let runners = members.iter().filter_map(|member| Some((member.id, view.runner(member.id)?)));
        let runners = runners.collect();
        Some(Neighbours { members, runners })
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// The members, those included whose own process has ended.
    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The members whose own process runs.
    pub(super) fn running(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !self.runners.contains_key(&member.id))
    }

    pub(super) fn find(&self, incarnation: Incarnation) -> Option<&Member> {
        self.members.iter().find(|member| member.intro.incarnation == incarnation)
    }

    /// The process that runs a member now: its own, or the one that the view names.
    fn process_of(&self, member: &Member) -> u32 {
        let runner = self.runners.get(&member.id);
        let runner = runner.and_then(|id| self.members.iter().find(|member| member.id == *id));
        runner.unwrap_or(member).intro.pid
    }

    /// Whether a node that a process offers may be kept here.
    pub(super) fn admission(&self, keeper: &Keeper, claim: &Claim) -> Admission {
        let Some(offered) = self.find(claim.incarnation).filter(|member| member.id == claim.node) else {
            return Admission::NotYet("it is no member here".to_owned());
        };
        let runs_in = self.process_of(offered);
        if runs_in != claim.pid {
            let why = format!("process {} offers it, and it runs in process {runs_in}", claim.pid);
            let is_of_a_member = self.running().any(|member| member.intro.pid == claim.pid);
            // The next view may name that process as the one that runs it on.
            return if is_of_a_member { Admission::NotYet(why) } else { Admission::Refused(why) };
        }
        if self.find(keeper.me).is_some_and(|own| own.intro.pid == claim.pid) {
            return Admission::Refused("it runs in this process".to_owned());
        }
        let others = keeper.holds.iter().filter(|held| **held != claim.incarnation);
        let taken = others.filter_map(|held| self.find(*held)).map(|member| member.intro.memory_max);
        let sum = taken.fold(offered.intro.memory_max, u64::saturating_add);
        if sum > keeper.keep_max {
            return Admission::Refused(format!(
                "with it the nodes kept here may hold {} MiB, and keep_max is {} MiB",
                sum >> 20,
                keeper.keep_max >> 20
            ));
        }
        Admission::Granted
    }
}

#[cfg(test)]
impl From<Vec<Member>> for Neighbours {
    fn from(members: Vec<Member>) -> Neighbours {
        Neighbours { members, runners: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::tests::member as bare;

    const MEMORY: u64 = 64 << 20;

    /// Members 0 to 3, whose processes are 100 to 103; the last one's has ended, and member 1 runs it on.
    fn neighbours() -> Neighbours {
        let member = |id: u16| {
            let mut member = bare(NodeId(id));
            member.intro.pid = 100 + u32::from(id);
            member.intro.memory_max = MEMORY;
            member
        };
        let members = [0, 1, 2, 3].map(member).into();
        Neighbours { members, runners: BTreeMap::from([(NodeId(3), NodeId(1))]) }
    }

    /// Whether member 0 keeps `node` if a process offers it.
    fn verdict(neighbours: &Neighbours, node: u16, pid: u32, holds: &[u16]) -> Admission {
        let start = |id: u16| neighbours.members[usize::from(id)].intro.incarnation;
        let holds = holds.iter().map(|&id| start(id)).collect();
        let keeper = Keeper { me: start(0), keep_max: 2 * MEMORY, holds };
        neighbours.admission(&keeper, &Claim { node: NodeId(node), incarnation: start(node), pid })
    }

    #[test]
    fn the_process_that_runs_a_node_on_hands_it_to_further_keepers_and_no_other_process_does() {
        let neighbours = neighbours();
        assert_eq!(verdict(&neighbours, 3, 101, &[]), Admission::Granted);
        // Its own process has ended: somebody else has that number.
        assert!(matches!(verdict(&neighbours, 3, 103, &[]), Admission::Refused(_)));
        assert!(matches!(verdict(&neighbours, 2, 555, &[]), Admission::Refused(_)));
        assert_eq!(verdict(&neighbours, 2, 102, &[]), Admission::Granted);
        assert!(matches!(verdict(&neighbours, 0, 100, &[]), Admission::Refused(_)), "this process");
    }

    #[test]
    fn a_members_process_that_the_view_may_name_next_is_answered_when_the_view_has() {
        let mut neighbours = neighbours();
        assert!(matches!(verdict(&neighbours, 3, 102, &[]), Admission::NotYet(_)));
        neighbours.runners.insert(NodeId(3), NodeId(2));
        assert_eq!(verdict(&neighbours, 3, 102, &[]), Admission::Granted);
        assert!(matches!(verdict(&neighbours, 3, 101, &[]), Admission::NotYet(_)));
    }

    #[test]
    fn nodes_that_are_run_on_here_count_among_those_that_keep_max_allows() {
        let neighbours = neighbours();
        assert_eq!(verdict(&neighbours, 2, 102, &[3]), Admission::Granted);
        let Admission::Refused(why) = verdict(&neighbours, 2, 102, &[3, 1]) else { panic!("it is full") };
        assert!(why.contains("192 MiB") && why.contains("keep_max is 128 MiB"), "{why}");
        // Who offers one again, in the place of an ended process, needs no more room.
        assert_eq!(verdict(&neighbours, 3, 101, &[1, 3]), Admission::Granted);
    }

    #[test]
    fn ended_processes_are_asked_for_nothing() {
        let neighbours = neighbours();
        assert_eq!(neighbours.len(), 4);
        assert_eq!(neighbours.running().map(|member| member.id.0).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
