//! What befalls processes and links.

use pagemesh::page::{Incarnation, Span};

use super::Machines;
use super::network::addr;
use super::plan::{Fate, Incident};
use super::process::{Phase, Stage};

/// Whoever does not run for so long may be taken for dead.
const SILENT: Span = Span::from_ms(2_900);

impl Machines {
    /// A process that works is not reached by a peer that has a session with it of which it does not know.
    pub(super) fn mute(&mut self, peer: Incarnation, index: usize) {
        if self.processes[index].stage == Stage::Joining {
            return;
        }
        let Some(lasts) = self.plan.mutes.take() else { return };
        let (from, to) = (self.plan.processes[peer.0 as usize - 1].host, self.plan.processes[index].host);
        self.log(index, || format!("hears nothing of host {from} for {} ms", lasts.0 / 1_000_000));
        self.work.cuts += 1;
        self.cuts.insert((from, to), (self.shared.now + lasts, false));
        self.weak.extend([from, to]);
    }

    /// A process that has asked to leave gets no core, and what comes for it meanwhile finds no room.
    pub(super) fn faint(&mut self, index: usize) {
        let Some(lasts) = self.plan.faints.take() else { return };
        self.log(index, || format!("gets no core and no datagram for {} ms", lasts.0 / 1_000_000));
        self.work.starvations += 1;
        let until = self.shared.now + lasts;
        let process = &mut self.processes[index];
        (process.starved_until, process.full_until, process.was_held) = (until, until, true);
    }

    pub(super) fn incident(&mut self, index: usize) {
        let Incident { fate, lasts, .. } = self.plan.incidents[index];
        let until = self.shared.now + lasts;
        match fate {
            Fate::Crash { process, after } if self.processes[process].phase == Phase::Running => {
                self.log(process, || format!("is killed after {after} datagrams"));
                self.processes[process].dies_in = Some(after);
            }
            Fate::Kill { process, after } if self.processes[process].phase == Phase::Running => {
                self.log(process, || format!("is killed after {after} steps"));
                self.processes[process].local.ends_after(after);
            }
            Fate::Starve { process } if self.processes[process].phase == Phase::Running => {
                self.log(process, || format!("gets no core for {} ms", lasts.0 / 1_000_000));
                self.work.starvations += 1;
                self.processes[process].starved_until = until;
                self.processes[process].was_held = true;
                self.processes[process].was_silent |= lasts > SILENT;
            }
            Fate::Deafen { process } if self.processes[process].phase == Phase::Running => {
                self.log(process, || format!("does not receive for {} ms", lasts.0 / 1_000_000));
                self.work.starvations += 1;
                self.processes[process].deaf_until = until;
                self.processes[process].was_held = true;
                self.processes[process].was_silent |= lasts > SILENT;
            }
            Fate::Cut { from, to, is_leaky } => {
                self.work.cuts += 1;
                self.cuts.insert((from, to), (until, is_leaky));
                self.weak.extend([from, to]);
            }
            Fate::Slow { from, to } => {
                self.slow.insert((from, to), until);
            }
            Fate::Refused { process, of } => {
                let of = addr(self.plan.processes[of].host, of);
                self.hint(process, of);
            }
            Fate::Crash { .. } | Fate::Kill { .. } | Fate::Starve { .. } | Fate::Deafen { .. } => {}
        }
    }
}
