//! What the simulator's command makes of a fault that it cannot plant: a run without it would prove nothing.

use std::process::{Command, Output};

fn sim(arguments: &[&str]) -> Output {
    let command = Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output();
    command.expect("the command starts")
}

#[test]
fn a_fault_that_no_rig_has_is_an_error_that_names_those_there_are() {
    let rigs = [("bare", "NodeDoesNotHold"), ("members", "JoinerAccuses"), ("machines", "GateHasNoBound")];
    for (rig, known) in rigs {
        let outcome = sim(&["--rig", rig, "--seeds", "1", "--plant", "Nothing"]);
        let said = String::from_utf8_lossy(&outcome.stderr);
        assert_eq!(outcome.status.code(), Some(2), "{rig}: {said}");
        assert!(said.starts_with("--plant Nothing:") && said.contains(known), "{rig}: {said}");
    }
}

#[cfg(not(feature = "planted"))]
#[test]
fn a_fault_is_not_planted_in_a_build_that_has_none() {
    let rigs = [("bare", "NodeDoesNotHold"), ("members", "JoinerAccuses"), ("machines", "GateHasNoBound")];
    for (rig, plant) in rigs {
        let outcome = sim(&["--rig", rig, "--seeds", "1", "--plant", plant]);
        let said = String::from_utf8_lossy(&outcome.stderr);
        assert_eq!(outcome.status.code(), Some(2), "{rig}: {said}");
        assert!(said.contains("--features planted"), "{rig}: {said}");
    }
}
