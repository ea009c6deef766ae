//! An endpoint with its socket, in a tight loop: receive, handle, send.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pagemesh::net::inject::{Chance, Injector, InjectorConfig};
use pagemesh::net::udp::{DATAGRAM_MAX, Outlet, Received, UdpSocket, datagrams};
use pagemesh::net::{
    ClusterKey, Endpoint, EndpointConfig, Entropy, Event, OutMessage, Priority, SessionHandle, TransmitBuf,
    Version,
};
use pagemesh::page::{Incarnation, PAGE_SIZE, PageBuf, Span, Time};

use super::{EndpointSettings, NetCommand};
use crate::{Result, child};

/// Messages sent ahead of their acknowledgement.
const AHEAD_BYTES: usize = 8 << 20;
/// Longest that a command may take: a bound for a broken transport, not a pace.
const COMMAND_MAX: Duration = Duration::from_secs(50);
/// Turns between two looks at the clock for that bound.
const LOOK_EVERY: u64 = 1024;
/// How long the side that hears the last word answers the other's last packets.
const LINGER: Duration = Duration::from_millis(20);
/// How long the other side waits for the acknowledgement of that word, which may be lost for good.
const LAST_WORD_MAX: Duration = Duration::from_millis(100);

struct Peer {
    settings: EndpointSettings,
    socket: UdpSocket,
    endpoint: Endpoint,
    outlet: Outlet,
    transmit: TransmitBuf,
    clock: Instant,
    buffer: Box<[u8]>,
    session: Option<SessionHandle>,
    /// Lengths of messages that have come and were not looked at.
    arrived: VecDeque<usize>,
}

/// Runs one endpoint.
pub(crate) fn serve(settings: &EndpointSettings) -> Result<()> {
    let mut peer = Peer::new(settings.clone())?;
    child::serve(|command| peer.obey(command))
}

impl Peer {
    fn new(settings: EndpointSettings) -> Result<Peer> {
        let socket = UdpSocket::adopt(child::adopt(settings.socket), pagemesh::config::net::SOCKET_BUFFER)?;
        let own = u64::from(std::process::id());
        let mut config = EndpointConfig::new(
            ClusterKey::new([1; 32]),
            Incarnation(own),
            Version::of_library(0),
            socket.receive_buffer(),
        );
        config.mtu_max = settings.datagram_max;
        config.encrypt = crate::cluster::encrypt()?;
        let loss = Chance(settings.loss_ppm);
        let injector = InjectorConfig { loss, seed: own, ..InjectorConfig::default() };
        let injector = (settings.loss_ppm > 0).then(|| Injector::new(injector));
        Ok(Peer {
            settings,
            socket,
            endpoint: Endpoint::new(config, Entropy::of_seed(own)),
            outlet: Outlet::new(injector),
            transmit: TransmitBuf::default(),
            clock: Instant::now(),
            buffer: vec![0; DATAGRAM_MAX].into_boxed_slice(),
            session: None,
            arrived: VecDeque::new(),
        })
    }

    fn obey(&mut self, command: NetCommand) -> Result<Vec<f64>> {
        let answer = match command {
            NetCommand::Connect => self.connect().map(|()| Vec::new()),
            NetCommand::Ask(count) => self.ask(count),
            NetCommand::Echo(count) => self.echo(count).map(|()| Vec::new()),
            NetCommand::Send { count, bytes } => self.send_all(count, bytes).map(|speed| vec![speed]),
            NetCommand::Receive { count } => self.receive_all(count).map(|()| Vec::new()),
        }?;
        let start = Instant::now();
        let hears_last = matches!(command, NetCommand::Ask(_) | NetCommand::Send { .. });
        self.run_until(|peer| match hears_last {
            true => start.elapsed() > LINGER,
            false => peer.pending() == 0 || start.elapsed() > LAST_WORD_MAX,
        })?;
        Ok(answer)
    }

