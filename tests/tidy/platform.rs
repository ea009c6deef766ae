//! A build for a system that the library does not run on ends with one sentence.

use std::process::Command;

use crate::source::root;

/// What the library's build script prints for a target.
fn build_script(os: &str, width: &str, arch: &str) -> String {
    // Each test process has a file of its own, so that none is replaced while it runs.
    let script = std::env::temp_dir().join(format!("pagemesh-build-script-{}", std::process::id()));
    if !script.exists() {
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
        rustc.args(["--edition", "2024", "-o"]).arg(&script).arg(root().join("dsm/build.rs"));
        assert!(rustc.status().expect("rustc").success());
    }
    let mut command = Command::new(&script);
    for (name, value) in [("OS", os), ("POINTER_WIDTH", width), ("ARCH", arch)] {
        command.env(format!("CARGO_CFG_TARGET_{name}"), value);
    }
    let output = command.output().expect("the script runs");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_build_for_another_system_ends_with_one_sentence() {
    for (os, width, arch) in [
        ("macos", "64", "aarch64"),
        ("windows", "64", "x86_64"),
        ("linux", "32", "x86"),
        ("linux", "64", "riscv64"),
    ] {
        let said = build_script(os, width, arch);
        let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("cargo::error=")).collect();
        assert_eq!(errors.len(), 1, "{said}");
        assert!(errors[0].contains("64-bit Linux") && errors[0].contains(&format!("on {os} ")), "{said}");
    }
    for arch in ["x86_64", "aarch64"] {
        assert!(!build_script("linux", "64", arch).contains("cargo::error"));
    }
    let script = std::env::temp_dir().join(format!("pagemesh-build-script-{}", std::process::id()));
    std::fs::remove_file(script).expect("the test's own file");
}
