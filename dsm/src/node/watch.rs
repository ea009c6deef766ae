//! Watching the processes of this host: when one ends without having left the cluster, everybody is
//! told at once instead of after seconds of silence.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use parking_lot::MutexGuard;
use tracing::Level;

use super::{Inner, Locked, Node, poller};
use crate::membership::{Kind, Member};
use crate::page::{Incarnation, NodeId};

/// The processes that are watched, and as which nodes.
#[derive(Default)]
pub(super) struct Watch {
    processes: Vec<(u64, NodeId, Incarnation, OwnedFd)>,
    next_token: u64,
    /// The view that `processes` belongs to.
    view_changes: Option<u64>,
}

impl Watch {
    /// The node whose process has ended.
    pub(super) fn ended(&mut self, token: u64) -> Option<(NodeId, Incarnation)> {
        let at = self.processes.iter().position(|watched| watched.0 == token)?;
        let (_, node, incarnation, _) = self.processes.swap_remove(at);
        Some((node, incarnation))
    }
}

impl Node {
    /// The ranks of this node's program whose processes run on its host, by ascending number.
    pub fn ranks_on_this_host(&self) -> Vec<u32> {
        self.inner.with_core(|core| {
            let (Some(membership), own) = (&core.brain.membership, &core.brain.intro) else {
                return Vec::new();
            };
            let Kind::Rank { program, .. } = own.kind else { return Vec::new() };
            let here = membership.view().ranks(program).filter(|member| member.intro.host == own.host);
            let mut ranks: Vec<u32> = here
                .filter_map(|member| match member.intro.kind {
                    Kind::Rank { rank, .. } => Some(rank),
                    Kind::Daemon => None,
                })
                .collect();
            ranks.sort_unstable();
            ranks
        })
    }
}

impl Inner {
    /// Watches the processes of the present view that run on this host.
    pub(super) fn follow_view(&self, locked: &mut Locked) {
        let Locked { core, watch, .. } = locked;
        let Some(membership) = core.brain.membership.as_ref().filter(|m| m.me().is_some()) else { return };
        if watch.view_changes == Some(core.brain.view_changes) {
            return;
        }
        watch.view_changes = Some(core.brain.view_changes);
        let view = membership.view();
        watch.processes.retain(|(_, _, incarnation, _)| view.incarnation(*incarnation).is_some());
        let own = &core.brain.intro;
        let here = |member: &&Member| member.intro.host == own.host && member.intro.pid != own.pid;
        let mut ended = Vec::new();
        for member in view.members.iter().filter(here) {
            let incarnation = member.intro.incarnation;
            if watch.processes.iter().any(|watched| watched.2 == incarnation) {
                continue;
            }
            match poller::open_process(member.intro.pid) {
                Ok(process) => {
                    watch.next_token += 1;
                    // Without a watch the member's silence will tell.
                    if self.poller.watch(&process, watch.next_token).is_ok() {
                        watch.processes.push((watch.next_token, member.id, incarnation, process));
                    }
                }
                Err(Errno::ESRCH) => ended.push(member.id),
                // Of this process's limits, or the machine's, and not of that process.
                Err(errno) => {
                    let text = format!("{} is not watched: {errno}", member.describe());
                    core.brain.notes.add(Level::WARN, text);
                }
            }
        }
        for node in ended {
            core.brain.suspect(node, PROCESS_ENDED.into());
        }
    }

    pub(super) fn process_ended(
        &self,
        locked: &mut MutexGuard<'_, Locked>,
        node: NodeId,
        incarnation: Incarnation,
    ) {
        let brain = &mut locked.core.brain;
        let still = brain.membership.as_ref().and_then(|m| m.view().member(node));
        if still.is_some_and(|member| member.intro.incarnation == incarnation) {
            brain.suspect(node, PROCESS_ENDED.into());
        }
    }
}

const PROCESS_ENDED: &str = "its process has ended";

/// A text that is equal exactly for processes whose ids mean the same: the machine's boot and the
/// namespace of process ids.
pub(super) fn host() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", boot.trim(), namespace.display())
}
