//! Forty wrong uses. Those that can be seen before anything starts are one line and exit code 2, and nothing is
//! started. Those that only a running rank can see are one line that names the rank and both values; the
//! processes of that run go, and others' regions stay as they were.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::bed::Bed;

/// How much longer than a run without mistakes one may take: the processes of a run end when one of its ranks was
/// refused.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// A place with files to be wrong about, and a program and an `ssh` that leave a mark when they run.
fn prepared() -> Bed {
    let bed = Bed::new();
    let mark = bed.dir().join("started").display().to_string();
    for (name, text) in [
        ("program", format!("#!/bin/sh\ntouch {mark}\n")),
        ("ssh", format!("#!/bin/sh\ntouch {mark}\n")),
        ("plain", "no program\n".to_owned()),
        ("empty", "# nobody\n".to_owned()),
        ("many", "red:200\n".to_owned()),
        ("open-list", "node[1-\n".to_owned()),
        ("backwards", "red\nnode[4-1]\n".to_owned()),
        ("two-counts", "red:2 slots=2\n".to_owned()),
        ("bare-six", "fe80::1\n".to_owned()),
        ("mixed", "localhost\nred\n".to_owned()),
        ("not-toml", "net_seed = 1\nthis is no toml\n".to_owned()),
        ("unknown-key", "net_los = \"5%\"\n".to_owned()),
        ("open-key", "5a".repeat(32)),
        ("short-key", "5a".repeat(31)),
    ] {
        let path = bed.file(name, &text);
        let mode = match name {
            "program" | "ssh" => 0o755,
            "open-key" => 0o644,
            _ => 0o600,
        };
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("a mode");
    }
    let path = format!("{}:{}", bed.dir().display(), std::env::var("PATH").unwrap_or_default());
    bed.set("PATH", &path)
}

