//! `peers`: programs over shared memory, started with daemons as `pagemesh run` starts them and without
//! (`--no-daemons`), beside the same programs in C with Open MPI over TCP and over shared memory.
//!
//! In each round every way is started anew, runs once (`first`) and then some times more (`warm`, the median).
//! First runs are compared with first runs and warm ones with warm ones only. No time has the start of
//! processes in it, nor the making of the input. All must print the same result.
//!
//! The floor of a figure is the time of the MPI program in the same round; small is good. The last ratio of a
//! program is that of the two ways of starting it.

use crate::cluster::Plan;
use crate::mpi::{Program, Said, Transport};
use crate::programs::Kind;
use crate::rank::Command;
use crate::report::{Report, Series, quantile};
use crate::{Options, Result};

/// Runs after the first one, as in `mpi/common.h`.
const WARM_RUNS: usize = 3;

/// Seconds of the first run and of the middle one of the others.
#[derive(Clone, Copy, Debug)]
struct Times {
    first: f64,
    warm: f64,
}

/// The times, the result and the repeats of a program over shared memory that was started once.
struct Ours {
    times: Times,
    result: String,
    /// Pieces of messages that ranks and daemons sent again in a run: on loopback nothing is lost.
    sent_again: f64,
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let kinds = kinds(options);
    let programs = kinds.iter().map(|kind| Program::compile(kind.name()));
    let programs: Vec<Program> = programs.collect::<std::result::Result<_, _>>()?;
    for ranks in [2, 4] {
        report.title(&format!("peers, {ranks} ranks: milliseconds; floor: the program in C with MPI"));
        for (kind, program) in kinds.iter().zip(&programs) {
            compare(*kind, program, ranks, options, report)?;
        }
    }
    Ok(())
}

fn kinds(options: &Options) -> [Kind; 4] {
    if options.quick {
        let (jacobi, sort) = (Kind::Jacobi { n: 1024, steps: 50 }, Kind::Sort { keys: 1 << 20 });
        return [Kind::Matmul { n: 1024 }, jacobi, sort, Kind::Queue { tasks: 1000 }];
    }
    let (jacobi, sort) = (Kind::Jacobi { n: 2048, steps: 100 }, Kind::Sort { keys: 1 << 23 });
    [Kind::Matmul { n: 2048 }, jacobi, sort, Kind::Queue { tasks: 4000 }]
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Matmul { .. } => "matmul",
            Kind::Jacobi { .. } => "jacobi",
            Kind::Sort { .. } => "sort",
            Kind::Queue { .. } => "queue",
        }
    }

    /// The command line of the program in C.
    fn arguments(self) -> Vec<usize> {
        match self {
            Kind::Matmul { n } => vec![n],
            Kind::Jacobi { n, steps } => vec![n, steps],
            Kind::Sort { keys } => vec![keys],
            Kind::Queue { tasks } => vec![tasks],
        }
    }
}

fn compare(
    kind: Kind,
    program: &Program,
    ranks: usize,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    const WAYS: [(&str, bool); 2] = [("default", true), ("no_daemons", false)];
    const RUNS: [&str; 2] = ["first", "warm"];
    let name = format!("peers.{}.{ranks}", kind.name());
    let series = |text: String| RUNS.map(|run| Series::new(format!("{name}.{text}.{run}"), "ms"));
    let mut all: Vec<[Series; 2]> = Vec::new();
    for (way, _) in WAYS {
        all.extend(Transport::ALL.map(|transport| series(format!("{way}.vs_{}", transport.name()))));
    }
    let mut again = WAYS.map(|(way, _)| Series::new(format!("{name}.{way}.sent_again"), "a run"));
    let mut both = series("default.vs_no_daemons".to_owned());
    for _ in 0..options.rounds() {
        let mut results = Vec::new();
        let mut floors = Vec::new();
        for transport in Transport::ALL {
            let Said { first, warm, result } = program.run(ranks, transport, &kind.arguments())?;
            floors.push(Times { first, warm: quantile(&warm, 0.5) });
            results.push(result);
        }
        let mut ours = Vec::new();
        for ((_, with_daemons), again) in WAYS.into_iter().zip(&mut again) {
            let one = run_ours(kind, ranks, with_daemons)?;
            ours.push(one.times);
            results.push(one.result);
            again.push_alone(one.sent_again);
        }
        if results.iter().any(|result| *result != results[0]) {
            return Err(format!("{name}: the results differ: {results:?}").into());
        }
        let pairs = ours.iter().flat_map(|figure| floors.iter().map(move |floor| (figure, floor)));
        for (series, (figure, floor)) in all.iter_mut().zip(pairs) {
            push(series, figure, floor);
        }
        push(&mut both, &ours[0], &ours[1]);
    }
    all.iter().flatten().chain(&both).chain(&again).for_each(|series| report.add(series));
    Ok(())
}

fn push(series: &mut [Series; 2], figure: &Times, floor: &Times) {
    let [first, warm] = series;
    first.push(figure.first * 1e3, floor.first * 1e3);
    warm.push(figure.warm * 1e3, floor.warm * 1e3);
}

/// Starts a cluster and runs the program in it.
fn run_ours(kind: Kind, ranks: usize, with_daemons: bool) -> Result<Ours> {
    let mut plan = Plan::ranks(ranks as u32);
    plan.daemons = if with_daemons { ranks as u16 } else { 0 };
    let mut cluster = plan.start()?;
    let mut run = || {
        let answers = cluster.all(0..ranks, &Command::Run(kind))?;
        answers.into_iter().next().ok_or("no rank 0")?.run()
    };
    let first = run()?;
    let warm = (0..WARM_RUNS).map(|_| Ok(run()?.seconds)).collect::<Result<Vec<f64>>>()?;
    let mut sent_again = 0;
    for answer in cluster.all(0..ranks, &Command::Traffic)? {
        sent_again += answer.traffic()?.sent_again;
    }
    for daemon in &mut cluster.daemons {
        sent_again += daemon.ask(&())?.sent_again;
    }
    let times = Times { first: first.seconds, warm: quantile(&warm, 0.5) };
    Ok(Ours { times, result: first.result, sent_again: sent_again as f64 / (1 + WARM_RUNS) as f64 })
}
