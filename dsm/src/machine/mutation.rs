//! Faults planted on purpose in the node around the cores, one rule each, chosen at run time: the check on the
//! simulator's oracles. Outside the `planted` feature every rule holds, and its test is a constant.

use crate::net;
use crate::rpc::core;

/// A rule of the machine that a mutated node breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs)] // The name is the rule that is broken.
pub enum Mutation {
    GateTakesLaterEpochs,
    GateOpensBetweenChanges,
    GateDropsEarlyMessages,
    GateHasNoBound,
    GateWithoutRoomEndsSessions,
    MessagesForASlotGoToItsNextTenant,
    EarlyMessagesGoWithTheirSession,
    EarlyMessagesGoWithTheirMember,
    BatchMixesPages,
    MessageWithoutRoomIsDropped,
    CallsUseTheWholeQueue,
    CallsReachTheNextStart,
    RefusalIsEvidence,
    ViewEndsNoTransactions,
    LeavesWithoutWritingBack,
    LeavesWithoutDraining,
    LeaversAreForgottenEarly,
    EndedLeavesOperationsOpen,
    EndedRevokesNothing,
    RepliesGoToTheNextStart,
    CallsEndTwice,
    EndedLeavesCallsOpen,
    HandshakesEndUnheard,
    SessionsBegunAnewLoseMessages,
    KeysChangeUnacknowledged,
    ViewsAreKeptFromFurtherCores,
    MessagesForNodesThatHaveNotBegunAreDropped,
    DrainedNodesGoUnheard,
    ClientsAskOnce,
    ClientsJudgeNoServer,
    ClientsDieWithTheirSession,
}

impl Mutation {
    /// Every mutation.
    pub const ALL: [Mutation; 31] = [
        Mutation::GateTakesLaterEpochs,
        Mutation::GateOpensBetweenChanges,
        Mutation::GateDropsEarlyMessages,
        Mutation::GateHasNoBound,
        Mutation::GateWithoutRoomEndsSessions,
        Mutation::MessagesForASlotGoToItsNextTenant,
        Mutation::EarlyMessagesGoWithTheirSession,
        Mutation::EarlyMessagesGoWithTheirMember,
        Mutation::BatchMixesPages,
        Mutation::MessageWithoutRoomIsDropped,
        Mutation::CallsUseTheWholeQueue,
        Mutation::CallsReachTheNextStart,
        Mutation::RefusalIsEvidence,
        Mutation::ViewEndsNoTransactions,
        Mutation::LeavesWithoutWritingBack,
        Mutation::LeavesWithoutDraining,
        Mutation::LeaversAreForgottenEarly,
        Mutation::EndedLeavesOperationsOpen,
        Mutation::EndedRevokesNothing,
        Mutation::RepliesGoToTheNextStart,
        Mutation::CallsEndTwice,
        Mutation::EndedLeavesCallsOpen,
        Mutation::HandshakesEndUnheard,
        Mutation::SessionsBegunAnewLoseMessages,
        Mutation::KeysChangeUnacknowledged,
        Mutation::ViewsAreKeptFromFurtherCores,
        Mutation::MessagesForNodesThatHaveNotBegunAreDropped,
        Mutation::DrainedNodesGoUnheard,
        Mutation::ClientsAskOnce,
        Mutation::ClientsJudgeNoServer,
        Mutation::ClientsDieWithTheirSession,
    ];
}

/// The rules that a machine keeps: all of them, or all but one.
pub type Rules = crate::mutation::Rules<Mutation>;

impl Rules {
    /// A batch of a view that is not known here yet waits for it.
    pub(super) fn awaits_views(&self) -> bool {
        self.keeps(Mutation::GateTakesLaterEpochs)
    }

    /// Messages that came too early are looked at when all changes of the view are made.
    pub(super) fn installs_whole_views(&self) -> bool {
        self.keeps(Mutation::GateOpensBetweenChanges)
    }

    /// What came too early is kept.
    pub(super) fn keeps_early_messages(&self) -> bool {
        self.keeps(Mutation::GateDropsEarlyMessages)
    }

    /// A session keeps so many messages here that came too early, and no more.
    pub(super) fn bounds_early_messages(&self) -> bool {
        self.keeps(Mutation::GateHasNoBound)
    }

    /// What finds no room is to come again: its sender cannot know what is known here.
    pub(super) fn refuses_without_room(&self) -> bool {
        self.keeps(Mutation::GateWithoutRoomEndsSessions)
    }

    /// What waits for a member that has gone is dropped.
    pub(super) fn forgets_messages_of_the_departed(&self) -> bool {
        self.keeps(Mutation::MessagesForASlotGoToItsNextTenant)
    }

    /// What a member said too early counts though its session is over since.
    pub(super) fn keeps_messages_of_closed_sessions(&self) -> bool {
        self.keeps(Mutation::EarlyMessagesGoWithTheirSession)
    }

