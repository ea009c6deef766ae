//! `fault`: a load or a store to a page whose home is another process, until the instruction has run.
//!
//! Two ranks without daemons, the home at the serving rank (with `--daemon`: the home is a daemon, and
//! a third rank reads first, so that the daemon has the bytes; an upgrade has two remote sharers then,
//! which its floor has not). The floor is `floor/client.rs` beside
//! `floor/server.rs`: the same trap, 64 B and 4,096 B over connected sockets with ordinary buffers, the
//! copy, the write-protected map; for the upgrade 64 B and 64 B and the page taken out of the server's
//! view. It runs in all four variants, each side spinning or blocking; the floor of a round is the one
//! with the least median.
//!
//! States: `idle`: back to back, memory warm (frames exist at the reader: read once, then written by the
//! home). `fresh`: pages never touched here. `busy`: as idle with a computing thread on every core.
//! `sparse`: one fault a millisecond; the reader's core spins meanwhile (it computes), the server rests.

use crate::child::Child;
use crate::cluster::{Cluster, Plan};
use crate::floor::{self, ClientCommand, FaultSide, Mechanism, ServerCommand, Wait};
use crate::load::{Load, Work};
use crate::rank::Command;
use crate::report::{Report, Series, quantile};
use crate::role::{Part, Role};
use crate::touch::Walk;
use crate::{FaultOptions, Options, Result, child};

/// The state of cores and memory, and what is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Case {
    ReadIdle,
    ReadFresh,
    ReadBusy,
    ReadSparse,
    UpgradeIdle,
    UpgradeBusy,
    UpgradeSparse,
}

const CASES: [Case; 7] = [
    Case::ReadIdle,
    Case::ReadFresh,
    Case::ReadBusy,
    Case::ReadSparse,
    Case::UpgradeIdle,
    Case::UpgradeBusy,
    Case::UpgradeSparse,
];

/// Pages of a round. Of fewer, so many are neighbours of others in any order that they look like streams.
const PAGES: usize = 1000;

/// Percentiles that are reported.
const SHARES: [(&str, f64); 3] = [("p10", 0.1), ("p50", 0.5), ("p99", 0.99)];

impl Case {
    fn name(self) -> &'static str {
        match self {
            Case::ReadIdle => "read.{}.idle",
            Case::ReadFresh => "read.{}.fresh",
            Case::ReadBusy => "read.{}.busy",
            Case::ReadSparse => "read.{}.sparse",
            Case::UpgradeIdle => "upgrade.{}.idle",
            Case::UpgradeBusy => "upgrade.{}.busy",
            Case::UpgradeSparse => "upgrade.{}.sparse",
        }
    }

    fn is_busy(self) -> bool {
        matches!(self, Case::ReadBusy | Case::UpgradeBusy)
    }

    fn is_sparse(self) -> bool {
        matches!(self, Case::ReadSparse | Case::UpgradeSparse)
    }

    fn is_upgrade(self) -> bool {
        matches!(self, Case::UpgradeIdle | Case::UpgradeBusy | Case::UpgradeSparse)
    }

    /// How many of the [`PAGES`] are touched.
    fn touched(self, options: &Options) -> usize {
        if self.is_sparse() { options.count(300) } else { PAGES }
    }

    fn pace_ns(self) -> u64 {
        if self.is_sparse() { 1_000_000 } else { 0 }
    }
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options, faults: &FaultOptions, report: &mut Report) -> Result<()> {
    let chosen = if faults.backend.is_empty() { &Mechanism::ALL[..] } else { &faults.backend };
    let mut load = Load::start()?;
    let mut result = Ok(());
    for mechanism in chosen {
        report.title(&format!(
            "fault, {} backend: microseconds until the instruction has run; floor: the same without protocol",
            mechanism.name()
        ));
        // One backend that fails does not hide the figures of the others.
        if let Err(error) = run_backend(*mechanism, options, faults, &mut load, report) {
            report.note(&format!("*** the {} backend FAILED: {error} ***", mechanism.name()));
            load.set(Work::Rest)?;
            result = Err(error);
        }
    }
    result
}

