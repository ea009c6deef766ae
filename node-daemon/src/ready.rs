//! The one line that tells whoever started the daemon how the start went. It is an event: the other side
//! waits for it, or for the end of the descriptor, and never looks at a clock.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;

use serde::Serialize;

#[derive(Serialize)]
struct Line<'a> {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    addr: Option<SocketAddr>,
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// Says that the node is a member. The descriptor stays open.
pub(crate) fn is_member(fd: Option<i32>, addr: SocketAddr) -> std::io::Result<()> {
    let Some(fd) = fd else { return Ok(()) };
    write(fd, &Line { ready: true, addr: Some(addr), pid: std::process::id(), error: None })
}

/// Says why it is not one.
pub(crate) fn cannot_start(fd: Option<i32>, error: &str) {
    if let Some(fd) = fd {
        // The error is on standard error already.
        let _ = write(fd, &Line { ready: false, addr: None, pid: std::process::id(), error: Some(error) });
    }
}

fn write(fd: i32, line: &Line<'_>) -> std::io::Result<()> {
    // Opened through its name: a number from a command line owns nothing, and may be wrong.
    let mut file = OpenOptions::new().append(true).open(format!("/proc/self/fd/{fd}"))?;
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    file.write_all(text.as_bytes())
}

/// Closes the descriptor, so that a reader (over ssh, the whole connection) sees its end. Number 1 must
/// stay something: the next file opened would become standard output.
pub(crate) fn give_up(fd: Option<i32>) -> std::io::Result<()> {
    let Some(fd) = fd else { return Ok(()) };
    if fd == 1 {
        let null = OpenOptions::new().write(true).open("/dev/null")?;
        return Ok(nix::unistd::dup2_stdout(&null)?);
    }
    Ok(nix::unistd::close(fd)?)
}
