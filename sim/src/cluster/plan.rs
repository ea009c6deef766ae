//! What a seed stands for: hosts, processes, the network, and what befalls them when.

use fastrand::Rng;
use pagemesh::page::{Span, Time};

/// The scenario of one seed.
pub(crate) struct Plan {
    /// The coordinator is the first.
    pub(super) processes: Vec<Spec>,
    pub(super) incidents: Vec<Incident>,
    /// Longest that a datagram is under way.
    pub(super) delay: Span,
    /// Longest that a message in ten takes instead, because it was lost and sent again.
    pub(super) tail: Span,
    /// Part of the datagrams between hosts that is lost.
    pub(super) loss: f64,
    /// A member that says what is not true.
    pub(super) liar: Option<usize>,
    /// A process that is stopped by a debugger when it does not run.
    pub(super) traced: Option<usize>,
    /// Nothing befalls anybody but one process that is mute, and is no home.
    pub(super) only_mute: bool,
    /// From then on nothing befalls anybody.
    pub(super) ends: Time,
    /// How long the cluster may take to come to rest afterwards.
    pub(super) settles: Span,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    pub(super) host: usize,
    /// Which rank; none: a daemon.
    pub(super) rank: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Incident {
    pub(super) at: Time,
    pub(super) lasts: Span,
    pub(super) fate: Fate,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Start(usize),
    Crash(usize),
    Leave(usize),
    /// Asks for a region by one of a few names.
    Alloc(usize, u32),
    Remove(usize, u32),
    /// Opens a reference into some region.
    Open(usize),
    /// Answers pings, and takes in nothing about regions.
    Mute(usize),
    Starve(usize, Starved),
    /// From one host to another, one way.
    Cut {
        from: usize,
        to: usize,
        loss: f64,
    },
}

/// Who gets no core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Starved {
    Process,
    /// Its timers run, and its datagrams stay in the socket.
    Receiver,
}

const SECOND: u64 = 1_000_000_000;

impl Plan {
    pub(crate) fn draw(rng: &mut Rng) -> Plan {
        let hosts = rng.usize(1..=4);
        let count = rng.usize(2..=6);
        // Daemons first, as a cluster starts, or in any order.
        let daemons = rng.usize(0..=count.min(3));
        let in_order = rng.bool();
        let processes: Vec<Spec> = (0..count)
            .map(|index| {
                let is_daemon = if in_order { index < daemons } else { rng.bool() };
                Spec { host: rng.usize(..hosts), rank: (!is_daemon).then_some(index as u32) }
            })
            .collect();
        let lasts = rng.u64(4..=25);
        let ends = Time((1 + lasts) * SECOND);
        let mut incidents = Vec::new();
        for process in 1..count {
            // Most at the beginning, some in the middle of trouble.
            let window = if rng.u32(..3) > 0 { SECOND / 4 } else { lasts * SECOND };
            incidents.push((rng.u64(..window), Span(0), Fate::Start(process)));
        }
        // Processes have their places in the order in which they start.
        incidents.sort_by_key(|incident| incident.0);
        let mut starts = 0;
        for incident in &mut incidents {
            starts += 1;
            incident.2 = Fate::Start(starts);
        }
        for _ in 0..rng.usize(0..=5) {
            incidents.push(draw_trouble(hosts, count, lasts, rng));
        }
        if rng.u32(..3) == 0 && count > 2 {
            let process = rng.usize(1..count);
            incidents.push((rng.u64(..lasts * SECOND), Span(0), Fate::Leave(process)));
        }
        let traced = (rng.u32(..10) == 0).then(|| rng.usize(..count));
        if let Some(process) = traced {
            let fate = Fate::Starve(process, Starved::Process);
            incidents.push((rng.u64(..lasts * SECOND), Span(rng.u64(..40) * SECOND), fate));
        }
        // Of numbers of its own: what else befalls a seed does not depend on its regions.
        let mut own = Rng::with_seed(rng.clone().u64(..));
        let mute = draw_regions(&processes, lasts, &mut own, &mut incidents);
        let only_mute = mute && own.bool();
        if only_mute {
            incidents.retain(|(_, _, fate)| !fate.is_trouble());
        }
        let fails_to_join =
            own.u32(..4) == 0 && !only_mute && draw_failed_join(&processes, &mut own, &mut incidents);
        let begun = Time(SECOND);
        let incidents = incidents.into_iter();
        let incidents = incidents.map(|(at, lasts, fate)| Incident { at: begun + Span(at), lasts, fate });
        let incidents: Vec<Incident> = incidents.collect();
        let last = incidents.iter().map(|incident| incident.at + incident.lasts).max().unwrap_or(ends);
        Plan {
            processes,
            incidents,
            delay: [Span::from_us(50), Span::from_ms(2), Span::from_ms(40)][rng.usize(..3)],
            tail: [Span(0), Span::from_ms(2_500)][rng.usize(..2)],
            loss: [0.0, 0.01, 0.2][rng.usize(..3)],
            only_mute,
            liar: (rng.u32(..5) == 0 && count > 2 && !only_mute && !fails_to_join)
                .then(|| rng.usize(1..count)),
            traced: traced.filter(|_| !only_mute && !fails_to_join),
            ends: ends.max(last),
            settles: Span::from_ms(60_000),
        }
    }
}

