//! The command line. What a flag means is said here once, in its help text.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use pagemesh::settings::one_line;

use crate::trouble::Trouble;
use crate::{about, out};

#[derive(Parser)]
#[command(
    name = "pagemesh",
    version = about::version(),
    about = "Distributed shared memory: clusters, programs, regions",
    after_help = "Try: pagemesh run --daemons 4 matmul --n 1024 --verify"
)]
pub(crate) struct Arguments {
    /// Directory of the cluster's key, addresses and logs [default: $XDG_RUNTIME_DIR/pagemesh or /tmp/pagemesh-UID]
    #[arg(long, global = true, env = "PAGEMESH_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a program on the running cluster, or on a private one that ends with it
    Run(Run),
    /// Start daemons that stay until `down`
    Up(Up),
    /// Show nodes, regions, and what they have done
    Status(Status),
    /// Show the daemons' logs
    Logs(Logs),
    /// Stop the daemons; their regions are gone then
    Down,
    /// Named regions of shared memory; they outlive the programs that made them
    Regions {
        #[command(subcommand)]
        command: RegionsCommand,
    },
    /// Look at the interfaces that nodes serve, and call their methods
    Rpc {
        #[command(subcommand)]
        command: RpcCommand,
    },
    Rpcgen(pagemesh_rpcgen::command::Arguments),
    /// Show what shared memory does and costs here: four processes, half a minute at most
    Demo(Demo),
    /// Make a crate with a program that runs on a cluster
    New(New),
    /// Say what works on this host, what does not, and how to mend it
    Doctor(Doctor),
    /// Be a daemon: a node that runs no program, until it is told to stop; `up` and `run` start them
    Daemon(node_daemon::Arguments),
    /// Keys: the files that let nodes into a cluster
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Print completions for a shell
    #[command(after_help = "Try: source <(pagemesh completions bash)")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the man page, or write that page and one for each command into a directory
    Man {
        /// The directory, made if need be
        dir: Option<PathBuf>,
    },
    /// Print the version
    Version,
    /// Be one of the demo's ranks
    #[command(hide = true)]
    DemoRank(Demo),
    /// The other host's side of `doctor --hosts`
    #[command(hide = true)]
    DoctorPeer {
        /// Address of this host by which the others reach it
        #[arg(long)]
        bind: std::net::IpAddr,
    },
    /// Prepare a child process and become the program
    #[command(hide = true)]
    ExecChild(ExecChild),
    /// Make the state directory on this host, with the key from standard input
    #[command(hide = true)]
    PrepareHost(PrepareHost),
    /// Do the work of a `run` and end all its processes when the process in front is gone
    #[command(hide = true)]
    Guardian(Guardian),
}

