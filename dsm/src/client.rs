//! Calls into a cluster from outside of it: sessions to nodes by address, without being a member.
//!
//! The machine of the client (`machine/client.rs`) decides; here is its lock, its socket, and who moves datagrams: a
//! thread that waits for an answer does, for all that wait. Executors of futures do not wait in here, so for them a
//! thread of the client's own does (`pm-client`). It starts with the first future that finds no answer, and sleeps
//! while none waits.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::{TimeSpec, TimeValLike};
use parking_lot::{Mutex, MutexGuard};

use crate::coherence::OpId;
use crate::config::membership::HEARTBEAT;
use crate::config::net::SOCKET_BUFFER;
use crate::error::{Error, Result};
use crate::fork;
use crate::machine::{ClientEvent, ClientMachine, ClientOutput, Rules};
use crate::net::inject::{Injector, InjectorConfig};
use crate::net::udp::{DATAGRAM_MAX, Outlet, Received, UdpSocket, datagrams};
use crate::net::{ClusterKey, Endpoint, EndpointConfig, Entropy, TransmitBuf, Version};
use crate::page::{Incarnation, NodeId, PeerId, Span, Time};
use crate::rpc::core::{Rank, SendError};
use crate::rpc::{self, Callers, Channel, Port, Signal};

/// A process that calls nodes without being one. Any thread may use its channels.
pub struct Client {
    runtime: Arc<Runtime>,
    calls: Arc<rpc::Endpoint>,
}

/// The machine, under its lock, and what moves its datagrams.
struct Runtime {
    state: Mutex<State>,
    socket: UdpSocket,
    wake: EventFd,
    clock: Instant,
    this: Weak<Runtime>,
}

struct State {
    machine: ClientMachine,
    outlet: Outlet,
    transmit: TransmitBuf,
    callers: Callers,
    /// Threads that wait for a session, and what they are told.
    opening: Vec<Opening>,
    next_op: u64,
    /// Threads whose wait has ended, to be woken without the lock.
    woken: Vec<Arc<Signal>>,
    /// The receiver's buffer while no thread receives.
    buffer: Option<Vec<u8>>,
    /// The receiver sleeps at the socket until then.
    sleeps_until: Time,
    /// Threads that wait and do not receive.
    parked: Vec<Thread>,
    futures: Futures,
}

/// A thread in [`Client::connect`].
struct Opening {
    op: OpId,
    signal: Arc<Signal>,
    result: Option<std::result::Result<PeerId, String>>,
}

/// The thread that receives while futures wait, and runs their wakers.
#[derive(Default)]
struct Futures {
    thread: Option<JoinHandle<()>>,
    signal: Option<Arc<Signal>>,
    is_stopping: bool,
}

impl Client {
    /// A client with sessions from this address on; port 0 is any free one.
    pub fn new(key: ClusterKey, bind: SocketAddr, bad_network: Option<InjectorConfig>) -> Result<Client> {
        fork::watch()?;
        let socket = UdpSocket::bind(bind, SOCKET_BUFFER)?;
        let random = || getrandom::u64().map_err(|error| Error::Refused(format!("random numbers: {error}")));
        let config =
            EndpointConfig::new(key, Incarnation(random()?), Version::ours(), socket.receive_buffer());
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Error::os("eventfd", errno))?;
        let state = State {
            machine: ClientMachine::new(Endpoint::new(config, Entropy::from_system()?), Rules::default()),
            outlet: Outlet::new(bad_network.map(Injector::new)),
            transmit: TransmitBuf::default(),
            callers: Callers::default(),
            opening: Vec::new(),
            next_op: 0,
            woken: Vec::new(),
            buffer: Some(vec![0; DATAGRAM_MAX]),
            sleeps_until: Time(0),
            parked: Vec::new(),
            futures: Futures::default(),
        };
        let (state, clock) = (Mutex::new(state), Instant::now());
        let runtime = Arc::new_cyclic(|this| Runtime { state, socket, wake, clock, this: this.clone() });
        let calls = rpc::Endpoint::over(runtime.clone());
        Ok(Client { runtime, calls })
    }

    /// Has a session with the node at the address, which errors will call `name`. Waits for at most
    /// `timeout`.
    pub fn connect(&self, name: NodeId, addr: SocketAddr, timeout: Duration) -> Result<PeerId> {
        fork::check()?;
        let runtime = &self.runtime;
        let (until, signal) = (runtime.now() + Span::from(timeout), Arc::new(Signal::for_this_thread()));
        let op = runtime.with(|state, _| {
            state.next_op += 1;
            let op = OpId(state.next_op);
            state.opening.push(Opening { op, signal: signal.clone(), result: None });
            op
        });
        // The second step: sessions that have ended make room when their time is over.
        runtime.with(|state, now| state.machine.handle(now, ClientEvent::Connect { op, name, addr }));
        Port::wait(&**runtime, &signal, Some(until));
        let at = |state: &State| state.opening.iter().position(|opening| opening.op == op);
        let ended = runtime.with(|state, _| at(state).and_then(|at| state.opening.swap_remove(at).result));
        match ended {
            Some(Ok(peer)) => Ok(peer),
            Some(Err(reason)) => Err(Error::Refused(format!("no connection to {addr}: {reason}"))),
            None => {
                let what = format!("connecting to {addr}");
                Err(Error::Timeout { what, after_ms: timeout.as_millis() as u64 })
            }
        }
    }

    /// Ends the session with a server and begins another, as a loss of the network would.
    pub fn reconnect(&self, peer: PeerId) -> Result<()> {
        fork::check()?;
        self.runtime.with(|state, now| state.machine.handle(now, ClientEvent::Reconnect(peer)));
        Ok(())
    }

    /// The way to a server that was connected to.
    pub fn channel_to(&self, peer: PeerId) -> Channel {
        Channel::to(&self.calls, peer)
    }

    /// The calls of this client.
    pub fn calls(&self) -> &Arc<rpc::Endpoint> {
        &self.calls
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if fork::is_child() {
            // A forked child: sessions and thread are the parent's, and their locks may be held there.
            std::mem::forget(self.runtime.clone());
            std::mem::forget(self.calls.clone());
            return;
        }
        let thread = self.runtime.with(|state, now| {
            // If it is lost, the other side ends the session when it needs the place. Calls and channels may outlive
            // the client: nothing comes for them any more.
            state.machine.handle(now, ClientEvent::Close("done"));
            state.futures.is_stopping = true;
            state.wake_futures();
            state.futures.thread.take()
        });
        // A future that is woken may own the last handle on the client.
        let is_own = |thread: &JoinHandle<()>| thread.thread().id() == std::thread::current().id();
        if let Some(thread) = thread.filter(|thread| !is_own(thread)) {
            // It cannot have panicked: wakers' panics are caught.
            let _ = thread.join();
        }
        self.runtime.run_deferred();
    }
}

