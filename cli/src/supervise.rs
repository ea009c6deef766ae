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
use crate::endings::{Endings, PEER_DIED};
use crate::merge::Stream;
use crate::out;
use crate::output::{Flow, Lines, Output};
use crate::process::{Ending, Running};
use crate::signals::Signals;
use crate::state::{ClusterFile, State};
use crate::trouble::{SIGNALLED, Trouble};
use crate::wait::{Interest, wait};

/// From SIGTERM to SIGKILL. A rank that gets SIGTERM writes its pages back, and ends by itself when that does
/// not progress.
const TERM_GRACE: Duration = Duration::from_secs(30);

/// Two signals so close are one wish: `timeout` sends its signal to the command and to its group.
const ONE_WISH: Duration = Duration::from_millis(100);

/// A started rank with its streams.
pub(crate) struct Rank {
    pub(crate) running: Running,
    stdout: Option<Lines<ChildStdout>>,
    stderr: Option<Lines<ChildStderr>>,
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
    output: Output,
    endings: Endings,
    /// Where the cluster is recorded that the program runs on, if it was up before.
    recorded: Option<(&'a State, &'a ClusterFile)>,
    phase: Phase,
    /// The signal by which the user stopped the program, and when it came.
    stopped: Option<(Signal, Instant)>,
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
    /// Takes a started rank and those of its streams that are pipes.
    pub(crate) fn new(mut running: Running) -> Result<Rank, Trouble> {
        let stdout = running.child.stdout.take();
        let stderr = running.child.stderr.take();
        for fd in stdout.iter().map(AsFd::as_fd).chain(stderr.iter().map(AsFd::as_fd)) {
            // Ours is the only reader, so the flag touches nobody else.
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| Trouble::os("a rank's output", e))?;
        }
        Ok(Rank {
            running,
            stdout: stdout.map(Lines::new),
            stderr: stderr.map(Lines::new),
            ended_by_us: false,
        })
    }
}

impl<'a> Supervisor<'a> {
    /// Watches these, by rank.
    pub(crate) fn new(
        mut ranks: Vec<Rank>,
        daemons: &'a mut Vec<Running>,
        signals: &'a Signals,
        output: Output,
    ) -> Self {
        let typed = if std::io::stdin().is_terminal() { ranks[0].running.child.stdin.take() } else { None };
        let relay = typed.map(|to| Relay { from: std::io::stdin(), to, pending: VecDeque::new() });
        Supervisor {
            ranks,
            daemons,
            signals,
            relay,
            output,
            endings: Endings::default(),
            recorded: None,
            phase: Phase::Running,
            stopped: None,
            unwritten: None,
        }
    }

    /// Watches ranks of a cluster that is recorded there: another command may take it down.
    pub(crate) fn on_cluster(self, state: &'a State, cluster: &'a ClusterFile) -> Self {
        Supervisor { recorded: Some((state, cluster)), ..self }
    }

    /// Returns when all ranks have ended, with the exit code of the worst.
    pub(crate) fn run(mut self) -> Result<i32, Trouble> {
        while self.ranks.iter().any(|rank| rank.running.runs()) {
            let events = wait(&self.sources(), self.deadline())?;
            // Once a round: lines that are found together have come together.
            let now = Instant::now();
            for event in events {
                self.handle(event, now);
            }
            let written = self.output.write_due(now);
            self.check(written);
            self.look_at_phase(now);
        }
        let written = self.output.flush();
        self.check(written);
        if self.stopped.is_some() {
            out::clear_bar();
        }
        if let Some(line) = self.endings.summary() {
            out::warn_over_bar(line);
        }
        match self.unwritten.take() {
            // A signal is the user's wish, which counts before what it leads to.
            Some(error) if self.stopped.is_none() => Err(out::unwritten(error)),
            Some(_) | None => Ok(self.code()),
        }
    }

    fn sources(&self) -> Vec<(Event, BorrowedFd<'_>, Interest)> {
        let mut sources = Vec::new();
        if !self.signals.are_over() {
            sources.push((Event::Signal, self.signals.as_fd(), Interest::Read));
        }
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
        let phase = match self.phase {
            Phase::Running | Phase::Killing => None,
            Phase::Grace(until) | Phase::Terminating(until) => Some(until),
        };
        [phase, self.output.deadline()].into_iter().flatten().min()
    }

    fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Signal => self.on_signal(now),
            Event::RankEnded(place) => self.on_rank_ended(place, now),
            Event::DaemonEnded(place) => self.on_daemon_ended(place),
            Event::Stdout(place) => {
                let mut lines = Vec::new();
                pass(&mut self.ranks[place].stdout, &mut lines);
                self.show(now, place, Stream::Stdout, &lines);
            }
            Event::Stderr(place) => {
                let mut lines = Vec::new();
                pass(&mut self.ranks[place].stderr, &mut lines);
                self.show(now, place, Stream::Stderr, &lines);
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

    fn show(&mut self, now: Instant, place: usize, stream: Stream, lines: &[Vec<u8>]) {
        let written = self.output.add(now, place as u32, stream, lines);
        self.check(written);
    }

    /// Ends the program when its output cannot be written: its result would be lost.
    fn check(&mut self, written: std::io::Result<()>) {
        if let Err(error) = written
            && self.unwritten.is_none()
        {
            self.unwritten = Some(error);
            self.terminate();
        }
    }

    /// Shows a line of the command itself, after the lines that the ranks have written before.
    fn say(&mut self, line: impl std::fmt::Display) {
        let written = self.output.flush();
        self.check(written);
        out::warn_over_bar(line);
    }

    /// The first wish to stop is passed on, the second kills.
    fn on_signal(&mut self, now: Instant) {
        let Some(signal) = self.signals.next() else { return };
        match self.stopped {
            Some((first, came)) if signal == first && now < came + ONE_WISH => {}
            None if signal != Signal::SIGKILL => {
                self.stopped = Some((signal, now));
                self.stop(signal);
            }
            Some(_) | None => {
                self.stopped.get_or_insert((signal, now));
                self.send(Signal::SIGKILL);
                self.phase = Phase::Killing;
            }
        }
    }

    fn stop(&mut self, signal: Signal) {
        let passed_on = self.signals.for_children(signal);
        self.send(passed_on);
        if signal == Signal::SIGINT {
            self.say("interrupted");
        } else {
            self.say(format_args!("interrupted by {signal}"));
        }
        // A user at a terminal can send a second signal; a script, a service manager or a closed terminal cannot.
        if passed_on != Signal::SIGINT {
            self.phase = Phase::Terminating(Instant::now() + TERM_GRACE);
        }
    }

    fn on_rank_ended(&mut self, place: usize, now: Instant) {
        let rank = &mut self.ranks[place];
        let Some(ending) = rank.running.try_end() else { return };
        if matches!(self.phase, Phase::Terminating(_) | Phase::Killing) {
            rank.ended_by_us = true;
        }
        let tell = !rank.ended_by_us && self.stopped.is_none();
        let (stderr, stdout) = (rank.stderr.take(), rank.stdout.take());
        let (mut errors, mut lines) = (Vec::new(), Vec::new());
        stderr.into_iter().for_each(|stream| stream.drain(&mut errors));
        stdout.into_iter().for_each(|stream| stream.drain(&mut lines));
        self.show(now, place, Stream::Stderr, &errors);
        self.show(now, place, Stream::Stdout, &lines);
        if tell {
            self.tell_of_end(place, ending);
        }
        if ending != Ending::Code(0) {
            self.begin_grace();
        }
    }

    fn tell_of_end(&mut self, place: usize, ending: Ending) {
        let taken_down = self.recorded.is_some_and(|(state, cluster)| state.is_taken_down(cluster));
        if ending != Ending::Code(0)
            && taken_down
            && let Some(line) = self.endings.cluster_taken_down()
        {
            self.say(line);
        }
        if let Some(line) = self.endings.add(place as u32, ending) {
            self.say(line);
        }
    }

    fn on_daemon_ended(&mut self, place: usize) {
        let Some(ending) = self.daemons[place].try_end() else { return };
        let line = format!("{} {ending}", self.daemons[place].name);
        self.say(line);
        self.begin_grace();
    }

    fn begin_grace(&mut self) {
        if matches!(self.phase, Phase::Running) {
            // Ranks that the user has interrupted write their pages back.
            let grace = if self.stopped.is_some() { TERM_GRACE } else { STOP_GRACE };
            self.phase = Phase::Grace(Instant::now() + grace);
            // A stopped rank cannot end by itself.
            self.ranks.iter_mut().for_each(|rank| rank.running.resume());
        }
    }

    fn look_at_phase(&mut self, now: Instant) {
        match self.phase {
            Phase::Grace(until) if until <= now => {
                self.say("the other ranks do not end by themselves; ending them");
                self.terminate();
            }
            Phase::Terminating(until) if until <= now => {
                self.send(Signal::SIGKILL);
                self.phase = Phase::Killing;
            }
            Phase::Running | Phase::Killing | Phase::Grace(_) | Phase::Terminating(_) => {}
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

    /// The worst code of the ranks that ended by themselves; of all, if none of those says anything. A rank
    /// that was interrupted and lost pages counts before the interrupt.
    fn code(&mut self) -> i32 {
        let lost = |rank: &mut Rank| rank.running.try_end() == Some(Ending::Code(PEER_DIED));
        if self.stopped.is_some() && self.ranks.iter_mut().any(lost) {
            return PEER_DIED;
        }
        let worst = |ranks: &mut [Rank], ours: bool| {
            let of = ranks.iter_mut().filter(|rank| rank.ended_by_us == ours);
            of.filter_map(|rank| rank.running.try_end()).map(Ending::code).max().unwrap_or(0)
        };
        let stopped = self.stopped.map_or(0, |(signal, _)| SIGNALLED + signal as i32);
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

/// Reads what a stream has; one that has ended is given up.
fn pass<R: Read>(stream: &mut Option<Lines<R>>, lines: &mut Vec<Vec<u8>>) {
    if stream.as_mut().is_some_and(|stream| stream.read(lines) == Flow::Ended) {
        *stream = None;
    }
}
