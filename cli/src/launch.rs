//! Starting daemons: where each goes, the process that it becomes, and the wait for its word that it is
//! a member of the cluster. Node 0 is first, because the others need its address; the rest start at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use pagemesh::admin::Admin;
use serde::Deserialize;

use crate::args::Shape;
use crate::cluster::ADMIN_TIMEOUT;
use crate::hosts;
use crate::out;
use crate::process::{Ending, Life, Process, Running, join, ssh, this_executable};
use crate::signals::Signals;
use crate::state::{ClusterFile, NodeEntry, State, log_file, start_of};
use crate::trouble::Trouble;
use crate::wait::{Interest, wait};

/// How long a daemon may take to become a member, an ssh login included.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long clearing another host may take.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Most daemons, or ranks, that one command starts without being told.
const PROCESSES_DEFAULT_MAX: u32 = 4;
/// Stands in a dry run for the address that node 0 gets.
pub(crate) const ADDRESS_UNKNOWN: &str = "ADDRESS_OF_NODE_0";

/// Daemons to start.
pub(crate) struct Plan {
    /// One for each node; None: this host.
    hosts: Vec<Option<String>>,
    port: u16,
    /// Settings of the whole cluster.
    environment: BTreeMap<String, String>,
    key_file: PathBuf,
    /// The directory of this cluster's logs, and each node's.
    log_dir: PathBuf,
    logs: Vec<PathBuf>,
    program: PathBuf,
    life: Life,
}

/// Daemons that are members of their cluster.
pub(crate) struct Started {
    pub(crate) daemons: Vec<Running>,
    pub(crate) cluster: ClusterFile,
}

/// The line that a daemon writes once.
#[derive(Deserialize)]
struct Word {
    addr: Option<SocketAddr>,
    pid: Option<i32>,
    error: Option<String>,
}

/// A daemon from which a word is awaited.
struct Awaited {
    id: u32,
    running: Running,
    stdout: std::process::ChildStdout,
    heard: Vec<u8>,
}

impl Plan {
    /// Decides what goes where. Nothing is started, nothing outside is touched.
    pub(crate) fn new(state: &State, shape: &Shape, life: Life) -> Result<Plan, Trouble> {
        let hosts = hosts_of(shape)?;
        let log_dir = state.next_log_dir();
        Ok(Plan {
            logs: (0..hosts.len() as u32).map(|id| log_file(&log_dir, id)).collect(),
            log_dir,
            hosts,
            port: shape.port.unwrap_or(0),
            environment: settings(shape),
            key_file: state.key_file(),
            program: this_executable()?,
            life,
        })
    }

    /// The directory of this cluster's logs.
    pub(crate) fn log_dir(&self) -> &Path {
        &self.log_dir
    }

    /// How many daemons there will be.
    pub(crate) fn nodes(&self) -> u32 {
        self.hosts.len() as u32
    }

    /// What a dry run knows of the cluster.
    pub(crate) fn imagine(&self) -> ClusterFile {
        let entry = |(id, host): (u32, &Option<String>)| NodeEntry {
            id,
            host: host.clone(),
            addr: self.bind_addr(id),
            pid: 0,
            started: None,
            log: self.logs[id as usize].clone(),
        };
        self.cluster_of((0..).zip(&self.hosts).map(entry).collect())
    }

    fn cluster_of(&self, nodes: Vec<NodeEntry>) -> ClusterFile {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        ClusterFile { version, nodes, environment: self.environment.clone() }
    }

    /// Where a daemon is to be, as far as it is known before it is there.
    fn bind_addr(&self, id: u32) -> SocketAddr {
        SocketAddr::new(self.bind_ip(id).unwrap_or(Ipv4Addr::UNSPECIFIED.into()), self.port_of(id))
    }

