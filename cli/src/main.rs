//! The `pagemesh` command: starts and stops clusters, runs programs on them, shows what they do.
//!
//! It decides nothing about pages; it starts processes, waits for them by events, and asks the cluster
//! over the library's `admin` module. Each file is one idea; this one maps a command line to it.
#![deny(unsafe_code)]
// They panic when nobody reads; `out` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod about;
mod args;
mod cluster;
mod demo;
mod doctor;
#[cfg(test)]
mod documents;
mod endings;
mod exec;
mod guardian;
mod hosts;
mod key;
mod launch;
mod logs;
mod merge;
mod new;
mod out;
mod output;
mod prepare;
mod process;
mod program;
mod regions;
mod rpc;
mod rpcgen;
mod run;
mod screen;
mod signals;
mod state;
mod status;
mod supervise;
mod table;
mod trouble;
mod wait;

use args::{Arguments, Command, RegionsCommand};
use trouble::Trouble;

fn main() {
    match args::parse().and_then(dispatch) {
        Ok(code) => std::process::exit(code),
        Err(trouble) => {
            trouble.tell();
            std::process::exit(trouble.code());
        }
    }
}

/// Runs one command and gives the exit code.
fn dispatch(arguments: Arguments) -> Result<i32, Trouble> {
    let state_dir = arguments.state_dir;
    if matches!(&arguments.command, Command::Run(_) | Command::Up(_)) {
        // Daemons and ranks would say the same, each of them, once they run.
        run::check_settings()?;
    }
    match arguments.command {
        Command::Run(run) => guardian::run(state_dir, run, &std::env::args_os().skip(1).collect::<Vec<_>>()),
        Command::Up(up) => cluster::up(state_dir, &up),
        Command::Status(show) => status::show(state_dir, &show),
        Command::Logs(which) => logs::show(state_dir, &which),
        Command::Down => cluster::down(state_dir),
        Command::Regions { command } => match command {
            RegionsCommand::Ls { json } => regions::list(state_dir, json),
            RegionsCommand::Rm { name } => regions::remove(state_dir, &name),
        },
        Command::Rpc { command } => rpc::run(state_dir, &command),
        Command::Rpcgen(arguments) => rpcgen::run(&arguments),
        Command::Demo(demo) => demo::run(&demo),
        Command::DemoRank(demo) => demo::rank(&demo),
        Command::New(new) => new::make(&new),
        Command::Doctor(doctor) => doctor::show(&doctor),
        Command::DoctorPeer { bind } => doctor::serve_peer(bind),
        Command::Daemon(arguments) => Ok(node_daemon::serve(&arguments)),
        Command::Key { command } => key::run(&command),
        Command::Completions { shell } => about::completions(shell),
        Command::Man { dir } => about::man(dir.as_deref()),
        Command::Version => out::line(format_args!("pagemesh {}", about::version())).map(|()| 0),
        Command::ExecChild(child) => exec::exec_child(child),
        Command::PrepareHost(setup) => prepare::prepare_host(&setup),
        Command::Guardian(guardian) => guardian::guard(&guardian),
    }
}
