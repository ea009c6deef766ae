//! The members at one epoch.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{Death, Kind, Member};
use crate::page::{Epoch, Incarnation, NodeId};

/// The members at one epoch, by ascending id.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct View {
    /// Grows with every change.
    pub epoch: Epoch,
    /// Everybody, the coordinator first.
    pub members: Vec<Member>,
    /// The last deaths, each with the epoch of the view that told it first. They stay in later views
    /// because messages overtake each other, and a newer view replaces an older one unread.
    pub deaths: VecDeque<(Epoch, Death)>,
    /// Members whose process has ended, and who runs each of them on.
    pub runners: BTreeMap<NodeId, Runner>,
    /// The generation of the last region that was made before the view was told.
    pub last_region: u64,
}

/// Who runs a node on whose own process has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Runner {
    /// The member.
    pub at: NodeId,
    /// The generation of the last region of which the node can have pages: those of later regions at the same
    /// addresses are not its own.
    pub last_region: u64,
}

impl View {
    /// The member with this id.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// The member with this incarnation.
    pub fn incarnation(&self, incarnation: Incarnation) -> Option<&Member> {
        self.members.iter().find(|member| member.intro.incarnation == incarnation)
    }

    /// The daemons whose process runs, by ascending id.
    pub fn daemons(&self) -> impl Iterator<Item = &Member> {
        self.running().filter(|member| member.intro.kind == Kind::Daemon)
    }

    /// The ranks of a program whose process runs.
    pub fn ranks(&self, of: u64) -> impl Iterator<Item = &Member> {
        self.running()
            .filter(move |member| matches!(member.intro.kind, Kind::Rank { program, .. } if program == of))
    }
}
