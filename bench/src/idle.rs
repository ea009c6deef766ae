//! `idle`: what four daemons without work cost, in per cent of one core together. No floor: the bare
//! machine needs nothing.

use std::time::{Duration, Instant};

use pagemesh::{Node, NodeConfig};

use crate::cluster::{DaemonSettings, Plan};
use crate::rank::Traffic;
use crate::report::{Report, Series};
use crate::{Options, Result, child};

/// Runs the benchmark.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    report.title("idle: four daemons without work, all together");
    let mut plan = Plan::ranks(0);
    plan.daemons = 4;
    let cluster = plan.start()?;
    let mut series = Series::new("idle.cpu", "% core");
    let window = Duration::from_secs(if options.quick { 2 } else { 5 });
    for _ in 0..options.rounds().min(3) {
        let ids: Vec<u32> = cluster.daemons.iter().map(child::Child::id).collect();
        let (before, start) = (cpu_time(&ids)?, Instant::now());
        // A span of time is what is measured here; nothing is waited for.
        std::thread::sleep(window);
        let used = cpu_time(&ids)? - before;
        series.push_alone(100.0 * used / start.elapsed().as_secs_f64());
    }
    report.add(&series);
    Ok(())
}

/// Seconds on a core of all threads of these processes. By `schedstat`, whose unit is the nanosecond:
/// the ticks of `stat` are coarser than what is measured.
fn cpu_time(processes: &[u32]) -> Result<f64> {
    let mut total_ns = 0u64;
    for process in processes {
        for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
            let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
            let first = text.split_whitespace().next().ok_or("an empty schedstat")?;
            total_ns += first.parse::<u64>()?;
        }
    }
    Ok(total_ns as f64 / 1e9)
}

/// In a child: a daemon of the cluster. It says what has passed its socket, at first when it is a member.
pub(crate) fn serve(settings: DaemonSettings) -> Result<()> {
    let (index, settings) = settings.settings()?;
    let node = Node::start(NodeConfig::daemon(settings, index))?;
    child::answer(&Ok(Traffic::of(&node.status())))?;
    child::serve(|()| Ok(Traffic::of(&node.status())))
}
