//! The command line of the stub generator, for the `pagemesh` command: `pagemesh rpcgen`. Behind a feature
//! that is off by default, so that a build script compiles no argument parser.
//!
//! Exit codes: 0 done, 1 the check found breaking changes or the layout differs, 2 the input or the command
//! line is wrong.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::diagnostic::{Problems, Style};
use crate::output;

/// Exit code of a check that found something.
const DIFFERS: i32 = 1;

/// Generate Rust stubs from an interface file, lay interface files out, compare versions
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The interface file
    #[arg(required = true, value_name = "FILE.idl")]
    file: Option<PathBuf>,
    /// Where to write the stubs [default: standard output]
    #[arg(short, long, value_name = "FILE.rs")]
    output: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Lay interface files out in the usual way
    Fmt {
        /// The interface files
        #[arg(required = true, value_name = "FILE.idl")]
        files: Vec<PathBuf>,
        /// Change nothing; exit code 1 if a file is not in the usual layout
        #[arg(long)]
        check: bool,
    },
    /// Check an interface file, and name what would break users of an older version
    Check {
        /// The interface file
        #[arg(value_name = "FILE.idl")]
        file: PathBuf,
        /// The older version; exit code 1 if the newer one breaks its users
        #[arg(long, value_name = "OLD.idl")]
        against: Option<PathBuf>,
    },
}

/// Why the command could not do its work. Exit code 2, except for [`Failure::Output`].
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Interface files are wrong: a report with every mistake. Nothing was written.
    #[error("{0}")]
    Rejected(String),
    /// Another bad input, in one line. Nothing was written.
    #[error("{0}")]
    Refused(String),
    /// The output of the command itself could not be written.
    #[error("{0}")]
    Output(#[from] io::Error),
}

/// Runs the command, printing to `out`, and gives the exit code.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<i32, Failure> {
    match (&arguments.command, &arguments.file) {
        (Some(Command::Fmt { files, check }), _) => format(files, *check, out),
        (Some(Command::Check { file, against }), _) => check(file, against.as_deref(), out),
        (None, Some(file)) => generate(file, arguments.output.as_deref(), out),
        (None, None) => Err(Failure::Refused("no interface file is given".to_owned())),
    }
}

fn generate(file: &Path, target: Option<&Path>, out: &mut dyn Write) -> Result<i32, Failure> {
    if let Some(target) = target.filter(|target| target.exists() && crate::is_same_file(target, file)) {
        let message =
            format!("{} is the interface file itself: -o names the file of the stubs", target.display());
        return Err(Failure::Refused(message));
    }
    let stubs = crate::generate(&crate::read(file).map_err(rejected)?);
    match target {
        Some(path) => write(path, &stubs)?,
        None => out.write_all(stubs.as_bytes())?,
    }
    Ok(0)
}

/// Nothing is written before every file was read and found right.
fn format(files: &[PathBuf], only_check: bool, out: &mut dyn Write) -> Result<i32, Failure> {
    let mut problems = Problems::default();
    let mut differing = Vec::new();
    for path in files {
        let name = path.display().to_string();
        let text = crate::read_bounded(path)
            .map_err(|error| Failure::Refused(format!("cannot read {name}: {error}")))?;
        match crate::format_source(&name, &text) {
            Ok(laid_out) if laid_out == text => {}
            Ok(laid_out) => differing.push((path, laid_out)),
            Err(found) => problems.append(found),
        }
    }
    if !problems.is_empty() {
        return Err(rejected(problems));
    }
    let code = if only_check && !differing.is_empty() { DIFFERS } else { 0 };
    for (path, laid_out) in differing {
        match only_check {
            true => writeln!(out, "{}: not in the usual layout", path.display())?,
            false => write(path, &laid_out)?,
        }
    }
    Ok(code)
}

fn check(file: &Path, against: Option<&Path>, out: &mut dyn Write) -> Result<i32, Failure> {
    let (new, old) = (crate::read(file), against.map(crate::read));
    let (new, old) = match (new, old) {
        (Ok(new), Some(Ok(old))) => (new, old),
        (Ok(_), None) => return Ok(0),
        (Err(problems), None | Some(Ok(_))) | (Ok(_), Some(Err(problems))) => return Err(rejected(problems)),
        (Err(mut problems), Some(Err(others))) => {
            problems.append(others);
            return Err(rejected(problems));
        }
    };
    let changes = crate::breaking_changes(&old, &new);
    for change in &changes {
        writeln!(out, "{}: {change}", file.display())?;
    }
    let Some(against) = against.filter(|_| !changes.is_empty()) else { return Ok(0) };
    let plural = if changes.len() == 1 { "" } else { "s" };
    let (count, older) = (changes.len(), against.display());
    writeln!(out, "{count} breaking change{plural} since {older}: raise the interface's version")?;
    Ok(DIFFERS)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    output::replace(path, text)
        .map_err(|error| Failure::Refused(format!("cannot write {}: {error}", path.display())))
}

fn rejected(problems: Problems) -> Failure {
    let style = if io::stderr().is_terminal() { Style::Coloured } else { Style::Plain };
    Failure::Rejected(problems.render(style))
}
