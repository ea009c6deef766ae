//! One datagram to send, as slices for `sendmsg` to gather: short pieces are collected in a scratch
//! buffer that is used again and again, pages stay where they are.

use std::net::SocketAddr;

use smallvec::SmallVec;

use super::crypt::Seal;
use super::session::{Fragment, Outbox};
use super::wire::{self, SessionId};

/// Slices that a datagram needs at most without allocation: 64 KiB of pages, each with its head.
const SLICES: usize = 36;
/// Slices up to this length are cheaper to copy than to gather.
const COPY_MAX: usize = 512;
/// What the padding of path MTU probes is taken from.
static PADDING: [u8; 1 << 16] = [0; 1 << 16];

/// A datagram, ready to be sent.
pub struct Transmit<'a> {
    /// Where to.
    pub to: SocketAddr,
    /// Its bytes, in number.
    pub len: usize,
    /// There has been much traffic to this peer, which has proved that it is one.
    pub is_one_of_many: bool,
    buf: &'a TransmitBuf,
    /// Where bytes are that were not copied; `None` if all were.
    outbox: Option<&'a Outbox>,
}

impl<'a> Transmit<'a> {
    /// Gives `take` the slices of which the datagram consists, in order.
    pub fn with_slices<T>(&self, take: impl FnOnce(&[&'a [u8]]) -> T) -> T {
        let Some(outbox) = self.outbox.filter(|_| self.buf.borrowed > 0) else {
            return take(&[&self.buf.bytes]);
        };
        let mut slices = SmallVec::<[&[u8]; SLICES]>::new();
        self.buf.for_slices(outbox, |slice| slices.push(slice));
        take(&slices)
    }

    /// Replaces the contents of `out` by the datagram's bytes.
    pub fn copy_into(&self, out: &mut Vec<u8>) {
        out.clear();
        self.with_slices(|slices| slices.iter().for_each(|slice| out.extend_from_slice(slice)));
    }
}

/// Room in which datagrams are put together; keep one and use it for every call.
#[derive(Default)]
pub struct TransmitBuf {
    pub(super) bytes: Vec<u8>,
    segments: Vec<Segment>,
    borrowed: usize,
    layout: Layout,
}

/// Where the bytes of a message are when the datagram goes out.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Layout {
    /// Long ones stay in their message.
    #[default]
    Gathered,
    /// Copied together, since the datagram is encrypted in place.
    InOnePiece,
}

enum Segment {
    /// `bytes`, up to here.
    Scratch { end: usize },
    /// Bytes that stay in their message.
    Message(Fragment),
    /// So many zeros.
    Padding(usize),
}

impl TransmitBuf {
    /// Starts a new datagram.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.segments.clear();
        self.borrowed = 0;
        self.layout = Layout::Gathered;
    }

    /// Starts a new datagram with the header of a packet.
    pub(super) fn begin(&mut self, seal: &Seal, receiver: SessionId, number: u64) {
        self.clear();
        match seal {
            Seal::Plain(_) => {}
            Seal::Encrypted(_) => self.layout = Layout::InOnePiece,
        }
        seal.put_header(&mut self.bytes, receiver, number);
    }

    /// Bytes of the datagram so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() + self.borrowed
    }

    /// Appends a fragment's bytes: long slices by reference, short ones by copy.
    pub(super) fn put_fragment(&mut self, outbox: &Outbox, fragment: Fragment) {
        let TransmitBuf { bytes, segments, borrowed, layout } = self;
        let mut offset = fragment.offset;
        outbox.for_slices(fragment, |slice| {
            let len = slice.len() as u32;
            if slice.len() <= COPY_MAX || *layout == Layout::InOnePiece {
                bytes.extend_from_slice(slice);
            } else {
                segments.push(Segment::Scratch { end: bytes.len() });
                segments.push(Segment::Message(fragment.of_same(offset, len)));
                *borrowed += slice.len();
            }
            offset += len;
        });
    }

    /// Appends `len` zeros.
    pub(super) fn put_padding(&mut self, len: usize) {
        if self.layout == Layout::InOnePiece {
            return self.bytes.resize(self.bytes.len() + len.min(PADDING.len()), 0);
        }
        self.segments.push(Segment::Scratch { end: self.bytes.len() });
        self.segments.push(Segment::Padding(len.min(PADDING.len())));
        self.borrowed += len.min(PADDING.len());
    }

    /// The datagram, of scratch bytes only.
    pub(super) fn finish_plain(&self, to: SocketAddr) -> Transmit<'_> {
        Transmit { to, len: self.bytes.len(), is_one_of_many: false, buf: self, outbox: None }
    }

    /// The datagram, sealed.
    pub(super) fn finish_sealed<'a>(
        &'a mut self,
        to: SocketAddr,
        seal: &Seal,
        outbox: &'a Outbox,
    ) -> Transmit<'a> {
        if self.borrowed > 0 {
            // Gathered, so it is plain.
            self.segments.push(Segment::Scratch { end: self.bytes.len() });
            let mut crc: Option<wire::Checksum> = None;
            self.for_slices(outbox, |slice| match &mut crc {
                Some(crc) => crc.add(slice),
                None => crc = Some(wire::Checksum::of_first(slice)),
            });
            let crc = crc.expect("a datagram begins with its header").finish();
            wire::put_checksum(&mut self.bytes, Some(crc));
        } else {
            seal.seal(&mut self.bytes);
        }
        Transmit { to, len: self.len(), is_one_of_many: false, buf: self, outbox: Some(outbox) }
    }

    /// Calls `each` with all slices of a datagram that borrows some, in order; the first one begins with the whole header.
    fn for_slices<'a>(&'a self, outbox: &'a Outbox, mut each: impl FnMut(&'a [u8])) {
        let mut start = 0;
        for segment in &self.segments {
            match *segment {
                Segment::Scratch { end } => {
                    if end > start {
                        each(&self.bytes[start..end]);
                    }
                    start = end;
                }
                Segment::Message(fragment) => outbox.for_slices(fragment, &mut each),
                Segment::Padding(len) => each(&PADDING[..len]),
            }
        }
    }
}
