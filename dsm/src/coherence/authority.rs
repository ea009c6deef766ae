//! Which message a node takes from whom. Every member has the cluster's key and may ask for any page, so each can
//! spoil what it may write. It must not speak for others: for the home of a page, for the queue of a lock, for a
//! program that is not its own. Nor may any number that it claims overflow one of this node's.

use super::barrier::{BARRIERS_MAX, home_of};
use super::message::{BarrierMessage, LockMessage, Message, ToHome, ToNode};
use super::plant::Plant;
use super::{BarrierId, Coherence};
use crate::page::{EXTENT_PAGES, ExtentId, NodeId, PageId};

/// No lock is taken so often: tokens grow by one with each tenure.
pub(super) const TOKENS_MAX: u64 = 1 << 62;

impl Coherence {
    /// A page or lock outside every known region can only be named by a broken peer, or by a late
    /// duplicate about a region that is gone. What a home says counts from the page's home alone, and where homes
    /// are from their manager; what is for a home counts at that home. A page itself may come from any owner: only
    /// its home knows which one that is.
    pub(super) fn concerns_us(&self, from: NodeId, message: &Message) -> bool {
        let known = |page| self.places.region(page).is_some();
        // A node that does not know the page's home has asked for nothing: a late message to its predecessor.
        let is_of_home = |page| known(page) && self.places.home(page).is_none_or(|home| home == from);
        let home_in = |extent: ExtentId, home| {
            self.places.region(first_of(extent)).is_some_and(|region| region.homes.contains(&home))
        };
        match *message {
            Message::ToHome(ref message) => match *message {
                ToHome::GetS { page, .. }
                | ToHome::GetM { page, .. }
                | ToHome::DataHome { page, .. }
                | ToHome::InvAck { page, .. }
                | ToHome::Installed { page, .. }
                | ToHome::WriteBack { page, .. }
                | ToHome::Drop { page, .. }
                | ToHome::Copy { page, .. } => self.may_be_home(page),
                ToHome::Locate { extent, nearest } => {
                    home_in(extent, nearest) && self.places.manager(first_of(extent)) == Some(self.me)
                }
                ToHome::Leave => true,
            },
            Message::ToNode(ref message) => match *message {
                ToNode::Data { page, .. } => known(page),
                ToNode::Forward { page, .. }
                | ToNode::Grant { page, .. }
                | ToNode::Inv { page, .. }
                | ToNode::Hurry { page, .. }
                | ToNode::WriteBackAck { page, .. }
                | ToNode::Lost { page, .. }
                | ToNode::Fetch { page, .. } => is_of_home(page),
                ToNode::Located { extent, home } => {
                    home_in(extent, home) && self.places.manager(first_of(extent)) == Some(from)
                }
                ToNode::LeaveAck => true,
            },
            Message::Lock(ref message) => self.lock_concerns_us(from, message),
            Message::Barrier(ref message) => self.barrier_concerns_us(from, message),
            // What the sender claims is judged page by page.
            Message::Report(_) => true,
        }
    }

    /// Whether this node is the page's home. Where the first touch decides, a home need not have heard of it.
    fn may_be_home(&self, page: PageId) -> bool {
        let Some(region) = self.places.region(page) else { return false };
        match self.places.home(page) {
            Some(home) => home == self.me || self.planted.has(Plant::NodeServesPagesOfOtherHomes),
            None => region.homes.contains(&self.me),
        }
    }

    /// Whether this node knows that it is the page's home.
    pub(super) fn is_home(&self, page: PageId) -> bool {
        self.places.home(page) == Some(self.me)
    }

    fn lock_concerns_us(&self, from: NodeId, message: &LockMessage) -> bool {
        let Some(home) = self.places.manager(message.lock().0) else { return false };
        if self.planted.has(Plant::LockTakesAnybodysWord) {
            return true;
        }
        match *message {
            LockMessage::Request { .. } => home == self.me,
            LockMessage::Return { token, .. } => home == self.me && token <= TOKENS_MAX,
            LockMessage::Forward { .. } | LockMessage::ReturnAck { .. } | LockMessage::Broken { .. } => {
                home == from
            }
            // From the last holder, which the home alone knows.
            LockMessage::Grant { token, .. } => (1..=TOKENS_MAX).contains(&token),
            LockMessage::Busy { .. } => true,
        }
    }

    /// An arrival counts at the lowest of the members that it names. The other messages to a home name no members: they
    /// count at every node of the barrier's program.
    fn barrier_concerns_us(&self, from: NodeId, message: &BarrierMessage) -> bool {
        let kept_here = |barrier: BarrierId| {
            let is_one = self.barriers.is_kept(barrier) || self.barriers.kept() < BARRIERS_MAX;
            let may_come = [self.me, from].iter().all(|node| self.barriers.may_come(*node, barrier));
            is_one && may_come || self.planted.has(Plant::BarrierTakesStrangers)
        };
        match *message {
            BarrierMessage::Arrive { barrier, members, .. } => {
                home_of(members) == Some(self.me) && kept_here(barrier)
            }
            BarrierMessage::Quit { barrier } | BarrierMessage::Withdraw { barrier, .. } => kept_here(barrier),
            BarrierMessage::Release { barrier, .. }
            | BarrierMessage::Broken { barrier, .. }
            | BarrierMessage::Withdrawn { barrier, .. } => {
                self.barriers.home(barrier).is_none_or(|home| home == from)
                    || self.planted.has(Plant::BarrierTakesAnybodysWord)
            }
        }
    }
}

fn first_of(extent: ExtentId) -> PageId {
    PageId(extent.0.saturating_mul(EXTENT_PAGES))
}
