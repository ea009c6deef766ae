//! What must hold in every run: nobody that runs and can be reached is declared dead, by whomever; every
//! death is named rightly and told once; an epoch has one view; views only grow; and in the end all
//! that run and reach each other agree on who they are.

use std::collections::{BTreeMap, BTreeSet};

use pagemesh::config::membership::{ANSWER_MAX, CUT_MAX, SILENCE_MAX};
use pagemesh::membership::Membership;
use pagemesh::page::{Incarnation, Span, Time};

use super::plan::{Fate, Incident};
use super::{Cluster, Phase};

/// A process that does not run for so long may be declared dead: one that is silent for that time may be.
const STOP_MAX: Span = Span(SILENCE_MAX.0 + ANSWER_MAX.0 / 2);
/// Nobody answers at once who did not run for so long.
const SHORT: Span = Span::from_ms(50);
/// Signs of life, and looks at them, are so far apart.
const SLACK: Span = Span::from_ms(1_000);
/// For so long after its end a trouble may still be the cause of a verdict.
const AFTERMATH: Span = Span(SILENCE_MAX.0 + ANSWER_MAX.0 + 2 * SLACK.0);

/// What is known of the run beside the protocol.
#[derive(Default)]
pub(super) struct Oracle {
    pub(super) broken: Option<String>,
    processes: BTreeMap<usize, Known>,
    /// Times at which links did not work.
    cuts: Vec<FailedLink>,
    /// The view of each epoch, as its members' incarnations.
    views: BTreeMap<u64, Vec<u64>>,
    /// Deaths that the coordinator has declared, each with its epoch.
    deaths: Vec<(usize, u64)>,
}

/// A time at which a link between hosts lost datagrams, one way.
struct FailedLink {
    hosts: (usize, usize),
    from: Time,
    /// Open while it lasts.
    until: Option<Time>,
    /// Part of what it lost.
    loss: f64,
}

#[derive(Default)]
struct Known {
    ended: Option<Time>,
    said_end: bool,
    leaves: bool,
    /// When it did not run.
    stops: Vec<(Time, Time)>,
    /// When its receiver did not run.
    deaf: Vec<(Time, Time)>,
    /// When it became a member, and in which epoch.
    joined: Option<(Time, u64)>,
    /// When it had a session with every other member.
    met: Option<Time>,
    epoch: u64,
    /// Deaths that it was told of.
    told: BTreeSet<usize>,
}

