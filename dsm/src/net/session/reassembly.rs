//! Messages on their way in: each is delivered once, whole. Long ones are put together here.
//!
//! The tables are bounded, and a sender of ours keeps to the same bounds (`outbox.rs`), so passing
//! one is a violation and no accident. Nothing is allocated that the bounds do not cover.

use smallvec::SmallVec;

use super::Taken;
use super::Violation;
use super::seen::{Arrival, Seen};
use crate::config::MESSAGE_LEN_MAX;
use crate::config::net::{
    MESSAGE_WINDOW, REASSEMBLY_BYTES_MAX, REASSEMBLY_MESSAGES_MAX, REASSEMBLY_RANGES_MAX,
    REASSEMBLY_SPARE_MAX,
};

/// Incomplete messages of one peer, and which messages it need not send again.
pub(super) struct Reassembly {
    delivered: Seen,
    partial: Vec<Partial>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
}

struct Partial {
    id: u64,
    total: usize,
    buffer: Vec<u8>,
    present: Ranges,
}

/// A piece of a longer message, as its frame describes it.
pub(super) struct Piece<'a> {
    pub(super) id: u64,
    pub(super) offset: u32,
    pub(super) total: u32,
    pub(super) bytes: &'a [u8],
}

impl Reassembly {
    pub(super) fn new() -> Self {
        Reassembly { delivered: Seen::new(), partial: Vec::new(), bytes: 0, spare: Vec::new() }
    }

    /// A message that came in one packet. Calls `deliver` if it is new; refused, it is new when it comes again.
    pub(super) fn accept_whole(
        &mut self,
        id: u64,
        deliver: impl FnOnce() -> Taken,
    ) -> Result<Arrival, Violation> {
        self.check_id(id)?;
        if self.delivered.check(id) == Arrival::Duplicate {
            return Ok(Arrival::Duplicate);
        }
        if deliver() == Taken::No {
            return Ok(Arrival::New);
        }
        self.delivered.insert(id);
        if !self.partial.is_empty() {
            // It was sent again in pieces meanwhile, over a path that has shrunk.
            if let Some(at) = self.partial.iter().position(|p| p.id == id) {
                self.release(at);
            }
        }
        Ok(Arrival::New)
    }

    /// A piece of a message. Calls `deliver` with the message when it is complete; refused, it stays here until one
    /// of its pieces comes again.
    pub(super) fn accept_piece(
        &mut self,
        piece: Piece<'_>,
        deliver: &mut dyn FnMut(&[u8]) -> Taken,
    ) -> Result<Arrival, Violation> {
        let (offset, total) = (piece.offset as usize, piece.total as usize);
        if total > MESSAGE_LEN_MAX || total.checked_sub(offset).is_none_or(|room| piece.bytes.len() > room) {
            return Err(Violation::FragmentBounds);
        }
        self.check_id(piece.id)?;
        if self.delivered.check(piece.id) == Arrival::Duplicate {
            return Ok(Arrival::Duplicate);
        }
        let at = match self.partial.iter().position(|p| p.id == piece.id) {
            Some(at) => at,
            None => self.begin(piece.id, total)?,
        };
        let partial = &mut self.partial[at];
        if partial.total != total {
            return Err(Violation::Contradiction);
        }
        let end = offset + piece.bytes.len();
        partial.buffer[offset..end].copy_from_slice(piece.bytes);
        let arrival = partial.present.insert(offset, end)?;
        if partial.present.is_exactly(total) && deliver(&partial.buffer[..total]) == Taken::Yes {
            self.delivered.insert(piece.id);
            self.release(at);
        }
        Ok(arrival)
    }

    /// Incomplete messages, and the bytes kept for them.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        (self.partial.len(), self.bytes)
    }

    /// A sender keeps its unacknowledged ids within one window, so what it sends is never so far
    /// ahead that the newest delivered ids would be forgotten.
    fn check_id(&self, id: u64) -> Result<(), Violation> {
        if id >= self.delivered.next().saturating_add(MESSAGE_WINDOW) {
            return Err(Violation::MessageIdAhead);
        }
        Ok(())
    }

    fn begin(&mut self, id: u64, total: usize) -> Result<usize, Violation> {
        if self.partial.len() >= REASSEMBLY_MESSAGES_MAX || self.bytes + total > REASSEMBLY_BYTES_MAX {
            return Err(Violation::ReassemblyBounds);
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        if buffer.len() < total {
            buffer.resize(total, 0);
        }
        self.bytes += total;
        self.partial.push(Partial { id, total, buffer, present: Ranges::default() });
        Ok(self.partial.len() - 1)
    }

    fn release(&mut self, at: usize) {
        let partial = self.partial.swap_remove(at);
        self.bytes -= partial.total;
        if self.spare.len() < REASSEMBLY_SPARE_MAX {
            self.spare.push(partial.buffer);
        }
    }
}

/// Which bytes are there: ascending, disjoint, not touching.
#[derive(Default)]
struct Ranges(SmallVec<[(u32, u32); 8]>);

