//! What a node tells about itself and about the cluster.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use super::keeping::{KeepStatus, RunOnStatus};
pub use super::wait_times::{WaitTimes, Waits};
use super::{Runtime, RuntimeState};
use crate::coherence::{Coherence, Counters as CoherenceCounters, Placement};
use crate::machine::Machine;
use crate::membership::{Death, Kind, Member, Membership};
use crate::net::udp::SocketCounters;
use crate::net::{Cipher, Counters as NetCounters};
use crate::page::{NodeId, PAGE_SIZE};
use crate::rpc::Counters as CallCounters;

/// One node.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its id; none before it is a member.
    pub id: Option<NodeId>,
    /// Name of its host, as the host itself says.
    pub host: String,
    /// Memory of its host.
    pub host_memory: HostMemory,
    /// Time since its start, in microseconds: rates are differences of two readings over that of their times.
    pub uptime_us: u64,
    /// Which fault backend runs; `none` in a daemon.
    pub fault_backend: String,
    /// Pages that hold memory here, those included whose bytes are kept for a write-back, and those of ended nodes that
    /// this one's process runs on: no limit refuses pages that exist, so they may pass `resident_limit`.
    pub resident_pages: u64,
    /// Most that it ever was.
    pub resident_peak: u64,
    /// What it may be: `memory_max` in pages.
    pub resident_limit: u64,
    /// Faults by loads.
    pub read_faults: u64,
    /// Faults by stores.
    pub write_faults: u64,
    /// How long its threads waited, and for what.
    pub waits: Waits,
    /// Requests for pages that this node has served as their home.
    pub faults_served: u64,
    /// The page protocol's counts.
    pub coherence: CoherenceCounters,
    /// The transport's counts.
    pub net: NetCounters,
    /// What became of calls that did not run as they were asked for.
    pub calls: CallCounters,
    /// The socket's counts.
    pub socket: SocketCounters,
    /// Datagrams that the kernel dropped because the receive buffer was full.
    pub socket_drops: u64,
    /// Bytes of the receive buffer.
    pub receive_buffer: u64,
    /// Every member that this node has a session with.
    pub peers: Vec<PeerStatus>,
    /// Pages whose home is here and whose last bytes died with a node: page number and node. At most
    /// [`LOST_PAGES_MAX`].
    pub lost_pages: Vec<(u64, NodeId)>,
    /// Number of pages lost.
    pub lost_page_count: u64,
    /// Regions of which pages have memory here.
    pub regions: Vec<RegionPages>,
    /// Who holds its memory beside its own process, and whose it holds.
    pub keeping: KeepStatus,
}

/// The members that run on a host, and its memory, as one of them knows it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HostMemory {
    /// Members that run there.
    pub nodes: usize,
    /// Bytes of pages that they may hold together: the sum of their limits.
    pub memory_max: u64,
    /// Bytes of memory of the host, used or not. None: its system does not say.
    pub memory: Option<u64>,
}

/// How much of a region is at one node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RegionPages {
    /// The region's first page.
    pub start: u64,
    /// Its pages that have memory here, as home or as a copy.
    pub pages: u64,
}

/// Lost pages that a status lists.
pub const LOST_PAGES_MAX: usize = 1000;

/// A session as one node sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The member.
    pub node: NodeId,
    /// Smoothed round-trip time in microseconds.
    pub rtt_us: f64,
    /// Longest datagram that reaches it, in bytes.
    pub mtu: usize,
    /// Fragments sent again.
    pub retransmissions: u64,
    /// Packets that arrived although their bytes had been sent again.
    pub in_vain: u64,
    /// What guards its packets.
    pub cipher: Cipher,
}

/// The cluster as its coordinator knows it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Epoch of the view.
    pub epoch: u64,
    /// The members.
    pub members: Vec<MemberStatus>,
    /// The regions.
    pub regions: Vec<RegionStatus>,
    /// The last nodes that died, and how it is known.
    pub deaths: Vec<String>,
}

/// One member.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its id.
    pub id: NodeId,
    /// What it is.
    pub kind: Kind,
    /// Its program's name, or `daemon`.
    pub name: String,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its process.
    pub pid: u32,
    /// Bytes of pages that it may hold.
    pub memory_max: u64,
    /// The member whose process runs it on, because its own one has ended.
    pub runner: Option<NodeId>,
    /// What it says of itself; filled in by who asks it.
    pub status: Option<NodeStatus>,
}

/// One region.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RegionStatus {
    /// Its name.
    pub name: String,
    /// Bytes as asked for.
    pub bytes: u64,
    /// Type of its elements as NumPy writes it; none: any.
    pub element: Option<String>,
    /// Pages that it takes in the arena.
    pub pages: u64,
    /// Its first page.
    pub start: u64,
    /// Where its homes are.
    pub placement: Placement,
    /// How it is kept coherent; this version has one way.
    pub mode: String,
    /// The program that made it.
    #[serde(with = "crate::codec::id")]
    pub program: u64,
    /// Nodes that use it now.
    pub users: Vec<NodeId>,
}

