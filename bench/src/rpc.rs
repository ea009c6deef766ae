//! `rpc`: calls between two processes, beside raw UDP, raw TCP, `tarpc` and `tonic` in the same rounds.
//!
//! An echo of 16 B and of 4 KiB, one call after the other by a blocked thread, and calls a second with 64
//! in flight. Ours is a call between two ranks, with every promise that a call has; peers have one
//! runtime thread on each side. All cores are kept awake (`awake.rs`), for all contestants alike, but for
//! `idle` and `in_barrier`. The floor of an echo is raw UDP with as many bytes, the better of spinning and
//! blocking; `.vs_x` has x in its place.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::RawFd;
use std::time::Instant;

use bench_peers::{Caller, Facility};
use pagemesh::rpc::{Call, Context};
use pagemesh::{Dsm, NodeId};
use serde::{Deserialize, Serialize};

use crate::awake::Awake;
use crate::child::{self, Child};
use crate::cluster::{Cluster, Plan};
use crate::floor::{Echo as Floor, Wait, Wire};
use crate::rank::{Answer, Command};
use crate::report::{Report, Series, quantile};
use crate::role::{Part, Role};
use crate::{Options, Result};

pagemesh::include_idl!("echo" as stubs);
use stubs::{Echo, EchoCalls, EchoClient, EchoServer};

/// Calls under way in the measurement of throughput.
const IN_FLIGHT: usize = 64;
/// Sizes of echoes, and what figures with them are called.
const SIZES: [(usize, &str); 2] = [(16, "echo16"), (4096, "echo4k")];

/// A client of another facility, and what it is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum PeerKind {
    Tarpc,
    Tonic,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum PeerCommand {
    /// So many calls, one after the other; microseconds each.
    OneByOne { count: usize, bytes: usize },
    /// So many calls with so many under way; calls a second.
    Together { count: usize, bytes: usize },
}

/// Both sides of another facility.
struct Peer {
    client: Child<PeerCommand, Vec<f64>>,
    _server: Child<PeerCommand, Vec<f64>>,
}

/// Everybody who takes part.
struct Contest {
    cluster: Cluster,
    udp: [Floor; 2],
    tcp: Floor,
    tarpc: Peer,
    tonic: Peer,
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    report.title("rpc: echo between two processes; floor: raw UDP");
    let mut contest = Contest::start()?;
    contest.run_unattended(options, report)?;
    let awake = Awake::start()?;
    report.note(&format!("from here on process {} keeps the cores awake", awake.id()));
    for (bytes, name) in SIZES {
        contest.run_echo(options, report, (bytes, name))?;
    }
    contest.run_rate(options, report)
}

impl Contest {
    fn start() -> Result<Contest> {
        let mut cluster = Plan::ranks(2).start()?;
        cluster.ask(0, &Command::ServeEcho)?;
        let udp = [Floor::start(Wire::Udp(Wait::Spin))?, Floor::start(Wire::Udp(Wait::Block))?];
        let tcp = Floor::start(Wire::Tcp)?;
        let (tarpc, tonic) = (Peer::start(PeerKind::Tarpc)?, Peer::start(PeerKind::Tonic)?);
        let mut contest = Contest { cluster, udp, tcp, tarpc, tonic };
        // Paths and branches are learnt by traffic.
        for (bytes, _) in SIZES {
            contest.own(500, bytes)?;
            contest.tarpc.one_by_one(500, bytes)?;
            contest.tonic.one_by_one(500, bytes)?;
        }
        Ok(contest)
    }

    fn run_echo(
        &mut self,
        options: &Options,
        report: &mut Report,
        (bytes, name): (usize, &str),
    ) -> Result<()> {
        let series = |end: &str| Series::new(format!("rpc.{name}.{end}"), "us");
        let mut own = [series("p50"), series("p99")];
        let mut vs = ["p50.vs_blocking_udp", "p50.vs_tcp", "p50.vs_tarpc", "p50.vs_tonic"].map(series);
        let count = options.count(3000);
        for _ in 0..options.rounds() {
            let raw = [self.udp[0].round_trips(count, bytes)?, self.udp[1].round_trips(count, bytes)?];
            let better = |share| quantile(&raw[0], share).min(quantile(&raw[1], share));
            let times = self.own(count, bytes)?;
            let p50 = quantile(&times, 0.5);
            own[0].push(p50, better(0.5));
            own[1].push(quantile(&times, 0.99), better(0.99));
            let [_, blocking] = raw;
            let others = [
                blocking,
                self.tcp.round_trips(count, bytes)?,
                self.tarpc.one_by_one(count, bytes)?,
                self.tonic.one_by_one(count / 2, bytes)?,
            ];
            for (series, times) in vs.iter_mut().zip(&others) {
                series.push(p50, quantile(times, 0.5));
            }
        }
        own.iter().chain(&vs).for_each(|series| report.add(series));
        Ok(())
    }