fn run_backend(
    mechanism: Mechanism,
    options: &Options,
    faults: &FaultOptions,
    load: &mut Load,
    report: &mut Report,
) -> Result<()> {
    let mut floors = Floors::start(mechanism, options)?;
    let mut ours = Ours::start(mechanism, faults.daemon)?;
    CASES.iter().try_for_each(|case| run_case(*case, options, load, &mut floors, &mut ours, report))
}

fn run_case(
    case: Case,
    options: &Options,
    load: &mut Load,
    floors: &mut Floors,
    ours: &mut Ours,
    report: &mut Report,
) -> Result<()> {
    let with = if ours.with_daemon { "fault.daemon." } else { "fault." };
    let name = format!("{with}{}", case.name().replace("{}", floors.mechanism.name()));
    let mut series = SHARES.map(|(percentile, _)| Series::new(format!("{name}.{percentile}"), "us"));
    let mut medians = vec![Vec::new(); VARIANTS.len()];
    for _ in 0..options.rounds() {
        let touched = case.touched(options);
        if case.is_busy() {
            load.set(Work::Compute)?;
        }
        let (floor, all) = floors.round(case, touched)?;
        let figure = ours.round(case, touched)?;
        load.set(Work::Rest)?;
        for (series, (_, share)) in series.iter_mut().zip(SHARES) {
            series.push(quantile(&figure, share), quantile(&floor, share));
        }
        for (medians, one) in medians.iter_mut().zip(all) {
            medians.push(one);
        }
    }
    for series in &series {
        report.add(series);
    }
    let medians: Vec<String> = VARIANTS
        .iter()
        .zip(&medians)
        .map(|((client, server), all)| {
            format!("{client:?}/{server:?} {:.1}", quantile(all, 0.5)).to_lowercase()
        })
        .collect();
    report.note(&format!("floor's medians, client/server: {}", medians.join(", ")));
    Ok(())
}

/// How client and server of the floor wait.
const VARIANTS: [(Wait, Wait); 4] = [
    (Wait::Spin, Wait::Spin),
    (Wait::Spin, Wait::Block),
    (Wait::Block, Wait::Spin),
    (Wait::Block, Wait::Block),
];

/// The floor, in all its variants.
struct Floors {
    mechanism: Mechanism,
    variants: Vec<Floor>,
    next_seed: u64,
    /// First page that no walk has touched.
    fresh: usize,
}

struct Floor {
    client: Child<ClientCommand, Vec<f64>>,
    server: Child<ServerCommand, ()>,
}

impl Floors {
    fn start(mechanism: Mechanism, options: &Options) -> Result<Floors> {
        // One walk's pages for the warm rounds, and as many again for each fresh one.
        let pages = PAGES * (options.rounds() + 1);
        let variants = VARIANTS.map(|(client, server)| Floor::start(mechanism, client, server, pages));
        let variants = variants.into_iter().collect::<Result<_>>()?;
        Ok(Floors { mechanism, variants, next_seed: 1, fresh: PAGES })
    }

    /// One round of every variant: the best one's samples, and the medians of all.
    fn round(&mut self, case: Case, touched: usize) -> Result<(Vec<f64>, Vec<f64>)> {
        self.next_seed += 1;
        let first = if case == Case::ReadFresh { self.fresh } else { 0 };
        let (seed, pace_ns) = (self.next_seed, case.pace_ns());
        let walk = Walk { first, pages: PAGES, touched, seed, stamp: seed, pace_ns };
        let mut samples = Vec::new();
        for variant in &mut self.variants {
            samples.push(variant.round(case, walk)?);
        }
        if case == Case::ReadFresh {
            self.fresh += PAGES;
        }
        let medians: Vec<f64> = samples.iter().map(|one| quantile(one, 0.5)).collect();
        let best = samples.into_iter().min_by(|a, b| quantile(a, 0.5).total_cmp(&quantile(b, 0.5)));
        Ok((best.ok_or("no variant")?, medians))
    }
}

