//! What a node makes of the ends of others, and of its own.

use super::gate::Gate;
use super::*;
use crate::config::net::SESSIONS_CROWD;
use crate::config::node::{EARLY_MESSAGES_MAX, EARLY_STRANGER_MESSAGES_MAX};
use crate::config::rpc::SILENCE_MAX;
use crate::membership::{COORDINATOR, HostId, Kind, LinkId, View};
use crate::net::{ClusterKey, EndpointConfig, Entropy, TransmitBuf, Version};
use crate::page::{Access, Contents, EXTENT_PAGES, Epoch, Lent, Txn};

pub(super) fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn intro(incarnation: u64) -> Introduction {
    Introduction {
        incarnation: Incarnation(incarnation),
        kind: Kind::Rank { program: 1, rank: incarnation as u32, ranks: 2 },
        name: "test".into(),
        addr: addr(incarnation as u16),
        host: HostId::default(),
        pid: 0,
        started: 0,
        memory_max: 1 << 26,
        arena_base: 0,
        arena_size: 1 << 26,
        keeps_at: None,
        index: None,
    }
}

/// The memory of a node without regions.
pub(super) struct Nothing;

impl Memory for Nothing {
    fn protect(&mut self, page: PageId, _access: Access) {
        unreachable!("{page:?} is in no region")
    }

    fn protect_range(&mut self, first: PageId, _pages: u64, _access: Access) {
        unreachable!("{first:?} is in no region")
    }

    fn read(&mut self, page: PageId) -> PageBuf {
        unreachable!("{page:?} is in no region")
    }

    fn install(&mut self, page: PageId, _contents: Contents<'_>, _access: Access, _version: Txn) {
        unreachable!("{page:?} is in no region")
    }

    fn set_version(&mut self, page: PageId, _version: Txn) {
        unreachable!("{page:?} is in no region")
    }

    fn discard(&mut self, page: PageId) {
        unreachable!("{page:?} is in no region")
    }

    fn revoke_all(&mut self) {}
}

impl LockWords for Nothing {
    fn lend_lock(&mut self, _page: PageId, _token: u64) -> bool {
        false
    }

    fn recall_lock(&mut self, page: PageId) -> Lent {
        unreachable!("the lock of {page:?} was not lent")
    }
}

impl Host for Nothing {
    type Kept<'a> = Nothing;

    fn kept(&mut self, _node: PeerId) -> Option<Nothing> {
        None
    }

    fn map_region(&mut self, _start: PageId, _pages: u64) -> Result<(), String> {
        Ok(())
    }

    fn unmap_region(&mut self, _start: PageId, _pages: u64) -> Result<(), String> {
        Ok(())
    }

    fn backed_pages(&self) -> u64 {
        0
    }

    fn end_lending(&mut self) {}
}

/// Node 1, which has joined node 0.
pub(super) fn joined() -> Machine {
    let config = EndpointConfig::new(ClusterKey::new([0; 32]), Incarnation(1), Version::ours(), 1 << 20);
    let settings = MachineConfig {
        intro: intro(1),
        nearest: None,
        silence_max: None,
        early: EarlyBounds::default(),
        runs_on: false,
        rules: Rules::default(),
        membership_rules: crate::membership::Rules::default(),
    };
    let mut machine = Machine::new(Endpoint::new(config, Entropy::of_seed(1)), settings);
    let coordinator = LinkId(7);
    let mut membership = Membership::newcomer(intro(1), coordinator);
    let members = [0, 1].map(|id| Member { id: NodeId(id), intro: intro(u64::from(id)) });
    let view = View { epoch: Epoch(2), members: members.into(), ..View::default() };
    let welcome = Control::Joined { id: NodeId(1), view, regions: 0 };
    membership.handle(Time(0), coordinator, Some(COORDINATOR), welcome);
    while membership.poll_action().is_some() {}
    machine.cores.membership = Some(membership);
    machine.cores.lifecycle = Lifecycle::Member;
    machine
}

const LEAVE: OpId = OpId(3);

