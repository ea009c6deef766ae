//! A region that outlives its program: one run writes it, and a later run, of whatever program, finds it
//! by its name. It needs daemons, which hold the pages in between.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use examples::{Outcome, arguments, check, say};
use pagemesh::prelude::*;

/// Write a named region, or check one that an earlier program wrote
#[derive(Parser)]
#[command(name = "region", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the region and fill it
    Write {
        /// Name of the region
        name: String,
        /// Numbers of 8 bytes in it
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1 << 34))]
        len: u64,
        /// Then stay, until Ctrl-C
        #[arg(long)]
        wait: bool,
    },
    /// Find the region and compare every number in it
    Check {
        /// Name of the region
        name: String,
    },
}

fn main() -> ExitCode {
    examples::main("region", region)
}

fn region() -> Outcome {
    let arguments: Arguments = arguments()?;
    let dsm = Dsm::builder().from_env()?.join()?;
    match arguments.command {
        Command::Write { name, len, wait } => {
            let numbers = dsm.alloc::<u64>(&name, len as usize)?;
            for i in dsm.my_block(numbers.len()) {
                numbers.set(i, number(i));
            }
            dsm.barrier()?;
            if dsm.is_root() {
                say(format_args!("wrote {len} numbers to region {name}"))?;
            }
            if wait {
                // The library writes the pages back when a signal ends the process.
                loop {
                    std::thread::park();
                }
            }
        }
        Command::Check { name } => {
            let numbers = dsm.attach::<u64>(&name)?;
            for i in dsm.my_block(numbers.len()) {
                let found = numbers.get(i);
                check(found == number(i), || {
                    format!("number {i} of region {name} is {found}, not {}", number(i))
                })?;
            }
            dsm.barrier()?;
            if dsm.is_root() {
                say(format_args!("region {name} holds the {} numbers that were written", numbers.len()))?;
            }
        }
    }
    Ok(dsm.leave()?)
}

/// What stands at place `i`: any function that is unlikely to come by itself.
fn number(i: usize) -> u64 {
    (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
