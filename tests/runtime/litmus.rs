//! Litmus shapes of the memory-model literature (Alglave et al., TOPLAS 2014) across real nodes: one
//! thread a node, relaxed atomics through raw pointers.
//!
//! What is allowed is not listed but computed: the outcomes of all interleavings. Each round has words
//! of its own, so nothing is reset. The threads of a round start together, with random pauses before
//! each access, and a run goes on until every allowed outcome was seen in one round of a hundred:
//! no run passes by never racing. `LITMUS_ROUNDS=10000` makes the long run; it is a variable of
//! this test alone.

use std::collections::{BTreeMap, BTreeSet};
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

impl Shape {
    /// The outcomes of all interleavings.
    fn allowed(&self) -> BTreeSet<Outcome> {
        let mut found = BTreeSet::new();
        let reads = self.threads.iter().map(|ops| vec![0; reads(ops)]).collect();
        self.interleave(&mut vec![0; self.threads.len()], [0, 0], reads, &mut found);
        found
    }

    fn interleave(
        &self,
        at: &mut Vec<usize>,
        memory: [u64; 2],
        results: Vec<Vec<u64>>,
        found: &mut BTreeSet<Outcome>,
    ) {
        let mut ended = true;
        for thread in 0..self.threads.len() {
            let Some(&op) = self.threads[thread].get(at[thread]) else { continue };
            ended = false;
            let (mut memory, mut results) = (memory, results.clone());
            match op {
                W(word, value) => memory[word] = value,
                R(word) => results[thread][reads(&self.threads[thread][..at[thread]])] = memory[word],
            }
            at[thread] += 1;
            self.interleave(at, memory, results, found);
            at[thread] -= 1;
        }
        if ended {
            let mut outcome = results.concat();
            if self.finals {
                outcome.extend(memory);
            }
            found.insert(outcome);
        }
    }
}

fn reads(ops: &[Op]) -> usize {
    ops.iter().filter(|op| matches!(op, R(_))).count()
}

/// Words of a page, and rounds that one page serves.
const WORDS: usize = 512;
const PAGES: usize = 64;
/// Longest pause before an access, in microseconds, by chance: from "at once" to "some faults later".
const PAUSES_US: [u64; 5] = [0, 20, 120, 400, 1000];

fn rounds() -> usize {
    std::env::var("LITMUS_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(600)
}

/// Runs a shape on as many pairs (or triples, ...) of nodes as there are; checks what came out.
fn race(shape: &'static Shape, place: Place, nodes: usize) {
    let threads = shape.threads.len();
    let groups = nodes / threads;
    let (wanted, most) = (rounds(), rounds().max(2000) * 4);
    let start = Arc::new(Barrier::new(groups * threads));
    let results: Arc<Mutex<BTreeMap<(usize, usize), Vec<Vec<u64>>>>> = Arc::default();
    let histogram: Arc<Mutex<BTreeMap<Outcome, usize>>> = Arc::default();
    let allowed = Arc::new(shape.allowed());
    let done = Arc::new(AtomicU64::new(0));
    let verdict = (histogram.clone(), allowed.clone());
    let program = move |dsm: Dsm| {
        let second = if matches!(place, Place::TwoHomes) { 1 } else { 0 };
        let on = |node| Placement::OnNode(NodeId(node));
        let x = dsm.alloc_with::<u64>("x", WORDS * PAGES, on(0)).unwrap();
        let y = dsm.alloc_with::<u64>("y", WORDS * PAGES, on(second)).unwrap();
        let (group, thread) = (dsm.rank() as usize / threads, dsm.rank() as usize % threads);
        let mut rng = fastrand::Rng::with_seed(u64::from(dsm.rank()));
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
                start.wait();
                let seen = run(shape.threads[thread], words, || pause(&mut rng));
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
                    if total >= wanted && allowed.iter().all(seen) {
                        done.store(1, Ordering::Relaxed);
                    }
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
        assert!(allowed.contains(outcome), "{} {place:?}: forbidden {outcome:?}", shape.name);
    }
    for outcome in allowed.iter() {
        let count = histogram.get(outcome).copied().unwrap_or(0);
        assert!(count * 100 >= total, "{} {place:?}: {outcome:?} came {count} times only", shape.name);
    }
}

/// Carries out a thread's accesses; returns what its loads saw.
fn run(ops: &[Op], words: [*mut u64; 2], mut pause: impl FnMut()) -> Vec<u64> {
    let mut seen = Vec::new();
    for &op in ops {
        pause();
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

fn pause(rng: &mut fastrand::Rng) {
    let longest_us = PAUSES_US[rng.usize(0..PAUSES_US.len())];
    let until = Instant::now() + Duration::from_micros(rng.u64(0..=longest_us));
    while Instant::now() < until {
        spin_loop();
    }
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
