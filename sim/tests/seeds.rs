//! Seeds of both rigs. `cargo run --release -p sim -- --seeds N` runs as many as one likes.

use std::ops::Range;

use sim::{Options, Rig, run_seed};

fn check(rig: Rig, seeds: Range<u64>) {
    for seed in seeds {
        let run = || match run_seed(seed, Options::of(rig)) {
            Ok(report) => report,
            Err(violation) => {
                panic!("seed {seed} ({rig:?}): {}\n{}", violation.what, violation.lines.join("\n"))
            }
        };
        let report = run();
        // One in a hundred runs twice: whatever is found must replay.
        if seed % 100 == 0 {
            assert_eq!(run().trace_hash, report.trace_hash, "seed {seed} ({rig:?}) does not replay");
        }
    }
}

#[test]
fn no_seed_of_the_bare_rig_breaks_a_rule() {
    check(Rig::Bare, 0..10_000);
}

#[test]
fn no_seed_of_the_stacked_rig_breaks_a_rule() {
    check(Rig::Stacked, 0..2_000);
}
