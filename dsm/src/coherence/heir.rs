//! A node whose process has ended is run on by another process, its heir: a further core over the same memory under
//! the same id, without an application. Memory and record say which bytes are there, how new they are, and where
//! homes are; rights, requests, the directory and the queues of locks have ended with the process. So it begins with
//! all pages invalid and bound, and takes part in the round that the end has begun: it reports what it has, answers
//! requests for it, and is a home again when all have reported to it. It asks for nothing.

use super::cache::Cache;
use super::directory::Directory;
use super::lock::Locks;
use super::message::{Message, Version};
use super::{Coherence, LockId};
use crate::page::{Epoch, ExtentId, LockWords, Memory, NodeId, PageId};

/// What the record of an ended process says.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Legacy {
    /// Pages with complete bytes, and the version of these.
    pub pages: Vec<(PageId, Version)>,
    /// Homes of extents, as far as the node has decided, asked or been one.
    pub homes: Vec<(ExtentId, NodeId)>,
    /// Locks of which the node is home and that somebody has.
    pub locks: Vec<LockId>,
    /// The last round in which the node knew all about the pages of which it is home.
    pub opened: Epoch,
}

impl Coherence {
    /// The core that runs node `me` on. It must be told the regions, and then the round in which it begins: the last
    /// one that the process has heard of that runs it. `lost` is a node that nobody runs on and whose end was told since
    /// this one knew all about the pages of which it is home: it may have had the last bytes of any of them.
    pub fn heir(me: NodeId, legacy: Legacy, lost: Option<NodeId>) -> Self {
        let core = Coherence::new(me, Epoch(0), me);
        let (directory, locks) = (Directory::of_heir(lost), Locks::of_heir());
        Coherence { is_heir: true, legacy: Some(legacy), directory, locks, ..core }
    }

    /// Whether a message is for the application of a node that has none any more.
    pub(super) fn is_for_application(&self, message: &Message) -> bool {
        self.is_heir && matches!(message, Message::Barrier(_))
    }

    /// Takes over what the record says. Bytes of a region that is gone go.
    pub(super) fn inherit<M: Memory + LockWords>(&mut self, memory: &mut M) {
        let Some(Legacy { pages, homes, locks, opened: _ }) = self.legacy.take() else { return };
        for (extent, home) in homes {
            self.places.restore(self.me, extent, home);
        }
        for (page, version) in pages {
            if self.places.region(page).is_some() {
                let is_home = self.is_home(page);
                self.cache.inherit(page, version, is_home);
            } else {
                memory.discard(page);
            }
        }
        let known = |lock: &LockId| self.places.region(lock.0).is_some();
        self.locks.inherit(locks.into_iter().filter(known));
    }
}

impl Cache {
    /// Bytes of this version lie here: they stay until the home says that they are elsewhere.
    fn inherit(&mut self, page: PageId, version: Version, is_home: bool) {
        self.take_over(page, version);
        if !is_home {
            self.resident.reserve();
            self.resident.fill(page);
        }
    }
}