impl Oracle {
    pub(super) fn fail(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    pub(super) fn started(&mut self, index: usize) {
        self.processes.insert(index, Known::default());
    }

    fn known(&mut self, index: usize) -> &mut Known {
        self.processes.entry(index).or_default()
    }

    pub(super) fn ended(&mut self, index: usize, at: Time) {
        self.known(index).ended.get_or_insert(at);
    }

    pub(super) fn said_end(&mut self, index: usize) {
        self.known(index).said_end = true;
    }

    pub(super) fn leaves(&mut self, index: usize) {
        self.known(index).leaves = true;
    }

    pub(super) fn left(&mut self, index: usize) {
        if !self.known(index).leaves {
            self.fail(format!("only who wants to leave is let go: {index}"));
        }
    }

    pub(super) fn stops(&mut self, index: usize, from: Time, until: Time) {
        self.known(index).stops.push((from, until));
    }

    pub(super) fn deafens(&mut self, index: usize, from: Time, until: Time) {
        self.known(index).deaf.push((from, until));
    }

    pub(super) fn joined(&mut self, index: usize, epoch: u64, at: Time) {
        self.known(index).joined = Some((at, epoch));
    }

    pub(super) fn met(&mut self, index: usize, at: Time) {
        self.known(index).met = Some(at);
    }

    /// Whether a process had met all others before that moment.
    fn had_met(&self, index: usize, before: Time) -> bool {
        index == 0 || self.processes.get(&index).and_then(|known| known.met).is_some_and(|met| met < before)
    }

    pub(super) fn declared(&mut self, index: usize, epoch: u64) {
        self.deaths.push((index, epoch));
    }

    /// A death that a member has not been told of.
    fn untold(&self, index: usize) -> Option<usize> {
        let known = self.processes.get(&index)?;
        let (_, joined) = known.joined?;
        let untold = |&&(of, epoch): &&(usize, u64)| epoch > joined && !known.told.contains(&of);
        self.deaths.iter().find(untold).map(|death| death.0)
    }

    pub(super) fn cut(&mut self, link: (usize, usize), at: Time, loss: f64) {
        self.cuts.push(FailedLink { hosts: link, from: at, until: None, loss });
    }

    pub(super) fn healed(&mut self, link: (usize, usize), at: Time) {
        for cut in self.cuts.iter_mut().filter(|cut| cut.hosts == link && cut.until.is_none()) {
            cut.until = Some(at);
        }
    }

    pub(super) fn told_of_death(&mut self, told: usize, of: usize) {
        if !self.known(told).told.insert(of) {
            self.fail(format!("a death is told once: {told} of {of}"));
        }
    }

    pub(super) fn told_of_its_eviction(&mut self, index: usize, why: &str) {
        if why.is_empty() {
            self.fail(format!("who is taken out is told why: {index}"));
        }
    }

    /// A process's view after a step.
    pub(super) fn look(&mut self, _now: Time, index: usize, membership: Option<&Membership>) {
        let Some(membership) = membership.filter(|membership| membership.me().is_some()) else { return };
        let view = membership.view();
        let epoch = view.epoch.0;
        let known = self.known(index);
        if epoch == known.epoch {
            return;
        }
        let before = std::mem::replace(&mut known.epoch, epoch);
        if epoch < before {
            self.fail(format!("views only grow: {index} from {before} to {epoch}"));
        }
        let members: Vec<u64> = view.members.iter().map(|member| member.intro.incarnation.0).collect();
        if *self.views.entry(epoch).or_insert_with(|| members.clone()) != members {
            self.fail(format!("an epoch has one view: {epoch} at {index}"));
        }
    }

    /// Whether a process did not run for `lasts`, lately.
    fn was_stopped(&self, index: usize, lasts: Span, now: Time) -> bool {
        let Some(known) = self.processes.get(&index) else { return false };
        let mut times = known.stops.iter().chain(&known.deaf);
        times.any(|&(from, until)| until.min(now).since(from) > lasts && now < until + AFTERMATH)
    }

    /// Whether a link did not work for `lasts` at least, lately: one way or the other.
    fn was_cut(&self, hosts: (usize, usize), lasts: Span, now: Time) -> bool {
        self.was_lossy(hosts, lasts, 0.0, now)
    }

    /// The same for links that lost so much at least.
    fn was_lossy(&self, hosts: (usize, usize), lasts: Span, loss: f64, now: Time) -> bool {
        let of = |link: (usize, usize)| link == hosts || link == (hosts.1, hosts.0);
        let bad = self.cuts.iter().filter(|cut| of(cut.hosts) && cut.loss >= loss);
        // Two failures one after the other are one to who hears nothing.
        let recent = bad.filter(|cut| cut.until.is_none_or(|end| now < end + AFTERMATH));
        let (mut first, mut last) = (now, Time(0));
        for cut in recent {
            first = first.min(cut.from);
            last = last.max(cut.until.unwrap_or(now).min(now));
        }
        last.since(first).0 + SLACK.0 > lasts.0
    }
}

impl Cluster {
    /// The coordinator has declared a member dead.
    pub(super) fn judge_death(&mut self, index: usize, how: &str) {
        let known = self.oracle.known(index);
        let (ended, said) = (known.ended.is_some(), known.said_end);
        let host = self.processes[index].host;
        // A member of the same host could as well end the process itself.
        let is_lied_about = self.plan.liar.is_some_and(|liar| self.plan.processes[liar].host == host);
        let is_right = if how.contains("process has ended") {
            let is_slow = self.oracle.was_stopped(index, SHORT, self.now) || self.is_lossy(index, 0);
            ended || (is_lied_about && is_slow)
        } else if how.starts_with("it ended") {
            said
        } else if how.contains("reached each other") {
            return self.judge_cut(index, how);
        } else {
            // For silence: also a process that has left, whose last message is on its way.
            ended || self.was_mute(index, 0) || self.is_unreachable(index, 0)
        };
        if !is_right {
            let now = self.now;
            self.oracle.fail(format!(
                "nobody that runs and is reachable is declared dead: {index}, {how}, at {} ms",
                now.0 / 1_000_000
            ));
        }
    }

