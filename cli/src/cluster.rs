//! `up` and `down`: daemons that stay, recorded in the state directory.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pagemesh::admin::Admin;
use pagemesh::settings::Settings;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::args::Up;
use crate::launch::{Plan, Started, remove_from, warn_of_memory};
use crate::out;
use crate::process::{Life, Running};
use crate::signals::Signals;
use crate::state::{ClusterFile, Known, NodeEntry, State, damaged};
use crate::trouble::Trouble;
use crate::wait::{Interest, wait};

/// How long the coordinator may take to answer a command.
pub(crate) const ADMIN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long daemons may take to stop before they are killed.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(5);

/// Starts daemons that stay.
pub(crate) fn up(state_dir: Option<PathBuf>, up: &Up) -> Result<i32, Trouble> {
    Settings::from_env()?;
    let state = State::open(state_dir)?;
    let plan = Plan::new(&state, &up.shape, Life::Own)?;
    if up.shape.dry_run {
        plan.lines().iter().try_for_each(out::line)?;
        return Ok(0);
    }
    warn_of_memory(&up.shape, plan.daemons_here());
    let signals = Signals::install()?;
    let _lock = state.lock()?;
    match state.known()? {
        Known::Nothing => {}
        Known::Stale => out::warn("the cluster that was here has ended; starting a new one"),
        Known::Running(cluster) => {
            return Err(Trouble::start(format!(
                "a cluster of {} nodes is up already ({}); use it with `pagemesh run`, stop it with `pagemesh down`",
                cluster.nodes.len(),
                state.dir().display()
            )));
        }
        Known::Damaged(_, dead) => return Err(damaged(&dead)),
    }
    // Under the lock: another cluster may have come and gone since, and has its own directory of logs.
    let plan = Plan::new(&state, &up.shape, Life::Own)?;
    state.prepare()?;
    state.prepare_logs(plan.log_dir())?;
    let Started { mut daemons, cluster } = plan.start(&signals)?;
    if let Err(trouble) = state.write_cluster(&cluster) {
        // Nobody would find them. Those of this host end with their handles.
        let _ = ask_to_stop(&state, &cluster);
        drop(daemons);
        plan.clear_hosts();
        return Err(trouble);
    }
    // From here on the file accounts for them, not this process.
    daemons.iter_mut().for_each(Running::say_recorded);
    daemons.into_iter().try_for_each(|daemon| daemon.release(STOP_GRACE))?;
    let shown = if up.json { out::json(&cluster) } else { show(&cluster, &plan) };
    shown.map_err(|trouble| trouble.and("the cluster is up; stop it with `pagemesh down`"))?;
    Ok(0)
}

fn show(cluster: &ClusterFile, plan: &Plan) -> Result<(), Trouble> {
    for node in &cluster.nodes {
        out::line(format_args!(
            "node {} ready at {} on {} (pid {})",
            node.id,
            node.addr,
            node.place(),
            node.pid
        ))?;
    }
    out::line(format_args!("logs in {}", plan.log_dir().display()))
}

/// Stops the daemons of the state directory, politely first.
pub(crate) fn down(state_dir: Option<PathBuf>) -> Result<i32, Trouble> {
    let state = State::open(state_dir)?;
    let _lock = state.lock()?;
    let cluster = match state.known()? {
        Known::Nothing => {
            out::line(format_args!("no cluster is running here ({})", state.dir().display()))?;
            return Ok(0);
        }
        Known::Stale => {
            state.forget_cluster();
            out::line("the cluster had ended already; cleared what it left")?;
            return Ok(0);
        }
        Known::Running(cluster) | Known::Damaged(cluster, _) => cluster,
    };
    // Opened before anything is told to stop: after that a number may belong to somebody else.
    let local = watch_local(&cluster);
    state.say_ending();
    let asked = ask_to_stop(&state, &cluster);
    if let Err(error) = &asked {
        out::warn(format_args!("the cluster does not answer ({error}); stopping its processes"));
        local.iter().for_each(|(_, pidfd)| signal(pidfd, Signal::TERM));
    }
    let killed = wait_for_end(&local)?;
    let unseen: Vec<&NodeEntry> = cluster.nodes.iter().filter(|node| node.host.is_some()).collect();
    if asked.is_err() && !unseen.is_empty() {
        let places: Vec<String> = unseen.iter().map(|n| format!("{} (pid {})", n.place(), n.pid)).collect();
        out::warn(format_args!("could not see whether these ended: {}", places.join(", ")));
    }
    state.forget_cluster();
    remove_from(cluster.nodes.iter().filter_map(|node| node.host.as_ref()).collect(), &state.key_file());
    let how = if killed > 0 { ", some by force" } else { "" };
    out::line(format_args!("stopped {} nodes{how}", cluster.nodes.len()))?;
    Ok(0)
}

fn ask_to_stop(state: &State, cluster: &ClusterFile) -> pagemesh::Result<()> {
    Admin::connect(cluster.nodes[0].addr, &state.key_file(), ADMIN_TIMEOUT)?.shutdown()
}

/// Handles of the daemons of this host that run.
fn watch_local(cluster: &ClusterFile) -> Vec<(u32, std::os::fd::OwnedFd)> {
    let open = |node: &NodeEntry| {
        node.started?;
        let pidfd = pidfd_open(Pid::from_raw(node.pid)?, PidfdFlags::empty()).ok()?;
        // Looked at after the handle is open: if it is the daemon now, the handle is the daemon's.
        node.runs().then_some((node.id, pidfd))
    };
    cluster.nodes.iter().filter_map(open).collect()
}

fn signal(pidfd: &impl AsFd, signal: Signal) {
    // It may have ended: no matter.
    let _ = pidfd_send_signal(pidfd, signal);
}

/// Waits for all, kills those that do not end in time, and gives their number.
fn wait_for_end(local: &[(u32, std::os::fd::OwnedFd)]) -> Result<usize, Trouble> {
    let mut running: Vec<_> = local.iter().map(|(id, fd)| (*id, fd.as_fd(), Interest::Read)).collect();
    let mut deadline = Instant::now() + STOP_GRACE;
    let mut killed = 0;
    while !running.is_empty() {
        let ended = wait(&running, Some(deadline))?;
        if ended.is_empty() {
            if killed > 0 {
                return Err(Trouble::failed("some daemons do not even end when killed; see `ps`"));
            }
            killed = running.len();
            running.iter().for_each(|(_, fd, _)| signal(fd, Signal::KILL));
            deadline = Instant::now() + STOP_GRACE;
        }
        running.retain(|(id, _, _)| !ended.contains(id));
    }
    Ok(killed)
}

impl NodeEntry {
    /// The host, for people.
    pub(crate) fn place(&self) -> &str {
        self.host.as_deref().unwrap_or("this host")
    }
}
