//! What a seed stands for: processes on hosts, their programs, the network, and what befalls them when.

use fastrand::Rng;
use pagemesh::coherence::{NodeSet, Placement};
use pagemesh::machine::{EarlyBounds, Rules};
use pagemesh::page::{NodeId, Span, Time};

use super::clients::ClientSpec;
use crate::plan::{Net, Plan as Memory};

/// The program whose one rank reads all pages in the end.
pub(super) const AUDITOR: u64 = 99;

/// The scenario of one seed.
pub(crate) struct Plan {
    /// The first founds the cluster.
    pub(super) processes: Vec<Spec>,
    /// Processes that call, and are no members.
    pub(super) clients: Vec<ClientSpec>,
    /// So many of them, the first ones, are daemons. None: the ranks hold the memory.
    pub(super) daemons: usize,
    pub(super) incidents: Vec<Incident>,
    pub(super) net: Net,
    /// One datagram in so many is lost, or damaged.
    pub(super) loss_one_in: Option<u32>,
    pub(super) damage_one_in: Option<u32>,
    /// Bytes that may wait for one peer.
    pub(super) queue_max: usize,
    /// Datagrams that a socket holds.
    pub(super) socket_max: usize,
    /// Whether a process may be taken for dead that is not: links are cut, or it gets no core for long.
    pub(super) is_rough: bool,
    pub(super) hostile: bool,
    /// The first process that goes on with its work before a session that it has begun has come up hears nothing of
    /// its peer for so long: the peer has the session already.
    pub(super) mutes: Option<Span>,
    /// The first process that asks to leave gets no core for so long, and its socket is full meanwhile.
    pub(super) faints: Option<Span>,
    /// What a node keeps that comes too early.
    pub(super) early: EarlyBounds,
    /// Ended processes' memory is kept, and run on by others.
    pub(super) runs_on: bool,
    /// Ranks come to a barrier of their program, unless they leave before.
    pub(super) meets: bool,
    /// A process without a cluster's program that sends what no member explains.
    pub(super) flood: bool,
    /// One in so many steps of a thread is a call to another rank.
    pub(super) call_one_in: u32,
    /// Bytes of a call, beyond its header.
    pub(super) call_len: usize,
    pub(super) placement: Placement,
    /// Set when the first rank has the region.
    pub(super) region_known: bool,
    /// Whether keys are exchanged as in programs; in most runs a stand-in saves that time.
    pub(super) has_curve: bool,
    pub(super) rules: Rules,
}

/// One process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    pub(super) host: usize,
    pub(super) role: Role,
    pub(super) starts: Time,
    /// When it leaves, whatever its threads do then.
    pub(super) leaves_at: Option<Time>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Daemon,
    Rank { program: u64, rank: u32, ranks: u32 },
}

/// Something that befalls a process or a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incident {
    pub(super) at: Time,
    pub(super) lasts: Span,
    pub(super) fate: Fate,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// It is killed after so many more datagrams, sent or taken in.
    Crash { process: usize, after: u32 },
    /// It is killed after so many more steps: changes of memory, of the record or of a mapping, or datagrams.
    Kill { process: usize, after: u32 },
    /// It gets no core.
    Starve { process: usize },
    /// Its receiver gets none: timers run, datagrams stay in the socket.
    Deafen { process: usize },
    /// Datagrams from one host to another are lost: all, or nine of ten.
    Cut { from: usize, to: usize, is_leaky: bool },
    /// Datagrams from one host to another take longer, each by its own time.
    Slow { from: usize, to: usize },
    /// Its process is told that nobody listens at the address of some other.
    Refused { process: usize, of: usize },
}

const MS: u64 = 1_000_000;

