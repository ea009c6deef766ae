//! Watching the processes of this host: when one ends without having left the cluster, everybody is
//! told at once instead of after seconds of silence.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use tracing::Level;

use super::entry::Entry;
use super::{Node, Runtime, RuntimeState, poller};
use crate::fork;
use crate::machine::Event;
use crate::membership::{HostId, Kind, Member};
use crate::page::{Incarnation, Time};

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
            match open_member(member.intro.pid, member.intro.started) {
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
        let is_traced = |pid: u32| process_stat(pid).is_some_and(|stat| stat.is_traced);
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

/// A process as the kernel describes it now.
struct ProcessStat {
    is_traced: bool,
    /// In ticks since the kernel's boot.
    started: u64,
}

fn process_stat(pid: u32) -> Option<ProcessStat> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The fields follow the name, which may itself have parentheses: the state is the third field of all, the
    // start the 22nd.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let is_traced = fields.next()? == "t";
    Some(ProcessStat { is_traced, started: fields.nth(18)?.parse().ok()? })
}

/// When a process started, in ticks since the kernel's boot; none if the kernel does not say.
pub(super) fn started(pid: u32) -> Option<u64> {
    Some(process_stat(pid)?.started)
}

/// Opens the process of a member, to be told of its end; none if it has ended, or if its number belongs to
/// another process here. A copy of a running virtual machine has the boot and the namespaces of the original;
/// a process that started after the copying has another start.
pub(super) fn open_member(pid: u32, since: u64) -> Result<Option<OwnedFd>, Errno> {
    if since == 0 {
        return Ok(None);
    }
    match poller::open_process(pid) {
        // Compared after opening: the number cannot have changed hands between the two.
        Ok(process) => Ok((started(pid) == Some(since)).then_some(process)),
        Err(Errno::ESRCH) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_a_members_number_and_not_its_start_is_not_watched() {
        let pid = std::process::id();
        let since = started(pid).expect("a start");
        assert!(open_member(pid, since).expect("a descriptor").is_some());
        assert!(open_member(pid, since + 1).expect("no error").is_none(), "another process");
        assert!(open_member(pid, 0).expect("no error").is_none(), "a member that does not know its start");
    }

    #[test]
    fn hosts_that_do_not_know_where_they_run_share_no_processes() {
        assert!(host().shares_processes(&host()));
        assert!(!HostId::default().shares_processes(&HostId::default()));
        assert!(!host().shares_processes(&HostId::default()));
    }
}
