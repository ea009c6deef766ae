//! From a suspicion to a verdict. An accusation is a question: the node that decides asks the accused
//! itself, and through other members. One answer acquits. If the accuser still cannot hear the accused, the
//! two are a *cut pair*, and if the cut lasts, the one that reaches fewer members has to go. (Asking
//! through others is SWIM's indirect probe: Das, Gupta, Motivala, DSN 2002.)
//!
//! The coordinator decides about all members, each member for itself about the coordinator.

use std::collections::BTreeSet;

use super::detector::Detector;
use super::mutation::Rules;
use super::{COORDINATOR, Kind, View};
use crate::coherence::NodeSet;
use crate::config::membership::{
    ANSWER_MAX, ASK_EVERY, CONFIRMED_MAX, CUT_MAX, ENDED_ANSWER_MAX, ERRANDS_MAX, HELPERS,
};
use crate::page::{Incarnation, NodeId, Span, Time};

/// Suspicions that this node decides about.
#[derive(Clone, Default)]
pub(super) struct Suspicions {
    trials: Vec<Trial>,
    cuts: Vec<Cut>,
    /// Members that have said that they reach all others.
    met: BTreeSet<Incarnation>,
    next_question: u64,
}

/// One accused member.
#[derive(Clone)]
struct Trial {
    accused: Incarnation,
    accusers: Vec<Incarnation>,
    question: u64,
    /// Answers count from here on.
    begun: Time,
    /// Listened time at that moment.
    since: Span,
    /// Listened time of the last question.
    asked: Option<Span>,
    /// Questions so far: each goes through other members.
    rounds: usize,
    /// Members that were asked about it: the word of no other one counts.
    helpers: NodeSet,
    /// A member of the accused's host says that its process has ended.
    has_ended: bool,
}

/// Two members of which one cannot hear the other.
#[derive(Clone)]
struct Cut {
    accuser: Incarnation,
    accused: Incarnation,
    /// Listened time at which it was known.
    since: Span,
    /// Listened time at which its accuser last said so.
    confirmed: Span,
}

/// What a suspicion comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Ask the accused, and these members about it.
    Ask { accused: Incarnation, helpers: Vec<NodeId>, question: u64 },
    /// Its process has ended, as a member of its host says, and it does not deny it.
    Ended { accused: Incarnation },
    /// It has answered nobody.
    Dead { accused: Incarnation, silent: Span },
    /// It and `other` have been unable to reach each other for so long, and it reaches fewer members.
    CutOff { loser: Incarnation, other: Incarnation, since: Span },
}

impl Suspicions {
    /// A member has said that it reaches all others.
    pub(super) fn met(&mut self, member: Incarnation) {
        self.met.insert(member);
    }

    /// Whether a member has said so.
    pub(super) fn has_met(&self, member: Incarnation) -> bool {
        self.met.contains(&member)
    }

    /// Trials and cuts that are not decided.
    pub(super) fn open(&self) -> usize {
        self.trials.len() + self.cuts.len()
    }

    /// A member does not hear another one.
    pub(super) fn accuse(
        &mut self,
        by: Incarnation,
        of: Incarnation,
        now: Time,
        listened: Span,
        rules: Rules,
    ) {
        if by == of || self.confirm_cut(by, of, listened, rules) {
            return;
        }
        if let Some(trial) = self.trials.iter_mut().find(|trial| trial.accused == of) {
            if !trial.accusers.contains(&by) {
                trial.accusers.push(by);
            }
            return;
        }
        self.next_question += 1;
        self.trials.push(Trial {
            accused: of,
            accusers: vec![by],
            question: self.next_question,
            begun: now,
            since: listened,
            asked: None,
            rounds: 0,
            helpers: NodeSet::EMPTY,
            has_ended: false,
        });
    }

    /// A member of the accused's host says that its process has ended: if that is true, no answer comes.
    pub(super) fn said_ended(
        &mut self,
        by: Incarnation,
        of: Incarnation,
        now: Time,
        listened: Span,
        rules: Rules,
    ) {
        self.cuts.retain(|cut| (cut.accuser, cut.accused) != (by, of));
        self.accuse(by, of, now, listened, rules);
        for trial in self.trials.iter_mut().filter(|trial| trial.accused == of && !trial.has_ended) {
            (trial.has_ended, trial.begun, trial.since) = (true, now, listened);
        }
    }

    /// A member does not hear this node, which hears it: no question is left.
    pub(super) fn is_cut(&mut self, by: Incarnation, me: Incarnation, listened: Span, rules: Rules) {
        if !self.confirm_cut(by, me, listened, rules) {
            self.cuts.push(Cut { accuser: by, accused: me, since: listened, confirmed: listened });
        }
    }

