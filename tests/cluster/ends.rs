//! How runs and clusters end, by a signal or by SIGKILL: which data stay, which lines are shown, and that no process stays.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bed::{Bed, Pipe};

/// Lines of the command itself about the end of a run.
fn own_lines(err: &str) -> Vec<&str> {
    let own = |line: &&str| line.starts_with("pagemesh: ") && !line.contains("take turns");
    err.lines().filter(own).collect()
}

/// A program that writes the region `data`, says so, and stays.
fn writer(bed: &Bed) -> (String, Pipe) {
    let wrote = bed.pipe("wrote");
    let line = format!("exec {} write data --wait > {}\n", bed.binary("region"), wrote.path());
    (bed.file("write.sh", &line), wrote)
}

#[test]
fn an_interrupt_loses_no_page_of_a_cluster_that_stays() {
    let bed = Bed::new();
    bed.pagemesh("up --nodes 2").ok();
    let (program, wrote) = writer(&bed);
    let going = bed.start("pagemesh", &format!("run --ranks 2 sh {program}"));
    assert!(wrote.line("the region is written").starts_with("wrote 100000 numbers"));
    going.signal(Signal::SIGINT);
    let done = going.wait();
    assert_eq!(done.code, 130, "{done:#?}");
    assert_eq!(own_lines(&done.err), ["pagemesh: interrupted"], "{done:#?}");
    assert!(done.err.lines().all(|line| !line.starts_with('[')), "the ranks say nothing: {done:#?}");
    bed.pagemesh("run --ranks 2 region check data").ok().says(&["holds the 100000 numbers"]);
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

/// There the memory goes with the ranks, and each hears of the others' ends.
#[test]
fn an_interrupt_is_one_line_without_daemons_too() {
    let bed = Bed::new();
    let (program, wrote) = writer(&bed);
    let going = bed.start("pagemesh", &format!("run --no-daemons --ranks 3 sh {program}"));
    wrote.line("the region is written");
    going.signal(Signal::SIGINT);
    let done = going.wait();
    assert_eq!(done.code, 130, "{done:#?}");
    let said: Vec<&str> = done.err.lines().filter(|line| !line.contains("take turns")).collect();
    assert_eq!(said, ["pagemesh: interrupted"], "{done:#?}");
    bed.assert_nothing_left();
}

/// Kills the one rank of the cluster, and gives its process.
fn kill_the_rank(bed: &Bed) -> i64 {
    let rank = bed.status_until(|status| {
        let members = status["members"].as_array()?;
        members.iter().find(|member| member["kind"] != "Daemon")?["pid"].as_i64()
    });
    kill(Pid::from_raw(rank as i32), Signal::SIGKILL).expect("it runs");
    rank
}

#[test]
fn what_a_killed_rank_has_written_is_there_for_the_next_program() {
    let bed = Bed::new();
    bed.pagemesh("up --nodes 1").ok();
    let (program, wrote) = writer(&bed);
    let going = bed.start("pagemesh", &format!("run --ranks 1 sh {program}"));
    wrote.line("the region is written");
    kill_the_rank(&bed);
    assert_eq!(going.wait().code, 137);
    bed.pagemesh("run --ranks 1 region check data").ok().says(&["holds the 100000 numbers"]);
    // Its pages go to their homes, and its place is free.
    bed.status_until(|status| (status["members"].as_array()?.len() == 1).then_some(()));
    bed.pagemesh("run --ranks 1 region check data").ok().says(&["holds the 100000 numbers"]);
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

#[test]
fn pages_that_died_with_a_rank_that_nobody_kept_are_named_by_the_next_program() {
    let bed = Bed::new().set("PAGEMESH_KEEP_MAX", "0");
    bed.pagemesh("up --nodes 1").ok();
    let (program, wrote) = writer(&bed);
    let going = bed.start("pagemesh", &format!("run --ranks 1 sh {program}"));
    wrote.line("the region is written");
    let rank = kill_the_rank(&bed);
    assert_eq!(going.wait().code, 137);
    let done = bed.pagemesh("run --ranks 1 region check data");
    assert_eq!(done.code, 70, "{done:#?}");
    done.says(&[
        "was lost with rank 0 of region",
        &format!("process {rank} at"),
        "`pagemesh regions rm data`",
    ]);
    bed.pagemesh("regions rm data").ok();
    bed.pagemesh("run --ranks 1 region write data").ok();
    bed.pagemesh("run --ranks 1 region check data").ok();
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

#[test]
fn daemons_that_are_not_recorded_end_with_the_command_that_started_them() {
    let bed = Bed::new();
    std::fs::create_dir(bed.state()).expect("made");
    std::fs::set_permissions(bed.state(), PermissionsExt::from_mode(0o700)).expect("private");
    // The record is written here first. To open a pipe for writing waits for a reader, and none comes.
    bed.pipe("pagemesh/cluster.json.new");
    let up = bed.start("pagemesh", "up --nodes 2");
    let log = |node: u32| std::fs::read_to_string(bed.state().join(format!("logs/1/node-{node}.log")));
    let is_member = |node| log(node).is_ok_and(|log| log.contains("member of the cluster"));
    bed.until("the daemons are members", || is_member(0) && is_member(1));
    up.signal(Signal::SIGKILL);
    bed.until("the daemons end", || bed.processes().is_empty());
    assert!(log(1).expect("a log").contains("ended before the cluster was recorded"));
    std::fs::remove_file(bed.state().join("cluster.json.new")).expect("removed");
    bed.pagemesh("up --nodes 2").ok();
    bed.pagemesh("run matmul --n 4 --verify").ok();
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

/// The child of a process.
fn child_of(parent: u32) -> i32 {
    let children =
        std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a child")
}

#[test]
fn no_process_of_a_run_survives_the_end_of_the_command() {
    for victim in ["the command", "its guardian"] {
        let bed = Bed::new();
        let started = bed.pipe("started");
        // A grandchild in a session of its own: no signal to a group reaches it.
        let line = format!("echo > {}; exec tail -f /dev/null", started.path());
        let program = bed.file("leave.sh", &format!("setsid sh -c '{line}' > /dev/null 2>&1 &\nwait\n"));
        let going = bed.start("pagemesh", &format!("run --nodes 1 --ranks 1 sh {program}"));
        started.hear("the grandchild runs");
        if victim == "the command" {
            going.signal(Signal::SIGKILL);
            assert_eq!(going.wait().code, 137);
            bed.until("its processes end", || bed.processes().is_empty());
            bed.assert_nothing_left();
        } else {
            kill(Pid::from_raw(child_of(going.pid)), Signal::SIGKILL).expect("it runs");
            let done = going.wait();
            assert_eq!(done.code, 137, "{done:#?}");
            assert_eq!(bed.processes(), [] as [i32; 0], "the command has ended them");
            done.says(&["the guardian of the run was killed by SIGKILL"]);
        }
    }
}

/// Stops a process, and waits until it is stopped.
fn stop(bed: &Bed, pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("it runs");
    until_stopped(bed, pid);
}

fn until_stopped(bed: &Bed, pid: i32) {
    bed.until("the process is stopped", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    });
}

#[test]
fn a_stopped_rank_heeds_the_wish_to_stop_its_run() {
    let bed = Bed::new();
    let (started, never) = (bed.pipe("started"), bed.pipe("never"));
    let told = bed.dir().join("told");
    let program = bed.file(
        "wait.sh",
        &format!(
            "trap 'echo > {}; exit' TERM\necho $$ > {}\nread word < {}\n",
            told.display(),
            started.path(),
            never.path()
        ),
    );
    let going = bed.start("pagemesh", &format!("run --no-daemons --ranks 1 sh {program}"));
    stop(&bed, started.line("the rank runs").trim().parse().expect("a process"));
    going.signal(Signal::SIGTERM);
    let done = going.wait();
    assert_eq!(done.code, 143, "{done:#?}");
    assert!(told.exists(), "killed before it could handle the signal: {done:#?}");
    bed.assert_nothing_left();
}

#[test]
fn a_stopped_rank_goes_on_when_another_one_has_failed() {
    let bed = Bed::new();
    let (started, go) = (bed.pipe("started"), bed.pipe("go"));
    let program = bed.file(
        "fail.sh",
        &format!(
            "if [ $PAGEMESH_RANK = 1 ]; then read word < {}; exit 3; fi\necho $$ > {}\nkill -STOP $$\n",
            go.path(),
            started.path()
        ),
    );
    let going = bed.start("pagemesh", &format!("run --no-daemons --ranks 2 sh {program}"));
    // It stops itself, once: stopped from outside, it would do so again after it has been resumed.
    until_stopped(&bed, started.line("rank 0 runs").trim().parse().expect("a process"));
    go.say("fail");
    let done = going.wait();
    assert_eq!(done.code, 3, "{done:#?}");
    assert!(!done.err.contains("do not end by themselves"), "rank 0 stays stopped: {done:#?}");
    bed.assert_nothing_left();
}

#[test]
fn a_stopped_guardian_goes_on_to_end_its_run() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let bed = Bed::new();
        let started = bed.pipe("started");
        let line = format!("echo > {}; exec tail -f /dev/null\n", started.path());
        let program = bed.file("wait.sh", &line);
        let going = bed.start("pagemesh", &format!("run --no-daemons --ranks 1 sh {program}"));
        started.hear("the rank runs");
        stop(&bed, child_of(going.pid));
        going.signal(signal);
        assert_eq!(going.wait().code, 128 + signal as i32);
        bed.until("its processes end", || bed.processes().is_empty());
    }
}

/// What a program shows on a terminal that draws a bar there, and is interrupted.
#[test]
fn an_interrupt_is_shown_in_place_of_a_programs_bar() {
    let bed = Bed::new();
    let (started, never) = (bed.pipe("started"), bed.pipe("never"));
    let line = format!("printf 'a bar' >&2\necho > {}\nread word < {}\n", started.path(), never.path());
    let program = bed.file("bar.sh", &line);
    let terminal = nix::pty::openpty(None, None).expect("a terminal");
    let side = || Stdio::from(terminal.slave.try_clone().expect("a descriptor"));
    let going = bed.start_with(&format!("run --no-daemons --ranks 1 sh {program}"), side(), side());
    drop(terminal.slave);
    started.hear("the bar is drawn");
    going.signal(Signal::SIGINT);
    assert_eq!(going.wait().code, 130);
    let mut shown = Vec::new();
    // The end of a terminal is an error; what came before it stays.
    let _ = File::from(terminal.master).read_to_end(&mut shown);
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("a bar\r\u{1b}[Kpagemesh: interrupted\r\n"), "{shown:?}");
    bed.assert_nothing_left();
}

