//! What a node tells its operator through `tracing`.
//!
//! The thread that finds something out may be inside a page fault of the application, which may have a
//! lock that the subscriber needs: standard output's, for instance. So the cores only note, and a worker tells.

use tracing::{Level, debug, error, info, warn};

use crate::config::node::NOTES_MAX;

/// Lines that are still to be told.
#[derive(Default)]
pub(super) struct Notes(Vec<(Level, String)>);

impl Notes {
    /// Notes one of the levels that are in use here.
    pub(super) fn add(&mut self, level: Level, text: String) {
        // The first ones say why.
        if self.0.len() < NOTES_MAX {
            self.0.push((level, text));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells them. Without any lock.
    pub(super) fn tell(self) {
        for (level, text) in self.0 {
            match level {
                Level::ERROR => error!("{text}"),
                Level::WARN => warn!("{text}"),
                Level::INFO => info!("{text}"),
                _ => debug!("{text}"),
            }
        }
    }
}
