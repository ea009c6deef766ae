//! When a process of the cluster is killed, everyone affected ends soon, with a line that names it.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::bed::{Bed, Done, Going};

/// Within which all that a death affects has ended.
const SOON: Duration = Duration::from_secs(5);
/// A program that is busy until it is stopped.
const ENDLESS: &str = "counter --increments 1000000000";

/// Process ids of the ranks in a status, if there are `ranks` of them.
fn rank_pids(status: &Value, ranks: usize) -> Option<Vec<i32>> {
    let members = status["members"].as_array()?;
    let found: Vec<(u64, i32)> = members
        .iter()
        .filter_map(|member| {
            let rank = member["kind"]["Rank"]["rank"].as_u64()?;
            Some((rank, member["pid"].as_i64()? as i32))
        })
        .collect();
    let pid = |rank: u64| found.iter().find(|(found, _)| *found == rank).map(|(_, pid)| *pid);
    (0..ranks as u64).map(pid).collect()
}

/// A cluster with an endless program on it; gives the ranks' processes.
fn busy(bed: &Bed, nodes: u32, ranks: usize) -> (Going, Vec<i32>) {
    bed.pagemesh(&format!("up --nodes {nodes}")).ok();
    let going = bed.start("pagemesh", &format!("run --ranks {ranks} {ENDLESS}"));
    let pids = bed.status_until(|status| rank_pids(status, ranks));
    (going, pids)
}

fn kill_and_wait(pid: i32, going: Going) -> Done {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    let killed = Instant::now();
    let done = going.wait_up_to(SOON + Duration::from_secs(5));
    assert!(killed.elapsed() < SOON, "took {:?}: {done:#?}", killed.elapsed());
    done
}

