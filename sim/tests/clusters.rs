//! Seeds of the membership protocol. `cargo run --release -p sim -- --rig members --seeds N` runs as many as
//! one likes.

use sim::{ClusterWork, run_cluster};

fn run(seed: u64) -> ClusterWork {
    let outcome = run_cluster(seed, false, None);
    match outcome {
        Ok(report) => report.work,
        Err(violation) => panic!("seed {seed} (members): {}", violation.what),
    }
}

/// A run that does less than this proves nothing: all work of the seeds is counted, for each seed on average.
#[test]
fn no_seed_of_the_members_rig_breaks_a_rule() {
    const SEEDS: u64 = 10_000;
    let mut work = ClusterWork::default();
    for seed in 0..SEEDS {
        let done = run(seed);
        work.add(&done);
        // One in a hundred runs twice: whatever is found must replay.
        if seed % 100 == 0 {
            assert_eq!(run(seed), done, "seed {seed} (members) does not replay");
        }
    }
    println!("{SEEDS} seeds: {work}");
    let ClusterWork { joins, leaves, crashes, starvations, cuts, questions, deaths, lies, regions, .. } =
        work;
    let floors = [
        ("joins", joins, 2 * SEEDS),
        ("leaves", leaves, SEEDS / 10),
        ("crashes", crashes, SEEDS / 5),
        ("starvations", starvations, SEEDS),
        ("failed links", cuts, SEEDS / 2),
        ("questions", questions, 3 * SEEDS),
        ("deaths", deaths, SEEDS / 4),
        ("lies", lies, SEEDS),
        ("regions", regions, SEEDS),
    ];
    for (what, done, floor) in floors {
        assert!(done >= floor, "{done} {what} in {SEEDS} seeds, at least {floor} are expected");
    }
}
