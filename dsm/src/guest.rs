//! Calls into a cluster from outside of it: sessions to nodes by address, without being a member.
//!
//! Whoever waits for an answer moves the datagrams, for all who wait; for futures, whose executors do not
//! wait in here, a thread does (`attendant`). A guest has no view of members, so it finds out by itself
//! that a server is dead: by silence, or by an attempt to connect anew that fails. A session that is lost is
//! replaced; what was asked over it is asked again, and the server knows what it has run already.

mod attendant;

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::{TimeSpec, TimeValLike};
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use self::attendant::Attendant;
use crate::config::membership::{HEARTBEAT, SILENCE_MAX};
use crate::config::rpc::{UNSENT_BYTES_MAX, UNSENT_MAX};
use crate::error::{Error, Result};
use crate::fork;
use crate::machine::channel::GUEST as GUEST_CHANNEL;
use crate::net::inject::{Injector, InjectorConfig};
use crate::net::udp::{DATAGRAM_MAX, Outlet, Received, UdpSocket, datagrams};
use crate::net::{
    self, ClusterKey, ConnectRefused, Endpoint, EndpointConfig, Entropy, Event, OutMessage, Priority,
    SessionHandle, TransmitBuf, Version,
};
use crate::page::{Incarnation, NodeId, Span, Time};
use crate::rpc::{self, Channel, PeerId, SendError, Signal, Transport};

/// Somebody who calls nodes without being one. Any thread may use its channels.
pub struct Guest {
    carrier: Arc<Carrier>,
    endpoint: Arc<rpc::Endpoint>,
}

struct Carrier {
    shared: Mutex<Shared>,
    turn: Mutex<Turn>,
    socket: UdpSocket,
    wake: EventFd,
    clock: Instant,
    endpoint: OnceLock<Weak<rpc::Endpoint>>,
    attendant: Attendant,
    this: Weak<Carrier>,
}

/// Sessions and what they need. The calls' locks come before this one.
struct Shared {
    net: Endpoint,
    outlet: Outlet,
    transmit: TransmitBuf,
    servers: Vec<Server>,
    events: Vec<CallEvent>,
    next_look: Time,
    /// Somebody sleeps on the socket until then.
    sleep_until: Time,
}

/// A node that was connected to.
struct Server {
    name: NodeId,
    addr: SocketAddr,
    session: SessionHandle,
    state: State,
    /// Which start of it answered last.
    incarnation: Option<Incarnation>,
    heard: Time,
    /// Of threads that wait for another state.
    waiters: Vec<Arc<Signal>>,
    /// Messages that no caller sends again on a new session, and that must wait for it.
    unsent: Vec<Vec<u8>>,
    unsent_bytes: usize,
}

/// How the session to a server is.
#[derive(Debug)]
enum State {
    Connecting,
    Up,
    /// Why there is none.
    Down(String),
}

/// What the sessions have for the calls.
enum CallEvent {
    Message(PeerId, SessionHandle, Vec<u8>),
    Reset(PeerId),
    Died(PeerId),
    /// A server's state is another one.
    Changed(Arc<Signal>),
}

/// Whose turn it is to move datagrams.
#[derive(Default)]
struct Turn {
    taken: bool,
    sleepers: Vec<Thread>,
}