impl Plan {
    pub(crate) fn draw(rng: &mut Rng) -> Plan {
        // The coordinator is far from one host: members there hear leavers before the views that explain what they
        // say, and those are gone when the views come.
        let is_late = rng.u32(..6) == 0;
        let hosts = if is_late { 3 } else { rng.usize(1..=3) };
        let daemons = if is_late {
            rng.usize(2..=3)
        } else if rng.u32(..4) == 0 {
            0
        } else {
            rng.usize(1..=3)
        };
        // Many come and go at the same time.
        let is_restless = is_late || rng.u32(..4) == 0;
        let programs = if daemons == 0 { 1 } else { rng.u64(1..=if is_late { 5 } else { 3 }) };
        let mut processes = Vec::new();
        for index in 0..daemons {
            let starts = Time(1 + if index == 0 { 0 } else { rng.u64(..3 * MS) });
            let host = if is_late { index.min(1) } else { rng.usize(..hosts) };
            processes.push(Spec { host, role: Role::Daemon, starts, leaves_at: None });
        }
        for program in 1..=programs {
            let ranks = rng.u32(1..=3) + u32::from(daemons == 0);
            let from = if daemons == 0 { 1 } else { 5 * MS + rng.u64(..40 * MS) };
            for rank in 0..ranks {
                let first = daemons == 0 && rank == 0;
                let starts = Time(from + if first { 0 } else { rng.u64(..10 * MS) });
                let leaves_at = (rng.u32(..if is_restless { 2 } else { 6 }) == 0)
                    .then(|| starts + Span(rng.u64(5 * MS..60 * MS)));
                let role = Role::Rank { program, rank, ranks };
                let host = if is_late { rng.usize(1..hosts) } else { rng.usize(..hosts) };
                processes.push(Spec { host, role, starts, leaves_at });
            }
        }
        let is_rough = rng.u32(..3) == 0;
        let mut incidents =
            draw_incidents(processes.len(), (hosts, processes[0].host), daemons, is_rough, rng);
        if is_late {
            let fate = Fate::Slow { from: 0, to: 2 };
            incidents.push(Incident { at: Time(1), lasts: Span(2_000 * MS), fate });
        }
        let loss_one_in = [None, Some(50), Some(10)][rng.usize(..3)];
        let net = Net {
            typical: [Span::from_us(20), Span::from_us(200), Span::from_ms(2)][rng.usize(..3)],
            tail_one_in: [None, Some(20), Some(5)][rng.usize(..3)],
            tail: [Span::from_ms(1), Span::from_ms(20)][rng.usize(..2)],
            duplicate_one_in: [None, Some(20), Some(4)][rng.usize(..3)],
        };
        let damage_one_in = [None, Some(100)][rng.usize(..2)];
        // By a generator of its own: what else a seed stands for stays.
        let mut own = rng.clone();
        let mutes = is_rough.then(|| Span(own.u64(500 * MS..6_000 * MS)));
        let faints = (!is_rough && own.u32(..4) == 0).then(|| Span(own.u64(500 * MS..2_500 * MS)));
        // Next to none, in some: the shipped bounds are out of reach of most seeds.
        let early = match own.u32(..3) {
            0 => EarlyBounds { messages: 1, stranger_messages: 1, ..EarlyBounds::default() },
            _ => EarlyBounds::default(),
        };
        let clients = ClientSpec::draw(hosts, &mut own);
        let has_curve = own.u32(..16) == 0;
        let runs_on = own.u32(..3) == 0;
        if runs_on {
            let from = if daemons == 0 { 0 } else { 1 };
            for _ in 0..own.u32(..5) {
                let fate = Fate::Kill { process: own.usize(from..processes.len()), after: own.u32(..300) };
                // Some at the same time, or while another one is being run on.
                let latest = [20 * MS, 120 * MS][own.usize(..2)];
                let at = Time(1 + own.u64(5 * MS..latest));
                incidents.push(Incident { at, lasts: Span(0), fate });
            }
        }
        Plan {
            processes,
            clients,
            daemons,
            incidents,
            net,
            loss_one_in,
            damage_one_in,
            queue_max: [160 << 10, 64 << 20][rng.usize(..2)],
            socket_max: [8, 64, 512][rng.usize(..3)],
            is_rough,
            hostile: rng.bool(),
            mutes,
            faints,
            early,
            runs_on,
            meets: rng.bool(),
            flood: rng.u32(..8) == 0,
            call_one_in: [1, 4, 40][rng.usize(..3)],
            call_len: [0, 3_000, 60_000][rng.usize(..3)],
            placement: match rng.u32(..4) {
                _ if is_late => Placement::OnNode(NodeId(1)),
                0 => Placement::FirstTouch,
                1 => Placement::Block,
                2 => Placement::Cyclic,
                _ => Placement::OnNode(NodeId(0)),
            },
            region_known: false,
            has_curve,
            rules: Rules::default(),
        }
    }

