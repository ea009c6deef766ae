//! Traffic that no node of the cluster has sent, and messages that no sane node sends.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pagemesh::codec::encode_control;
use pagemesh::coherence::{
    Answer, Attempt, BarrierId, BarrierMessage, Body, Held, HeldLock, LockId, LockMessage, Message, NodeSet,
    Report, ReportPart, Req, ToHome, ToNode, Txn, encode_batch_head,
};
use pagemesh::membership::{Control, ElementType, HostId, Introduction, Kind, Want};
use pagemesh::net::udp::{Outlet, Received, UdpSocket, datagrams};
use pagemesh::net::{
    Endpoint, EndpointConfig, Entropy, Event, OutMessage, Priority, SessionHandle, TransmitBuf, Version,
};
use pagemesh::page::{Access, Epoch, ExtentId, Incarnation, PageBuf, PageId, Span, Time};
use pagemesh::{Node, NodeId, Settings};

use crate::child::{Child, listen, resident_kib, say};
use crate::counting::{CounterServer, Counting};
use system_tests::rig::{self, Rig, until};

/// A cluster with a program that multiplies matrices until it is told to stop. Its nodes bind the address that
/// the settings name.
pub(crate) fn attacked(settings: Settings) {
    const N: usize = 48;
    let rig = Rig::with_daemons(2, 3).longer_by(attack_time()).set("bind", &settings.bind.to_string());
    let daemons = rig.start_daemons();
    let join = daemons.first().map(Node::local_addr);
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    let program = std::thread::spawn(move || {
        rig.run_program(join, move |dsm| {
            let [a, b, c] = ["a", "b", "c"].map(|name| dsm.alloc::<u64>(name, N * N).unwrap());
            let going = dsm.alloc::<u64>("going", 1).unwrap();
            let mut rounds = 0u64;
            loop {
                if dsm.is_root() {
                    for index in 0..N * N {
                        a.set(index, rounds + index as u64);
                        b.set(index, rounds ^ index as u64);
                    }
                    going.set(0, u64::from(!told.load(Ordering::Relaxed)));
                }
                dsm.barrier().unwrap();
                let rows = dsm.my_block(N);
                for (row, column) in rows.flat_map(|row| (0..N).map(move |column| (row, column))) {
                    let terms = (0..N).map(|k| a.get(row * N + k).wrapping_mul(b.get(k * N + column)));
                    c.set(row * N + column, terms.fold(0, u64::wrapping_add));
                }
                dsm.barrier().unwrap();
                for index in (0..N * N).step_by(17) {
                    let (row, column) = (index / N, index % N);
                    let term = |k: usize| {
                        let left = rounds + (row * N + k) as u64;
                        left.wrapping_mul(rounds ^ (k * N + column) as u64)
                    };
                    assert_eq!(c.get(index), (0..N).map(term).fold(0, u64::wrapping_add), "round {rounds}");
                }
                let goes_on = going.get(0) == 1;
                dsm.barrier().unwrap();
                rounds += 1;
                if !goes_on {
                    let net = dsm.status().net;
                    dsm.leave().unwrap();
                    return (rounds, net);
                }
            }
        })
    });
    say("runs");
    loop {
        match listen().as_str() {
            "memory" => say(&resident_kib().to_string()),
            "stop" => break,
            word => panic!("{word}?"),
        }
    }
    stop.store(true, Ordering::Relaxed);
    let results = program.join().expect("the program ends well");
    let mut net = results[0].1;
    results[1..].iter().for_each(|(_, more)| net.add(more));
    daemons.iter().for_each(|daemon| net.add(&daemon.status().net));
    say(&results[0].0.to_string());
    say(&(net.malformed + net.unknown_session + net.foreign_address + net.bad_key).to_string());
    say(&net.bad_tag.to_string());
    say(&net.duplicate_packets.to_string());
    let sockets = daemons.iter().map(|daemon| daemon.status().socket);
    let errors = sockets.map(|socket| socket.receive_errors + socket.error_reports + socket.send_errors);
    say(&errors.sum::<u64>().to_string());
    rig::stop(daemons);
}

