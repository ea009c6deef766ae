//! Runs seeds and reports the first that breaks a rule.

use std::fmt::{Debug, Display};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use pagemesh::coherence::Plant;
use pagemesh::{machine, membership};
use sim::{
    Bounds, ClusterWork, Keep, MachinesWork, Options, Report, Violation, explore, run_cluster, run_machines,
    run_seed,
};

/// Deterministic simulator of the coherence protocol: every seed is one schedule, checked event by event.
#[derive(Parser)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// What is simulated.
    #[arg(long, value_enum, default_value_t = RigArg::Bare)]
    rig: RigArg,
    /// Run this seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Print every event of the seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Plant a fault in every node (needs the feature `planted`); a name that none has lists those of the rig.
    #[arg(long, conflicts_with = "explore")]
    plant: Option<String>,
    /// Instead of seeds, search every order of delivery, within larger bounds than the tests do.
    #[arg(long)]
    explore: bool,
    /// Go on after a seed that breaks a rule, with one line for each.
    #[arg(long)]
    keep_going: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum RigArg {
    /// Coherence alone on a network without order.
    Bare,
    /// Membership: processes that join, leave, crash, starve and are cut off.
    Members,
    /// Whole nodes: memory, membership, calls and transport of processes that join, leave, crash and starve.
    Machines,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.explore {
        return search();
    }
    let plant = args.plant.as_deref();
    let outcome = match args.rig {
        RigArg::Bare => named(&Plant::ALL, plant).map(|plant| run_bare(&args, plant)),
        RigArg::Members => {
            named(&membership::Mutation::ALL, plant).map(|mutation| run_members(&args, mutation))
        }
        RigArg::Machines => named(&machine::Mutation::ALL, plant).map(|mutation| run_whole(&args, mutation)),
    };
    outcome.unwrap_or_else(|why| {
        eprintln!("{why}");
        ExitCode::from(2)
    })
}

