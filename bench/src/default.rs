//! `default`: ranks beside as many daemons, which is how `pagemesh run --nodes N` starts a program, beside ranks
//! alone (`--no-daemons`). The floor of a figure is the same figure of the ranks alone in the same round.
//!
//! Regions and locks are those of a program that names no placement. `first`: each round has a new region, so
//! homes are found and memory is made; without it memory is there, and its pages are written anew before.
//! `datagrams`: sent by all processes of the cluster, daemons included, for each operation; `through daemons`:
//! sent to or by a daemon, as far as a daemon's own counts tell. Background messages (heartbeats) are in both.

use crate::cluster::{Cluster, Plan};
use crate::rank::{Answer, Command, Traffic};
use crate::report::{Report, Series, quantile};
use crate::sync::{self, HOLD};
use crate::touch::{PAGE, Walk};
use crate::{Options, Result};

/// 32 MiB: each round of `scan.first` takes as much anew.
const SCAN_PAGES: usize = 8192;
/// Pages that are touched in random order.
const FAULT_PAGES: usize = 1000;
const SCAN: u32 = 0;
const FAULTS: u32 = 1;
/// The first of the regions that one round has.
const FRESH: u32 = 100;

/// One way to start a program, and what the rounds need of it.
struct Way {
    cluster: Cluster,
    ranks: usize,
    stamp: u64,
    next_fresh: u32,
}

/// A figure, and what was sent for one operation.
#[derive(Clone, Copy)]
struct Figure {
    value: f64,
    datagrams: f64,
    of_daemons: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Case {
    ScanFirst,
    Scan,
    Read,
    Upgrade,
    Barrier,
    HandOver,
    Convoy,
}

impl Case {
    const ALL: [Case; 7] =
        [Case::ScanFirst, Case::Scan, Case::Read, Case::Upgrade, Case::Barrier, Case::HandOver, Case::Convoy];

    /// Those in which every rank takes part.
    const OF_ALL: [Case; 2] = [Case::Barrier, Case::Convoy];

    fn name(self) -> &'static str {
        match self {
            Case::ScanFirst => "scan.first",
            Case::Scan => "scan",
            Case::Read => "fault.read",
            Case::Upgrade => "fault.upgrade",
            Case::Barrier => "barrier",
            Case::HandOver => "lock.handoff",
            Case::Convoy => "convoy",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Case::ScanFirst | Case::Scan => "GB/s",
            Case::Read | Case::Upgrade | Case::Barrier | Case::HandOver | Case::Convoy => "us",
        }
    }
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    report.title("default: ranks beside as many daemons; floor: the same ranks without daemons");
    for (ranks, cases) in [(2, &Case::ALL[..]), (4, &Case::OF_ALL[..])] {
        let (mut with, mut without) = (Way::start(ranks, true)?, Way::start(ranks, false)?);
        for case in cases {
            let name = format!("default.{ranks}.{}", case.name());
            let mut figures = Series::new(name.clone(), case.unit());
            let mut datagrams = Series::new(format!("{name}.datagrams"), "each");
            let mut of_daemons = Series::new(format!("{name}.through_daemons"), "each");
            // One round that does not count: processes that rested, code and memory that nobody has touched.
            for round in 0..=options.rounds() {
                let (ours, floor) = (with.measure(*case, options)?, without.measure(*case, options)?);
                if round > 0 {
                    figures.push(ours.value, floor.value);
                    datagrams.push(ours.datagrams, floor.datagrams);
                    of_daemons.push_alone(ours.of_daemons);
                }
            }
            [&figures, &datagrams, &of_daemons].into_iter().for_each(|series| report.add(series));
        }
    }
    Ok(())
}

impl Way {
    fn start(ranks: usize, with_daemons: bool) -> Result<Way> {
        let mut plan = Plan::ranks(ranks as u32);
        plan.daemons = if with_daemons { ranks as u16 } else { 0 };
        let mut way = Way { cluster: plan.start()?, ranks, stamp: 0, next_fresh: FRESH };
        for (region, pages) in [(SCAN, SCAN_PAGES), (FAULTS, FAULT_PAGES)] {
            way.alloc(region, pages)?;
        }
        Ok(way)
    }

    fn alloc(&mut self, region: u32, pages: usize) -> Result<()> {
        self.cluster.all(0..self.ranks, &Command::Alloc { region, pages, home: None }).map(drop)
    }