    /// The commands, one a line.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .remote_hosts()
            .iter()
            .map(|host| format!("{} < {}", join(&self.key_command(host)), self.key_file.display()))
            .collect();
        for id in 0..self.nodes() {
            lines.push(self.process(id, self.bind_addr(id), ADDRESS_UNKNOWN).line());
        }
        lines
    }

    /// Starts all daemons and waits until they are members. If one fails, none is left, nor is the key on
    /// another host.
    pub(crate) fn start(&self, signals: &Signals) -> Result<Started, Trouble> {
        let started = self.try_start(signals);
        if started.is_err() {
            self.clear_hosts();
        }
        started
    }

    /// Removes from other hosts what a cluster leaves there that has ended: a private one everything, any
    /// other the key.
    pub(crate) fn clear_hosts(&self) {
        let dir = self.key_file.parent().unwrap_or(&self.key_file);
        let what = if self.life == Life::Ours { dir } else { &self.key_file };
        remove_from(self.remote_hosts(), what);
    }

    fn try_start(&self, signals: &Signals) -> Result<Started, Trouble> {
        let hosts = self.remote_hosts();
        let logins = Progress::new(hosts.len() as u64, "hosts reached by ssh");
        for host in hosts {
            logins.begins(host);
            self.send_key(host, signals)?;
            logins.advance();
        }
        logins.finish();
        let progress = Progress::new(u64::from(self.nodes()), "nodes ready");
        let mut ready = Vec::new();
        ready.extend(self.start_some(0..1, "", signals, &progress)?);
        let join = ready[0].1.addr.to_string();
        match self.start_some(1..self.nodes(), &join, signals, &progress) {
            Ok(others) => ready.extend(others),
            Err(trouble) => {
                self.stop_detached(&ready);
                return Err(trouble);
            }
        }
        ready.sort_by_key(|(_, entry)| entry.id);
        let (daemons, nodes) = ready.into_iter().unzip();
        progress.finish();
        let cluster = self.cluster_of(nodes);
        Ok(Started { daemons, cluster })
    }

    /// Ends daemons of a start that failed. Those of this host end with their handles; those that live
    /// by themselves on other hosts must be asked.
    fn stop_detached(&self, ready: &[(Running, NodeEntry)]) {
        let remote = self.life == Life::Own && !self.remote_hosts().is_empty();
        if let (true, Some((_, node))) = (remote, ready.first()) {
            let stopped = Admin::connect(node.addr, &self.key_file, ADMIN_TIMEOUT).and_then(|a| a.shutdown());
            if let Err(error) = stopped {
                out::warn(format_args!("could not stop node 0 at {}: {error}", node.addr));
            }
        }
    }

    fn start_some(
        &self,
        ids: std::ops::Range<u32>,
        join: &str,
        signals: &Signals,
        progress: &Progress,
    ) -> Result<Vec<(Running, NodeEntry)>, Trouble> {
        let mut awaited = Vec::new();
        for id in ids {
            let bind = SocketAddr::new(self.bind_ip(id)?, self.port_of(id));
            let process = self.process(id, bind, join);
            // A child of another host, or one that is to stay, ends when this end of its input closes too early.
            let piped = process.host.is_some() || self.life == Life::Own;
            let stdin = if piped { Stdio::piped() } else { Stdio::null() };
            let mut running = process.start(stdin, Stdio::piped(), Stdio::inherit())?;
            let Some(stdout) = running.child.stdout.take() else {
                return Err(Trouble::start(format!("{}: no pipe", running.name)));
            };
            awaited.push(Awaited { id, running, stdout, heard: Vec::new() });
        }
        self.await_words(awaited, signals, progress)
    }

    fn await_words(
        &self,
        mut awaited: Vec<Awaited>,
        signals: &Signals,
        progress: &Progress,
    ) -> Result<Vec<(Running, NodeEntry)>, Trouble> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let mut ready = Vec::new();
        while !awaited.is_empty() {
            // The key of a daemon is its place in the list, that of the signals none.
            let mut sources = vec![(None, signals.as_fd(), Interest::Read)];
            for (place, daemon) in awaited.iter().enumerate() {
                sources.push((Some(place), daemon.stdout.as_fd(), Interest::Read));
            }
            let events = wait(&sources, Some(deadline))?;
            if events.is_empty() {
                let names: Vec<&str> = awaited.iter().map(|daemon| daemon.running.name.as_str()).collect();
                return Err(Trouble::start(format!(
                    "{}: not ready within {} s",
                    names.join(", "),
                    READY_TIMEOUT.as_secs()
                )));
            }
            // From the back, so that removing one leaves the others' places.
            for place in events.into_iter().rev() {
                let Some(place) = place else {
                    let signal = signals.next().map_or(0, |signal| signal as i32);
                    return Err(Trouble::interrupted(signal));
                };
                if let Some(word) = awaited[place].listen()? {
                    let daemon = awaited.swap_remove(place);
                    let entry = self.entry(daemon.id, &word);
                    progress.ready(&entry);
                    ready.push((daemon.running, entry));
                }
            }
        }
        Ok(ready)
    }

    fn entry(&self, id: u32, word: &(SocketAddr, i32)) -> NodeEntry {
        let host = self.hosts[id as usize].clone();
        NodeEntry {
            id,
            started: if host.is_none() { start_of(word.1) } else { None },
            host,
            addr: word.0,
            pid: word.1,
            log: self.logs[id as usize].clone(),
        }
    }

    fn process(&self, id: u32, bind: SocketAddr, join: &str) -> Process {
        let mut arguments: Vec<std::ffi::OsString> = vec![
            "daemon".into(),
            "--index".into(),
            id.to_string().into(),
            "--bind".into(),
            bind.to_string().into(),
            "--key-file".into(),
            self.key_file.clone().into(),
            "--ready-fd".into(),
            "1".into(),
        ];
        if id != 0 {
            arguments.extend(["--join".into(), join.into()]);
        }
        if self.life == Life::Own {
            arguments.extend(["--recorded-fd".into(), "0".into()]);
        }
        let mut environment = self.environment.clone();
        let beside = self.daemons_beside(self.hosts[id as usize].as_ref());
        environment.insert(HOST_NODES.to_owned(), beside.to_string());
        Process {
            name: self.name(id),
            host: self.hosts[id as usize].clone(),
            program: self.program.clone(),
            arguments,
            environment,
            stderr: Some(self.logs[id as usize].clone()),
            life: self.life,
        }
    }

    /// Daemons on the host of this one.
    fn daemons_beside(&self, host: Option<&String>) -> u32 {
        self.hosts.iter().filter(|other| other.as_ref() == host).count() as u32
    }

    /// Daemons on this host.
    pub(crate) fn daemons_here(&self) -> u32 {
        self.daemons_beside(None)
    }

    /// Whether a daemon is on this host.
    pub(crate) fn is_here(&self, id: u32) -> bool {
        self.hosts[id as usize].is_none()
    }

    fn name(&self, id: u32) -> String {
        match &self.hosts[id as usize] {
            Some(host) => format!("node {id} on {host}"),
            None => format!("node {id}"),
        }
    }

    fn port_of(&self, id: u32) -> u16 {
        if id == 0 { self.port } else { 0 }
    }

    /// The address at which the other nodes reach this one.
    fn bind_ip(&self, id: u32) -> Result<IpAddr, Trouble> {
        let Some(host) = &self.hosts[id as usize] else { return Ok(Ipv4Addr::LOCALHOST.into()) };
        let name = host.rsplit('@').next().unwrap_or(host);
        let found = (name, 0).to_socket_addrs().map_err(|e| Trouble::os(format_args!("host {name}"), e))?;
        let (mut four, mut six): (Vec<_>, Vec<_>) = found.map(|addr| addr.ip()).partition(IpAddr::is_ipv4);
        four.append(&mut six);
        four.first().copied().ok_or_else(|| Trouble::start(format!("host {name}: it has no address")))
    }

    fn remote_hosts(&self) -> BTreeSet<&String> {
        self.hosts.iter().flatten().collect()
    }

    /// Puts the key on another host. It travels over ssh's standard input, never in a command line.
    fn key_command(&self, host: &str) -> Vec<std::ffi::OsString> {
        let this = this_executable().unwrap_or_else(|_| "pagemesh".into());
        let state = self.key_file.parent().unwrap_or(Path::new("/"));
        let words =
            [this.into(), "prepare-host".into(), "--".into(), state.into(), self.log_dir.clone().into()];
        ssh(host, &format!("exec {}", join(&words)))
    }

    fn send_key(&self, host: &str, signals: &Signals) -> Result<(), Trouble> {
        let key = std::fs::File::open(&self.key_file).map_err(|e| Trouble::os(self.key_file.display(), e))?;
        let ssh = Running::connection(format!("ssh to {host}"), &self.key_command(host), key.into())?;
        let ending = wait_for_end(ssh, Some(signals), Instant::now() + READY_TIMEOUT)?;
        if ending == Ending::Code(0) {
            return Ok(());
        }
        Err(Trouble::start(format!(
            "host {host}: the key could not be put there (ssh {ending}); if nothing else is said, try `ssh {host} true`"
        )))
    }
}

