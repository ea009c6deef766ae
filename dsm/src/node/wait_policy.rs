//! How long a thread looks for a datagram before it sleeps. Decisions only: the times come as arguments.
//!
//! Waking an idle core costs tens of microseconds, so looking pays where the next datagram comes soon.
//! It is waste where nothing comes, and harm where others want the core. A thread that waits for an answer
//! knows how long that takes: [`SpinOrPark`] compares both ways. Who serves others does not see what its sleep
//! costs them: [`BusyPollBudget`] goes by how often they ask. [`CpuContention`] tells whether looking takes a core
//! from somebody; if not, a look that is answered in its time is taken without comparison.

use crate::config::node::{
    ABSENCE_MAX, ABSENCES_MAX, ABSENCES_MIN, ABSENCES_WORTH, ANSWER_LATE, ANSWER_SOON, BUSY_POLL_MAX,
    BUSY_POLL_MIN, CONTENTION_AGAIN_MAX, CONTENTION_AGAIN_MIN, CONTENTION_JUDGED_AFTER, ERRAND_MIN,
    SLICE_MIN, TRIAL_EVERY, TRIAL_FIRST, TRIAL_WAITS,
};
use crate::page::{Span, Time};

/// How a thread waits for a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Looks for a bounded while, then sleeps.
    Look,
    /// Sleeps at once.
    Sleep,
}

/// How to wait this time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Choice {
    pub(super) way: Way,
    /// Looking has not helped of late: perhaps on another core it does.
    pub(super) elsewhere: bool,
}

/// What a thread waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Awaited {
    /// The answer to a question.
    Answer,
    /// The next of many pages that are on their way.
    Stream,
}

/// One wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) way: Way,
    pub(super) began: Time,
    pub(super) awaited: Awaited,
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

/// Which way of waiting has been over sooner of late. The other one is tried now and then: the machine
/// changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct SpinOrPark {
    /// What a wait usually takes, by looking and by sleeping: running medians, because a single wait
    /// that met a busy core says nothing about the next.
    looked: Span,
    slept: Span,
    usual: Way,
    /// When the other way is tried again, and how long after the last trial that is.
    next_trial: Time,
    interval: Span,
    /// Waits that belong to the present trial.
    trial: u32,
}

impl Default for SpinOrPark {
    fn default() -> Self {
        SpinOrPark {
            looked: Span(ANSWER_SOON.0 / 4),
            slept: Span(ANSWER_SOON.0 / 2),
            usual: Way::Look,
            next_trial: Time(0),
            interval: TRIAL_EVERY,
            trial: 0,
        }
    }
}

impl SpinOrPark {
    /// How to wait now, while so many want the core.
    pub(super) fn choose(&mut self, now: Time, others: Others) -> Choice {
        // What a wait takes depends on how much it waits for, so both ways of many calls at a time seem
        // alike; but who sleeps is often woken on the core of who answers, and both are slow from then on.
        let is_free = others == Others::Nobody && self.looked < ANSWER_SOON;
        // Else a look takes a core, perhaps from the one who is to answer: it must save an eighth of the wait.
        let saves = self.looked.0 + self.looked.0 / 8 < self.slept.0;
        let better = if is_free || saves { Way::Look } else { Way::Sleep };
        if self.trial == 0 && better != self.usual {
            self.usual = better;
            // What made looking fail may pass soon, or be the core's fault.
            self.interval = if better == Way::Sleep { TRIAL_FIRST } else { TRIAL_EVERY };
            self.next_trial = now + self.interval;
        }
        let begins = self.trial == 0 && self.next_trial <= now;
        if begins {
            self.interval = Span((2 * self.interval.0).min(TRIAL_EVERY.0));
            (self.next_trial, self.trial) = (now + self.interval, TRIAL_WAITS);
            if self.usual == Way::Sleep {
                // Earlier failures do not count: let the trial alone decide.
                self.looked = self.slept;
            }
        }
        if self.trial == 0 {
            return Choice { way: self.usual, elsewhere: false };
        }
        self.trial -= 1;
        match self.usual {
            Way::Look => Choice { way: Way::Sleep, elsewhere: false },
            Way::Sleep => Choice { way: Way::Look, elsewhere: begins },
        }
    }