/// The UDP ports that a process listens at, IPv4 and IPv6.
pub(crate) fn ports_of(pid: i32) -> Vec<u16> {
    let mut ours = HashMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a child of ours").flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if let Some(inode) = target.to_string_lossy().strip_prefix("socket:[") {
            ours.insert(inode.trim_end_matches(']').to_owned(), ());
        }
    }
    let table = |name| std::fs::read_to_string(name).unwrap_or_default();
    let table = table("/proc/net/udp") + &table("/proc/net/udp6");
    let port = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        ours.get(*fields.get(9)?)?;
        u16::from_str_radix(fields.get(1)?.split_once(':')?.1, 16).ok()
    };
    table.lines().filter_map(port).collect()
}

/// A socket that sees every UDP packet of this host and can send as anybody; needs privilege.
struct Wire(OwnedFd);

impl Wire {
    fn open() -> Option<Wire> {
        // SAFETY: makes a descriptor or fails.
        let fd = unsafe {
            libc::socket(
                libc::AF_INET,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                libc::IPPROTO_UDP,
            )
        };
        if fd < 0 {
            return None;
        }
        // SAFETY: the descriptor was made just now, for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let one = 1i32;
        // SAFETY: the kernel reads one integer.
        let set = unsafe {
            libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_IP, libc::IP_HDRINCL, (&raw const one).cast(), 4)
        };
        (set == 0).then_some(Wire(fd))
    }

    /// The next packet: source port, destination port, payload.
    fn receive(&self, buffer: &mut [u8]) -> Option<(u16, u16, Vec<u8>)> {
        // SAFETY: the kernel writes into the buffer, at most its length.
        let len = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let packet = &buffer[..usize::try_from(len).ok()?];
        let udp = packet.get(usize::from(packet.first()? & 15) * 4..)?;
        let port = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
        Some((port(0)?, port(2)?, udp.get(8..)?.to_vec()))
    }

    fn send(&self, from: u16, to: u16, payload: &[u8]) {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1];
        packet.extend(from.to_be_bytes());
        packet.extend(to.to_be_bytes());
        packet.extend(((payload.len() + 8) as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        let SocketAddr::V4(addr) = SocketAddr::from(([127, 0, 0, 1], to)) else {
            unreachable!("an IPv4 address")
        };
        let addr = libc_address(addr);
        // SAFETY: the kernel reads the packet and the address. What does not fit is not sent.
        let _ = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const addr).cast(),
                size_of_val(&addr) as u32,
            )
        };
    }
}

