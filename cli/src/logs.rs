//! `logs`: where the daemons' logs lie, and what stands in them.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::args::Logs;
use crate::out;
use crate::process::ssh;
use crate::signals::Signals;
use crate::state::{Known, NodeEntry, State, log_file};
use crate::trouble::Trouble;
use crate::wait::{Interest, wait};

/// One node's log, as far as it is shown.
struct Log {
    label: String,
    file: File,
    partial: Vec<u8>,
}

/// Where logs are.
struct Places {
    /// On this host, by node.
    local: Vec<(u32, PathBuf)>,
    /// Nodes whose logs are on other hosts.
    remote: Vec<NodeEntry>,
}

/// Shows the logs; with `--follow` what is added, too.
pub(crate) fn show(state_dir: Option<PathBuf>, which: &Logs) -> Result<i32, Trouble> {
    let state = State::open(state_dir)?;
    let Places { local, remote } = find(&state, which.node)?;
    for node in &remote {
        show_remote(node)?;
    }
    let mut logs = Vec::new();
    for (node, path) in &local {
        let file = File::open(path).map_err(|e| Trouble::os(path.display(), e))?;
        out::note(format_args!("==> {}", path.display()));
        logs.push(Log { label: format!("node {node}: "), file, partial: Vec::new() });
    }
    if !which.follow {
        logs.iter_mut().try_for_each(Log::show)?;
        return Ok(0);
    }
    follow(&mut logs, &local)
}

fn find(state: &State, only: Option<u32>) -> Result<Places, Trouble> {
    let wanted = |id: u32| only.is_none_or(|only| only == id);
    let mut remote = Vec::new();
    if let Known::Running(cluster) | Known::Damaged(cluster, _) = state.known()? {
        remote = cluster.nodes.into_iter().filter(|n| n.host.is_some() && wanted(n.id)).collect();
    }
    let ids = (0..pagemesh::config::NODES_MAX as u32).filter(|id| wanted(*id));
    let last = state.last_log_dir();
    let paths = last.iter().flat_map(|dir| ids.clone().map(|id| (id, log_file(dir, id))));
    let local: Vec<_> = paths.filter(|(_, path)| path.exists()).collect();
    if local.is_empty() && remote.is_empty() {
        let node = only.map_or(String::new(), |id| format!(" of node {id}"));
        return Err(Trouble::start(format!("there is no log{node} in {}", state.dir().display())));
    }
    Ok(Places { local, remote })
}

fn show_remote(node: &NodeEntry) -> Result<(), Trouble> {
    let line = format!("cat {}", crate::process::join(&[node.log.clone().into()]));
    let words = ssh(node.place(), &line);
    out::note(format_args!("==> {}:{}", node.place(), node.log.display()));
    let status = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).status();
    status.map(|_| ()).map_err(|e| Trouble::os("run ssh", e))
}

fn follow(logs: &mut [Log], paths: &[(u32, PathBuf)]) -> Result<i32, Trouble> {
    let signals = Signals::install()?;
    let watch = || -> nix::Result<Inotify> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        for (_, path) in paths {
            inotify.add_watch(path, AddWatchFlags::IN_MODIFY)?;
        }
        Ok(inotify)
    };
    // Before the first reading: what is added in between is announced, not missed.
    let inotify = watch().map_err(|e| Trouble::os("watch the logs", e))?;
    loop {
        logs.iter_mut().try_for_each(Log::show)?;
        let sources = [(true, signals.as_fd(), Interest::Read), (false, inotify.as_fd(), Interest::Read)];
        if wait(&sources, None)?.contains(&true) {
            return Ok(0);
        }
        // Which file it was does not matter; all are read.
        let _ = inotify.read_events();
    }
}

impl Log {
    /// Prints the lines that are new.
    fn show(&mut self) -> Result<(), Trouble> {
        // A log that cannot be read has no new lines.
        let _ = self.file.read_to_end(&mut self.partial);
        let end = self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let mut text = Vec::new();
        for line in self.partial.drain(..end).as_slice().split_inclusive(|byte| *byte == b'\n') {
            text.extend_from_slice(self.label.as_bytes());
            text.extend_from_slice(line);
        }
        out::bytes(&text)
    }
}
