//! How files look: length, opening, words that have no business here, and where `unsafe` may stand.

use std::collections::BTreeSet;

use crate::source::{Source, assert_none, root, sources};

/// Longest file, in lines.
const LINES_MAX: usize = 800;

/// Where `unsafe` may stand outside tests. Each is a place that a reader must trust; keep them few.
const UNSAFE_FILES: &[&str] = &[
    // Page faults: mappings, the signal handler, and the system calls that nothing wraps.
    "dsm/src/fault/ample_stack.rs",
    "dsm/src/fault/handler.rs",
    "dsm/src/fault/map.rs",
    "dsm/src/fault/record.rs",
    "dsm/src/fault/table.rs",
    "dsm/src/fault/uffd.rs",
    "dsm/src/io.rs",
    // The handler that tells a forked child from its parent.
    "dsm/src/fork.rs",
    // The hook at exit, the handlers of SIGINT and its like, and a wait with a nanosecond timeout.
    "dsm/src/node/exit.rs",
    "dsm/src/node/interrupt.rs",
    "dsm/src/node/poller.rs",
    "dsm/src/node/time_slice.rs",
    // A descriptor that the process was started with.
    "dsm/src/settings/inherited.rs",
    // The typed handles on shared memory.
    "dsm/src/shared/atomic.rs",
    "dsm/src/shared/copy.rs",
    "dsm/src/shared/element.rs",
    "dsm/src/shared/slice.rs",
    // The implementations of unsafe traits that it generates, with what it checks.
    "derive/src/lib.rs",
];

/// Folders of programs that use shared memory as their users would: through slices that are unsafe to
/// make, and raw pointers.
const UNSAFE_FOLDERS: [&str; 3] = ["examples/src/bin/", "bench/", "cli/src/demo/"];

/// Files that may wait by the clock: they measure what happens in a while.
const MAY_SLEEP: [&str; 2] = ["bench/src/idle.rs", "bench/src/machine.rs"];

fn all() -> Vec<Source> {
    let folders =
        ["dsm", "derive", "rpcgen", "node-daemon", "cli", "sim", "examples", "tests", "bench", "fuzz"];
    folders.into_iter().flat_map(sources).filter(|source| !source.is_generated()).collect()
}

fn uses_unsafe(line: &str) -> bool {
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait", "unsafe("]
        .iter()
        .any(|word| line.contains(word))
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut findings = Vec::new();
    for source in all() {
        // Input and expected output of the generator, word for word.
        if source.path.starts_with("rpcgen/tests/") {
            continue;
        }
        if !source.text.starts_with("//!") {
            findings.push(format!("{}: does not open with `//!`", source.path));
        }
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            findings.push(format!("{}: {lines} lines, at most {LINES_MAX}", source.path));
        }
    }
    assert_none("files", &findings);
}

#[test]
fn unsafe_stands_in_a_short_list_of_files() {
    let mut findings = Vec::new();
    let mut unused: BTreeSet<&str> = UNSAFE_FILES.iter().copied().collect();
    for source in all().into_iter().filter(|source| !source.is_test()) {
        let found = source.refuse(|line| uses_unsafe(line).then(|| "unsafe".to_owned()));
        if !found.is_empty() {
            unused.remove(source.path.as_str());
        }
        let listed = UNSAFE_FILES.contains(&source.path.as_str());
        if !listed && !UNSAFE_FOLDERS.iter().any(|folder| source.path.starts_with(folder)) {
            findings.extend(found);
        }
    }
    findings.extend(unused.iter().map(|path| format!("{path}: listed, but there is no unsafe in it")));
    assert_none("unsafe outside its files", &findings);
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let mut findings = Vec::new();
    for source in all() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let block = line.contains("unsafe {") || line.contains("unsafe impl");
            let comment = line.trim_start().starts_with("//");
            // The comment stands before the statement, which may be a few lines long.
            let said = lines[at.saturating_sub(8)..=at].iter().any(|line| line.contains("SAFETY"));
            if block && !comment && !said && source.path != "tests/tidy/shape.rs" {
                findings.push(format!("{}:{}: no SAFETY line", source.path, at + 1));
            }
        }
    }
    assert_none("unsafe without a reason", &findings);
}

#[test]
fn nothing_waits_by_sleeping() {
    let mut findings = Vec::new();
    for source in all().into_iter().filter(|source| !MAY_SLEEP.contains(&source.path.as_str())) {
        if source.path == "tests/tidy/shape.rs" {
            continue;
        }
        let lines = source.text.lines().enumerate().filter(|(_, line)| line.contains("thread::sleep"));
        findings.extend(lines.map(|(at, _)| format!("{}:{}: sleeps", source.path, at + 1)));
    }
    assert_none("waits are for events", &findings);
}

#[test]
fn no_port_is_fixed() {
    let mut findings = Vec::new();
    for source in all() {
        findings.extend(source.refuse(|line| {
            let bind = line.contains("bind(") || line.contains("connect(");
            let (_, port) = line.split_once("127.0.0.1:").or_else(|| line.split_once("0.0.0.0:"))?;
            (bind && port.starts_with(|c: char| ('1'..='9').contains(&c))).then(|| "a fixed port".to_owned())
        }));
    }
    assert_none("ports", &findings);
}

#[test]
fn words_that_age_badly_are_absent() {
    // In two parts, so that this file does not find itself.
    let places =
        [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/tm", "p/wt")];
    let later = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    let mut findings = Vec::new();
    for source in all() {
        for (at, line) in source.text.lines().enumerate() {
            let place = places.iter().find(|word| line.contains(**word));
            let later = later.iter().find(|word| line.contains(**word)).filter(|_| !line.contains("until"));
            findings.extend(place.or(later).map(|word| format!("{}:{}: `{word}`", source.path, at + 1)));
        }
    }
    assert_none("a machine's paths; a promise without the condition that ends it (`until ..`)", &findings);
}

#[test]
fn every_dependency_has_its_reason() {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).expect("the workspace's manifest");
    let (_, table) = text.split_once("[workspace.dependencies]").expect("a table of dependencies");
    let table = table.split("\n[").next().unwrap_or(table);
    let lines = table.lines().filter(|line| line.contains('=') && !line.contains("path ="));
    let without: Vec<String> = lines.filter(|line| !line.contains("# ")).map(str::to_owned).collect();
    assert_none("dependencies without a reason", &without);
}

#[test]
fn members_take_their_dependencies_from_the_one_table() {
    let mut findings = Vec::new();
    for member in ["dsm", "derive", "rpcgen", "node-daemon", "cli", "sim", "examples", "tests"] {
        let path = root().join(member).join("Cargo.toml");
        let text = std::fs::read_to_string(&path).expect("a member's manifest");
        for line in text.lines().filter(|line| line.contains("version = \"")) {
            findings.push(format!("{member}/Cargo.toml: `{line}`: say `workspace = true`"));
        }
    }
    assert_none("versions outside the workspace's table", &findings);
}
