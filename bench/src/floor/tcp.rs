//! One TCP connection that carries messages of one size.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::RawFd;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::child;

/// What an end is told. The receiver answers when it has sent its one byte, the sender when it has that.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum TcpCommand {
    /// Send so many messages of so many bytes and wait for a byte; gigabytes a second.
    Send { count: usize, bytes: usize },
    /// Receive them and send a byte.
    Receive { count: usize, bytes: usize },
}

/// Runs one end.
pub(crate) fn tcp(socket: RawFd) -> Result<()> {
    let mut stream = TcpStream::from(child::adopt(socket));
    stream.set_nodelay(true)?;
    child::serve(|command: TcpCommand| match command {
        TcpCommand::Send { count, bytes } => {
            let message = vec![7u8; bytes];
            let start = Instant::now();
            for _ in 0..count {
                stream.write_all(&message)?;
            }
            stream.read_exact(&mut [0])?;
            Ok((count * bytes) as f64 / 1e9 / start.elapsed().as_secs_f64())
        }
        TcpCommand::Receive { count, bytes } => {
            let mut message = vec![0u8; bytes];
            for _ in 0..count {
                stream.read_exact(&mut message)?;
            }
            stream.write_all(&[1])?;
            Ok(0.0)
        }
    })
}
