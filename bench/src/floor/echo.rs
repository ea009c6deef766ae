//! The bare echo: so many bytes there and back over a connected socket, nothing else.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::RawFd;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Wait, adopt, connected_pair, receive};
use crate::Result;
use crate::child::{self, Child};
use crate::role::{Part, Role};

/// What carries the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Wire {
    /// Datagrams, and how each side waits for them.
    Udp(Wait),
    /// A stream; both sides block.
    Tcp,
}

/// What a side is told.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum EchoCommand {
    /// Send so many times so many bytes, each after the answer to the last; microseconds each.
    Ask { count: usize, bytes: usize },
    /// Send as much back.
    Answer { count: usize, bytes: usize },
}

/// Both sides, seen from the parent.
pub(crate) struct Echo {
    client: Child<EchoCommand, Vec<f64>>,
    server: Child<EchoCommand, Vec<f64>>,
}

impl Echo {
    pub(crate) fn start(wire: Wire) -> Result<Echo> {
        let role = |socket| Role::new(Part::Echo { wire, socket });
        match wire {
            Wire::Udp(_) => {
                let (a, b) = connected_pair()?;
                let client = Child::start(&role(child::number(&a)), &[&a])?;
                Ok(Echo { client, server: Child::start(&role(child::number(&b)), &[&b])? })
            }
            Wire::Tcp => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                let a = TcpStream::connect(listener.local_addr()?)?;
                let (b, _) = listener.accept()?;
                let client = Child::start(&role(child::number(&a)), &[&a])?;
                Ok(Echo { client, server: Child::start(&role(child::number(&b)), &[&b])? })
            }
        }
    }

    pub(crate) fn round_trips(&mut self, count: usize, bytes: usize) -> Result<Vec<f64>> {
        self.server.tell(&EchoCommand::Answer { count, bytes })?;
        let times = self.client.ask(&EchoCommand::Ask { count, bytes })?;
        self.server.hear()?;
        Ok(times)
    }
}

/// Runs one side.
pub(crate) fn echo(wire: Wire, socket: RawFd) -> Result<()> {
    match wire {
        Wire::Udp(wait) => {
            let socket = adopt(socket, wait)?;
            child::serve(|command| {
                obey(command, |message, sends_first| {
                    if sends_first {
                        socket.send(message)?;
                    }
                    let len = receive(&socket, message)?;
                    if len != message.len() {
                        return Err("a datagram of another length".into());
                    }
                    if !sends_first {
                        socket.send(message)?;
                    }
                    Ok(())
                })
            })
        }
        Wire::Tcp => {
            let mut stream = TcpStream::from(child::adopt(socket));
            stream.set_nodelay(true)?;
            child::serve(|command| {
                obey(command, |message, sends_first| {
                    if sends_first {
                        stream.write_all(message)?;
                    }
                    stream.read_exact(message)?;
                    if !sends_first {
                        stream.write_all(message)?;
                    }
                    Ok(())
                })
            })
        }
    }
}

fn obey(command: EchoCommand, mut exchange: impl FnMut(&mut [u8], bool) -> Result<()>) -> Result<Vec<f64>> {
    let (count, bytes, asks) = match command {
        EchoCommand::Ask { count, bytes } => (count, bytes, true),
        EchoCommand::Answer { count, bytes } => (count, bytes, false),
    };
    let mut message = vec![7; bytes];
    let mut times = Vec::with_capacity(if asks { count } else { 0 });
    for _ in 0..count {
        let start = Instant::now();
        exchange(&mut message, asks)?;
        if asks {
            times.push(start.elapsed().as_nanos() as f64 / 1e3);
        }
    }
    Ok(times)
}
