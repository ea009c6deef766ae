//! The bare barrier and the bare hand-over: 64 B each way over connected sockets, nothing else.
//!
//! Process 0 is where the others meet: it has a socket to each. A barrier of two is a round trip.

use std::net::UdpSocket;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{REQUEST, Wait, adopt, connected_pair, receive};
use crate::Result;
use crate::child::{self, Child};
use crate::role::{Part, Role};
use crate::sync::{Tenure, monotonic_ns};

/// What each process is told; all of them the same.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum MeetCommand {
    /// So many barriers; how long each took, in microseconds.
    Barriers(usize),
    /// So many hand-overs, each held for so long; when each began and ended.
    HandOver { count: usize, hold_ns: u64 },
}

/// What a process answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum MeetAnswer {
    Times(Vec<f64>),
    Tenures(Vec<Tenure>),
}

/// The processes, seen from the parent.
pub(crate) struct Meeting(Vec<Child<MeetCommand, MeetAnswer>>);

impl Meeting {
    pub(crate) fn start(count: usize, wait: Wait) -> Result<Meeting> {
        let pairs: Vec<(UdpSocket, UdpSocket)> =
            (1..count).map(|_| connected_pair()).collect::<Result<_>>()?;
        let mut children = Vec::new();
        for index in 0..count {
            let own: Vec<&UdpSocket> = match index {
                0 => pairs.iter().map(|pair| &pair.0).collect(),
                _ => vec![&pairs[index - 1].1],
            };
            let sockets = own.iter().map(|socket| child::number(*socket)).collect();
            let inherited: Vec<&dyn child::AsDescriptor> = own.iter().map(|socket| socket as _).collect();
            children.push(Child::start(&Role::new(Part::Meet { index, sockets, wait }), &inherited)?);
        }
        Ok(Meeting(children))
    }

    /// Barriers as process 1 saw them: it waits for a whole round trip each time.
    pub(crate) fn barriers(&mut self, count: usize) -> Result<Vec<f64>> {
        let mut answers = self.all(&MeetCommand::Barriers(count))?;
        match answers.swap_remove(1) {
            MeetAnswer::Times(times) => Ok(times),
            MeetAnswer::Tenures(_) => Err("an answer to another question".into()),
        }
    }

    /// All tenures, of all processes.
    pub(crate) fn hand_over(&mut self, count: usize, hold: Duration) -> Result<Vec<Vec<Tenure>>> {
        let hold_ns = hold.as_nanos() as u64;
        let answers = self.all(&MeetCommand::HandOver { count, hold_ns })?;
        let tenures = |answer| match answer {
            MeetAnswer::Tenures(tenures) => Ok(tenures),
            MeetAnswer::Times(_) => Err("an answer to another question".into()),
        };
        answers.into_iter().map(tenures).collect()
    }

    fn all(&mut self, command: &MeetCommand) -> Result<Vec<MeetAnswer>> {
        for child in &mut self.0 {
            child.tell(command)?;
        }
        self.0.iter_mut().map(Child::hear).collect()
    }
}

/// Runs one of the processes.
pub(crate) fn meet(index: usize, sockets: &[RawFd], wait: Wait) -> Result<()> {
    let sockets: Vec<UdpSocket> = sockets.iter().map(|fd| adopt(*fd, wait)).collect::<Result<_>>()?;
    child::serve(|command: MeetCommand| match command {
        MeetCommand::Barriers(count) => barriers(index, &sockets, count).map(MeetAnswer::Times),
        MeetCommand::HandOver { count, hold_ns } => {
            let hold = Duration::from_nanos(hold_ns);
            hand_over(index, &sockets[0], count, hold).map(MeetAnswer::Tenures)
        }
    })
}

fn barriers(index: usize, sockets: &[UdpSocket], count: usize) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(count);
    let mut bytes = [0; REQUEST];
    for _ in 0..count {
        let start = Instant::now();
        if index == 0 {
            for socket in sockets {
                receive(socket, &mut bytes)?;
            }
            for socket in sockets {
                socket.send(&bytes)?;
            }
        } else {
            sockets[0].send(&bytes)?;
            receive(&sockets[0], &mut bytes)?;
        }
        times.push(start.elapsed().as_nanos() as f64 / 1e3);
    }
    Ok(times)
}

fn hand_over(index: usize, socket: &UdpSocket, count: usize, hold: Duration) -> Result<Vec<Tenure>> {
    let mut tenures = Vec::with_capacity(count);
    let mut bytes = [0; REQUEST];
    for turn in 0..count {
        if index != 0 || turn > 0 {
            receive(socket, &mut bytes)?;
        }
        let token = (2 * turn + index) as u64;
        let began = monotonic_ns();
        crate::sync::hold(hold);
        let ended = monotonic_ns();
        // The last one of all goes nowhere.
        if index == 0 || turn + 1 < count {
            socket.send(&bytes)?;
        }
        tenures.push(Tenure { token, began, ended });
    }
    Ok(tenures)
}
