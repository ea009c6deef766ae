//! The source as the rules see it: files of the repository, their lines of code without comments, and
//! what of them is test code.

use std::path::{Path, PathBuf};

/// One Rust file.
pub(crate) struct Source {
    /// Path from the repository's root.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A line of code, without its comment.
pub(crate) struct Line<'a> {
    pub(crate) number: usize,
    pub(crate) code: &'a str,
}

impl Source {
    /// Whether the whole file is there for tests.
    pub(crate) fn is_test(&self) -> bool {
        self.path.split('/').any(|part| part == "tests" || part == "tests.rs" || part == "test_rig.rs")
    }

    /// Whether a generator wrote it.
    pub(crate) fn is_generated(&self) -> bool {
        self.text.lines().next().is_some_and(|line| line.to_lowercase().contains("generated"))
    }

    /// The lines of code that are not tests: all before the file's test module.
    pub(crate) fn code(&self) -> impl Iterator<Item = Line<'_>> {
        let lines = self.text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
        (1..).zip(lines).map(|(number, line)| Line { number, code: without_comment(line) })
    }

    /// Panics with all lines of code that `wrong` finds something in.
    pub(crate) fn refuse(&self, wrong: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let lines = self.code();
        lines.filter_map(|l| Some(format!("{}:{}: {}", self.path, l.number, wrong(l.code)?))).collect()
    }
}

/// All Rust files of the workspace below `folder`.
pub(crate) fn sources(folder: &str) -> Vec<Source> {
    let mut files = Vec::new();
    collect(&root().join(folder), &mut files);
    files.sort();
    let read = |file: PathBuf| Source {
        path: file.strip_prefix(root()).unwrap_or(&file).display().to_string(),
        text: std::fs::read_to_string(&file).expect("a readable file"),
    };
    files.into_iter().map(read).collect()
}

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package is a folder of the workspace")
}

/// Fails with the findings, if there are any.
pub(crate) fn assert_none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}\n{}", findings.join("\n"));
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, files);
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
}

/// Cuts `//` and what follows, unless it stands in a text like an address.
fn without_comment(line: &str) -> &str {
    match line.find("//") {
        Some(at) if line[..at].matches('"').count() % 2 == 0 => &line[..at],
        Some(_) | None => line,
    }
}
