//! `rpcgen`: the stub generator, which is a library with a command line of its own.

use std::io::{self, Write};

use pagemesh_rpcgen::command::{self, Arguments, Failure};

use crate::out;
use crate::trouble::{CANNOT_START, Trouble};

/// Runs one of its commands and gives the exit code.
pub(crate) fn run(arguments: &Arguments) -> Result<i32, Trouble> {
    let mut stdout = io::stdout().lock();
    match command::run(arguments, &mut stdout).and_then(|code| Ok(stdout.flush().map(|()| code)?)) {
        Ok(code) => Ok(code),
        Err(Failure::Rejected(report)) => {
            // Every mistake with its line underlined: the report stands alone.
            out::note(report.trim_end());
            Ok(CANNOT_START)
        }
        Err(Failure::Refused(line)) => Err(Trouble::start(line)),
        Err(Failure::Output(error)) => Err(out::unwritten(error)),
    }
}