    /// A member takes the coordinator for dead.
    pub(super) fn judge_coordinators_death(&mut self, judge: usize, how: &str) {
        let known = self.oracle.known(0);
        let (ended, said) = (known.ended.is_some(), known.said_end);
        // Who was taken out and missed it hears of the coordinator no more.
        let coordinator = self.processes[0].membership.as_ref();
        let is_out = coordinator.is_none_or(|m| m.view().incarnation(Incarnation(judge as u64)).is_none());
        let is_right = ended
            || is_out
            || (how.starts_with("it ended") && said)
            || self.was_mute(0, judge)
            || self.is_unreachable(0, judge);
        if !is_right {
            self.oracle
                .fail(format!("nobody that runs and is reachable is declared dead: 0 by {judge}, {how}"));
        }
    }

    /// Whether nobody else that runs can have heard of a process lately; `judge` cannot be asked for it.
    fn is_unreachable(&self, index: usize, judge: usize) -> bool {
        let host = self.processes[index].host;
        let view = self.processes[judge].membership.as_ref().map(Membership::view);
        let reaches = |other: usize| {
            let process = &self.processes[other];
            // The judge asks those that it knows.
            let is_known = view.is_some_and(|view| view.incarnation(Incarnation(other as u64)).is_some());
            // An answer that is lost may come too late.
            let is_lossy = self.plan.tail > Span(0) || self.plan.loss > 0.1;
            let is_honest = self.plan.liar != Some(other) && !is_lossy;
            // A newcomer may have been asked too late.
            let was_here = self.oracle.had_met(other, Time(self.now.0.saturating_sub(AFTERMATH.0)));
            let knows = process.phase == Phase::Running && was_here && is_known && is_honest;
            let hosts = (process.host, host);
            // Another one answers only if the judge hears it.
            let asked = (process.host, self.processes[judge].host);
            let cut = |hosts: (usize, usize)| {
                hosts.0 != hosts.1 && self.oracle.was_cut(hosts, Span(2 * SLACK.0), self.now)
            };
            knows && !cut(hosts) && !cut(asked) && !self.oracle.was_stopped_at_all(other, self.now)
        };
        !(0..self.processes.len()).filter(|&other| other != index).any(reaches)
    }

    /// Whether a process was silent for its own reasons: it did not run for as long as it takes to be declared
    /// dead, or for as long as it had time to answer, after its link to the judge had failed.
    fn was_mute(&self, index: usize, judge: usize) -> bool {
        let hosts = (self.processes[index].host, self.processes[judge].host);
        let was_cut = hosts.0 != hosts.1 && self.oracle.was_cut(hosts, Span(0), self.now);
        self.oracle.was_stopped(index, STOP_MAX, self.now)
            || (was_cut && self.oracle.was_stopped(index, Span(ANSWER_MAX.0 / 2), self.now))
    }

    /// Whether an answer may have been lost on its way.
    fn is_lossy(&self, index: usize, judge: usize) -> bool {
        let hosts = (self.processes[index].host, self.processes[judge].host);
        let lost = self.plan.loss > 0.0 || self.oracle.was_cut(hosts, Span(0), self.now);
        hosts.0 != hosts.1 && lost
    }