    /// The same with a fault planted in every machine.
    #[cfg(feature = "planted")]
    pub(crate) fn with_mutation(mut self, mutation: Option<pagemesh::machine::Mutation>) -> Plan {
        if let Some(mutation) = mutation {
            self.rules = Rules::without(mutation);
        }
        self
    }

    /// The pages and threads of the run. Their addresses follow when the region is made.
    pub(super) fn memory(&self, rng: &mut Rng) -> Memory {
        let mut memory = Memory::draw(rng);
        memory.departures.clear();
        memory.barrier_rounds = 0;
        memory.members = NodeSet::EMPTY;
        memory.threads_max = rng.u8(1..=2);
        memory.cached_max = None;
        memory.abandons = false;
        memory.tries = false;
        memory
    }

    /// Adds a rank that reads all pages.
    pub(super) fn add_auditor(&mut self, starts: Time) {
        let role = Role::Rank { program: AUDITOR, rank: 0, ranks: 1 };
        self.processes.push(Spec { host: 0, role, starts, leaves_at: None });
    }
}

fn draw_incidents(
    processes: usize,
    (hosts, coordinator): (usize, usize),
    daemons: usize,
    is_rough: bool,
    rng: &mut Rng,
) -> Vec<Incident> {
    let mut incidents = Vec::new();
    let when = |rng: &mut Rng| Time(1 + rng.u64(..80 * MS));
    if rng.u32(..3) == 0 {
        // Daemons too, now and then: the cluster ends then.
        let first = if rng.u32(..5) == 0 { 0 } else { daemons.min(processes - 1) };
        let process = rng.usize(first..processes);
        let fate = Fate::Crash { process, after: rng.u32(..40) };
        incidents.push(Incident { at: when(rng), lasts: Span(0), fate });
    }
    for _ in 0..rng.usize(..=3) {
        let longest = if is_rough { 12_000 * MS } else { 2_000 * MS };
        let longest = [20 * MS, longest][rng.usize(..2)];
        let lasts = Span(rng.u64(..longest));
        let process = rng.usize(..processes);
        let fate = if rng.bool() { Fate::Starve { process } } else { Fate::Deafen { process } };
        incidents.push(Incident { at: when(rng), lasts, fate });
    }
    if is_rough && rng.bool() {
        let (from, to) = (rng.usize(..hosts), rng.usize(..hosts));
        let lasts = Span(rng.u64(..20_000 * MS));
        let is_leaky = rng.bool();
        let fate = Fate::Cut { from, to, is_leaky };
        incidents.push(Incident { at: when(rng), lasts, fate });
        if rng.bool() {
            // Both ways.
            let fate = Fate::Cut { from: to, to: from, is_leaky };
            incidents.push(Incident { at: when(rng), lasts, fate });
        }
    }
    if is_rough && hosts == 3 && rng.u32(..3) == 0 {
        // Who joins on one of these hosts reaches all members but those on the other.
        let [one, other] = [(coordinator + 1) % 3, (coordinator + 2) % 3];
        let lasts = Span(rng.u64(..20_000 * MS));
        for (from, to) in [(one, other), (other, one)] {
            incidents.push(Incident { at: Time(1), lasts, fate: Fate::Cut { from, to, is_leaky: false } });
        }
    }
    if rng.bool() {
        // From the coordinator, mostly: views are late.
        let from = if rng.u32(..4) > 0 { coordinator } else { rng.usize(..hosts) };
        let lasts = Span(rng.u64(..2_000 * MS));
        let fate = Fate::Slow { from, to: rng.usize(..hosts) };
        incidents.push(Incident { at: Time(1 + rng.u64(..40 * MS)), lasts, fate });
    }
    for _ in 0..rng.usize(..=2) {
        let (process, of) = (rng.usize(..processes), rng.usize(..processes));
        incidents.push(Incident { at: when(rng), lasts: Span(0), fate: Fate::Refused { process, of } });
    }
    incidents
}
