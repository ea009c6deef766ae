//! The state directory: the cluster's key, the addresses and processes of its daemons, their logs.
//!
//! Whoever can read the key can read the shared memory, so the directory is the user's alone and
//! anything else is refused, not repaired.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{DirBuilder, DirEntry, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;
use pagemesh::net::ClusterKey;
use serde::{Deserialize, Serialize};

use crate::trouble::Trouble;

/// The file that is there while `down` ends the cluster.
const ENDING: &str = "ending";
/// Clusters whose logs are kept, the present one included.
const LOG_DIRS_MAX: usize = 5;

/// One cluster's directory.
pub(crate) struct State {
    dir: PathBuf,
    /// Made for one `run`; it goes away with the value, which holds its lock meanwhile.
    temporary: Option<Flock<File>>,
}

/// What `cluster.json` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ClusterFile {
    /// Version of the `pagemesh` command that wrote it.
    pub(crate) version: String,
    /// The daemons by node id.
    pub(crate) nodes: Vec<NodeEntry>,
    /// Settings that ranks must share with the daemons, as `PAGEMESH_*` variables.
    pub(crate) environment: BTreeMap<String, String>,
}

/// One daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeEntry {
    pub(crate) id: u32,
    /// None: this host.
    pub(crate) host: Option<String>,
    pub(crate) addr: SocketAddr,
    pub(crate) pid: i32,
    /// Start of the process in clock ticks since boot: with the pid it is never reused. None: not this host.
    pub(crate) started: Option<u64>,
    pub(crate) log: PathBuf,
}

/// What the state directory knows of a cluster, compared with what runs.
pub(crate) enum Known {
    /// There is none.
    Nothing,
    /// The first daemon runs, and the cluster with it, as far as can be seen from here.
    Running(ClusterFile),
    /// These nodes do not run, the first one among them; others still do.
    Damaged(ClusterFile, Vec<u32>),
    /// No daemon runs any more; the file is a leftover.
    Stale,
}

impl State {
    /// Opens, and makes if need be, the directory that the flag, the variable or the default names.
    pub(crate) fn open(chosen: Option<PathBuf>) -> Result<State, Trouble> {
        let dir = chosen.unwrap_or_else(default_dir);
        // Daemons and remote hosts get this path; it must not depend on where they run.
        let dir = std::path::absolute(&dir).map_err(|e| Trouble::os(dir.display(), e))?;
        if dir.to_str().is_none() {
            // Paths in it stand in a JSON file and in variables of daemons and ranks, which are text.
            return Err(Trouble::start(format!(
                "{}: the name of a state directory is UTF-8 text; choose another with --state-dir",
                dir.display()
            )));
        }
        make_private(&dir)?;
        Ok(State { dir, temporary: None })
    }

    /// A fresh directory that is removed when the value is dropped.
    pub(crate) fn temporary() -> Result<State, Trouble> {
        remove_abandoned();
        let random = getrandom::u64().map_err(|e| Trouble::start(format!("random numbers: {e}")))?;
        let [new, dir] = ["new", "run"].map(|what| sibling(&format!("{what}-{random:016x}")));
        make_private(&new)?;
        // Locked before it has the name by which it can be found abandoned.
        let lock = lock_file(&new)?;
        std::fs::rename(&new, &dir).map_err(|e| Trouble::os(dir.display(), e))?;
        Ok(State { dir, temporary: Some(lock) })
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file that holds the key.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.dir.join("key")
    }

    /// The directory for the logs of the next cluster: clusters are numbered, and share none.
    pub(crate) fn next_log_dir(&self) -> PathBuf {
        let last = self.log_dirs().pop().map_or(0, |(number, _)| number);
        self.dir.join("logs").join((last + 1).to_string())
    }

    /// The logs of the last cluster, if there was one.
    pub(crate) fn last_log_dir(&self) -> Option<PathBuf> {
        self.log_dirs().pop().map(|(_, dir)| dir)
    }

    /// Makes the directory for the logs of a new cluster, and removes those of old ones.
    pub(crate) fn prepare_logs(&self, dir: &Path) -> Result<(), Trouble> {
        let old = self.log_dirs();
        for (_, dir) in old.iter().take((old.len() + 1).saturating_sub(LOG_DIRS_MAX)) {
            // A directory that cannot be removed does no harm.
            let _ = std::fs::remove_dir_all(dir);
        }
        make_private(dir)
    }

