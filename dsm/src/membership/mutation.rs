//! Faults planted on purpose in the membership protocol, one rule each, chosen at run time: the check
//! on the simulator's oracles. Outside the `planted` feature every rule holds, and its test is a
//! constant.

/// A rule of membership that a mutated node breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs)] // The name is the rule that is broken; docs/failure.md has the rules.
pub enum Mutation {
    DetectorCountsTimeNotListened,
    DetectorJudgesBeforeDrained,
    DetectorForgetsThatItListened,
    VerdictWithoutQuestions,
    VerdictAgainstOwnHearing,
    VerdictIgnoresHelpers,
    AcquittalByOldSigns,
    AcquittalForgetsTheCut,
    CutLastsForEver,
    CutNeedsNoConfirmation,
    CutGoesOnAfterAPause,
    CutEvictsTheBetterConnected,
    JoinerAccuses,
    EndedByAnybodysWord,
    OlderViewReplacesNewer,
    DeathIsToldInOneViewOnly,
    RegionIsToldBeforeItsHomesHaveIt,
}

impl Mutation {
    /// Every mutation.
    pub const ALL: [Mutation; 17] = [
        Mutation::DetectorCountsTimeNotListened,
        Mutation::DetectorJudgesBeforeDrained,
        Mutation::DetectorForgetsThatItListened,
        Mutation::VerdictWithoutQuestions,
        Mutation::VerdictAgainstOwnHearing,
        Mutation::VerdictIgnoresHelpers,
        Mutation::AcquittalByOldSigns,
        Mutation::AcquittalForgetsTheCut,
        Mutation::CutLastsForEver,
        Mutation::CutNeedsNoConfirmation,
        Mutation::CutGoesOnAfterAPause,
        Mutation::CutEvictsTheBetterConnected,
        Mutation::JoinerAccuses,
        Mutation::EndedByAnybodysWord,
        Mutation::OlderViewReplacesNewer,
        Mutation::DeathIsToldInOneViewOnly,
        Mutation::RegionIsToldBeforeItsHomesHaveIt,
    ];
}

/// The rules that a membership value keeps: all of them, or all but one.
pub type Rules = crate::mutation::Rules<Mutation>;

impl Rules {
    /// Time in which this node did not run is not silence of others.
    pub(super) fn counts_listened_time_only(&self) -> bool {
        self.keeps(Mutation::DetectorCountsTimeNotListened)
    }

    /// Only a node that has just emptied its socket judges.
    pub(super) fn judges_when_drained_only(&self) -> bool {
        self.keeps(Mutation::DetectorJudgesBeforeDrained)
    }

    /// Listened time goes on.
    pub(super) fn listened_time_goes_on(&self) -> bool {
        self.keeps(Mutation::DetectorForgetsThatItListened)
    }

    /// Before a verdict the accused and others are asked.
    pub(super) fn must_ask(&self) -> bool {
        self.keeps(Mutation::VerdictWithoutQuestions)
    }

    /// The node that decides must not have heard of the accused either.
    pub(super) fn must_be_silent_here(&self) -> bool {
        self.keeps(Mutation::VerdictAgainstOwnHearing)
    }

    /// Another node's answer acquits.
    pub(super) fn helpers_count(&self) -> bool {
        self.keeps(Mutation::VerdictIgnoresHelpers)
    }

    /// A sign of life from before the question is no answer.
    pub(super) fn answers_are_newer(&self) -> bool {
        self.keeps(Mutation::AcquittalByOldSigns)
    }

    /// A member that was acquitted, and that the accuser still cannot hear, is half of a cut pair.
    pub(super) fn keeps_cuts(&self) -> bool {
        self.keeps(Mutation::AcquittalForgetsTheCut)
    }

    /// A cut that lasts is decided.
    pub(super) fn cuts_end(&self) -> bool {
        self.keeps(Mutation::CutLastsForEver)
    }

    /// Of a cut pair the one that reaches fewer members goes.
    pub(super) fn better_connected_stays(&self) -> bool {
        self.keeps(Mutation::CutEvictsTheBetterConnected)
    }

    /// Who is still joining accuses nobody.
    pub(super) fn joiner_is_quiet(&self) -> bool {
        self.keeps(Mutation::JoinerAccuses)
    }

    /// A cut lasts only while its accuser says so: messages overtake each other.
    pub(super) fn cuts_are_confirmed(&self) -> bool {
        self.keeps(Mutation::CutNeedsNoConfirmation)
    }

    /// A cut of which its accuser has said nothing for longer than it may is over.
    pub(super) fn cuts_begin_anew(&self) -> bool {
        self.keeps(Mutation::CutGoesOnAfterAPause)
    }

    /// Only a member of the same host can say that a process has ended.
    pub(super) fn ends_are_local(&self) -> bool {
        self.keeps(Mutation::EndedByAnybodysWord)
    }

    /// Views only grow.
    pub(super) fn views_grow(&self) -> bool {
        self.keeps(Mutation::OlderViewReplacesNewer)
    }

    /// A death stays in the views that follow.
    pub(super) fn deaths_stay(&self) -> bool {
        self.keeps(Mutation::DeathIsToldInOneViewOnly)
    }

    /// A node that asks for a region is answered when the region's homes have it.
    pub(super) fn homes_have_it_first(&self) -> bool {
        self.keeps(Mutation::RegionIsToldBeforeItsHomesHaveIt)
    }
}