    fn measure(&mut self, case: Case, options: &Options) -> Result<Figure> {
        match case {
            Case::ScanFirst => {
                self.next_fresh += 1;
                self.alloc(self.next_fresh, SCAN_PAGES)?;
                self.scan(self.next_fresh)
            }
            Case::Scan => self.scan(SCAN),
            Case::Read => {
                let walk = self.write(FAULTS, FAULT_PAGES)?;
                self.faults(&Command::Load { region: FAULTS, walk })
            }
            Case::Upgrade => {
                let walk = self.write(FAULTS, FAULT_PAGES)?;
                self.cluster.ask(1, &Command::Load { region: FAULTS, walk })?;
                self.faults(&Command::Store { region: FAULTS, walk })
            }
            Case::Barrier => {
                let count = options.count(2000);
                self.counted(count, |way| {
                    let answers = way.cluster.all(0..way.ranks, &Command::Barriers(count))?;
                    Ok(quantile(&answers.into_iter().nth(1).ok_or("no rank 1")?.times()?, 0.5))
                })
            }
            Case::HandOver => {
                let (count, hold_ns) = (options.count(2000), HOLD.as_nanos() as u64);
                self.counted(2 * count, |way| {
                    let command = Command::HandOver { lock: 0, home: None, count, hold_ns };
                    let answers = way.cluster.all(0..2, &command)?;
                    let tenures = answers.into_iter().map(Answer::tenures).collect::<Result<_>>()?;
                    Ok(sync::median_gap(tenures))
                })
            }
            Case::Convoy => {
                let count = options.count(50_000) / self.ranks;
                let each = count * self.ranks;
                self.counted(each, |way| {
                    let answers = way.cluster.all(0..way.ranks, &Command::Count { lock: 1, count })?;
                    Ok(answers.into_iter().next().ok_or("no rank 0")?.times()?[0] / each as f64)
                })
            }
        }
    }

    /// Rank 0 writes the pages anew; the walk of rank 1 that finds what was written.
    fn write(&mut self, region: u32, pages: usize) -> Result<Walk> {
        self.stamp += 1;
        let (stamp, seed) = (self.stamp, self.stamp * 31);
        let walk = Walk { first: 0, pages, touched: pages, seed, stamp, pace_ns: 0 };
        self.cluster.ask(0, &Command::Write { region, walk })?;
        Ok(walk)
    }

    fn scan(&mut self, region: u32) -> Result<Figure> {
        self.write(region, SCAN_PAGES)?;
        let stamp = self.stamp;
        self.counted(SCAN_PAGES, |way| {
            let command = Command::Scan { region, pages: SCAN_PAGES, stamp };
            let time_us = way.cluster.times(1, &command)?[0];
            Ok((SCAN_PAGES * PAGE) as f64 / 1e3 / time_us)
        })
    }

    fn faults(&mut self, command: &Command) -> Result<Figure> {
        self.counted(FAULT_PAGES, |way| Ok(quantile(&way.cluster.times(1, command)?, 0.5)))
    }

    /// Measures `operations` operations, and counts the datagrams that the cluster's processes sent meanwhile.
    fn counted(
        &mut self,
        operations: usize,
        measure: impl FnOnce(&mut Way) -> Result<f64>,
    ) -> Result<Figure> {
        let (ranks_before, daemons_before) = self.traffic()?;
        let value = measure(self)?;
        let (ranks, daemons) = self.traffic()?;
        let (operations, sent) = (operations as f64, |traffic: &[Traffic]| -> u64 {
            traffic.iter().map(|one| one.datagrams_out).sum()
        });
        let came = |traffic: &[Traffic]| -> u64 { traffic.iter().map(|one| one.datagrams_in).sum() };
        let by_ranks = sent(&ranks) - sent(&ranks_before);
        let by_daemons = sent(&daemons) - sent(&daemons_before);
        let to_daemons = came(&daemons) - came(&daemons_before);
        Ok(Figure {
            value,
            datagrams: (by_ranks + by_daemons) as f64 / operations,
            of_daemons: (by_daemons + to_daemons) as f64 / operations,
        })
    }

    fn traffic(&mut self) -> Result<(Vec<Traffic>, Vec<Traffic>)> {
        let ranks = self.cluster.all(0..self.ranks, &Command::Traffic)?;
        let ranks = ranks.into_iter().map(Answer::traffic).collect::<Result<_>>()?;
        let daemons = self.cluster.daemons.iter_mut().map(|daemon| daemon.ask(&()));
        Ok((ranks, daemons.collect::<Result<_>>()?))
    }
}
