//! Processes that are killed while they store: their nodes are run on by others, and no word is lost.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::bed::{Bed, Going};

/// No thread waits longer for what a killed process had; the machine is busy with other tests.
const SOON: Duration = Duration::from_secs(2);

/// The process of the first member for which `is_it` holds.
fn pid_of(status: &Value, is_it: impl Fn(&Value) -> bool) -> Option<i32> {
    let member = status["members"].as_array()?.iter().find(|member| is_it(member))?;
    Some(member["pid"].as_i64()? as i32)
}

/// Whether every member's memory lies with another process.
fn is_kept(status: &Value) -> Option<()> {
    let members = status["members"].as_array()?;
    let is_kept = |member: &Value| {
        member["status"]["keeping"]["kept_by"].as_array().is_some_and(|kept_by| !kept_by.is_empty())
    };
    members.iter().all(is_kept).then_some(())
}

/// Starts a program of two ranks, of which rank 1 stores into a region for ever, each word in its turn.
fn rewrite(bed: &Bed) -> Going {
    let ready = bed.pipe("ready");
    let subject = env!("CARGO_BIN_EXE_subject");
    let going = bed.start("pagemesh", &format!("run --ranks 2 {subject} rewrite {}", ready.path()));
    ready.hear("all words were stored twice");
    bed.status_until(is_kept);
    going
}

/// Another program finds the words as rank 1 left them.
fn reread(bed: &Bed) {
    let subject = env!("CARGO_BIN_EXE_subject");
    let done = bed.pagemesh(&format!("run --ranks 1 {subject} reread")).ok();
    let waited =
        done.out.lines().find_map(|line| line.trim_start_matches("[0] ").strip_prefix("read after "));
    let waited: u64 = waited.and_then(|ms| ms.parse().ok()).unwrap_or_else(|| panic!("{done:#?}"));
    assert!(Duration::from_millis(waited) < SOON, "it waited {waited} ms: {done:#?}");
    let shown = bed.pagemesh("status").ok().out;
    assert!(!shown.contains("pages were lost"), "{shown}");
}

#[test]
fn what_a_rank_stored_before_it_was_killed_is_read_by_the_next_program() {
    let bed = Bed::new();
    bed.pagemesh("up --daemons 2").ok();
    let going = rewrite(&bed);
    let rank = bed.status_until(|status| pid_of(status, |member| member["kind"]["Rank"]["rank"] == 1));
    kill(Pid::from_raw(rank), Signal::SIGKILL).expect("it runs");
    let done = going.wait();
    assert_eq!(done.code, 137, "{done:#?}");
    // The other rank was not killed for that: it says why it ends, and with which code.
    let done = done.says(&["[0] ", "rank 1 of subject"]);
    assert!(done.err.contains("then rank 0 exited with code 2\n"), "{done:#?}");
    reread(&bed);
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

#[test]
fn a_daemon_is_killed_under_a_program_and_the_program_goes_on_with_every_word() {
    let bed = Bed::new();
    bed.pagemesh("up --daemons 3").ok();
    let going = rewrite(&bed);
    let daemon = |id: u64| move |member: &Value| member["kind"] == "Daemon" && member["id"] == id;
    for id in [1, 2] {
        let killed = Instant::now();
        let pid = bed.status_until(|status| pid_of(status, daemon(id)));
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
        bed.status_until(|status| {
            let members = status["members"].as_array()?;
            let ended = members.iter().find(|member| member["id"] == id)?;
            // Nobody keeps for it any more: the next one may be killed.
            let runs = |member: &Value| {
                let runs = member["status"]["keeping"]["runs_on"].as_array()?.iter();
                runs.clone().any(|run| run["node"] == id).then_some(())
            };
            ended["runner"].as_u64()?;
            members.iter().find_map(runs)
        });
        assert!(killed.elapsed() < Duration::from_secs(60));
    }
    assert!(bed.processes().contains(&(going.pid as i32)), "the program has ended");
    going.signal(Signal::SIGTERM);
    drop(going.wait());
    reread(&bed);
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}