/// Where each daemon goes; None: this host.
pub(crate) fn hosts_of(shape: &Shape) -> Result<Vec<Option<String>>, Trouble> {
    // Ranks take slots of the membership too, one each at least.
    let most = pagemesh::config::NODES_MAX / 2;
    let refusal = |nodes| Trouble::start(format!("--daemons {nodes}: a number from 1 to {most}"));
    if let Some(nodes) = shape.daemons.map(|nodes| nodes as usize).filter(|nodes| *nodes > most) {
        return Err(refusal(nodes));
    }
    let hosts: Vec<Option<String>> = match &shape.hosts {
        Some(file) => hosts::place(&hosts::read(file)?, shape.daemons)
            .into_iter()
            .map(|host| (!hosts::is_local(&host)).then_some(host))
            .collect(),
        None => vec![None; shape.daemons.unwrap_or_else(processes_default) as usize],
    };
    if hosts.is_empty() || hosts.len() > most {
        return Err(refusal(hosts.len()));
    }
    Ok(hosts)
}

/// Daemons, or ranks, that one command starts on this host without being told: one a core, up to a few.
pub(crate) fn processes_default() -> u32 {
    cores().min(PROCESSES_DEFAULT_MAX)
}

/// Cores that this process may use.
pub(crate) fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32)
}