    /// The logs of all clusters that are kept, by number.
    fn log_dirs(&self) -> Vec<(u64, PathBuf)> {
        let entries = std::fs::read_dir(self.dir.join("logs")).into_iter().flatten().flatten();
        let number = |entry: DirEntry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()));
        let mut dirs: Vec<(u64, PathBuf)> = entries.filter_map(number).collect();
        dirs.sort_unstable();
        dirs
    }

    /// Held while a cluster is started or stopped, so that two commands do not do both at once.
    pub(crate) fn lock(&self) -> Result<Flock<File>, Trouble> {
        lock_file(&self.dir)
    }

    /// Writes a new key, and makes the place for logs.
    pub(crate) fn prepare(&self) -> Result<(), Trouble> {
        make_private(&self.dir.join("logs"))?;
        // A leftover opens nothing any more.
        let _ = std::fs::remove_file(self.key_file());
        ClusterKey::generate(&self.key_file())?;
        Ok(())
    }

    /// Records the cluster.
    pub(crate) fn write_cluster(&self, cluster: &ClusterFile) -> Result<(), Trouble> {
        let text = serde_json::to_string_pretty(cluster)
            .map_err(|e| Trouble::failed(format!("cluster.json: {e}")))?;
        // A `down` that was killed may have left it.
        let _ = std::fs::remove_file(self.dir.join(ENDING));
        self.replace("cluster.json", text.as_bytes())
    }

    /// Records that the cluster is about to be taken down, for the programs that run on it.
    pub(crate) fn say_ending(&self) {
        // Without it they take it for a crash: no reason not to take it down.
        let _ = self.replace(ENDING, b"");
    }

    /// Whether a cluster that was recorded here is being taken down, or has been.
    pub(crate) fn is_taken_down(&self, cluster: &ClusterFile) -> bool {
        // The mark first: it is removed last.
        let is_ending = self.dir.join(ENDING).exists();
        let text = pagemesh::settings::short_text(&self.dir.join("cluster.json")).unwrap_or_default();
        let recorded = serde_json::from_str::<ClusterFile>(&text);
        let founder = |cluster: &ClusterFile| cluster.nodes.first().map(|n| (n.addr, n.pid, n.started));
        is_ending || recorded.map_or(true, |now| founder(&now) != founder(cluster))
    }

    /// Forgets the cluster, its key too.
    pub(crate) fn forget_cluster(&self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(self.dir.join("cluster.json"));
        let _ = std::fs::remove_file(self.key_file());
        // Last, so that at no time the cluster looks as if it stayed.
        let _ = std::fs::remove_file(self.dir.join(ENDING));
    }

    /// Reads `cluster.json` and looks which of its daemons run.
    pub(crate) fn known(&self) -> Result<Known, Trouble> {
        let path = self.dir.join("cluster.json");
        let text = match pagemesh::settings::short_text(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Known::Nothing),
            Err(error) => return Err(Trouble::os(path.display(), error)),
        };
        let cluster: ClusterFile = serde_json::from_str(&text)
            .map_err(|e| Trouble::start(format!("{}: {e}; remove it", path.display())))?;
        if cluster.nodes.is_empty() {
            return Err(Trouble::start(format!("{}: it names no node; remove it", path.display())));
        }
        let dead: Vec<u32> = cluster.nodes.iter().filter(|n| !n.runs()).map(|n| n.id).collect();
        Ok(if dead.first() != Some(&cluster.nodes[0].id) {
            // The memory of the others is run on, or the first one has ended with them.
            Known::Running(cluster)
        } else if dead.len() == cluster.nodes.len() {
            Known::Stale
        } else {
            Known::Damaged(cluster, dead)
        })
    }

    /// The running cluster, or the reason why there is none.
    pub(crate) fn running(&self) -> Result<ClusterFile, Trouble> {
        match self.known()? {
            Known::Running(cluster) => Ok(cluster),
            Known::Damaged(_, dead) => Err(damaged(&dead)),
            Known::Nothing => Err(Trouble::start(format!(
                "no cluster is running here ({}); start one with `pagemesh up`",
                self.dir.display()
            ))),
            Known::Stale => Err(Trouble::start(format!(
                "the cluster of {} has ended, its logs are there; start one with `pagemesh up`",
                self.dir.display()
            ))),
        }
    }

    /// Puts a file in place at once, readable by the user only.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Trouble> {
        let new = self.dir.join(format!("{name}.new"));
        let write = || {
            let mut file =
                OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            std::fs::rename(&new, self.dir.join(name))
        };
        write().map_err(|e| Trouble::os(format_args!("write {}", new.display()), e))
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if self.temporary.is_some() {
            // Best effort: it holds a key of a cluster that is gone.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

impl NodeEntry {
    /// Whether the process runs, as far as can be seen from this host.
    pub(crate) fn runs(&self) -> bool {
        match self.started {
            Some(started) => start_of(self.pid) == Some(started),
            None => true,
        }
    }
}

/// The log of a daemon.
pub(crate) fn log_file(dir: &Path, node: u32) -> PathBuf {
    dir.join(format!("node-{node}.log"))
}

/// The error for a cluster of which some daemons are dead.
pub(crate) fn damaged(dead: &[u32]) -> Trouble {
    let names: Vec<String> = dead.iter().map(|id| format!("node {id}")).collect();
    Trouble::start(format!("{} of the cluster died; clear it with `pagemesh down`", names.join(", ")))
}

/// When a process of this host was started, in ticks since boot. None: there is no such process.
pub(crate) fn start_of(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold blanks and parentheses; fields are counted behind the last one.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    if matches!(fields.next(), Some("Z" | "X")) {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn default_dir() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) if Path::new(&runtime).is_dir() => Path::new(&runtime).join("pagemesh"),
        Some(_) | None => std::env::temp_dir().join(format!("pagemesh-{}", Uid::effective())),
    }
}