impl State {
    /// When the receiver must look at the machine, or at what waits to be sent.
    fn due(&self) -> Time {
        let due = [self.machine.poll_timeout(), self.outlet.poll_timeout()];
        due.into_iter().flatten().min().unwrap_or(Time(u64::MAX))
    }

    /// Does what the machine wants done.
    fn perform(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                ClientOutput::Call(output) => {
                    let signal = self.callers.perform(output);
                    self.woken.extend(signal.inspect(|signal| signal.set()));
                }
                ClientOutput::Connected { op, result } => {
                    // The thread may have given up.
                    if let Some(opening) = self.opening.iter_mut().find(|opening| opening.op == op) {
                        opening.result = Some(result);
                        opening.signal.set();
                        self.woken.push(opening.signal.clone());
                    }
                }
            }
        }
    }

    /// The thread for futures has something to do.
    fn wake_futures(&mut self) {
        let signal = self.futures.signal.clone();
        self.woken.extend(signal.inspect(|signal| signal.set()));
    }
}

impl Runtime {
    /// Does something under the lock, then what follows from it: datagrams are sent, and threads woken.
    fn with<R>(&self, act: impl FnOnce(&mut State, Time) -> R) -> R {
        let mut state = self.state.lock();
        let result = act(&mut state, self.now());
        self.flush(&mut state);
        let is_late = state.due() < state.sleeps_until;
        let woken = std::mem::take(&mut state.woken);
        let sleeps = state.sleeps_until > Time(0);
        drop(state);
        // The receiver may be one of them, or must look at its timers.
        if is_late || (sleeps && !woken.is_empty()) {
            self.wake.write(1).expect("an eventfd takes a 1");
        }
        wake(woken);
        result
    }

    fn flush(&self, state: &mut State) {
        let now = self.now();
        state.machine.flush(now);
        state.perform();
        if state.callers.take_new() > 0 {
            // The thread for futures runs wakers; without it, whichever thread waits does.
            state.wake_futures();
        }
        let State { machine, outlet, transmit, .. } = state;
        // A datagram that cannot be sent is sent again; if none can, the session ends of silence.
        let _ = outlet.drain(&self.socket, now, machine.endpoint_mut(), transmit);
    }

