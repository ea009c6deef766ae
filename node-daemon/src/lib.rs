//! The long-lived process of a host: a node that runs no program. It is home to pages, so shared data
//! outlive the program that made them; node 0 also coordinates the cluster.
//!
//! All of that is the library's. This crate turns flags into settings, says when the node is a member,
//! and ends when it is told to; the command `pagemesh daemon` runs it.
#![deny(unsafe_code)]

mod lifeline;
mod ready;
mod stop;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
pub use lifeline::RECORDED;
use pagemesh::admin::HostMemory;
use pagemesh::settings::Settings;
use pagemesh::{Error, Node, NodeConfig};
use tracing_subscriber::EnvFilter;

/// Exit code when the node could not become a member.
const CANNOT_START: i32 = 2;
/// Exit code of every process of a cluster that ends because another node died.
const PEER_DIED: i32 = 70;

/// A node of a distributed shared memory that runs no program
///
/// Each flag has a variable and a line in pagemesh.toml: flag over variable over file.
#[derive(Args)]
pub struct Arguments {
    /// Address to bind, e.g. 127.0.0.1:0; port 0 is any free one
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<String>,
    /// Address of node 0; without it this node is node 0
    #[arg(long, value_name = "ADDRESS")]
    join: Option<String>,
    /// File with the cluster's key: 64 hexadecimal digits, readable by its owner only
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Which sessions must be encrypted: all, hosts (all but those within one host) or never
    #[arg(long, value_name = "WHICH")]
    encrypt: Option<String>,
    /// Number of this node among the daemons, which is its node id
    #[arg(long, value_name = "N", default_value_t = 0)]
    index: u16,
    /// Most memory in which this node holds pages, e.g. 512MiB
    #[arg(long, value_name = "SIZE")]
    memory_max: Option<String>,
    /// Address of the shared arena, the same on every node
    #[arg(long, value_name = "ADDRESS")]
    arena_base: Option<String>,
    /// Length of the shared arena
    #[arg(long, value_name = "SIZE")]
    arena_size: Option<String>,
    /// Socket buffer to ask for
    #[arg(long, value_name = "SIZE")]
    socket_buffer: Option<String>,
    /// Fault backend: signal, thread or mprotect
    #[arg(long, value_name = "NAME")]
    fault: Option<String>,
    /// What to log: error, warn, info, debug, trace, or a filter like pagemesh::net=debug
    #[arg(long, env = "PAGEMESH_LOG", default_value = "info")]
    log: String,
    /// Descriptor that gets one JSON line when the node is a member, or cannot be one
    #[arg(long, value_name = "FD")]
    ready_fd: Option<i32>,
    /// Descriptor whose end ends the daemon, unless it has given the line `recorded` before
    #[arg(long, value_name = "FD")]
    recorded_fd: Option<i32>,
}

/// Runs the daemon until it is told to stop or cannot go on, and gives the exit code of its process: 0, 2 if
/// it could not become a member, 70 if another node's death ended the cluster.
pub fn serve(arguments: &Arguments) -> i32 {
    // Before the library starts threads: each inherits the mask.
    let stop = stop::take_over();
    let started = start_logging(&arguments.log).and_then(|()| watch_lifeline(arguments));
    let node = match started.and_then(|()| start(arguments)) {
        Ok(node) => Arc::new(node),
        Err(error) => {
            eprintln!("pagemesh daemon: {error}");
            ready::cannot_start(arguments.ready_fd, &error.to_string());
            return CANNOT_START;
        }
    };
    let told = ready::is_member(arguments.ready_fd, node.local_addr());
    let told = told.and_then(|()| match arguments.recorded_fd {
        // The connection of a daemon on another host stays until the cluster is recorded.
        Some(_) => Ok(()),
        None => ready::give_up(arguments.ready_fd),
    });
    if let Err(error) = told {
        // Whoever started us does not wait any more.
        eprintln!("pagemesh daemon: tell that the node is ready: {error}");
        return CANNOT_START;
    }
    tracing::info!(node = node.id().0, addr = %node.local_addr(), "member of the cluster");
    tracing::info!("{}", memory_line(&node.host_memory()));
    stop.call_on_signal(&node);
    match node.wait_for_shutdown() {
        Ok(()) => {
            tracing::info!("asked to stop");
            0
        }
        Err(error) => {
            tracing::error!(%error, "ending");
            eprintln!("pagemesh daemon: {error}");
            PEER_DIED
        }
    }
}

