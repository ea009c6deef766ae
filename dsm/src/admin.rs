//! An operator's view of a running cluster: a session with the coordinator that asks and commands,
//! without being a member.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

use crate::codec::{decode_control, encode_control};
use crate::error::{Error, Result};
use crate::net::udp::{DATAGRAM_MAX, Outlet, Received, Sent, UdpSocket};
use crate::net::{
    ClusterKey, Endpoint, EndpointConfig, Event, OutMessage, Priority, SessionHandle, TransmitBuf,
};
use crate::node::query::{Answer, QUERY_CHANNEL, Query};
use crate::node::version;
use crate::page::{Incarnation, Time};

pub use crate::node::status::{ClusterStatus, MemberStatus, NodeStatus, PeerStatus, RegionStatus};

/// A session with a cluster's coordinator.
pub struct Admin {
    endpoint: Endpoint,
    socket: UdpSocket,
    outlet: Outlet,
    transmit: TransmitBuf,
    clock: Instant,
    coordinator: SessionHandle,
    timeout: Duration,
    answers: Vec<(SessionHandle, Answer)>,
}

impl Admin {
    /// Connects to the coordinator. Each call waits `timeout` at most.
    pub fn connect(coordinator: SocketAddr, key_file: &Path, timeout: Duration) -> Result<Admin> {
        let key = ClusterKey::load(key_file)?;
        let mut bind = coordinator;
        bind.set_port(0);
        let socket = UdpSocket::bind(bind, crate::config::net::SOCKET_BUFFER)?;
        let random = || getrandom::u64().map_err(|error| Error::Refused(format!("random numbers: {error}")));
        let config = EndpointConfig::new(key, Incarnation(random()?), version(), socket.receive_buffer());
        let mut endpoint = Endpoint::new(config, random()?);
        let clock = Instant::now();
        let session = endpoint
            .connect(Time(0), coordinator)
            .map_err(|error| Error::Refused(format!("{coordinator}: {error}")))?;
        let mut admin = Admin {
            endpoint,
            socket,
            outlet: Outlet::default(),
            transmit: TransmitBuf::default(),
            clock,
            coordinator: session,
            timeout,
            answers: Vec::new(),
        };
        admin.wait_connected(session, coordinator)?;
        Ok(admin)
    }

    /// The whole cluster: the coordinator's knowledge, and every member's own status where it answers.
    pub fn cluster(&mut self) -> Result<ClusterStatus> {
        let mut cluster = match self.ask(self.coordinator, &Query::Cluster)? {
            Answer::Cluster(cluster) => *cluster,
            Answer::Status(_) | Answer::Done(_) => return Err(unexpected()),
        };
        let own = self.endpoint.peer(self.coordinator).map(|(addr, _)| addr);
        for member in &mut cluster.members {
            // A member that does not answer is listed without a status.
            let session =
                if Some(member.addr) == own { Ok(self.coordinator) } else { self.connect_to(member.addr) };
            member.status = session.and_then(|session| self.status(session)).ok();
        }
        Ok(cluster)
    }

    /// Removes a region, when its last user goes.
    pub fn remove_region(&mut self, name: &str) -> Result<()> {
        self.command(&Query::RemoveRegion(name.to_owned()))
    }

    /// Stops the cluster.
    pub fn shutdown(&mut self) -> Result<()> {
        self.command(&Query::Shutdown)
    }

    fn command(&mut self, query: &Query) -> Result<()> {
        match self.ask(self.coordinator, query)? {
            Answer::Done(result) => result.map_err(Error::Refused),
            Answer::Status(_) | Answer::Cluster(_) => Err(unexpected()),
        }
    }

    fn status(&mut self, session: SessionHandle) -> Result<NodeStatus> {
        match self.ask(session, &Query::Status)? {
            Answer::Status(status) => Ok(*status),
            Answer::Cluster(_) | Answer::Done(_) => Err(unexpected()),
        }
    }

