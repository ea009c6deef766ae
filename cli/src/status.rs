//! `status`: what the members do now, what they have done, and the regions. Rates come from two readings.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pagemesh::NodeId;
use pagemesh::admin::{Admin, ClusterStatus, HostMemory, MemberStatus, NodeStatus, RunOnStatus, WaitTimes};
use pagemesh::membership::Kind;
use serde::Serialize;

use crate::args::Status;
use crate::regions::Region;
use crate::screen::Screen;
use crate::signals::Signals;
use crate::table::{bytes, count, micros, short, table};
use crate::trouble::Trouble;
use crate::wait::{Interest, wait};
use crate::{out, regions};

/// Between two pictures of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Between the two readings of a single picture.
const INTERVAL: Duration = Duration::from_millis(500);
/// Longest name of a member, and of a host, in a table of 80 columns.
const WHO_MAX: usize = 14;
const HOST_MAX: usize = 10;
/// Ids of nodes in one cell, and the longest reason why nobody keeps a node's memory.
const IDS_MAX: usize = 4;
const UNKEPT_MAX: usize = 36;

/// What a member did between two readings of its status.
#[derive(Serialize)]
struct Rates {
    /// Between the readings, by the member's own clock.
    seconds: f64,
    faults_per_s: f64,
    bytes_in_per_s: f64,
    bytes_out_per_s: f64,
    /// Share of that time that its threads waited for pages, locks and barriers: 1 is one thread all the time.
    waiting_for_pages: f64,
    waiting_for_locks: f64,
    waiting_at_barriers: f64,
    /// Half, and 99 of 100, of the waits for a page took less; a power of two. None: there were none.
    page_wait_p50_us: Option<u64>,
    page_wait_p99_us: Option<u64>,
}

/// The cluster and, by member, the rates.
#[derive(Serialize)]
struct Reading {
    epoch: u64,
    hosts: Vec<Host>,
    members: Vec<Member>,
    regions: Vec<Region>,
    deaths: Vec<String>,
}

/// A host, by its name, and what the members on it may take of its memory.
#[derive(Serialize)]
struct Host {
    host: String,
    #[serde(flatten)]
    memory: HostMemory,
}

#[derive(Serialize)]
struct Member {
    #[serde(flatten)]
    member: MemberStatus,
    /// None: it did not answer twice.
    rates: Option<Rates>,
}

/// Prints the cluster's state, once or until Ctrl-C.
pub(crate) fn show(state_dir: Option<PathBuf>, show: &Status) -> Result<i32, Trouble> {
    let signals = Signals::install()?;
    let admin = regions::connect(state_dir)?;
    let mut before = read(&admin)?;
    let mut screen = if show.watch && !show.json { Screen::open()? } else { None };
    let default = if show.watch { WATCH_INTERVAL } else { INTERVAL };
    let interval = show.interval.unwrap_or(default);
    // The first picture need not wait as long as the next.
    let mut until = Instant::now() + interval.min(INTERVAL);
    loop {
        if !interval.is_zero() && !wait(&[((), signals.as_fd(), Interest::Read)], Some(until))?.is_empty() {
            drop(screen);
            let signal = signals.next().map_or(0, |signal| signal as i32);
            // The user has seen enough; that is no failure of a watch.
            return if show.watch { Ok(0) } else { Err(Trouble::silent(crate::trouble::SIGNALLED + signal)) };
        }
        until = Instant::now() + interval;
        let now = if interval.is_zero() { before.clone() } else { read(&admin)? };
        let reading = compare(&before, now.clone());
        if show.json && show.watch {
            out::line(serde_json::to_string(&reading).map_err(|error| Trouble::failed(error.to_string()))?)?;
        } else if show.json {
            out::json(&reading)?;
        } else if let Some(screen) = &mut screen {
            screen.show(&describe(&reading))?;
        } else {
            out::text(&describe(&reading))?;
        }
        if !show.watch {
            return Ok(0);
        }
        before = now;
    }
}

/// The cluster with its members in the order of the tables: daemons, then ranks by program.
fn read(admin: &Admin) -> Result<ClusterStatus, Trouble> {
    let mut cluster = admin.cluster()?;
    cluster.members.sort_by_key(place);
    Ok(cluster)
}

/// A member's place in a table. Ids are those of the nodes, in the order in which they joined.
fn place(member: &MemberStatus) -> (u8, u64, u32) {
    match member.kind {
        Kind::Daemon => (0, 0, u32::from(member.id.0)),
        Kind::Rank { program, rank, .. } => (1, program, rank),
    }
}

