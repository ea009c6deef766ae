//! The other host's side of `doctor --hosts`, started over ssh: says what it finds there and where it listens,
//! returns datagrams that come, and sends some of its own where it is told to. It ends with its standard input.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use pagemesh::Check;
use pagemesh::net::Version;
use serde::{Deserialize, Serialize};

use super::this_host;
use crate::trouble::Trouble;
use crate::wait::{Interest, wait};
use crate::{about, out};

/// Datagrams that it sends unasked: one may get lost.
const UNASKED: usize = 3;
/// Longest datagram that it returns.
const DATAGRAM_MAX: usize = 9000;

/// The line that it writes first.
#[derive(Serialize, Deserialize)]
pub(super) struct Hello {
    /// The library's release and protocol.
    pub(super) version: String,
    /// The commit that it was built from.
    pub(super) commit: String,
    /// Where it listens; none, and why.
    pub(super) listens: Result<SocketAddr, String>,
    /// What it has found.
    pub(super) checks: Vec<Check>,
}

impl Hello {
    /// This build's, as far as it is known before anything is looked at.
    pub(super) fn ours() -> Hello {
        Hello {
            version: Version::ours().to_string(),
            commit: about::COMMIT.to_owned(),
            listens: Err("not yet".to_owned()),
            checks: Vec::new(),
        }
    }
}

/// Serves one examination.
pub(crate) fn serve(bind: IpAddr) -> Result<i32, Trouble> {
    let socket = UdpSocket::bind((bind, 0));
    let listens = socket
        .as_ref()
        .map_err(ToString::to_string)
        .and_then(|socket| socket.local_addr().map_err(|error| error.to_string()));
    let hello = Hello { listens, checks: this_host()?, ..Hello::ours() };
    out::line(serde_json::to_string(&hello).map_err(|error| Trouble::failed(error.to_string()))?)?;
    let Ok(socket) = socket else { return Ok(0) };
    let mut input = BufReader::new(std::io::stdin());
    let mut datagram = [0; DATAGRAM_MAX];
    loop {
        let ready = wait(
            &[(true, socket.as_fd(), Interest::Read), (false, input.get_ref().as_fd(), Interest::Read)],
            None,
        )?;
        if ready.contains(&true)
            && let Ok((len, from)) = socket.recv_from(&mut datagram)
        {
            // What gets lost is asked for again.
            let _ = socket.send_to(&datagram[..len], from);
        }
        if ready.contains(&false) {
            let mut line = String::new();
            if input.read_line(&mut line).is_ok_and(|len| len > 0) {
                send_unasked(bind, line.trim());
            } else {
                return Ok(0);
            }
        }
    }
}

/// Sends where `line` says, from a socket to which nothing was ever sent, so that nothing on the way lets it
/// through as an answer.
fn send_unasked(bind: IpAddr, line: &str) {
    let Some((addr, token)) = line.split_once(' ') else { return };
    let (Ok(addr), Ok(socket)) = (addr.parse::<SocketAddr>(), UdpSocket::bind((bind, 0))) else { return };
    for _ in 0..UNASKED {
        // The other side says that nothing came.
        let _ = socket.send_to(token.as_bytes(), addr);
    }
}
