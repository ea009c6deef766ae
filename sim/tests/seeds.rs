//! Seeds of the coherence protocol. `cargo run --release -p sim -- --seeds N` runs as many as one likes.

use sim::{Options, run_seed};

#[test]
fn no_seed_of_the_bare_rig_breaks_a_rule() {
    for seed in 0..10_000 {
        let run = || match run_seed(seed, Options::default()) {
            Ok(report) => report,
            Err(violation) => {
                panic!("seed {seed} (bare): {}\n{}", violation.what, violation.lines.join("\n"))
            }
        };
        let report = run();
        // One in a hundred runs twice: whatever is found must replay.
        if seed % 100 == 0 {
            assert_eq!(run().trace_hash, report.trace_hash, "seed {seed} (bare) does not replay");
        }
    }
}
