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

/// Deaths of each kind in the long run.
const LONG: usize = 100;
/// Clusters in which members die at one time in the long run: mostly it waits.
const CLUSTERS: usize = 10;
/// Deaths of each kind that are under way in one cluster.
const AT_A_TIME: usize = 2;

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
fn deaths(cluster: &mut Cluster, kinds: &[How], each: usize) -> Vec<(How, Duration)> {
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
    measured
}

/// All deaths of the long run, in many clusters at one time; those that take no time in one.
fn many_deaths(cluster: &mut Cluster, kinds: &[How]) -> Vec<(How, Duration)> {
    let (quick, slow): (Vec<How>, Vec<How>) = kinds.iter().partition(|how| **how == How::Killed);
    let times = |each: usize| LONG.div_ceil(each);
    let mut measured: Vec<_> = (0..times(CLUSTERS)).flat_map(|_| deaths(cluster, &quick, CLUSTERS)).collect();
    let of_a_cluster = || {
        let mut cluster = Cluster::start().expect("as the first one");
        let rounds = 0..times(CLUSTERS * AT_A_TIME);
        rounds.flat_map(|_| deaths(&mut cluster, &slow, AT_A_TIME)).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..CLUSTERS).map(|_| scope.spawn(of_a_cluster)).collect();
        measured.extend(lanes.into_iter().flat_map(|lane| lane.join().expect("no death is missed")));
    });
    measured
}

/// What was measured; fails if a death was known too late.
fn report(measured: &[(How, Duration)], is_busy: bool) {
    let machine = if is_busy { "busy" } else { "idle" };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load of this machine in the last 1, 5 and 15 minutes: {}", load.trim());
    for how in [How::Killed, How::CutOff, How::HostStopped, How::Stopped] {
        let times = measured.iter().filter(|(other, _)| *other == how).map(|(_, time)| *time);
        let mut times: Vec<Duration> = times.collect();
        times.sort();
        if let Some(worst) = times.last() {
            let (count, median, bound) = (times.len(), times[times.len() / 2], bound(how, is_busy));
            println!(
                "{how:?} on a machine that is {machine}: {count} deaths, median {median:.2?}, worst \
                 {worst:.2?} of {bound:?}"
            );
        }
    }
    assert!(measured.iter().all(|(how, time)| *time <= bound(*how, is_busy)), "too late");
}

/// The sample runs beside other tests, and leaves out what takes longest.
#[test]
fn a_true_death_is_known_to_all_members_in_time() {
    let _turn = turn();
    let Some(mut cluster) = Cluster::start() else { return };
    let all = [How::Killed, How::CutOff, How::HostStopped, How::Stopped];
    let is_long = system_tests::long();
    let measured = if is_long { many_deaths(&mut cluster, &all) } else { deaths(&mut cluster, &all[..3], 3) };
    report(&measured, !is_long);
}

#[test]
fn a_link_that_is_cut_on_a_busy_machine_is_known_to_all_members_in_time() {
    let _turn = turn();
    let Some(mut cluster) = Cluster::start() else { return };
    cluster.load(16);
    let kinds = [How::CutOff, How::HostStopped];
    let is_long = system_tests::long();
    let measured = if is_long { many_deaths(&mut cluster, &kinds) } else { deaths(&mut cluster, &kinds, 3) };
    report(&measured, true);
}
