//! `run`: on which cluster, with which ranks where, and what is left afterwards (nothing).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use pagemesh::NodeConfig;
use pagemesh::settings::Settings;

use crate::args::Run;
use crate::cluster::STOP_GRACE;
use crate::launch::{
    ADDRESS_UNKNOWN, HOST_NODES, Plan, Started, cores, hosts_of, processes_default, settings, warn_of_memory,
};
use crate::out;
use crate::output::Output;
use crate::process::{Life, PLACE_VARIABLES, Process, Running};
use crate::program;
use crate::signals::Signals;
use crate::state::{ClusterFile, Known, NodeEntry, State, damaged};
use crate::supervise::{Rank, Supervisor};
use crate::trouble::Trouble;
use crate::wait::{Interest, wait};

/// Variables that a rank on another host gets from here, by the beginning of their names.
const REMOTE_VARIABLES: [&str; 2] = ["PAGEMESH_", "RUST_"];

/// What the ranks of a program have in common.
struct Job {
    program: PathBuf,
    arguments: Vec<OsString>,
    ranks: u32,
    /// Never the number of an earlier program.
    number: u64,
    key_file: PathBuf,
    /// What the flags say about nodes, over what a running cluster was started with.
    settings: BTreeMap<String, String>,
    tag: bool,
    merge: bool,
    quiet: bool,
}

/// Finds what is wrong with a request, as far as that can be seen before anything is started.
pub(crate) fn check(state_dir: Option<PathBuf>, run: &Run) -> Result<(), Trouble> {
    program::find(&run.program[0])?;
    if run.ranks == Some(0) {
        return Err(Trouble::start("--ranks 0: a program has at least one rank"));
    }
    if let Some(ranks) = run.ranks {
        check_ranks(ranks)?;
    }
    check_settings()?;
    let apart = run.no_daemons || run.private;
    if apart || running_cluster(state_dir, run)?.is_none() {
        hosts_of(&run.shape)?;
    }
    Ok(())
}

/// Finds a wrong variable, or a wrong line of the settings file, of those that daemons and ranks read.
pub(crate) fn check_settings() -> Result<(), Trouble> {
    NodeConfig::check(&Settings::from_env()?)?;
    Ok(node_daemon::check_log_variable()?)
}

/// Runs a program and gives the exit code of its worst rank.
pub(crate) fn run(state_dir: Option<PathBuf>, run: Run, signals: &Signals) -> Result<i32, Trouble> {
    let program = program::find(&run.program[0])?;
    let running = if run.no_daemons || run.private { None } else { running_cluster(state_dir, &run)? };
    let state = match running {
        Some((state, cluster)) => return run_on(&state, cluster, run, program, signals),
        None => State::temporary()?,
    };
    if !run.shape.dry_run {
        state.prepare()?;
    }
    if run.no_daemons {
        let ranks = run.ranks.or(run.shape.daemons).unwrap_or_else(processes_default);
        warn_of_memory(&run.shape, ranks);
        let dry_run = run.shape.dry_run;
        let job = Job::new(run, program, ranks, &state)?;
        if dry_run {
            (0..ranks)
                .try_for_each(|rank| out::line(job.process_alone(rank, None, ADDRESS_UNKNOWN).line()))?;
            return Ok(0);
        }
        return run_alone(&job, signals);
    }
    run_private(&state, run, program, signals)
}

/// The cluster of the state directory, if it is up and is the one that was asked for.
fn running_cluster(state_dir: Option<PathBuf>, run: &Run) -> Result<Option<(State, ClusterFile)>, Trouble> {
    let state = State::open(state_dir)?;
    let mut cluster = match state.known()? {
        Known::Running(cluster) => cluster,
        Known::Damaged(_, dead) => return Err(damaged(&dead)),
        Known::Nothing => return Ok(None),
        // A cluster of its own would not have the data that the user expects.
        Known::Stale => {
            return Err(Trouble::start(
                "the cluster that was here has ended, and its memory with it; start one with `pagemesh up`, \
                 or add --private for a cluster that ends with the program",
            ));
        }
    };
    let up = cluster.nodes.len();
    if let Some(nodes) = run.shape.daemons.filter(|nodes| *nodes as usize != up) {
        return Err(Trouble::start(format!(
            "the running cluster has {up} nodes, not {nodes}; leave --daemons away, or add --private for a cluster apart"
        )));
    }
    if run.shape.hosts.is_some() {
        return Err(Trouble::start(
            "a cluster is running; leave --hosts away, or add --private for a cluster apart",
        ));
    }
    // A rank goes beside a daemon that runs.
    cluster.nodes.retain(NodeEntry::runs);
    Ok(Some((state, cluster)))
}