fn libc_address(addr: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: addr.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*addr.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

fn flip_bits(rng: &mut fastrand::Rng, packet: &mut [u8]) {
    for _ in 0..rng.usize(1..=6) {
        let bit = rng.usize(0..packet.len() * 8);
        packet[bit / 8] ^= 1 << (bit % 8);
    }
}

/// How long the attack lasts.
fn attack_time() -> Duration {
    Duration::from_secs(if system_tests::long() { 60 } else { 4 })
}

#[test]
fn hostile_traffic_changes_neither_results_nor_memory() {
    let Some(wire) = Wire::open() else {
        return eprintln!("SKIPPED: capturing packets needs privilege");
    };
    let mut child = Child::start("attacked", &rig::small());
    child.expect("runs");
    let mut ports = Vec::new();
    until("all five nodes listen", || ports_of(child.pid().as_raw()).len() >= 5);
    ports.extend(ports_of(child.pid().as_raw()));
    let mut rng = fastrand::Rng::with_seed(11);
    let mut captured: Vec<(u16, u16, Vec<u8>)> = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    let mut sent = 0u64;
    let mut warm_kib = 0;
    let started = Instant::now();
    while started.elapsed() < attack_time() {
        while let Some(packet) = wire.receive(&mut buffer) {
            // From any port: busy peers send from sockets that are connected later.
            let ours = ports.contains(&packet.1) && !packet.2.is_empty();
            // Our own inventions come back to us, too: they are worth altering again.
            if ours && captured.len() < 512 {
                captured.push(packet);
            } else if ours {
                let at = rng.usize(0..512);
                captured[at] = packet;
            }
        }
        for _ in 0..8 {
            let port = ports[rng.usize(0..ports.len())];
            let mut noise = vec![0; rng.usize(0..1500)];
            rng.fill(&mut noise);
            if let (Some(first), true) = (noise.first_mut(), rng.bool()) {
                *first = rng.u8(0..8);
            }
            wire.send(ports[rng.usize(0..ports.len())], port, &noise);
            if let Some((from, to, packet)) = captured.get(rng.usize(0..512)).cloned() {
                let mut altered = packet.clone();
                flip_bits(&mut rng, &mut altered);
                wire.send(from, to, &altered);
                wire.send(from, to, &packet[..rng.usize(0..packet.len())]);
                wire.send(from, to, &packet);
                wire.send(from, port, &packet);
            }
            sent += 5;
        }
        if warm_kib == 0 && started.elapsed() > attack_time() / 3 {
            child.tell("memory");
            warm_kib = child.line().parse().expect("a number");
        }
        std::thread::yield_now();
    }
    child.tell("memory");
    let last_kib: u64 = child.line().parse().expect("a number");
    child.tell("stop");
    let [rounds, foreign, bad_tag, duplicates] =
        [(); 4].map(|()| child.line().parse::<u64>().expect("a number"));
    let (status, errors) = child.end_within(Duration::from_secs(20));
    println!(
        "{sent} packets in {:?}: {rounds} rounds, {foreign} foreign, {bad_tag} altered, {duplicates} replayed; {warm_kib} KiB, then {last_kib}",
        attack_time()
    );
    assert!(status.success(), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    assert!(rounds > 3 && foreign > 0 && bad_tag > 0 && duplicates > 0);
    assert!(last_kib < warm_kib + 16 * 1024, "{warm_kib} KiB became {last_kib}");
}

/// A peer that has the key and no manners.
struct Rogue {
    endpoint: Endpoint,
    socket: UdpSocket,
    outlet: Outlet,
    transmit: TransmitBuf,
    clock: Instant,
    incarnation: Incarnation,
    received: Vec<(SessionHandle, Vec<u8>)>,
    events: Vec<Event>,
}

const COHERENCE: u8 = 1;
const CONTROL: u8 = 2;
/// First byte of a call from outside.
const CLIENT: u8 = 3;

impl Rogue {
    fn new() -> Rogue {
        let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1 << 20).expect("a socket");
        let incarnation = Incarnation(fastrand::u64(..));
        let (key, version) = (rig::key(), Version::ours());
        let config = EndpointConfig::new(key, incarnation, version, socket.receive_buffer());
        Rogue {
            endpoint: Endpoint::new(config, Entropy::of_seed(fastrand::u64(..))),
            socket,
            outlet: Outlet::default(),
            transmit: TransmitBuf::default(),
            clock: Instant::now(),
            incarnation,
            received: Vec::new(),
            events: Vec::new(),
        }
    }

    fn now(&self) -> Time {
        Time(self.clock.elapsed().as_nanos() as u64)
    }

    fn connect(&mut self, addr: SocketAddr) -> SessionHandle {
        let session = self.endpoint.connect(self.now(), addr).expect("a first attempt");
        self.pump_until("a session", |rogue| {
            rogue
                .events
                .iter()
                .any(|event| matches!(event, Event::Connected { session: s, .. } if *s == session))
        });
        session
    }

    fn send(&mut self, to: SessionHandle, message: OutMessage) -> bool {
        let now = self.now();
        self.endpoint.send(now, to, message, Priority::Control).is_ok()
    }

    fn send_control(&mut self, to: SessionHandle, control: &Control) {
        let mut message = OutMessage::from_bytes(&[CONTROL]);
        message.head.extend_from_slice(&encode_control(control));
        self.send(to, message);
    }

    fn is_closed(&self, session: SessionHandle) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Closed { session: s, .. } if *s == session))
    }

    fn pump_until(&mut self, what: &str, done: impl Fn(&Rogue) -> bool) {
        let until = Instant::now() + Duration::from_secs(10);
        while !done(self) {
            assert!(Instant::now() < until, "the rogue waits in vain for {what}: {:?}", self.events);
            self.pump();
        }
    }

    /// Sequence and status of the answers to calls, in the order of the calls.
    fn statuses(&self) -> Vec<(u64, u8)> {
        let mut statuses = Vec::new();
        for (_, message) in &self.received {
            let mut rest = &message[1..];
            while let Some((frame, behind)) = rest.split_at_checked(24) {
                let len = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]) as usize;
                statuses.push((frame[8].into(), frame[2]));
                rest = &behind[len..];
            }
        }
        statuses.sort_unstable();
        statuses
    }

    /// Everything sent has been acknowledged, or the session is over.
    fn flush(&mut self, session: SessionHandle) {
        self.pump_until("an acknowledgement", |rogue| {
            rogue.is_closed(session) || rogue.endpoint.pending(session).is_none_or(|pending| pending == 0)
        });
    }

    fn pump(&mut self) {
        let now = self.now();
        let _ = self.outlet.drain(&self.socket, now, &mut self.endpoint, &mut self.transmit);
        let mut buffer = vec![0; 1 << 16];
        match self.socket.receive(&mut buffer).expect("the socket works") {
            Received::Datagrams { len, segment, from } => {
                let received = &mut self.received;
                for datagram in datagrams(&mut buffer[..len], segment) {
                    self.endpoint.handle_datagram(now, from, datagram, &mut |session, bytes| {
                        received.push((session, bytes.to_vec()));
                    });
                }
            }
            Received::Refused { addr } => self.endpoint.handle_refused(now, addr),
            Received::Failing { .. } | Received::Nothing => {
                let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(&self.socket), PollFlags::POLLIN)];
                let _ = poll(&mut fds, PollTimeout::from(1u8));
            }
        }
        while let Some(event) = self.endpoint.poll_event() {
            self.events.push(event);
        }
    }

    fn introduction(&self, program: u64) -> Introduction {
        let settings = rig::small();
        Introduction {
            incarnation: self.incarnation,
            kind: Kind::Rank { program, rank: 0, ranks: 1 },
            name: "rogue".into(),
            addr: self.socket.local_addr().expect("bound"),
            // Not a process that a daemon of this host could watch.
            host: HostId { processes: "elsewhere".into(), ..pagemesh::node::host() },
            pid: 1,
            started: 0,
            memory_max: 1 << 20,
            arena_base: settings.arena_base as u64,
            arena_size: settings.arena_size as u64,
            keeps_at: None,
            index: None,
        }
    }
}

