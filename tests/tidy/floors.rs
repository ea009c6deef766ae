//! Floors: who may import whom, downwards only. `fault`, `coherence` and `net` never see each other, and
//! only `node` names all three. The cores decide and do nothing else.

use crate::source::{Source, assert_none, root, sources};

/// The modules of the library, each with the modules that it may import beside the words below.
const MAY_IMPORT: [(&str, &[&str]); 23] = [
    ("page", &[]),
    ("config", &[]),
    ("error", &[]),
    ("settings", &[]),
    ("codec", &[]),
    ("mutation", &[]),
    ("coherence", &[]),
    ("membership", &["coherence"]),
    ("net", &[]),
    ("machine", &["coherence", "membership", "net", "rpc"]),
    ("key", &["net"]),
    ("io", &[]),
    ("fork", &[]),
    ("process", &[]),
    ("fault", &["fork", "io", "process"]),
    ("keep", &["fault", "process"]),
    ("rpc", &["fork"]),
    (
        "node",
        &["coherence", "fault", "fork", "keep", "key", "machine", "membership", "net", "process", "rpc"],
    ),
    ("shared", &["coherence", "fork", "membership", "node", "rpc", "sync"]),
    ("sync", &["coherence", "fork", "node", "shared"]),
    ("client", &["coherence", "fork", "machine", "net", "rpc"]),
    ("admin", &["client", "membership", "net", "node", "rpc"]),
    ("lib", &[]),
];

/// Floor 0: what every module speaks.
const WORDS: [&str; 6] = ["page", "config", "error", "settings", "codec", "mutation"];

/// Modules that decide and do no IO.
const CORES: [&str; 4] = ["coherence", "machine", "membership", "net"];

/// Files below the cores that do the IO.
const SHELLS: [&str; 3] = ["dsm/src/net/udp.rs", "dsm/src/net/udp/outlet.rs", "dsm/src/net/udp/paths.rs"];

/// What a core must not know: clocks, threads, sockets, system calls.
const OUTSIDE: [&str; 12] = [
    "std::time",
    "Instant",
    "SystemTime",
    "std::thread",
    "thread::",
    "UdpSocket",
    "socket2",
    "libc",
    "nix::",
    "std::fs",
    "std::env",
    "unsafe",
];

/// Modules of the library that no program names, be it a user's or an operator's.
const INSIDE: [&str; 5] = ["coherence", "fault", "codec", "machine", "page"];
/// Those that the operator's command and the daemon name, and users' programs do not: documentation hides them.
const OPERATORS: [&str; 6] = ["admin", "client", "config", "membership", "net", "node"];

fn module(source: &Source) -> &str {
    let path = source.path.strip_prefix("dsm/src/").unwrap_or(&source.path);
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

fn is_core(source: &Source) -> bool {
    CORES.contains(&module(source)) || source.path.starts_with("dsm/src/rpc/core")
}

fn library() -> Vec<Source> {
    sources("dsm/src").into_iter().filter(|source| !source.is_test() && !source.is_generated()).collect()
}

/// The modules that a line names after `prefix`, the braces of `use crate::{a, b}` included.
fn named<'a>(line: &'a str, prefix: &str) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (at, _) in line.match_indices(prefix) {
        let rest = &line[at + prefix.len()..];
        let list = rest.strip_prefix('{').map_or(rest, |list| list.split('}').next().unwrap_or(list));
        let items: Vec<&str> = if rest.starts_with('{') { list.split(',').collect() } else { vec![list] };
        names.extend(items.iter().map(|item| {
            let item = item.trim();
            let end = item.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(item.len());
            &item[..end]
        }));
    }
    names
}

#[test]
fn modules_import_downwards_only() {
    let mut findings = Vec::new();
    for source in library() {
        let from = module(&source).to_owned();
        if from == "lib" {
            continue;
        }
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == from) else {
            findings.push(format!("{}: module `{from}` has no floor yet; give it one here", source.path));
            continue;
        };
        findings.extend(source.refuse(|line| {
            let modules = MAY_IMPORT.map(|(name, _)| name);
            let bad = named(line, "crate::").into_iter().find(|to| {
                modules.contains(to) && *to != from && !WORDS.contains(to) && !allowed.contains(to)
            })?;
            Some(format!("`{from}` must not know `{bad}`"))
        }));
    }
    assert_none("floors", &findings);
}

