//! @NAME@: every rank fills its part of an array that all ranks share, rank 0 adds it up; then every rank
//! calls rank 0 through the interface of `idl/greeter.idl`.

use std::error::Error;
use std::time::Duration;

use pagemesh::prelude::*;
use pagemesh::rpc::{self, Context, Policy};

pagemesh::include_idl!("greeter" as greeter);
use greeter::{Greeter, GreeterClient, GreeterServer};

/// The server. Calls may run at one time in several threads.
struct Host;

impl Greeter for Host {
    fn greet(&self, _: &Context<'_>, name: &str) -> rpc::Result<String> {
        Ok(format!("hello, {name}"))
    }
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    // `pagemesh run` tells each rank where its peers are; without it this process is alone.
    let dsm = Dsm::builder().from_env()?.join()?;

    let n = 100_000;
    let squares = dsm.alloc::<u64>("squares", n)?; // at the same address in every rank
    for i in dsm.my_block(n) {
        squares.set(i, (i as u64).pow(2));
    }
    dsm.barrier()?; // what was written before is seen after, by every rank
    if dsm.is_root() {
        let sum: u64 = (0..n).map(|i| squares.get(i)).sum();
        println!("{} ranks, sum of the squares below {n}: {sum}", dsm.ranks());
        dsm.serve(GreeterServer(Host), 64)?;
    }

    dsm.wait_for_server("Greeter", Duration::from_secs(20))?;
    let client = GreeterClient::new(dsm.channel(Policy::RoundRobin));
    println!("rank 0 says: {}", client.greet(&format!("rank {}", dsm.rank()))?);

    dsm.barrier()?; // rank 0 serves until every rank has called
    dsm.leave()?;
    Ok(())
}
