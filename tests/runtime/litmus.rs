//! Litmus shapes of the memory-model literature (Alglave et al., TOPLAS 2014) across processes: each
//! rank is one, with one thread that makes relaxed atomic accesses through raw pointers.
//!
//! What is allowed is not listed but computed: the outcomes of all interleavings. Each round has words
//! of its own, so nothing is reset. A round aims at an interleaving by pauses that are about as long as
//! a fault takes, and hits another one as often: every second one at the outcome that came most seldom
//! so far. A run goes on until every allowed outcome was seen in one round of a hundred: no run passes
//! by never racing. The long run of `scripts/check.sh --long` makes 10,000 rounds.

use std::collections::BTreeMap;
use std::hint::spin_loop;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pagemesh::{Dsm, NodeId, Placement, Settings};

use crate::child::{self, Child, listen, say};
use crate::stage::Stage;
use system_tests::rig::{self, Rig};

/// One access of a thread.
#[derive(Clone, Copy)]
enum Op {
    W(usize, u64),
    R(usize),
}
use Op::{R, W};

/// A shape: the accesses of each thread, and whether the final values belong to the outcome.
struct Shape {
    name: &'static str,
    threads: &'static [&'static [Op]],
    finals: bool,
}

const X: usize = 0;
const Y: usize = 1;

static SHAPES: [Shape; 9] = [
    Shape { name: "SB", threads: &[&[W(X, 1), R(Y)], &[W(Y, 1), R(X)]], finals: false },
    Shape { name: "MP", threads: &[&[W(X, 1), W(Y, 1)], &[R(Y), R(X)]], finals: false },
    Shape { name: "LB", threads: &[&[R(X), W(Y, 1)], &[R(Y), W(X, 1)]], finals: false },
    Shape { name: "CoRR", threads: &[&[W(X, 1)], &[R(X), R(X)]], finals: false },
    Shape { name: "2+2W", threads: &[&[W(X, 1), W(Y, 2)], &[W(Y, 1), W(X, 2)]], finals: true },
    Shape { name: "R", threads: &[&[W(X, 1), W(Y, 1)], &[W(Y, 2), R(X)]], finals: true },
    Shape { name: "S", threads: &[&[W(X, 2), W(Y, 1)], &[R(Y), W(X, 1)]], finals: true },
    Shape { name: "WRC", threads: &[&[W(X, 1)], &[R(X), W(Y, 1)], &[R(Y), R(X)]], finals: false },
    Shape { name: "IRIW", threads: &[&[W(X, 1)], &[W(Y, 1)], &[R(X), R(Y)], &[R(Y), R(X)]], finals: false },
];

/// Where the two words of a round are.
#[derive(Clone, Copy, Debug)]
enum Place {
    SamePage,
    TwoPages,
    TwoHomes,
}

type Outcome = Vec<u64>;

impl Shape {
    /// All interleavings, each as the threads in the order of their turns, by outcome.
    fn interleavings(&self) -> BTreeMap<Outcome, Vec<Vec<usize>>> {
        let mut found = BTreeMap::new();
        let reads = self.threads.iter().map(|ops| vec![0; reads(ops)]).collect();
        self.interleave(&mut Vec::new(), [0, 0], reads, &mut found);
        found
    }

    fn interleave(
        &self,
        turns: &mut Vec<usize>,
        memory: [u64; 2],
        results: Vec<Vec<u64>>,
        found: &mut BTreeMap<Outcome, Vec<Vec<usize>>>,
    ) {
        let mut ended = true;
        for thread in 0..self.threads.len() {
            let at = turns.iter().filter(|turn| **turn == thread).count();
            let Some(&op) = self.threads[thread].get(at) else { continue };
            ended = false;
            let (mut memory, mut results) = (memory, results.clone());
            match op {
                W(word, value) => memory[word] = value,
                R(word) => results[thread][reads(&self.threads[thread][..at])] = memory[word],
            }
            turns.push(thread);
            self.interleave(turns, memory, results, found);
            turns.pop();
        }
        if ended {
            let mut outcome = results.concat();
            if self.finals {
                outcome.extend(memory);
            }
            found.entry(outcome).or_default().push(turns.clone());
        }
    }
}

/// When a thread is to make its accesses in a round that aims at these turns.
fn times(turns: &[usize], thread: usize, step_us: u64, rng: &mut fastrand::Rng) -> Vec<Duration> {
    let ours = (1u64..).zip(turns).filter(|(_, turn)| **turn == thread);
    ours.map(|(place, _)| Duration::from_micros(place * step_us - rng.u64(0..=step_us / 2))).collect()
}

fn reads(ops: &[Op]) -> usize {
    ops.iter().filter(|op| matches!(op, R(_))).count()
}