#[derive(Subcommand)]
pub(crate) enum RegionsCommand {
    /// List the regions
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a region that nobody uses
    Rm {
        /// Name of the region
        name: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// Write a new key into a file that does not exist yet, readable by its owner only
    New {
        /// The file
        file: PathBuf,
    },
    /// Print what tells the key in a file from others, and does not tell the key
    Fingerprint {
        /// The file
        file: PathBuf,
    },
}

#[derive(Subcommand)]
pub(crate) enum RpcCommand {
    /// List what every node serves, or one
    Ls {
        /// Number of the node
        node: Option<u16>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show an interface as an interface file, which `rpcgen` takes
    Describe {
        /// Name of the interface
        interface: String,
        /// As this node serves it [default: the first that does]
        #[arg(long, value_name = "N")]
        node: Option<u16>,
        /// Print the description as it travels, in JSON
        #[arg(long)]
        json: bool,
    },
    /// Call a method with arguments in JSON; the answer is JSON
    #[command(after_help = r#"Try: pagemesh rpc call 0 Node.region '{"name": "data"}'"#)]
    Call(RpcCall),
}

#[derive(Args)]
pub(crate) struct RpcCall {
    /// Number of the node
    pub(crate) node: u16,
    /// Interface and method, e.g. Meta.list
    pub(crate) method: String,
    /// The arguments by name, as a JSON object
    #[arg(default_value = "{}")]
    pub(crate) arguments: String,
    /// Longest that the call may take, in seconds [default: 3]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) deadline: Option<Duration>,
}

/// A time in seconds, which may have a fraction.
fn seconds(text: &str) -> Result<Duration, String> {
    let time = seconds_or_none(text)?;
    if time.is_zero() { Err("no time at all".to_owned()) } else { Ok(time) }
}

/// The same, or 0.
fn seconds_or_none(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// What a new cluster is made of.
#[derive(Args, Clone, Default)]
pub(crate) struct Shape {
    /// Daemons to start [default: as many as the host has cores, at most 4; or one for each line of --hosts]
    #[arg(long, short = 'n', visible_alias = "nodes", value_name = "N")]
    pub(crate) daemons: Option<u32>,
    /// Hosts to start on, a line each: `host slots=2`, `a:2,b` or `node[1-4]`; reached over ssh without a password
    #[arg(long, value_name = "FILE")]
    pub(crate) hosts: Option<PathBuf>,
    /// Print the commands that would start everything, and start nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// UDP port of node 0 [default: any free one]
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Most memory in which each node holds pages, e.g. 512MiB [default: a share of half of what is free]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub(crate) memory_max: Option<String>,
    /// Address of the shared arena, the same on every node
    #[arg(long, value_name = "ADDRESS", value_parser = arena_base)]
    pub(crate) arena_base: Option<String>,
    /// Length of the shared arena
    #[arg(long, value_name = "SIZE", value_parser = arena_size)]
    pub(crate) arena_size: Option<String>,
    /// Socket buffer of every node
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) socket_buffer: Option<String>,
    /// Which sessions must be encrypted: all, hosts (all but those within one host) or never
    #[arg(long, value_name = "WHICH", value_parser = ["all", "hosts", "never"])]
    pub(crate) encrypt: Option<String>,
}

#[derive(Args)]
pub(crate) struct Demo {
    /// Print the figures as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct New {
    /// Directory to make; its last part is the crate's name
    pub(crate) path: PathBuf,
    /// Checkout of pagemesh, or version, that the crate depends on [default: the checkout that this command was built from]
    #[arg(long, value_name = "PATH|VERSION")]
    pub(crate) pagemesh: Option<String>,
}

#[derive(Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// Print JSON when all are ready
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Status {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Show it again every second until Ctrl-C: on a terminal over the picture before, as JSON a line each time
    #[arg(long)]
    pub(crate) watch: bool,
    /// Time between the two readings that rates come from; 0 for one reading and no rates [default: 0.5, with --watch 1]
    #[arg(long, value_name = "SECONDS", value_parser = seconds_or_none)]
    pub(crate) interval: Option<Duration>,
}

#[derive(Args)]
#[command(after_help = "Exit code: 0 ready or usable, 1 will not work.")]
pub(crate) struct Doctor {
    /// Look at these hosts too: whether ssh gets there, versions are equal, and datagrams go there and back
    #[arg(long, value_name = "FILE")]
    pub(crate) hosts: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Logs {
    /// Keep showing what is added, until Ctrl-C
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,
    /// Only this node's
    pub(crate) node: Option<u32>,
}

#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// Processes of the program [default: one for each daemon; without daemons as many as cores, at most 4]
    #[arg(long, short = 'r', value_name = "R")]
    pub(crate) ranks: Option<u32>,
    /// No daemons: the ranks alone form the cluster, and their regions end with them
    #[arg(long, conflicts_with_all = ["hosts", "private"])]
    pub(crate) no_daemons: bool,
    /// A cluster of its own, even if one is running
    #[arg(long)]
    pub(crate) private: bool,
    /// Do not put the rank before each line of output, which is done where there are several
    #[arg(long)]
    pub(crate) no_tag: bool,
    /// On a terminal, show equal lines of several ranks one by one and not as one
    #[arg(long)]
    pub(crate) no_merge: bool,
    /// Do not say that there are more ranks than cores
    #[arg(long, hide = true)]
    pub(crate) quiet: bool,
    /// An example's name (matmul, counter, histogram, workqueue, stencil, list, jacobi, region, calculator, wordcount) or any program, and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "PROGRAM")]
    pub(crate) program: Vec<OsString>,
}

/// The second process of a `run`.
#[derive(Args)]
pub(crate) struct Guardian {
    /// Descriptor of the pipe from the process in front
    #[arg(long, value_name = "FD")]
    pub(crate) front: i32,
    /// The command line of the process in front
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub(crate) words: Vec<OsString>,
}

/// Where the state of a cluster goes on another host.
#[derive(Args)]
pub(crate) struct PrepareHost {
    /// The state directory
    pub(crate) dir: PathBuf,
    /// The directory for logs, below it
    pub(crate) logs: PathBuf,
}

/// How to set up a child before it becomes the program.
#[derive(Args)]
pub(crate) struct ExecChild {
    /// Die when this process, which must be the parent, dies
    #[arg(long)]
    pub(crate) parent: Option<i32>,
    /// Lead a new session, so that no terminal's signals arrive
    #[arg(long)]
    pub(crate) session: bool,
    /// Stay as the program's guard, and end it when standard input closes
    #[arg(long)]
    pub(crate) lifeline: bool,
    /// Start the program in a session of its own and return at once
    #[arg(long)]
    pub(crate) detach: bool,
    /// Append standard error to this file
    #[arg(long)]
    pub(crate) stderr: Option<PathBuf>,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub(crate) program: Vec<OsString>,
}

/// Reads the command line. Help and version are printed and end the process.
pub(crate) fn parse() -> Result<Arguments, Trouble> {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    parse_from(&words)
}

/// Reads the words of a command line behind the command's name.
pub(crate) fn parse_from(words: &[OsString]) -> Result<Arguments, Trouble> {
    let asked_for = [
        ErrorKind::DisplayHelp,
        ErrorKind::DisplayVersion,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
    ];
    let line = std::iter::once(OsString::from("pagemesh")).chain(words.iter().cloned());
    Arguments::try_parse_from(line).map_err(|error| {
        if !asked_for.contains(&error.kind()) {
            return Trouble::start(one_line(&error.to_string()));
        }
        // Help that stands in for a missing command goes to standard error, which may be gone.
        let printed = error.print().and_then(|()| std::io::stdout().flush());
        match printed {
            Err(failed) if !error.use_stderr() => out::unwritten(failed),
            Err(_) | Ok(()) => Trouble::silent(error.exit_code()),
        }
    })
}

/// Checks a memory limit where it is typed; the daemon reads the same text again.
fn memory(text: &str) -> Result<String, String> {
    pagemesh::settings::memory(text).map(|_| text.to_owned())
}

fn arena_base(text: &str) -> Result<String, String> {
    pagemesh::settings::arena_base(text).map(|_| text.to_owned())
}

fn arena_size(text: &str) -> Result<String, String> {
    pagemesh::settings::arena_size(text).map(|_| text.to_owned())
}

/// Checks a size where it is typed; the daemon reads the same text again.
fn size(text: &str) -> Result<String, String> {
    pagemesh::settings::size(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_wrong_flag_is_one_line_with_a_suggestion() {
        let parsed = Arguments::try_parse_from(["pagemesh", "up", "--daemon", "3"]);
        let line = one_line(&parsed.err().map(|error| error.to_string()).unwrap_or_default());
        assert!(line.starts_with("unexpected argument '--daemon'"), "{line}");
        assert!(line.contains("'--daemons'") && !line.contains('\n'), "{line}");
    }

    #[test]
    fn flags_after_the_program_belong_to_the_program() {
        let line = ["pagemesh", "run", "--nodes", "2", "matmul", "--nodes", "7", "--help"];
        let parsed = Arguments::try_parse_from(line).unwrap_or_else(|error| panic!("{error}"));
        let Command::Run(run) = parsed.command else {
            panic!("not a run");
        };
        assert_eq!(run.shape.daemons, Some(2));
        assert_eq!(run.program, ["matmul", "--nodes", "7", "--help"]);
    }
}
