//! The check on the checker: every fault that can be planted is found. Needs the feature `planted`:
//! `cargo test -p sim --features planted`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use pagemesh::coherence::Plant;
use pagemesh::membership::Mutation;
use sim::{Keep, Options, run_cluster, run_machines, run_seed};

/// More seeds than the best hidden fault needs (`BarrierTakesStrangers`, 15,379).
const SEEDS_MAX: u64 = 17_000;

#[test]
fn every_planted_fault_is_found() {
    // Cores with a fault may fail an assertion; that counts as found, and needs no backtrace.
    std::panic::set_hook(Box::new(|_| {}));
    let (next, hidden) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let search = || {
        while let Some(&plant) = Plant::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            let options = Options { plant: Some(plant), ..Options::default() };
            match (0..SEEDS_MAX).find_map(|seed| run_seed(seed, options).err()) {
                Some(violation) => println!("{plant:?}: seed {}, {}", violation.seed, violation.what),
                None => hidden.lock().expect("no search panics").push(plant),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(search);
        }
    });
    let _ = std::panic::take_hook();
    let hidden = hidden.into_inner().expect("no search panics");
    assert!(hidden.is_empty(), "not found within {SEEDS_MAX} seeds: {hidden:?}");
}

/// Every mutation is found within so many seeds.
const CLUSTER_SEEDS_MAX: u64 = 20_000;

#[test]
fn every_mutation_of_the_membership_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut hidden = Vec::new();
    for mutation in Mutation::ALL {
        let found = (0..CLUSTER_SEEDS_MAX).find_map(|seed| {
            run_cluster(seed, false, Some(mutation)).err().map(|violation| (seed, violation.what))
        });
        match found {
            Some((seed, what)) => println!("{mutation:?}: seed {seed}, {what}"),
            None => hidden.push(mutation),
        }
    }
    let _ = std::panic::take_hook();
    assert!(hidden.is_empty(), "not found within {CLUSTER_SEEDS_MAX} seeds: {hidden:?}");
}

/// More than any mutation of the node around the cores needs: a rule of rare cases must not hide among few seeds.
const MACHINE_SEEDS_MAX: u64 = 60_000;

#[test]
fn every_mutation_of_the_machine_is_found() {
    use pagemesh::machine::Mutation;
    std::panic::set_hook(Box::new(|_| {}));
    let (next, hidden) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let search = || {
        while let Some(&mutation) = Mutation::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = (0..MACHINE_SEEDS_MAX).find_map(|seed| {
                run_machines(seed, Keep::Tail, Some(mutation)).err().map(|(what, _)| (seed, what))
            });
            match found {
                Some((seed, what)) => println!("{mutation:?}: seed {seed}, {what}"),
                None => hidden.lock().expect("no search panics").push(mutation),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(search);
        }
    });
    let _ = std::panic::take_hook();
    let hidden = hidden.into_inner().expect("no search panics");
    assert!(hidden.is_empty(), "not found within {MACHINE_SEEDS_MAX} seeds: {hidden:?}");
}
