//! The paths in `ARCHITECTURE.md` name functions that exist, each in the file in which it stands.

use crate::source::{assert_none, root, sources};

/// The part of the document that lists paths, in one line.
fn paths(document: &str) -> String {
    let (_, rest) = document.split_once("\n## Paths\n").expect("a part about paths");
    let part = rest.split("\n## ").next().expect("a first part");
    part.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What stands in backticks in the form `file.rs: function, function`.
fn steps(text: &str) -> Vec<(&str, Vec<&str>)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let steps = quoted.filter_map(|step| step.split_once(".rs: ").map(|_| step.split_once(": "))?);
    steps.map(|(file, names)| (file, names.split(',').map(str::trim).collect())).collect()
}

#[test]
fn each_function_of_a_path_stands_in_its_file() {
    let document = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the document");
    let files = sources("dsm/src");
    let mut findings = Vec::new();
    for (file, names) in steps(&paths(&document)) {
        let path = format!("dsm/src/{file}");
        let Some(source) = files.iter().find(|source| source.path == path) else {
            findings.push(format!("{path}: no such file"));
            continue;
        };
        let has = |name: &str| {
            let starts = [format!("fn {name}("), format!("fn {name}<")];
            starts.iter().any(|start| source.text.contains(start))
        };
        findings.extend(names.iter().filter(|name| !has(name)).map(|name| format!("{path}: no `{name}`")));
    }
    assert_none("steps of a path that do not exist", &findings);
}

#[test]
fn steps_are_found_over_the_ends_of_lines() {
    let document =
        "#\n## Paths\nTo `a.rs: one, two`, a `word`, `key: value`, `b/c.rs:\n  three,\n  four`\n## Next";
    let text = paths(document);
    assert_eq!(steps(&text), [("a.rs", vec!["one", "two"]), ("b/c.rs", vec!["three", "four"])]);
}