    fn connect_to(&mut self, addr: SocketAddr) -> Result<SessionHandle> {
        let session = self
            .endpoint
            .connect(self.now(), addr)
            .map_err(|error| Error::Refused(format!("{addr}: {error}")))?;
        self.wait_connected(session, addr)?;
        Ok(session)
    }

    fn wait_connected(&mut self, session: SessionHandle, addr: SocketAddr) -> Result<()> {
        self.wait(&format!("connecting to {addr}"), |_, event| match event {
            Some(Event::Connected { session: connected, .. }) if *connected == session => Some(Ok(())),
            Some(Event::ConnectFailed { session: failed, error, .. }) if *failed == session => {
                Some(Err(Error::Refused(format!("no connection to {addr}: {error}"))))
            }
            Some(_) | None => None,
        })
    }

    fn ask(&mut self, session: SessionHandle, query: &Query) -> Result<Answer> {
        let mut message = OutMessage::default();
        message.head.push(QUERY_CHANNEL);
        message.head.extend_from_slice(&encode_control(query));
        let now = self.now();
        self.endpoint
            .send(now, session, message, Priority::Control)
            .map_err(|error| Error::Refused(error.to_string()))?;
        self.wait("asking the cluster", |answers, event| {
            if let Some(at) = answers.iter().position(|(from, _)| *from == session) {
                return Some(Ok(answers.swap_remove(at).1));
            }
            match event {
                Some(Event::Closed { session: closed, reason }) if *closed == session => {
                    Some(Err(Error::Refused(format!("the session ended: {reason}"))))
                }
                Some(_) | None => None,
            }
        })
    }

    fn now(&self) -> Time {
        Time(self.clock.elapsed().as_nanos() as u64)
    }

    /// Moves datagrams until `done` says so or the time is over.
    fn wait<T>(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut Vec<(SessionHandle, Answer)>, Option<&Event>) -> Option<Result<T>>,
    ) -> Result<T> {
        let until = Instant::now() + self.timeout;
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            self.transmit()?;
            while let Some(event) = self.endpoint.poll_event() {
                if let Some(result) = done(&mut self.answers, Some(&event)) {
                    return result;
                }
            }
            if let Some(result) = done(&mut self.answers, None) {
                return result;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let after_ms = self.timeout.as_millis() as u64;
                return Err(Error::Timeout { what: what.to_owned(), after_ms });
            }
            self.receive(&mut buffer, left)?;
        }
    }

    fn receive(&mut self, buffer: &mut [u8], left: Duration) -> Result<()> {
        let now = self.now();
        match self.socket.receive(buffer)? {
            Received::Datagram { len, from } => {
                let answers = &mut self.answers;
                self.endpoint.handle_datagram(now, from, &buffer[..len], &mut |session, bytes| {
                    let body = bytes.split_first().map_or(bytes, |(_, body)| body);
                    if let Ok(answer) = decode_control(body) {
                        answers.push((session, answer));
                    }
                });
            }
            Received::Refused { addr } => self.endpoint.handle_refused(now, addr),
            Received::Nothing => {
                let due = self.endpoint.poll_timeout().map_or(left, |due| due.since(now).to_std());
                // Rounded up: a timer that is due in less than a millisecond may be a little late.
                let wait = due.min(left) + Duration::from_millis(1);
                let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
                let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
                // An interruption only means that we look earlier.
                let _ = poll(&mut fds, timeout);
            }
        }
        Ok(())
    }

    fn transmit(&mut self) -> Result<()> {
        let now = self.now();
        if self.outlet.flush(&self.socket, now)? == Sent::Blocked {
            return Ok(());
        }
        while let Some(datagram) = self.endpoint.poll_transmit(now, &mut self.transmit) {
            if self.outlet.send(&self.socket, now, &datagram)? == Sent::Blocked {
                break;
            }
        }
        Ok(())
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        let now = self.now();
        self.endpoint.close(now, self.coordinator, 0, "done");
        // The other side notices a session that is lost, too.
        let _ = self.transmit();
    }
}

fn unexpected() -> Error {
    Error::Refused("the node gave an answer to another question: is it of the same version?".into())
}