/// A cluster that works: two ranks compute in it and leave.
fn assert_works(rig: &Rig, daemons: &[Node], name: &'static str) {
    rig.run_program(daemons.first().map(Node::local_addr), move |dsm| {
        let data = dsm.alloc::<u64>(name, 512 * 10).unwrap();
        for index in dsm.my_block(data.len()) {
            data.set(index, 4);
        }
        dsm.barrier().unwrap();
        assert!((0..data.len()).all(|index| data.get(index) == 4));
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    });
}

#[test]
fn a_message_that_does_not_decode_ends_its_session_and_nothing_else() {
    let rig = Rig::with_daemons(2, 2);
    let daemons = rig.start_daemons();
    for first in [0, COHERENCE, CONTROL, 3, 4, 5, 255] {
        let mut rogue = Rogue::new();
        for daemon in &daemons {
            let session = rogue.connect(daemon.local_addr());
            rogue.send(session, OutMessage::from_bytes(&[first, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]));
            rogue.pump_until("the end of the session", |rogue| rogue.is_closed(session));
        }
    }
    assert_works(&rig, &daemons, "after");
    rig::stop(daemons);
}

/// A frame of a call: kind, flags, aux, length, sequence, method, budget, settled, body.
fn call_frame(sequence: u64, method: u64, len: u32, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![CLIENT, 1, 0, 0, 0];
    frame.extend_from_slice(&len.to_le_bytes());
    for field in [sequence, method, 0, 0] {
        frame.extend_from_slice(&field.to_le_bytes());
    }
    frame.extend_from_slice(body);
    frame
}

