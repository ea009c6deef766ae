//! The command line of the stub generator. Exit codes: 0 done, 1 the check found breaking changes or the
//! layout differs, 2 the input or the command line is wrong.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pagemesh_rpcgen::diagnostic::{Problems, Style};

/// Generates Rust stubs from an interface file.
#[derive(Parser)]
#[command(name = "rpcgen", version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The interface file.
    file: Option<PathBuf>,
    /// Where to write the stubs; standard output if not given.
    #[arg(short, long)]
    output: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Lay interface files out in the usual way.
    Fmt {
        /// The interface files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Change nothing; exit 1 if a file is not in the usual layout.
        #[arg(long)]
        check: bool,
    },
    /// Check an interface file, and name what would break users of an older version.
    Check {
        /// The interface file.
        file: PathBuf,
        /// The older version.
        #[arg(long)]
        against: Option<PathBuf>,
    },
}

/// How the program ends when it cannot do its work: with one message and exit code 2.
struct Failure(String);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Some(Command::Fmt { files, check }) => format(&files, check),
        Some(Command::Check { file, against }) => check(&file, against.as_deref()),
        None => match arguments.file {
            Some(file) => generate(&file, arguments.output.as_deref()),
            None => Err(Failure("error: no interface file given\n".to_owned())),
        },
    };
    done.unwrap_or_else(|Failure(message)| {
        eprint!("{message}");
        ExitCode::from(2)
    })
}

fn generate(file: &Path, output: Option<&Path>) -> Result<ExitCode, Failure> {
    let stubs = pagemesh_rpcgen::generate(&pagemesh_rpcgen::read(file).map_err(rejected)?);
    match output {
        Some(path) => write(path, &stubs)?,
        None => print!("{stubs}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn format(files: &[PathBuf], only_check: bool) -> Result<ExitCode, Failure> {
    let mut code = ExitCode::SUCCESS;
    for path in files {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure(format!("error: cannot read {name}: {error}\n")))?;
        let laid_out = pagemesh_rpcgen::format_source(&name, &text).map_err(rejected)?;
        if laid_out == text {
            continue;
        }
        if only_check {
            println!("{name}: not in the usual layout");
            code = ExitCode::from(1);
        } else {
            write(path, &laid_out)?;
        }
    }
    Ok(code)
}

fn check(file: &Path, against: Option<&Path>) -> Result<ExitCode, Failure> {
    let new = pagemesh_rpcgen::read(file).map_err(rejected)?;
    let Some(against) = against else { return Ok(ExitCode::SUCCESS) };
    let old = pagemesh_rpcgen::read(against).map_err(rejected)?;
    let changes = pagemesh_rpcgen::breaking_changes(&old, &new);
    for change in &changes {
        println!("{}: {change}", file.display());
    }
    if changes.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} breaking changes since {}: raise the interface's version", changes.len(), against.display());
    Ok(ExitCode::from(1))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|error| Failure(format!("error: cannot write {}: {error}\n", path.display())))
}

fn rejected(problems: Problems) -> Failure {
    let style = if std::io::stderr().is_terminal() { Style::Coloured } else { Style::Plain };
    Failure(problems.render(style))
}