/// The nodes that have joined before this one are counted; status tells of those that come later.
fn memory_line(host: &HostMemory) -> String {
    let mib = |bytes: u64| bytes >> 20;
    let of =
        host.memory.map_or_else(|| "an unknown amount".to_owned(), |memory| format!("{} MiB", mib(memory)));
    format!(
        "nodes of this host by now: {}, which may take {} MiB together, of {of}",
        host.nodes,
        mib(host.memory_max)
    )
}

/// From the beginning on: the command can end at any time.
fn watch_lifeline(arguments: &Arguments) -> Result<(), Error> {
    let Some(fd) = arguments.recorded_fd else { return Ok(()) };
    let ready_fd = arguments.ready_fd;
    let recorded = move || {
        // A descriptor that stays open only delays the end of an ssh connection.
        let _ = ready::give_up(ready_fd);
    };
    lifeline::watch(fd, recorded).map_err(|error| Error::Invalid(format!("--recorded-fd {fd}: {error}")))
}

fn start(arguments: &Arguments) -> Result<Node, Error> {
    let settings = settings(arguments)?;
    Node::start(NodeConfig::daemon(settings, arguments.index))
}

fn settings(arguments: &Arguments) -> Result<Settings, Error> {
    let mut settings = Settings::from_env()?;
    let flags = [
        ("bind", &arguments.bind),
        ("join", &arguments.join),
        ("encrypt", &arguments.encrypt),
        ("memory_max", &arguments.memory_max),
        ("arena_base", &arguments.arena_base),
        ("arena_size", &arguments.arena_size),
        ("socket_buffer", &arguments.socket_buffer),
        ("fault", &arguments.fault),
    ];
    for (key, value) in flags {
        if let Some(value) = value {
            let flag = key.replace('_', "-");
            settings.apply(key, value).map_err(|error| Error::Invalid(format!("--{flag}: {error}")))?;
        }
    }
    if let Some(path) = &arguments.key_file {
        settings.key_file = Some(path.clone());
    }
    Ok(settings)
}

/// Whether `PAGEMESH_LOG` is a filter as `--log` takes it: a command says so before it starts daemons. Nothing is
/// changed.
pub fn check_log_variable() -> Result<(), Error> {
    let Some(filter) = std::env::var_os("PAGEMESH_LOG") else { return Ok(()) };
    let filter = filter.to_string_lossy();
    log_filter(&filter).map(drop).map_err(|why| Error::Invalid(format!("PAGEMESH_LOG: {why}")))
}

fn log_filter(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|error| format!("`{filter}` is not a filter like info or pagemesh::net=debug: {error}"))
}

/// Log lines go to standard error, which whoever started us has pointed at a file.
fn start_logging(filter: &str) -> Result<(), Error> {
    let filter = log_filter(filter).map_err(|why| Error::Invalid(format!("--log: {why}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // It would say so on standard error, and panic: a full disk must not end a daemon.
        .log_internal_errors(false)
        .init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    /// The flags as a command line of their own.
    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn the_command_line_is_consistent() {
        Alone::command().debug_assert();
    }

    #[test]
    fn the_log_tells_what_the_nodes_of_the_host_may_take_of_its_memory() {
        let host = HostMemory { nodes: 3, memory_max: 3 << 29, memory: Some(4 << 30) };
        assert_eq!(
            memory_line(&host),
            "nodes of this host by now: 3, which may take 1536 MiB together, of 4096 MiB"
        );
        assert!(memory_line(&HostMemory { memory: None, ..host }).ends_with("of an unknown amount"));
    }

    #[test]
    fn a_wrong_flag_is_named() {
        let Alone { arguments } = Alone::parse_from(["daemon", "--memory-max", "lots"]);
        let error = settings(&arguments).expect_err("not a size");
        assert!(error.to_string().starts_with("--memory-max: `lots` is not a size"), "{error}");
    }
}