/// Removes a file or directory from other hosts. Best effort: the key in it opens nothing any more.
pub(crate) fn remove_from(hosts: BTreeSet<&String>, path: &Path) {
    let removal = |host: &&String| {
        let words = ssh(host, &format!("rm -rf -- {}", join(&[path.into()])));
        Running::connection(format!("ssh to {host}"), &words, Stdio::null())
    };
    // At once: a host that does not answer must not keep the others from being cleared.
    let removals: Vec<Running> = hosts.iter().filter_map(|host| removal(host).ok()).collect();
    let deadline = Instant::now() + REMOVAL_TIMEOUT;
    for removal in removals {
        if let Err(trouble) = wait_for_end(removal, None, deadline) {
            out::warn(format_args!("{} is left there: {trouble}", path.display()));
        }
    }
}

/// Waits for a command; dropping it, when a signal or the deadline comes first, ends it.
fn wait_for_end(
    mut command: Running,
    signals: Option<&Signals>,
    deadline: Instant,
) -> Result<Ending, Trouble> {
    loop {
        if let Some(ending) = command.try_end() {
            return Ok(ending);
        }
        let mut sources = vec![(false, command.as_fd(), Interest::Read)];
        sources.extend(signals.map(|signals| (true, signals.as_fd(), Interest::Read)));
        let events = wait(&sources, Some(deadline))?;
        if events.is_empty() {
            return Err(Trouble::start(format!("{}: it did not end in time", command.name)));
        }
        if events.contains(&true)
            && let Some(signal) = signals.and_then(Signals::next)
        {
            return Err(Trouble::interrupted(signal as i32));
        }
    }
}

