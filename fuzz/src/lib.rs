//! What each target does with its bytes: whatever they are, decoders answer with a value or an error, sessions and
//! machines go on, and no bound is exceeded. `machine` and `session` drive the shipped cores without IO.

mod machine;
mod session;

use std::net::SocketAddr;

use pagemesh::codec::{Reader, Writer, decode_control, encode_control};
use pagemesh::coherence::{Batch, encode_batch_head};
use pagemesh::membership::Control;
use pagemesh::net::wire::{Frame, Packet, next_frame};
use pagemesh::net::{ClusterKey, Endpoint, EndpointConfig, Entropy, TransmitBuf, Version};
use pagemesh::page::{Incarnation, Span, Time};
use pagemesh::rpc::dynamic::Dynamic;

pub use machine::machine;
pub use session::session;

const KEY: [u8; 32] = [42; 32];

/// A start of a node, by its number.
pub(crate) fn config(number: u64) -> EndpointConfig {
    EndpointConfig::new(ClusterKey::new(KEY), Incarnation(number), Version::of_library(1), 212_992)
}

pub(crate) fn addr(number: u64) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1000 + number as u16))
}

/// The name of the rule that is broken, if any. Always none without the feature `planted`.
pub(crate) fn is_broken(rule: &str) -> bool {
    cfg!(feature = "planted") && std::env::var("PLANTED_RULE").is_ok_and(|broken| broken == rule)
}

/// A data packet's header, and its frames once decrypted.
pub fn datagram(bytes: &[u8]) {
    let mut copy = bytes.to_vec();
    if let Ok(packet) = Packet::decode(&mut copy) {
        let (_, _, frames) = packet.parts();
        assert!(frames.len() < bytes.len());
    }
    let mut reader = Reader::new(bytes);
    while let Ok(Some(frame)) = next_frame(&mut reader) {
        match frame {
            Frame::Whole { bytes: message, .. } | Frame::Part { bytes: message, .. } => {
                assert!(message.len() <= bytes.len());
            }
            Frame::Ack(ack) => {
                let mut newest = None;
                for range in ack.ranges() {
                    assert!(range.first <= range.last && newest.is_none_or(|newest| range.last < newest));
                    newest = Some(range.first);
                }
            }
            Frame::Credit { .. } | Frame::Ping | Frame::Close { .. } | Frame::Probe => {}
        }
    }
}

/// A handshake packet, as it is and with a key id and a MAC that are right, at a node that listens and is connecting.
/// No answer is longer than its question.
pub fn handshake(bytes: &[u8]) {
    let mut endpoint = Endpoint::new(config(1), Entropy::of_seed(1));
    let (mut now, mut buf) = (Time(1), TransmitBuf::default());
    let _ = endpoint.connect(now, addr(2));
    while endpoint.poll_transmit(now, &mut buf).is_some() {}
    let mut repaired = bytes.to_vec();
    repair(&mut repaired);
    for mut datagram in [bytes.to_vec(), repaired] {
        let len = datagram.len();
        endpoint.handle_datagram(now, addr(2), &mut datagram, &mut |_, _| unreachable!("no session is up"));
        while let Some(transmit) = endpoint.poll_transmit(now, &mut buf) {
            assert!(transmit.len <= len, "an answer of {} bytes to {len}", transmit.len);
        }
        now = now + Span::from_us(1);
    }
}

/// Gives a handshake packet the key's id and MAC.
fn repair(packet: &mut [u8]) {
    const MAC_AT: usize = 13;
    const MAC_END: usize = MAC_AT + 16;
    if packet.len() < MAC_END {
        return;
    }
    let id = blake3::derive_key("dsm transport 1 cluster key fingerprint", &KEY);
    packet[5..MAC_AT].copy_from_slice(&id[..8]);
    let mut hasher = blake3::Hasher::new_keyed(&blake3::derive_key("dsm transport 1 handshake mac", &KEY));
    hasher.update(&packet[..MAC_AT]).update(&packet[MAC_END..]);
    packet[MAC_AT..MAC_END].copy_from_slice(&hasher.finalize().as_bytes()[..16]);
}

/// A batch of the page protocol: what decodes is written again byte for byte.
pub fn batches(bytes: &[u8]) {
    let Ok(batch) = Batch::decode(bytes) else { return };
    let messages: Vec<_> = batch.iter().collect();
    let mut again = Vec::new();
    encode_batch_head(&mut again, batch.epoch, messages.len());
    messages.iter().for_each(|(message, _)| message.encode(&mut again));
    messages.iter().for_each(|(_, page)| again.put(page));
    assert_eq!(again.len(), bytes.len(), "every byte has its place");
}

/// A control message: what decodes comes back from its own encoding, and nothing may follow it.
pub fn control(bytes: &[u8]) {
    let Ok(control) = decode_control::<Control>(bytes) else { return };
    let encoded = encode_control(&control);
    assert_eq!(decode_control::<Control>(&encoded).as_ref(), Ok(&control));
    let longer = [bytes, &[0]].concat();
    assert!(decode_control::<Control>(&longer).is_err(), "a byte too many");
}

/// Frames of calls.
pub fn rpc_frames(bytes: &[u8]) {
    let is_asked_again = pagemesh::rpc::is_asked_again(bytes);
    assert!(!is_asked_again || pagemesh::rpc::is_message(bytes));
}

/// An interface's description, as a server gives it.
pub fn descriptions(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // The names of methods stay in memory, so long texts would use it up.
    if text.len() < 4096 {
        let _ = Dynamic::new(text);
    }
}
