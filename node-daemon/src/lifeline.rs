//! The time in which a daemon belongs to the command that started it: until that command has recorded the
//! cluster, no other command knows of the daemon. If the command ends before, the daemon ends too.

use std::fs::{File, OpenOptions};
use std::io::Read;

/// What the command writes when the cluster is recorded.
pub const RECORDED: &[u8] = b"recorded\n";

/// Watches the descriptor, whose other end the command holds: its end without the word ends the process.
/// `then` runs when the word has come.
pub(crate) fn watch(fd: i32, then: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    // Opened through its name: a number from a command line owns nothing, and may be wrong.
    let pipe = OpenOptions::new().read(true).open(format!("/proc/self/fd/{fd}"))?;
    give_up_input(fd)?;
    std::thread::Builder::new().name("pm-lifeline".into()).spawn(move || {
        if !is_recorded(pipe) {
            eprintln!("pagemesh daemon: the command that started it ended before the cluster was recorded");
            std::process::exit(crate::CANNOT_START);
        }
        then();
    })?;
    Ok(())
}

fn is_recorded(mut pipe: File) -> bool {
    let mut word = vec![0; RECORDED.len()];
    pipe.read_exact(&mut word).is_ok() && word == RECORDED
}

/// Number 0 must stay something: the next file opened would become standard input.
fn give_up_input(fd: i32) -> std::io::Result<()> {
    if fd == 0 {
        return Ok(nix::unistd::dup2_stdin(File::open("/dev/null")?)?);
    }
    Ok(nix::unistd::close(fd)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn heard(bytes: &[u8]) -> bool {
        let (read, write) = nix::unistd::pipe().expect("a pipe");
        File::from(write).write_all(bytes).expect("room");
        is_recorded(read.into())
    }

    #[test]
    fn only_the_whole_word_frees_a_daemon() {
        assert!(heard(RECORDED));
        assert!(!heard(b""));
        assert!(!heard(b"recorded"));
        assert!(!heard(b"something else"));
    }
}