    fn connect(&mut self) -> Result<()> {
        if let Some(addr) = self.settings.peer {
            let now = self.now();
            self.endpoint.connect(now, addr)?;
        }
        self.run_until(|peer| peer.session.is_some())?;
        // The other side is connected when it hears of that.
        let now = self.now();
        self.transmit(now)
    }

    fn ask(&mut self, count: usize) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            self.send(OutMessage::from_bytes(&[3; 64]), Priority::Control)?;
            self.next_arrival()?;
            times.push(start.elapsed().as_nanos() as f64 / 1e3);
        }
        Ok(times)
    }

    fn echo(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            self.next_arrival()?;
            self.send(OutMessage::from_bytes(&[3; 64]), Priority::Control)?;
        }
        Ok(())
    }

    fn send_all(&mut self, count: usize, bytes: usize) -> Result<f64> {
        let page = PageBuf::copy_of(&[7; PAGE_SIZE]);
        let start = Instant::now();
        for _ in 0..count {
            self.run_until(|peer| peer.pending() * bytes < AHEAD_BYTES)?;
            let mut message = OutMessage::default();
            message.pages.extend((0..bytes / PAGE_SIZE).map(|_| page.clone()));
            self.send(message, Priority::Bulk)?;
        }
        self.next_arrival()?;
        Ok((count * bytes) as f64 / 1e9 / start.elapsed().as_secs_f64())
    }

    fn receive_all(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            self.next_arrival()?;
        }
        self.send(OutMessage::from_bytes(&[1; 64]), Priority::Control)
    }

    fn send(&mut self, message: OutMessage, priority: Priority) -> Result<()> {
        let (now, session) = (self.now(), self.session.ok_or("no session")?);
        self.endpoint.send(now, session, message, priority)?;
        self.transmit(now)
    }

    fn next_arrival(&mut self) -> Result<usize> {
        self.run_until(|peer| !peer.arrived.is_empty())?;
        Ok(self.arrived.pop_front().unwrap_or(0))
    }

    fn pending(&self) -> usize {
        self.session.and_then(|session| self.endpoint.pending(session)).unwrap_or(0)
    }

    fn run_until(&mut self, done: impl Fn(&Peer) -> bool) -> Result<()> {
        let start = Instant::now();
        for turn in 0u64.. {
            if done(self) {
                break;
            }
            if turn.is_multiple_of(LOOK_EVERY) && start.elapsed() > COMMAND_MAX {
                return Err("the endpoint has come to a stop".into());
            }
            self.turn()?;
        }
        Ok(())
    }

    /// Moves what can be moved now: what arrives last, so that an answer to it can go at once.
    fn turn(&mut self) -> Result<()> {
        let now = self.now();
        self.transmit(now)?;
        match self.socket.receive(&mut self.buffer)? {
            Received::Datagrams { len, segment, from } => {
                let arrived = &mut self.arrived;
                for datagram in datagrams(&mut self.buffer[..len], segment) {
                    self.endpoint.handle_datagram(now, from, datagram, &mut |_, bytes| {
                        arrived.push_back(bytes.len());
                    });
                }
            }
            Received::Nothing => {
                self.endpoint.handle_drained(now);
                std::hint::spin_loop();
            }
            Received::Refused { .. } | Received::Failing { .. } => std::hint::spin_loop(),
        }
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Connected { session, .. } => self.session = Some(session),
                Event::ConnectFailed { error, .. } => return Err(error.into()),
                Event::Closed { reason, .. } => return Err(reason.into()),
                Event::Refused { .. } => {}
            }
        }
        Ok(())
    }

    fn transmit(&mut self, now: Time) -> Result<()> {
        Ok(self.outlet.drain(&self.socket, now, &mut self.endpoint, &mut self.transmit)?)
    }

    fn now(&self) -> Time {
        Time(self.clock.elapsed().as_nanos() as u64) + Span::from_ms(1_000)
    }
}