/// A panic of a core is reported with its seed.
fn silence_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// Seeds of the membership protocol.
fn run_members(args: &Args, mutation: Option<membership::Mutation>) -> ExitCode {
    silence_panics();
    let seeds = args.range();
    let (started, mut work, mut broken) = (Instant::now(), ClusterWork::default(), 0);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        match run_cluster(seed, args.trace, mutation) {
            Ok(report) => {
                report.lines.iter().for_each(|line| println!("{line}"));
                work.add(&report.work);
            }
            Err(violation) => {
                broken += 1;
                if !args.keep_going {
                    violation.lines.iter().for_each(|line| println!("{line}"));
                }
                println!("seed {seed} (Members): {}", violation.what);
                if !args.keep_going {
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    conclude(count, started, &work, broken)
}

/// Seeds of whole nodes.
fn run_whole(args: &Args, mutation: Option<machine::Mutation>) -> ExitCode {
    let keep = if args.trace { Keep::All } else { Keep::Tail };
    silence_panics();
    let seeds = args.range();
    let (started, mut work, mut broken) = (Instant::now(), MachinesWork::default(), 0);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let lines = match run_machines(seed, keep, mutation) {
            Ok((done, lines)) => {
                work.add(&done);
                lines
            }
            Err((what, lines)) => {
                broken += 1;
                println!("seed {seed} (Machines): {what}");
                lines
            }
        };
        if args.trace {
            lines.iter().for_each(|line| println!("{line}"));
        }
        if broken > 0 && !args.keep_going {
            return ExitCode::FAILURE;
        }
    }
    conclude(count, started, &work, broken)
}

/// The last line of a run of so many seeds.
fn conclude(count: u64, started: Instant, work: &impl Display, broken: u64) -> ExitCode {
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{count} seeds in {seconds:.1} s ({:.0} seeds/s): {work}; {broken} seeds broke a rule",
        count as f64 / seconds
    );
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The fault of that name, if one is named; why there is none.
fn named<T: Copy + Debug>(all: &[T], name: Option<&str>) -> Result<Option<T>, String> {
    let Some(name) = name else { return Ok(None) };
    let names: Vec<String> = all.iter().map(|known| format!("{known:?}")).collect();
    let Some(at) = names.iter().position(|known| known == name) else {
        return Err(format!("--plant {name}: this rig has no such fault; it has {}", names.join(", ")));
    };
    if !cfg!(feature = "planted") {
        return Err(format!("--plant {name}: this build has no faults; build it with --features planted"));
    }
    Ok(Some(all[at]))
}

impl Args {
    /// The seeds to run.
    fn range(&self) -> std::ops::Range<u64> {
        match self.seed {
            Some(seed) => seed..seed + 1,
            None => self.from..self.from + self.seeds,
        }
    }
}

/// Minutes of search: what the tests leave out.
fn search() -> ExitCode {
    let base = Bounds {
        clients: 2,
        operations: 3,
        home_operations: 0,
        evictions: 1,
        duplicates: 0,
        leave: false,
        early_timers: 0,
    };
    let list = [
        Bounds { evictions: 2, ..base },
        Bounds { operations: 2, home_operations: 2, ..base },
        Bounds { leave: true, ..base },
        Bounds { duplicates: 1, ..base },
        Bounds { operations: 1, duplicates: 2, ..base },
        Bounds { clients: 3, operations: 1, evictions: 1, duplicates: 1, ..base },
    ];
    for bounds in list {
        let started = Instant::now();
        match explore(bounds) {
            Ok(seen) => println!("{bounds:?}: {seen:?}, {:.0} s", started.elapsed().as_secs_f64()),
            Err(trace) => {
                println!("{bounds:?}: {trace}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    events: u64,
    instructions: u64,
    messages: u64,
    broken: u64,
}

/// Seeds of the coherence protocol.
fn run_bare(args: &Args, plant: Option<Plant>) -> ExitCode {
    let options = Options { keep: if args.trace { Keep::All } else { Keep::Tail }, plant };
    let seeds = args.range();
    silence_panics();
    let (started, mut told) = (Instant::now(), Instant::now());
    let (end, mut totals) = (seeds.end, Totals::default());
    for seed in seeds {
        let outcome = run_seed(seed, options).and_then(|report| {
            // Every hundredth seed runs twice: the same seed must give the same run.
            let again = if seed % 100 == 0 { run_seed(seed, options)? } else { report.clone() };
            if again.trace_hash == report.trace_hash { Ok(report) } else { Err(differs(seed)) }
        });
        match outcome {
            Ok(report) => totals.add(&report),
            Err(violation) if args.keep_going => {
                totals.broken += 1;
                println!("seed {seed}: {}", violation.what);
            }
            Err(violation) => {
                tell(&violation);
                return ExitCode::FAILURE;
            }
        }
        if told.elapsed() > Duration::from_secs(2) && !args.json {
            told = Instant::now();
            eprintln!(
                "{seed} of {end}: {:.0} seeds/s",
                totals.seeds as f64 / started.elapsed().as_secs_f64()
            );
        }
    }
    totals.tell(started.elapsed(), args.json);
    if totals.broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn differs(seed: u64) -> Box<Violation> {
    let what = "a seed replays exactly: two traces differ".to_owned();
    Box::new(Violation { seed, what, lines: Vec::new() })
}

fn tell(violation: &Violation) {
    println!("seed {} (Bare): {}", violation.seed, violation.what);
    for line in &violation.lines {
        println!("{line}");
    }
    println!("seed {} (Bare): {}", violation.seed, violation.what);
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.events += report.trace_events;
        self.instructions += report.instructions;
        self.messages += report.messages;
        for line in &report.lines {
            println!("{line}");
        }
    }

    fn tell(&self, elapsed: Duration, json: bool) {
        let seconds = elapsed.as_secs_f64();
        let rate = self.seeds as f64 / seconds;
        let Totals { seeds, events, instructions, messages, broken } = self;
        if json {
            let summary = serde_json::json!({
                "seeds": seeds, "seconds": seconds, "seeds_per_second": rate,
                "events": events, "instructions": instructions, "messages": messages, "broken": broken,
            });
            println!("{summary}");
        } else {
            println!(
                "{seeds} seeds in {seconds:.1} s ({rate:.0} seeds/s): {events} events, \
                 {instructions} instructions, {messages} messages; {broken} seeds broke a rule"
            );
        }
    }
}
