//! `pagemesh rpcgen`: what it prints, where it writes, how it exits.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn rpcgen(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pagemesh"));
    command.arg("rpcgen").args(arguments).output().unwrap()
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
    assert_eq!(rpcgen(&[]).status.code(), Some(2));
}

#[test]
fn every_mistake_of_every_file_is_told_at_once() {
    let one = scratch("one.idl", "interface { itn f(); int g(strng s); };\n");
    let two = scratch("two.idl", "struct S { int x; int x; };\n");
    let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
    let done = rpcgen(&["check", one, "--against", two]);
    let message = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2));
    for mistake in ["no type `itn`", "no type `strng`", "`x` stands twice", "3 errors"] {
        assert!(message.contains(mistake), "{mistake} in:\n{message}");
    }
}

#[test]
fn the_interface_file_is_never_overwritten_by_its_stubs() {
    let file = scratch("itself.idl", OLD);
    let path = file.to_str().unwrap();
    let done = rpcgen(&[path, "-o", path]);
    assert_eq!(done.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&done.stderr).contains("is the interface file itself"));
    assert_eq!(fs::read_to_string(file).unwrap(), OLD);
}

#[test]
fn a_variable_for_another_command_is_no_argument_of_this_one() {
    let file = scratch("variable.idl", "interface X {\n    int f();\n};\n");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pagemesh"));
    command.args(["rpcgen", "fmt", "--check"]).arg(file).env("PAGEMESH_STATE_DIR", "/nonexistent");
    assert!(command.output().unwrap().status.success());
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

#[test]
fn fmt_replaces_a_file_only_by_a_complete_one_and_keeps_its_permissions() {
    // A directory of this test alone: another test that formats a file makes a new one beside it.
    let directory = scratch("kept", "").with_extension("of");
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join("kept.idl");
    fs::write(&file, "interface  X{int f( );};").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    let link = file.with_file_name("link.idl");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&file, &link).unwrap();
    // A second name of the old file: it shows whether the only copy was cut and written in place.
    let old = file.with_file_name("old-content.idl");
    let _ = fs::remove_file(&old);
    fs::hard_link(&file, &old).unwrap();
    assert!(rpcgen(&["fmt", link.to_str().unwrap()]).status.success());
    assert_eq!(fs::read_to_string(&file).unwrap(), "interface X {\n    int f();\n};\n");
    assert_eq!(fs::read_to_string(&old).unwrap(), "interface  X{int f( );};");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
    let mut names: Vec<_> =
        (fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name())).collect();
    names.sort();
    assert_eq!(names, ["kept.idl", "link.idl", "old-content.idl"]);
}

#[test]
fn fmt_changes_no_file_if_one_of_them_is_wrong() {
    let good = scratch("good.idl", "interface  X{int f( );};");
    let bad = scratch("wrong.idl", "interface { int f() };");
    let done = rpcgen(&["fmt", good.to_str().unwrap(), bad.to_str().unwrap()]);
    assert_eq!(done.status.code(), Some(2));
    assert_eq!(fs::read_to_string(good).unwrap(), "interface  X{int f( );};");
}

#[test]
fn stubs_go_to_a_device_as_well_as_to_a_file() {
    let file = scratch("device.idl", OLD);
    let done = rpcgen(&[file.to_str().unwrap(), "-o", "/dev/stdout"]);
    assert!(done.status.success());
    assert!(String::from_utf8_lossy(&done.stdout).contains("pub trait C: Send + Sync"));
}
