//! Many clean leaves of real processes, each while all of its pages are on their way to other processes, which do not
//! run for a while.
//!
//! `LONG=1 cargo test -p system-tests --test runtime clean_leaves -- --nocapture` makes 1,000 of them and
//! states how long the slowest one took.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pagemesh::{Node, Settings};

use crate::child::{self, Child, listen, say};
use system_tests::rig::{self, Rig, until};

/// Pages that a process gives away while it leaves; all of them are requested ahead of need.
const PAGES: usize = 200;
/// Elements of a page.
const PER_PAGE: usize = 512;
/// Processes that request the pages, each an equal part.
const TAKERS: usize = 2;
/// Clusters that are busy at one time.
const LANES: u32 = 8;
/// The longest time that a requester does not run: shorter than the silence that makes it suspect.
const PAUSE_MAX_MS: u64 = 2_500;
/// Once the requesters run, both sides come to their ends within this time, on a machine that is busy with other
/// tests: no deadline of a leave has run out.
const REST_MAX: Duration = Duration::from_secs(8);

fn region(settings: &Settings) -> String {
    format!("handed over by {:x}", settings.program)
}

/// Owns pages, and leaves when told to.
pub(crate) fn hand_over(settings: Settings) {
    let name = region(&settings);
    let dsm = child::join(settings);
    let data = dsm.alloc::<u64>(&name, PAGES * PER_PAGE).unwrap();
    (0..PAGES).for_each(|page| data.set(page * PER_PAGE, page as u64 + 1));
    say("owns");
    listen();
    dsm.leave().unwrap();
    say("left");
    listen();
}

/// Requests its part of the pages for writing when told to, counts those that are wrong when told to, and leaves.
pub(crate) fn take_over(settings: Settings) {
    let name = region(&settings);
    let dsm = child::join(settings);
    let data = dsm.alloc::<u64>(&name, PAGES * PER_PAGE).unwrap();
    let part = PAGES / TAKERS;
    let pages = dsm.rank() as usize * part..(dsm.rank() as usize + 1) * part;
    say("ready");
    listen();
    data.prefetch_mut(pages.start * PER_PAGE..pages.end * PER_PAGE);
    say("asked");
    listen();
    let wrong = pages.filter(|page| data.get(page * PER_PAGE) != *page as u64 + 1).count();
    say(&format!("wrong {wrong}"));
    listen();
    if dsm.is_root() {
        dsm.remove(&name).unwrap();
    }
    dsm.leave().unwrap();
    say("left");
}

/// One leave; how long the two sides took once all of them ran.
fn leave_once(rig: &Rig, daemon: &Node, pauses: [Duration; TAKERS]) -> Duration {
    let (program, join) = (rig::new_program() + 1_000_000, Some(daemon.local_addr()));
    let mut giver = Child::start("hands over", &rig.rank(program, TAKERS as u32, join));
    let mut takers: Vec<Child> =
        (0..TAKERS as u32).map(|rank| Child::start("takes over", &rig.rank(program, rank, join))).collect();
    giver.expect("owns");
    takers.iter().for_each(|taker| taker.expect("ready"));
    giver.stop();
    let before = daemon.status().faults_served;
    for taker in &mut takers {
        taker.tell("ask");
        taker.expect("asked");
    }
    let all = before + PAGES as u64;
    until("the home has forwarded all requests", || daemon.status().faults_served >= all);
    takers.iter().for_each(Child::stop);
    giver.signal(Signal::SIGCONT);
    giver.tell("leave");
    let mut by_pause: Vec<(Duration, &Child)> = pauses.into_iter().zip(&takers).collect();
    by_pause.sort_by_key(|(pause, _)| *pause);
    let mut paused = Duration::ZERO;
    for (pause, taker) in by_pause {
        // What it was given lies in the giver's queue.
        giver.says_nothing_for(pause - paused);
        paused = pause;
        taker.signal(Signal::SIGCONT);
    }
    let runs = Instant::now();
    takers.iter_mut().for_each(|taker| taker.tell("count"));
    giver.expect("left");
    takers.iter().for_each(|taker| taker.expect("wrong 0"));
    let rest = runs.elapsed();
    takers.iter_mut().for_each(|taker| taker.tell("leave"));
    takers.iter().for_each(|taker| taker.expect("left"));
    rest
}

/// The leaves of one cluster; the longest time that one took.
fn leaves_of_a_lane(seed: u64, left: &AtomicU32) -> Duration {
    let rig = Rig::with_daemons(1, TAKERS as u32 + 1);
    let daemons = rig.start_daemons();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut longest = Duration::ZERO;
    let take = |left: u32| left.checked_sub(1);
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
        let pauses = std::array::from_fn(|_| Duration::from_millis(random.u64(0..=PAUSE_MAX_MS)));
        longest = longest.max(leave_once(&rig, &daemons[0], pauses));
    }
    rig::stop(daemons);
    longest
}

#[test]
fn clean_leaves_lose_nothing_and_hold_nobody_up() {
    let leaves = if system_tests::long() { 1_000 } else { 2 * LANES };
    println!("seeds 0 to {}", LANES - 1);
    let left = AtomicU32::new(leaves);
    let longest = std::thread::scope(|scope| {
        let left = &left;
        let lanes: Vec<_> =
            (0..LANES).map(|lane| scope.spawn(move || leaves_of_a_lane(u64::from(lane), left))).collect();
        lanes.into_iter().map(|lane| lane.join().expect("no leave fails")).max()
    });
    let longest = longest.expect("at least one lane");
    println!("{leaves} clean leaves, nothing lost; at most {longest:.2?} of {REST_MAX:?} once all ran");
    assert!(longest <= REST_MAX, "somebody waited: {longest:?}");
}
