//! Which processes hold a node's memory beside its own, and what of that stays behind.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::bed::{Bed, Going};

/// A member's id, process, and the members that hold its memory.
struct Member {
    id: u64,
    pid: i32,
    is_daemon: bool,
    kept_by: BTreeSet<u64>,
    keeps: BTreeSet<u64>,
}

/// The members by ascending id, if all answer.
fn members(status: &Value) -> Option<Vec<Member>> {
    let ids = |value: &Value| value.as_array()?.iter().map(Value::as_u64).collect::<Option<BTreeSet<u64>>>();
    let member = |member: &Value| {
        let keeping = &member["status"]["keeping"];
        Some(Member {
            id: member["id"].as_u64()?,
            pid: member["pid"].as_i64()? as i32,
            is_daemon: member["kind"] == "Daemon",
            kept_by: ids(&keeping["kept_by"])?,
            keeps: ids(&keeping["keeps"])?,
        })
    };
    let mut members = status["members"].as_array()?.iter().map(member).collect::<Option<Vec<_>>>()?;
    members.sort_by_key(|member| member.id);
    Some(members)
}

/// The first daemon and the next rank after a member, in the order of their ids, the lowest after the highest.
fn expected(members: &[Member], of: &Member) -> BTreeSet<u64> {
    let next = |is_daemon: bool| {
        let others = members.iter().filter(|other| other.is_daemon == is_daemon && other.id != of.id);
        others.map(|other| other.id).min_by_key(|&id| (id < of.id, id))
    };
    let mut expected: BTreeSet<u64> = next(true).into_iter().chain(next(false)).collect();
    // Of one kind there may be nobody else.
    for other in members.iter().filter(|other| other.id != of.id) {
        if expected.len() < 2 {
            expected.insert(other.id);
        }
    }
    expected
}

/// The members, when there are so many and each is kept as it should be, and keeps nothing else.
fn settled(status: &Value, count: usize) -> Option<Vec<Member>> {
    let members = members(status).filter(|members| members.len() == count)?;
    let is_settled = |of: &Member| {
        let keeps = members.iter().filter(|other| other.kept_by.contains(&of.id)).map(|other| other.id);
        of.kept_by == expected(&members, of) && of.keeps == keeps.collect()
    };
    members.iter().all(is_settled).then_some(members)
}

/// Sockets in the directory of the test's cluster.
fn sockets(bed: &Bed) -> usize {
    std::fs::read_dir(bed.state().join("keep")).map_or(0, Iterator::count)
}

/// Starts programs of one rank, which have touched their pages on return and wait until they are stopped.
fn start(bed: &Bed, ranks: usize) -> Vec<Going> {
    let go = bed.pipe("go");
    let start = |rank: usize| {
        let told = bed.pipe(&format!("told-{rank}"));
        let subject = env!("CARGO_BIN_EXE_subject");
        let line = format!("run --ranks 1 {subject} wait {} {}", told.path(), go.path());
        let going = bed.start("pagemesh", &line);
        assert_eq!(told.hear("the rank has touched its pages"), "ready");
        going
    };
    (0..ranks).map(start).collect()
}

#[test]
fn a_daemon_and_the_next_rank_hold_a_nodes_memory_and_a_killed_one_is_replaced() {
    let bed = Bed::new();
    bed.pagemesh("up --daemons 2").ok();
    let mut programs = start(&bed, 3);
    let before = bed.status_until(|status| settled(status, 5));
    assert_eq!(sockets(&bed), 5);
    let shown = bed.pagemesh("status").ok().out;
    let row =
        shown.lines().skip_while(|line| !line.contains("KEPT BY")).find(|line| line.contains("daemon 0"));
    let words: Vec<&str> = row.expect("a row").split_whitespace().collect();
    assert_eq!(words[2..4], ["1,", "2"], "{shown}");
    // It keeps daemon 0, daemon 1 and the rank before it.
    let victim = before.iter().find(|member| !member.is_daemon).expect("a rank");
    assert!(victim.keeps.len() == 3 && victim.kept_by.contains(&0), "{:?}", victim.keeps);
    kill(Pid::from_raw(victim.pid), Signal::SIGKILL).expect("it runs");
    let after = bed.status_until(|status| settled(status, 4));
    assert!(after.iter().all(|member| !member.kept_by.contains(&victim.id)));
    // Its keepers have removed the name that it left.
    bed.until("four sockets", || sockets(&bed) == 4);
    for program in &programs {
        // One of them has ended.
        let _ = kill(Pid::from_raw(program.pid as i32), Signal::SIGTERM);
    }
    programs.drain(..).for_each(|program| drop(program.wait()));
    bed.status_until(|status| settled(status, 2));
    bed.pagemesh("down").ok();
    assert_eq!(sockets(&bed), 0, "of processes that ended by themselves nothing stays");
    bed.assert_nothing_left();
}

#[test]
fn an_ordinary_users_processes_hold_each_others_memory() {
    let bed = Bed::unprivileged();
    bed.pagemesh("up --daemons 2").ok();
    bed.status_until(|status| settled(status, 2));
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

#[test]
fn the_log_and_the_status_say_why_nobody_holds_a_nodes_memory() {
    let bed = Bed::new();
    let open = bed.dir().join("open");
    std::fs::create_dir(&open).expect("a directory");
    std::fs::set_permissions(&open, Permissions::from_mode(0o755)).expect("the test's own");
    let bed = bed.set("PAGEMESH_KEEP_DIR", &open.display().to_string());
    bed.pagemesh("up --daemons 2").ok();
    let status = bed.status_until(|status| {
        let unkept = status["members"][0]["status"]["keeping"]["unkept"].as_str()?;
        unkept.contains("no other process of its host takes any").then(|| status.clone())
    });
    let keeps_nothing =
        status["members"][1]["status"]["keeping"]["keeps_nothing"].as_str().unwrap_or_default();
    assert!(keeps_nothing.contains("mode 755") && keeps_nothing.contains("chmod 700"), "{status:#}");
    for words in [
        &["WARN", "this process cannot keep the memory of other nodes", "chmod 700"][..],
        &["WARN", "no other process holds the memory of node 1"],
    ] {
        bed.until("the log says it once", || {
            let log = bed.pagemesh("logs 1").ok().out;
            log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count() == 1
        });
    }
    let shown = bed.pagemesh("status").ok().out;
    assert!(shown.contains("nobody: no other process of its host"), "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    bed.pagemesh("down").ok();

    let own = bed.dir().join("keep").display().to_string();
    let bed = bed.set("PAGEMESH_KEEP_DIR", &own);
    bed.pagemesh("up --daemons 1").ok();
    bed.until("the log says so", || {
        let log = bed.pagemesh("logs 0").ok().out;
        log.lines().any(|line| line.contains("INFO") && line.contains("it is alone on its host"))
    });
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}
