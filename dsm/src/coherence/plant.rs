//! Faults planted on purpose, one line each, chosen at run time: the check on the checker. Outside
//! the `planted` feature the set is always empty and every test of it compiles to `false`.

/// A fault that the simulator must find. Each breaks one rule of `docs/protocol.md`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs)] // The name is the rule that is broken; docs/protocol.md has the counterexample.
pub enum Plant {
    HomeDoesNotAwaitInstalled,
    HomeDoesNotAwaitDataHome,
    HomeReadsBeforeDataHome,
    HomeGrantsBeforeAcks,
    HomeCountsAcksAsNumber,
    HomeIgnoresInvAckTxn,
    HomeDecidesDataByCopyset,
    HomeDecidesDataByRequester,
    HomeForgetsRequestNumbers,
    HomeTakesWriteBackWhileBusy,
    HomeIgnoresWriteBackVersion,
    HomeDropsQueuedRequest,
    HomeIgnoresDataHomeTxn,
    HomeIgnoresInstalledTxn,
    HomePunchesItsPage,
    HomeQueuesWithoutBound,
    HomeTakesPagesFromAnybody,
    OwnerSendsNoDataHome,
    OwnerReadsBeforeProtect,
    OwnerLowersOnPaperOnly,
    NodeAcksBeforeUnmap,
    NodeIgnoresRequestNumber,
    NodeIgnoresForwardVersion,
    NodeIgnoresInvVersion,
    NodeDoesNotPinUpgrade,
    NodeForgetsWrittenBackBytes,
    NodeIgnoresWriteBackAckVersion,
    NodeRequestsBeforeWriteBackAck,
    NodeSendsSecondRequest,
    NodeDefersInvWhileWaiting,
    NodeDoesNotHold,
    NodeHoldsForEver,
    NodeHoldsOutOfOrder,
    NodeLeavesWithoutAck,
    NodeMapsNeighboursItLacks,
    NodeFetchesBeyondTheRegion,
    NodeAsksWithoutRoom,
    NodeDropsOwnedPage,
    NodeEvictsHeldPage,
    NodeForgetsWhoWaits,
    NodeHoldsWhileItWaitsForRoom,
    NodeServesPagesOfOtherHomes,
    LockForwardIgnoresTenure,
    LockGrantIgnoresRequest,
    LockForgetsRequestNumbers,
    LockRecallMissesHolder,
    LockBusyForgetsItsPlace,
    LockTakesAnybodysWord,
    HomeOpensBeforeAllReported,
    HomeAcksWriteBackBeforeItsTurn,
    HomeAcksDropWhileBusy,
    HomeDropEndsSharing,
    HomeForgetsPartiesOfTheLastTransaction,
    VersionsStartAgain,
    NodeTakesMessagesOfOlderRounds,
    NodeDoesNotRepeatRequests,
    NodeDoesNotReportWhatItGave,
    NodeDoesNotBindWhatItReported,
    NodeDropsLastWritersCopySilently,
    MemoryRecordsBeforeBytes,
    MemoryPunchesBeforeItClears,
    NodeMapsBeforeItRecords,
    OwnerClearsWhatItGives,
    HomesAreNotRecorded,
    HeirTakesTheRights,
    HeirOpensPageByPage,
    LockHomeNotesNothing,
    HeirBeginsBeforeTheEnd,
    HeirDropsEarlyMessages,
    LockOpensBeforeAllReported,
    LockTakesGrantsOfOlderRounds,
    LockRequestsAreNotRepeated,
    LockTokensStartAgain,
    LockForgetsDeadHolder,
    LockStayHasNoEnd,
    BarrierIgnoresGeneration,
    BarrierIgnoresArrivalNumbers,
    BarrierWithdrawsAfterItsEnd,
    BarrierTakesAnybodysWord,
    BarrierTakesStrangers,
}

