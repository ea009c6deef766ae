//! A listener on the loopback device reads every datagram of a cluster: what it learns of pages, arguments and names.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket};
use pagemesh::rpc::{Context, Error, MetaClient};
use pagemesh::{Dsm, Node, NodeConfig, NodeId, Placement, Settings};

use system_tests::rig;

pagemesh::include_idl!("eavesdropper" as stubs);
use stubs::{Confidential, ConfidentialClient, ConfidentialServer};

/// Bytes of the region and of the argument: several pages, several datagrams.
const SECRET_LEN: usize = 20_000;
/// Secrets are looked for in pieces of this length, names by their beginning.
const PIECE: usize = 8;

/// What the listener looks for, by the first bytes.
struct Needles {
    pieces: HashMap<[u8; PIECE], &'static str>,
    /// By the first two bytes: whether a piece may begin here. Most places are told apart by it.
    begins: Vec<bool>,
}

/// What the listener has heard.
#[derive(Default)]
struct Heard {
    /// Pieces by kind.
    pieces: BTreeMap<&'static str, BTreeSet<[u8; PIECE]>>,
    /// Bytes of the datagrams to each port.
    bytes_to: HashMap<u16, u64>,
}

/// The secrets of a run.
struct Secrets {
    page_bytes: Vec<u8>,
    argument: Vec<u8>,
    region: String,
}

struct Listener {
    thread: JoinHandle<Heard>,
    stop: Arc<AtomicBool>,
}

impl Secrets {
    fn draw() -> Secrets {
        let mut rng = fastrand::Rng::new();
        let mut bytes = || (0..SECRET_LEN).map(|_| rng.u8(..)).collect();
        let (page_bytes, argument) = (bytes(), bytes());
        Secrets { page_bytes, argument, region: format!("{:016x} is its name", fastrand::u64(..)) }
    }

    fn needles(&self) -> Needles {
        let mut needles = Needles { pieces: HashMap::new(), begins: vec![false; 1 << 16] };
        let mut add = |kind, bytes: &[u8]| {
            let piece: [u8; PIECE] = *bytes.first_chunk().expect("as long as a piece");
            needles.begins[usize::from(u16::from_le_bytes([piece[0], piece[1]]))] = true;
            needles.pieces.insert(piece, kind);
        };
        self.page_bytes.chunks_exact(PIECE).for_each(|piece| add("bytes of a region", piece));
        self.argument.chunks_exact(PIECE).for_each(|piece| add("bytes of an argument", piece));
        add("name of a region", self.region.as_bytes());
        add("name of an interface", b"Confidential");
        add("name of a method", b"whispered");
        needles
    }
}

impl Heard {
    fn take(&mut self, needles: &Needles, packet: &[u8]) {
        // IPv4 without options, UDP.
        let (Some(&[0x45]), Some(17)) = (packet.first_chunk(), packet.get(9)) else { return };
        let Some(payload) = packet.get(28..) else { return };
        *self.bytes_to.entry(u16::from_be_bytes([packet[22], packet[23]])).or_default() +=
            payload.len() as u64;
        for piece in payload.array_windows::<PIECE>() {
            if needles.begins[usize::from(u16::from_le_bytes([piece[0], piece[1]]))]
                && let Some(kind) = needles.pieces.get(piece)
            {
                self.pieces.entry(kind).or_default().insert(*piece);
            }
        }
    }
}

impl Listener {
    /// None: this user may not listen.
    fn start(needles: Needles) -> Option<Listener> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        // Without the link's header. Each packet of the loopback device comes twice: as it goes out, and as it comes in.
        let fd = match socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll) {
            Err(Errno::EPERM | Errno::EACCES) => return None,
            made => made.expect("a packet socket"),
        };
        setsockopt(&fd, RcvBufForce, &(256 << 20)).expect("root may");
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || listen(&fd, &needles, &told));
        Some(Listener { thread, stop })
    }

    /// Everything that was sent until now has been heard when this returns.
    fn end(self) -> Heard {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("it only listens")
    }
}

fn listen(fd: &OwnedFd, needles: &Needles, stop: &AtomicBool) -> Heard {
    let (mut heard, mut buffer) = (Heard::default(), vec![0; 1 << 17]);
    loop {
        let is_last = stop.load(Ordering::SeqCst);
        loop {
            match recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(len) => heard.take(needles, &buffer[..len]),
                Err(Errno::EAGAIN) => break,
                Err(errno) => panic!("listening: {errno}"),
            }
        }
        if is_last {
            return heard;
        }
        let _ = poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], PollTimeout::from(20u8));
    }
}

