//! What becomes of the command when its own output cannot be written, and what it says of itself.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use crate::bed::Bed;

/// Commands that need no cluster, write to standard output, and succeed when it can be written.
const WRITERS: [&str; 9] = [
    "--help",
    "--version",
    "doctor",
    "doctor --json",
    "down",
    "up --dry-run --daemons 1",
    "run --dry-run --daemons 1 sh",
    "completions bash",
    "man",
];

#[test]
fn a_reader_that_has_gone_away_ends_the_command_without_a_word() {
    let bed = Bed::new();
    for line in WRITERS {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let done = bed.pagemesh_into(line, writer.into());
        assert_eq!((done.err.as_str(), done.code), ("", 141), "{line}: {done:#?}");
    }
    bed.assert_nothing_left();
}

#[test]
fn a_full_disk_behind_the_output_is_one_line_with_the_errno() {
    let bed = Bed::new();
    for line in WRITERS {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let done = bed.pagemesh_into(line, full.into());
        assert_eq!(done.code, 74, "{line}: {done:#?}");
        assert_eq!(done.err.lines().count(), 1, "{line}: {done:#?}");
        done.says(&["pagemesh: standard output: ", "(os error 28)"]);
    }
    bed.assert_nothing_left();
}

#[test]
fn a_cluster_that_cannot_be_shown_is_said_to_be_up() {
    let bed = Bed::new();
    for line in ["up --daemons 1", "up --daemons 1 --json"] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let done = bed.pagemesh_into(line, full.into());
        assert_eq!((done.code, done.err.lines().count()), (74, 1), "{done:#?}");
        done.says(&["(os error 28); the cluster is up; stop it with `pagemesh down`"]);
        bed.status();
        bed.pagemesh("down").ok();
    }
    bed.assert_nothing_left();
}

#[test]
fn the_demo_ends_at_the_first_line_that_cannot_be_written() {
    // The first step still fits an arena so short, a later one does not: it fails, if the demo gets there.
    let bed = Bed::new().set("PAGEMESH_ARENA_SIZE", "4MiB");
    let done = bed.pagemesh("demo");
    assert!(done.code == 2 && done.out.starts_with("4 processes, one memory."), "{done:#?}");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let done = bed.pagemesh_into("demo", full.into());
    assert_eq!(done.code, 74, "{done:#?}");
    assert_eq!(done.err.matches("pagemesh: standard output: ").count(), 1, "{done:#?}");
    assert!(!done.err.contains("died"), "{done:#?}");
    bed.assert_nothing_left();
}

#[test]
fn an_example_that_runs_alone_says_that_its_output_cannot_be_written() {
    let bed = Bed::new();
    for line in ["counter", "region write data"] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let done = bed.pagemesh_into(&format!("run --daemons 1 --ranks 1 {line}"), full.into());
        assert_eq!(done.code, 74, "{line}: {done:#?}");
        assert!(!done.err.contains("panicked"), "{line}: {done:#?}");
        done.says(&[": standard output: ", "(os error 28)"]);
    }
    bed.assert_nothing_left();
}