/// The same, which has asked the coordinator to let it go.
fn leaving() -> Machine {
    let mut machine = joined();
    let how = Departing { writes_back: false, by: Departure::Wish, asks: true };
    machine.handle(Time(0), Event::Command { op: LEAVE, command: Command::Leave(how) }, &mut Nothing);
    machine.flush(Time(0), &mut Nothing);
    assert!(machine.cores.asks_to_leave());
    machine
}

/// How the departure has ended, if it has.
fn departure(machine: &mut Machine) -> Option<Result<(), LeaveFailure>> {
    machine.flush(Time(0), &mut Nothing);
    std::iter::from_fn(|| machine.poll_output()).find_map(|output| {
        if let Output::Done { op: LEAVE, outcome: Outcome::Left(result) } = output {
            Some(result)
        } else {
            None
        }
    })
}

/// The thread that leaves is woken, and before it runs another thread sees that the coordinator, whose last
/// member this was, has ended.
#[test]
fn an_end_of_the_coordinator_right_after_it_has_let_this_node_go_is_no_death() {
    let mut machine = leaving();
    let membership = machine.cores.membership.as_mut().expect("joined");
    membership.handle(Time(0), LinkId(7), Some(COORDINATOR), Control::LeaveAck);
    assert!(matches!(departure(&mut machine), Some(Ok(()))));
    machine.cores.coordinator_died(Time(0), "its process has ended".into());
    machine.cores.end_with(Why::Stopped("the cluster stops".into()));
    assert!(machine.lifecycle().why().is_none(), "{:?}", machine.lifecycle());
}

#[test]
fn a_node_that_leaves_needs_no_answer_of_a_coordinator_that_has_ended() {
    let mut machine = leaving();
    machine.cores.coordinator_died(Time(0), "its process has ended".into());
    assert!(matches!(departure(&mut machine), Some(Ok(()))));
    let mut stays = joined();
    stays.cores.coordinator_died(Time(0), "its process has ended".into());
    assert!(matches!(stays.lifecycle(), Lifecycle::Ended(Why::Died { node: COORDINATOR, .. })));
}

#[test]
fn a_newcomer_that_introduces_another_start_of_a_node_has_its_session_ended() {
    let mut machine = joined();
    let session = SessionHandle::from_bits(1);
    machine.cores.routes.connected(session, Incarnation(5));
    let says = |machine: &mut Machine, incarnation| {
        let join = crate::codec::encode_control(&Control::Join(intro(incarnation)));
        machine.cores.deliver_control(Time(0), session, &join)
    };
    assert!(says(&mut machine, 5));
    assert!(!says(&mut machine, 6), "the handshake proved another start");
}

/// The coordinator keeps the session of who has left for a second, in which its consent may not arrive.
#[test]
fn a_node_that_leaves_takes_the_end_of_its_session_for_the_coordinators_consent() {
    let mut machine = leaving();
    let session = SessionHandle::from_bits(1);
    machine.cores.routes.connected(session, Incarnation(0));
    machine.cores.routes.is_coordinator(session);
    let reason = crate::net::CloseReason::Peer { code: close::DONE, reason: "you have left".into() };
    assert_eq!(machine.on_closed(Time(0), session, Some(reason)), None);
    assert!(matches!(departure(&mut machine), Some(Ok(()))));
}

#[test]
fn a_coordinator_that_never_consents_is_waited_for_for_a_bounded_time() {
    let mut machine = leaving();
    assert!(departure(&mut machine).is_none());
    let due = machine.lifecycle().poll_timeout().expect("the wait has an end");
    machine.flush(due, &mut Nothing);
    assert!(matches!(departure(&mut machine), Some(Err(LeaveFailure::NoConsent(_)))));
}

#[test]
fn what_is_waited_for_when_a_node_leaves_ends() {
    let mut machine = joined();
    machine.handle(Time(0), Event::Close("left"), &mut Nothing);
    let ends =
        std::iter::from_fn(|| machine.poll_output()).any(|output| matches!(output, Output::Ended { .. }));
    assert!(ends && machine.lifecycle().is_closed());
}