    /// Takes in what has come, or sleeps at the socket until something has, until `until`, or until the receiver's
    /// signal is set.
    fn receive(
        &self,
        state: &mut MutexGuard<'_, State>,
        buffer: &mut [u8],
        signal: &Signal,
        until: Option<Time>,
    ) {
        let woken = std::mem::take(&mut state.woken);
        let received = MutexGuard::unlocked(state, || {
            wake(woken);
            self.socket.receive(buffer)
        });
        let now = self.now();
        match received {
            Ok(Received::Datagrams { len, segment, from }) => {
                for bytes in datagrams(&mut buffer[..len], segment) {
                    state.machine.handle(now, ClientEvent::Datagram { from, bytes });
                }
            }
            Ok(Received::Refused { addr }) => state.machine.handle(now, ClientEvent::Refused(addr)),
            // A broken socket stays broken: the sessions end of silence, and not in a busy loop.
            Ok(Received::Failing { .. }) | Err(_) => MutexGuard::unlocked(state, || self.socket.pause()),
            Ok(Received::Nothing) => {
                state.machine.handle(now, ClientEvent::Drained(now));
                state.machine.handle(now, ClientEvent::Timer);
                self.flush(state);
                let woken = std::mem::take(&mut state.woken);
                let until = state.due().min(until.unwrap_or(Time(u64::MAX)));
                state.sleeps_until = until;
                MutexGuard::unlocked(state, || {
                    wake(woken);
                    if !signal.is_set() {
                        self.sleep(until.since(self.now()).to_std());
                    }
                });
                state.sleeps_until = Time(0);
                return;
            }
        }
        state.machine.handle(now, ClientEvent::Timer);
        self.flush(state);
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

    /// Runs wakers, which are code of the program, without the lock.
    fn run_deferred(&self) {
        let deferred = self.state.lock().callers.take_deferred();
        deferred.into_iter().for_each(|deferred| deferred.run());
    }

    /// Receives while futures wait.
    fn serve_futures(&self) {
        let signal = Arc::new(Signal::for_this_thread());
        self.state.lock().futures.signal = Some(signal.clone());
        loop {
            // First: what is set from here on ends the wait.
            signal.clear();
            self.run_deferred();
            let (is_stopping, has_tasks) =
                self.with(|state, _| (state.futures.is_stopping, state.callers.has_tasks()));
            if is_stopping {
                return;
            }
            if has_tasks {
                // A future that is dropped tells nobody.
                self.wait_for(&signal, Some(self.now() + HEARTBEAT));
            } else {
                std::thread::park();
            }
        }
    }

    /// Waits until the signal is set or `until` has come; one of the threads that wait receives.
    fn wait_for(&self, signal: &Signal, until: Option<Time>) {
        let over = || signal.is_set() || until.is_some_and(|until| until <= self.now());
        let mut state = self.state.lock();
        while !over() {
            let Some(mut buffer) = state.buffer.take() else {
                state.parked.push(std::thread::current());
                MutexGuard::unlocked(&mut state, || match until {
                    _ if signal.is_set() => {}
                    None => std::thread::park(),
                    Some(until) => std::thread::park_timeout(until.since(self.now()).to_std()),
                });
                let me = std::thread::current().id();
                state.parked.retain(|parked| parked.id() != me);
                continue;
            };
            while !over() {
                self.receive(&mut state, &mut buffer, signal, until);
            }
            state.buffer = Some(buffer);
        }
        let woken = std::mem::take(&mut state.woken);
        // Another thread receives from now on; also if this one was woken for it and does not wait any more.
        let next = if state.buffer.is_some() { state.parked.pop() } else { None };
        drop(state);
        wake(woken);
        next.inspect(Thread::unpark);
    }
}

fn wake(woken: Vec<Arc<Signal>>) {
    for signal in woken {
        signal.unpark();
    }
}

impl Port for Runtime {
    fn now(&self) -> Time {
        // Not from zero: cores subtract spans from it.
        Time(self.clock.elapsed().as_nanos() as u64 + 1_000_000_000)
    }

    fn enter(&self, act: &mut dyn FnMut(Time, &mut rpc::State<'_>)) {
        self.with(|state, now| {
            let State { machine, callers, .. } = state;
            act(now, &mut rpc::State { calls: machine.calls_mut(), callers });
        });
    }

    fn send(&self, to: PeerId, message: &[u8]) -> std::result::Result<(), SendError> {
        self.with(|state, now| state.machine.send_call(now, to, message))
    }

    fn wait(&self, signal: &Signal, until: Option<Time>) {
        self.wait_for(signal, until);
        let has_thread = self.state.lock().futures.thread.is_some();
        if !has_thread {
            self.run_deferred();
        }
    }

    fn wait_for_work(&self, _rank: Rank, _done: &dyn Fn() -> bool) {
        unreachable!("a client serves nothing");
    }

    fn rouse(&self, _calls: usize) -> usize {
        0
    }

    fn wake_workers(&self) {}

    fn taken(&self, _peer: PeerId) -> u64 {
        0
    }

    fn give_up(&self, _peer: PeerId) {}

    fn attend(&self) {
        let mut state = self.state.lock();
        if let Some(thread) = &state.futures.thread {
            let thread = thread.thread().clone();
            drop(state);
            // It sleeps if no future waited.
            return thread.unpark();
        }
        let Some(runtime) = self.this.upgrade().filter(|_| !state.futures.is_stopping) else { return };
        let named = std::thread::Builder::new().name("pm-client".into());
        match named.spawn(move || runtime.serve_futures()) {
            Ok(thread) => state.futures.thread = Some(thread),
            // A thread that waits receives for all.
            Err(error) => tracing::error!("no thread for the futures of a client: {error}"),
        }
    }
}
