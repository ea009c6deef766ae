//! What a machine says of itself and of others, in words for people.

use super::{Cores, Machine, Why};
use crate::error::Error;
use crate::membership::{Kind, Member, removal_command};
use crate::page::{NodeId, PageId};

impl Machine {
    /// For messages to people: which process a node was that is gone. Its id may be another process's by now.
    pub(crate) fn name(&self, node: NodeId) -> String {
        self.known_name(node).unwrap_or_else(|| node.to_string())
    }

    /// Whether a node on which a wait depended has died. Else it has left, or is leaving: that node is a member
    /// still when it gives back a lock in the middle of a critical section.
    pub(crate) fn has_died(&self, node: NodeId) -> bool {
        let is_member = || self.cores.membership.as_ref().is_some_and(|m| m.view().member(node).is_some());
        !self.cores.left.contains_key(&node) && (self.cores.last_dead(node).is_some() || !is_member())
    }

    /// The last process that had this node id and has died or left; else the member that has it.
    pub(crate) fn known_name(&self, node: NodeId) -> Option<String> {
        let gone = self.cores.left.get(&node).or_else(|| self.cores.last_dead(node));
        let member = || self.cores.membership.as_ref()?.view().member(node);
        gone.or_else(member).map(Member::describe)
    }

    pub(crate) fn intro_name(&self) -> String {
        match self.cores.intro.kind {
            Kind::Daemon => "daemon".into(),
            Kind::Rank { rank, .. } => format!("rank {rank} of {}", self.cores.intro.name),
        }
    }

    /// What a join still waits for.
    pub(crate) fn missing(&self) -> String {
        let Some(membership) = self.cores.membership.as_ref().filter(|m| m.me().is_some()) else {
            return "the coordinator has not answered".into();
        };
        let view = membership.view();
        if let Kind::Rank { program, ranks, .. } = self.cores.intro.kind {
            let here: Vec<u32> = view
                .ranks(program)
                .filter_map(|member| match member.intro.kind {
                    Kind::Rank { rank, .. } => Some(rank),
                    Kind::Daemon => None,
                })
                .collect();
            let missing: Vec<u32> = (0..ranks).filter(|rank| !here.contains(rank)).collect();
            if !missing.is_empty() {
                return format!("ranks {missing:?} of {ranks} have not come");
            }
        }
        let silent = view.members.iter().filter(|m| Some(m.id) != membership.me());
        let silent: Vec<String> =
            silent.filter(|m| self.cores.routes.session(m.id).is_none()).map(Member::describe).collect();
        format!("no session with {}", silent.join("; "))
    }

    /// Why a lost page cannot come, and what the user can do.
    pub(crate) fn explain_loss(&self, page: PageId, process: Option<&str>) -> String {
        let with = process.unwrap_or("a process that has died");
        let contains = |start: PageId, pages: u64| (start.0..start.0 + pages).contains(&page.0);
        let mut regions = self.cores.membership.iter().flat_map(|membership| membership.regions());
        match regions.find(|record| contains(record.info.start, record.info.pages)) {
            Some(record) => format!(
                "the only copy of this page of region `{}` was lost with {with}; `{}` removes the region",
                record.name,
                removal_command(&record.name)
            ),
            None => format!("the only copy of this page was lost with {with}"),
        }
    }

    /// The process with which a page was lost, if this node has recorded it or was told.
    pub(crate) fn lost_with(&self, page: PageId) -> Option<std::sync::Arc<str>> {
        self.cores.losses.process(page)
    }
}

impl Cores {
    /// The last process with this node id that died, as far as the view remembers.
    pub(super) fn last_dead(&self, node: NodeId) -> Option<&Member> {
        let deaths = &self.membership.as_ref()?.view().deaths;
        deaths.iter().rev().map(|(_, death)| &death.member).find(|member| member.id == node)
    }
}

/// Why a node cannot go on, in one line.
pub fn describe(why: &Why) -> String {
    match why {
        Why::Died { node, name } => format!("{node} died ({name})"),
        Why::Left => "the node has left the cluster".into(),
        Why::NotJoined(reason) => format!("not a member of the cluster: {reason}"),
        Why::Evicted(why) => Error::Evicted { why: why.clone() }.to_string(),
        Why::Stopped(reason) => format!("the cluster stops: {reason}"),
        Why::Broken(reason) => reason.clone(),
    }
}