impl Plant {
    /// Every fault.
    pub const ALL: [Plant; 80] = [
        Plant::HomeDoesNotAwaitInstalled,
        Plant::HomeDoesNotAwaitDataHome,
        Plant::HomeReadsBeforeDataHome,
        Plant::HomeGrantsBeforeAcks,
        Plant::HomeCountsAcksAsNumber,
        Plant::HomeIgnoresInvAckTxn,
        Plant::HomeDecidesDataByCopyset,
        Plant::HomeDecidesDataByRequester,
        Plant::HomeForgetsRequestNumbers,
        Plant::HomeTakesWriteBackWhileBusy,
        Plant::HomeIgnoresWriteBackVersion,
        Plant::HomeDropsQueuedRequest,
        Plant::HomeIgnoresDataHomeTxn,
        Plant::HomeIgnoresInstalledTxn,
        Plant::HomePunchesItsPage,
        Plant::HomeQueuesWithoutBound,
        Plant::HomeTakesPagesFromAnybody,
        Plant::OwnerSendsNoDataHome,
        Plant::OwnerReadsBeforeProtect,
        Plant::OwnerLowersOnPaperOnly,
        Plant::NodeAcksBeforeUnmap,
        Plant::NodeIgnoresRequestNumber,
        Plant::NodeIgnoresForwardVersion,
        Plant::NodeIgnoresInvVersion,
        Plant::NodeDoesNotPinUpgrade,
        Plant::NodeForgetsWrittenBackBytes,
        Plant::NodeIgnoresWriteBackAckVersion,
        Plant::NodeRequestsBeforeWriteBackAck,
        Plant::NodeSendsSecondRequest,
        Plant::NodeDefersInvWhileWaiting,
        Plant::NodeDoesNotHold,
        Plant::NodeHoldsForEver,
        Plant::NodeHoldsOutOfOrder,
        Plant::NodeLeavesWithoutAck,
        Plant::NodeMapsNeighboursItLacks,
        Plant::NodeFetchesBeyondTheRegion,
        Plant::NodeAsksWithoutRoom,
        Plant::NodeDropsOwnedPage,
        Plant::NodeEvictsHeldPage,
        Plant::NodeForgetsWhoWaits,
        Plant::NodeHoldsWhileItWaitsForRoom,
        Plant::NodeServesPagesOfOtherHomes,
        Plant::LockForwardIgnoresTenure,
        Plant::LockGrantIgnoresRequest,
        Plant::LockForgetsRequestNumbers,
        Plant::LockRecallMissesHolder,
        Plant::LockBusyForgetsItsPlace,
        Plant::LockTakesAnybodysWord,
        Plant::HomeOpensBeforeAllReported,
        Plant::HomeAcksWriteBackBeforeItsTurn,
        Plant::HomeAcksDropWhileBusy,
        Plant::HomeDropEndsSharing,
        Plant::HomeForgetsPartiesOfTheLastTransaction,
        Plant::VersionsStartAgain,
        Plant::NodeTakesMessagesOfOlderRounds,
        Plant::NodeDoesNotRepeatRequests,
        Plant::NodeDoesNotReportWhatItGave,
        Plant::NodeDoesNotBindWhatItReported,
        Plant::NodeDropsLastWritersCopySilently,
        Plant::MemoryRecordsBeforeBytes,
        Plant::MemoryPunchesBeforeItClears,
        Plant::NodeMapsBeforeItRecords,
        Plant::OwnerClearsWhatItGives,
        Plant::HomesAreNotRecorded,
        Plant::HeirTakesTheRights,
        Plant::HeirOpensPageByPage,
        Plant::LockHomeNotesNothing,
        Plant::HeirBeginsBeforeTheEnd,
        Plant::HeirDropsEarlyMessages,
        Plant::LockOpensBeforeAllReported,
        Plant::LockTakesGrantsOfOlderRounds,
        Plant::LockRequestsAreNotRepeated,
        Plant::LockTokensStartAgain,
        Plant::LockForgetsDeadHolder,
        Plant::LockStayHasNoEnd,
        Plant::BarrierIgnoresGeneration,
        Plant::BarrierIgnoresArrivalNumbers,
        Plant::BarrierWithdrawsAfterItsEnd,
        Plant::BarrierTakesAnybodysWord,
        Plant::BarrierTakesStrangers,
    ];
}

/// Which fault is planted in a core: at most one.
#[derive(Clone, Copy, Default, Debug)]
pub struct Planted {
    #[cfg(feature = "planted")]
    plant: Option<Plant>,
}

impl Planted {
    /// One fault.
    #[cfg(feature = "planted")]
    pub fn with(plant: Plant) -> Self {
        Planted { plant: Some(plant) }
    }

    /// Whether `plant` is planted.
    #[cfg(feature = "planted")]
    pub(super) fn has(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }

    /// Never, without the feature.
    #[cfg(not(feature = "planted"))]
    #[inline(always)]
    pub(super) fn has(&self, _plant: Plant) -> bool {
        false
    }
}
