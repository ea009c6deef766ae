//! The benchmarks with `tarpc` (TCP, bincode) and `tonic` (HTTP/2, protobuf) in the comparison of calls, each
//! with an echo: server and client with one runtime thread each, as their own documentation shows them.
//!
//! A workspace of its own: nobody else has to build what these depend on.
//! `cargo run --release --manifest-path bench/peers/Cargo.toml -- rpc`
#![deny(unsafe_code)]

mod tarpc_echo;
mod tonic_echo;

use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use bench::{Caller, Facility, Result};

fn main() -> std::process::ExitCode {
    bench::main(&[&Peer::Tarpc, &Peer::Tonic])
}

/// The other facilities.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Peer {
    Tarpc,
    Tonic,
}

impl Facility for Peer {
    fn name(&self) -> &'static str {
        match self {
            Peer::Tarpc => "tarpc",
            Peer::Tonic => "tonic",
        }
    }

    fn serve(&self, listener: TcpListener) -> Result<()> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            match self {
                Peer::Tarpc => tarpc_echo::serve(listener).await,
                Peer::Tonic => tonic_echo::serve(listener).await,
            }
        })
    }

    fn connect(&self, addr: SocketAddr) -> Result<Box<dyn Caller>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = match self {
            Peer::Tarpc => Client::Tarpc(runtime.block_on(tarpc_echo::connect(addr))?),
            Peer::Tonic => Client::Tonic(runtime.block_on(tonic_echo::connect(addr))?),
        };
        Ok(Box::new(Connection { runtime, client }))
    }
}

/// A client with its runtime thread, which is the caller's.
struct Connection {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

#[derive(Clone)]
enum Client {
    Tarpc(tarpc_echo::EchoClient),
    Tonic(tonic_echo::EchoClient),
}

impl Caller for Connection {
    fn one_by_one(&mut self, count: usize, bytes: usize) -> Result<Vec<f64>> {
        let client = &mut self.client;
        self.runtime.block_on(async {
            let mut times = Vec::with_capacity(count);
            for _ in 0..count {
                let start = Instant::now();
                client.echo(vec![7; bytes]).await.map_err(boxed)?;
                times.push(start.elapsed().as_nanos() as f64 / 1e3);
            }
            Ok(times)
        })
    }

    fn together(&mut self, count: usize, bytes: usize, in_flight: usize) -> Result<f64> {
        let client = &self.client;
        self.runtime.block_on(async {
            let start = Instant::now();
            let caller = |_| {
                let mut client = client.clone();
                async move {
                    for _ in 0..count / in_flight {
                        client.echo(vec![7; bytes]).await?;
                    }
                    Ok(())
                }
            };
            futures::future::try_join_all((0..in_flight).map(caller)).await.map_err(boxed)?;
            Ok((count / in_flight * in_flight) as f64 / start.elapsed().as_secs_f64())
        })
    }
}

impl Client {
    async fn echo(&mut self, data: Vec<u8>) -> std::result::Result<(), Failure> {
        let len = data.len();
        let back = match self {
            Client::Tarpc(client) => {
                client.echo(tarpc::context::current(), data).await.map_err(|error| error.to_string())?
            }
            Client::Tonic(client) => client.echo(data).await?,
        };
        if back.len() == len { Ok(()) } else { Err("another length came back".into()) }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn boxed(error: Failure) -> Box<dyn std::error::Error> {
    error
}