impl Ranges {
    fn insert(&mut self, start: usize, end: usize) -> Result<Arrival, Violation> {
        // Both are at most MESSAGE_LEN_MAX.
        let (mut start, mut end) = (start as u32, end as u32);
        let from = self.0.partition_point(|&(_, e)| e < start);
        let to = from + self.0[from..].partition_point(|&(s, _)| s <= end);
        if to == from {
            if self.0.len() >= REASSEMBLY_RANGES_MAX {
                return Err(Violation::ReassemblyBounds);
            }
            self.0.insert(from, (start, end));
            return Ok(Arrival::New);
        }
        if self.0[from].0 <= start && end <= self.0[from].1 {
            return Ok(Arrival::Duplicate);
        }
        start = start.min(self.0[from].0);
        end = end.max(self.0[to - 1].1);
        self.0[from] = (start, end);
        self.0.drain(from + 1..to);
        Ok(Arrival::New)
    }

    fn is_exactly(&self, total: usize) -> bool {
        self.0.as_slice() == [(0, total as u32)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(id: u64, offset: u32, total: u32, bytes: &[u8]) -> Piece<'_> {
        Piece { id, offset, total, bytes }
    }

    fn no_delivery(_: &[u8]) -> Taken {
        panic!("nothing is complete");
    }

    #[test]
    fn pieces_in_any_order_make_one_delivery() {
        let mut reassembly = Reassembly::new();
        let mut delivered = Vec::new();
        for (offset, bytes) in
            [(6, &b"ghi"[..]), (0, b"abc"), (2, b"cde"), (0, b"abc"), (3, b"def"), (0, b"a")]
        {
            reassembly
                .accept_piece(piece(0, offset, 9, bytes), &mut |m| {
                    delivered.push(m.to_vec());
                    Taken::Yes
                })
                .unwrap();
        }
        assert_eq!(delivered, [b"abcdefghi".to_vec()]);
        assert_eq!(reassembly.held(), (0, 0));
        assert_eq!(reassembly.accept_whole(0, || Taken::Yes), Ok(Arrival::Duplicate));
    }

    #[test]
    fn contradicting_totals_and_pieces_out_of_bounds_are_violations() {
        let mut reassembly = Reassembly::new();
        reassembly.accept_piece(piece(0, 0, 9, b"abc"), &mut no_delivery).unwrap();
        let error = reassembly.accept_piece(piece(0, 3, 8, b"def"), &mut no_delivery);
        assert_eq!(error, Err(Violation::Contradiction));
        for (offset, total, bytes) in
            [(8, 9, &b"xy"[..]), (10, 9, b""), (0, u32::MAX, b"x"), (u32::MAX, 9, b"x")]
        {
            let error = reassembly.accept_piece(piece(1, offset, total, bytes), &mut no_delivery);
            assert_eq!(error, Err(Violation::FragmentBounds));
        }
    }

    #[test]
    fn the_table_holds_its_bounds_and_no_more() {
        let mut reassembly = Reassembly::new();
        for id in 0..REASSEMBLY_MESSAGES_MAX as u64 {
            reassembly.accept_piece(piece(id, 0, 100, b"x"), &mut no_delivery).unwrap();
        }
        let error = reassembly.accept_piece(piece(100, 0, 100, b"x"), &mut no_delivery);
        assert_eq!(error, Err(Violation::ReassemblyBounds));

        let mut reassembly = Reassembly::new();
        for id in 0..4 {
            reassembly.accept_piece(piece(id, 0, 1 << 20, b"x"), &mut no_delivery).unwrap();
        }
        let error = reassembly.accept_piece(piece(4, 0, 2, b"x"), &mut no_delivery);
        assert_eq!(error, Err(Violation::ReassemblyBounds));
        let error = reassembly.accept_whole(MESSAGE_WINDOW * 2, || Taken::Yes);
        assert_eq!(error, Err(Violation::MessageIdAhead));
    }

    #[test]
    fn a_message_of_too_many_holes_is_a_violation() {
        let mut reassembly = Reassembly::new();
        let mut offered = 0;
        let error = loop {
            match reassembly.accept_piece(piece(0, offered * 2, 1 << 20, b"x"), &mut no_delivery) {
                Ok(_) => offered += 1,
                Err(violation) => break violation,
            }
        };
        assert_eq!((error, offered as usize), (Violation::ReassemblyBounds, REASSEMBLY_RANGES_MAX));
    }

    #[test]
    fn a_whole_copy_ends_the_message_that_came_in_pieces() {
        let mut reassembly = Reassembly::new();
        reassembly.accept_piece(piece(3, 0, 9, b"abc"), &mut no_delivery).unwrap();
        assert_eq!(reassembly.accept_whole(3, || Taken::Yes), Ok(Arrival::New));
        assert_eq!(reassembly.held(), (0, 0));
        let late = reassembly.accept_piece(piece(3, 3, 9, b"def"), &mut no_delivery);
        assert_eq!(late, Ok(Arrival::Duplicate));
    }

    proptest! {
        #[test]
        fn ranges_agree_with_a_set_of_bytes(
            pieces in proptest::collection::vec((0usize..64, 1usize..16), 1..60)
        ) {
            let (mut ranges, mut bytes) = (Ranges::default(), [false; 80]);
            for (start, len) in pieces {
                ranges.insert(start, start + len).unwrap();
                bytes[start..start + len].fill(true);
            }
            let mut named = [false; 80];
            for &(start, end) in &ranges.0 {
                named[start as usize..end as usize].fill(true);
            }
            prop_assert_eq!(named, bytes);
            for pair in ranges.0.windows(2) {
                prop_assert!(pair[0].1 < pair[1].0);
            }
        }
    }
}