    /// A wait was over `after` so long. What takes longer than [`ANSWER_LATE`] counts as that: the way of
    /// waiting has no part in it, and then sleeping is as good and cheaper.
    pub(super) fn learn(&mut self, way: Way, after: Span) {
        let known = match way {
            Way::Look => &mut self.looked,
            Way::Sleep => &mut self.slept,
        };
        let step = known.0.div_ceil(8);
        known.0 = if after > *known { (known.0 + step).min(ANSWER_LATE.0) } else { known.0 - step };
    }
}

/// How long whoever receives looks on after it has served a peer: about as long as the gaps between the
/// last requests, if they were short; not at all when they are rare.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct BusyPollBudget {
    budget: Span,
    last: Time,
}

impl BusyPollBudget {
    /// Something that a peer asked for has been done.
    pub(super) fn served(&mut self, now: Time) {
        let gap = now.since(self.last);
        self.last = now;
        self.budget = if gap > BUSY_POLL_MAX {
            Span(0)
        } else {
            // Up at once, down slowly: gaps vary.
            let wanted = Span((2 * gap.0).clamp(BUSY_POLL_MIN.0, BUSY_POLL_MAX.0));
            wanted.max(Span(self.budget.0 - self.budget.0 / 8))
        };
    }

    /// Whether to look on; for the shortest while only if others want the core.
    pub(super) fn lasts(&self, now: Time, contention: &CpuContention) -> bool {
        let budget = match contention.others(now) {
            Others::Nobody => self.budget,
            Others::Waiting | Others::Computing => self.budget.min(BUSY_POLL_MIN),
        };
        now < self.last + budget
    }
}

/// How soon threads that have waited wait again. Who calls a server or reads remote pages in a loop comes
/// back after microseconds, and to hand the socket over and take it back costs two system calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketLease {
    since: Time,
    /// Short ones, one after the other.
    streak: u32,
    /// So many in a row promise another one. Doubled when that was wrong too soon.
    wanted: u32,
}

impl Default for SocketLease {
    fn default() -> Self {
        SocketLease { since: Time(0), streak: 0, wanted: ABSENCES_MIN }
    }
}

impl SocketLease {
    /// A thread that received goes on; whether it will be back soon.
    pub(super) fn begins(&mut self, now: Time) -> bool {
        self.since = now;
        self.streak >= self.wanted
    }

    /// A thread receives again.
    pub(super) fn ends(&mut self, now: Time) {
        if now.since(self.since) > ABSENCE_MAX {
            self.lasts_too_long();
            return;
        }
        self.streak = self.streak.saturating_add(1);
        if self.streak >= self.wanted + ABSENCES_WORTH {
            self.wanted = (self.wanted / 2).max(ABSENCES_MIN);
        }
    }

    /// The promise was wrong, or none was given.
    pub(super) fn lasts_too_long(&mut self) {
        let kept = self.streak.checked_sub(self.wanted);
        if kept.is_some_and(|kept| kept < ABSENCES_WORTH) {
            self.wanted = (2 * self.wanted).min(ABSENCES_MAX);
        }
        self.streak = 0;
    }
}

/// How a thread that looked spent its time.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Looked {
    /// It ran.
    kept: Span,
    /// Others ran for a moment: they had something to do, and then waited again.
    errands: Span,
    /// Others ran as long as the kernel lets them.
    slices: Span,
}

impl Looked {
    /// So much time lay between two looks at the socket with nothing to do in between.
    pub(super) fn add(&mut self, gap: Span) {
        let part = match gap {
            gap if gap < ERRAND_MIN => &mut self.kept,
            gap if gap < SLICE_MIN => &mut self.errands,
            _ => &mut self.slices,
        };
        part.0 += gap.0;
    }
}

