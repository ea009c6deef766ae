//! Watching a running program: its output, its input, its end, and the user's wish to stop it.
//!
//! One loop waits for whatever comes first. It ends when all ranks have ended, and it makes them end:
//! politely after the grace, then not.

use std::collections::VecDeque;
use std::io::{IsTerminal, Read, Stdin, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::{getpgrp, tcgetpgrp};

use crate::cluster::STOP_GRACE;
use crate::out;
use crate::output::{Flow, Tagged};
use crate::process::{Ending, Running};
use crate::signals::Signals;
use crate::trouble::{SIGNALLED, Trouble};
use crate::wait::{Interest, wait};

/// From SIGTERM to SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(2);

/// A started rank with its streams.
pub(crate) struct Rank {
    pub(crate) running: Running,
    stdout: Option<Tagged<ChildStdout>>,
    stderr: Option<Tagged<ChildStderr>>,
    /// Ended by our own signal: its code says nothing about the program.
    ended_by_us: bool,
}

/// How far the ending of the program has gone.
#[derive(Clone, Copy)]
enum Phase {
    /// Nothing has gone wrong.
    Running,
    /// Something has; the ranks may end by themselves until then.
    Grace(Instant),
    /// SIGTERM is sent; until then.
    Terminating(Instant),
    /// SIGKILL is sent.
    Killing,
}

#[derive(Clone, Copy)]
enum Event {
    Signal,
    RankEnded(usize),
    DaemonEnded(usize),
    Stdout(usize),
    Stderr(usize),
    Typed,
    TypedRoom,
}

/// Ranks and the daemons that are theirs alone.
pub(crate) struct Supervisor<'a> {
    ranks: Vec<Rank>,
    daemons: &'a mut Vec<Running>,
    signals: &'a Signals,
    relay: Option<Relay>,
    phase: Phase,
    /// The signal by which the user stopped the program.
    stopped: Option<Signal>,
    /// Why standard output takes no more.
    unwritten: Option<std::io::Error>,
}

/// Our terminal's lines on their way to rank 0, which is in a process group that may not read it.
struct Relay {
    from: Stdin,
    to: ChildStdin,
    pending: VecDeque<u8>,
}

impl Rank {
    /// Takes a started rank; its streams are tagged with `number` if they are pipes.
    pub(crate) fn new(mut running: Running, number: u32) -> Result<Rank, Trouble> {
        let stdout = running.child.stdout.take();
        let stderr = running.child.stderr.take();
        for fd in stdout.iter().map(AsFd::as_fd).chain(stderr.iter().map(AsFd::as_fd)) {
            // Ours is the only reader, so the flag touches nobody else.
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| Trouble::os("a rank's output", e))?;
        }
        Ok(Rank {
            running,
            stdout: stdout.map(|from| Tagged::new(from, number)),
            stderr: stderr.map(|from| Tagged::new(from, number)),
            ended_by_us: false,
        })
    }

    fn drain(&mut self) -> std::io::Result<()> {
        if let Some(mut stream) = self.stderr.take() {
            // Without our standard error there is nobody to tell.
            let _ = stream.drain(&mut std::io::stderr());
        }
        self.stdout.take().map_or(Ok(()), |mut stream| stream.drain(&mut std::io::stdout()))
    }
}

impl<'a> Supervisor<'a> {
    /// Watches these; rank 0 comes first.
    pub(crate) fn new(mut ranks: Vec<Rank>, daemons: &'a mut Vec<Running>, signals: &'a Signals) -> Self {
        let typed = if std::io::stdin().is_terminal() { ranks[0].running.child.stdin.take() } else { None };
        let relay = typed.map(|to| Relay { from: std::io::stdin(), to, pending: VecDeque::new() });
        Supervisor { ranks, daemons, signals, relay, phase: Phase::Running, stopped: None, unwritten: None }
    }

    /// Returns when all ranks have ended, with the exit code of the worst.
    pub(crate) fn run(mut self) -> Result<i32, Trouble> {
        while self.ranks.iter().any(|rank| rank.running.runs()) {
            let events = wait(&self.sources(), self.deadline())?;
            if events.is_empty() {
                self.deadline_passed();
            }
            for event in events {
                self.handle(event);
            }
        }
        match self.unwritten.take() {
            // A signal is the user's wish, which counts before what it leads to.
            Some(error) if self.stopped.is_none() => Err(out::unwritten(error)),
            Some(_) | None => Ok(self.code()),
        }
    }

    fn sources(&self) -> Vec<(Event, BorrowedFd<'_>, Interest)> {
        let mut sources = vec![(Event::Signal, self.signals.as_fd(), Interest::Read)];
        for (place, rank) in self.ranks.iter().enumerate() {
            if let Some(stream) = &rank.stdout {
                sources.push((Event::Stdout(place), stream.source().as_fd(), Interest::Read));
            }
            if let Some(stream) = &rank.stderr {
                sources.push((Event::Stderr(place), stream.source().as_fd(), Interest::Read));
            }
            if rank.running.runs() {
                sources.push((Event::RankEnded(place), rank.running.as_fd(), Interest::Read));
            }
        }
        for (place, daemon) in self.daemons.iter().enumerate().filter(|(_, daemon)| daemon.runs()) {
            sources.push((Event::DaemonEnded(place), daemon.as_fd(), Interest::Read));
        }
        // Reading from a terminal that belongs to another job would stop us.
        if let Some(relay) = self.relay.as_ref().filter(|relay| relay.in_foreground()) {
            sources.push(relay.source());
        }
        sources
    }

    fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running | Phase::Killing => None,
            Phase::Grace(until) | Phase::Terminating(until) => Some(until),
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Signal => self.on_signal(),
            Event::RankEnded(place) => self.on_rank_ended(place),
            Event::DaemonEnded(place) => self.on_daemon_ended(place),
            Event::Stdout(place) => {
                let stream = &mut self.ranks[place].stdout;
                if let Err(error) = keep(stream, &mut std::io::stdout()) {
                    self.unwritten.get_or_insert(error);
                    self.terminate();
                }
            }
            Event::Stderr(place) => {
                // Without our standard error there is nobody to tell, but the result may still be wanted.
                let _ = keep(&mut self.ranks[place].stderr, &mut std::io::stderr());
            }
            Event::Typed => {
                if self.relay.as_mut().is_some_and(|relay| !relay.read()) {
                    self.relay = None;
                }
            }
            Event::TypedRoom => {
                if self.relay.as_mut().is_some_and(|relay| !relay.write()) {
                    self.relay = None;
                }
            }
        }
    }

    /// The first wish to stop is passed on, the second kills.
    fn on_signal(&mut self) {
        let Some(signal) = self.signals.next() else { return };
        if self.stopped.is_some() {
            self.send(Signal::SIGKILL);
            self.phase = Phase::Killing;
            return;
        }
        self.stopped = Some(signal);
        let passed_on = self.signals.for_children(signal);
        self.send(passed_on);
        // Somebody at a terminal can decide; a script, a service manager or a closed terminal cannot.
        if passed_on != Signal::SIGINT {
            self.phase = Phase::Terminating(Instant::now() + STOP_GRACE);
        }
    }

    fn on_rank_ended(&mut self, place: usize) {
        let rank = &mut self.ranks[place];
        let Some(ending) = rank.running.try_end() else { return };
        if let Err(error) = rank.drain() {
            self.unwritten.get_or_insert(error);
        }
        if matches!(self.phase, Phase::Terminating(_) | Phase::Killing) {
            rank.ended_by_us = true;
        }
        if ending == Ending::Code(0) {
            return;
        }
        if !rank.ended_by_us && self.stopped.is_none() {
            out::warn(format_args!("{} {ending}", rank.running.name));
        }
        self.begin_grace();
    }

    fn on_daemon_ended(&mut self, place: usize) {
        let daemon = &mut self.daemons[place];
        let Some(ending) = daemon.try_end() else { return };
        out::warn(format_args!("{} {ending}", daemon.name));
        self.begin_grace();
    }

    fn begin_grace(&mut self) {
        if matches!(self.phase, Phase::Running) {
            self.phase = Phase::Grace(Instant::now() + STOP_GRACE);
        }
    }

    fn deadline_passed(&mut self) {
        match self.phase {
            Phase::Running | Phase::Killing => {}
            Phase::Grace(_) => {
                out::warn("the other ranks do not end by themselves; ending them");
                self.terminate();
            }
            Phase::Terminating(_) => {
                self.send(Signal::SIGKILL);
                self.phase = Phase::Killing;
            }
        }
    }

    fn terminate(&mut self) {
        if matches!(self.phase, Phase::Running | Phase::Grace(_)) {
            self.send(Signal::SIGTERM);
            self.phase = Phase::Terminating(Instant::now() + TERM_GRACE);
        }
    }

    fn send(&mut self, signal: Signal) {
        self.ranks.iter_mut().for_each(|rank| rank.running.signal(signal));
    }

    /// The worst code of the ranks that ended by themselves; of all, if none of those says anything.
    fn code(&mut self) -> i32 {
        let worst = |ranks: &mut [Rank], ours: bool| {
            let of = ranks.iter_mut().filter(|rank| rank.ended_by_us == ours);
            of.filter_map(|rank| rank.running.try_end()).map(Ending::code).max().unwrap_or(0)
        };
        let stopped = self.stopped.map_or(0, |signal| SIGNALLED + signal as i32);
        match worst(&mut self.ranks, false) {
            0 => stopped.max(worst(&mut self.ranks, true)),
            code => code,
        }
    }
}

impl Relay {
    fn in_foreground(&self) -> bool {
        tcgetpgrp(&self.from).is_ok_and(|group| group == getpgrp())
    }

    /// Waits for room while bytes are pending, for the user otherwise.
    fn source(&self) -> (Event, BorrowedFd<'_>, Interest) {
        if self.pending.is_empty() {
            (Event::Typed, self.from.as_fd(), Interest::Read)
        } else {
            (Event::TypedRoom, self.to.as_fd(), Interest::Write)
        }
    }

    /// Takes what was typed. False: there will be no more.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match nix::unistd::read(&self.from, &mut bytes) {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.pending.extend(&bytes[..n]);
                true
            }
        }
    }

    /// Writes some. False: rank 0 reads no more.
    fn write(&mut self) -> bool {
        let (bytes, _) = self.pending.as_slices();
        // At most what a pipe that has room takes without blocking.
        let bytes = &bytes[..bytes.len().min(4096)];
        match self.to.write(bytes) {
            Ok(n) => {
                self.pending.drain(..n);
                true
            }
            Err(_) => false,
        }
    }
}

/// Passes output on; an error if ours cannot be written.
fn keep<R: Read>(stream: &mut Option<Tagged<R>>, to: &mut impl Write) -> std::io::Result<()> {
    let Some(tagged) = stream else { return Ok(()) };
    match tagged.pass_on(to) {
        Flow::Open | Flow::Idle => Ok(()),
        Flow::Ended => {
            *stream = None;
            Ok(())
        }
        Flow::Unwritten(error) => {
            *stream = None;
            Err(error)
        }
    }
}