#[test]
fn hostile_calls_get_an_error_or_end_their_session_and_nothing_else() {
    let rig = Rig::with_daemons(1, 2);
    let daemons = rig.start_daemons();
    daemons[0].serve(CounterServer(Counting::default()), 8).unwrap();
    let echo = pagemesh::rpc::Service::interface(&CounterServer(Counting::default())).methods[2].id;
    // What is no frame ends the session.
    for bytes in [
        &call_frame(0, echo, 4, &[0; 4])[..20],
        &call_frame(0, echo, u32::MAX, &[0; 4]),
        &call_frame(0, echo, 2, &[0; 4]),
        &call_frame(u64::MAX, echo, 0, &[])[..9],
        &[CLIENT, 77],
    ] {
        let mut rogue = Rogue::new();
        let session = rogue.connect(daemons[0].local_addr());
        rogue.send(session, OutMessage::from_bytes(bytes));
        rogue.pump_until("the end of the session", |rogue| rogue.is_closed(session));
    }
    // What is a frame is answered: no such interface, another version, lengths beyond the arguments.
    let mut rogue = Rogue::new();
    let session = rogue.connect(daemons[0].local_addr());
    let wrong = [
        call_frame(0, 0x1234, 0, &[]),
        call_frame(1, echo ^ 1, 0, &[]),
        call_frame(2, echo, 4, &[0xff; 4]),
        call_frame(3, echo, 0, &[]),
        call_frame(4, echo, 9, &[4, 0, 0, 0, 1, 2, 3, 4, 5]),
    ];
    for bytes in &wrong {
        rogue.send(session, OutMessage::from_bytes(bytes));
    }
    rogue.pump_until("all answers", |rogue| rogue.statuses().len() == wrong.len());
    let statuses = rogue.statuses();
    let (remote, bad_version, unknown) = (2, 6, 7);
    assert_eq!(statuses, [(0, unknown), (1, bad_version), (2, remote), (3, remote), (4, remote)]);
    let counters = daemons[0].calls().counters();
    // One of the malformed stood before garbage that ended its session.
    assert_eq!((counters.unknown, counters.malformed), (2, 4));
    assert_eq!(counters.violations, 5);
    assert_works(&rig, &daemons, "after calls");
    rig::stop(daemons);
}

#[test]
fn who_is_no_member_commands_nobody() {
    let rig = Rig::with_daemons(1, 2);
    let daemons = rig.start_daemons();
    let mut rogue = Rogue::new();
    let session = rogue.connect(daemons[0].local_addr());
    let want = Want::Any { bytes: 1 << 20, element: ElementType::untagged(1), placement: None };
    for control in [
        Control::Leave,
        Control::LeaveAck,
        Control::Shutdown { reason: "because".into() },
        Control::Alloc { op: 1, name: "mine".into(), want },
        Control::Remove { op: 2, name: "data".into() },
        Control::RegionGone { start: PageId(64) },
        Control::RegionMapped { start: PageId(64), generation: 1 },
        Control::RegionUnmapped { start: PageId(64), generation: 1 },
        Control::JoinRefused("no".into()),
        Control::Suspect { of: Incarnation(1) },
        Control::Unsuspect { of: Incarnation(1) },
        Control::ProcessEnded { of: Incarnation(1) },
        Control::Probe { of: Incarnation(1), question: 1 },
        Control::Alive { of: Incarnation(1), question: 1 },
        Control::View(pagemesh::membership::View::default()),
    ] {
        rogue.send_control(session, &control);
    }
    rogue.flush(session);
    assert_works(&rig, &daemons, "data");
    rig::stop(daemons);
}

