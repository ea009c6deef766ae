//! A founder of a cluster, and somebody who has the key and no manners: each piece of the bytes is a message of its
//! session. The machine ends the session or goes on; it never panics, and keeps to its bounds.

use pagemesh::coherence::OpId;
use pagemesh::machine::{Command, EarlyBounds, Event, Host, Machine, MachineConfig, Mutation, Rules};
use pagemesh::membership::{self, HostId, Introduction, Kind};
use pagemesh::net::{Endpoint, Entropy, OutMessage, Priority, TransmitBuf};
use pagemesh::page::{
    Access, Contents, Incarnation, Lent, LockWords, Memory, PageBuf, PageId, PeerId, Span, Time, Txn,
};

use crate::{addr, config, is_broken};

const MESSAGES_MAX: usize = 600;

/// Memory that forgets everything.
struct Nothing;

impl Memory for Nothing {
    fn protect(&mut self, _: PageId, _: Access) {}
    fn protect_range(&mut self, _: PageId, _: u64, _: Access) {}
    fn read(&mut self, _: PageId) -> PageBuf {
        PageBuf::zeroed()
    }
    fn install(&mut self, _: PageId, _: Contents<'_>, _: Access, _: Txn) {}
    fn set_version(&mut self, _: PageId, _: Txn) {}
    fn discard(&mut self, _: PageId) {}
    fn revoke_all(&mut self) {}
}

impl LockWords for Nothing {
    fn lend_lock(&mut self, _: PageId, _: u64) -> bool {
        false
    }
    fn recall_lock(&mut self, _: PageId) -> Lent {
        unreachable!("no lock was lent")
    }
}

impl Host for Nothing {
    type Kept<'a> = Nothing;
    fn kept(&mut self, _: PeerId) -> Option<Nothing> {
        None
    }
    fn map_region(&mut self, _: PageId, _: u64) -> Result<(), String> {
        Ok(())
    }
    fn unmap_region(&mut self, _: PageId, _: u64) -> Result<(), String> {
        Ok(())
    }
    fn backed_pages(&self) -> u64 {
        0
    }
    fn end_lending(&mut self) {}
}

/// Messages of a stranger who has the key, to a machine.
pub fn machine(bytes: &[u8]) {
    let early = EarlyBounds { stranger_messages: 4, ..EarlyBounds::default() };
    let settings = MachineConfig {
        intro: intro(),
        nearest: None,
        silence_max: None,
        early,
        runs_on: false,
        rules: rules(),
        membership_rules: membership::Rules::default(),
    };
    let mut machine = Machine::new(Endpoint::new(config(1), Entropy::of_seed(1)), settings);
    let mut rogue = Endpoint::new(config(2), Entropy::of_seed(2));
    let (mut now, mut bufs) = (Time(1), [TransmitBuf::default(), TransmitBuf::default()]);
    machine.start(now, None);
    machine.handle(now, Event::Command { op: OpId(1), command: Command::Join }, &mut Nothing);
    let session = rogue.connect(now, addr(1)).expect("room for a session");
    settle(&mut machine, &mut rogue, &mut now, &mut bufs);
    for piece in pieces(bytes) {
        let _ = rogue.send(now, session, OutMessage::from_bytes(piece), Priority::Control);
        settle(&mut machine, &mut rogue, &mut now, &mut bufs);
        let kept = machine.audit().early_stranger;
        assert!(kept <= early.stranger_messages, "{kept} messages of a stranger are kept");
    }
}

/// A byte of length before each piece.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    let next = move || {
        let (&len, behind) = rest.split_first()?;
        let (piece, behind) = behind.split_at(usize::from(len).min(behind.len()));
        rest = behind;
        Some(piece)
    };
    std::iter::from_fn(next).take(MESSAGES_MAX)
}

/// Datagrams go to and fro until none is left.
fn settle(machine: &mut Machine, rogue: &mut Endpoint, now: &mut Time, bufs: &mut [TransmitBuf; 2]) {
    for _ in 0..16 {
        *now = *now + Span::from_us(250);
        machine.handle(*now, Event::Timer, &mut Nothing);
        while machine.flush(*now, &mut Nothing) {}
        while machine.poll_output().is_some() {}
        let mut is_quiet = true;
        while let Some(transmit) = machine.endpoint_mut().poll_transmit(*now, &mut bufs[0]) {
            is_quiet = false;
            let (to, mut datagram) = (transmit.to, Vec::new());
            transmit.copy_into(&mut datagram);
            if to == addr(2) {
                rogue.handle_datagram(*now, addr(1), &mut datagram, &mut |_, _| {});
            }
        }
        rogue.handle_drained(*now);
        while rogue.poll_event().is_some() {}
        while let Some(transmit) = rogue.poll_transmit(*now, &mut bufs[1]) {
            is_quiet = false;
            let mut datagram = Vec::new();
            transmit.copy_into(&mut datagram);
            machine.handle(*now, Event::Datagram { from: addr(2), bytes: &mut datagram }, &mut Nothing);
        }
        machine.handle(*now, Event::Drained(*now), &mut Nothing);
        if is_quiet {
            break;
        }
    }
}

fn rules() -> Rules {
    #[cfg(feature = "planted")]
    if is_broken("GateHasNoBound") {
        return Rules::without(Mutation::GateHasNoBound);
    }
    let _ = (is_broken, Mutation::GateHasNoBound);
    Rules::default()
}

fn intro() -> Introduction {
    Introduction {
        incarnation: Incarnation(1),
        kind: Kind::Daemon,
        name: "fuzzed".into(),
        addr: addr(1),
        host: HostId::default(),
        pid: 0,
        started: 0,
        memory_max: 1 << 26,
        arena_base: 1 << 40,
        arena_size: 1 << 30,
        keeps_at: None,
        index: Some(0),
    }
}