impl Guest {
    /// A guest with sessions from this address on; port 0 is any free one.
    pub fn new(key: ClusterKey, bind: SocketAddr, bad_network: Option<InjectorConfig>) -> Result<Guest> {
        fork::watch()?;
        let socket = UdpSocket::bind(bind, crate::config::net::SOCKET_BUFFER)?;
        let random = || getrandom::u64().map_err(|error| Error::Refused(format!("random numbers: {error}")));
        let config =
            EndpointConfig::new(key, Incarnation(random()?), Version::ours(), socket.receive_buffer());
        let shared = Shared {
            net: Endpoint::new(config, Entropy::from_system()?),
            outlet: Outlet::new(bad_network.map(Injector::new)),
            transmit: TransmitBuf::default(),
            servers: Vec::new(),
            events: Vec::new(),
            next_look: Time(0),
            sleep_until: Time(0),
        };
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Error::os("eventfd", errno))?;
        let carrier = Arc::new_cyclic(|this| Carrier {
            shared: Mutex::new(shared),
            turn: Mutex::default(),
            socket,
            wake,
            clock: Instant::now(),
            endpoint: OnceLock::new(),
            attendant: Attendant::default(),
            this: this.clone(),
        });
        let endpoint = rpc::Endpoint::new(carrier.clone());
        // Just made: nobody else can have set it.
        let _ = carrier.endpoint.set(Arc::downgrade(&endpoint));
        Ok(Guest { carrier, endpoint })
    }

    /// Has a session with the node at the address, which errors will call `name`. Waits for at most
    /// `timeout`.
    pub fn connect(&self, name: NodeId, addr: SocketAddr, timeout: Duration) -> Result<PeerId> {
        fork::check()?;
        self.carrier.open(name, addr)?;
        let until = self.carrier.now() + Span::from(timeout);
        loop {
            let signal = Arc::new(Signal::for_this_thread());
            match self.carrier.connected(addr, &signal) {
                Some(Ok(peer)) => return Ok(peer),
                Some(Err(reason)) => {
                    return Err(Error::Refused(format!("no connection to {addr}: {reason}")));
                }
                None if self.carrier.now() >= until => {
                    let what = format!("connecting to {addr}");
                    return Err(Error::Timeout { what, after_ms: timeout.as_millis() as u64 });
                }
                None => self.carrier.wait(&signal, Some(until)),
            }
        }
    }

    /// Ends the session with a server and begins another, as a loss of the network would.
    pub fn reconnect(&self, peer: PeerId) -> Result<()> {
        fork::check()?;
        self.carrier.reconnect(peer)
    }

    /// The way to a server that was connected to.
    pub fn channel_to(&self, peer: PeerId) -> Channel {
        Channel::to(&self.endpoint, peer)
    }

    /// The calls of this guest.
    pub fn calls(&self) -> &Arc<rpc::Endpoint> {
        &self.endpoint
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if fork::is_child() {
            // A forked child: sessions and thread are the parent's, and their locks may be held there.
            std::mem::forget(self.carrier.clone());
            std::mem::forget(self.endpoint.clone());
            return;
        }
        self.carrier.attendant.stop(&self.carrier);
        let mut shared = self.carrier.shared.lock();
        let now = self.carrier.now();
        let sessions: Vec<SessionHandle> = shared.servers.iter().map(|server| server.session).collect();
        for session in sessions {
            shared.net.close(now, session, 0, "done");
        }
        for server in &mut shared.servers {
            server.state = State::Down("the guest is gone".into());
        }
        // If it is lost, the other side ends the session when it needs the place.
        let _ = self.carrier.transmit(&mut shared, now);
        drop(shared);
        // Calls and channels may outlive the guest: nothing comes for them any more.
        self.endpoint.handle_end();
        self.endpoint.run_deferred();
    }
}

impl Carrier {
    fn endpoint(&self) -> Option<Arc<rpc::Endpoint>> {
        self.endpoint.get().and_then(Weak::upgrade)
    }

    fn open(&self, name: NodeId, addr: SocketAddr) -> Result<()> {
        let mut shared = self.shared.lock();
        let now = self.now();
        // Sessions that have ended make room, when their time is over.
        self.transmit(&mut shared, now)?;
        if let Some(server) = shared.servers.iter().find(|server| server.addr == addr)
            && matches!(server.state, State::Up | State::Connecting)
        {
            return Ok(());
        }
        let session = begin(&mut shared.net, now, addr)
            .map_err(|reason| Error::Refused(format!("{addr}: {reason}")))?;
        shared.servers.retain(|server| server.addr != addr);
        let state = State::Connecting;
        shared.servers.push(Server {
            name,
            addr,
            session,
            state,
            incarnation: None,
            heard: now,
            waiters: Vec::new(),
            unsent: Vec::new(),
            unsent_bytes: 0,
        });
        self.transmit(&mut shared, now)
    }

    /// The result of connecting to the address; without one yet, `signal` is set when there is one.
    fn connected(
        &self,
        addr: SocketAddr,
        signal: &Arc<Signal>,
    ) -> Option<std::result::Result<PeerId, String>> {
        let mut shared = self.shared.lock();
        let server = shared.servers.iter_mut().find(|server| server.addr == addr)?;
        match &server.state {
            State::Up => server.peer().map(Ok),
            State::Down(reason) => Some(Err(reason.clone())),
            State::Connecting => {
                server.waiters.retain(|waiter| !waiter.is_of_this_thread());
                server.waiters.push(signal.clone());
                None
            }
        }
    }

    fn reconnect(&self, peer: PeerId) -> Result<()> {
        let mut shared = self.shared.lock();
        let now = self.now();
        let Some(at) = shared.servers.iter().position(|server| server.peer() == Some(peer)) else {
            return Err(Error::Invalid(format!("no session with {}", peer.node)));
        };
        shared.renew(now, at, "a new session is wanted");
        self.transmit(&mut shared, now)
    }

