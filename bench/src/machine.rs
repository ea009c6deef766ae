//! What the figures were taken on, and whether that machine was quiet.

use std::time::Duration;

/// Load average above which a warning is printed.
const LOAD_QUIET_MAX: f64 = 0.3;
/// Share of all cores' time that others may use while nothing is measured.
const BUSY_QUIET_MAX: f64 = 0.03;

/// Says on standard error what machine this is, and warns loudly when it has other work.
pub(crate) fn describe() {
    let kernel = read("/proc/sys/kernel/osrelease");
    let model = field("/proc/cpuinfo", "model name");
    let load = read("/proc/loadavg");
    let autogroup = read("/proc/sys/kernel/sched_autogroup_enabled");
    let buffer = read("/proc/sys/net/core/rmem_default");
    let busy = busy_share();
    let cores = cores();
    eprintln!("{cores} cores ({}), Linux {}, loopback", model.trim(), kernel.trim());
    eprintln!(
        "load average {}; {:.0} % of the cores' time used by others just now; sched_autogroup {}; default socket buffer {} B",
        load.trim(),
        busy * 100.0,
        autogroup.trim(),
        buffer.trim()
    );
    let load1: f64 = load.split_whitespace().next().and_then(|one| one.parse().ok()).unwrap_or(0.0);
    if load1 > LOAD_QUIET_MAX || busy > BUSY_QUIET_MAX {
        eprintln!(
            "*** WARNING: this machine is NOT QUIET: take ratios with care and absolute times not at all. ***"
        );
    }
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// Share of all cores' time that was not idle during a short look.
fn busy_share() -> f64 {
    let before = cpu_ticks();
    // A look at a clock's worth of other people's work: there is no event to wait for.
    std::thread::sleep(Duration::from_millis(300));
    let after = cpu_ticks();
    let (all, idle) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    if all == 0 { 0.0 } else { 1.0 - idle as f64 / all as f64 }
}

/// All ticks since boot, and the idle ones.
fn cpu_ticks() -> (u64, u64) {
    let line = field("/proc/stat", "cpu ");
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let idle = ticks.iter().skip(3).take(2).sum();
    (ticks.iter().take(8).sum(), idle)
}

/// The rest of the first line that starts with `key`.
fn field(path: &str, key: &str) -> String {
    let text = read(path);
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.trim_start_matches([' ', '\t', ':']).to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