/// Words of a page.
const WORDS: usize = 512;
/// Time between the accesses of an interleaving, in microseconds: from "at once" to "after a fault".
const STEPS_US: [u64; 4] = [0, 15, 60, 150];
/// Aimed steps grow up to this many times their length.
const SLOWER_MAX: u64 = 7;
/// The same for rounds that aim at a rare outcome: up to "after some faults".
const AIMED_STEPS_US: [u64; 4] = [60, 200, 400, 800];
/// Longest that one round takes, far beyond the usual.
const ROUND_MAX: Duration = Duration::from_millis(100);

fn rounds() -> usize {
    if system_tests::long() { 10_000 } else { 400 }
}

/// Rounds after which a run that has not seen every outcome often enough has failed.
fn rounds_max() -> usize {
    rounds().max(2000) * 4
}

/// One shape in one placement, as a rank sees it.
struct Race<'a> {
    shape: &'static Shape,
    place: Place,
    stage: &'a Stage,
    /// As many pairs (or triples, ...) of ranks as there are; the others only watch.
    groups: usize,
    group: usize,
    thread: usize,
    allowed: Vec<(Outcome, Vec<Vec<usize>>)>,
    regions: [*mut u64; 2],
}

impl<'a> Race<'a> {
    /// Makes the regions, each with words enough for all rounds.
    fn new(dsm: &Dsm, stage: &'a Stage, shape: &'static Shape, place: Place) -> Race<'a> {
        let threads = shape.threads.len();
        let groups = dsm.ranks() as usize / threads;
        let second = if matches!(place, Place::TwoHomes) { 1 } else { 0 };
        let words = (2 * rounds_max() * groups).next_multiple_of(WORDS);
        let region = |name: &str, home| {
            let name = format!("{} {place:?} {name}", shape.name);
            let placement = Placement::OnNode(NodeId(home));
            dsm.alloc_with::<u64>(&name, words, placement).unwrap().as_mut_ptr()
        };
        Race {
            shape,
            place,
            stage,
            groups,
            group: dsm.rank() as usize / threads,
            thread: dsm.rank() as usize % threads,
            allowed: shape.interleavings().into_iter().collect(),
            regions: [region("x", 0), region("y", second)],
        }
    }

    /// Runs until every allowed outcome came often enough, or one came that is not allowed.
    fn run(&self) {
        if self.group >= self.groups {
            return;
        }
        for round in 0..rounds_max() {
            self.round(round);
            if self.stage.done.load(Ordering::Relaxed) == 1 {
                break;
            }
        }
    }

    fn round(&self, round: usize) {
        let words = self.words(round);
        let times = self.times(round);
        let place = self.group * self.shape.threads.len();
        self.stage.meet();
        let seen = run(self.shape.threads[self.thread], words, &times);
        self.stage.tell(place + self.thread, &seen);
        self.stage.meet();
        if self.thread == 0 {
            let mut outcome = Outcome::new();
            for (thread, ops) in self.shape.threads.iter().enumerate() {
                outcome.extend(self.stage.told(place + thread, reads(ops)));
            }
            if self.shape.finals {
                outcome.extend(words.map(load));
            }
            self.count(round, &outcome);
        }
        self.stage.meet();
    }

    /// The two words of a round.
    fn words(&self, round: usize) -> [*mut u64; 2] {
        let slot = round * self.groups + self.group;
        let [x, y] = self.regions;
        match self.place {
            Place::SamePage => [x.wrapping_add(2 * slot), x.wrapping_add(2 * slot + 1)],
            Place::TwoPages | Place::TwoHomes => [x.wrapping_add(slot), y.wrapping_add(slot)],
        }
    }

    /// When this rank's accesses are due in a round: all ranks choose the same interleaving to aim at.
    fn times(&self, round: usize) -> Vec<Duration> {
        let mut rng = fastrand::Rng::with_seed(round as u64);
        let every: Vec<&Vec<usize>> = self.allowed.iter().flat_map(|(_, turns)| turns).collect();
        // Once there were enough rounds, all aim, ever more slowly: a busy machine is a slow one.
        let slow = (round * self.groups / rounds()) as u64;
        let (turns, steps) = if round.is_multiple_of(2) && slow == 0 {
            (every[rng.usize(0..every.len())], STEPS_US)
        } else {
            let aimed = &self.allowed[self.stage.aim.load(Ordering::Relaxed) as usize].1;
            (&aimed[round / 2 % aimed.len()], AIMED_STEPS_US)
        };
        let step_us = steps[rng.usize(0..steps.len())] * (1 + slow.min(SLOWER_MAX));
        times(turns, self.thread, step_us, &mut rng)
    }

    /// Counts an outcome; then the rarest is aimed at.
    fn count(&self, round: usize, outcome: &Outcome) {
        let Some(at) = self.allowed.iter().position(|(allowed, _)| allowed == outcome) else {
            panic!("{} {:?}: forbidden {outcome:?} in round {round}", self.shape.name, self.place);
        };
        self.stage.counts[at].fetch_add(1, Ordering::Relaxed);
        let counts = self.counts();
        let rarest = (0..counts.len()).min_by_key(|at| counts[*at]).expect("some");
        self.stage.aim.store(rarest as u64, Ordering::Relaxed);
        if self.is_enough() {
            self.stage.done.store(1, Ordering::Relaxed);
        }
    }

    fn counts(&self) -> Vec<u64> {
        self.stage.counts[..self.allowed.len()].iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    fn is_enough(&self) -> bool {
        let counts = self.counts();
        let total: u64 = counts.iter().sum();
        total >= rounds() as u64 && counts.iter().all(|count| count * 100 >= total)
    }

    /// What came how often.
    fn histogram(&self) -> String {
        let counts = self.counts();
        let total: u64 = counts.iter().sum();
        let name = |outcome: &Outcome| outcome.iter().map(u64::to_string).collect::<String>();
        let bins = self.allowed.iter().zip(&counts).map(|((outcome, _), n)| format!("{} {n}", name(outcome)));
        let percent = counts.iter().copied().min().unwrap_or(0) as f64 * 100.0 / total as f64;
        format!("{total} rounds, rarest {percent:.1} %: {}", bins.collect::<Vec<_>>().join(", "))
    }
}