#[derive(Clone)]
struct Server;

impl Confidential for Server {
    fn whispered(&self, _: &Context<'_>, secret: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(secret.to_vec())
    }
}

/// A daemon and two ranks: one writes a region and serves, the other reads it and calls. Returns the nodes' ports and
/// the bytes that each has received.
fn run(encrypt: &str, secrets: &Arc<Secrets>) -> Vec<(u16, u64)> {
    let mut settings = rig::small();
    settings.apply("encrypt", encrypt).expect("a setting");
    let daemon = Node::start(NodeConfig::daemon(settings.clone(), 0)).expect("a daemon starts");
    let (join, program) = (Some(daemon.local_addr()), rig::new_program());
    let start = |rank| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let addr = socket.local_addr().expect("an address");
        let socket = Some(socket.into());
        let settings = Settings { join, program, rank, ranks: 2, socket, ..settings.clone() };
        let secrets = secrets.clone();
        std::thread::spawn(move || play(rig::join(settings), addr, &secrets))
    };
    let ranks = [start(0), start(1)];
    let mut received: Vec<(u16, u64)> = ranks.map(|rank| rank.join().expect("it ends")).into();
    received.push((daemon.local_addr().port(), daemon.status().socket.bytes_in));
    daemon.request_shutdown();
    received
}

fn play(dsm: Dsm, addr: SocketAddr, secrets: &Secrets) -> (u16, u64) {
    let ids = dsm.alloc::<u64>("ids", 2).unwrap();
    ids.set(dsm.rank() as usize, u64::from(dsm.node_id().0));
    let home = Placement::OnNode(NodeId(0));
    let data = dsm.alloc_with::<u8>(&secrets.region, SECRET_LEN, home).unwrap();
    if dsm.is_root() {
        dsm.serve(ConfidentialServer(Server), 16).unwrap();
        data.copy_in(0, &secrets.page_bytes).unwrap();
    }
    dsm.barrier().unwrap();
    if !dsm.is_root() {
        let mut read = vec![0; SECRET_LEN];
        data.copy_out(0, &mut read).unwrap();
        assert!(read == secrets.page_bytes);
        let channel = dsm.channel_to(NodeId(ids.get(0) as u16)).unwrap();
        let client = ConfidentialClient::new(channel.clone());
        assert!(client.whispered(&secrets.argument).unwrap() == secrets.argument);
        assert!(MetaClient::new(channel).describe("Confidential").unwrap().contains("whispered"));
    }
    dsm.barrier().unwrap();
    let received = dsm.status().socket.bytes_in;
    dsm.barrier().unwrap();
    dsm.leave().unwrap();
    (addr.port(), received)
}

/// The kinds of secrets that were heard, and how many pieces of each.
fn overhear(encrypt: &str) -> Option<BTreeMap<&'static str, usize>> {
    let secrets = Arc::new(Secrets::draw());
    let listener = Listener::start(secrets.needles())?;
    let received = run(encrypt, &secrets);
    let heard = listener.end();
    for (port, bytes) in received {
        let heard = heard.bytes_to.get(&port).copied().unwrap_or(0);
        assert!(heard >= 2 * bytes, "of {bytes} bytes to port {port}, heard twice, {heard} were heard");
    }
    Some(heard.pieces.into_iter().map(|(kind, pieces)| (kind, pieces.len())).collect())
}

/// The listener itself is tested by the cluster that does not encrypt: there it hears everything.
#[test]
fn a_listener_hears_nothing_of_pages_arguments_and_names() {
    let Some(plain) = overhear("never") else {
        return eprintln!(
            "SKIPPED: NOTHING WAS CAPTURED, so encryption on the wire is not tested: it takes root (CAP_NET_RAW)"
        );
    };
    let pieces = SECRET_LEN / PIECE;
    let all = [
        ("bytes of a region", pieces),
        ("bytes of an argument", pieces),
        ("name of a region", 1),
        ("name of an interface", 1),
        ("name of a method", 1),
    ];
    for (kind, count) in all {
        // A piece that lies across two datagrams is not heard.
        let heard = plain.get(kind).copied().unwrap_or(0);
        assert!(heard * 10 >= count * 9, "{kind}: {heard} pieces of {count} in {plain:?}");
    }
    assert_eq!(overhear("all").expect("as before"), BTreeMap::new());
}