/// Moves datagrams between the node and a client until neither has any.
fn exchange(machine: &mut Machine, (client, port): (&mut Endpoint, u16), now: Time) {
    let (node_addr, client_addr) = (addr(1), addr(port));
    let mut buffer = TransmitBuf::default();
    loop {
        let mut to_client = Vec::new();
        while let Some(transmit) = machine.endpoint.poll_transmit(now, &mut buffer) {
            to_client.push(transmit.with_slices(<[&[u8]]>::concat));
        }
        for datagram in &mut to_client {
            client.handle_datagram(now, node_addr, datagram, &mut |_, _| ());
        }
        let mut to_node = Vec::new();
        while let Some(transmit) = client.poll_transmit(now, &mut buffer) {
            to_node.push(transmit.with_slices(<[&[u8]]>::concat));
        }
        for bytes in &mut to_node {
            machine.handle(now, Event::Datagram { from: client_addr, bytes }, &mut Nothing);
        }
        machine.flush(now, &mut Nothing);
        while client.poll_event().is_some() {}
        if to_client.is_empty() && to_node.is_empty() {
            break;
        }
    }
}

/// The transport cannot know what arrived in a session that its peer knew and has replaced.
#[test]
fn a_member_that_begins_a_second_session_has_none_any_more() {
    let (mut machine, now, port) = (joined(), Time(1_000_000_000), 1_000);
    let connect = |machine: &mut Machine, seed: u64| {
        let config = EndpointConfig::new(ClusterKey::new([0; 32]), Incarnation(0), Version::ours(), 1 << 20);
        let mut member = Endpoint::new(config, Entropy::of_seed(seed));
        member.connect(now, addr(1)).expect("it has room");
        exchange(machine, (&mut member, port), now);
    };
    connect(&mut machine, 1);
    assert!(machine.cores.routes.session(COORDINATOR).is_some());
    for seed in [2, 3] {
        connect(&mut machine, seed);
        assert_eq!(machine.cores.routes.session(COORDINATOR), None);
        assert_eq!(machine.cores.routes.sessions().count(), 0);
    }
    let waits = OutMessage::from_bytes(b"waits");
    machine.send(now, COORDINATOR, waits, Priority::Control);
    assert_eq!(machine.cores.egress.waiting(COORDINATOR), 1, "until one of the two is no member any more");
}

/// A message that is sent after its session has ended, and before the event that tells so, waits for the next one.
#[test]
fn a_message_for_a_session_that_has_just_ended_waits_for_the_next() {
    let (mut machine, now, port) = (joined(), Time(1_000_000_000), 1_000);
    let config = EndpointConfig::new(ClusterKey::new([0; 32]), Incarnation(0), Version::ours(), 1 << 20);
    let mut member = Endpoint::new(config, Entropy::of_seed(1));
    member.connect(now, addr(1)).expect("it has room");
    exchange(&mut machine, (&mut member, port), now);
    let session = machine.cores.routes.session(COORDINATOR).expect("it has come up");
    machine.endpoint.close(now, session, close::DONE, "");
    machine.send(now, COORDINATOR, OutMessage::from_bytes(b"waits"), Priority::Control);
    assert_eq!(machine.cores.egress.waiting(COORDINATOR), 1);
}

/// A page's home alone knows with which process it was lost.
#[test]
fn what_another_node_than_its_home_says_of_a_lost_page_is_not_heard() {
    use crate::coherence::{Placement, RegionInfo};
    let (mut machine, home, page) = (joined(), NodeId(3), PageId(EXTENT_PAGES));
    let coherence = Coherence::new(NodeId(1), Epoch(2), NodeId(1));
    machine.cores.coherence = Some(coherence);
    let region = RegionInfo {
        start: page,
        pages: EXTENT_PAGES,
        used: EXTENT_PAGES,
        placement: Placement::OnNode(home),
        homes: vec![home, NodeId(4)],
        quotas: Vec::new(),
    };
    machine.cores.input(Time(0), Input::Region(region), &mut Nothing);
    let mut told = |from: u16, page: PageId| {
        let notice = encode_control(&(page, "rank 7"));
        assert!(machine.cores.deliver_loss(Some(NodeId(from)), &notice), "it is no violation");
        machine.cores.losses.process(page).is_some()
    };
    assert!(!told(4, page), "of another node");
    assert!(!told(3, PageId(7)), "of a page that has no home");
    assert!(told(3, page));
}

