//! `barrier` and `lock`.
//!
//! Barrier of n ranks, back to back, as rank 1 sees it: it waits for a whole round trip each time. The
//! floor is the bare barrier, 64 B each way; of two processes, a UDP round trip.
//!
//! Lock: ranks 1 and 2 alternate, the lock's home is rank 0. Each holds it for some time, long enough
//! for the other to have queued, and asks again at once. A hand-over lasts from the start of the unlock
//! to the return of the other's lock. The floor is one datagram of 64 B: the same in which each side
//! holds for as long between a receive and a send.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use pagemesh::{Dsm, DsmMutex, NodeId, Placement};
use serde::{Deserialize, Serialize};

use crate::cluster::Plan;
use crate::floor::{Meeting, Wait};
use crate::rank::{Answer, Command};
use crate::report::{Report, Series, quantile};
use crate::{Options, Result};

/// How long a lock is held: the other's request takes two messages to be queued behind the holder.
pub(crate) const HOLD: Duration = Duration::from_micros(30);

/// From a lock's return to the start of its unlock, in nanoseconds of the machine's clock.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Tenure {
    /// Grows from holder to holder.
    pub(crate) token: u64,
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

/// The clock that all processes of the machine share.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Computes for a while.
pub(crate) fn hold(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// `barrier`.
pub(crate) fn run_barrier(options: &Options, report: &mut Report) -> Result<()> {
    report.title(
        "barrier: microseconds; floor: the bare barrier (of 2: the UDP round trip), spinning (if each has a core) or blocking",
    );
    for ranks in [2, 4] {
        let mut cluster = Plan::ranks(ranks).start()?;
        let mut floors = floors(ranks as usize)?;
        let count = options.count(2000);
        let mut series = Series::new(format!("barrier.{ranks}"), "us");
        for _ in 0..options.rounds() {
            let floor = best(&mut floors, |floor| Ok(quantile(&floor.barriers(count)?, 0.5)))?;
            let answers = cluster.all(0..ranks as usize, &Command::Barriers(count))?;
            let times = answers.into_iter().nth(1).ok_or("no rank 1")?.times()?;
            series.push(quantile(&times, 0.5), floor);
        }
        report.add(&series);
    }
    Ok(())
}

/// `lock`.
pub(crate) fn run_lock(options: &Options, report: &mut Report) -> Result<()> {
    report.title("lock: floor of the hand-over: one datagram; of the re-take: std's Mutex");
    let mut cluster = Plan::ranks(3).start()?;
    let mut floors = floors(2)?;
    let (count, retakes) = (options.count(5000), options.count(100_000));
    let mut hand_over = Series::new("lock.handoff.2", "us");
    let mut retake = Series::new("lock.retake", "ns");
    for round in 0..options.rounds() as u32 {
        let floor = best(&mut floors, |floor| Ok(median_gap(floor.hand_over(count, HOLD)?)))?;
        let hold_ns = HOLD.as_nanos() as u64;
        let answers = cluster.all(1..3, &Command::HandOver { lock: 0, home: Some(0), count, hold_ns })?;
        let tenures = answers.into_iter().map(Answer::tenures).collect::<Result<_>>()?;
        hand_over.push(median_gap(tenures), floor);
        // Each rank has a lock of its own here: what another holds idle would have to be fetched.
        let times = cluster.times(1, &Command::Retake { lock: 1 + round, count: retakes })?;
        retake.push(times[0], bare_retake(retakes));
    }
    report.add(&hand_over);
    report.add(&retake);
    Ok(())
}

fn floors(count: usize) -> Result<Vec<Meeting>> {
    // Processes that spin without a core each meet once in a time slice.
    let spins = std::thread::available_parallelism().is_ok_and(|cores| count <= cores.get());
    let ways = [Wait::Spin, Wait::Block].into_iter().filter(|way| spins || *way == Wait::Block);
    ways.map(|wait| Meeting::start(count, wait)).collect()
}

fn best(floors: &mut [Meeting], mut measure: impl FnMut(&mut Meeting) -> Result<f64>) -> Result<f64> {
    floors.iter_mut().try_fold(f64::INFINITY, |best, floor| Ok(best.min(measure(floor)?)))
}

/// Median time from the end of a tenure to the beginning of the next one, where that is another's.
pub(crate) fn median_gap(tenures: Vec<Vec<Tenure>>) -> f64 {
    let mut all: Vec<(usize, Tenure)> = tenures
        .into_iter()
        .enumerate()
        .flat_map(|(who, own)| own.into_iter().map(move |one| (who, one)))
        .collect();
    all.sort_by_key(|(_, tenure)| tenure.token);
    let pairs = all.windows(2).filter(|pair| pair[0].0 != pair[1].0);
    let gaps: Vec<f64> =
        pairs.map(|pair| pair[1].1.began.saturating_sub(pair[0].1.ended) as f64 / 1e3).collect();
    quantile(&gaps, 0.5)
}

fn bare_retake(count: usize) -> f64 {
    let mutex = Mutex::new(0u64);
    let start = Instant::now();
    for _ in 0..count {
        drop(std::hint::black_box(&mutex).lock());
    }
    start.elapsed().as_nanos() as f64 / count as f64
}

/// In a rank: the lock of that number. Without a `home` it lies where that of a program lies which names none.
pub(crate) fn mutex(dsm: &Dsm, lock: u32, home: Option<u16>) -> Result<DsmMutex<u64>> {
    let name = format!("{lock}");
    Ok(match home {
        Some(home) => dsm.mutex_with(&name, Placement::OnNode(NodeId(home)))?,
        None => dsm.mutex(&name)?,
    })
}

/// In a rank: adds one so many times, as all others do. Microseconds, until all have finished.
pub(crate) fn count_together(dsm: &Dsm, lock: u32, count: usize) -> Result<f64> {
    let mutex = mutex(dsm, lock, None)?;
    let before = *mutex.lock()?;
    dsm.barrier()?;
    let start = Instant::now();
    for _ in 0..count {
        *mutex.lock()? += 1;
    }
    dsm.barrier()?;
    let time = start.elapsed().as_secs_f64() * 1e6;
    let (found, expected) = (*mutex.lock()?, before + (count * dsm.ranks() as usize) as u64);
    // The next count starts from one number for all.
    dsm.barrier()?;
    if found == expected { Ok(time) } else { Err(format!("the count is {found} and not {expected}").into()) }
}

/// In a rank: takes the lock so many times.
pub(crate) fn hand_over(mutex: &DsmMutex<u64>, count: usize, time: Duration) -> Result<Vec<Tenure>> {
    let mut tenures = Vec::with_capacity(count);
    for _ in 0..count {
        let guard = mutex.lock()?;
        let began = monotonic_ns();
        hold(time);
        let ended = monotonic_ns();
        let token = guard.token();
        drop(guard);
        tenures.push(Tenure { token, began, ended });
    }
    Ok(tenures)
}

/// In a rank: nanoseconds to take a lock that is here already and to give it back.
pub(crate) fn retake(dsm: &Dsm, lock: u32, count: usize) -> Result<f64> {
    let mutex = mutex(dsm, lock, Some(0))?;
    drop(mutex.lock()?);
    let start = Instant::now();
    for _ in 0..count {
        drop(mutex.lock()?);
    }
    Ok(start.elapsed().as_nanos() as f64 / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gaps_between_different_holders_count() {
        let tenure = |token, began, ended| Tenure { token, began, ended };
        let one = vec![tenure(1, 0, 1_000), tenure(2, 1_001, 2_000)];
        let other = vec![tenure(3, 7_000, 8_000)];
        assert_eq!(median_gap(vec![one, other]), 5.0);
    }
}