/// A rank of [`race_everywhere`]: plays all shapes in all placements; rank 0 tells how each went.
pub(crate) fn player(settings: Settings) {
    let stage = Stage::open(&PathBuf::from(listen()));
    let dsm = child::join(settings);
    let nodes = dsm.ranks() as usize;
    for (shape, place) in races(nodes) {
        let race = Race::new(&dsm, &stage, shape, place);
        if dsm.is_root() {
            stage.begin(race.groups * shape.threads.len());
        }
        dsm.barrier().unwrap();
        let started = Instant::now();
        race.run();
        if dsm.is_root() {
            let took = started.elapsed().as_secs_f64();
            say(&format!("{} {place:?} in {took:.1} s: {}", shape.name, race.histogram()));
            assert!(race.is_enough(), "{} {place:?}: {}", shape.name, race.histogram());
        }
        dsm.barrier().unwrap();
    }
    dsm.leave().unwrap();
}

fn races(nodes: usize) -> impl Iterator<Item = (&'static Shape, Place)> {
    let shapes = SHAPES.iter().filter(move |shape| shape.threads.len() <= nodes);
    shapes.flat_map(|shape| {
        [Place::SamePage, Place::TwoPages, Place::TwoHomes].into_iter().map(move |place| (shape, place))
    })
}

/// Carries out a thread's accesses, none before its time; returns what its loads saw.
fn run(ops: &[Op], words: [*mut u64; 2], times: &[Duration]) -> Vec<u64> {
    let (mut seen, started) = (Vec::new(), Instant::now());
    for (&op, time) in ops.iter().zip(times) {
        while started.elapsed() < *time {
            spin_loop();
        }
        match op {
            // SAFETY: a word of the region, aligned, accessed atomically by everybody.
            W(word, value) => unsafe { AtomicU64::from_ptr(words[word]) }.store(value, Ordering::Relaxed),
            R(word) => seen.push(load(words[word])),
        }
    }
    seen
}

fn load(word: *mut u64) -> u64 {
    // SAFETY: a word of the region, aligned, accessed atomically by everybody.
    unsafe { AtomicU64::from_ptr(word) }.load(Ordering::Relaxed)
}

/// Two daemons and as many ranks, all of them processes.
fn race_everywhere(nodes: u32) {
    let rig = Rig::with_daemons(2, nodes);
    let first = Child::start("daemon", &rig.rank(0, 0, None));
    let join = Some(first.line().parse().expect("an address"));
    let second = Child::start("daemon", &rig.rank(0, 1, join));
    second.line();
    let (stage, program) = (Stage::new(), rig::new_program());
    let mut players: Vec<Child> =
        (0..nodes).map(|rank| Child::start("player", &rig.rank(program, rank, join))).collect();
    players.iter_mut().for_each(|player| player.tell(&stage.path().display().to_string()));
    let longest = Duration::from_secs(20) + ROUND_MAX * rounds_max() as u32;
    for _ in races(nodes as usize) {
        println!("{nodes} processes: {}", players[0].line_within(longest));
    }
    for player in &mut players {
        let (status, errors) = player.end_within(Duration::from_secs(20));
        assert!(status.success(), "{errors}");
    }
    drop((first, second));
}

#[test]
fn two_processes_see_only_what_some_interleaving_explains() {
    race_everywhere(2);
}

#[test]
fn four_processes_see_only_what_some_interleaving_explains() {
    race_everywhere(4);
}