fn compare(before: &ClusterStatus, now: ClusterStatus) -> Reading {
    // A node's id may be another's by now; its process is not.
    let earlier = |now: &MemberStatus| before.members.iter().find(|m| (m.id, m.pid) == (now.id, now.pid));
    let members = now.members.iter().map(|member| {
        let earlier = earlier(member).and_then(|earlier| earlier.status.as_ref());
        let rates = earlier.zip(member.status.as_ref()).and_then(|(earlier, now)| Rates::of(earlier, now));
        Member { member: member.clone(), rates }
    });
    let (epoch, deaths, members) = (now.epoch, now.deaths.clone(), members.collect());
    Reading { epoch, hosts: hosts_of(&now), members, regions: regions::of(now), deaths }
}

/// The hosts of the members that answer, by name. The coordinator comes first and knows all members; so of the
/// members of a host the first one counts.
fn hosts_of(cluster: &ClusterStatus) -> Vec<Host> {
    let mut hosts = BTreeMap::new();
    for status in cluster.members.iter().flat_map(|member| &member.status) {
        hosts.entry(&status.host).or_insert(&status.host_memory);
    }
    hosts.into_iter().map(|(host, memory)| Host { host: host.clone(), memory: memory.clone() }).collect()
}

impl Rates {
    /// None if no time lies between the two.
    fn of(before: &NodeStatus, now: &NodeStatus) -> Option<Rates> {
        let seconds = now.uptime_us.saturating_sub(before.uptime_us) as f64 / 1e6;
        if seconds <= 0.0 {
            return None;
        }
        let per_s = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        let share = |before: &WaitTimes, now: &WaitTimes| now.since(before).total_ns as f64 / 1e9 / seconds;
        let pages = now.waits.pages.since(&before.waits.pages);
        Some(Rates {
            seconds,
            faults_per_s: per_s(faults(before), faults(now)),
            bytes_in_per_s: per_s(before.socket.bytes_in, now.socket.bytes_in),
            bytes_out_per_s: per_s(before.socket.bytes_out, now.socket.bytes_out),
            waiting_for_pages: share(&before.waits.pages, &now.waits.pages),
            waiting_for_locks: share(&before.waits.locks, &now.waits.locks),
            waiting_at_barriers: share(&before.waits.barriers, &now.waits.barriers),
            page_wait_p50_us: pages.below_us(0.5),
            page_wait_p99_us: pages.below_us(0.99),
        })
    }
}

fn faults(status: &NodeStatus) -> u64 {
    status.read_faults + status.write_faults
}

fn describe(reading: &Reading) -> String {
    let members = &reading.members;
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let mut text = format!(
        "{} node{} on {} host{}, view {}\n\n",
        members.len(),
        plural(members.len()),
        reading.hosts.len(),
        plural(reading.hosts.len()),
        reading.epoch
    );
    text.push_str("Now, a second; shares of the time that threads wait for pages, locks, barriers\n");
    let now = ["NODE", "HOST", "FAULTS", "PAGES", "LOCKS", "BARRIERS", "IN", "OUT"];
    text.push_str(&table(&now, &members.iter().map(row_of_rates).collect::<Vec<_>>()));
    text.push_str("\nSince the start\n");
    let totals = ["NODE", "PID", "FAULTS", "HALF WITHIN", "99% WITHIN", "PAGES HELD"];
    text.push_str(&table(&totals, &members.iter().map(row_of_totals).collect::<Vec<_>>()));
    text.push_str("\nNetwork\n");
    let network = ["NODE", "ADDRESS", "ROUND TRIP", "SENT AGAIN", "DROPPED", "SESSIONS"];
    text.push_str(&table(&network, &members.iter().map(row_of_network).collect::<Vec<_>>()));
    members.iter().for_each(|member| text.push_str(&reasons(&member.member)));
    text.push_str("\nMemory: the limits of a host's nodes together, and what the host has\n");
    let memory = ["HOST", "NODES", "LIMITS", "MEMORY"];
    text.push_str(&table(&memory, &reading.hosts.iter().map(row_of_memory).collect::<Vec<_>>()));
    text.push_str("\nProcesses that hold a node's memory beside its own, and the nodes that it holds\n");
    let keeping = ["NODE", "KEPT BY", "KEEPS"];
    text.push_str(&table(&keeping, &members.iter().map(row_of_keeping).collect::<Vec<_>>()));
    text.push_str(&run_on(members.iter().map(|member| &member.member)));
    text.push('\n');
    if reading.regions.is_empty() {
        text.push_str("no regions\n");
    } else {
        text.push_str(&regions::show(&reading.regions));
    }
    for death in &reading.deaths {
        text.push_str(&format!("\ndied: {death}"));
    }
    let lost: u64 = members.iter().flat_map(|m| &m.member.status).map(|s| s.lost_page_count).sum();
    if lost > 0 {
        text.push_str(&format!("\n{lost} pages were lost with nodes that died\n"));
    }
    text
}

