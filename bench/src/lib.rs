//! Benchmarks: each figure beside its own bare floor, measured in the same run in interleaved rounds.
//!
//! A library, because there are two programs: `bench`, and `bench/peers`, which adds other call facilities
//! to the comparison and has a workspace of its own for all that these depend on.
//!
//! The program starts itself anew in other roles (`--role`): ranks of a cluster, the two sides of a
//! floor, computing threads. They are wired by inherited sockets, obey commands on a pipe, sleep while
//! others are measured and die with their parent. What a figure means stands beside the code that takes it.

mod awake;
mod child;
mod cluster;
mod default;
mod fault;
mod floor;
mod idle;
mod load;
mod machine;
mod matmul;
mod memory;
mod mpi;
mod net;
mod peer;
mod peers;
mod programs;
mod rank;
mod report;
mod role;
mod rpc;
mod scan;
mod sync;
mod touch;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use floor::Mechanism;
pub use peer::{Caller, Facility};
use report::Report;
use role::Role;

/// Errors end the program with their text; nothing here reacts to them.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Benchmarks of the distributed shared memory, each beside its bare floor.
#[derive(Parser)]
#[command(version, about, long_about = None, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    benchmark: Option<Benchmark>,
    #[command(flatten)]
    options: Options,
    /// The role of this process, as JSON.
    #[arg(long, hide = true, value_parser = Role::parse)]
    role: Option<Role>,
}

#[derive(Args, Clone)]
pub(crate) struct Options {
    /// Print one JSON object a line instead of a table.
    #[arg(long, global = true)]
    json: bool,
    /// Rounds of floor and figure.
    #[arg(long, global = true, default_value_t = 7)]
    rounds: usize,
    /// Fewer and shorter rounds: a look, not a measurement.
    #[arg(long, global = true)]
    quick: bool,
}

impl Options {
    /// Rounds to take; at least one.
    fn rounds(&self) -> usize {
        if self.quick { self.rounds.clamp(1, 3) } else { self.rounds.max(1) }
    }

    /// A count of operations in one round.
    fn count(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(5) } else { full }
    }
}

#[derive(Subcommand, Clone)]
enum Benchmark {
    /// Remote 4 KiB read fault and write upgrade, for each fault backend.
    Fault(FaultOptions),
    /// First read of 256 MiB homed elsewhere.
    Scan,
    /// Bytes moved for each page touched at random.
    Random,
    /// Barrier of 2 and of 4 ranks.
    Barrier,
    /// Ranks beside daemons, as `pagemesh run` starts them, beside ranks alone.
    Default,
    /// Lock handed from one process to another, and taken again by the same.
    Lock,
    /// Messages between two endpoints: round trip and throughput, with and without loss.
    Net(NetOptions),
    /// Calls between two processes beside raw sockets (and tarpc and tonic: run bench/peers for these).
    Rpc,
    /// Matrix product on 2 processes beside 1, two threads, and Open MPI.
    Matmul,
    /// Programs over shared memory beside the same in C with Open MPI.
    Peers,
    /// CPU that four idle daemons use.
    Idle,
    /// A program with four times the memory that one node may hold.
    Memory,
    /// Everything above but `peers`, which needs Open MPI.
    All(FaultOptions),
}

#[derive(Args, Clone, Default)]
pub(crate) struct NetOptions {
    /// Longest datagrams to measure with, 65507 or 1472; both unless given.
    #[arg(long)]
    datagram: Vec<usize>,
}

#[derive(Args, Clone)]
pub(crate) struct FaultOptions {
    /// Fault backends to measure; all three unless given.
    #[arg(long, value_enum)]
    backend: Vec<Mechanism>,
    /// The home is a daemon instead of a rank.
    #[arg(long)]
    daemon: bool,
}

/// Runs the program that its command line describes; `facilities` take part in the comparison of calls.
pub fn main(facilities: &[&dyn Facility]) -> ExitCode {
    let cli = Cli::parse();
    let result = match (cli.role, cli.benchmark) {
        (Some(role), _) => role.run(facilities),
        (None, Some(benchmark)) => run(&benchmark, &cli.options, facilities),
        (None, None) => Err("name a benchmark; see --help".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(benchmark: &Benchmark, options: &Options, facilities: &[&dyn Facility]) -> Result<()> {
    machine::describe();
    let mut report = Report::new(options.json);
    match benchmark {
        Benchmark::Fault(faults) => fault::run(options, faults, &mut report),
        Benchmark::Scan => scan::run(options, &mut report),
        Benchmark::Random => scan::run_random(options, &mut report),
        Benchmark::Barrier => sync::run_barrier(options, &mut report),
        Benchmark::Default => default::run(options, &mut report),
        Benchmark::Lock => sync::run_lock(options, &mut report),
        Benchmark::Net(net) => net::run(options, net, &mut report),
        Benchmark::Rpc => rpc::run(options, facilities, &mut report),
        Benchmark::Matmul => matmul::run(options, &mut report),
        Benchmark::Peers => peers::run(options, &mut report),
        Benchmark::Idle => idle::run(options, &mut report),
        Benchmark::Memory => memory::run(options, &mut report),
        Benchmark::All(faults) => run_all(options, faults, facilities, &mut report),
    }
}

fn run_all(
    options: &Options,
    faults: &FaultOptions,
    facilities: &[&dyn Facility],
    report: &mut Report,
) -> Result<()> {
    fault::run(options, faults, report)?;
    scan::run(options, report)?;
    scan::run_random(options, report)?;
    sync::run_barrier(options, report)?;
    sync::run_lock(options, report)?;
    default::run(options, report)?;
    net::run(options, &NetOptions::default(), report)?;
    rpc::run(options, facilities, report)?;
    matmul::run(options, report)?;
    idle::run(options, report)?;
    memory::run(options, report)
}