#[test]
fn ranks_whose_output_cannot_be_written_are_ended_and_the_reason_is_said() {
    let bed = Bed::new();
    // Ends by the command alone: it writes for ever.
    let program = bed.file("write.sh", "while :; do echo more; done\n");
    let line = format!("run --no-daemons --ranks 2 sh {program}");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let done = bed.pagemesh_into(&line, full.into());
    assert_eq!((done.code, done.err.lines().count()), (74, 1), "{done:#?}");
    done.says(&["pagemesh: standard output: ", "(os error 28)"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let done = bed.pagemesh_into(&line, writer.into());
    assert_eq!((done.err.as_str(), done.code), ("", 141), "{done:#?}");
    bed.assert_nothing_left();
}

#[test]
fn a_daemon_goes_on_when_its_log_cannot_be_written() {
    let bed = Bed::new();
    let full = std::fs::OpenOptions::new().append(true).mode(0o600).open("/dev/full").expect("/dev/full");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let daemon = bed.start_with("daemon --ready-fd 1", writer.into(), full.into());
    // The daemon closes it when it is ready, or by its end.
    let ready = std::io::read_to_string(reader).expect("text");
    assert!(ready.contains(r#""ready":true"#), "{ready}");
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    daemon.wait().ok();
    bed.assert_nothing_left();
}

#[test]
fn the_version_names_the_protocol_and_the_commit() {
    let bed = Bed::new();
    let protocol = pagemesh::net::Version::ours().protocol;
    let expected = format!("pagemesh {} (protocol {protocol}, commit ", env!("CARGO_PKG_VERSION"));
    for line in ["--version", "version"] {
        let done = bed.pagemesh(line).ok();
        let rest = done.out.trim_end().strip_prefix(&expected).and_then(|rest| rest.strip_suffix(')'));
        let commit = rest.unwrap_or_else(|| panic!("{line}: {done:#?}"));
        let hexadecimal = commit.len() >= 7 && commit.chars().all(|c| c.is_ascii_hexdigit());
        assert!(hexadecimal || commit == "unknown", "{line}: {done:#?}");
    }
}

#[test]
fn completions_know_commands_and_flags_and_pages_are_made_for_each_command() {
    let bed = Bed::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let done = bed.pagemesh(&format!("completions {shell}")).ok();
        for word in ["pagemesh", "regions", "daemons", "memory-max"] {
            assert!(done.out.contains(word), "{shell} does not complete `{word}`");
        }
        assert!(!done.out.contains("exec-child"), "{shell} completes what only the command itself calls");
    }
    // The shell itself is the judge of what was written for it.
    bed.file("complete", &bed.pagemesh("completions bash").ok().out);
    bed.start_path("bash", "-n complete").wait().ok();
    assert!(bed.pagemesh("man").ok().out.contains(".TH pagemesh 1"));
    bed.pagemesh("man pages").ok();
    let pages = std::fs::read_dir(bed.dir().join("pages")).expect("the pages").flatten();
    let mut names: Vec<_> = pages.map(|page| page.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    for page in ["pagemesh.1", "pagemesh-run.1", "pagemesh-regions-ls.1", "pagemesh-key-new.1"] {
        assert!(names.iter().any(|name| name == page), "no {page}: {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("exec-child")), "{names:?}");
}

#[test]
fn a_new_key_is_its_owners_alone_and_no_file_is_overwritten() {
    let bed = Bed::new();
    bed.pagemesh("key new secret").ok();
    let path = bed.dir().join("secret");
    let mode = std::fs::metadata(&path).expect("the key").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let key = std::fs::read_to_string(&path).expect("the key");
    assert!(key.trim().len() == 64 && key.trim().chars().all(|c| c.is_ascii_hexdigit()), "{key}");
    bed.pagemesh("key new secret").refused(&["secret", "exists"]);
    assert_eq!(std::fs::read_to_string(&path).expect("the key"), key);
    // Not through a link either, wherever it leads.
    std::os::unix::fs::symlink("elsewhere", bed.dir().join("link")).expect("a link");
    bed.pagemesh("key new link").refused(&["link", "exists"]);
    assert!(!bed.dir().join("elsewhere").exists());
    bed.pagemesh("key new another").ok();
    assert_ne!(std::fs::read_to_string(bed.dir().join("another")).expect("a key"), key);
}

#[test]
fn a_fingerprint_tells_keys_apart_and_shows_nothing_of_them() {
    let bed = Bed::new();
    let fingerprint = |file: &str| {
        bed.pagemesh(&format!("key new {file}")).ok();
        let printed = || bed.pagemesh(&format!("key fingerprint {file}")).ok().out;
        let first = printed();
        assert_eq!(printed(), first);
        let key = std::fs::read_to_string(bed.dir().join(file)).expect("the key");
        let digits = first.trim().to_owned();
        assert!(digits.len() == 16 && digits.chars().all(|c| c.is_ascii_hexdigit()), "{first}");
        assert!(!key.contains(&digits));
        digits
    };
    assert_ne!(fingerprint("one"), fingerprint("two"));
}
