//! `scan` and `random`: the first read of 256 MiB homed elsewhere, in order and at random.
//!
//! `scan.warm`: the reader's memory exists; beside bulk UDP with datagrams as long as those that came.
//! `scan.fresh`: memory never touched; beside the bare fresh scan: the same trap, 15 pages a datagram,
//! one burst ahead, memory allocated burst by burst, copied, mapped as a range. `random.bytes`: what the
//! reader's socket moved for each page that was touched, in any order.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::child::{self, Child};
use crate::cluster::{Cluster, Plan};
use crate::floor::{self, ClientCommand, FaultSide, Mechanism, Pull, Puller, Wait};
use crate::rank::{Command, Traffic};
use crate::report::{Report, Series};
use crate::role::{Part, Role};
use crate::touch::{PAGE, Walk};
use crate::{Options, Result};

/// 256 MiB.
const PAGES: usize = 65_536;
/// Every cluster has one region.
const REGION: u32 = 0;
/// The longest datagram that holds whole pages.
const LONG: usize = 15 * PAGE;

/// The sum of the words of pages that hold their stamps; in order, every word.
pub(crate) fn sum(base: *mut u8, pages: usize) -> u64 {
    let mut sum = 0u64;
    for word in 0..pages * PAGE / 8 {
        let word = base.cast::<u64>().wrapping_add(word);
        // SAFETY: callers pass a mapping of so many pages, which become readable by faults.
        let word = unsafe { AtomicU64::from_ptr(word) };
        sum = sum.wrapping_add(word.load(Ordering::Relaxed));
    }
    sum
}

/// `scan`.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    report.title("scan: first read of 256 MiB homed elsewhere");
    let pages = options.count(PAGES);
    let mut puller = Puller::start()?;
    let mut warm = Series::new("scan.warm", "GB/s");
    let mut long = Series::new("scan.warm.vs_60K_datagrams", "GB/s");
    let mut bare = Series::new("scan.warm.vs_bare_scan", "GB/s");
    let mut fresh = Series::new("scan.fresh", "GB/s");
    let mut datagram = 0;
    for _ in 0..options.rounds().min(5) {
        let mut floor = BareScan::start(pages)?;
        let fresh_floor = floor.scan(false)?;
        let mut cluster = start(pages, 1)?;
        fresh.push(scan(&mut cluster, pages, 1)?, fresh_floor);
        let warm_floor = floor.scan(true)?;
        drop(floor);
        write(&mut cluster, pages, 2)?;
        let before = cluster.ask(1, &Command::Traffic)?.traffic()?;
        let figure = scan(&mut cluster, pages, 2)?;
        let after = cluster.ask(1, &Command::Traffic)?.traffic()?;
        datagram = datagram_of(&before, &after, pages);
        let bytes = pages * PAGE;
        warm.push(figure, puller.pull(Pull { bytes, datagram })?);
        long.push(figure, puller.pull(Pull { bytes, datagram: LONG })?);
        bare.push(figure, warm_floor);
    }
    for series in [&warm, &long, &bare, &fresh] {
        report.add(series);
    }
    report.note(&format!("datagrams of {datagram} B came, and the floor of scan.warm has the same"));
    Ok(())
}

/// `random`.
pub(crate) fn run_random(options: &Options, report: &mut Report) -> Result<()> {
    report.title("random: bytes on the reader's socket, both ways, for each page touched; floor: the page");
    let pages = options.count(PAGES);
    let mut series = Series::new("random.bytes", "B/page");
    let mut cluster = start(pages, 1)?;
    for round in 0..options.rounds().min(3) as u64 {
        if round > 0 {
            write(&mut cluster, pages, 1 + round)?;
        }
        // Every fourth page or so, in no order.
        let touched = pages / 4;
        let first = (pages - touched) / 2;
        let walk = Walk { first, pages: touched, touched, seed: round + 7, stamp: 1 + round, pace_ns: 0 };
        let before = cluster.ask(1, &Command::Traffic)?.traffic()?;
        cluster.ask(1, &Command::Load { region: REGION, walk })?;
        let after = cluster.ask(1, &Command::Traffic)?.traffic()?;
        let moved = after.bytes_in + after.bytes_out - before.bytes_in - before.bytes_out;
        series.push(moved as f64 / touched as f64, PAGE as f64);
    }
    report.add(&series);
    Ok(())
}

/// Two ranks; rank 0 is the home and has written all.
fn start(pages: usize, stamp: u64) -> Result<Cluster> {
    let mut cluster = Plan::ranks(2).set("fault", "signal").start()?;
    cluster.all(0..2, &Command::Alloc { region: REGION, pages, home: Some(0) })?;
    write(&mut cluster, pages, stamp)?;
    Ok(cluster)
}

fn write(cluster: &mut Cluster, pages: usize, stamp: u64) -> Result<()> {
    let walk = Walk { first: 0, pages, touched: pages, seed: stamp, stamp, pace_ns: 0 };
    cluster.ask(0, &Command::Write { region: REGION, walk }).map(drop)
}

fn scan(cluster: &mut Cluster, pages: usize, stamp: u64) -> Result<f64> {
    let time_us = cluster.times(1, &Command::Scan { region: REGION, pages, stamp })?[0];
    Ok((pages * PAGE) as f64 / 1e3 / time_us)
}

/// Bytes of the datagrams that brought pages; the short ones between them count for nothing.
fn datagram_of(before: &Traffic, after: &Traffic, pages: usize) -> usize {
    let count = (after.datagrams_in - before.datagrams_in).max(1) as usize;
    let each = pages.div_ceil(count).clamp(1, LONG / PAGE);
    each * PAGE
}

/// The bare scan.
struct BareScan {
    client: Child<ClientCommand, Vec<f64>>,
    _server: Child<(), ()>,
    pages: usize,
    next_stamp: u64,
}

impl BareScan {
    fn start(pages: usize) -> Result<BareScan> {
        let (a, b) = floor::connected_pair()?;
        let server = Role::new(Part::PullServer { socket: child::number(&a) });
        let (mechanism, wait) = (Mechanism::Signal, Wait::Spin);
        let side = FaultSide { mechanism, socket: child::number(&b), wait, pages };
        let client = Role::new(Part::FaultClient(side));
        let (server, client) = (Child::start(&server, &[&a])?, Child::start(&client, &[&b])?);
        Ok(BareScan { client, _server: server, pages, next_stamp: 1 })
    }

    fn scan(&mut self, warm: bool) -> Result<f64> {
        self.next_stamp += 1;
        let time_us = self.client.ask(&ClientCommand::Scan { stamp: self.next_stamp, warm })?[0];
        Ok((self.pages * PAGE) as f64 / 1e3 / time_us)
    }
}
