//! Finds the commit that is built, for `pagemesh --version`: of this repository's checkout, or of the package that
//! was made from it. Anything else, a copy inside another repository included, is "unknown".

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let package = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let commit = of_package(&package).or_else(|| of_checkout(&package));
    // Not named PAGEMESH_..: those are settings, and `cargo run` hands this one to the program.
    println!("cargo::rustc-env=BUILT_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// The commit that `cargo package` has noted.
fn of_package(package: &Path) -> Option<String> {
    let note = std::fs::read_to_string(package.join(".cargo_vcs_info.json")).ok()?;
    let (_, digits) = note.split_once("\"sha1\"")?;
    let digits: String = digits.chars().skip_while(|c| !c.is_ascii_hexdigit()).take(12).collect();
    digits.chars().all(|c| c.is_ascii_hexdigit()).then_some(digits)
}

/// The commit that git names, if this package lies in a checkout of its own repository.
fn of_checkout(package: &Path) -> Option<String> {
    let root = package.parent()?.canonicalize().ok()?;
    if PathBuf::from(git(&root, &["rev-parse", "--show-toplevel"])?).canonicalize().ok()? != root {
        return None;
    }
    // Changed by a commit, and by a checkout of another branch.
    let branch = git(&root, &["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        let file = root.join(git(&root, &["rev-parse", "--git-path", name])?);
        // A file that is missing would count as changed each time.
        if file.exists() {
            println!("cargo::rerun-if-changed={}", file.display());
        }
    }
    git(&root, &["rev-parse", "--short=12", "HEAD"])
}

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
