//! The command line: what it prints, where it writes, how it exits.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn rpcgen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rpcgen")).args(arguments).output().unwrap()
}

/// A file of this test process alone.
fn scratch(name: &str, text: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(std::process::id().to_string());
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

const OLD: &str = "struct P { int x; optional<int> y; };\nenum E { a, b };\n\
    interface C { int one(int a); void two(P p, E e); };\n";

#[test]
fn stubs_are_written_where_o_says() {
    let input = scratch("calc.idl", OLD);
    let output = scratch("calc.rs", "");
    let done = rpcgen(&[input.to_str().unwrap(), "-o", output.to_str().unwrap()]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(std::fs::read_to_string(output).unwrap().contains("pub trait C: Send + Sync"));
}

#[test]
fn bad_input_exits_2_with_the_place_and_writes_nothing() {
    let input = scratch("bad.idl", "interface { itn f(); };\n");
    let done = rpcgen(&[input.to_str().unwrap(), "-o", "/nonexistent/out.rs"]);
    assert_eq!(done.status.code(), Some(2));
    let message = String::from_utf8_lossy(&done.stderr);
    assert!(message.contains("bad.idl:1:13") && message.contains("did you mean `int`?"), "{message}");
    assert_eq!(rpcgen(&["/nonexistent.idl"]).status.code(), Some(2));
    assert_eq!(rpcgen(&["--no-such-flag"]).status.code(), Some(2));
}

#[test]
fn every_breaking_change_is_named_and_exits_1() {
    let old = scratch("old.idl", OLD);
    let broken = scratch(
        "broken.idl",
        "struct P { int x; @id(2) optional<long> y; int z; };\nenum E { a };\ninterface C { long one(int a, int b); };\n",
    );
    let done = rpcgen(&["check", broken.to_str().unwrap(), "--against", old.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(1));
    for change in [
        "`C.one` returned `int32`, returns `int64`",
        "`C.one` had 1 arguments, has 2",
        "`C.two` is gone",
        "`y` (id 2) was `optional<int32>`, is `optional<int64>`",
        "`z` (id 3) is new: make it optional",
        "b = 1 is gone",
    ] {
        assert!(said.contains(change), "{change} in:\n{said}");
    }
}

#[test]
fn additions_and_a_raised_version_break_nothing() {
    let old = scratch("before.idl", OLD);
    let grown = OLD.replace("optional<int> y;", "optional<int> y; optional<string> z;");
    let grown = scratch("grown.idl", &grown.replace("int one", "void three(); int one"));
    let raised = scratch("raised.idl", "interface C : 2 { long one(); };\n");
    for new in [grown, raised] {
        let done = rpcgen(&["check", new.to_str().unwrap(), "--against", old.to_str().unwrap()]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    }
}

#[test]
fn fmt_changes_a_file_once_and_check_only_tells() {
    let file = scratch("layout.idl", "interface  X{int f( );};");
    let path = file.to_str().unwrap();
    assert_eq!(rpcgen(&["fmt", "--check", path]).status.code(), Some(1));
    assert!(rpcgen(&["fmt", path]).status.success());
    assert!(rpcgen(&["fmt", "--check", path]).status.success());
    assert_eq!(std::fs::read_to_string(file).unwrap(), "interface X {\n    int f();\n};\n");
}