    /// Until something has happened or `until` has come.
    fn move_datagrams(&self, shared: &mut MutexGuard<'_, Shared>, buffer: &mut [u8], until: Time) {
        let now = self.now();
        // What fails here fails again, and then a session ends of silence.
        let _ = self.transmit(shared, now);
        match self.socket.receive(buffer) {
            Ok(Received::Datagrams { len, segment, from }) => {
                datagrams(&mut buffer[..len], segment).for_each(|one| shared.take_in(now, from, one));
            }
            Ok(Received::Refused { addr }) => shared.net.handle_refused(now, addr),
            // A broken socket stays broken: the sessions end of silence, and not in a busy loop.
            Ok(Received::Failing { .. }) | Err(_) => {
                MutexGuard::unlocked(shared, || self.socket.pause());
            }
            Ok(Received::Nothing) => {
                shared.net.handle_drained(now);
                let until = until.min(shared.due()).min(shared.next_look);
                shared.sleep_until = until;
                MutexGuard::unlocked(shared, || self.sleep(until.since(now).to_std()));
                shared.sleep_until = Time(0);
            }
        }
        let now = self.now();
        shared.take_events(now);
        shared.look_for_silence(now);
        let _ = self.transmit(shared, now);
    }

    fn sleep(&self, timeout: Duration) {
        let mut fds = [
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
        ];
        let timeout = TimeSpec::nanoseconds(timeout.as_nanos() as i64);
        // An interruption only means that we look earlier.
        let _ = ppoll(&mut fds, Some(timeout), None);
        // Empty or not: it is forgotten.
        let _ = self.wake.read();
    }

    fn transmit(&self, shared: &mut Shared, now: Time) -> Result<()> {
        let Shared { net, outlet, transmit, .. } = shared;
        outlet.drain(&self.socket, now, net, transmit)
    }

    /// Gives the calls what the sessions have for them, without their lock.
    fn handle_calls(&self) {
        let Some(endpoint) = self.endpoint() else { return };
        let events = std::mem::take(&mut self.shared.lock().events);
        for event in events {
            match event {
                CallEvent::Message(from, session, bytes) => {
                    if endpoint.handle_message(from, &bytes).is_err() {
                        let now = self.now();
                        let reason = "message that does not decode";
                        self.shared.lock().net.close(now, session, net::CLOSE_VIOLATION, reason);
                    }
                }
                CallEvent::Reset(peer) => endpoint.handle_peer_reset(peer),
                CallEvent::Died(peer) => endpoint.handle_peer_died(peer),
                CallEvent::Changed(signal) => {
                    signal.set();
                    self.notify(&signal);
                }
            }
        }
        if endpoint.poll_timeout().is_some_and(|due| due <= self.now()) {
            endpoint.handle_timeout();
        }
        if endpoint.deferred_len() > 0 {
            // This thread receives for others, and a waker may wait for something.
            self.attendant.wake(self);
        }
    }

    /// When the calls' timers are due.
    fn calls_due(&self) -> Time {
        self.endpoint().and_then(|endpoint| endpoint.poll_timeout()).unwrap_or(Time(u64::MAX))
    }

    /// Takes the turn, or sleeps until it may be free or the signal is set.
    fn take_turn(&self, signal: &Signal, until: Option<Time>) -> bool {
        let mut turn = self.turn.lock();
        if !turn.taken {
            turn.taken = true;
            return true;
        }
        turn.sleepers.push(std::thread::current());
        drop(turn);
        if !signal.is_set() {
            match until {
                None => std::thread::park(),
                Some(until) => {
                    std::thread::park_timeout(Duration::from_nanos(until.since(self.now()).0));
                }
            }
        }
        let me = std::thread::current().id();
        self.turn.lock().sleepers.retain(|sleeper| sleeper.id() != me);
        false
    }
}

impl Turn {
    fn give(&mut self) {
        self.taken = false;
        self.pass_on();
    }

    /// Whoever is woken and does not take the turn passes it on.
    fn pass_on(&mut self) {
        if !self.taken
            && let Some(next) = self.sleepers.pop()
        {
            next.unpark();
        }
    }
}

impl Transport for Carrier {
    fn now(&self) -> Time {
        // Not from zero: cores subtract spans from it.
        Time(self.clock.elapsed().as_nanos() as u64 + 1_000_000_000)
    }

