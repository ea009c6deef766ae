//! How long a thread looks for a datagram before it sleeps. Decisions only: the times come as arguments.
//!
//! Waking an idle core costs tens of microseconds, so looking pays where the next datagram comes soon.
//! It is waste where nothing comes, and harm where the one who would send it waits for this very core.
//! A thread that waits for an answer knows how long that takes: [`Habit`] compares both ways. Who serves
//! others does not see what its sleep costs them: [`Vigil`] goes by how often they ask.

use crate::config::node::{ANSWER_SOON, SPIN_MAX, SPIN_MIN, TRIAL_EVERY, VIGIL_MAX, VIGIL_MIN};
use crate::page::{Span, Time};

/// How a thread waits for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Looks for a bounded while, then sleeps.
    Look,
    /// Sleeps at once.
    Sleep,
}

/// One wait for an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) way: Way,
    pub(super) began: Time,
}

impl Look {
    /// Whether to look on for the answer.
    pub(super) fn lasts(&self, now: Time) -> bool {
        match self.way {
            Way::Look => now.since(self.began) < ANSWER_SOON,
            Way::Sleep => false,
        }
    }
}

/// Which way answers have come sooner of late. The other one is tried now and then: the machine changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habit {
    /// What an answer has taken, by looking and by sleeping.
    looked: Span,
    slept: Span,
    until_trial: u32,
}

impl Default for Habit {
    fn default() -> Self {
        Habit { looked: Span(0), slept: ANSWER_SOON, until_trial: TRIAL_EVERY }
    }
}

impl Habit {
    /// How to wait now.
    pub(super) fn choose(&mut self) -> Way {
        let better = if self.looked < self.slept { Way::Look } else { Way::Sleep };
        if self.until_trial > 0 {
            self.until_trial -= 1;
            return better;
        }
        self.until_trial = TRIAL_EVERY;
        match better {
            Way::Look => Way::Sleep,
            Way::Sleep => Way::Look,
        }
    }

    /// An answer has come `after` so long. What takes longer than a look counts as that: the way of
    /// waiting has no part in it, and then sleeping is as good and cheaper.
    pub(super) fn learn(&mut self, way: Way, after: Span) {
        let after = Span(after.0.min(ANSWER_SOON.0));
        let known = match way {
            Way::Look => &mut self.looked,
            Way::Sleep => &mut self.slept,
        };
        // Quick to believe: a trial is one wait in many.
        *known = Span((known.0 + after.0).div_ceil(2));
    }
}

/// How long whoever receives looks on after it has served a peer: about as long as the gaps between the
/// last requests, if they were short; not at all when they are rare.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Vigil {
    budget: Span,
    last: Time,
    until: Time,
}

impl Vigil {
    /// Something that a peer asked for has been done.
    pub(super) fn served(&mut self, now: Time) {
        let gap = now.since(self.last);
        self.last = now;
        self.budget = if gap > VIGIL_MAX {
            Span(0)
        } else {
            // Up at once, down slowly: gaps vary.
            let wanted = Span((2 * gap.0).clamp(VIGIL_MIN.0, VIGIL_MAX.0));
            wanted.max(Span(self.budget.0 - self.budget.0 / 8))
        };
        self.until = now + self.budget;
    }

    /// Whether to look on.
    pub(super) fn lasts(&self, now: Time) -> bool {
        now < self.until
    }

    /// When a peer was last served.
    pub(super) fn last(&self) -> Time {
        self.last
    }

    /// Others need the core more.
    pub(super) fn end(&mut self) {
        self.until = Time(0);
    }
}

/// How long a worker looks for another call before it sleeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spin {
    budget: Span,
}

impl Default for Spin {
    fn default() -> Self {
        Spin { budget: SPIN_MAX }
    }
}

impl Spin {
    pub(super) fn budget(&self) -> Span {
        self.budget
    }

    pub(super) fn hit(&mut self) {
        self.budget = Span((self.budget.0 * 2).min(SPIN_MAX.0));
    }

    pub(super) fn miss(&mut self) {
        self.budget = Span((self.budget.0 / 2).max(SPIN_MIN.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn took(habit: &mut Habit, looking: Span, sleeping: Span, waits: u32) -> u32 {
        (0..waits)
            .map(|_| match habit.choose() {
                Way::Look => {
                    habit.learn(Way::Look, looking);
                    1
                }
                Way::Sleep => {
                    habit.learn(Way::Sleep, sleeping);
                    0
                }
            })
            .sum()
    }

    #[test]
    fn the_way_that_answers_come_sooner_is_taken_but_for_trials() {
        let mut habit = Habit::default();
        let (quick, slow) = (Span::from_us(8), Span::from_us(60));
        let many = 50 * TRIAL_EVERY;
        let looks = took(&mut habit, quick, slow, many);
        assert!(looks >= many - 51, "{looks} of {many}");
        // Now the one who answers needs this core.
        took(&mut habit, slow, quick, 3 * TRIAL_EVERY);
        let looks = took(&mut habit, slow, quick, many);
        assert!(looks <= 51, "{looks} of {many}");
        took(&mut habit, quick, slow, 3 * TRIAL_EVERY);
        let looks = took(&mut habit, quick, slow, many);
        assert!(looks >= many - 51, "{looks} of {many}");
    }

    #[test]
    fn long_waits_are_slept_through() {
        let mut habit = Habit::default();
        let long = Span::from_ms(5);
        took(&mut habit, long, long, 20);
        assert!(took(&mut habit, long, long, 10 * TRIAL_EVERY) <= 11);
    }

    #[test]
    fn a_vigil_covers_the_usual_gap_and_ends_with_the_traffic() {
        let mut vigil = Vigil::default();
        let every = Span::from_ms(1);
        let mut now = Time(0) + Span::from_ms(1_000);
        vigil.served(now);
        assert!(!vigil.lasts(now), "the first message after a long silence is no traffic");
        for _ in 0..3 {
            now = now + every;
            vigil.served(now);
            assert!(vigil.lasts(now + every + Span::from_us(300)));
        }
        assert!(!vigil.lasts(now + VIGIL_MAX));
        now = now + Span::from_ms(250);
        vigil.served(now);
        assert!(!vigil.lasts(now));
    }

    #[test]
    fn a_vigil_shrinks_with_the_gaps() {
        let mut vigil = Vigil::default();
        let mut now = Time(0) + Span::from_ms(1_000);
        for gap in [VIGIL_MAX.0; 3].into_iter().chain([10_000; 100]) {
            now = now + Span(gap);
            vigil.served(now);
        }
        assert!(vigil.lasts(now + Span(VIGIL_MIN.0 / 2)));
        assert!(!vigil.lasts(now + VIGIL_MIN));
    }
}
