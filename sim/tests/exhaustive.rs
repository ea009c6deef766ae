//! Every order of delivery within small bounds. The numbers of states are printed, and asserted from
//! below, so that a search that stops early cannot pass.

use std::time::Instant;

use sim::{Bounds, explore};

const NONE: Bounds = Bounds {
    clients: 2,
    operations: 2,
    home_operations: 0,
    evictions: 0,
    duplicates: 0,
    leave: false,
    early_timers: 0,
};

fn search(bounds: Bounds, states_min: u64) {
    let started = Instant::now();
    match explore(bounds) {
        Ok(explored) => {
            println!("{bounds:?}: {explored:?} in {:.1} s", started.elapsed().as_secs_f64());
            assert!(explored.states >= states_min, "{explored:?}");
            assert!(explored.endings > 0);
        }
        Err(trace) => panic!("{bounds:?}: {trace}"),
    }
}

#[test]
fn two_clients() {
    search(Bounds { operations: 3, ..NONE }, 100);
}

#[test]
fn two_clients_that_evict() {
    search(Bounds { operations: 2, evictions: 2, ..NONE }, 100);
}

#[test]
fn two_clients_and_the_home_s_own() {
    search(Bounds { home_operations: 2, evictions: 1, ..NONE }, 100);
}

#[test]
fn two_clients_and_any_message_twice() {
    search(Bounds { evictions: 1, duplicates: 1, ..NONE }, 100);
}

#[test]
fn two_clients_that_leave() {
    search(Bounds { operations: 2, evictions: 1, leave: true, ..NONE }, 100);
}

#[test]
fn two_clients_whose_holds_end_early() {
    search(Bounds { operations: 2, evictions: 1, early_timers: 1, ..NONE }, 100);
}

#[test]
fn three_clients() {
    search(Bounds { clients: 3, operations: 1, ..NONE }, 100);
}