#[test]
fn a_killed_rank_ends_the_others_and_not_the_cluster() {
    let bed = Bed::new();
    let (going, pids) = busy(&bed, 2, 3);
    let done = kill_and_wait(pids[1], going);
    assert_eq!(done.code, 137, "{done:#?}");
    let done = done.says(&["rank 1 was killed by SIGKILL"]);
    for survivor in ["[0] ", "[2] "] {
        assert!(
            done.err.lines().any(|line| line.starts_with(survivor) && line.contains("rank 1")),
            "{survivor} does not name the dead: {done:#?}"
        );
    }
    let ends: Vec<&str> = done.err.lines().filter(|line| line.starts_with("pagemesh: rank")).collect();
    assert_eq!(ends, ["pagemesh: rank 1 was killed by SIGKILL"], "the cause, once: {done:#?}");
    let then: Vec<&str> = done.err.lines().filter(|line| line.starts_with("pagemesh: then ")).collect();
    assert_eq!(then.len(), 1, "its consequences in one line: {done:#?}");
    assert!(then[0].starts_with("pagemesh: then ranks 0,2 exited with code 70"), "{done:#?}");
    let status = bed.status_until(|status| {
        let members = status["members"].as_array()?;
        (members.len() == 2).then(|| status.clone())
    });
    assert!(status["deaths"].to_string().contains("rank 1"), "{status:#}");
    bed.pagemesh("run matmul --n 20 --verify").ok();
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

/// The process of a daemon.
fn daemon_pid(bed: &Bed, id: u64) -> i32 {
    let status = bed.status();
    let members = status["members"].as_array().expect("members");
    let daemon = members.iter().find(|member| member["id"] == id && member["kind"] == "Daemon");
    let pid = daemon.and_then(|daemon| daemon["pid"].as_i64());
    pid.unwrap_or_else(|| panic!("no daemon {id} in {status:#}")) as i32
}

#[test]
fn the_killed_first_daemon_ends_all() {
    let bed = Bed::new();
    let (going, _) = busy(&bed, 2, 2);
    let done = kill_and_wait(daemon_pid(&bed, 0), going);
    assert_eq!(done.code, 70, "{done:#?}");
    done.says(&["[0] ", "node 0"]);
    // The other daemon ends by itself, too; the state directory is cleared of both.
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

/// Half of the pages of the region, and of the program's, have their home at the daemon that is killed.
#[test]
fn a_killed_daemon_takes_no_page_along() {
    let bed = Bed::new();
    bed.pagemesh("up --nodes 2").ok();
    bed.pagemesh("run --ranks 2 region write data").ok();
    let counter = bed.start("pagemesh", "run --ranks 2 counter --increments 200000");
    bed.status_until(|status| rank_pids(status, 2));
    kill(Pid::from_raw(daemon_pid(&bed, 1)), Signal::SIGKILL).expect("it runs");
    bed.pagemesh("run --ranks 2 region check data").ok().says(&["holds the 100000 numbers"]);
    counter.wait().ok().says(&["400000"]);
    let status = bed.status();
    assert!(status["deaths"].to_string().contains("daemon 1"), "{status:#}");
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

/// A rank that has a page mapped ends in a page fault when the first daemon is killed, and names it.
#[track_caller]
fn ends_in_a_fault(role: &str) {
    let bed = Bed::new();
    bed.pagemesh("up --nodes 2").ok();
    let ready = bed.pipe("ready");
    let subject = env!("CARGO_BIN_EXE_subject");
    let going = bed.start("pagemesh", &format!("run --ranks 1 {subject} {role} {}", ready.path()));
    ready.hear("the rank has its page");
    let done = kill_and_wait(daemon_pid(&bed, 0), going);
    assert_eq!(done.code, 70, "{done:#?}");
    let says = |line: &str| line.contains("a page fault at") && line.contains("node 0 died");
    assert!(done.err.lines().any(says), "the cause is not named: {done:#?}");
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

#[test]
fn a_rank_that_only_loads_ends_with_its_cluster() {
    ends_in_a_fault("load");
}

#[test]
fn a_rank_that_stores_after_the_end_of_its_cluster_ends() {
    ends_in_a_fault("store");
}

#[test]
fn the_commands_own_death_ends_all_that_it_started() {
    let bed = Bed::new();
    bed.pagemesh("up --nodes 1").ok();
    let going = bed.start("pagemesh", &format!("run --ranks 2 {ENDLESS}"));
    bed.status_until(|status| rank_pids(status, 2));
    going.signal(Signal::SIGKILL);
    let done = going.wait_up_to(SOON);
    assert_eq!(done.code, 137, "{done:#?}");
    bed.status_until(|status| (status["members"].as_array()?.len() == 1).then_some(()));
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

#[test]
fn an_interrupt_ends_the_ranks_and_a_private_cluster() {
    let bed = Bed::new();
    // The program says when it runs; nothing else would tell that the interrupt finds it running.
    let ready = bed.pipe("ready");
    let program =
        bed.file("endless.sh", &format!("echo > {}\nexec cat /dev/zero > /dev/null\n", ready.path()));
    let going = bed.start("pagemesh", &format!("run --nodes 2 --ranks 1 sh {program}"));
    ready.hear("the program runs");
    going.signal(Signal::SIGINT);
    let done = going.wait_up_to(SOON);
    assert_eq!(done.code, 130, "{done:#?}");
    bed.assert_nothing_left();
}

#[test]
fn an_interrupt_ends_a_program_that_a_script_runs_in_the_background() {
    let bed = Bed::new();
    let ready = bed.pipe("ready");
    // A shell has what it starts in the background ignore SIGINT, and the ranks inherit that.
    let program = bed.file(
        "endless.sh",
        &format!("trap '' INT\necho > {}\nexec cat /dev/zero > /dev/null\n", ready.path()),
    );
    let start = format!("trap '' INT\nexec {} run --nodes 1 sh {program}\n", bed.binary("pagemesh"));
    let going = bed.start_path("/bin/sh", &bed.file("start.sh", &start));
    ready.hear("the program runs");
    going.signal(Signal::SIGINT);
    let done = going.wait_up_to(SOON);
    assert_eq!(done.code, 143, "{done:#?}");
    bed.assert_nothing_left();
}

#[test]
fn a_second_interrupt_kills() {
    let bed = Bed::new();
    let ready = bed.pipe("ready");
    let program = bed.file(
        "stubborn.sh",
        &format!("trap 'echo > {0}' INT\necho > {0}\nwhile :; do :; done\n", ready.path()),
    );
    let going = bed.start("pagemesh", &format!("run --nodes 1 sh {program}"));
    ready.hear("the program runs");
    going.signal(Signal::SIGINT);
    ready.hear("the program has caught the first");
    // One that comes at once belongs to the first.
    let done = going.signal_until_it_ends(Signal::SIGINT);
    assert_eq!(done.code, 137, "{done:#?}");
    bed.assert_nothing_left();
}