    fn send(&self, to: PeerId, message: &[u8]) -> std::result::Result<(), SendError> {
        let mut shared = self.shared.lock();
        let now = self.now();
        let server = shared.servers.iter_mut().find(|server| server.peer() == Some(to));
        let Some(server) = server else { return Err(SendError::Unreachable) };
        let session = match server.state {
            State::Up => server.session,
            State::Connecting => return server.keep(message),
            State::Down(_) => return Err(SendError::Unreachable),
        };
        shared.send(now, session, message)?;
        // What cannot leave now leaves when somebody waits.
        let _ = self.transmit(&mut shared, now);
        if shared.due() < shared.sleep_until {
            self.wake.write(1).expect("an eventfd takes a 1");
        }
        Ok(())
    }

    fn timer_at(&self, at: Time) {
        // Who sleeps on the socket looks at the timers.
        if at < self.shared.lock().sleep_until {
            self.wake.write(1).expect("an eventfd takes a 1");
        }
    }

    fn attend(&self) {
        if let (Some(carrier), Some(endpoint)) = (self.this.upgrade(), self.endpoint()) {
            self.attendant.attend(&carrier, &endpoint);
        }
    }

    fn notify(&self, signal: &Signal) {
        // It may be the one that sleeps on the socket, or is about to: answers are handled by whoever took them.
        if !signal.is_of_this_thread() {
            signal.unpark();
            self.wake.write(1).expect("an eventfd takes a 1");
        }
    }

    fn wait(&self, signal: &Signal, until: Option<Time>) {
        let over = || signal.is_set() || until.is_some_and(|until| until <= self.now());
        let mut woken = false;
        while !over() {
            if !self.take_turn(signal, until) {
                woken = true;
                continue;
            }
            woken = false;
            let mut buffer = vec![0; DATAGRAM_MAX];
            while !over() {
                let due = self.calls_due().min(until.unwrap_or(Time(u64::MAX)));
                let mut shared = self.shared.lock();
                self.move_datagrams(&mut shared, &mut buffer, due);
                drop(shared);
                self.handle_calls();
            }
            self.turn.lock().give();
            if let Some(endpoint) = self.endpoint().filter(|_| !self.attendant.is_there()) {
                endpoint.run_deferred();
            }
        }
        if woken {
            // The turn may have been meant for this thread, which has no use for it.
            self.turn.lock().pass_on();
        }
    }
}

impl Shared {
    /// When the sessions, or what waits to be sent, must be looked at.
    fn due(&self) -> Time {
        let due = [self.net.poll_timeout(), self.outlet.poll_timeout()];
        due.into_iter().flatten().min().unwrap_or(Time(u64::MAX))
    }

    fn send(
        &mut self,
        now: Time,
        session: SessionHandle,
        message: &[u8],
    ) -> std::result::Result<(), SendError> {
        let mut out = OutMessage::default();
        out.head.reserve(message.len() + 1);
        out.head.push(GUEST_CHANNEL);
        out.head.extend_from_slice(message);
        self.net.send(now, session, out, Priority::Control).map_err(|error| match error {
            net::SendError::Full => SendError::Full,
            net::SendError::TooLong => SendError::TooLong,
            net::SendError::Closed | net::SendError::NotConnected => SendError::Unreachable,
        })
    }

    fn take_in(&mut self, now: Time, from: SocketAddr, datagram: &mut [u8]) {
        let mut messages: SmallVec<[(SessionHandle, Vec<u8>); 2]> = SmallVec::new();
        self.net.handle_datagram(now, from, datagram, &mut |session, bytes| {
            messages.push((session, bytes.to_vec()));
        });
        self.take_events(now);
        for (session, mut bytes) in messages {
            let server = self.servers.iter().find(|server| server.session == session);
            let Some(peer) = server.and_then(Server::peer) else { continue };
            // Anything else a node does not say to a guest.
            if bytes.first() == Some(&GUEST_CHANNEL) {
                bytes.remove(0);
                self.events.push(CallEvent::Message(peer, session, bytes));
            }
        }
    }

    fn take_events(&mut self, now: Time) {
        while let Some(event) = self.net.poll_event() {
            match event {
                Event::Connected { session, incarnation, .. } => self.on_connected(now, session, incarnation),
                Event::ConnectFailed { session, error, .. } => self.on_lost(session, error.to_string()),
                Event::Closed { session, reason } => {
                    if let Some(at) = self.position(session) {
                        self.renew(now, at, &reason.to_string());
                    }
                }
                // A hint only; an attempt to connect anew tells.
                Event::Refused { session } => {
                    if let Some(at) = self.position(session) {
                        self.renew(now, at, "nobody listens there");
                    }
                }
            }
        }
    }