/// A member's name in a few characters: whatever is cut off, its rank stays.
fn who(member: &MemberStatus) -> String {
    match member.kind {
        Kind::Daemon => format!("daemon {}", member.id.0),
        Kind::Rank { rank, ranks, .. } => {
            let place = format!(" {rank}/{ranks}");
            short(&member.name, WHO_MAX.saturating_sub(place.len())) + &place
        }
    }
}

/// A row of a table; dashes for what is not known.
fn row<const N: usize>(member: &MemberStatus, known: Option<[String; N]>) -> Vec<String> {
    let mut row = vec![who(member)];
    match known {
        Some(cells) => row.extend(cells),
        None => row.extend(std::iter::repeat_n("-".to_owned(), N)),
    }
    row
}

fn row_of_rates(Member { member, rates }: &Member) -> Vec<String> {
    let percent = |share: f64| format!("{:.0}%", share * 100.0);
    let cells = member.status.as_ref().map(|status| {
        let host = short(&status.host, HOST_MAX);
        let rate = |value: &dyn Fn(&Rates) -> String| rates.as_ref().map_or_else(|| "-".to_owned(), value);
        [
            host,
            rate(&|rates| count(rates.faults_per_s)),
            rate(&|rates| percent(rates.waiting_for_pages)),
            rate(&|rates| percent(rates.waiting_for_locks)),
            rate(&|rates| percent(rates.waiting_at_barriers)),
            rate(&|rates| bytes(rates.bytes_in_per_s as u64)),
            rate(&|rates| bytes(rates.bytes_out_per_s as u64)),
        ]
    });
    row(member, cells)
}

fn row_of_totals(Member { member, .. }: &Member) -> Vec<String> {
    let cells = member.status.as_ref().map(|status| {
        let within = |share| status.waits.pages.below_us(share).map_or_else(|| "-".to_owned(), micros);
        [
            member.pid.to_string(),
            count(faults(status) as f64),
            within(0.5),
            within(0.99),
            format!("{}/{}", status.resident_pages, status.resident_limit),
        ]
    });
    row(member, cells)
}

fn row_of_network(Member { member, .. }: &Member) -> Vec<String> {
    let cells = member.status.as_ref().map(|status| {
        [
            member.addr.to_string(),
            round_trip(status),
            count(status.net.fragments_retransmitted as f64),
            count(status.socket_drops as f64),
            ciphers(status),
        ]
    });
    row(member, cells)
}

/// Why a member has sent bytes again, and what it has dropped or refused: nothing if it has not.
fn reasons(member: &MemberStatus) -> String {
    let Some(NodeStatus { net, calls, socket, .. }) = &member.status else { return String::new() };
    let list = |reasons: &[(&str, u64)]| {
        let some = reasons.iter().filter(|(_, n)| *n > 0);
        some.map(|(why, n)| format!("{} {why}", count(*n as f64))).collect::<Vec<_>>().join(", ")
    };
    let again = list(&[
        ("overtaken", net.lost_overtaken),
        ("late", net.lost_late),
        ("forgotten", net.lost_forgotten),
        ("on a timeout", net.resent_on_timeout),
        ("in vain", net.resent_in_vain),
        ("hellos", net.hellos_resent),
        ("welcomes", net.welcomes_resent),
    ]);
    let refused = list(
        &[
            &net.refusals()[..],
            &[("queue full", net.sends_refused)],
            &[("call twice", calls.duplicates), ("busy", calls.busy), ("unknown call", calls.unknown)],
            &[("malformed call", calls.malformed), ("call in vain", calls.not_run)],
            &[("answer given up", calls.dropped), ("violation by a call", calls.violations)],
            &[("error of the socket", socket.send_errors + socket.receive_errors)],
        ]
        .concat(),
    );
    let line = |what: &str, list: String| match list.is_empty() {
        true => String::new(),
        false => format!("{}: {what}: {list}\n", who(member)),
    };
    line("packets sent again", again) + &line("dropped or refused", refused)
}

fn row_of_memory(Host { host, memory }: &Host) -> Vec<String> {
    let total = memory.memory.map_or_else(|| "-".to_owned(), bytes);
    vec![short(host, WHO_MAX), memory.nodes.to_string(), bytes(memory.memory_max), total]
}

fn row_of_keeping(Member { member, .. }: &Member) -> Vec<String> {
    let cells = member.status.as_ref().map(|status| {
        let keeping = &status.keeping;
        let kept_by = match &keeping.unkept {
            Some(why) if keeping.kept_by.is_empty() => format!("nobody: {}", short(why, UNKEPT_MAX)),
            Some(_) | None => ids(&keeping.kept_by),
        };
        [kept_by, ids(&keeping.keeps)]
    });
    row(member, cells)
}