    /// A known cut still lasts, as its accuser says; false if none is known. After a longer pause it is another cut: a
    /// message that was overtaken may have begun one that was over.
    fn confirm_cut(&mut self, by: Incarnation, of: Incarnation, listened: Span, rules: Rules) -> bool {
        let known = self.cuts.iter_mut().find(|cut| (cut.accuser, cut.accused) == (by, of));
        let Some(cut) = known else { return false };
        if listened.0 - cut.confirmed.0 > CONFIRMED_MAX.0 && rules.cuts_begin_anew() {
            cut.since = listened;
        }
        cut.confirmed = listened;
        true
    }

    /// The accuser hears the accused again.
    pub(super) fn withdraw(&mut self, by: Incarnation, of: Incarnation) {
        self.cuts.retain(|cut| (cut.accuser, cut.accused) != (by, of));
        for trial in self.trials.iter_mut().filter(|trial| trial.accused == of) {
            trial.accusers.retain(|accuser| *accuser != by);
        }
        self.trials.retain(|trial| !trial.accusers.is_empty());
    }

    /// The accused was heard of here at `at`.
    pub(super) fn heard(&mut self, me: Incarnation, of: Incarnation, at: Time, listened: Span, rules: Rules) {
        let answers = |trial: &Trial| trial.accused == of && (at > trial.begun || !rules.answers_are_newer());
        if let Some(at) = self.trials.iter().position(answers) {
            self.acquit(at, listened, rules);
            // Who decides hears it.
            self.withdraw(me, of);
        }
    }

    /// A member has heard of the accused since. It counts if it was asked: neither accused nor accusers are.
    pub(super) fn answered(
        &mut self,
        by: NodeId,
        of: Incarnation,
        question: u64,
        listened: Span,
        rules: Rules,
    ) {
        let asked =
            |trial: &Trial| (trial.accused, trial.question) == (of, question) && trial.helpers.contains(by);
        if let Some(at) = self.trials.iter().position(asked)
            && rules.helpers_count()
        {
            self.acquit(at, listened, rules);
        }
    }

    fn acquit(&mut self, at: usize, listened: Span, rules: Rules) {
        let Trial { accused, accusers, .. } = self.trials.swap_remove(at);
        if rules.keeps_cuts() {
            let cuts = accusers.into_iter().map(|accuser| Cut {
                accuser,
                accused,
                since: listened,
                confirmed: listened,
            });
            self.cuts.extend(cuts);
        }
    }

    /// Forgets who is no member any more.
    pub(super) fn retain_members(&mut self, view: &View) {
        let is_member = |of: Incarnation| view.running_at(of).is_some();
        self.met.retain(|member| is_member(*member));
        self.cuts.retain(|cut| is_member(cut.accuser) && is_member(cut.accused));
        for trial in &mut self.trials {
            trial.accusers.retain(|accuser| is_member(*accuser));
        }
        self.trials.retain(|trial| is_member(trial.accused) && !trial.accusers.is_empty());
    }

    /// A ruling was made about this member.
    pub(super) fn close(&mut self, of: Incarnation) {
        self.cuts.retain(|cut| cut.accuser != of && cut.accused != of);
        self.trials.retain(|trial| trial.accused != of);
    }

    /// What is to be done now that this node has listened for longer; at most one ruling a call, as the last step,
    /// because each changes the view.
    pub(super) fn advance(
        &mut self,
        now: Time,
        me: Incarnation,
        view: &View,
        detector: &Detector,
        rules: Rules,
    ) -> Vec<Step> {
        let listened = detector.listened();
        let mut steps = Vec::new();
        for trial in &mut self.trials {
            let waited = Span(listened.0.saturating_sub(trial.since.0));
            if trial.has_ended && now.since(trial.begun) > ENDED_ANSWER_MAX && waited > Span(0) {
                steps.push(Step::Ended { accused: trial.accused });
                return steps;
            }
            let over = waited > ANSWER_MAX;
            // A sign of life while others were being asked begins the wait anew.
            let is_silent = detector.is_silent_for(trial.accused, ANSWER_MAX);
            if over && (!rules.must_be_silent_here() || is_silent) {
                let silent = detector.silence(trial.accused).unwrap_or(waited);
                steps.push(Step::Dead { accused: trial.accused, silent });
                return steps;
            }
            if rules.must_ask() && trial.asked.is_none_or(|asked| listened.0 >= asked.0 + ASK_EVERY.0) {
                trial.asked = Some(listened);
                let helpers = trial.choose_helpers(me, view);
                trial.rounds += 1;
                helpers.iter().for_each(|helper| trial.helpers.insert(*helper));
                steps.push(Step::Ask { accused: trial.accused, helpers, question: trial.question });
            }
        }
        let ago = |at: Span| listened.0.saturating_sub(at.0);
        // An accuser that has not said so for as long may have said that it hears again.
        self.cuts.retain(|cut| ago(cut.confirmed) <= CUT_MAX.0 || !rules.cuts_are_confirmed());
        let lasts = |cut: &&Cut| {
            let is_confirmed = ago(cut.confirmed) <= CONFIRMED_MAX.0 || !rules.cuts_are_confirmed();
            ago(cut.since) > CUT_MAX.0 && is_confirmed && rules.cuts_end()
        };
        if let Some(cut) = self.cuts.iter().find(lasts) {
            let since = Span(listened.0 - cut.since.0);
            let loser = self.loser(cut, view, rules);
            let other = if loser == cut.accuser { cut.accused } else { cut.accuser };
            steps.push(Step::CutOff { loser, other, since });
        }
        steps
    }