#[test]
fn a_run_says_that_its_cluster_was_taken_down() {
    let bed = Bed::new();
    bed.pagemesh("up --nodes 1").ok();
    let going = bed.start("pagemesh", "run --ranks 2 jacobi --n 256 --iterations 1000000");
    bed.status_until(|status| (status["regions"].as_array()?.len() == 2).then_some(()));
    bed.pagemesh("down").ok();
    let done = going.wait();
    assert!([2, 70].contains(&done.code), "{done:#?}");
    let own = own_lines(&done.err);
    let down = "pagemesh: the cluster was taken down (`pagemesh down`)";
    let position = own.iter().position(|line| *line == down);
    let last = position.unwrap_or_else(|| panic!("it is not said: {done:#?}")) + 1;
    assert!(last == own.len() || own[last].starts_with("pagemesh: then rank"), "{done:#?}");
    assert!(!done.err.contains("another process"), "{done:#?}");
    bed.assert_nothing_left();
}

#[test]
fn each_cluster_has_logs_of_its_own_and_few_are_kept() {
    let bed = Bed::new();
    for _ in 0..7 {
        bed.pagemesh("up --nodes 1").ok();
        bed.pagemesh("down").ok();
    }
    let logs = bed.pagemesh("logs 0").ok();
    assert_eq!(logs.out.matches("member of the cluster").count(), 1, "of the last cluster: {logs:#?}");
    assert!(logs.err.contains("logs/7/node-0.log"), "{logs:#?}");
    let kept = std::fs::read_dir(bed.state().join("logs")).expect("logs").count();
    assert_eq!(kept, 5);
}

