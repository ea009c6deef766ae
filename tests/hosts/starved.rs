//! Nothing takes a healthy member for dead: 16 threads compute on the machine, and each thread of each daemon in turn
//! gets no core at all for some seconds, while programs go on; so does the thread that receives for a rank, and then all members at once.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use system_tests::rig::until;

use crate::cluster::{Cluster, LIMIT, turn};
use crate::hold::{self, Held, Way};

/// How long a thread of a daemon is held: a daemon that does not run for so long is only late.
const HELD_FOR: Duration = Duration::from_secs(4);
/// How long the receiving thread of a rank is held: time for more than one verdict, if nobody answered for it.
const RECEIVER_HELD_FOR: Duration = Duration::from_secs(7);
/// How long a page may take that this rank owns: 260 ms, and what the machine adds.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// The thread that receives for a daemon.
const PROGRESS: &str = "pm-progress";

/// A program of two ranks after another one. A wrong page fails the test.
struct Programs {
    running: Vec<usize>,
    ended: usize,
}

impl Programs {
    fn start(cluster: &mut Cluster) -> Programs {
        Programs { running: cluster.program(&[1, 2], "worker 10"), ended: 0 }
    }

    /// Starts the next one if this one has come to its end.
    fn go_on(&mut self, cluster: &mut Cluster) {
        for who in self.running.clone() {
            if let Some((_, done)) = cluster.expect_within(who, "done", Duration::from_millis(1)) {
                assert_eq!(done, "done 0", "pages that are wrong");
                cluster.end([who]);
                self.running.retain(|other| *other != who);
            }
        }
        if self.running.is_empty() {
            self.ended += 1;
            self.running = cluster.program(&[1, 2], "worker 10");
        }
    }
}

/// While a thread is held.
fn pass(cluster: &mut Cluster, programs: &mut Programs, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end && cluster.false_deaths().is_empty() {
        cluster.listen_for(Duration::from_millis(50));
        programs.go_on(cluster);
    }
}

/// Holds threads of daemons in turn until `until`; how many.
fn hold_daemons(cluster: &mut Cluster, programs: &mut Programs, ways: &[Way], until: Instant) -> usize {
    let mut held = 0;
    for round in 0.. {
        for &way in ways {
            for daemon in 0..3 {
                let mut threads = hold::threads(cluster.member(daemon).pid);
                // A short run comes to the first one only.
                threads.sort_by_key(|thread| hold::name(*thread) != PROGRESS);
                let thread = threads[round % threads.len()];
                if Instant::now() >= until || !cluster.false_deaths().is_empty() {
                    return held;
                }
                let what = hold::name(thread);
                let Some(holds) = Held::new(thread, way) else { continue };
                pass(cluster, programs, HELD_FOR);
                drop(holds);
                held += 1;
                if !cluster.false_deaths().is_empty() {
                    println!("while {what} of daemon {daemon} was held ({way:?})");
                }
            }
        }
    }
    held
}

/// A rank that waits at a barrier receives in the thread that waits. That one is held, and another one answers. Signs of
/// life are no proof of that: the thread that looks after the timers gives them, and they are all that a rank gives that
/// has no receiver. So a page is asked of it. Ends early when somebody is called dead.
fn hold_a_receiver(cluster: &mut Cluster) {
    let program = cluster.program(&[1, 2], "waiter");
    let told: Option<Vec<String>> =
        program.iter().map(|who| Some(cluster.expect_within(*who, "thread", LIMIT)?.1)).collect();
    assert!(told.is_some() || !cluster.false_deaths().is_empty(), "no rank says its thread");
    if let Some(told) = told {
        let process = cluster.member(program[1]).pid;
        let thread = hold::inner_thread(process, told[1].split(' ').nth(1).expect("a number"));
        until("it waits for datagrams", || hold::waits_for_datagrams(process, thread));
        let held = Held::new(thread, Way::Trace);
        let until = Instant::now() + RECEIVER_HELD_FOR;
        cluster.tell(program[0], "read");
        match cluster.expect_within(program[0], "page", ANSWERED_WITHIN) {
            Some((_, read)) => assert_eq!(read, "page 5", "a page that is wrong"),
            None => cluster.complain(format!("rank 1 has given nothing away for {ANSWERED_WITHIN:?}")),
        }
        cluster.listen_for(until.saturating_duration_since(Instant::now()));
        drop(held);
        cluster.tell(program[0], "go");
        let passed = program.iter().all(|who| cluster.expect_within(*who, "passed", LIMIT).is_some());
        assert!(passed || !cluster.false_deaths().is_empty(), "no rank passes the barrier");
    }
    cluster.end(program);
}

/// The machine is suspended, and when it goes on the node that judges others runs for a moment before all others do.
/// Nobody heard anything in that time, and nobody listened.
fn suspend_all(cluster: &mut Cluster) {
    cluster.signal_all(Signal::SIGSTOP);
    cluster.listen_for(Duration::from_millis(3_600));
    cluster.member(0).signal(Signal::SIGCONT);
    cluster.listen_for(Duration::from_millis(300));
    cluster.member(0).signal(Signal::SIGSTOP);
    cluster.listen_for(Duration::from_millis(2_600));
    cluster.member(0).signal(Signal::SIGCONT);
    cluster.listen_for(Duration::from_millis(300));
    cluster.signal_all(Signal::SIGCONT);
    cluster.listen_for(Duration::from_millis(500));
}

/// All of it, for so long; how many threads of daemons were held, and how many programs ended meanwhile. Ends early when
/// somebody is called dead.
fn starve(cluster: &mut Cluster, time: Duration) -> (usize, usize) {
    let until = Instant::now() + time;
    let possible = [Way::Trace, Way::Freeze].into_iter().filter(|way| hold::is_possible(*way));
    let ways: Vec<Way> = possible.collect();
    cluster.load(16);
    suspend_all(cluster);
    hold_a_receiver(cluster);
    let mut programs = Programs::start(cluster);
    let held = hold_daemons(cluster, &mut programs, &ways, until);
    println!("held {held} threads of daemons, {:?} each, and ran {} programs", HELD_FOR, programs.ended);
    (held, programs.ended)
}

#[test]
fn no_healthy_member_is_called_dead_on_a_machine_that_starves_it() {
    let _turn = turn();
    let Some(mut cluster) = Cluster::start() else { return };
    let time = Duration::from_secs(if system_tests::long() { 600 } else { 30 });
    let (held, ended) = starve(&mut cluster, time);
    if cluster.false_deaths().is_empty() {
        assert!(held > 0, "threads are held");
        // The other threads of a daemon do for one that is held what programs need: they go on.
        assert!(ended > held, "programs stand still while a thread of a daemon is held: {ended} have ended");
    }
    cluster.check();
}

/// The check on the test above: each of these rules is what keeps somebody alive there, or of use.
#[cfg(feature = "planted")]
#[test]
fn a_rule_that_is_broken_kills_a_healthy_member_on_a_machine_that_starves_it() {
    for rule in ["DetectorCountsTimeNotListened", "StarvedReceiverKeepsTheSocket"] {
        let Some(mut cluster) = Cluster::start_with(vec![("PLANTED_RULE", rule.to_owned())]) else { return };
        starve(&mut cluster, Duration::from_secs(30));
        let deaths = cluster.false_deaths();
        assert!(!deaths.is_empty(), "{rule} kills nobody");
        println!("{rule}: {deaths:#?}");
    }
}
