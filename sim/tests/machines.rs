//! Seeds of whole nodes. `cargo run --release -p sim -- --rig machines --seeds N` runs as many as one likes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sim::{Keep, MachinesWork, run_machines};

const SEEDS: u64 = 5_000;

fn run(seed: u64) -> MachinesWork {
    let outcome = run_machines(seed, Keep::Tail, None);
    match outcome {
        Ok((work, _)) => work,
        Err((what, _)) => panic!("seed {seed} (machines): {what}"),
    }
}

/// A process that got no core took the answers in its socket for none, began a session anew, and a page that its
/// peer had sent in the one before was lost.
#[test]
fn a_session_that_is_begun_anew_loses_no_message() {
    run(39_373);
}

/// A run that does less than this proves nothing: all work of the seeds is counted, for each seed on average.
#[test]
fn no_seed_of_the_machines_rig_breaks_a_rule() {
    let (next, total) = (AtomicU64::new(0), Mutex::new(MachinesWork::default()));
    let search = || {
        let mut work = MachinesWork::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= SEEDS {
                break;
            }
            let done = run(seed);
            work.add(&done);
            // One in a hundred runs twice: whatever is found must replay.
            if seed.is_multiple_of(100) {
                assert_eq!(run(seed), done, "seed {seed} (machines) does not replay");
            }
        }
        total.lock().expect("no search panics with it").add(&work);
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(search);
        }
    });
    let work = total.into_inner().expect("no search panics with it");
    println!("{SEEDS} seeds: {work}");
    let floors = [
        ("faults", work.faults, 25 * SEEDS),
        ("instructions", work.instructions, 70 * SEEDS),
        ("joins", work.joins, 4 * SEEDS),
        ("leaves", work.leaves, 3 * SEEDS),
        ("crashes", work.crashes, SEEDS / 10),
        ("deaths", work.deaths, SEEDS / 2),
        ("starvations", work.starvations, SEEDS / 2),
        ("failed links", work.cuts, SEEDS / 4),
        ("calls", work.calls, 10 * SEEDS),
        ("calls of clients", work.client_calls, 2 * SEEDS),
        ("lost servers", work.failovers, SEEDS / 50),
        ("hostile datagrams", work.hostile, 100 * SEEDS),
        ("early messages", work.early, SEEDS / 5),
        ("suspicions", work.suspicions, SEEDS / 5),
        ("full queues", work.full, SEEDS / 20),
    ];
    for (what, done, floor) in floors {
        assert!(done >= floor, "{done} {what} in {SEEDS} seeds, at least {floor} are expected");
    }
}