impl Fate {
    /// Whether it may keep processes from answering each other.
    fn is_trouble(&self) -> bool {
        match self {
            Fate::Crash(_) | Fate::Starve(..) | Fate::Cut { .. } => true,
            Fate::Start(_)
            | Fate::Leave(_)
            | Fate::Alloc(..)
            | Fate::Remove(..)
            | Fate::Open(_)
            | Fate::Mute(_) => false,
        }
    }
}

/// What the processes do about regions; true if one that is no home takes in nothing about them for a while.
fn draw_regions(
    processes: &[Spec],
    lasts: u64,
    rng: &mut Rng,
    incidents: &mut Vec<(u64, Span, Fate)>,
) -> bool {
    let count = processes.len();
    for _ in 0..rng.usize(0..=6) {
        let (process, name) = (rng.usize(..count), rng.u32(..super::regions::NAMES));
        let fate = match rng.u32(..6) {
            0 => Fate::Remove(process, name),
            1 | 2 => Fate::Open(process),
            _ => Fate::Alloc(process, name),
        };
        incidents.push((rng.u64(..lasts * SECOND), Span(0), fate));
    }
    let process = rng.usize(..count);
    // Where the coordinator is a daemon no rank is a home.
    let mute = rng.u32(..4) == 0 && processes[0].rank.is_none() && processes[process].rank.is_some();
    if mute {
        let span = Span(rng.u64(2 * SECOND..40 * SECOND));
        incidents.push((rng.u64(..lasts * SECOND), span, Fate::Mute(process)));
    }
    mute
}

/// Who joins reaches all members but those of one host, for a while; false if there is no such host.
fn draw_failed_join(processes: &[Spec], rng: &mut Rng, incidents: &mut Vec<(u64, Span, Fate)>) -> bool {
    let process = rng.usize(1..processes.len());
    let to = processes[process].host;
    let earlier = processes[1..process].iter().map(|spec| spec.host);
    let hosts: Vec<usize> = earlier.filter(|&host| host != to && host != processes[0].host).collect();
    let starts = |&(_, _, fate): &(u64, Span, Fate)| matches!(fate, Fate::Start(at) if at == process);
    let Some(starts) = incidents.iter().find(|incident| starts(incident)).map(|incident| incident.0) else {
        return false;
    };
    if hosts.is_empty() || to == processes[0].host {
        return false;
    }
    // Who does not run excuses much, and so do two failures at one time.
    incidents.retain(|(_, _, fate)| !matches!(fate, Fate::Starve(..) | Fate::Cut { .. }));
    let from = hosts[rng.usize(..hosts.len())];
    let at = (starts + rng.u64(..SECOND)).saturating_sub(SECOND / 2);
    let lasts = Span(rng.u64(9 * SECOND..25 * SECOND));
    incidents.push((at, lasts, Fate::Cut { from, to, loss: 1.0 }));
    if rng.bool() {
        incidents.push((at, lasts, Fate::Cut { from: to, to: from, loss: 1.0 }));
    }
    true
}

fn draw_trouble(hosts: usize, count: usize, lasts: u64, rng: &mut Rng) -> (u64, Span, Fate) {
    let at = rng.u64(..lasts * SECOND);
    let process = rng.usize(..count);
    let span = |rng: &mut Rng| match rng.u32(..4) {
        0 => Span(rng.u64(..2 * SECOND)),
        1 => Span(rng.u64(2 * SECOND..4 * SECOND)),
        2 => Span(rng.u64(4 * SECOND..12 * SECOND)),
        _ => Span(rng.u64(12 * SECOND..30 * SECOND)),
    };
    match rng.u32(..8) {
        // The coordinator too, now and then.
        0 => (at, Span(0), Fate::Crash(if rng.u32(..4) == 0 { process } else { rng.usize(1..count) })),
        1..=3 => (at, span(rng), Fate::Starve(process, Starved::Process)),
        4 => (at, span(rng), Fate::Starve(process, Starved::Receiver)),
        _ => {
            let (from, to) = (rng.usize(..hosts), rng.usize(..hosts));
            let loss = [1.0, 1.0, 0.9, 0.5][rng.usize(..4)];
            (at, span(rng), Fate::Cut { from, to, loss })
        }
    }
}