/// A directory beside the default one.
fn sibling(what: &str) -> PathBuf {
    let mut dir = default_dir();
    dir.as_mut_os_string().push(format!("-{what}"));
    dir
}

/// Removes directories of runs that were killed: nobody holds their locks, and their daemons died with them.
fn remove_abandoned() {
    let prefix = sibling("run-");
    let (Some(parent), Some(prefix)) = (prefix.parent(), prefix.file_name().and_then(OsStr::to_str)) else {
        return;
    };
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)) {
        let ours =
            entry.metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == Uid::effective().as_raw());
        // One that another host's command has made here has no lock; that command removes it.
        if ours
            && entry.path().join("lock").exists()
            && let Ok(_lock) = lock_file(&entry.path())
        {
            // Another command may do the same at this time.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The lock of a state directory; an error if somebody has it.
fn lock_file(dir: &Path) -> Result<Flock<File>, Trouble> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    let file = file.map_err(|e| Trouble::os(path.display(), e))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        Trouble::start(format!("another pagemesh command is starting or stopping {}", dir.display()))
    })
}

/// Makes the directory for this user alone, or checks that it is so.
fn make_private(dir: &Path) -> Result<(), Trouble> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => {
            return Err(Trouble::os(format_args!("make the state directory {}", dir.display()), error));
        }
    }
    // Not through a link: in a directory like /tmp somebody else may have put it there.
    let meta = std::fs::symlink_metadata(dir).map_err(|e| Trouble::os(dir.display(), e))?;
    if !meta.is_dir() {
        return Err(Trouble::start(format!("{}: not a directory", dir.display())));
    }
    if meta.uid() != Uid::effective().as_raw() {
        return Err(Trouble::start(format!(
            "{}: belongs to user {}; choose another with --state-dir",
            dir.display(),
            meta.uid()
        )));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(Trouble::start(format!(
            "{0}: others may enter it, and it will hold the cluster's key; chmod 700 {0}",
            dir.display()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn this_process_runs_and_an_absurd_one_does_not() {
        assert!(start_of(std::process::id() as i32).is_some());
        assert_eq!(start_of(i32::MAX), None);
    }

    #[test]
    fn a_killed_run_s_directory_is_removed_by_the_next_and_a_living_one_s_is_not() {
        let temporary = || State::temporary().unwrap_or_else(|e| panic!("{e}"));
        let (living, mut killed) = (temporary(), temporary());
        // What SIGKILL does: the lock goes, the directory stays.
        drop(killed.temporary.take());
        assert!(killed.dir().exists());
        drop(temporary());
        assert!(living.dir().exists() && !killed.dir().exists());
    }

    #[test]
    fn a_cluster_without_nodes_is_an_error_that_names_the_file() {
        let state = State::temporary().unwrap_or_else(|e| panic!("{e}"));
        let cluster = ClusterFile { version: String::new(), nodes: Vec::new(), environment: BTreeMap::new() };
        state.write_cluster(&cluster).unwrap_or_else(|e| panic!("{e}"));
        let error = state.running().expect_err("no node to ask").to_string();
        assert!(error.contains("cluster.json") && error.contains("names no node; remove it"), "{error}");
    }

    #[test]
    fn a_state_directory_whose_name_is_not_text_is_refused_and_not_made() {
        let dir = std::env::temp_dir().join(OsStr::from_bytes(b"pagemesh-state-\xff"));
        let error = State::open(Some(dir.clone())).err().expect("a refusal").to_string();
        assert!(error.contains("UTF-8 text") && !dir.exists(), "{error}");
    }

    #[test]
    fn a_leftover_of_dead_daemons_is_stale() {
        let state = State::temporary().unwrap_or_else(|e| panic!("{e}"));
        assert!(matches!(state.known(), Ok(Known::Nothing)));
        let node = NodeEntry {
            id: 0,
            host: None,
            addr: SocketAddr::from(([127, 0, 0, 1], 1)),
            pid: std::process::id() as i32,
            started: Some(0),
            log: PathBuf::new(),
        };
        let cluster = ClusterFile { version: String::new(), nodes: vec![node], environment: BTreeMap::new() };
        state.write_cluster(&cluster).unwrap_or_else(|e| panic!("{e}"));
        assert!(matches!(state.known(), Ok(Known::Stale)));
    }
}