    /// Which of a cut pair has to go: never the coordinator; else one that is still joining, else one that does not
    /// reach the coordinator either, else the one that is cut off from more members, else a rank before a daemon, else
    /// the one with the higher id.
    fn loser(&self, cut: &Cut, view: &View, rules: Rules) -> Incarnation {
        let weight = |of: Incarnation| {
            let partner = |cut: &Cut| match (cut.accuser == of, cut.accused == of) {
                (true, _) => Some(cut.accused),
                (_, true) => Some(cut.accuser),
                (false, false) => None,
            };
            let partners: BTreeSet<Incarnation> = self.cuts.iter().filter_map(partner).collect();
            let coordinator = view.member(COORDINATOR).map(|member| member.intro.incarnation);
            let is_far = coordinator.is_some_and(|coordinator| partners.contains(&coordinator));
            let cuts = partners.len();
            let cuts = if rules.better_connected_stays() { cuts } else { usize::MAX - cuts };
            let member = view.incarnation(of);
            let id = member.map_or(NodeId(u16::MAX), |member| member.id);
            let is_rank = member.is_some_and(|member| matches!(member.intro.kind, Kind::Rank { .. }));
            let joins = !self.has_met(of) && rules.joiner_is_quiet();
            (id != COORDINATOR, joins, is_far, cuts, is_rank, id)
        };
        if weight(cut.accuser) > weight(cut.accused) { cut.accuser } else { cut.accused }
    }
}

impl Trial {
    /// Two members that neither accuse nor are accused, others each time.
    fn choose_helpers(&self, me: Incarnation, view: &View) -> Vec<NodeId> {
        let is_apart = |of: Incarnation| of != me && of != self.accused && !self.accusers.contains(&of);
        let apart = view.running().filter(|member| is_apart(member.intro.incarnation));
        let apart: Vec<NodeId> = apart.map(|member| member.id).collect();
        let first = self.rounds * HELPERS;
        (first..first + HELPERS.min(apart.len())).map(|at| apart[at % apart.len()]).collect()
    }
}

/// Questions of others that this node answers as soon as it hears of the accused.
#[derive(Clone, Default)]
pub(super) struct Errands {
    open: Vec<Errand>,
}

#[derive(Clone)]
struct Errand {
    asker: NodeId,
    of: Incarnation,
    question: u64,
    begun: Time,
}

impl Errands {
    /// A member asks; a question that is asked again keeps its beginning.
    pub(super) fn ask(&mut self, asker: NodeId, of: Incarnation, question: u64, now: Time) {
        let is_old = |errand: &Errand| now.since(errand.begun) > Span(2 * ANSWER_MAX.0);
        self.open.retain(|errand| !is_old(errand));
        let known = |errand: &Errand| (errand.asker, errand.of, errand.question) == (asker, of, question);
        if !self.open.iter().any(known) {
            // A newer question of the same member about the same one replaces the older.
            self.open.retain(|errand| (errand.asker, errand.of) != (asker, of));
            if self.open.len() < ERRANDS_MAX {
                self.open.push(Errand { asker, of, question, begun: now });
            }
        }
    }

    /// The accused was heard of at `at`: whom to tell, with which question.
    pub(super) fn heard(&mut self, of: Incarnation, at: Time) -> Vec<(NodeId, u64)> {
        let answers = |errand: &Errand| errand.of == of && at > errand.begun;
        let told = self.open.iter().filter(|errand| answers(errand));
        let told = told.map(|errand| (errand.asker, errand.question)).collect();
        self.open.retain(|errand| !answers(errand));
        told
    }
}
