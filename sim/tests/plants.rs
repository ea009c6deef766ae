//! The check on the checker: every fault that can be planted is found. Needs the feature `planted`:
//! `cargo test -p sim --features planted`.

use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use pagemesh::coherence::Plant;
use pagemesh::{machine, membership};
use sim::{Keep, Options, run_cluster, run_machines, run_seed};

/// More seeds than the best hidden fault needs (`BarrierTakesStrangers`, 15,379).
const SEEDS_MAX: u64 = 17_000;
/// Every mutation of the membership is found within so many seeds.
const CLUSTER_SEEDS_MAX: u64 = 20_000;
/// More than any mutation of the node around the cores needs: a rule of rare cases must not hide among few seeds.
const MACHINE_SEEDS_MAX: u64 = 60_000;

#[test]
fn every_planted_fault_is_found() {
    assert_found(&Plant::ALL, SEEDS_MAX, |plant, seed| {
        let options = Options { plant: Some(plant), ..Options::default() };
        run_seed(seed, options).err().map(|violation| violation.what)
    });
}

#[test]
fn every_mutation_of_the_membership_is_found() {
    assert_found(&membership::Mutation::ALL, CLUSTER_SEEDS_MAX, |mutation, seed| {
        run_cluster(seed, false, Some(mutation)).err().map(|violation| violation.what)
    });
}

#[test]
fn every_mutation_of_the_machine_is_found() {
    assert_found(&machine::Mutation::ALL, MACHINE_SEEDS_MAX, |mutation, seed| {
        run_machines(seed, Keep::Tail, Some(mutation)).err().map(|(what, _)| what)
    });
}

/// Fails with the faults that none of the seeds finds. `run` gives the rule that a seed broke.
fn assert_found<F: Copy + Debug + Sync>(
    faults: &[F],
    seeds_max: u64,
    run: impl Fn(F, u64) -> Option<String> + Sync,
) {
    // Cores with a fault may fail an assertion; that counts as found, and needs no backtrace.
    std::panic::set_hook(Box::new(|_| {}));
    let mut hidden = Vec::new();
    for &fault in faults {
        match first(seeds_max, |seed| run(fault, seed)) {
            Some((seed, what)) => println!("{fault:?}: seed {seed}, {what}"),
            None => hidden.push(fault),
        }
    }
    let _ = std::panic::take_hook();
    assert!(hidden.is_empty(), "not found within {seeds_max} seeds: {hidden:?}");
}

/// The first seed that finds something. All cores look for the same fault, because a few need most of the seeds.
fn first(seeds_max: u64, run: impl Fn(u64) -> Option<String> + Sync) -> Option<(u64, String)> {
    let (next, found) = (AtomicU64::new(0), Mutex::new(None::<(u64, String)>));
    let search = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let is_later = |found: &Option<(u64, String)>| found.as_ref().is_some_and(|(at, _)| seed > *at);
            if seed >= seeds_max || is_later(&found.lock().expect("no search panics")) {
                break;
            }
            let Some(what) = run(seed) else { continue };
            let mut found = found.lock().expect("no search panics");
            if !is_later(&found) {
                *found = Some((seed, what));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(search);
        }
    });
    found.into_inner().expect("no search panics")
}