#[test]
fn cores_know_no_clock_thread_socket_or_system_call() {
    let cores =
        library().into_iter().filter(|source| is_core(source) && !SHELLS.contains(&source.path.as_str()));
    let findings: Vec<String> = cores
        .flat_map(|source| {
            source.refuse(|line| {
                let found = OUTSIDE.iter().find(|word| line.contains(**word))?;
                Some(format!("a core must not know `{found}`"))
            })
        })
        .collect();
    assert_none("cores", &findings);
}

#[test]
fn programs_use_the_public_interface() {
    let programs = ["cli", "node-daemon", "examples"].into_iter().flat_map(sources);
    let findings: Vec<String> = programs
        .flat_map(|source| {
            source.refuse(|line| {
                let bad = named(line, "pagemesh::").into_iter().find(|name| INSIDE.contains(name))?;
                Some(format!("a program must not name `pagemesh::{bad}`"))
            })
        })
        .collect();
    assert_none("programs", &findings);
}

/// Whoever knows a seed knows every key that is drawn from it, and the simulator brings a key exchange along that
/// keeps no secret: a program can have neither, because only tests, the simulator and the benchmark name a seed, and
/// no crate can depend on the simulator.
#[test]
fn secrets_of_programs_come_from_the_operating_system() {
    let shipped = ["dsm", "cli", "node-daemon", "examples"].into_iter().flat_map(sources);
    let findings: Vec<String> = shipped
        .filter(|source| !source.is_test() && source.path != "dsm/src/net/entropy.rs")
        .flat_map(|source| {
            source.refuse(|line| {
                line.contains("of_seed").then(|| "a program must not draw secrets from a seed".to_owned())
            })
        })
        .collect();
    assert_none("secrets", &findings);
    let table = std::fs::read_to_string(root().join("Cargo.toml")).expect("a readable file");
    assert!(!table.lines().any(|line| line.starts_with("sim =") || line.contains("path = \"sim\"")));
}

#[test]
fn users_programs_name_what_is_documented() {
    let findings: Vec<String> = sources("examples")
        .into_iter()
        .flat_map(|source| {
            source.refuse(|line| {
                let bad = named(line, "pagemesh::").into_iter().find(|name| OPERATORS.contains(name))?;
                Some(format!("a user's program must not name `pagemesh::{bad}`"))
            })
        })
        .collect();
    assert_none("users' programs", &findings);
}

/// The library's first page in the documentation lists these modules and no others.
#[test]
fn the_library_shows_three_modules() {
    let library =
        sources("dsm/src").into_iter().find(|source| source.path == "dsm/src/lib.rs").expect("it is");
    let lines: Vec<&str> = library.text.lines().collect();
    let public = |at: usize| lines[at].strip_prefix("pub mod ").filter(|_| lines[at - 1] != "#[doc(hidden)]");
    let shown: Vec<&str> = (1..lines.len()).filter_map(public).collect();
    let names: Vec<&str> = shown.iter().map(|rest| rest.trim_end_matches([';', '{', ' '])).collect();
    assert_eq!(names, ["io", "rpc", "prelude"]);
}

/// Files whose public items are what programs hold.
const SHOWN: [&str; 7] = [
    "dsm/src/shared.rs",
    "dsm/src/shared/builder.rs",
    "dsm/src/shared/calls.rs",
    "dsm/src/shared/collective.rs",
    "dsm/src/sync.rs",
    "dsm/src/error.rs",
    "dsm/src/io.rs",
];

/// The tests compile and run each example.
#[test]
fn what_programs_hold_has_an_example_each() {
    let mut findings = Vec::new();
    for source in library().into_iter().filter(|source| SHOWN.contains(&source.path.as_str())) {
        let mut above: Vec<&str> = Vec::new();
        for (line, code) in source.text.lines().enumerate().map(|(at, code)| (at + 1, code.trim())) {
            if code.starts_with("///") || code.starts_with("#[") {
                above.push(code);
                continue;
            }
            let rest = code.strip_prefix("pub ").map(|rest| rest.trim_start_matches("unsafe "));
            let is_item = rest.is_some_and(|rest| {
                ["fn ", "struct ", "enum ", "trait "].iter().any(|kind| rest.starts_with(kind))
            });
            if is_item && !above.iter().any(|line| line.contains("```") || line.contains("doc(hidden)")) {
                findings.push(format!("{}:{line}: no example: {code}", source.path));
            }
            above.clear();
        }
    }
    assert_none("examples of public items", &findings);
}

#[test]
fn named_finds_lists_and_paths() {
    assert_eq!(named("use crate::{page::PageId, net};", "crate::"), ["page", "net"]);
    assert_eq!(named("fn f(x: crate::fault::Arena)", "crate::"), ["fault"]);
}
