//! Credit: how much of a receiver's socket buffer its peers may fill.
//!
//! The kernel drops datagrams when the buffer is full, and counts the memory that holds them
//! (truesize), not their bytes. So credit is counted in truesize too, and the credits of all peers
//! together stay near half of what the socket really has; the other half covers what the estimate
//! misses and peers that are told to use less while their packets are still on the way.

use crate::config::net::{CREDIT_NODE_MAX, CREDIT_PEER_MAX, CREDIT_PEER_MIN, MTU_PAGE};

/// What the kernel keeps beside a datagram's bytes in the same allocation: headers, head room and
/// `skb_shared_info`.
const SKB_TAIL: usize = 384;
/// `struct sk_buff` itself.
const SKB_HEAD: usize = 256;
/// Allocations above this are made of page fragments, which are charged by their bytes.
const SKB_LINEAR_MAX: usize = 16 << 10;
/// What a datagram made of page fragments costs beside its bytes.
const SKB_PAGED: usize = 2048;

/// Bytes of a socket buffer that a datagram of `len` bytes takes: 768 for a small one, 8,448 for a page.
pub(crate) fn truesize(len: usize) -> usize {
    let linear = (len + SKB_TAIL).next_power_of_two();
    if linear <= SKB_LINEAR_MAX { linear + SKB_HEAD } else { len + SKB_PAGED }
}

/// The longest datagram that takes no more than `room` bytes of a socket buffer; 0 if none does.
pub(crate) fn len_within(room: usize) -> usize {
    if room >= SKB_LINEAR_MAX + SKB_HEAD {
        return (SKB_LINEAR_MAX - SKB_TAIL).max(room - SKB_PAGED);
    }
    let Some(linear) = room.checked_sub(SKB_HEAD).filter(|&l| l > SKB_TAIL) else { return 0 };
    let power = (linear + 1).next_power_of_two() / 2;
    power.saturating_sub(SKB_TAIL)
}

/// The longest datagram worth sending to a peer that gave `window` bytes of credit: short enough
/// that several are on their way together, but long enough for a page.
pub(crate) fn datagram_max(window: usize) -> usize {
    len_within(window / 4).max(MTU_PAGE)
}

/// Splits a socket's buffer among peers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    half: usize,
}

impl Share {
    /// For a socket whose buffer really has `socket_buffer` bytes.
    pub(crate) fn of(socket_buffer: usize) -> Self {
        Share { half: (socket_buffer / 2).min(CREDIT_NODE_MAX) }
    }

    /// Credit of a peer that has sent nothing large lately.
    pub(crate) fn idle(&self) -> usize {
        CREDIT_PEER_MIN
    }

    /// Credit of each of `active` peers while `idle` others may begin to send.
    pub(crate) fn active(&self, active: usize, idle: usize) -> usize {
        let rest = self.half.saturating_sub(idle * CREDIT_PEER_MIN);
        (rest / active.max(1)).clamp(CREDIT_PEER_MIN, CREDIT_PEER_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PAGE_SIZE;

    #[test]
    fn truesize_is_what_was_measured_on_loopback() {
        assert_eq!(truesize(64), 768);
        assert_eq!(truesize(PAGE_SIZE + 100), 8448);
        assert_eq!(212_992 / truesize(PAGE_SIZE + 100), 25);
        assert_eq!(212_992 / truesize(60 << 10), 3);
    }

    #[test]
    fn len_within_is_the_inverse_of_truesize() {
        for room in (0..120_000).step_by(97) {
            let len = len_within(room);
            assert!(len == 0 || truesize(len) <= room, "{len} in {room}");
            assert!(truesize(len + 1) > room || len + 1 + SKB_TAIL > SKB_LINEAR_MAX, "{len} in {room}");
        }
    }

    #[test]
    fn credits_of_all_peers_stay_within_half_of_the_buffer() {
        let share = Share::of(212_992);
        for peers in 1..=8 {
            for active in 1..=peers {
                let sum = active * share.active(active, peers - active) + (peers - active) * share.idle();
                assert!(sum <= 106_496, "{active} of {peers} peers: {sum}");
            }
        }
        assert_eq!(share.active(1, 0), 106_496);
        assert_eq!(Share::of(1 << 30).active(1, 0), CREDIT_PEER_MAX);
    }
}
