//! `rpc`: calls between two processes, beside raw UDP, raw TCP and other call facilities in the same rounds.
//!
//! An echo of 16 B and of 4 KiB, one call after the other by a blocked thread, and calls a second with 64
//! in flight. Ours is a call between two ranks, with every promise that a call has; peers have one
//! runtime thread on each side. All cores are kept awake (`awake.rs`), for all contestants alike, but for
//! `idle` and `in_barrier`. The floor of an echo is raw UDP with as many bytes, the better of spinning and
//! blocking; `.vs_x` has x in its place.

use std::collections::VecDeque;
use std::time::Instant;

use pagemesh::rpc::{Call, Context};
use pagemesh::{Dsm, NodeId};

use crate::awake::Awake;
use crate::child::Child;
use crate::cluster::{Cluster, Plan};
use crate::floor::{Echo as Floor, Wait, Wire};
use crate::peer::{Facility, Peer};
use crate::rank::{Answer, Command};
use crate::report::{Report, Series, quantile};
use crate::{Options, Result};

pagemesh::include_idl!("echo" as stubs);
use stubs::{Echo, EchoCalls, EchoClient, EchoServer};

/// Calls under way in the measurement of throughput.
const IN_FLIGHT: usize = 64;
/// Sizes of echoes, and what figures with them are called.
const SIZES: [(usize, &str); 2] = [(16, "echo16"), (4096, "echo4k")];

/// Everybody who takes part.
struct Contest {
    cluster: Cluster,
    udp: [Floor; 2],
    tcp: Floor,
    peers: Vec<Peer>,
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options, facilities: &[&dyn Facility], report: &mut Report) -> Result<()> {
    report.title("rpc: echo between two processes; floor: raw UDP");
    let mut contest = Contest::start(facilities)?;
    contest.run_unattended(options, report)?;
    let awake = Awake::start()?;
    report.note(&format!("from here on process {} keeps the cores awake", awake.id()));
    for (bytes, name) in SIZES {
        contest.run_echo(options, report, (bytes, name))?;
    }
    contest.run_rate(options, report)
}

impl Contest {
    fn start(facilities: &[&dyn Facility]) -> Result<Contest> {
        let mut cluster = Plan::ranks(2).start()?;
        cluster.ask(0, &Command::ServeEcho)?;
        let udp = [Floor::start(Wire::Udp(Wait::Spin))?, Floor::start(Wire::Udp(Wait::Block))?];
        let tcp = Floor::start(Wire::Tcp)?;
        let peers = facilities.iter().map(|facility| Peer::start(*facility)).collect::<Result<_>>()?;
        let mut contest = Contest { cluster, udp, tcp, peers };
        // Paths and branches are learnt by traffic.
        for (bytes, _) in SIZES {
            contest.own(500, bytes)?;
            for peer in &mut contest.peers {
                peer.one_by_one(500, bytes)?;
            }
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
        let names = self.peers.iter().map(|peer| format!("p50.vs_{}", peer.name));
        let names: Vec<String> =
            ["p50.vs_blocking_udp".into(), "p50.vs_tcp".into()].into_iter().chain(names).collect();
        let mut vs: Vec<Series> = names.iter().map(|name| series(name)).collect();
        let count = options.count(3000);
        for _ in 0..options.rounds() {
            let raw = [self.udp[0].round_trips(count, bytes)?, self.udp[1].round_trips(count, bytes)?];
            let better = |share| quantile(&raw[0], share).min(quantile(&raw[1], share));
            let times = self.own(count, bytes)?;
            let p50 = quantile(&times, 0.5);
            own[0].push(p50, better(0.5));
            own[1].push(quantile(&times, 0.99), better(0.99));
            let [_, blocking] = raw;
            let mut others = vec![blocking, self.tcp.round_trips(count, bytes)?];
            for peer in &mut self.peers {
                others.push(peer.one_by_one(count, bytes)?);
            }
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
        if self.peers.is_empty() {
            report.note("calls a second are compared with other facilities by the program in bench/peers");
        }
        let vs = self.peers.iter().map(|peer| format!("rpc.rate64.vs_{}", peer.name));
        let mut vs: Vec<Series> = vs.map(|name| Series::new(name, "calls/s")).collect();
        let count = options.count(50_000);
        for _ in 0..options.rounds() {
            let own = self.cluster.times(1, &Command::EchoRate { count, bytes: 16 })?[0];
            for (series, peer) in vs.iter_mut().zip(&mut self.peers) {
                // Slower facilities get as many calls: a round takes a second at the most.
                series.push(own, peer.together(count / 2, 16, IN_FLIGHT)?);
            }
        }
        vs.iter().for_each(|series| report.add(series));
        Ok(())
    }

    fn own(&mut self, count: usize, bytes: usize) -> Result<Vec<f64>> {
        self.cluster.times(1, &Command::Echo { count, bytes })
    }
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
