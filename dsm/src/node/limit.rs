//! The least memory that a node needs.

use super::NodeConfig;
use crate::config::coherence::CACHE_PAGES_MIN;
use crate::error::{Error, Result};
use crate::membership::Kind;
use crate::page::PAGE_SIZE;

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
