//! How a rank joins the cluster.

use std::path::PathBuf;
use std::sync::Arc;

use super::Dsm;
use crate::error::Result;
use crate::node::{Node, NodeConfig};
use crate::settings::Settings;

/// How to join; see [`Dsm::builder`].
///
/// ```
/// use pagemesh::Dsm;
///
/// let dsm = Dsm::builder().from_env()?.join()?;
/// dsm.leave()?;
/// # Ok::<(), pagemesh::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Builder {
    settings: Settings,
    arena: Arena,
}

/// Where the arena is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Arena {
    /// At the address of the settings: raw pointers mean the same in every process.
    #[default]
    Fixed,
    /// Anywhere: for several nodes in one process.
    Anywhere,
}

impl Builder {
    /// Takes the settings from `PAGEMESH_*` variables and `pagemesh.toml`.
    ///
    /// ```
    /// use pagemesh::Dsm;
    ///
    /// let dsm = Dsm::builder().from_env()?.join()?;
    /// dsm.leave()?;
    /// # Ok::<(), pagemesh::Error>(())
    /// ```
    pub fn from_env(mut self) -> Result<Builder> {
        self.settings = Settings::from_env()?;
        Ok(self)
    }

    /// Takes these settings.
    #[doc(hidden)]
    pub fn settings(mut self, settings: Settings) -> Builder {
        self.settings = settings;
        self
    }

    /// Lets the system choose where the arena is mapped. Raw pointers in shared memory are then of
    /// use in this process only; handles still mean the same everywhere.
    ///
    /// ```
    /// use pagemesh::Dsm;
    ///
    /// let dsm = Dsm::builder().arena_anywhere().join()?;
    /// dsm.leave()?;
    /// # Ok::<(), pagemesh::Error>(())
    /// ```
    pub fn arena_anywhere(mut self) -> Builder {
        self.arena = Arena::Anywhere;
        self
    }

    /// Uses this key file.
    ///
    /// ```
    /// use pagemesh::Dsm;
    ///
    /// let refused = Dsm::builder().key_file("/no/such/key").join().map(|_| ());
    /// assert!(refused.unwrap_err().to_string().contains("/no/such/key"));
    /// ```
    pub fn key_file(mut self, path: impl Into<PathBuf>) -> Builder {
        self.settings.key_file = Some(path.into());
        self
    }

    /// Joins the cluster: returns when all ranks of the program are there. On an error nothing is
    /// left running. A process that is a member already, or has handles left from an earlier cluster, can only join
    /// [`anywhere`](Builder::arena_anywhere): the error says so.
    ///
    /// ```
    /// use pagemesh::Dsm;
    ///
    /// let dsm = Dsm::builder().join()?; // a cluster of one
    /// assert_eq!(dsm.ranks(), 1);
    /// dsm.leave()?;
    /// # Ok::<(), pagemesh::Error>(())
    /// ```
    pub fn join(self) -> Result<Dsm> {
        let (rank, ranks) = (self.settings.rank, self.settings.ranks);
        let mut config = NodeConfig::rank(self.settings);
        if self.arena == Arena::Anywhere {
            config.arena_base = None;
        }
        Ok(Dsm { node: Arc::new(Node::start(config)?), rank, ranks })
    }
}
