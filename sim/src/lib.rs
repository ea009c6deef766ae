//! Deterministic simulation of the cores that ship: thousands of schedules a second, each a function
//! of its seed alone. Three rigs: coherence alone (`world`), membership alone (`cluster`), whole nodes (`machines`).
//! Memory, application threads, network and time are made up. After every event the run is compared
//! with an oracle that knows nothing of the protocol. (The way of testing is FoundationDB's; Zhou et
//! al., SIGMOD 2021.)

mod bare;
mod cluster;
mod explore;
mod heirs;
mod lies;
mod local;
mod machines;
mod members;
mod oracle;
mod plan;
mod program;
mod quiet;
mod slab;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use fastrand::Rng;
use pagemesh::coherence::Plant;
use pagemesh::page::Time;

pub use cluster::ClusterWork;
pub use explore::{Bounds, Explored, explore};
pub use machines::MachinesWork;
use plan::Plan;
pub use trace::Keep;
use world::World;

/// How a seed is run. By default without a planted fault, keeping the end of the trace.
#[derive(Clone, Copy, Default, Debug)]
pub struct Options {
    /// How much of the trace is kept.
    pub keep: Keep,
    /// A fault planted in every node; only with the feature `planted`.
    pub plant: Option<Plant>,
}

/// What a run without a broken rule did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Events in the trace.
    pub trace_events: u64,
    /// Hash of the trace: equal if and only if two runs were the same.
    pub trace_hash: u64,
    /// Instructions that application threads ran.
    pub instructions: u64,
    /// Messages that nodes sent.
    pub messages: u64,
    /// Simulated time at the end.
    pub simulated: Time,
    /// The whole trace, if it was to be kept.
    pub lines: Vec<String>,
}

/// A rule that a seed broke.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The seed; alone it replays the run.
    pub seed: u64,
    /// The rule, and who broke it.
    pub what: String,
    /// The end of the trace, or all of it.
    pub lines: Vec<String>,
}

/// What the nodes of a livelock test fight over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prize {
    /// A counter in one page.
    Word,
    /// Eight bytes of which four lie in one page and four in the next, in another extent.
    Straddle,
}

/// Runs one seed.
pub fn run_seed(seed: u64, options: Options) -> Result<Report, Box<Violation>> {
    assert_planted(options.plant.is_some());
    guarded(seed, || {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::draw(&mut rng);
        World::new(plan, rng, options).with_liar().run()
    })
}

/// What a seed of the membership protocol did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterReport {
    /// How much.
    pub work: ClusterWork,
    /// The trace, if it was to be kept.
    pub lines: Vec<String>,
}

/// A rule that a seed of the membership protocol broke.
#[derive(Clone, Debug)]
pub struct ClusterViolation {
    /// The rule, and who broke it.
    pub what: String,
    /// The trace, if it was to be kept.
    pub lines: Vec<String>,
}

/// Runs one seed of the membership protocol: a cluster's processes, whole but for their memory. A mutation needs
/// the feature `planted`.
pub fn run_cluster(
    seed: u64,
    trace: bool,
    mutation: Option<pagemesh::membership::Mutation>,
) -> Result<ClusterReport, ClusterViolation> {
    assert_planted(mutation.is_some());
    let run = || {
        let mut rng = Rng::with_seed(seed);
        let plan = cluster::Plan::draw(&mut rng);
        let cluster = cluster::Cluster::new(plan, rng, trace);
        #[cfg(feature = "planted")]
        let cluster = cluster.with_mutation(mutation);
        cluster.run()
    };
    caught(run).unwrap_or_else(|what| Err(ClusterViolation { what, lines: Vec::new() }))
}

/// Runs one seed of whole nodes; returns what it did and its trace, or the rule that it broke and the trace. A
/// mutation needs the feature `planted`.
pub fn run_machines(
    seed: u64,
    keep: Keep,
    mutation: Option<pagemesh::machine::Mutation>,
) -> Result<(MachinesWork, Vec<String>), (String, Vec<String>)> {
    assert_planted(mutation.is_some());
    let run = || {
        let mut rng = Rng::with_seed(seed);
        let plan = machines::Plan::draw(&mut rng);
        #[cfg(feature = "planted")]
        let plan = plan.with_mutation(mutation);
        machines::Machines::new(plan, rng, keep).run()
    };
    caught(run).unwrap_or_else(|what| Err((what, Vec::new())))
}

/// Runs a fight: one thread on each of `nodes` nodes adds `times` times to the same place. Threads wake
/// up as slowly as an idle core does, and the network is quicker than that.
pub fn run_contention(
    seed: u64,
    options: Options,
    nodes: u16,
    prize: Prize,
    times: u32,
) -> Result<Report, Box<Violation>> {
    guarded(seed, || {
        let edge = pagemesh::page::EXTENT_PAGES - 1;
        let pages = vec![Plan::page(edge), Plan::page(edge + 1)];
        let plan = Plan::contended(nodes, pages);
        let mut world = World::new(plan, Rng::with_seed(seed), options);
        world.contend(prize, times);
        world.run()
    })
}

/// Runs a crowd: on each of `nodes` nodes, with room for four pages of other homes, up to `threads_max`
/// threads copy `times` times from across one boundary to across another, which takes four pages at a time.
pub fn run_crowd(
    seed: u64,
    options: Options,
    nodes: u16,
    threads_max: u8,
    times: u32,
) -> Result<Report, Box<Violation>> {
    guarded(seed, || {
        let mut world = World::new(Plan::crowded(nodes, threads_max), Rng::with_seed(seed), options);
        world.crowd(times);
        world.run()
    })
}

/// Faults that the build does not have would be found by no seed.
fn assert_planted(is_wanted: bool) {
    assert!(cfg!(feature = "planted") || !is_wanted, "build with --features planted");
}

fn guarded(
    seed: u64,
    run: impl FnOnce() -> Result<Report, (String, Vec<String>)>,
) -> Result<Report, Box<Violation>> {
    let violation = |what, lines| Box::new(Violation { seed, what, lines });
    match caught(run) {
        Ok(Ok(report)) => Ok(report),
        Ok(Err((what, lines))) => Err(violation(what, lines)),
        Err(what) => Err(violation(what, Vec::new())),
    }
}

/// What a run returns. A core that panics breaks a rule of its own; the seed is reported like any other.
fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        format!("no assertion fails: {text}")
    })
}
