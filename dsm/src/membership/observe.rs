//! What a node learns of the others beside their messages, and what it makes of it. Only the detector's
//! silence becomes a suspicion, and only a verdict takes a member out; the end of a process and a
//! member's own word need none. A full queue, a refused datagram, a closed session have no place here.

use super::detector::Finding;
use super::suspicion::Step;
use super::{Action, COORDINATOR, Control, Membership, View};
use crate::config::membership::RULINGS_MAX;
use crate::page::{Incarnation, NodeId, Span, Time};

/// How the end of a process is told.
const PROCESS_ENDED: &str = "its process has ended";

/// Something that this node has seen of another member, or of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Observation {
    /// Something authentic came of this start of a member at that moment.
    Heard(Incarnation, Time),
    /// The socket was empty at that moment, and everything that had come was handled.
    Drained(Time),
    /// The kernel says that the process has ended.
    ProcessEnded(Incarnation),
    /// The kernel will say when the process ends, or will not any more.
    Watched(Incarnation, bool),
    /// A debugger has stopped the process.
    Traced(Incarnation),
    /// The member itself says that it ends without leaving, in its last words.
    SaidEnd(Incarnation, String),
}

impl Membership {
    /// The same value that keeps these rules: all, but in the check of the simulator's oracles.
    pub fn with_rules(mut self, rules: super::Rules) -> Self {
        self.rules = rules;
        self
    }

    /// Suspects members that have been silent for so long, also where the usual limits are longer.
    pub fn with_silence_max(mut self, longest: Span) -> Self {
        self.detector.limit_silence(longest);
        self
    }

    /// This node has a session with every member of its view. From now on silence counts.
    pub fn met(&mut self) {
        if !self.has_met {
            self.has_met = true;
            self.detector.restart();
            self.ask(Control::Met);
        }
    }

    /// Members that have been silent here for longer than they may be.
    pub fn silent_members(&self) -> impl Iterator<Item = Incarnation> {
        self.detector.suspected()
    }

    /// Members that are suspected, or cut off from another one, as far as this node decides about them.
    pub fn open_suspicions(&self) -> usize {
        self.suspicions.open()
    }

    /// Takes note of what was seen.
    pub fn observe(&mut self, now: Time, observation: Observation) {
        match observation {
            Observation::Heard(of, at) => self.on_heard(of, at),
            Observation::Drained(at) => self.on_drained(now, at),
            Observation::ProcessEnded(of) => self.on_end(of, PROCESS_ENDED.into()),
            Observation::Watched(of, is_watched) => self.detector.watched(of, is_watched),
            Observation::Traced(of) => self.detector.traced(of),
            Observation::SaidEnd(of, why) => {
                let concerns = self.is_coordinator() || self.is_of_coordinator(of);
                if concerns {
                    self.on_end(of, format!("it ended: {why}"));
                }
            }
        }
    }

    /// A timer has run out; nothing was received. Judges nobody: this node may not have run.
    pub fn on_timer(&mut self, now: Time) {
        if !self.rules.judges_when_drained_only() {
            self.on_drained(now, now);
        }
    }

    fn on_heard(&mut self, of: Incarnation, at: Time) {
        let me = self.intro.incarnation;
        let listened = self.detector.listened();
        if self.detector.heard(of, at) {
            if self.is_coordinator() || self.is_of_coordinator(of) {
                self.suspicions.withdraw(me, of);
            }
            if !self.is_coordinator() {
                self.ask(Control::Unsuspect { of });
            }
        }
        self.suspicions.heard(me, of, at, listened, self.rules);
        for (asker, question) in self.errands.heard(of, at) {
            if self.view.member(asker).is_some() && Some(asker) != self.me {
                self.actions.push_back(Action::Send { to: asker, control: Control::Alive { of, question } });
            }
        }
    }

    fn on_drained(&mut self, now: Time, at: Time) {
        let findings = self.detector.drained(at, self.rules);
        if !self.has_met && self.rules.joiner_is_quiet() {
            self.detector.restart();
            return;
        }
        let me = self.intro.incarnation;
        for finding in findings {
            match finding {
                Finding::Silent { of, .. } => {
                    if self.is_coordinator() || self.is_of_coordinator(of) {
                        self.suspicions.accuse(me, of, now, self.detector.listened(), self.rules);
                    }
                    // The coordinator too: it may hear this node, and learn which of its links has failed.
                    if !self.is_coordinator() {
                        self.ask(Control::Suspect { of });
                    }
                }
                Finding::Inspect { of } => {
                    if let Some(member) = self.view.incarnation(of) {
                        self.actions.push_back(Action::Inspect { of, pid: member.intro.pid });
                    }
                }
            }
        }
        self.advance_suspicions(at);
    }

    fn advance_suspicions(&mut self, now: Time) {
        let me = self.intro.incarnation;
        // A host takes all its members along: none of them waits for the next look.
        for _ in 0..RULINGS_MAX {
            let steps = self.suspicions.advance(now, me, &self.view, &self.detector, self.rules);
            let is_ruling = steps.last().is_some_and(|step| !matches!(step, Step::Ask { .. }));
            steps.into_iter().for_each(|step| self.take_step(step));
            if !is_ruling {
                break;
            }
        }
    }

