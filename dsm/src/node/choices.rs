//! What settings choose by texts that only the modules below read: the fault backend and the injected network.

use super::NodeConfig;
use crate::error::{Error, Result};
use crate::fault::{Backend, BackendChoice};
use crate::membership::Kind;
use crate::net::inject::InjectorConfig;
use crate::settings::Settings;

impl NodeConfig {
    /// Whether a node could be started with these texts, as far as they say themselves: [`Settings`] keep the names of
    /// the fault backend and of `PAGEMESH_NET_*` as they were given. Nothing is started.
    pub fn check(settings: &Settings) -> Result<()> {
        if let Some(name) = &settings.fault {
            name.parse::<BackendChoice>()?;
        }
        injector(settings).map(drop)
    }
}

/// A daemon runs no program, so it has no page faults.
pub(super) fn backend(config: &NodeConfig) -> Result<BackendChoice> {
    match (config.kind, &config.settings.fault) {
        (Kind::Daemon, _) => Ok(BackendChoice::Only(Backend::None)),
        (Kind::Rank { .. }, Some(name)) => name.parse(),
        (Kind::Rank { .. }, None) => Ok(BackendChoice::Auto),
    }
}

/// The bad network that is asked for, if one is.
pub(super) fn injector(settings: &Settings) -> Result<Option<InjectorConfig>> {
    InjectorConfig::from_settings(|name| settings.inject.get(name.strip_prefix("PAGEMESH_NET_")?).cloned())
        .map_err(|error| Error::Invalid(error.to_string()))
}