/// On a cluster that was up before and stays.
fn run_on(
    state: &State,
    cluster: ClusterFile,
    run: Run,
    program: PathBuf,
    signals: &Signals,
) -> Result<i32, Trouble> {
    let ranks = run.ranks.unwrap_or(cluster.nodes.len() as u32);
    let dry_run = run.shape.dry_run;
    let job = Job::new(run, program, ranks, state)?;
    if dry_run {
        let join = cluster.nodes[0].addr.to_string();
        (0..ranks).try_for_each(|rank| out::line(job.process(rank, &cluster, &join).line()))?;
        return Ok(0);
    }
    let started = job.start_on(&cluster)?;
    let mut no_daemons = Vec::new();
    let supervisor = Supervisor::new(started, &mut no_daemons, signals, job.output());
    supervisor.on_cluster(state, &cluster).run()
}

/// On a cluster that is made for this run and ends with it.
fn run_private(state: &State, run: Run, program: PathBuf, signals: &Signals) -> Result<i32, Trouble> {
    let plan = Plan::new(state, &run.shape, Life::Ours)?;
    let ranks = run.ranks.unwrap_or(plan.nodes());
    let dry_run = run.shape.dry_run;
    // Ranks go round the daemons.
    let ranks_here = (0..ranks).filter(|rank| plan.is_here(rank % plan.nodes())).count() as u32;
    warn_of_memory(&run.shape, plan.daemons_here() + ranks_here);
    let job = Job::new(run, program, ranks, state)?;
    if dry_run {
        plan.lines().iter().try_for_each(out::line)?;
        let cluster = plan.imagine();
        (0..ranks).try_for_each(|rank| out::line(job.process(rank, &cluster, ADDRESS_UNKNOWN).line()))?;
        return Ok(0);
    }
    state.prepare_logs(plan.log_dir())?;
    let started = plan.start(signals)?;
    let code = run_and_stop(&job, started, signals);
    plan.clear_hosts();
    code
}

fn run_and_stop(job: &Job, started: Started, signals: &Signals) -> Result<i32, Trouble> {
    let Started { mut daemons, cluster } = started;
    let ranks = job.start_on(&cluster)?;
    let code = Supervisor::new(ranks, &mut daemons, signals, job.output()).run();
    let failed: Vec<usize> = (0..daemons.len()).filter(|i| daemons[*i].try_end().is_some()).collect();
    for node in failed {
        show_end_of_log(&cluster, node);
    }
    stop(&mut daemons)?;
    code
}

/// Without daemons: rank 0 is the coordinator. It inherits a bound socket, so its address is known to
/// the others before it runs, and no port is fixed.
fn run_alone(job: &Job, signals: &Signals) -> Result<i32, Trouble> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| Trouble::os("bind 127.0.0.1", e))?;
    let addr = socket.local_addr().map_err(|e| Trouble::os("bind 127.0.0.1", e))?;
    let inherit = |flag| {
        let set = fcntl(socket.as_fd(), FcntlArg::F_SETFD(flag));
        set.map_err(|e| Trouble::os("pass a socket on", e))
    };
    job.warn_of_crowd();
    let mut started = Vec::new();
    for rank in 0..job.ranks {
        // Children are started one after the other, so only rank 0 gets it.
        inherit(if rank == 0 { FdFlag::empty() } else { FdFlag::FD_CLOEXEC })?;
        let process = job.process_alone(rank, Some(socket.as_fd()), &addr.to_string());
        started.push(job.connect(rank, &process)?);
    }
    drop(socket);
    Supervisor::new(started, &mut Vec::new(), signals, job.output()).run()
}

impl Job {
    fn new(run: Run, program: PathBuf, ranks: u32, state: &State) -> Result<Job, Trouble> {
        check_ranks(ranks)?;
        Ok(Job {
            program,
            arguments: run.program[1..].to_vec(),
            ranks,
            number: getrandom::u64().map_err(|e| Trouble::start(format!("random numbers: {e}")))?,
            key_file: state.key_file(),
            settings: settings(&run.shape),
            // One rank alone needs neither.
            tag: !run.no_tag && ranks > 1,
            merge: !run.no_merge,
            quiet: run.quiet,
        })
    }

    fn environment(&self, rank: u32) -> BTreeMap<String, String> {
        let mut environment = self.settings.clone();
        environment.extend([
            ("PAGEMESH_KEY_FILE".to_owned(), self.key_file.display().to_string()),
            ("PAGEMESH_PROGRAM".to_owned(), format!("{:016x}", self.number)),
            ("PAGEMESH_RANK".to_owned(), rank.to_string()),
            ("PAGEMESH_RANKS".to_owned(), self.ranks.to_string()),
        ]);
        environment
    }

    /// A rank beside its daemon: they go round the daemons in order.
    fn process(&self, rank: u32, cluster: &ClusterFile, join: &str) -> Process {
        let node = &cluster.nodes[rank as usize % cluster.nodes.len()];
        let mut environment = cluster.environment.clone();
        if node.host.is_some() {
            environment.extend(variables_for_others());
            environment.insert("PAGEMESH_BIND".to_owned(), SocketAddr::new(node.addr.ip(), 0).to_string());
        }
        environment.append(&mut self.environment(rank));
        environment.insert("PAGEMESH_JOIN".to_owned(), join.to_owned());
        environment.insert("PAGEMESH_NEAREST".to_owned(), node.id.to_string());
        environment.insert(HOST_NODES.to_owned(), self.nodes_beside(node.host.as_ref(), cluster).to_string());
        self.describe(rank, environment, node.host.clone())
    }