/// Some message with numbers that mean something.
fn invent(rng: &mut fastrand::Rng) -> Message {
    let page = PageId(64 + rng.u64(0..70));
    let (txn, version, req) = (Txn(rng.u64(0..6)), Txn(rng.u64(0..6)), Req(rng.u64(0..6)));
    let node = NodeId(rng.u16(0..128));
    let extent = ExtentId(rng.u64(0..3));
    let access = [Access::Read, Access::Write][rng.usize(0..2)];
    let body = [Body::Zero, Body::Page][rng.usize(0..2)];
    let answer = [Answer::AtOnce, Answer::Riding][rng.usize(0..2)];
    let attempt = [Attempt::Wait, Attempt::Try][rng.usize(0..2)];
    let arrival = rng.u32(0..3);
    let lock = LockId(page);
    let barrier = BarrierId { program: rng.u64(900..910), index: 0 };
    let token = rng.u64(0..4);
    match rng.u8(0..38) {
        0 => ToHome::GetS { page, req }.into(),
        1 => ToHome::GetM { page, req, have: None }.into(),
        2 => ToHome::GetM { page, req, have: Some(version) }.into(),
        3 => ToHome::DataHome { page, txn, body }.into(),
        4 => ToHome::InvAck { page, txn }.into(),
        5 => ToHome::Installed { page, txn }.into(),
        6 => ToHome::WriteBack { page, version, body }.into(),
        7 => ToHome::Copy { page, version, body }.into(),
        8 => ToHome::Leave.into(),
        9 => ToHome::Locate { extent, nearest: node }.into(),
        10 => ToNode::Forward { page, txn, version, requester: node, req, access }.into(),
        11 => ToNode::Data { page, req, txn, version, access, body }.into(),
        12 => ToNode::Grant { page, req, txn, answer }.into(),
        13 => ToNode::Inv { page, txn }.into(),
        14 => ToNode::WriteBackAck { page, version }.into(),
        15 => ToNode::Lost { page, req, dead: node }.into(),
        16 => ToNode::LeaveAck.into(),
        17 => ToNode::Located { extent, home: node }.into(),
        18 => LockMessage::Request { lock, req, attempt }.into(),
        19 => LockMessage::Forward { lock, tenure: req, next: node, next_req: req, attempt }.into(),
        20 => LockMessage::Grant { lock, req, token, kept: Span(token) }.into(),
        21 => LockMessage::Return { lock, req, token, broken: rng.bool() }.into(),
        22 => LockMessage::ReturnAck { lock, req }.into(),
        23 => ToNode::Fetch { page, version }.into(),
        24 => ToHome::Drop { page, version }.into(),
        25 => LockMessage::Broken { lock, req, dead: node }.into(),
        26 => {
            let members = NodeSet::from_bits(rng.u128(..) & rng.u128(..));
            BarrierMessage::Arrive { barrier, generation: rng.u64(0..3), arrival, members }.into()
        }
        27 => BarrierMessage::Release { barrier, generation: rng.u64(0..3) }.into(),
        28 => LockMessage::Busy { lock, req }.into(),
        29 => BarrierMessage::Withdraw { barrier, generation: rng.u64(0..3), arrival }.into(),
        31 => Report::Total { parts: rng.u32(0..3) }.into(),
        32..=34 => {
            let state = [Held::Bytes, Held::Shared, Held::Modified][rng.usize(0..3)];
            let part = ReportPart::Pages { first: page, pages: rng.u32(0..4096), state, version };
            Report::Part { number: rng.u32(0..3), part }.into()
        }
        35..=36 => {
            let held = if rng.bool() { HeldLock::Here(req) } else { HeldLock::WaitsSince(req) };
            Report::Part { number: rng.u32(0..3), part: ReportPart::Lock { lock, held } }.into()
        }
        30 => BarrierMessage::Withdrawn { barrier, generation: rng.u64(0..3), arrival }.into(),
        _ => BarrierMessage::Broken { barrier, generation: rng.u64(0..3), dead: node }.into(),
    }
}

#[test]
fn a_member_that_sends_nonsense_harms_no_daemon() {
    let rig = Rig::with_daemons(2, 2);
    let daemons = rig.start_daemons();
    for seed in 0..8 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut rogue = Rogue::new();
        let session = rogue.connect(daemons[0].local_addr());
        let intro = rogue.introduction(900 + seed);
        rogue.send_control(session, &Control::Join(intro));
        rogue.pump_until("the welcome", |rogue| rogue.received.iter().any(|(_, bytes)| bytes[0] == CONTROL));
        let want = Want::Any { bytes: 80 * 4096, element: ElementType::untagged(1), placement: None };
        rogue.send_control(session, &Control::Alloc { op: 1, name: "target".into(), want });
        let second = rogue.connect(daemons[1].local_addr());
        for _ in 0..400 {
            let mut message = OutMessage::from_bytes(&[COHERENCE]);
            let count = rng.usize(1..6);
            encode_batch_head(&mut message.head, Epoch(rng.u64(0..3)), count);
            for _ in 0..count {
                let invented = invent(&mut rng);
                invented.encode(&mut message.head);
                if invented.carries_page() {
                    message.pages.push(PageBuf::copy_of(&[rng.u8(..); 4096]));
                }
            }
            let to = [session, second][rng.usize(0..2)];
            if !rogue.send(to, message) {
                break;
            }
        }
        rogue.flush(session);
        rogue.flush(second);
        let now = rogue.now();
        for session in [session, second] {
            rogue.endpoint.close(now, session, 0, "had enough");
        }
        rogue.pump();
        until("the rogue is gone", || daemons.iter().all(|daemon| daemon.status().peers.len() == 1));
    }
    assert!(daemons.iter().any(|daemon| daemon.status().coherence.stale_messages > 0));
    assert_works(&rig, &daemons, "after");
    rig::stop(daemons);
}