impl Floor {
    fn start(mechanism: Mechanism, client: Wait, server: Wait, pages: usize) -> Result<Floor> {
        let (a, b) = floor::connected_pair()?;
        let side = |socket, wait| FaultSide { mechanism, socket: child::number(socket), wait, pages };
        let server = Role::new(Part::FaultServer(side(&a, server)));
        let client = Role::new(Part::FaultClient(side(&b, client)));
        Ok(Floor { server: Child::start(&server, &[&a])?, client: Child::start(&client, &[&b])? })
    }

    fn round(&mut self, case: Case, walk: Walk) -> Result<Vec<f64>> {
        self.server.ask(&ServerCommand::Serve)?;
        let samples = self.client.ask(&match case {
            Case::ReadFresh => ClientCommand::FreshLoads(walk),
            Case::ReadIdle | Case::ReadBusy | Case::ReadSparse => ClientCommand::WarmLoads(walk),
            Case::UpgradeIdle | Case::UpgradeBusy | Case::UpgradeSparse => ClientCommand::Upgrades(walk),
        })?;
        self.server.ask(&ServerCommand::Rest)?;
        Ok(samples)
    }
}

/// The ranks: 0 writes, 1 faults, and 2 (only beside a daemon) reads between the two.
struct Ours {
    cluster: Cluster,
    with_daemon: bool,
    next_region: u32,
    next_stamp: u64,
}

/// The region of all rounds that need no fresh memory.
const WARM: u32 = 0;

impl Ours {
    fn start(mechanism: Mechanism, with_daemon: bool) -> Result<Ours> {
        let mut plan = Plan::ranks(if with_daemon { 3 } else { 2 }).set("fault", mechanism.name());
        plan.daemons = u16::from(with_daemon);
        let mut ours = Ours { cluster: plan.start()?, with_daemon, next_region: WARM + 1, next_stamp: 0 };
        ours.alloc(WARM)?;
        Ok(ours)
    }

    fn alloc(&mut self, region: u32) -> Result<()> {
        let ranks = 0..self.cluster.ranks.len();
        self.cluster.all(ranks, &Command::Alloc { region, pages: PAGES, home: Some(0) }).map(drop)
    }

    fn round(&mut self, case: Case, touched: usize) -> Result<Vec<f64>> {
        let region = if case == Case::ReadFresh {
            self.next_region += 1;
            self.alloc(self.next_region)?;
            self.next_region
        } else {
            // Frames exist at the reader, who gives them up again when the home writes.
            self.write(WARM)?;
            self.read(1, WARM)?;
            WARM
        };
        self.write(region)?;
        let walk = Walk { touched, pace_ns: case.pace_ns(), ..self.whole_walk() };
        if case.is_upgrade() {
            self.read(1, region)?;
            return self.cluster.times(1, &Command::Store { region, walk });
        }
        self.cluster.times(1, &Command::Load { region, walk })
    }

    /// The home's pages are new, and it has the bytes of all.
    fn write(&mut self, region: u32) -> Result<()> {
        self.next_stamp += 1;
        let walk = self.whole_walk();
        self.cluster.ask(0, &Command::Write { region, walk })?;
        if self.with_daemon { self.read(2, region) } else { Ok(()) }
    }

    fn read(&mut self, rank: usize, region: u32) -> Result<()> {
        let walk = self.whole_walk();
        self.cluster.ask(rank, &Command::Load { region, walk }).map(drop)
    }

    fn whole_walk(&self) -> Walk {
        let stamp = self.next_stamp;
        Walk { first: 0, pages: PAGES, touched: PAGES, seed: stamp * 31, stamp, pace_ns: 0 }
    }
}