/// A line for each node whose process has ended: which member's process runs it on.
fn run_on<'a>(members: impl Iterator<Item = &'a MemberStatus> + Clone) -> String {
    let runs = |by: NodeId, node: NodeId| {
        let status = members.clone().find(|member| member.id == by)?.status.as_ref()?;
        status.keeping.runs_on.iter().find(|run| run.node == node)
    };
    let line = |member: &MemberStatus| {
        let (node, by) = (member.id, member.runner?);
        Some(match runs(by, node) {
            Some(RunOnStatus { resident_bytes, kept_by, .. }) => {
                format!("{node} is run on by {by}: {}, kept by {}\n", bytes(*resident_bytes), ids(kept_by))
            }
            None => format!("{node} is to be run on by {by}\n"),
        })
    };
    members.clone().filter_map(line).collect()
}

/// Nodes by their ids; of many their number.
fn ids(nodes: &[NodeId]) -> String {
    match nodes {
        [] => "-".to_owned(),
        few if few.len() <= IDS_MAX => {
            few.iter().map(|node| node.0.to_string()).collect::<Vec<_>>().join(", ")
        }
        many => format!("{} nodes", many.len()),
    }
}

/// The ciphers of a node's sessions, each kind once.
fn ciphers(status: &NodeStatus) -> String {
    let mut used: Vec<String> = status.peers.iter().map(|peer| peer.cipher.to_string()).collect();
    used.sort_unstable();
    used.dedup();
    if used.is_empty() { "-".to_owned() } else { used.join(" ") }
}

/// The mean over the sessions of a node.
fn round_trip(status: &NodeStatus) -> String {
    let sessions = status.peers.len();
    if sessions == 0 {
        return "-".to_owned();
    }
    micros((status.peers.iter().map(|peer| peer.rtt_us).sum::<f64>() / sessions as f64) as u64)
}

#[cfg(test)]
mod tests {
    use pagemesh::admin::KeepStatus;

    use super::*;

    #[test]
    fn members_stand_in_the_order_of_their_ranks_whenever_they_joined() {
        let member = |(id, kind)| MemberStatus {
            id: NodeId(id),
            kind,
            name: String::new(),
            addr: ([127, 0, 0, 1], 1).into(),
            pid: 1,
            memory_max: 0,
            runner: None,
            status: None,
        };
        let rank = |program, rank| Kind::Rank { program, rank, ranks: 2 };
        let joined =
            [(0, Kind::Daemon), (1, rank(9, 1)), (2, Kind::Daemon), (3, rank(7, 0)), (4, rank(9, 0))];
        let mut members = joined.map(member);
        members.sort_by_key(place);
        assert_eq!(members.map(|member| member.id.0), [0, 2, 3, 4, 1]);
    }

    #[test]
    fn what_a_member_sent_again_or_refused_stands_with_its_reasons() {
        let member = |net| MemberStatus {
            id: NodeId(0),
            kind: Kind::Daemon,
            name: String::new(),
            addr: ([127, 0, 0, 1], 1).into(),
            pid: 1,
            memory_max: 0,
            runner: None,
            status: Some(NodeStatus { net, ..NodeStatus::default() }),
        };
        let net = pagemesh::net::Counters {
            lost_overtaken: 3,
            resent_on_timeout: 2,
            resent_in_vain: 1,
            bad_tag: 4,
            sends_refused: 5,
            ..Default::default()
        };
        assert_eq!(
            reasons(&member(net)),
            "daemon 0: packets sent again: 3 overtaken, 2 on a timeout, 1 in vain\n\
             daemon 0: dropped or refused: 4 bad tag, 5 queue full\n"
        );
        assert_eq!(reasons(&member(Default::default())), "");
    }

    #[test]
    fn a_node_that_is_run_on_has_a_line_with_its_runner_and_its_memory() {
        let run = RunOnStatus { node: NodeId(3), resident_bytes: 3 << 20, kept_by: vec![NodeId(2)] };
        let keeping = KeepStatus { runs_on: vec![run], ..KeepStatus::default() };
        let member = |id, runner, status| MemberStatus {
            id: NodeId(id),
            kind: Kind::Daemon,
            name: String::new(),
            addr: ([127, 0, 0, 1], 1).into(),
            pid: 1,
            memory_max: 0,
            runner,
            status,
        };
        let runner = member(0, None, Some(NodeStatus { keeping, ..NodeStatus::default() }));
        let ended = member(3, Some(NodeId(0)), None);
        let members = [runner, ended, member(4, Some(NodeId(0)), None)];
        let lines = "node 3 is run on by node 0: 3.0 MiB, kept by 2\nnode 4 is to be run on by node 0\n";
        assert_eq!(run_on(members.iter()), lines);
    }
}
