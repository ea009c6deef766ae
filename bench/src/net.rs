//! `net`: messages between two of the library's endpoints, each in a process of its own.
//!
//! Both sides run socket and endpoint in a tight loop, without a node around them. Floors without loss:
//! of the round trip raw UDP, spinning or blocking; of the throughput one TCP connection with the same
//! message size (and, `.vs_udp`, bulk UDP with datagrams of the same length). Loss is injected into
//! each datagram on the wire, both ways; the floor of such a figure is the endpoint's own without loss,
//! in the same round.

mod peer;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

use crate::child::{self, Child};
use crate::floor::{Meeting, Pull, Puller, TcpCommand, Wait};
use crate::report::{Report, Series, quantile};
use crate::role::{Part, Role};
use crate::{NetOptions, Options, Result};

pub(crate) use peer::serve;

/// One of the two endpoints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EndpointSettings {
    socket: RawFd,
    /// The other one's address; only the one that connects knows it.
    peer: Option<SocketAddr>,
    /// Share of datagrams that are lost, in parts per million.
    loss_ppm: u32,
    /// Longest datagram.
    datagram_max: usize,
}

/// What an endpoint is told. One sends and the other receives; each answers when all is acknowledged.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum NetCommand {
    /// Have a session.
    Connect,
    /// Send so many messages of 64 B, each after the answer to the last; microseconds.
    Ask(usize),
    /// Send so many back.
    Echo(usize),
    /// Send so many messages of so many bytes and wait for word; gigabytes a second.
    Send { count: usize, bytes: usize },
    /// Receive so many and say so.
    Receive { count: usize },
}

/// Loss, in parts per million, and its name.
const LOSSES: [(u32, &str); 4] = [(0, "loss0"), (1_000, "loss0.1"), (10_000, "loss1"), (50_000, "loss5")];
/// Longest datagrams, and what figures with them are called.
const DATAGRAMS: [(usize, &str); 2] = [(65_507, ""), (1_472, ".1472")];
/// Message sizes, their names, and how many bytes of them a round sends.
const MESSAGES: [(usize, &str); 2] = [(64 << 10, "64K"), (1 << 20, "1M")];
const VOLUME: usize = 256 << 20;

/// Two endpoints with a session.
struct Pair {
    client: Child<NetCommand, Vec<f64>>,
    server: Child<NetCommand, Vec<f64>>,
}

/// One TCP connection.
struct Tcp {
    sender: Child<TcpCommand, f64>,
    receiver: Child<TcpCommand, f64>,
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options, net: &NetOptions, report: &mut Report) -> Result<()> {
    report.title("net: endpoint to endpoint; floors: raw UDP, TCP, and under loss the same without");
    run_round_trip(options, report)?;
    let (mut tcp, mut puller) = (Tcp::start()?, Puller::start()?);
    let wanted = |datagram_max| net.datagram.is_empty() || net.datagram.contains(&datagram_max);
    for (datagram_max, suffix) in DATAGRAMS.into_iter().filter(|&(max, _)| wanted(max)) {
        let mut pairs =
            LOSSES.iter().map(|(loss, _)| Pair::start(*loss, datagram_max)).collect::<Result<Vec<_>>>()?;
        for (bytes, size) in MESSAGES {
            let name = |loss: &str| format!("net.throughput.{size}.{loss}{suffix}");
            let mut vs_tcp = Series::new(name("loss0"), "GB/s");
            let mut vs_udp = Series::new(name("loss0") + ".vs_udp", "GB/s");
            let mut lossy: Vec<Series> =
                LOSSES[1..].iter().map(|(_, loss)| Series::new(name(loss), "GB/s")).collect();
            let count = options.count(if suffix.is_empty() { VOLUME } else { VOLUME / 4 }) / bytes;
            for _ in 0..options.rounds() {
                let udp =
                    puller.pull(Pull { bytes: count * bytes, datagram: datagram_max.min(15 * 4096) })?;
                let floor = tcp.send(count, bytes)?;
                let own = pairs[0].send(count, bytes)?;
                vs_tcp.push(own, floor);
                vs_udp.push(own, udp);
                for (series, pair) in lossy.iter_mut().zip(&mut pairs[1..]) {
                    series.push(pair.send(count / 4, bytes)?, own);
                }
            }
            report.add(&vs_tcp);
            report.add(&vs_udp);
            lossy.iter().for_each(|series| report.add(series));
        }
    }
    Ok(())
}

fn run_round_trip(options: &Options, report: &mut Report) -> Result<()> {
    let mut pair = Pair::start(0, 65_507)?;
    let mut floors = [Meeting::start(2, Wait::Spin)?, Meeting::start(2, Wait::Block)?];
    let mut series = Series::new("net.rtt.64B.loss0", "us");
    let count = options.count(5000);
    for _ in 0..options.rounds() {
        let mut floor = f64::INFINITY;
        for meeting in &mut floors {
            floor = floor.min(quantile(&meeting.barriers(count)?, 0.5));
        }
        series.push(quantile(&pair.round_trips(count)?, 0.5), floor);
    }
    report.add(&series);
    Ok(())
}

impl Pair {
    fn start(loss_ppm: u32, datagram_max: usize) -> Result<Pair> {
        let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        let (a, b) = (bind()?, bind()?);
        let role = |socket: &UdpSocket, peer| {
            let socket = child::number(socket);
            Role::new(Part::Endpoint(EndpointSettings { socket, peer, loss_ppm, datagram_max }))
        };
        let server = Child::start(&role(&a, None), &[&a])?;
        let client = Child::start(&role(&b, Some(a.local_addr()?)), &[&b])?;
        let mut pair = Pair { client, server };
        pair.both(&NetCommand::Connect, &NetCommand::Connect)?;
        // The longest datagram is found by traffic.
        pair.send(200, 64 << 10)?;
        Ok(pair)
    }

    fn round_trips(&mut self, count: usize) -> Result<Vec<f64>> {
        self.both(&NetCommand::Ask(count), &NetCommand::Echo(count))
    }

    fn send(&mut self, count: usize, bytes: usize) -> Result<f64> {
        let count = count.max(8);
        Ok(self.both(&NetCommand::Send { count, bytes }, &NetCommand::Receive { count })?[0])
    }

    fn both(&mut self, client: &NetCommand, server: &NetCommand) -> Result<Vec<f64>> {
        self.server.tell(server)?;
        let answer = self.client.ask(client)?;
        self.server.hear()?;
        Ok(answer)
    }
}

impl Tcp {
    fn start() -> Result<Tcp> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let a = TcpStream::connect(listener.local_addr()?)?;
        let (b, _) = listener.accept()?;
        let role = |socket: &TcpStream| Role::new(Part::Tcp { socket: child::number(socket) });
        Ok(Tcp { sender: Child::start(&role(&a), &[&a])?, receiver: Child::start(&role(&b), &[&b])? })
    }

    fn send(&mut self, count: usize, bytes: usize) -> Result<f64> {
        self.receiver.tell(&TcpCommand::Receive { count, bytes })?;
        let speed = self.sender.ask(&TcpCommand::Send { count, bytes })?;
        self.receiver.hear()?;
        Ok(speed)
    }
}
