//! Which file a program's name means: a path, an example beside this executable, or a command in `PATH`.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pagemesh::settings::{TYPING_ERRORS_MAX, nearest};

use crate::process::beside;
use crate::trouble::Trouble;

/// The examples, for suggestions.
const EXAMPLES: [&str; 10] = [
    "matmul",
    "counter",
    "histogram",
    "workqueue",
    "stencil",
    "list",
    "jacobi",
    "region",
    "calculator",
    "wordcount",
];

/// Finds the program, as an absolute path so that it is the same file on every host.
pub(crate) fn find(name: &OsStr) -> Result<PathBuf, Trouble> {
    let shown = name.to_string_lossy();
    if shown.contains('/') {
        let path = std::path::absolute(name).map_err(|e| Trouble::os(&shown, e))?;
        return match std::fs::metadata(&path) {
            Err(error) => Err(Trouble::os(format_args!("program {shown}"), error)),
            Ok(meta) if meta.is_dir() => Err(Trouble::start(format!("program {shown}: it is a directory"))),
            Ok(_) if !executable(&path) => {
                Err(Trouble::start(format!("program {shown}: it is not executable")))
            }
            Ok(_) => Ok(path),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|dir| dir.join(name));
    let here = beside(&shown)?;
    match std::iter::once(here).chain(in_path).find(|file| executable(file)) {
        Some(file) => std::path::absolute(&file).map_err(|e| Trouble::os(&shown, e)),
        None => Err(unknown(&shown)),
    }
}

fn executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn unknown(name: &str) -> Trouble {
    if EXAMPLES.contains(&name) {
        return Trouble::start(format!(
            "program {name}: this example is not built here; say `scripts/cluster.sh run {name}` in a checkout of \
             pagemesh, or build it there (cargo build --release -p examples) and give its path"
        ));
    }
    if name.starts_with('-') {
        return Trouble::start(format!("{name}: no such flag in front of the program; --help lists them"));
    }
    let hint = match nearest(name, EXAMPLES.iter().copied(), TYPING_ERRORS_MAX) {
        Some(near) => format!("did you mean the example `{near}`?"),
        None if Path::new(name).exists() => format!("there is a file of this name here: say `./{name}`"),
        None => format!("no such example ({}) and no such command in PATH", EXAMPLES.join(", ")),
    };
    Trouble::start(format!("program {name}: not found; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(name: &str) -> String {
        find(OsStr::new(name)).expect_err("no such program").to_string()
    }

    #[test]
    fn a_mistyped_example_gets_a_suggestion() {
        assert!(error("matmull").contains("did you mean the example `matmul`?"));
        assert!(error("--nods").contains("no such flag"));
        assert!(error("no-such-program-anywhere").contains("no such example (matmul, counter"));
    }

    #[test]
    fn a_path_must_be_an_executable_file() {
        assert!(error("/").contains("directory"));
        assert!(error("./no/such/file").contains("No such file"));
        assert!(find(OsStr::new("/bin/sh")).is_ok());
        assert!(find(OsStr::new("sh")).is_ok());
    }
}
