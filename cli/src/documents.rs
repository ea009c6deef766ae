//! Test: what the documents tell people to type exists. Every command of this program in README.md and docs/, in
//! a block of shell or between backticks, is followed through the command line's own description: each word to
//! its subcommand, each flag to a flag of that subcommand. Scripts must be files.

use std::path::{Path, PathBuf};

use clap::CommandFactory;

use crate::args::Arguments;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// README.md and docs/. The changelog stays out: it names commands of the past.
fn documents() -> Vec<(String, String)> {
    let mut paths = vec![root().join("README.md")];
    let docs =
        std::fs::read_dir(root().join("docs")).expect("docs").map(|entry| entry.expect("entry").path());
    paths.extend(docs.filter(|path| path.extension().is_some_and(|end| end == "md")));
    paths.sort();
    let read = |path: PathBuf| (path.display().to_string(), std::fs::read_to_string(&path).expect("a text"));
    paths.into_iter().map(read).collect()
}

/// The lines of shell blocks, and what stands between backticks outside of blocks.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), block.take()) {
            (Some(language), None) => block = Some(language.to_owned()),
            (Some(_), Some(_)) => {}
            (None, None) => {
                found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
                continue;
            }
            (None, Some(language)) => {
                if language == "sh" {
                    let command = line.split(" #").next().unwrap_or_default();
                    found.push(command.to_owned());
                }
                block = Some(language);
            }
        }
    }
    found
}

/// Why a command line cannot be typed; `None` if it can, or is none of this program.
fn wrong(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().skip_while(|word| word.contains('=')).collect();
    let (program, rest) = words.split_first()?;
    if program.starts_with("scripts/") && !root().join(program).is_file() {
        return Some("no such script".to_owned());
    }
    // `pagemesh = {` is a line of a manifest.
    if !matches!(*program, "pagemesh" | "scripts/cluster.sh") || rest.first().is_none_or(|word| *word == "=")
    {
        return None;
    }
    let mut command = Arguments::command();
    // Makes the global flags known to each subcommand.
    command.build();
    let mut command = &command;
    for word in rest {
        // In documents, brackets say that a flag may be left out.
        let word = word.trim_matches(|c| matches!(c, '[' | ']'));
        if let Some(long) = word.strip_prefix("--") {
            let long = long.split('=').next().unwrap_or_default();
            let known = command.get_arguments().any(|argument| {
                argument.get_long_and_visible_aliases().is_some_and(|names| names.contains(&long))
            });
            if !known && !matches!(long, "help" | "version") {
                return Some(format!("`{}` has no flag --{long}", command.get_name()));
            }
        } else if let Some(short) = word.strip_prefix('-').and_then(|rest| rest.chars().next()) {
            let known = command.get_arguments().any(|argument| argument.get_short() == Some(short));
            if !known {
                return Some(format!("`{}` has no flag -{short}", command.get_name()));
            }
        } else if let Some(next) = command.get_subcommands().find(|next| next.get_name() == word) {
            command = next;
        } else if command.get_positionals().next().is_some() {
            // A program and its own flags may follow.
            if command.get_name() == "run" && word.chars().any(|c| c.is_alphabetic()) {
                return None;
            }
        } else if command.has_subcommands() {
            return Some(format!("`{}` has no command {word}", command.get_name()));
        }
    }
    None
}

#[test]
fn every_command_and_flag_of_the_documents_exists() {
    let mut count = 0;
    let mut mistakes = Vec::new();
    for (name, text) in documents() {
        for line in commands(&text) {
            count += usize::from(line.starts_with("pagemesh ") || line.starts_with("scripts/"));
            mistakes.extend(wrong(&line).map(|why| format!("{name}: `{line}`: {why}")));
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    assert!(count > 30, "only {count} commands were found");
}

#[test]
fn a_command_that_does_not_exist_is_found() {
    for line in [
        "pagemesh rum x",
        "pagemesh run --demons 4 x",
        "pagemesh logs -q",
        "pagemesh regions list",
        "scripts/clutser.sh up",
        "PAGEMESH_NET_LOSS=5% pagemesh statu",
    ] {
        assert!(wrong(line).is_some(), "{line}");
    }
    for line in ["pagemesh run -n 4 ./x --any-flag", "pagemesh status [--json] [--watch]", "cargo run --flag"]
    {
        assert_eq!(wrong(line), None, "{line}");
    }
    let text = "```sh\npagemesh up  # starts\n```\nUse `pagemesh down`.\n```rust\nlet x = 1;\n```\n";
    assert_eq!(commands(text), ["pagemesh up ", "pagemesh down"]);
}