    /// A member had to go because it and another one did not reach each other.
    pub(super) fn judge_cut(&mut self, loser: usize, how: &str) {
        let coordinator = self.processes[0].membership.as_ref();
        let is_out = coordinator.is_none_or(|m| m.view().incarnation(Incarnation(loser as u64)).is_none());
        // Who does not run does not say that it hears again.
        let was_stopped =
            (0..self.processes.len()).any(|other| self.oracle.was_stopped(other, STOP_MAX, self.now));
        let has_ended = self.oracle.known(loser).ended.is_some();
        if has_ended
            || was_stopped
            || self.plan.liar.is_some()
            || (is_out && loser != 0 && how.starts_with("this node"))
        {
            return;
        }
        let others: Vec<usize> = (0..self.processes.len()).filter(|&other| other != loser).collect();
        let cut_from = |&other: &usize| self.were_cut(loser, other, CUT_MAX);
        let partners: Vec<usize> = others.into_iter().filter(cut_from).collect();
        if partners.is_empty() {
            return self.oracle.fail(format!("a cut that heals is forgotten: {loser}, {how}"));
        }
        // One of them stays rightly: it reaches as many as the loser at least.
        let is_right = |&other: &usize| {
            // A link that has failed just now may not be known.
            let (kept, lost) = (self.long_cut_off_from(other), self.cut_off_from(loser, SILENCE_MAX, 0.5));
            let keeps = other == 0 || kept <= lost;
            // Who is still joining goes first.
            let (stays, goes) = (self.processes[other].has_met, self.processes[loser].has_met);
            !goes || (stays && keeps)
        };
        // The coordinator knows what it has been told: late if messages are late, and not that a link has healed
        // just now.
        let has_healed =
            |cut: &FailedLink| cut.loss < 1.0 || cut.until.is_some_and(|end| self.now < end + AFTERMATH);
        let is_late = self.plan.tail > Span(0) || self.plan.loss > 0.1;
        let is_unclear = is_late || self.oracle.cuts.iter().any(has_healed);
        if !is_unclear && !partners.iter().any(is_right) {
            self.oracle.fail(format!(
                "of two that do not reach each other the better connected stays: {loser}, {how}"
            ));
        }
    }

    fn were_cut(&self, one: usize, other: usize, lasts: Span) -> bool {
        let hosts = (self.processes[one].host, self.processes[other].host);
        hosts.0 != hosts.1 && self.oracle.was_cut(hosts, lasts, self.now)
    }

    /// How many members a process has not reached for so long that it is known: who has come since does not count.
    fn long_cut_off_from(&self, index: usize) -> usize {
        let is_old = |other: usize| {
            let joined = self.oracle.processes.get(&other).and_then(|known| known.joined);
            other == 0 || joined.is_some_and(|(at, _)| at + CUT_MAX < self.now)
        };
        let is_cut = |other: usize| {
            let hosts = (self.processes[index].host, self.processes[other].host);
            hosts.0 != hosts.1 && self.oracle.was_lossy(hosts, CUT_MAX, 1.0, self.now)
        };
        let is_here = |other: usize| other != index && self.processes[other].phase == Phase::Running;
        (0..self.processes.len()).filter(|&other| is_here(other) && is_old(other) && is_cut(other)).count()
    }

    /// How many that run a process has not reached lately.
    fn cut_off_from(&self, index: usize, lasts: Span, loss: f64) -> usize {
        let others = (0..self.processes.len()).filter(|&other| other != index);
        let others = others.filter(|&other| self.processes[other].phase == Phase::Running);
        let host = |index: usize| self.processes[index].host;
        let is_cut = |other: usize| {
            let hosts = (host(index), host(other));
            hosts.0 != hosts.1 && self.oracle.was_lossy(hosts, lasts, loss, self.now)
        };
        others.filter(|&other| is_cut(other)).count()
    }

