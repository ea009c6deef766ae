//! What happened, event by event: the last of it is printed when a seed fails, and its hash tells
//! whether two runs of a seed were the same.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};

use pagemesh::coherence::{Attempt, Failure, Fault, LockId, Message, NodeSet, OpId};
use pagemesh::page::{Access, NodeId, PageId, Time};
use rustc_hash::FxHasher;

use crate::program::Instruction;

/// Events kept for the report of a failure, unless all are.
const TAIL_LEN: usize = 120;

/// One event at one node.
#[derive(Clone, Copy, Hash, Debug)]
pub(crate) enum What {
    Deliver {
        from: NodeId,
        message: Message,
    },
    Send {
        to: NodeId,
        message: Message,
    },
    Fault(Fault),
    Done {
        op: OpId,
        result: Result<u64, Failure>,
    },
    Ran {
        thread: u64,
        instruction: Instruction,
        value: u32,
    },
    Protect {
        page: PageId,
        access: Access,
    },
    Install {
        page: PageId,
        access: Access,
    },
    Read {
        page: PageId,
    },
    Discard {
        page: PageId,
    },
    Resumed {
        thread: u64,
        page: PageId,
    },
    Timer,
    Evict {
        page: PageId,
    },
    Prefetch {
        page: PageId,
        access: Access,
    },
    Lock {
        op: OpId,
        lock: LockId,
        attempt: Attempt,
    },
    AbandonLock {
        op: OpId,
    },
    Unlock {
        lock: LockId,
    },
    Lend {
        page: PageId,
        token: u64,
    },
    Recall {
        page: PageId,
    },
    Took {
        thread: u64,
        lock: LockId,
        token: u64,
    },
    Gave {
        thread: u64,
        lock: LockId,
    },
    Barrier {
        op: OpId,
        round: u32,
    },
    WithdrawBarrier {
        op: OpId,
    },
    Retire,
    Leave,
    Left,
    Crashed,
    /// Another node's process runs this node on from now on.
    RunOn {
        by: NodeId,
    },
    LearnsDeaths {
        died: NodeSet,
    },
    Joined,
    LearnsLeave {
        node: NodeId,
    },
    LearnsJoin {
        node: NodeId,
    },
}

#[derive(Clone, Copy)]
struct Entry {
    at: Time,
    node: NodeId,
    what: What,
}

/// The record of one run.
pub(crate) struct Trace {
    tail: VecDeque<Entry>,
    len_max: usize,
    hasher: FxHasher,
    events: u64,
}

impl Trace {
    /// A record that keeps only its tail, or everything.
    pub(crate) fn new(keep: Keep) -> Self {
        let len_max = match keep {
            Keep::Tail => TAIL_LEN,
            Keep::All => usize::MAX,
        };
        Trace { tail: VecDeque::new(), len_max, hasher: FxHasher::default(), events: 0 }
    }

    pub(crate) fn record(&mut self, at: Time, node: NodeId, what: What) {
        (at, node, what).hash(&mut self.hasher);
        self.events += 1;
        if self.tail.len() == self.len_max {
            self.tail.pop_front();
        }
        self.tail.push_back(Entry { at, node, what });
    }

    /// Number of events, and a hash of all of them in order.
    pub(crate) fn summary(&self) -> (u64, u64) {
        (self.events, self.hasher.finish())
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.tail.iter().map(ToString::to_string).collect()
    }
}

/// How much of a trace is kept.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Keep {
    /// The last events.
    #[default]
    Tail,
    /// Every event.
    All,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>14?} {:?} {:?}", self.at, self.node, self.what)
    }
}