/// Who else wants the core that a thread looks on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Others {
    #[default]
    Nobody,
    /// Threads that wait for messages as this one does: to be let through at every look.
    Waiting,
    /// Threads that compute, who give the core back late: to be let through by sleeping, from which a
    /// datagram wakes.
    Computing,
}

/// Finds out who else wants the cores. Asked anew from time to time, ever more rarely. The first sign of
/// threads that compute may be true of one core only: whoever looks there tries another.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct CpuContention {
    looked: Looked,
    /// The last judgement was that others compute.
    suspects: bool,
    /// The next look should be on another core.
    elsewhere: bool,
    others: Others,
    until: Time,
    again: Span,
}

impl CpuContention {
    /// Takes note of what became of a look.
    pub(super) fn note(&mut self, now: Time, looked: Looked) {
        let Looked { kept, errands, slices } = &mut self.looked;
        kept.0 += looked.kept.0;
        errands.0 += looked.errands.0;
        slices.0 += looked.slices.0;
        if kept.0 + errands.0 + slices.0 < CONTENTION_JUDGED_AFTER.0 {
            return;
        }
        let others = if slices.0 > kept.0 / 2 {
            Others::Computing
        } else if errands.0 > kept.0 / 4 {
            Others::Waiting
        } else {
            Others::Nobody
        };
        // What was long ago counts less.
        for span in [kept, errands, slices] {
            span.0 /= 2;
        }
        let computing = others == Others::Computing;
        let suspected = std::mem::replace(&mut self.suspects, computing);
        if others == Others::Nobody {
            (self.again, self.elsewhere) = (Span(0), false);
        } else if computing && !suspected && self.again == Span(0) {
            self.elsewhere = true;
        } else if now >= self.until || others != self.others {
            self.again = Span((2 * self.again.0).clamp(CONTENTION_AGAIN_MIN.0, CONTENTION_AGAIN_MAX.0));
            (self.others, self.until) = (others, now + self.again);
        }
    }

    /// Whether to look on another core; says so once.
    pub(super) fn wants_change(&mut self) -> bool {
        std::mem::take(&mut self.elsewhere)
    }

    /// From whom a look takes the core.
    pub(super) fn others(&self, now: Time) -> Others {
        if now < self.until { self.others } else { Others::Nobody }
    }
}

/// What a node knows of how to wait.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct WaitPolicy {
    /// Of threads that wait for an answer.
    pub(super) spin_or_park: SpinOrPark,
    pub(super) busy_poll: BusyPollBudget,
    pub(super) lease: SocketLease,
    pub(super) contention: CpuContention,
}

impl WaitPolicy {
    /// How to wait now. For the next pages of a stream a thread looks unless others compute: they come
    /// whether it does or not, and if it sleeps, who sends them must wake it again and again.
    pub(super) fn choose(&mut self, now: Time, awaited: Awaited) -> Choice {
        let others = self.contention.others(now);
        match awaited {
            Awaited::Stream if others != Others::Computing => Choice { way: Way::Look, elsewhere: false },
            Awaited::Stream | Awaited::Answer => self.spin_or_park.choose(now, others),
        }
    }

    /// A wait was over `after` so long.
    pub(super) fn learn(&mut self, look: Look, after: Span) {
        match look.awaited {
            Awaited::Answer => self.spin_or_park.learn(look.way, after),
            // How long it took says nothing about the way of waiting.
            Awaited::Stream => {}
        }
    }