/// What a wrong use is, and words of the line that says so.
const BEFORE: &[(&str, &[&str])] = &[
    // Flags.
    ("up --daemon 3", &["'--daemon'", "'--daemons'"]),
    ("up --daemons three", &["three", "--daemons"]),
    ("up --port 70000", &["70000", "--port"]),
    ("up --arena-base here", &["`here` is not an address for the arena", "--arena-base"]),
    ("run", &["not provided", "<PROGRAM>"]),
    ("run --memory-max lots ./program", &["`lots` is not a size"]),
    ("run --no-daemons --private ./program", &["--no-daemons", "--private", "cannot be used with"]),
    ("run --no-daemons --hosts empty ./program", &["--no-daemons", "--hosts", "cannot be used with"]),
    ("status --interval soon", &["soon", "not a number of seconds"]),
    ("rpc call 0 Node.status --deadline 0", &["--deadline", "no time at all"]),
    ("completions tcsh", &["tcsh", "bash"]),
    ("stats", &["'stats'", "'status'"]),
    // Limits.
    ("up --daemons 0", &["--daemons 0", "1 to"]),
    ("up --daemons 65", &["65", "64"]),
    ("run --ranks 0 ./program", &["--ranks 0", "at least one"]),
    ("run --ranks 129 ./program", &["129 ranks", "128"]),
    ("up --memory-max 5", &["memory", "5"]),
    // Files and names.
    ("run matmull", &["matmull", "did you mean the example `matmul`"]),
    ("run ./nowhere", &["./nowhere", "No such file"]),
    ("run /tmp", &["/tmp", "directory"]),
    ("run ./plain", &["./plain", "not executable"]),
    ("regions rm two\u{1}lines", &["control characters"]),
    ("new two\u{1}lines", &[r#"new "two\u{1}lines""#, "control characters"]),
    ("logs 3", &["no log", "node 3"]),
    // Hosts.
    ("up --hosts nowhere", &["hosts file nowhere", "No such file"]),
    ("up --hosts empty", &["hosts file empty: no host in it"]),
    ("up --hosts many", &["line 1", "`red:200`", "from 1 to 128"]),
    ("up --hosts open-list", &["line 1", "not closed", "node[1-4,7]"]),
    ("up --hosts backwards", &["line 2", "`4-1` runs backwards"]),
    ("run --hosts two-counts ./program", &["line 1", "`red:2` has 2 slots already"]),
    ("doctor --hosts bare-six", &["line 1", "`[fe80::1]`"]),
    ("up --hosts mixed", &["`localhost` means another machine"]),
    // Keys and addresses.
    ("key new plain", &["plain", "exists"]),
    ("daemon --key-file nowhere", &["nowhere", "No such file"]),
    ("daemon --key-file open-key", &["open-key", "chmod 600"]),
    ("daemon --key-file short-key", &["short-key", "64 hexadecimal digits"]),
    ("daemon --bind 0.0.0.0:0", &["without a key", "0.0.0.0", "loopback", "--key-file"]),
    ("daemon --encrypt sometimes", &["--encrypt", "`sometimes` is none of all, hosts and never"]),
    ("key fingerprint nowhere", &["nowhere", "No such file"]),
    ("key fingerprint open-key", &["open-key", "chmod 600"]),
    ("daemon --bind here", &["--bind", "`here` is not an address"]),
    // Nothing is there to be used.
    ("status", &["no cluster is running here", "pagemesh up"]),
    ("regions ls", &["no cluster is running here", "pagemesh up"]),
];

#[test]
fn what_is_wrong_before_anything_starts_is_one_line_and_nothing_is_started() {
    let bed = prepared();
    for (line, words) in BEFORE {
        bed.pagemesh(line).refused(words);
        assert_nothing_was_started(&bed, line);
    }
}

/// Variables and settings files, which hold for `up` and `run` alike. Each setting that can have a wrong value stands
/// here: all but the name of a key's file, which the commands give themselves.
#[test]
fn a_wrong_setting_is_one_line_and_nothing_is_started() {
    for (name, value, words) in [
        ("PAGEMESH_NET_LOS", "5%", ["PAGEMESH_NET_LOS", "did you mean `net_loss`"]),
        ("PAGEMESH_JOIN", "here", ["PAGEMESH_JOIN", "`here` is not an address"]),
        ("PAGEMESH_BIND", "here", ["PAGEMESH_BIND", "`here` is not an address"]),
        ("PAGEMESH_ENCRYPT", "no", ["PAGEMESH_ENCRYPT", "`no` is none of all, hosts and never"]),
        ("PAGEMESH_PROGRAM", "0x1", ["PAGEMESH_PROGRAM", "`0x1` is not an id"]),
        ("PAGEMESH_RANK", "first", ["PAGEMESH_RANK", "`first` is not a number"]),
        ("PAGEMESH_RANKS", "-2", ["PAGEMESH_RANKS", "`-2` is not a number"]),
        ("PAGEMESH_NEAREST", "70000", ["PAGEMESH_NEAREST", "`70000` is not a number"]),
        ("PAGEMESH_SOCKET_FD", "none", ["PAGEMESH_SOCKET_FD", "`none` is not a number"]),
        ("PAGEMESH_FAULT", "x", ["fault backend 'x'", "auto, signal, thread, mprotect or none"]),
        ("PAGEMESH_ARENA_BASE", "here", ["PAGEMESH_ARENA_BASE", "`here` is not an address for the arena"]),
        ("PAGEMESH_ARENA_SIZE", "large", ["PAGEMESH_ARENA_SIZE", "`large` is not a length for the arena"]),
        ("PAGEMESH_MEMORY_MAX", "lots", ["PAGEMESH_MEMORY_MAX", "`lots` is not a size"]),
        ("PAGEMESH_SOCKET_BUFFER", "lots", ["PAGEMESH_SOCKET_BUFFER", "`lots` is not a size"]),
        ("PAGEMESH_RPC_WORKERS", "-1", ["PAGEMESH_RPC_WORKERS", "`-1` is not a number"]),
        ("PAGEMESH_SILENCE_MAX_MS", "soon", ["PAGEMESH_SILENCE_MAX_MS", "`soon` is not a number"]),
        ("PAGEMESH_SILENCE_MAX_MS", "100", ["PAGEMESH_SILENCE_MAX_MS", "100 ms are too few"]),
        ("PAGEMESH_NET_LOSS", "101%", ["PAGEMESH_NET_LOSS=101%", "a share such as 5% or 0.05"]),
        ("PAGEMESH_NET_DUP", "-1%", ["PAGEMESH_NET_DUP=-1%", "a share such as"]),
        ("PAGEMESH_NET_REORDER", "often", ["PAGEMESH_NET_REORDER=often", "a share such as"]),
        ("PAGEMESH_NET_CORRUPT", "2", ["PAGEMESH_NET_CORRUPT=2", "a share such as"]),
        ("PAGEMESH_NET_DELAY", "5", ["PAGEMESH_NET_DELAY=5", "a time such as 2ms or 500us"]),
        ("PAGEMESH_NET_SEED", "x", ["PAGEMESH_NET_SEED=x", "a whole number"]),
        ("PAGEMESH_LOG", "pagemesh=loud", ["PAGEMESH_LOG", "`pagemesh=loud` is not a filter"]),
        ("PAGEMESH_HOST_NODES", "many", ["PAGEMESH_HOST_NODES", "`many` is not a number"]),
        ("PAGEMESH_CONFIG", "nowhere", ["nowhere", "No such file"]),
        ("PAGEMESH_CONFIG", "not-toml", ["not-toml: line 2", "this is no toml"]),
        ("PAGEMESH_CONFIG", "unknown-key", ["unknown-key: net_los", "did you mean `net_loss`"]),
        ("PAGEMESH_STATE_DIR", "plain", ["plain", "not a directory"]),
    ] {
        let bed = prepared().set(name, value);
        for line in ["up --daemons 1", "run --daemons 1 ./program", "run --no-daemons ./program"] {
            if name == "PAGEMESH_STATE_DIR" && line.contains("--no-daemons") {
                continue; // it has a directory of its own
            }
            // What the parser of a settings file says is its own affair.
            let words = if value == "not-toml" { &words[..1] } else { &words[..] };
            bed.pagemesh(line).refused(words);
            assert_nothing_was_started(&bed, line);
        }
    }
}

/// No process runs, and none has: no rank or `ssh` has left its mark, and no daemon has opened its log.
fn assert_nothing_was_started(bed: &Bed, line: &str) {
    bed.assert_nothing_left();
    assert!(!bed.dir().join("started").exists(), "`{line}` has started a program");
    assert_eq!(logs(bed.dir()), [] as [String; 0], "`{line}` has started a daemon");
}

/// Files named as logs of daemons, in this directory and those in it.
fn logs(dir: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(logs(&path));
        } else if name.starts_with("node-") {
            found.push(name);
        }
    }
    found
}