    /// What a leaver said too early is heard before it is gone.
    pub(super) fn hears_leavers_out(&self) -> bool {
        self.keeps(Mutation::EarlyMessagesGoWithTheirMember)
    }

    /// The pages of a batch follow each other as its messages do.
    pub(super) fn keeps_pages_in_order(&self) -> bool {
        self.keeps(Mutation::BatchMixesPages)
    }

    /// A message that finds no room waits.
    pub(super) fn keeps_messages_without_room(&self) -> bool {
        self.keeps(Mutation::MessageWithoutRoomIsDropped)
    }

    /// Calls have a part of each send queue, and no more.
    pub(super) fn divides_queues(&self) -> bool {
        self.keeps(Mutation::CallsUseTheWholeQueue)
    }

    /// A message of the calls goes to the start of the node that it is for.
    pub(super) fn tells_starts_apart(&self) -> bool {
        self.keeps(Mutation::CallsReachTheNextStart)
    }

    /// That nobody listens at an address says nothing of the member there: anybody can forge it.
    pub(super) fn takes_refusals_for_hints(&self) -> bool {
        self.keeps(Mutation::RefusalIsEvidence)
    }

    /// A member that goes ends the transactions that need it.
    pub(super) fn ends_transactions_of_the_departed(&self) -> bool {
        self.keeps(Mutation::ViewEndsNoTransactions)
    }

    /// A node that leaves gives its pages back first.
    pub(super) fn writes_back(&self) -> bool {
        self.keeps(Mutation::LeavesWithoutWritingBack)
    }

    /// A node leaves when all members have what it sent them.
    pub(super) fn drains(&self) -> bool {
        self.keeps(Mutation::LeavesWithoutDraining)
    }

    /// The session of a member that was let go stays until that member has heard so.
    pub(super) fn waits_for_leavers(&self) -> bool {
        self.keeps(Mutation::LeaversAreForgottenEarly)
    }

    /// The end of a node ends every wait.
    pub(super) fn ends_waits(&self) -> bool {
        self.keeps(Mutation::EndedLeavesOperationsOpen)
    }

    /// The end of a node takes the access to all pages away.
    pub(super) fn revokes_access(&self) -> bool {
        self.keeps(Mutation::EndedRevokesNothing)
    }

    /// What changes the view is told to every core of a process.
    pub(super) fn tells_further_cores(&self) -> bool {
        self.keeps(Mutation::ViewsAreKeptFromFurtherCores)
    }

    /// What is said to a node that is to be run on here waits until it has begun.
    pub(super) fn keeps_messages_until_nodes_begin(&self) -> bool {
        self.keeps(Mutation::MessagesForNodesThatHaveNotBegunAreDropped)
    }

    /// A node that is drained goes when all members have what it has said.
    pub(super) fn flushes_drained_nodes(&self) -> bool {
        self.keeps(Mutation::DrainedNodesGoUnheard)
    }

    /// A client asks again what it has asked in a session that is lost.
    pub(super) fn asks_again(&self) -> bool {
        self.keeps(Mutation::ClientsAskOnce)
    }

    /// A client takes a server that is silent for too long for one that it has lost.
    pub(super) fn judges_servers(&self) -> bool {
        self.keeps(Mutation::ClientsJudgeNoServer)
    }

    /// A client whose session is over may come back.
    pub(super) fn waits_for_clients(&self) -> bool {
        self.keeps(Mutation::ClientsDieWithTheirSession)
    }

    /// Those of the calls.
    #[cfg(feature = "planted")]
    pub(super) fn calls(&self) -> core::Rules {
        match self.broken() {
            Some(Mutation::RepliesGoToTheNextStart) => {
                core::Rules::without(core::Mutation::RepliesGoToTheNextStart)
            }
            Some(Mutation::CallsEndTwice) => core::Rules::without(core::Mutation::CallsEndTwice),
            Some(Mutation::EndedLeavesCallsOpen) => {
                core::Rules::without(core::Mutation::EndedLeavesCallsOpen)
            }
            Some(_) | None => core::Rules::default(),
        }
    }

    /// Those of the endpoint.
    #[cfg(feature = "planted")]
    pub(super) fn net(&self) -> net::Rules {
        match self.broken() {
            Some(Mutation::HandshakesEndUnheard) => net::Rules::without(net::Mutation::HandshakesEndUnheard),
            Some(Mutation::SessionsBegunAnewLoseMessages) => {
                net::Rules::without(net::Mutation::SessionsBegunAnewLoseMessages)
            }
            Some(Mutation::KeysChangeUnacknowledged) => {
                net::Rules::without(net::Mutation::KeysChangeUnacknowledged)
            }
            Some(_) | None => net::Rules::default(),
        }
    }

    /// Those of the endpoint.
    #[cfg(not(feature = "planted"))]
    pub(super) fn net(&self) -> net::Rules {
        net::Rules::default()
    }

    /// Those of the calls.
    #[cfg(not(feature = "planted"))]
    pub(super) fn calls(&self) -> core::Rules {
        core::Rules::default()
    }
}