impl Awaited {
    /// Reads what is there. The word, once it is complete; an error if there will be none.
    fn listen(&mut self) -> Result<Option<(SocketAddr, i32)>, Trouble> {
        let mut bytes = [0; 4096];
        let n = self.stdout.read(&mut bytes).unwrap_or(0);
        self.heard.extend_from_slice(&bytes[..n]);
        if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
            let name = &self.running.name;
            let word: Word = serde_json::from_slice(&self.heard[..end])
                .map_err(|e| Trouble::start(format!("{name}: not a ready line: {e}")))?;
            return match (word.error, word.addr, word.pid) {
                (None, Some(addr), Some(pid)) => Ok(Some((addr, pid))),
                (Some(error), _, _) => Err(Trouble::start(format!("{name}: {error}"))),
                (None, _, _) => Err(Trouble::start(format!("{name}: a ready line without an address"))),
            };
        }
        if n > 0 {
            return Ok(None);
        }
        // The end of the pipe is, for a moment, ahead of the end of the process.
        let ending = self.running.child.wait().map_err(|e| Trouble::os(&self.running.name, e))?;
        let ending = crate::process::Ending::from(ending);
        Err(Trouble::start(format!("{}: it {ending} before it was ready", self.running.name)))
    }
}

/// Tells a node how many are started on its host together, which share the memory that is free there.
pub(crate) const HOST_NODES: &str = "PAGEMESH_HOST_NODES";

/// One line if limits that were given exceed this host's memory together. Nothing is refused: the nodes may never
/// need it all.
pub(crate) fn warn_of_memory(shape: &Shape, nodes: u32) {
    let mut settings = pagemesh::Settings::default();
    let given = shape.memory_max.as_ref().filter(|given| settings.apply("memory_max", given).is_ok());
    if let (Some(_), Some(host)) = (given, pagemesh::settings::host_memory()) {
        let warning = memory_warning(settings.memory_max, nodes, host);
        warning.iter().for_each(out::warn);
    }
}

fn memory_warning(limit: u64, nodes: u32, host: u64) -> Option<String> {
    let sum = limit.saturating_mul(u64::from(nodes));
    let mib = |bytes: u64| bytes >> 20;
    (sum > host).then(|| {
        format!(
            "--memory-max {} MiB for {nodes} nodes of this host is {} MiB, more than its {} MiB: the kernel may kill nodes",
            mib(limit),
            mib(sum),
            mib(host)
        )
    })
}

/// The flags that all nodes, daemons and ranks, must agree on.
pub(crate) fn settings(shape: &Shape) -> BTreeMap<String, String> {
    let flags = [
        ("PAGEMESH_MEMORY_MAX", &shape.memory_max),
        ("PAGEMESH_ARENA_BASE", &shape.arena_base),
        ("PAGEMESH_ARENA_SIZE", &shape.arena_size),
        ("PAGEMESH_SOCKET_BUFFER", &shape.socket_buffer),
        ("PAGEMESH_ENCRYPT", &shape.encrypt),
    ];
    flags.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))).collect()
}

/// A bar on a terminal, nothing elsewhere: then the command's result is enough.
struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    fn new(total: u64, what: &'static str) -> Progress {
        let style = ProgressStyle::with_template("pagemesh: {bar:24} {pos}/{len} {prefix}, {eta} left {msg}");
        let shown = total > 0 && std::io::stderr().is_terminal();
        let bar = shown.then(|| ProgressBar::new(total).with_prefix(what));
        if let (Some(bar), Ok(style)) = (&bar, style) {
            bar.set_style(style);
            bar.tick();
        }
        Progress { bar }
    }

    fn begins(&self, host: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("(next {host})"));
        }
    }

    fn advance(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    fn ready(&self, entry: &NodeEntry) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("(node {} at {})", entry.id, entry.addr));
        }
        self.advance();
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let _ = std::io::stderr().flush();
    }
}