    /// Daemons and ranks of this job on a host.
    fn nodes_beside(&self, host: Option<&String>, cluster: &ClusterFile) -> usize {
        let daemons = &cluster.nodes;
        let is_there = |at: usize| daemons[at % daemons.len()].host.as_ref() == host;
        let nodes = (0..daemons.len()).chain(0..self.ranks as usize);
        nodes.filter(|at| is_there(*at)).count()
    }

    /// A rank without daemons. Rank 0 gets the socket, or, where there is none yet, binds one itself.
    fn process_alone(&self, rank: u32, socket: Option<BorrowedFd<'_>>, join: &str) -> Process {
        let mut environment = self.environment(rank);
        let (name, value) = match (rank, socket) {
            (0, Some(socket)) => ("PAGEMESH_SOCKET_FD", socket.as_raw_fd().to_string()),
            (0, None) => ("PAGEMESH_BIND", SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).to_string()),
            (_, Some(_) | None) => ("PAGEMESH_JOIN", join.to_owned()),
        };
        environment.insert(name.to_owned(), value);
        environment.insert(HOST_NODES.to_owned(), self.ranks.to_string());
        self.describe(rank, environment, None)
    }

    fn describe(&self, rank: u32, environment: BTreeMap<String, String>, host: Option<String>) -> Process {
        Process {
            name: format!("rank {rank}"),
            host,
            program: self.program.clone(),
            arguments: self.arguments.clone(),
            environment,
            stderr: None,
            life: Life::Ours,
        }
    }

    /// More ranks than cores are right, but slow.
    fn warn_of_crowd(&self) {
        let cores = cores();
        if self.ranks > cores && !self.quiet {
            let plural = if cores == 1 { "" } else { "s" };
            out::warn(format_args!("{} ranks on {cores} core{plural}: they take turns", self.ranks));
        }
    }

    /// Where the lines of the ranks go.
    fn output(&self) -> Output {
        Output::new(self.ranks, self.merge)
    }

    fn start_on(&self, cluster: &ClusterFile) -> Result<Vec<Rank>, Trouble> {
        if cluster.nodes.iter().all(|node| node.host.is_none()) {
            self.warn_of_crowd();
        }
        let join = cluster.nodes[0].addr.to_string();
        let start = |rank| self.connect(rank, &self.process(rank, cluster, &join));
        (0..self.ranks).map(start).collect()
    }

    /// Starts a rank with its streams: input goes to rank 0 alone.
    fn connect(&self, rank: u32, process: &Process) -> Result<Rank, Trouble> {
        let remote = process.host.is_some();
        let stdin = match (rank, remote) {
            // Its input is its lifeline, and stays open as long as we live.
            (_, true) => Stdio::piped(),
            (0, false) if std::io::stdin().is_terminal() => Stdio::piped(),
            (0, false) => Stdio::inherit(),
            (_, false) => Stdio::null(),
        };
        let output = || if self.tag { Stdio::piped() } else { Stdio::inherit() };
        let running = process.start(stdin, output(), output())?;
        Rank::new(running)
    }
}

fn check_ranks(ranks: u32) -> Result<(), Trouble> {
    // Daemons are members too; the library refuses what is too much together.
    let most = pagemesh::config::NODES_MAX as u32;
    if (1..=most).contains(&ranks) {
        return Ok(());
    }
    Err(Trouble::start(format!("{ranks} ranks: a number from 1 to {most}")))
}

/// What a rank on another host gets of our environment. Other variables may be of any bytes; these are text.
fn variables_for_others() -> impl Iterator<Item = (String, String)> {
    let text = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let ours = |name: &str| REMOTE_VARIABLES.iter().any(|prefix| name.starts_with(prefix));
    text.filter(move |(name, _)| ours(name) && !PLACE_VARIABLES.contains(&name.as_str()))
}

/// Ends daemons that are nobody's any more, and waits until they have ended.
fn stop(daemons: &mut [Running]) -> Result<(), Trouble> {
    daemons.iter_mut().for_each(|daemon| daemon.signal(Signal::SIGTERM));
    let deadline = Instant::now() + STOP_GRACE;
    loop {
        daemons.iter_mut().for_each(|daemon| {
            daemon.try_end();
        });
        let running: Vec<_> =
            daemons.iter().filter(|daemon| daemon.runs()).map(|d| ((), d.as_fd(), Interest::Read)).collect();
        // Those that do not end in time are killed when they are dropped.
        if running.is_empty() || wait(&running, Some(deadline))?.is_empty() {
            return Ok(());
        }
    }
}

/// What a daemon said last, when it has ended before its time.
fn show_end_of_log(cluster: &ClusterFile, node: usize) {
    let text = std::fs::read_to_string(&cluster.nodes[node].log).unwrap_or_default();
    if let Some(line) = text.lines().rev().find(|line| !line.trim().is_empty()) {
        out::warn(format_args!("node {node} said last: {line}"));
    }
}