/// What the core and the socket have counted; without the host's name and memory, the parts of regions, and who keeps
/// whom.
pub(super) fn node_status(locked: &mut RuntimeState, runtime: &Runtime) -> NodeStatus {
    let RuntimeState { machine, wait_clock, run_on, .. } = locked;
    let faults = runtime.arena.counts();
    let coherence = machine.coherence();
    let lost = coherence.map(Coherence::lost_pages).unwrap_or_default();
    let counters = coherence.map(Coherence::counters).unwrap_or_default();
    let peers = machine.sessions().filter_map(|(node, session)| {
        Some(PeerStatus {
            node,
            rtt_us: machine.endpoint().rtt(session)?.0 as f64 / 1e3,
            mtu: machine.endpoint().mtu(session)?,
            cipher: machine.endpoint().cipher(session)?,
            retransmissions: machine.endpoint().session_counters(session)?.fragments_retransmitted,
            in_vain: machine.endpoint().session_counters(session)?.resent_in_vain,
        })
    });
    NodeStatus {
        id: machine.membership().and_then(Membership::me),
        host: String::new(),
        host_memory: HostMemory::default(),
        uptime_us: runtime.clock.elapsed().as_micros() as u64,
        fault_backend: runtime.arena.backend().to_string(),
        resident_pages: runtime.arena.backed_pages() + run_on.backed_pages(),
        resident_peak: machine.resident_peak(),
        resident_limit: machine.intro().memory_max / PAGE_SIZE as u64,
        read_faults: faults.reads,
        write_faults: faults.writes,
        waits: wait_clock.read(runtime.now()),
        faults_served: counters.transactions,
        coherence: counters,
        net: machine.endpoint().counters(),
        calls: machine.calls().counters(),
        socket: runtime.socket.counters(),
        // Where the kernel cannot tell, the sessions' losses still can.
        socket_drops: runtime.socket.dropped().unwrap_or(0),
        receive_buffer: runtime.socket.receive_buffer() as u64,
        peers: peers.collect(),
        lost_page_count: lost.len() as u64,
        lost_pages: lost.into_iter().take(LOST_PAGES_MAX).map(|(page, node)| (page.0, node)).collect(),
        regions: Vec::new(),
        keeping: KeepStatus::default(),
    }
}

/// The node's status. Call it without the node's lock: regions are searched page by page.
pub(super) fn whole_status(runtime: &Runtime) -> NodeStatus {
    let (mut status, regions) = runtime.with_locked(|locked| {
        let regions = locked.machine.membership().into_iter().flat_map(Membership::regions);
        let ranges: Vec<_> = regions.map(|record| (record.info.start.0, record.info.used)).collect();
        (node_status(locked, runtime), ranges)
    });
    let found = regions.into_iter().map(|(start, used)| RegionPages {
        start,
        pages: runtime.arena.backed_pages_in(start..start + used),
    });
    status.host = host_name();
    status.keeping = runtime.keepers.status();
    status.host_memory = host_memory(runtime);
    status.regions = found.filter(|region| region.pages > 0).collect();
    status
}

/// The members of this node's view that run on its host.
pub(super) fn host_memory(runtime: &Runtime) -> HostMemory {
    let limits: Vec<u64> = runtime.with_machine(|machine| {
        let members = machine.membership().into_iter().flat_map(|membership| &membership.view().members);
        let here = members.filter(|member| member.intro.host == machine.intro().host);
        here.map(|member| member.intro.memory_max).collect()
    });
    HostMemory {
        nodes: limits.len(),
        memory_max: limits.into_iter().fold(0, u64::saturating_add),
        memory: crate::settings::host_memory(),
    }
}

/// As the host itself says; empty where /proc is hidden.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

pub(super) fn cluster_status(machine: &Machine) -> ClusterStatus {
    let Some(membership) = machine.membership() else {
        return ClusterStatus { epoch: 0, members: vec![], regions: vec![], deaths: vec![] };
    };
    let view = membership.view();
    let member = |member: &Member| MemberStatus {
        id: member.id,
        kind: member.intro.kind,
        name: member.intro.name.clone(),
        addr: member.intro.addr,
        pid: member.intro.pid,
        memory_max: member.intro.memory_max,
        runner: view.runner(member.id),
        status: None,
    };
    let regions = membership.regions().map(|record| RegionStatus {
        name: record.name.clone(),
        bytes: record.bytes,
        element: record.element.tag.clone().map(String::from),
        pages: record.bytes.div_ceil(PAGE_SIZE as u64),
        start: record.info.start.0,
        placement: record.info.placement,
        mode: "seq".into(),
        program: record.program,
        users: membership.users(record.info.start).iter().collect(),
    });
    let death = |death: &Death| format!("{}: {}", death.member.describe(), death.how);
    ClusterStatus {
        epoch: view.epoch.0,
        members: view.members.iter().map(member).collect(),
        regions: regions.collect(),
        deaths: view.deaths.iter().map(|(_, told)| death(told)).collect(),
    }
}