/// What four ranks show on a terminal that write while the command is stopped, so that it finds all lines at
/// the same time.
fn on_terminal(bed: &Bed, flags: &str) -> String {
    let pipes =
        |what: &str| -> Vec<Pipe> { (0..4).map(|rank| bed.pipe(&format!("{what}-{rank}"))).collect() };
    let (ready, go, done) = (pipes("ready"), pipes("go"), pipes("done"));
    let dir = bed.dir().display();
    let program = bed.file(
        "write.sh",
        &format!(
            "r=$PAGEMESH_RANK\necho > {dir}/ready-$r\nread word < {dir}/go-$r\n\
             echo the same line\necho rank $r\necho the same trouble >&2\necho > {dir}/done-$r\n"
        ),
    );
    let terminal = nix::pty::openpty(None, None).expect("a terminal");
    let side = || Stdio::from(terminal.slave.try_clone().expect("a descriptor"));
    let going = bed.start_with(&format!("run --no-daemons --ranks 4 {flags} sh {program}"), side(), side());
    drop(terminal.slave);
    ready.iter().for_each(|pipe| drop(pipe.hear("a rank runs")));
    let guardian = child_of(going.pid);
    let signal = |signal| kill(Pid::from_raw(guardian), signal).expect("it runs");
    signal(Signal::SIGSTOP);
    bed.until("the guardian is stopped", || {
        let stat = std::fs::read_to_string(format!("/proc/{guardian}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    });
    go.iter().for_each(|pipe| pipe.say("go"));
    done.iter().for_each(|pipe| drop(pipe.hear("a rank has written")));
    signal(Signal::SIGCONT);
    going.wait().ok();
    let mut shown = Vec::new();
    // The end of a terminal is an error; what came before it stays.
    let _ = File::from(terminal.master).read_to_end(&mut shown);
    String::from_utf8_lossy(&shown).replace("\r\n", "\n")
}

#[test]
fn equal_lines_of_ranks_become_one_on_a_terminal() {
    let bed = Bed::new().set("NO_COLOR", "1");
    let shown = on_terminal(&bed, "");
    let own = |line: &&str| !line.contains("take turns");
    let mut lines: Vec<&str> = shown.lines().filter(own).collect();
    lines.sort_unstable();
    let expected = [
        "[0-3] the same line",
        "[0-3] the same trouble",
        "[0] rank 0",
        "[1] rank 1",
        "[2] rank 2",
        "[3] rank 3",
    ];
    assert_eq!(lines, expected, "{shown}");
}

#[test]
fn every_line_is_shown_on_a_terminal_where_that_is_asked_for() {
    let bed = Bed::new();
    let shown = on_terminal(&bed, "--no-merge");
    assert_eq!(shown.matches("the same line").count(), 4, "{shown}");
    assert!(shown.contains("\x1b[32m[2]\x1b[0m rank 2\n"), "tags have colours: {shown:?}");
}