/// What rank 1 does, and what its line says: both values, where there are two.
const RUNNING: &[(&str, &[&str])] = &[
    ("size", &["region `data`", "32768", "65536"]),
    ("element", &["region `data`", "elements of 8 bytes", "elements of 1 bytes"]),
    ("placement", &["region `data`", "placement block", "not cyclic"]),
    ("attach-element", &["region `data`", "elements of 8 bytes", "elements of 2 bytes"]),
    ("type", &["region `data`", "`<u8`", "`<f8`"]),
    ("attach-absent", &["there is no region `nothing`"]),
    ("remove-absent", &["there is no region `nothing`"]),
    ("name-empty", &["1 to 255 bytes, not 0"]),
    ("name-long", &["1 to 255 bytes, not 256"]),
    ("name-control", &[r#"region "two\nlines""#, "control characters"]),
    ("length-zero", &["region `new`", "at least one byte"]),
    ("length-overflow", &["region `new`", "elements of 8 bytes are beyond any memory"]),
    ("element-zero", &["region `new`", "elements without size"]),
    ("no-home", &["region `new`", "node 77 keeps no homes"]),
    ("no-room", &["region `new` of 1073741824 bytes", "memory_max"]),
    ("mutex-size", &["region `mutex guard`", "8", "16"]),
    ("lock-twice", &["rank 1", "counter", "already"]),
    ("copy-in-beyond", &["2 elements from 4095 of 4096"]),
    ("copy-out-beyond", &["1 elements from 4097 of 4096"]),
];

#[test]
fn what_a_running_rank_does_wrong_is_one_line_that_names_it_and_others_regions_stay() {
    let bed = Bed::new();
    let subject = env!("CARGO_BIN_EXE_subject");
    bed.pagemesh("up --daemons 1 --memory-max 256MiB").ok();
    let began = Instant::now();
    bed.pagemesh(&format!("run --ranks 2 {subject} make")).ok();
    let usual = began.elapsed();
    let daemons = bed.processes();
    for (what, words) in RUNNING {
        let began = Instant::now();
        let done = bed.pagemesh(&format!("run --ranks 2 {subject} {what}"));
        let took = began.elapsed();
        assert_eq!(bed.processes(), daemons, "{what}: only the daemon runs: {done:#?}");
        assert!(took < usual + GONE_WITHIN, "{what}: the run took {took:?}: {done:#?}");
        assert_eq!(done.code, 2, "{what}: {done:#?}");
        // Rank 0, which waits at a barrier, may say before or after it that rank 1 has gone.
        let of_rank_1: Vec<&str> = done.err.lines().filter(|line| line.starts_with("[1] ")).collect();
        assert_eq!(of_rank_1.len(), 1, "{what}: one line: {done:#?}");
        assert!(words.iter().all(|word| of_rank_1[0].contains(word)), "{what}: {words:?}: {done:#?}");
    }
    bed.pagemesh(&format!("run --ranks 2 {subject} check")).ok();
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}
