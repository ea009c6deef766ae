//! Starts two ranks of the program by the `pagemesh` command, and looks at what they print.

use std::process::{Command, Stdio};

#[test]
fn two_ranks_fill_an_array_and_call_each_other() {
    let pagemesh = std::env::var("PAGEMESH_BIN").unwrap_or_else(|_| "pagemesh".to_owned());
    let run = ["run", "--no-daemons", "--ranks", "2", env!("CARGO_BIN_EXE_@NAME@")];
    let output = Command::new(&pagemesh).args(run).stdin(Stdio::null()).output().unwrap_or_else(|error| {
        panic!("cannot run `{pagemesh}` ({error}): put the pagemesh command into PATH, or its path into PAGEMESH_BIN")
    });
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    for line in [
        "2 ranks, sum of the squares below 100000: 333328333350000",
        "rank 0 says: hello, rank 0",
        "rank 0 says: hello, rank 1",
    ] {
        assert!(out.contains(line), "no line `{line}` in\n{out}{err}");
    }
}
