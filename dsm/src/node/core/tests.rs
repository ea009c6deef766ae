//! What a node makes of the ends of others, and of its own.

use super::*;
use crate::fault::{ArenaOptions, Backend, BackendChoice};
use crate::membership::{COORDINATOR, Kind, LinkId, View};
use crate::net::{ClusterKey, EndpointConfig, TransmitBuf, Version};
use crate::page::{Epoch, PagePool};

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn intro(incarnation: u64) -> Introduction {
    Introduction {
        incarnation: Incarnation(incarnation),
        kind: Kind::Rank { program: 1, rank: incarnation as u32, ranks: 2 },
        name: "test".into(),
        addr: addr(incarnation as u16),
        host: String::new(),
        pid: 0,
        memory_max: 1 << 26,
        arena_base: 0,
        arena_size: 1 << 26,
        index: None,
    }
}

/// The memory of a node that maps nothing.
fn arena() -> Arena {
    let backend = BackendChoice::Only(Backend::None);
    let options =
        ArenaOptions { len: 1 << 26, base: None, backend, mappings_max: None, pool: PagePool::new(1) };
    Arena::reserve(&options).expect("address space")
}

/// Node 1, which has joined node 0.
fn joined() -> Core {
    let config = EndpointConfig::new(ClusterKey::new([0; 32]), Incarnation(1), Version::ours(), 1 << 20);
    let mut core = Core::new(Endpoint::new(config, 1), intro(1), None);
    let coordinator = LinkId(7);
    let mut membership = Membership::newcomer(intro(1), coordinator);
    let members = [0, 1].map(|id| Member { id: NodeId(id), intro: intro(u64::from(id)) });
    let view = View { epoch: Epoch(2), members: members.into(), ..View::default() };
    let welcome = Control::Joined { id: NodeId(1), view, regions: Vec::new() };
    membership.handle(Time(0), coordinator, Some(COORDINATOR), welcome);
    while membership.poll_action().is_some() {}
    core.brain.membership = Some(membership);
    core
}

fn let_go(core: &mut Core, arena: &Arena) {
    let membership = core.brain.membership.as_mut().expect("joined");
    membership.handle(Time(0), LinkId(7), Some(COORDINATOR), Control::LeaveAck);
    core.settle(Time(0), arena);
}

/// The thread that leaves is woken, and before it runs another thread sees that the coordinator, whose last
/// member this was, has ended.
#[test]
fn an_end_of_the_coordinator_right_after_it_has_let_this_node_go_is_no_death() {
    let (mut core, arena) = (joined(), arena());
    let (op, _) = core.brain.waits.begin();
    core.brain.leaving = Leaving::Asked(op);
    let_go(&mut core, &arena);
    assert!(core.brain.waits.has_ended(op));
    core.brain.coordinator_died("its process has ended".into());
    core.brain.fatal(Fatal::Stopped("the cluster stops".into()));
    assert!(core.brain.fatal.is_none(), "{:?}", core.brain.fatal);
}

#[test]
fn a_node_that_leaves_needs_no_answer_of_a_coordinator_that_has_ended() {
    let mut core = joined();
    let (op, _) = core.brain.waits.begin();
    core.brain.leaving = Leaving::Asked(op);
    core.brain.coordinator_died("its process has ended".into());
    assert!(core.brain.waits.has_ended(op) && core.brain.fatal.is_none());
    let mut stays = joined();
    stays.brain.coordinator_died("its process has ended".into());
    assert!(matches!(stays.brain.fatal, Some(Fatal::Died { node: COORDINATOR, .. })));
}

/// The coordinator keeps the session of who has left for a second, in which its consent may not arrive.
#[test]
fn a_node_that_leaves_takes_the_end_of_its_session_for_the_coordinators_consent() {
    let mut core = joined();
    let (op, _) = core.brain.waits.begin();
    core.brain.leaving = Leaving::Asked(op);
    let session = SessionHandle::from_bits(1);
    core.brain.peers.connected(session, Incarnation(0));
    core.brain.peers.is_coordinator(session);
    let reason = crate::net::CloseReason::Peer { code: close::DONE, reason: "you have left".into() };
    assert_eq!(core.on_closed(session, Some(reason)), None);
    assert!(core.brain.waits.has_ended(op) && core.brain.fatal.is_none());
}

#[test]
fn what_is_waited_for_when_a_node_leaves_ends() {
    let mut core = joined();
    let (op, _) = core.brain.waits.begin();
    core.close_all(Time(0), "left");
    assert!(core.brain.waits.has_ended(op));
}

/// Moves datagrams between the node and a guest until neither has any.
fn exchange(core: &mut Core, (guest, port): (&mut Endpoint, u16), (now, arena): (Time, &Arena)) {
    let (node_addr, guest_addr) = (addr(1), addr(port));
    let mut buffer = TransmitBuf::default();
    loop {
        let mut to_guest = Vec::new();
        while let Some(transmit) = core.endpoint.poll_transmit(now, &mut buffer) {
            to_guest.push(transmit.with_slices(<[&[u8]]>::concat));
        }
        for datagram in &to_guest {
            guest.handle_datagram(now, node_addr, datagram, &mut |_, _| ());
        }
        let mut to_node = Vec::new();
        while let Some(transmit) = guest.poll_transmit(now, &mut buffer) {
            to_node.push(transmit.with_slices(<[&[u8]]>::concat));
        }
        for datagram in &to_node {
            core.on_datagram(now, guest_addr, datagram, arena);
        }
        core.settle(now, arena);
        while guest.poll_event().is_some() {}
        if to_guest.is_empty() && to_node.is_empty() {
            break;
        }
    }
}

/// Guests need not say that they are there, so a dead one is told from an idle one by nothing.
#[test]
fn silent_guests_make_room_when_there_are_many() {
    let (mut core, arena, now) = (joined(), arena(), Time(1_000_000_000));
    let connect = |core: &mut Core, number: u64| {
        let key = ClusterKey::new([0; 32]);
        let config = EndpointConfig::new(key, Incarnation(100 + number), Version::ours(), 1 << 20);
        let mut guest = Endpoint::new(config, number);
        guest.connect(now, addr(1)).expect("the guest has room");
        exchange(core, (&mut guest, 1_000 + number as u16), (now, &arena));
    };
    (0..SESSIONS_CROWD as u64 - 1).for_each(|number| connect(&mut core, number));
    core.tick(now, &arena);
    let later = now + SILENCE_MAX + HEARTBEAT;
    core.brain.next_heartbeat = later;
    core.tick(later, &arena);
    assert_eq!(core.brain.peers.strangers().count(), SESSIONS_CROWD - 1, "they are in nobody's way");
    connect(&mut core, 1_000);
    core.brain.next_heartbeat = later + HEARTBEAT;
    core.tick(later + HEARTBEAT, &arena);
    assert_eq!(core.brain.peers.strangers().count(), 0);
}

#[test]
fn whoever_is_answered_or_sent_a_page_for_another_is_served() {
    let (asker, other) = (NodeId(1), NodeId(2));
    let before = Outputs { asker: Some(asker), ..Outputs::default() };
    let served = |to, carries_page| {
        let mut outputs = before;
        outputs.count_answer(to, carries_page);
        outputs.served_since(&before)
    };
    assert!(served(asker, false) && served(other, true), "an answer, and a page that the home asked for");
    assert!(!served(other, false), "who asked was referred to another node");
    let timer = Outputs { asker: None, ..before };
    let mut outputs = timer;
    outputs.count_answer(other, true);
    assert!(!outputs.served_since(&timer), "nobody asked");
}
