//! A message to send: a short head and whole pages, and the order in which queues are served.
//!
//! The logical message is the head followed by the pages; receivers see one run of bytes. Pages go
//! to the kernel from their own buffers, so nothing here copies them.

use smallvec::SmallVec;

use crate::page::{PAGE_SIZE, PageBuf};

/// A message on its way out. The session owns it until the peer has acknowledged all of it, and
/// retransmits from these bytes.
#[derive(Debug, Default)]
pub struct OutMessage {
    /// The first bytes; inline up to 64.
    pub head: SmallVec<[u8; 64]>,
    /// Whole pages that follow the head.
    pub pages: SmallVec<[PageBuf; 1]>,
}

/// Which queue a message waits in. Nothing is promised about order, within a queue or between them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Priority {
    /// Requests, invalidations, leases, membership: short, and others wait for them.
    Control,
    /// Page contents and other volume.
    Bulk,
}

impl OutMessage {
    /// A message of only these bytes.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        OutMessage { head: SmallVec::from_slice(bytes), pages: SmallVec::new() }
    }

    /// Bytes of the logical message.
    pub fn total_len(&self) -> usize {
        self.head.len() + self.pages.len() * PAGE_SIZE
    }

    /// Calls `each` with the slices that make up `len` bytes from `offset`. The range must lie
    /// within the message.
    pub(crate) fn for_slices<'a>(&'a self, offset: usize, len: usize, mut each: impl FnMut(&'a [u8])) {
        let (mut at, end) = (offset, offset + len);
        assert!(end <= self.total_len(), "fragments lie within their message");
        let head_len = self.head.len();
        if at < head_len && at < end {
            let stop = end.min(head_len);
            each(&self.head[at..stop]);
            at = stop;
        }
        while at < end {
            let (page, from) = ((at - head_len) / PAGE_SIZE, (at - head_len) % PAGE_SIZE);
            let stop = PAGE_SIZE.min(from + (end - at));
            each(&self.pages[page].as_slice()[from..stop]);
            at += stop - from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_of_any_range_join_to_the_logical_message() {
        let mut message = OutMessage::from_bytes(b"0123456789");
        for value in [1u8, 2] {
            message.pages.push(PageBuf::copy_of(&[value; PAGE_SIZE]));
        }
        let whole: Vec<u8> =
            b"0123456789".iter().copied().chain([1; PAGE_SIZE]).chain([2; PAGE_SIZE]).collect();
        assert_eq!(message.total_len(), whole.len());
        for (offset, len) in [(0, 10), (3, 20), (10, 4096), (4000, 300), (0, whole.len()), (whole.len(), 0)] {
            let mut joined = Vec::new();
            message.for_slices(offset, len, |slice| joined.extend_from_slice(slice));
            assert_eq!(joined, &whole[offset..offset + len]);
        }
    }
}
