//! True deaths are known to all members in time: of a process that was killed, of one that was stopped, of a host that
//! stops, of a link that was cut.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::cluster::{Cluster, turn};

/// How a member dies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum How {
    /// SIGKILL; its host has a daemon.
    Killed,
    /// The link of its host is taken down.
    CutOff,
    /// All processes of its host stop.
    HostStopped,
    /// SIGSTOP; it is on the coordinator's host, whose kernel says that it lives.
    Stopped,
}

/// Deaths of each kind that are under way at one time.
const AT_A_TIME: usize = 10;

/// How soon all members must know of a death on an idle machine, and on one with 16 threads that compute.
fn bound(how: How, is_busy: bool) -> Duration {
    Duration::from_millis(match (how, is_busy) {
        (How::Killed, false) => 500,
        (How::CutOff | How::HostStopped, false) => 6_000,
        (How::Stopped, false) => 35_000,
        (How::Killed, true) => 3_000,
        (How::CutOff | How::HostStopped, true) => 12_000,
        (How::Stopped, true) => 41_000,
    })
}

/// Starts one victim for each death, lets them die, and returns how long each death took to be known.
fn deaths(cluster: &mut Cluster, kinds: &[How], each: usize, is_busy: bool) -> Vec<(How, Duration)> {
    let mut victims = Vec::new();
    for &how in kinds {
        for number in 0..each {
            let host = match how {
                How::Killed => [0, 2][number % 2],
                How::Stopped => 0,
                How::CutOff | How::HostStopped => cluster.add_host(),
            };
            victims.push((how, host, cluster.rank(host, "idle")));
        }
    }
    let mut measured = Vec::new();
    // One after the other; the rest at one time, since each takes long.
    for &(how, _, victim) in victims.iter().filter(|(how, ..)| *how == How::Killed) {
        cluster.doom(victim, |cluster| cluster.member(victim).signal(Signal::SIGKILL));
        let limit = Duration::from_secs(60);
        let time = cluster.told_of(victim, limit).expect("a killed process is told of");
        measured.push((how, time));
    }
    let slow = || victims.iter().filter(|(how, ..)| *how != How::Killed);
    for &(how, host, victim) in slow() {
        cluster.doom(victim, |cluster| match how {
            How::CutOff => cluster.hosts[host].cut(),
            How::HostStopped => cluster.hosts[host].signal(Signal::SIGSTOP),
            How::Killed | How::Stopped => cluster.member(victim).signal(Signal::SIGSTOP),
        });
    }
    for &(how, _, victim) in slow() {
        let limit = Duration::from_secs(60);
        let told = cluster.told_of(victim, limit);
        measured.push((how, told.unwrap_or_else(|| panic!("{how:?} is not known to all within {limit:?}"))));
    }
    cluster.end(victims.into_iter().map(|(.., victim)| victim));
    cluster.remove_hosts();
    cluster.check();
    assert!(measured.iter().all(|(how, time)| *time <= bound(*how, is_busy)), "too late: {measured:?}");
    measured
}

fn report(measured: &[(How, Duration)], is_busy: bool) {
    let machine = if is_busy { "busy" } else { "idle" };
    for how in [How::Killed, How::CutOff, How::HostStopped, How::Stopped] {
        let times = measured.iter().filter(|(other, _)| *other == how).map(|(_, time)| *time);
        if let Some(worst) = times.clone().max() {
            let (count, bound) = (times.count(), bound(how, is_busy));
            println!(
                "{how:?} on a machine that is {machine}: {count} deaths, worst {worst:.2?} of {bound:?}"
            );
        }
    }
}

/// The sample runs beside other tests, and leaves out what takes longest.
#[test]
fn a_true_death_is_known_to_all_members_in_time() {
    let _turn = turn();
    let Some(mut cluster) = Cluster::start() else { return };
    let mut kinds = vec![How::Killed, How::CutOff, How::HostStopped];
    if system_tests::long() {
        kinds.push(How::Stopped);
    }
    let (times, each) = if system_tests::long() { (100 / AT_A_TIME, AT_A_TIME) } else { (1, 3) };
    let is_busy = !system_tests::long();
    let measured: Vec<_> = (0..times).flat_map(|_| deaths(&mut cluster, &kinds, each, is_busy)).collect();
    report(&measured, is_busy);
}

#[test]
fn a_link_that_is_cut_on_a_busy_machine_is_known_to_all_members_in_time() {
    let _turn = turn();
    let Some(mut cluster) = Cluster::start() else { return };
    cluster.load(16);
    let kinds = [How::CutOff, How::HostStopped];
    let (times, each) = if system_tests::long() { (100 / AT_A_TIME, AT_A_TIME) } else { (1, 3) };
    let measured: Vec<_> = (0..times).flat_map(|_| deaths(&mut cluster, &kinds, each, true)).collect();
    report(&measured, true);
}