    /// On cores that nothing keeps awake; the server's main thread does nothing, or waits in a barrier.
    fn run_unattended(&mut self, options: &Options, report: &mut Report) -> Result<()> {
        let mut own = ["idle", "in_barrier"].map(|how| Series::new(format!("rpc.echo16.{how}.p50"), "us"));
        let (count, bytes) = (options.count(3000), 16);
        for _ in 0..options.rounds() {
            let floor = quantile(&self.udp[0].round_trips(count, bytes)?, 0.5);
            own[0].push(quantile(&self.own(count, bytes)?, 0.5), floor);
            self.cluster.ranks[0].tell(&Command::Barriers(1))?;
            own[1].push(quantile(&self.own(count, bytes)?, 0.5), floor);
            self.cluster.ask(1, &Command::Barriers(1))?;
            Child::<Command, Answer>::hear(&mut self.cluster.ranks[0])?;
        }
        own.iter().for_each(|series| report.add(series));
        Ok(())
    }

    fn run_rate(&mut self, options: &Options, report: &mut Report) -> Result<()> {
        let mut vs = ["vs_tarpc", "vs_tonic"].map(|end| Series::new(format!("rpc.rate64.{end}"), "calls/s"));
        let count = options.count(50_000);
        for _ in 0..options.rounds() {
            let own = self.cluster.times(1, &Command::EchoRate { count, bytes: 16 })?[0];
            let others = [self.tarpc.together(count, 16)?, self.tonic.together(count / 4, 16)?];
            for (series, other) in vs.iter_mut().zip(others) {
                series.push(own, other);
            }
        }
        vs.iter().for_each(|series| report.add(series));
        Ok(())
    }

    fn own(&mut self, count: usize, bytes: usize) -> Result<Vec<f64>> {
        self.cluster.times(1, &Command::Echo { count, bytes })
    }
}

impl Peer {
    fn start(kind: PeerKind) -> Result<Peer> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let socket = child::number(&listener);
        let server = Child::start(&Role::new(Part::PeerServer { kind, socket }), &[&listener])?;
        let mut client = Child::start(&Role::new(Part::PeerClient { kind, addr }), &[])?;
        client.hear()?;
        Ok(Peer { client, _server: server })
    }

    fn one_by_one(&mut self, count: usize, bytes: usize) -> Result<Vec<f64>> {
        self.client.ask(&PeerCommand::OneByOne { count, bytes })
    }

    fn together(&mut self, count: usize, bytes: usize) -> Result<f64> {
        Ok(self.client.ask(&PeerCommand::Together { count, bytes })?[0])
    }
}

impl PeerKind {
    fn facility(self) -> Facility {
        match self {
            PeerKind::Tarpc => Facility::Tarpc,
            PeerKind::Tonic => Facility::Tonic,
        }
    }
}

/// Runs the server of another facility.
pub(crate) fn serve_peer(kind: PeerKind, socket: RawFd) -> Result<()> {
    bench_peers::serve(kind.facility(), TcpListener::from(child::adopt(socket)))
}

/// Runs the client of another facility.
pub(crate) fn call_peer(kind: PeerKind, addr: SocketAddr) -> Result<()> {
    let mut caller = Caller::connect(kind.facility(), addr)?;
    child::answer::<Vec<f64>>(&Ok(Vec::new()))?;
    child::serve(|command| match command {
        PeerCommand::OneByOne { count, bytes } => caller.one_by_one(count, bytes),
        PeerCommand::Together { count, bytes } => {
            caller.together(count, bytes, IN_FLIGHT).map(|rate| vec![rate])
        }
    })
}

struct Server;

impl Echo for Server {
    fn echo(&self, _: &Context<'_>, data: &[u8]) -> pagemesh::rpc::Result<Vec<u8>> {
        Ok(data.to_vec())
    }
}

/// In a rank: serves echoes.
pub(crate) fn serve(dsm: &Dsm) -> Result<()> {
    Ok(dsm.serve(EchoServer(Server), 1024)?)
}

/// In a rank: so many calls to node 0, one after the other; microseconds each.
pub(crate) fn one_by_one(dsm: &Dsm, count: usize, bytes: usize) -> Result<Vec<f64>> {
    let client = EchoClient::new(dsm.channel_to(NodeId(0))?);
    let data = vec![7; bytes];
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        let back = client.echo(&data)?;
        times.push(start.elapsed().as_nanos() as f64 / 1e3);
        if back.len() != bytes {
            return Err("another length came back".into());
        }
    }
    Ok(times)
}

/// In a rank: so many calls to node 0, always 64 under way; calls a second.
pub(crate) fn together(dsm: &Dsm, count: usize, bytes: usize) -> Result<f64> {
    let calls = EchoCalls::new(dsm.channel_to(NodeId(0))?);
    let data = vec![7; bytes];
    let mut open: VecDeque<Call<Vec<u8>>> = VecDeque::with_capacity(IN_FLIGHT);
    let start = Instant::now();
    let batch = dsm.calls().batch();
    for _ in 0..count {
        if open.len() == IN_FLIGHT
            && let Some(oldest) = open.pop_front()
        {
            oldest.wait()?;
        }
        open.push_back(calls.echo(&data));
    }
    for call in open {
        call.wait()?;
    }
    drop(batch);
    Ok(count as f64 / start.elapsed().as_secs_f64())
}