/// Clients need not say that they are there, so a dead one is told from an idle one by nothing.
#[test]
fn silent_clients_make_room_when_there_are_many() {
    let (mut machine, now) = (joined(), Time(1_000_000_000));
    let connect = |machine: &mut Machine, number: u64| {
        let key = ClusterKey::new([0; 32]);
        let config = EndpointConfig::new(key, Incarnation(100 + number), Version::ours(), 1 << 20);
        let mut client = Endpoint::new(config, Entropy::of_seed(number));
        client.connect(now, addr(1)).expect("the client has room");
        exchange(machine, (&mut client, 1_000 + number as u16), now);
    };
    (0..SESSIONS_CROWD as u64 - 1).for_each(|number| connect(&mut machine, number));
    machine.handle(now, Event::Timer, &mut Nothing);
    let later = now + SILENCE_MAX + HEARTBEAT;
    machine.cores.next_heartbeat = later;
    machine.handle(later, Event::Drained(later), &mut Nothing);
    machine.handle(later, Event::Timer, &mut Nothing);
    assert_eq!(machine.cores.routes.strangers().count(), SESSIONS_CROWD - 1, "they are in nobody's way");
    connect(&mut machine, 1_000);
    machine.cores.next_heartbeat = later + HEARTBEAT;
    machine.handle(later + HEARTBEAT, Event::Timer, &mut Nothing);
    assert_ne!(machine.cores.routes.strangers().count(), 0, "what they said may lie in the socket");
    machine.cores.next_heartbeat = later + HEARTBEAT;
    machine.handle(later + HEARTBEAT, Event::Drained(later + HEARTBEAT), &mut Nothing);
    machine.handle(later + HEARTBEAT, Event::Timer, &mut Nothing);
    assert_eq!(machine.cores.routes.strangers().count(), 0);
}

/// A client that sends what no member explains takes no room from a node that joins.
#[test]
fn each_session_that_leads_to_no_member_has_a_bound_of_its_own_on_what_it_says_too_early() {
    let mut gate = Gate::default();
    let (flood, joiner) = (SessionHandle::from_bits(1), SessionHandle::from_bits(2));
    let keep =
        |gate: &mut Gate, session, is_member| gate.keep(Rules::default(), session, b"early", is_member);
    let kept = (0..EARLY_MESSAGES_MAX).filter(|_| keep(&mut gate, flood, false)).count();
    assert_eq!(kept, EARLY_STRANGER_MESSAGES_MAX);
    assert!(keep(&mut gate, joiner, false) && keep(&mut gate, SessionHandle::from_bits(3), true));
    gate.forget(flood);
    assert_eq!(gate.take().len(), 2);
}

/// A node that joins may well call a member that has not heard of it for seconds.
#[test]
fn what_finds_no_room_is_refused_and_taken_when_its_sender_is_known() {
    let mut machine = joined();
    let session = SessionHandle::from_bits(1);
    machine.cores.routes.connected(session, Incarnation(5));
    let call = |machine: &mut Machine| {
        machine.cores.deliver(Time(0), session, &[channel::CALLS], Source::Socket, &mut Nothing)
    };
    let heard = (0..EARLY_STRANGER_MESSAGES_MAX).all(|_| call(&mut machine) == Hearing::Heard);
    assert!(heard && call(&mut machine) == Hearing::Refused);
    assert!(machine.cores.violators.is_empty(), "it has broken no rule");
    let member = |id: u16, incarnation| Member { id: NodeId(id), intro: intro(incarnation) };
    let members = vec![member(0, 0), member(1, 1), member(2, 5)];
    let view = View { epoch: Epoch(3), members, ..View::default() };
    let membership = machine.cores.membership.as_mut().expect("joined");
    membership.handle(Time(0), LinkId(7), Some(COORDINATOR), Control::View(view));
    machine.flush(Time(0), &mut Nothing);
    assert_eq!(call(&mut machine), Hearing::Heard);
    assert_eq!(machine.cores.gate.held(), (0, 0), "and so is what was kept");
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
