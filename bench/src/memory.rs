//! `memory`: a rank writes and reads four times the memory that it may hold; the home is a daemon.
//! The figure is the most pages that it held, beside its limit.

use crate::cluster::Plan;
use crate::rank::Command;
use crate::report::{Report, Series};
use crate::touch::{PAGE, Walk};
use crate::{Options, Result};

/// What the rank may hold.
const LIMIT_PAGES: usize = 4096;
/// Pages walked between two looks at what it holds.
const STEP: usize = 512;

/// Runs the benchmark.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    report.title("memory: most memory held by a rank that walks over four times its limit; floor: the limit");
    let mut series = Series::new("memory.limit", "pages");
    let pages = 4 * LIMIT_PAGES;
    for _ in 0..options.rounds().min(2) {
        let mut plan = Plan::ranks(1).set("memory_max", format!("{}", LIMIT_PAGES * PAGE));
        plan.daemons = 1;
        let mut cluster = plan.start()?;
        cluster.all(0..1, &Command::Alloc { region: 0, pages, home: Some(0) })?;
        let mut most = 0;
        // Written once, read twice: what was given up comes back, and is right.
        for pass in 0..3 {
            for first in (0..pages).step_by(STEP) {
                let walk = Walk { first, pages: STEP, touched: STEP, seed: pass, stamp: 5, pace_ns: 0 };
                let command = if pass == 0 {
                    Command::Write { region: 0, walk }
                } else {
                    Command::Load { region: 0, walk }
                };
                cluster.ask(0, &command)?;
                most = most.max(cluster.ask(0, &Command::Resident)?.resident()?);
            }
        }
        series.push(most as f64, LIMIT_PAGES as f64);
    }
    report.add(&series);
    Ok(())
}
