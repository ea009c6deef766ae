//! A node's memory limit, in the words of the core that keeps it.

use super::NodeConfig;
use crate::coherence::MemoryLimit;
use crate::config::coherence::CACHE_PAGES_MIN;
use crate::error::{Error, Result};
use crate::membership::{Introduction, Kind};
use crate::page::PAGE_SIZE;

/// The limit that the core keeps.
pub(super) fn of(intro: &Introduction) -> MemoryLimit {
    MemoryLimit { pages: intro.memory_max / PAGE_SIZE as u64, cache_min: CACHE_PAGES_MIN }
}

/// A rank that cannot hold what a few instructions need would never get on.
pub(super) fn check(config: &NodeConfig) -> Result<()> {
    let (given, least) = (config.settings.memory_max, CACHE_PAGES_MIN * PAGE_SIZE as u64);
    match config.kind {
        Kind::Rank { .. } if given < least => Err(Error::Invalid(format!(
            "memory_max: {given} bytes are too few: a rank needs at least {least} for pages of other homes"
        ))),
        Kind::Rank { .. } | Kind::Daemon => Ok(()),
    }
}
