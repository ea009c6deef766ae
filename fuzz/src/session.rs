//! Two endpoints and a network that the bytes rule: what they send, when, and what becomes of each datagram.

use std::collections::VecDeque;

use pagemesh::net::{
    Endpoint, EndpointConfig, Entropy, Event, KeyLife, Mutation, OutMessage, Priority, Rules, SessionHandle,
    TransmitBuf,
};
use pagemesh::page::{Span, Time};

use crate::{addr, config, is_broken};

/// Rounds after the last byte in which every message must arrive: the network is whole then.
const HEALED_ROUNDS: u32 = 4_000;

struct Side {
    endpoint: Endpoint,
    session: Option<SessionHandle>,
    /// Datagrams on their way to it.
    arriving: VecDeque<Vec<u8>>,
    received: Vec<u8>,
}

/// Every message of a session arrives once and whole, whatever the network does to its datagrams.
pub fn session(bytes: &[u8]) {
    let mut input = bytes.iter().copied();
    let life = KeyLife { packets: u64::from(input.next().unwrap_or(0) % 16 + 1), ..KeyLife::default() };
    let rules = rules();
    let side = |number| {
        let config = EndpointConfig { key_life: life, rules, ..config(number) };
        let endpoint = Endpoint::new(config, Entropy::of_seed(number));
        Side { endpoint, session: None, arriving: VecDeque::new(), received: Vec::new() }
    };
    let (mut sides, mut now, mut buf) = ([side(0), side(1)], Time(1), TransmitBuf::default());
    let session = sides[0].endpoint.connect(now, addr(1)).expect("room for a session");
    let mut sent = [0u8; 2];
    let mut healed = 0;
    while healed < HEALED_ROUNDS {
        let step = input.next();
        let from = usize::from(step.unwrap_or(0) & 1);
        match step.map(|step| step >> 1 & 7) {
            None => {
                healed += 1;
                let all = (0..2).all(|at| sides[1 - at].received.len() == usize::from(sent[at]));
                if all && healed > 1 {
                    return;
                }
            }
            Some(0) if sent[from] < 100 => {
                if let Some(session) = sides[from].session {
                    let message = OutMessage::from_bytes(&message(sent[from]));
                    if sides[from].endpoint.send(now, session, message, Priority::Bulk).is_ok() {
                        sent[from] += 1;
                    }
                }
            }
            Some(1) => drop(sides[from].arriving.pop_front()),
            Some(2) => {
                if let Some(first) = sides[from].arriving.pop_front() {
                    sides[from].arriving.push_back(first);
                }
            }
            Some(3) => {
                if let Some(first) = sides[from].arriving.front().cloned() {
                    sides[from].arriving.push_back(first);
                }
            }
            Some(4) => {
                let at = usize::from(input.next().unwrap_or(0));
                if let Some(byte) = sides[from].arriving.front_mut().and_then(|first| first.get_mut(at)) {
                    *byte ^= 1 << (at % 8);
                }
            }
            // A datagram arrives below; time passes.
            Some(_) => {}
        }
        let is_whole = step.is_none();
        now = now + Span::from_us(if is_whole { 500 } else { 50 });
        for at in 0..2 {
            if is_whole || step.is_some_and(|step| step >> 4 & 1 == 1) {
                deliver(&mut sides[at], now, 1 - at as u64);
            }
            let Side { endpoint, session: own, .. } = &mut sides[at];
            while let Some(event) = endpoint.poll_event() {
                match event {
                    Event::Connected { session, .. } => *own = Some(session),
                    Event::ConnectFailed { .. } => return,
                    Event::Closed { reason, .. } => panic!("nobody has ended the session: {reason}"),
                    Event::Refused { .. } => {}
                }
            }
            while let Some(transmit) = sides[at].endpoint.poll_transmit(now, &mut buf) {
                let mut datagram = Vec::new();
                transmit.copy_into(&mut datagram);
                sides[1 - at].arriving.push_back(datagram);
            }
        }
    }
    // An attempt that was never answered has lost nothing.
    let is_open = sides.iter().all(|side| side.session.is_some());
    assert!(!is_open, "messages of {session:?} did not arrive: {sent:?} were sent");
}

fn rules() -> Rules {
    #[cfg(feature = "planted")]
    if is_broken("KeysChangeUnacknowledged") {
        return Rules::without(Mutation::KeysChangeUnacknowledged);
    }
    let _ = (is_broken, Mutation::KeysChangeUnacknowledged);
    Rules::default()
}

fn deliver(side: &mut Side, now: Time, from: u64) {
    let Side { endpoint, arriving, received, .. } = side;
    let count = arriving.len().min(8);
    for mut datagram in arriving.drain(..count) {
        endpoint.handle_datagram(now, addr(from), &mut datagram, &mut |_, bytes| {
            let number = bytes[0];
            assert_eq!(bytes, message(number), "message {number} is intact");
            assert!(!received.contains(&number), "message {number} arrives once");
            received.push(number);
        });
    }
    if arriving.is_empty() {
        endpoint.handle_drained(now);
    }
}

/// Of one datagram, or of several.
fn message(number: u8) -> Vec<u8> {
    let len = if number % 4 == 3 { 5_000 } else { 40 };
    let mut bytes = vec![number; len];
    bytes.iter_mut().enumerate().skip(1).for_each(|(at, byte)| *byte = (at as u8).wrapping_mul(number | 1));
    bytes
}
