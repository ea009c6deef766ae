//! What befalls the processes of a run, as its plan says, and the lies of one that breaks the rules.

use pagemesh::membership::Control;
use pagemesh::page::Incarnation;

use super::plan::{Fate, Incident, Starved};
use super::{Cluster, Content, Event, Phase};

impl Cluster {
    pub(super) fn begin_incident(&mut self, index: usize) {
        let Incident { fate, lasts, .. } = self.plan.incidents[index];
        self.record(|| format!("incident {fate:?} for {} ms", lasts.0 / 1_000_000));
        match fate {
            Fate::Start(process) => self.start(process),
            Fate::Crash(process) if self.is_running(process) => {
                self.work.crashes += 1;
                self.vanish(process);
            }
            Fate::Leave(process) if self.is_running(process) && self.has_joined(process) => {
                self.oracle.leaves(process);
                if let Some(membership) = &mut self.processes[process].membership {
                    membership.leave();
                }
                self.follow(process);
            }
            Fate::Starve(process, how) if self.is_running(process) => {
                self.work.starvations += 1;
                let until = self.now + lasts;
                self.processes[process].starved = Some((how, until));
                match how {
                    Starved::Process => self.oracle.stops(process, self.now, until),
                    Starved::Receiver => self.oracle.deafens(process, self.now, until),
                }
                self.schedule(until, Event::Over(index));
            }
            Fate::Cut { from, to, loss } => {
                self.work.cuts += 1;
                self.links.insert((from, to), loss);
                // What is heard now and then is no cut.
                self.oracle.cut((from, to), self.now, loss);
                self.schedule(self.now + lasts, Event::Over(index));
            }
            Fate::Alloc(process, name) if self.can_ask(process) => self.alloc(process, name),
            Fate::Remove(process, name) if self.can_ask(process) => self.remove(process, name),
            Fate::Open(process) if self.can_ask(process) => self.open(process),
            Fate::Mute(process) if self.is_running(process) => {
                self.mute(process);
                self.schedule(self.now + lasts, Event::Over(index));
            }
            Fate::Crash(_)
            | Fate::Leave(_)
            | Fate::Starve(..)
            | Fate::Alloc(..)
            | Fate::Remove(..)
            | Fate::Open(_)
            | Fate::Mute(_) => {}
        }
    }

    pub(super) fn end_incident(&mut self, index: usize) {
        let fate = self.plan.incidents[index].fate;
        self.record(|| format!("over {fate:?}"));
        match self.plan.incidents[index].fate {
            Fate::Starve(process, _) => {
                self.processes[process].starved = None;
                self.wake(process);
            }
            Fate::Cut { from, to, .. } => {
                self.judge_long_cut(index);
                self.links.remove(&(from, to));
                self.oracle.healed((from, to), self.now);
            }
            Fate::Mute(process) if self.is_running(process) => self.unmute(process),
            Fate::Start(_)
            | Fate::Crash(_)
            | Fate::Leave(_)
            | Fate::Alloc(..)
            | Fate::Remove(..)
            | Fate::Open(_)
            | Fate::Mute(_) => {}
        }
    }

    /// Whether the program of a process may ask for something now.
    fn can_ask(&self, process: usize) -> bool {
        self.is_running(process) && self.has_joined(process) && self.processes[process].starved.is_none()
    }

    fn is_running(&self, process: usize) -> bool {
        self.processes.get(process).is_some_and(|process| process.phase == Phase::Running)
    }

    /// A member that breaks the rules says something sound that is not true.
    pub(super) fn lie(&mut self, index: usize) {
        if self.now > self.plan.ends || self.rng.u32(..4) > 0 {
            return;
        }
        self.work.lies += 1;
        let of = Incarnation(self.rng.u64(..self.processes.len() as u64));
        let control = match self.rng.u32(..6) {
            0 => Control::Suspect { of },
            1 => Control::Unsuspect { of },
            2 => Control::ProcessEnded { of },
            3 => Control::Alive { of, question: self.rng.u64(..8) },
            4 => Control::Probe { of, question: self.rng.u64(..8) },
            _ => Control::Shutdown { reason: "a lie".into() },
        };
        let to = self.rng.usize(..self.processes.len());
        if to != index && self.processes[index].sessions.contains_key(&to) {
            self.send(index, to, Content::Control(control));
        }
    }
}
