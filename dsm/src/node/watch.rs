//! Watching the processes of this host: when one ends without having left the cluster, everybody is
//! told at once instead of after seconds of silence.

use std::os::fd::OwnedFd;

use tracing::Level;

use super::entry::Entry;
use super::{Node, Runtime, RuntimeState};
use crate::fork;
use crate::machine::Event;
use crate::membership::{HostId, Kind, Member};
use crate::page::{Incarnation, Time};
use crate::process::{Process, is_traced};

/// The processes that are watched, and as which nodes.
#[derive(Default)]
pub(super) struct Watch {
    processes: Vec<(u64, Incarnation, OwnedFd)>,
    next_token: u64,
    /// The view that `processes` belongs to.
    view_changes: Option<u64>,
}

impl Watch {
    /// The start of a node whose process has ended.
    pub(super) fn ended(&mut self, token: u64) -> Option<Incarnation> {
        let at = self.processes.iter().position(|watched| watched.0 == token)?;
        let (_, incarnation, _) = self.processes.swap_remove(at);
        Some(incarnation)
    }
}

impl Node {
    /// The ranks of this node's program whose processes run on its host, by ascending number; none in a forked
    /// child.
    pub fn ranks_on_this_host(&self) -> Vec<u32> {
        if fork::is_child() {
            return Vec::new();
        }
        self.runtime.with_machine(|machine| {
            let (Some(membership), own) = (machine.membership(), machine.intro()) else {
                return Vec::new();
            };
            let Kind::Rank { program, .. } = own.kind else { return Vec::new() };
            let is_here = |member: &&Member| {
                member.intro.incarnation == own.incarnation || member.intro.host.shares_processes(&own.host)
            };
            let here = membership.view().ranks(program).filter(is_here);
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

impl Runtime {
    /// Watches the processes of the present view that run on this host.
    pub(super) fn follow_view(&self, locked: &mut RuntimeState, now: Time) {
        let RuntimeState { machine, watch, notes, .. } = locked;
        let Some(membership) = machine.membership().filter(|m| m.me().is_some()) else { return };
        if watch.view_changes == Some(machine.view_changes()) {
            return;
        }
        watch.view_changes = Some(machine.view_changes());
        self.keepers.wake();
        let view = membership.view();
        watch.processes.retain(|(_, incarnation, _)| view.incarnation(*incarnation).is_some());
        let own = machine.intro();
        let mut watched = Vec::new();
        let here =
            |member: &&Member| member.intro.host.shares_processes(&own.host) && member.intro.pid != own.pid;
        for member in view.members.iter().filter(here) {
            let incarnation = member.intro.incarnation;
            if watch.processes.iter().any(|watched| watched.1 == incarnation) {
                continue;
            }
            let process = Process { pid: member.intro.pid, started: member.intro.started };
            match process.open() {
                Ok(Some(process)) => {
                    watch.next_token += 1;
                    // Without a watch the member's silence will tell.
                    if self.poller.watch(&process, watch.next_token).is_ok() {
                        watch.processes.push((watch.next_token, incarnation, process));
                        watched.push(incarnation);
                    }
                }
                // It has ended, or it runs on a copy of this machine: its silence will tell.
                Ok(None) => {}
                // Of this process's limits, or the machine's, and not of that process.
                Err(errno) => {
                    let text = format!("{} is not watched: {errno}", member.describe());
                    notes.add(Level::WARN, text);
                }
            }
        }
        for incarnation in watched {
            self.give(locked, now, Event::Watched(incarnation));
        }
    }

    /// Looks at processes of this host that have been silent for long: one that a debugger has stopped is
    /// waited for, and a line says so.
    pub(super) fn inspect_processes(&self, locked: &mut Entry<'_>) {
        let inspections = std::mem::take(&mut locked.inspections);
        if inspections.is_empty() {
            return;
        }
        let traced: Vec<Incarnation> = locked.unlocked(|| {
            inspections.into_iter().filter(|(_, pid)| is_traced(*pid)).map(|(of, _)| of).collect()
        });
        let now = self.now();
        for of in traced {
            self.give(locked, now, Event::Traced(of));
        }
    }

    pub(super) fn process_ended(&self, locked: &mut Entry<'_>, incarnation: Incarnation) {
        let now = self.now();
        self.give(locked, now, Event::ProcessEnded(incarnation));
    }
}

/// Where this process runs. A host without `/proc` says nothing, and counts as a host of its own.
pub fn host() -> HostId {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot = boot.trim();
    let within = |namespace: &str| match std::fs::read_link(namespace) {
        Ok(namespace) if !boot.is_empty() => format!("{boot} {}", namespace.display()),
        Ok(_) | Err(_) => String::new(),
    };
    HostId { processes: within("/proc/self/ns/pid"), network: within("/proc/self/ns/net") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_do_not_know_where_they_run_share_no_processes() {
        assert!(host().shares_processes(&host()));
        assert!(!HostId::default().shares_processes(&HostId::default()));
        assert!(!host().shares_processes(&HostId::default()));
    }
}
