//! `tarpc` (TCP, bincode) and `tonic` (HTTP/2, protobuf), each with an echo: server and client with one
//! runtime thread each, as their own documentation shows them. Apart from the benchmarks because of
//! what they depend on.
#![deny(unsafe_code)]

mod tarpc_echo;
mod tonic_echo;

use std::net::TcpListener;
use std::time::Instant;

/// Errors end the benchmark with their text.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The facility.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Facility {
    /// `tarpc`.
    Tarpc,
    /// `tonic`.
    Tonic,
}

/// Serves echoes on this listener until the process ends.
pub fn serve(facility: Facility, listener: TcpListener) -> Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        match facility {
            Facility::Tarpc => tarpc_echo::serve(listener).await,
            Facility::Tonic => tonic_echo::serve(listener).await,
        }
    })
}

/// A client with its runtime thread, which is the caller's.
pub struct Caller {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

#[derive(Clone)]
enum Client {
    Tarpc(tarpc_echo::EchoClient),
    Tonic(tonic_echo::EchoClient),
}

impl Caller {
    /// Connects to a server of the facility.
    pub fn connect(facility: Facility, addr: std::net::SocketAddr) -> Result<Caller> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = match facility {
            Facility::Tarpc => Client::Tarpc(runtime.block_on(tarpc_echo::connect(addr))?),
            Facility::Tonic => Client::Tonic(runtime.block_on(tonic_echo::connect(addr))?),
        };
        Ok(Caller { runtime, client })
    }

    /// So many calls of so many bytes, one after the other; microseconds each.
    pub fn one_by_one(&mut self, count: usize, bytes: usize) -> Result<Vec<f64>> {
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

    /// So many calls with `in_flight` under way; calls a second.
    pub fn together(&mut self, count: usize, bytes: usize, in_flight: usize) -> Result<f64> {
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