    /// Whether a thread that receives looks on for messages that nobody here waits for.
    pub(super) fn lasts(&self, now: Time) -> bool {
        self.busy_poll.lasts(now, &self.contention)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits one after the other for `span`; the parts of them that were spent looking and sleeping.
    fn wait_for(
        spin_or_park: &mut SpinOrPark,
        now: &mut Time,
        (span, others): (Span, Others),
        mut take: impl FnMut(Way) -> Span,
    ) -> [f64; 2] {
        let (end, mut waits) = (*now + span, [0.0; 2]);
        while *now < end {
            let way = spin_or_park.choose(*now, others).way;
            let took = take(way);
            spin_or_park.learn(way, took);
            *now = *now + took;
            waits[usize::from(way == Way::Sleep)] += 1.0;
        }
        let all = waits[0] + waits[1];
        waits.map(|part| part / all)
    }

    #[test]
    fn the_way_that_answers_come_sooner_is_taken_but_for_trials() {
        let (mut spin_or_park, mut now) = (SpinOrPark::default(), Time(0));
        let (quick, slow, long) = (Span::from_us(8), Span::from_us(60), Span::from_ms(1_000));
        let mut phase = |span, looking, sleeping| {
            let when = (span, Others::Waiting);
            wait_for(
                &mut spin_or_park,
                &mut now,
                when,
                |way| if way == Way::Look { looking } else { sleeping },
            )
        };
        let [looks, _] = phase(long, quick, slow);
        assert!(looks > 0.999, "{looks}");
        // Now the one who answers needs this core.
        phase(Span(2 * TRIAL_EVERY.0), slow, quick);
        let [_, sleeps] = phase(long, slow, quick);
        assert!(sleeps > 0.999, "{sleeps}");
        phase(Span(2 * TRIAL_EVERY.0), quick, slow);
        let [looks, _] = phase(long, quick, slow);
        assert!(looks > 0.999, "{looks}");
    }

    #[test]
    fn sleep_that_seems_as_good_is_for_crowded_cores() {
        let wait = |others| {
            let (mut spin_or_park, mut now) = (SpinOrPark::default(), Time(0));
            let [looks, _] =
                wait_for(&mut spin_or_park, &mut now, (Span::from_ms(2_000), others), |_| Span::from_us(45));
            looks
        };
        assert!(wait(Others::Nobody) > 0.99, "a trial is all that sleeping gets");
        assert!(wait(Others::Waiting) < 0.05);
    }

    #[test]
    fn a_look_in_ten_that_meets_a_busy_core_changes_nothing() {
        let (mut spin_or_park, mut now, mut count) = (SpinOrPark::default(), Time(0), 0u32);
        let [looks, _] =
            wait_for(&mut spin_or_park, &mut now, (Span::from_ms(2_000), Others::Waiting), |way| {
                count += 1;
                match way {
                    Way::Look if count.is_multiple_of(10) => Span::from_us(4_000),
                    Way::Look => Span::from_us(12),
                    Way::Sleep => Span::from_us(35),
                }
            });
        assert!(looks > 0.95, "{looks}");
    }

    #[test]
    fn long_waits_are_slept_through() {
        let (mut spin_or_park, mut now) = (SpinOrPark::default(), Time(0));
        let mut look_time = Span(0);
        wait_for(&mut spin_or_park, &mut now, (Span::from_ms(10_000), Others::Nobody), |way| {
            look_time.0 += if way == Way::Look { ANSWER_SOON.0 } else { 0 };
            Span::from_ms(5)
        });
        assert!(look_time < Span::from_ms(100), "a hundredth of the time at most: {look_time:?}");
    }

    #[test]
    fn waits_that_looking_shortens_are_looked_through_though_they_outlast_the_look() {
        let (mut spin_or_park, mut now) = (SpinOrPark::default(), Time(0));
        let mut take = |way| if way == Way::Look { Span::from_us(150) } else { Span::from_us(220) };
        wait_for(&mut spin_or_park, &mut now, (Span::from_ms(500), Others::Nobody), &mut take);
        let [looks, _] = wait_for(&mut spin_or_park, &mut now, (Span::from_ms(1_000), Others::Nobody), take);
        assert!(looks > 0.9, "{looks}");
    }

    #[test]
    fn a_busy_poll_covers_the_usual_gap_and_ends_with_the_traffic() {
        let (mut busy_poll, alone) = (BusyPollBudget::default(), CpuContention::default());
        let every = Span::from_ms(1);
        let mut now = Time(0) + Span::from_ms(1_000);
        busy_poll.served(now);
        assert!(!busy_poll.lasts(now, &alone), "the first message after a long silence is no traffic");
        for _ in 0..3 {
            now = now + every;
            busy_poll.served(now);
            assert!(busy_poll.lasts(now + every + Span::from_us(300), &alone));
        }
        assert!(!busy_poll.lasts(now + BUSY_POLL_MAX, &alone));
        let others = Others::Computing;
        let contention = CpuContention { others, until: now + BUSY_POLL_MAX, ..CpuContention::default() };
        assert!(busy_poll.lasts(Time(now.0 + BUSY_POLL_MIN.0 / 2), &contention));
        assert!(!busy_poll.lasts(now + BUSY_POLL_MIN, &contention));
        now = now + Span::from_ms(250);
        busy_poll.served(now);
        assert!(!busy_poll.lasts(now, &alone));
    }

    #[test]
    fn a_busy_poll_shrinks_with_the_gaps() {
        let mut busy_poll = BusyPollBudget::default();
        let mut now = Time(0) + Span::from_ms(1_000);
        for gap in [BUSY_POLL_MAX.0; 3].into_iter().chain([10_000; 100]) {
            now = now + Span(gap);
            busy_poll.served(now);
        }
        let alone = CpuContention::default();
        assert!(busy_poll.lasts(now + Span(BUSY_POLL_MIN.0 / 2), &alone));
        assert!(!busy_poll.lasts(now + BUSY_POLL_MIN, &alone));
    }

    #[test]
    fn who_comes_back_soon_leaves_the_socket_until_that_was_wrong() {
        let (mut lease, mut now) = (SocketLease::default(), Time(1));
        let mut away = |lease: &mut SocketLease, us: u64, times: u32| {
            let mut promised = 0;
            for _ in 0..times {
                promised += u32::from(lease.begins(now));
                now = now + Span::from_us(us);
                lease.ends(now);
                now = now + Span::from_us(10);
            }
            promised
        };
        assert_eq!(away(&mut lease, 3, ABSENCES_MIN), 0);
        assert_eq!(away(&mut lease, 3, 10), 10);
        assert_eq!(away(&mut lease, 500, 10), 1, "it computes");
        assert_eq!(away(&mut lease, 3, 2 * ABSENCES_MIN), 0, "twice as many are wanted");
        assert_eq!(away(&mut lease, 3, 1_000), 1_000, "which so many give back");
        lease.lasts_too_long();
        assert_eq!(away(&mut lease, 3, ABSENCES_MIN), 0);
        assert_eq!(away(&mut lease, 3, 10), 10, "and outweigh one that was wrong");
    }

    #[test]
    fn who_runs_in_a_looking_thread_s_place_is_told_by_how_long() {
        let mut now = Time(0) + Span::from_ms(1_000);
        let mut contention = CpuContention::default();
        let mut look = |contention: &mut CpuContention, gaps: &[u64], times: usize| {
            for _ in 0..times {
                let mut looked = Looked::default();
                for &gap in gaps {
                    now = now + Span::from_us(gap);
                    looked.add(Span::from_us(gap));
                }
                contention.note(now, looked);
            }
            now
        };
        let now = look(&mut contention, &[1; 100], 1_000);
        assert_eq!(contention.others(now), Others::Nobody);
        assert!(!contention.wants_change());
        let now = look(&mut contention, &[1, 1, 1, 1_000, 4_000], 1);
        assert!(contention.wants_change(), "it may be true of this core only");
        assert_eq!(contention.others(now), Others::Nobody);
        let now = look(&mut contention, &[1, 1, 1, 1_000, 4_000], 1);
        assert!(!contention.wants_change());
        assert_eq!(contention.others(now), Others::Computing);
        assert_eq!(
            contention.others(now + CONTENTION_AGAIN_MIN),
            Others::Nobody,
            "until it is found out again"
        );
        let now = look(&mut contention, &[4_000], 40);
        assert_eq!(contention.others(now + CONTENTION_AGAIN_MIN), Others::Computing, "ever more rarely");
        let now = look(&mut contention, &[1, 1, 1, 1, 30], 1_000);
        assert_eq!(contention.others(now), Others::Waiting);
        let now = look(&mut contention, &[1; 100], 10_000);
        assert_eq!(contention.others(now), Others::Nobody);
    }
}