    /// Only silence raises a suspicion: not that this node itself did not run.
    pub(super) fn judge_suspicions(&mut self, judge: usize) {
        let Some(membership) = &self.processes[judge].membership else { return };
        let suspected: Vec<usize> = membership.silent_members().map(|of| of.0 as usize).collect();
        for of in suspected {
            let joined = self.oracle.processes.get(&of).and_then(|known| known.joined);
            let is_new = joined.is_none_or(|(at, _)| self.now.since(at) < AFTERMATH);
            let hosts = (self.processes[judge].host, self.processes[of].host);
            let is_lossy = hosts.0 != hosts.1 && self.plan.loss > 0.1;
            let lost = !self.processes[of].sessions.contains_key(&judge);
            let silent = self.processes[of].phase == Phase::Gone
                || self.oracle.was_stopped_at_all(of, self.now)
                || self.were_cut(judge, of, Span(0));
            if !(silent || is_new || is_lossy || lost) {
                let now = self.now.0 / 1_000_000;
                self.oracle
                    .fail(format!("only silence raises a suspicion: {judge} suspects {of} at {now} ms"));
            }
        }
    }

    /// A link has been down for long: who it separates must not both be members.
    pub(super) fn judge_long_cut(&mut self, incident: usize) {
        let Incident { at, lasts, fate: Fate::Cut { from, to, loss } } = self.plan.incidents[incident] else {
            return;
        };
        // Until it is known, decided, and told.
        let longest = Span(CUT_MAX.0 + 2 * SILENCE_MAX.0 + ANSWER_MAX.0 + 2 * SLACK.0);
        if from == to || loss < 1.0 || lasts <= longest || self.plan.liar.is_some() {
            return;
        }
        let view = self.processes[0].membership.as_ref().map(Membership::view);
        let is_sound = |&index: &usize| {
            let known = self.oracle.processes.get(&index);
            let is_member = view.is_some_and(|view| view.incarnation(Incarnation(index as u64)).is_some());
            let joined =
                is_member && known.and_then(|known| known.joined).is_some_and(|(joined, _)| joined < at);
            let awake = known.is_some_and(|known| {
                known.stops.iter().chain(&known.deaf).all(|&(from, until)| from > self.now || until < at)
            });
            joined && awake && self.oracle.had_met(index, at) && self.processes[index].phase == Phase::Running
        };
        let sound: Vec<usize> = (0..self.processes.len()).filter(is_sound).collect();
        let on = |host: usize| sound.iter().copied().find(|&index| self.processes[index].host == host);
        let lasting = self.links.get(&(from, to)) == Some(&1.0);
        if let (Some(one), Some(other), true, true) = (on(from), on(to), lasting, sound.contains(&0)) {
            self.oracle.fail(format!("a cut that lasts is decided: {one} and {other} are both members"));
        }
    }

    /// Whether all that run agree on who they are, and nobody is suspected.
    pub(super) fn is_settled(&self) -> bool {
        self.unsettled().is_empty()
    }

    /// What is not at rest.
    pub(super) fn unsettled(&self) -> String {
        let running = |index: &usize| self.processes[*index].phase == Phase::Running;
        let all: Vec<usize> = (0..self.processes.len()).filter(running).collect();
        if !all.contains(&0) {
            // Without the coordinator there is no cluster; all must know.
            return if all.is_empty() {
                String::new()
            } else {
                format!("{all:?} do not know that it is over")
            };
        }
        let expected: Vec<u64> = all.iter().map(|&index| index as u64).collect();
        for &index in &all {
            let Some(membership) = &self.processes[index].membership else { continue };
            let mut members: Vec<u64> =
                membership.view().members.iter().map(|member| member.intro.incarnation.0).collect();
            members.sort_unstable();
            if members != expected {
                return format!("{index} sees {members:?}, and {expected:?} run");
            }
            if membership.open_suspicions() > 0 {
                return format!("{index} has open suspicions");
            }
            if let Some(of) = self.oracle.untold(index) {
                return format!("{index} has not been told of the death of {of}");
            }
            if self.oracle.processes.get(&index).is_some_and(|known| known.leaves) {
                return format!("{index} wants to leave");
            }
        }
        self.unsettled_regions(&all).unwrap_or_default()
    }
}

impl Oracle {
    /// Whether a process did not run for a part of the time in which it could have answered.
    fn was_stopped_at_all(&self, index: usize, now: Time) -> bool {
        let Some(known) = self.processes.get(&index) else { return false };
        known.stops.iter().chain(&known.deaf).any(|&(_, until)| now < until + AFTERMATH)
    }
}
