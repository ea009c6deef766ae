//! Litmus shapes of the memory-model literature (Alglave et al., TOPLAS 2014) across real nodes: one
//! thread a node, relaxed atomics through raw pointers.
//!
//! What is allowed is not listed but computed: the outcomes of all interleavings. Each round has words
//! of its own, so nothing is reset. A round aims at an interleaving by pauses that are about as long as
//! a fault takes, and hits another one as often: every second one at the outcome that came most seldom
//! so far. A run goes on until every allowed outcome was seen in one round of a hundred: no run passes
//! by never racing. `LITMUS_ROUNDS=10000` makes the long run.

use std::collections::BTreeMap;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use dsm::{Dsm, NodeId, Placement};

use crate::rig::Rig;

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

const SHAPES: [Shape; 9] = [
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
/// What the threads of a group have seen in a round, each behind its number.
type Parts = BTreeMap<(usize, usize), Vec<Vec<u64>>>;

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

/// Words of a page, and rounds that one page serves.
const WORDS: usize = 512;
const PAGES: usize = 64;
/// Time between the accesses of an interleaving, in microseconds: from "at once" to "after a fault".
const STEPS_US: [u64; 4] = [0, 15, 60, 150];
/// Aimed steps grow up to this many times their length.
const SLOWER_MAX: u64 = 7;
/// The same for rounds that aim at a rare outcome: up to "after some faults".
const AIMED_STEPS_US: [u64; 4] = [60, 200, 400, 800];

fn rounds() -> usize {
    std::env::var("LITMUS_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(400)
}

/// Runs a shape on as many pairs (or triples, ...) of nodes as there are; checks what came out.
fn race(shape: &'static Shape, place: Place, nodes: usize) {
    let threads = shape.threads.len();
    let groups = nodes / threads;
    let (wanted, most) = (rounds(), rounds().max(2000) * 4);
    let start = Arc::new(Barrier::new(groups * threads));
    let results: Arc<Mutex<Parts>> = Arc::default();
    let histogram: Arc<Mutex<BTreeMap<Outcome, usize>>> = Arc::default();
    let allowed = Arc::new(shape.interleavings());
    let every: Vec<Vec<usize>> = allowed.values().flatten().cloned().collect();
    let aim: Arc<Mutex<Vec<usize>>> = Arc::new(Mutex::new(every[0].clone()));
    let done = Arc::new(AtomicU64::new(0));
    let verdict = (histogram.clone(), allowed.clone());
    let program = move |dsm: Dsm| {
        let second = if matches!(place, Place::TwoHomes) { 1 } else { 0 };
        let on = |node| Placement::OnNode(NodeId(node));
        let x = dsm.alloc_with::<u64>("x", WORDS * PAGES, on(0)).unwrap();
        let y = dsm.alloc_with::<u64>("y", WORDS * PAGES, on(second)).unwrap();
        let (group, thread) = (dsm.rank() as usize / threads, dsm.rank() as usize % threads);
        dsm.barrier().unwrap();
        if group < groups {
            for round in 0..most {
                let slot = (round * groups + group) % (WORDS * PAGES / 2);
                let words = match place {
                    Place::SamePage => {
                        [x.as_mut_ptr().wrapping_add(2 * slot), x.as_mut_ptr().wrapping_add(2 * slot + 1)]
                    }
                    Place::TwoPages | Place::TwoHomes => {
                        [x.as_mut_ptr().wrapping_add(slot), y.as_mut_ptr().wrapping_add(slot)]
                    }
                };
                // The same choices in every thread.
                let mut rng = fastrand::Rng::with_seed(round as u64);
                // Once there were enough rounds, all aim, ever more slowly: a busy machine is a slow one.
                let slow = (round * groups / wanted) as u64;
                let (turns, steps) = if round % 2 == 0 && slow == 0 {
                    (every[rng.usize(0..every.len())].clone(), STEPS_US)
                } else {
                    (aim.lock().unwrap().clone(), AIMED_STEPS_US)
                };
                let step_us = steps[rng.usize(0..steps.len())] * (1 + slow.min(SLOWER_MAX));
                let times = times(&turns, thread, step_us, &mut rng);
                start.wait();
                let seen = run(shape.threads[thread], words, &times);
                results
                    .lock()
                    .unwrap()
                    .entry((group, round))
                    .or_default()
                    .push(std::iter::once(thread as u64).chain(seen).collect());
                start.wait();
                if thread == 0 {
                    let mut parts = results.lock().unwrap().remove(&(group, round)).unwrap();
                    parts.sort_unstable();
                    let mut outcome: Outcome = parts.iter().flat_map(|part| &part[1..]).copied().collect();
                    if shape.finals {
                        outcome.extend(words.map(load));
                    }
                    let mut histogram = histogram.lock().unwrap();
                    *histogram.entry(outcome).or_default() += 1;
                    let total: usize = histogram.values().sum();
                    let seen = |outcome| histogram.get(outcome).is_some_and(|count| count * 100 >= total);
                    if total >= wanted && allowed.keys().all(seen) {
                        done.store(1, Ordering::Relaxed);
                    }
                    let count = |outcome: &Outcome| histogram.get(outcome).copied().unwrap_or(0);
                    let rarest = allowed.iter().min_by_key(|(outcome, _)| count(outcome)).expect("some");
                    aim.lock().unwrap().clone_from(&rarest.1[round % rarest.1.len()]);
                }
                start.wait();
                if done.load(Ordering::Relaxed) == 1 {
                    break;
                }
            }
        }
        dsm.leave().unwrap();
    };
    let started = Instant::now();
    Rig::with_daemons(2, nodes as u32).run(program);
    let (histogram, allowed) = verdict;
    let histogram = histogram.lock().unwrap();
    let total: usize = histogram.values().sum();
    let took = started.elapsed().as_secs_f64();
    println!("{} {place:?} on {nodes} nodes: {total} rounds in {took:.1} s: {histogram:?}", shape.name);
    for outcome in histogram.keys() {
        assert!(allowed.contains_key(outcome), "{} {place:?}: forbidden {outcome:?}", shape.name);
    }
    for outcome in allowed.keys() {
        let count = histogram.get(outcome).copied().unwrap_or(0);
        assert!(count * 100 >= total, "{} {place:?}: {outcome:?} came {count} times only", shape.name);
    }
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

fn race_everywhere(nodes: usize) {
    for shape in SHAPES.iter().filter(|shape| shape.threads.len() <= nodes) {
        for place in [Place::SamePage, Place::TwoPages, Place::TwoHomes] {
            race(shape, place, nodes);
        }
    }
}

#[test]
fn two_nodes_see_only_what_some_interleaving_explains() {
    race_everywhere(2);
}

#[test]
fn four_nodes_see_only_what_some_interleaving_explains() {
    race_everywhere(4);
}