    fn position(&self, session: SessionHandle) -> Option<usize> {
        self.servers.iter().position(|server| server.session == session)
    }

    fn on_connected(&mut self, now: Time, session: SessionHandle, incarnation: Incarnation) {
        let Some(at) = self.position(session) else { return };
        let server = &mut self.servers[at];
        let before = server.peer();
        (server.state, server.incarnation, server.heard) = (State::Up, Some(incarnation), now);
        self.events.extend(server.waiters.drain(..).map(CallEvent::Changed));
        let unsent = server.take_unsent();
        match before {
            Some(peer) if peer.incarnation == incarnation => {
                for message in unsent {
                    // The queue is empty: it has more room than was kept.
                    let _ = self.send(now, session, &message);
                }
                self.events.push(CallEvent::Reset(peer));
            }
            // It has restarted: what it was asked is lost with it.
            Some(peer) => self.events.push(CallEvent::Died(peer)),
            None => {}
        }
    }

    /// No session can be had.
    fn on_lost(&mut self, session: SessionHandle, reason: String) {
        let Some(at) = self.position(session) else { return };
        let server = &mut self.servers[at];
        server.state = State::Down(reason);
        server.take_unsent();
        self.events.extend(server.peer().map(CallEvent::Died));
        self.events.extend(server.waiters.drain(..).map(CallEvent::Changed));
    }

    /// Replaces a server's session.
    fn renew(&mut self, now: Time, at: usize, reason: &str) {
        let server = &mut self.servers[at];
        let (old, addr) = (server.session, server.addr);
        self.net.close(now, old, 0, reason);
        match begin(&mut self.net, now, addr) {
            Ok(session) => (server.session, server.state) = (session, State::Connecting),
            Err(reason) => self.on_lost(old, reason),
        }
    }

    /// Sessions are asked for a sign of life; those without one are replaced, which fails if the server is
    /// dead.
    fn look_for_silence(&mut self, now: Time) {
        if now < self.next_look {
            return;
        }
        // Nobody waited, so nobody listened: everybody's silence starts now.
        let was_away = now > self.next_look + HEARTBEAT + HEARTBEAT;
        self.next_look = now + HEARTBEAT;
        for at in 0..self.servers.len() {
            let server = &mut self.servers[at];
            if !matches!(server.state, State::Up) {
                continue;
            }
            let session = server.session;
            let heard = if was_away { Some(now) } else { self.net.last_heard(session) };
            server.heard = server.heard.max(heard.unwrap_or(server.heard));
            let silent = now.since(server.heard) > SILENCE_MAX;
            self.net.ping(session);
            if silent {
                self.renew(now, at, "silent for too long");
            }
        }
    }
}

impl Server {
    /// Keeps what nobody asks for again; the calls that are open are asked for by the reset that is coming.
    fn keep(&mut self, message: &[u8]) -> std::result::Result<(), SendError> {
        if rpc::is_asked_again(message) {
            return Ok(());
        }
        let bytes = self.unsent_bytes + message.len();
        if self.unsent.len() >= UNSENT_MAX || bytes > UNSENT_BYTES_MAX {
            return Err(SendError::Full);
        }
        self.unsent_bytes = bytes;
        self.unsent.push(message.to_vec());
        Ok(())
    }

    fn take_unsent(&mut self) -> Vec<Vec<u8>> {
        self.unsent_bytes = 0;
        std::mem::take(&mut self.unsent)
    }

    fn peer(&self) -> Option<PeerId> {
        self.incarnation.map(|incarnation| PeerId { node: self.name, incarnation })
    }
}

fn begin(net: &mut Endpoint, now: Time, addr: SocketAddr) -> std::result::Result<SessionHandle, String> {
    match net.connect(now, addr) {
        Ok(session) | Err(ConnectRefused::Exists(session)) => Ok(session),
        Err(error @ ConnectRefused::Full) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_its_thread_does_not_need_is_passed_on() {
        let other = std::thread::spawn(std::thread::park);
        let sleepers = vec![other.thread().clone(), std::thread::current()];
        let mut turn = Turn { taken: true, sleepers };
        turn.pass_on();
        assert_eq!(turn.sleepers.len(), 2, "somebody has it");
        turn.give();
        assert_eq!(turn.sleepers.len(), 1, "this thread is woken, but its answer has come as well");
        turn.pass_on();
        assert!(turn.sleepers.is_empty());
        other.join().unwrap();
    }
}
