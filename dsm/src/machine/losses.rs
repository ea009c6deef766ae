//! With which process a page was lost. A page's home records it when it finds the page lost, because node ids are
//! given again: a later program must not read the name of a process that lives. The home tells the name to
//! each node that asks for the page, in a message of its own beside the protocol's LOST.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use tracing::Level;

use super::{Cores, channel, typed};
use crate::codec::{decode_control, encode_control};
use crate::coherence::{Message, ToNode};
use crate::config::node::{LOSS_NAME_LEN_MAX, LOSS_NOTICES_MAX};
use crate::net::OutMessage;
use crate::page::{NodeId, PageId};

/// What this node knows about lost pages.
#[derive(Default)]
pub(super) struct Losses {
    /// Pages whose home is here; pages that were lost together share the name.
    recorded: FxHashMap<PageId, Arc<str>>,
    /// What other homes have told this node.
    told: FxHashMap<PageId, Arc<str>>,
    /// The core's count of lost pages when they were last recorded.
    counted: u64,
}

/// Home to requester: the process with which a page was lost.
#[derive(Serialize, Deserialize)]
struct Notice {
    page: PageId,
    process: String,
}

impl Losses {
    /// The process with which a page was lost, if this node has recorded it or was told.
    pub(super) fn process(&self, page: PageId) -> Option<Arc<str>> {
        self.recorded.get(&page).or_else(|| self.told.get(&page)).cloned()
    }

    /// A region is gone, and its pages may come again in another one.
    pub(super) fn forget(&mut self, start: PageId, pages: u64) {
        let gone = |page: &PageId| (start.0..start.0 + pages).contains(&page.0);
        self.recorded.retain(|page, _| !gone(page));
        self.told.retain(|page, _| !gone(page));
    }
}

impl Cores {
    /// Records the pages that the core has found lost since the last time, each with its process.
    pub(super) fn record_losses(&mut self) {
        let Some(coherence) = &self.coherence else { return };
        let counted = coherence.pages_lost();
        // The list takes a look at every page.
        if std::mem::replace(&mut self.losses.counted, counted) == counted {
            return;
        }
        let mut by_node: BTreeMap<NodeId, Vec<PageId>> = BTreeMap::new();
        for (page, node) in coherence.lost_pages() {
            if !self.losses.recorded.contains_key(&page) {
                by_node.entry(node).or_default().push(page);
            }
        }
        for (node, pages) in by_node {
            let Some(process) = self.last_dead(node).map(|member| Arc::<str>::from(member.describe())) else {
                continue;
            };
            self.note(Level::WARN, format!("{} pages were lost with {process}", pages.len()));
            self.losses.recorded.extend(pages.into_iter().map(|page| (page, process.clone())));
        }
    }

    /// What a node is told beside a message of the protocol. Most messages need nothing.
    pub(super) fn notice_of_loss(&mut self, message: &Message) -> Option<OutMessage> {
        let Message::ToNode(ToNode::Lost { page, dead, .. }) = *message else { return None };
        // A page that is lost while a request for it is under way is recorded by this message.
        let recorded = self.losses.recorded.get(&page).cloned();
        let process = recorded.or_else(|| self.last_dead(dead).map(|member| member.describe().into()))?;
        self.losses.recorded.insert(page, process.clone());
        Some(typed(channel::LOSS, &encode_control(&Notice { page, process: sound_name(&process) })))
    }

    /// A home's notice; false if it does not decode or no home writes such a one. What another node says of a page
    /// is not heard.
    pub(super) fn deliver_loss(&mut self, from: Option<NodeId>, bytes: &[u8]) -> bool {
        let Ok(Notice { page, process }) = decode_control::<Notice>(bytes) else { return false };
        if !is_sound(&process) {
            return false;
        }
        // None is a node that has just left: no fault here waits for it.
        let home = self.coherence.as_ref().and_then(|coherence| coherence.home(page));
        if home.is_none() || home != from {
            return true;
        }
        if self.losses.told.len() >= LOSS_NOTICES_MAX {
            self.losses.told.clear();
        }
        self.losses.told.insert(page, process.into());
        true
    }
}

/// Whether a home may name a process so.
fn is_sound(process: &str) -> bool {
    process.len() <= LOSS_NAME_LEN_MAX && !process.chars().any(char::is_control)
}

/// A process by its name as a notice may have it: a program may be called anything.
fn sound_name(process: &str) -> String {
    let printable = |char: char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char };
    process.chars().take(LOSS_NAME_LEN_MAX / 4).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_program_is_called_the_notice_of_its_loss_is_a_sound_one() {
        let long = "\u{1F980}".repeat(LOSS_NAME_LEN_MAX);
        for name in ["rank 1 of matmul", "rank 1 of a\nb\u{1b}[2J", &long] {
            assert!(is_sound(&sound_name(name)), "{name:?}");
        }
        assert_eq!(sound_name("rank 1 of a\nb"), "rank 1 of a\u{fffd}b");
    }
}