    fn take_step(&mut self, step: Step) {
        match step {
            Step::Ask { accused, helpers, question } => {
                if let Some(member) = self.view.incarnation(accused) {
                    self.actions.push_back(Action::Ping(member.id));
                }
                for to in helpers {
                    let control = Control::Probe { of: accused, question };
                    self.actions.push_back(Action::Send { to, control });
                }
            }
            Step::Ended { accused } => {
                self.suspicions.close(accused);
                self.on_end(accused, PROCESS_ENDED.into());
            }
            Step::Dead { accused, silent } => {
                let how =
                    format!("silent for {}, and it answered nobody who was asked about it", seconds(silent));
                self.suspicions.close(accused);
                self.on_end(accused, how);
            }
            Step::CutOff { loser, other, since } => {
                let name = |of| describe(&self.view, of);
                self.suspicions.close(loser);
                if self.is_coordinator() {
                    let how =
                        format!("it and {} have not reached each other for {}", name(other), seconds(since));
                    self.on_end(loser, how);
                } else {
                    let how = format!(
                        "this node and {} have not reached each other for {}, and others reach it",
                        name(if loser == self.intro.incarnation { other } else { loser }),
                        seconds(since)
                    );
                    self.actions.push_back(Action::CutOff { how });
                }
            }
        }
    }

    /// A member is no more.
    fn on_end(&mut self, of: Incarnation, how: String) {
        if self.is_of_coordinator(of) && !self.is_coordinator() {
            self.actions.push_back(Action::CoordinatorDied { how });
        } else if let Some(mut coordinator) = self.coordinator.take() {
            coordinator.on_died(self, of, how);
            self.coordinator = Some(coordinator);
        } else if self.view.running_at(of).is_some() {
            self.ask(Control::ProcessEnded { of });
        }
    }

    /// A member's word about itself or another one, if this node decides. It is a hint, or a question.
    pub(super) fn on_word(&mut self, now: Time, from: Option<NodeId>, word: Control) {
        let by = from.and_then(|from| self.view.member(from)).map(|member| member.intro.incarnation);
        let Some(by) = by.filter(|_| self.is_coordinator()) else { return };
        let is_open = |of| self.view.running_at(of).is_some() && of != self.intro.incarnation;
        let listened = self.detector.listened();
        match word {
            Control::Met => self.suspicions.met(by),
            Control::Suspect { of } if is_open(of) => {
                if self.suspicions.has_met(by) || !self.rules.joiner_is_quiet() {
                    self.suspicions.accuse(by, of, now, listened, self.rules);
                    self.advance_suspicions(now);
                }
            }
            Control::Unsuspect { of } => self.suspicions.withdraw(by, of),
            // What the kernel of this host reports needs no member's word.
            Control::ProcessEnded { of } if is_open(of) && !self.detector.is_watched(of) => {
                if self.can_see_end(by, of) {
                    self.suspicions.said_ended(by, of, now, listened, self.rules);
                    self.advance_suspicions(now);
                }
            }
            Control::Suspect { of } if of == self.intro.incarnation => {
                if self.suspicions.has_met(by) {
                    self.suspicions.is_cut(by, of, listened, self.rules);
                }
            }
            // Of nobody that is a member.
            Control::Suspect { .. } | Control::ProcessEnded { .. } => {}
            Control::Join(_)
            | Control::JoinRefused(_)
            | Control::Joined { .. }
            | Control::Regions(_)
            | Control::View(_)
            | Control::Alloc { .. }
            | Control::AllocReply { .. }
            | Control::Remove { .. }
            | Control::RemoveReply { .. }
            | Control::Use { .. }
            | Control::UseReply { .. }
            | Control::Unuse(_)
            | Control::RegionAdded(_)
            | Control::RegionGone { .. }
            | Control::RegionMapped { .. }
            | Control::RegionUnmapped { .. }
            | Control::CannotRun { .. }
            | Control::Drained { .. }
            | Control::Leave
            | Control::LeaveAck
            | Control::Probe { .. }
            | Control::Alive { .. }
            | Control::Shutdown { .. } => unreachable!("no word about a member"),
        }
    }

    /// Whether a member can know that the process of another one has ended: it runs on the same host.
    fn can_see_end(&self, by: Incarnation, of: Incarnation) -> bool {
        let (by, of) = (self.view.incarnation(by), self.view.incarnation(of));
        let same = by
            .zip(of)
            .is_some_and(|(by, of)| by.id != of.id && by.intro.host.shares_processes(&of.intro.host));
        same || !self.rules.ends_are_local()
    }

    pub(super) fn on_probe(&mut self, now: Time, from: Option<NodeId>, of: Incarnation, question: u64) {
        let (Some(from), Some(member)) = (from, self.view.running_at(of)) else { return };
        if Some(member.id) != self.me {
            self.errands.ask(from, of, question, now);
            self.actions.push_back(Action::Ping(member.id));
        }
    }

    pub(super) fn on_alive(&mut self, from: Option<NodeId>, of: Incarnation, question: u64) {
        if let Some(from) = from {
            self.suspicions.answered(from, of, question, self.detector.listened(), self.rules);
        }
    }

    /// The view is another one.
    pub(super) fn follow_view(&mut self) {
        self.detector.follow(&self.view, self.intro.incarnation);
        self.suspicions.retain_members(&self.view);
    }

    fn is_of_coordinator(&self, of: Incarnation) -> bool {
        self.view.member(COORDINATOR).is_some_and(|member| member.intro.incarnation == of)
    }
}

fn describe(view: &View, of: Incarnation) -> String {
    view.incarnation(of).map_or_else(|| "a member that has gone".into(), |member| member.describe())
}

/// For people.
fn seconds(span: Span) -> String {
    format!("{:.1} s", span.0 as f64 / 1e9)
}
