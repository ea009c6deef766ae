//! The bytes of a data packet: its header, its tag and its frames. Layouts are drawn in
//! `docs/transport.md`. Integers are little-endian and of fixed width.
//!
//! Not here: the handshake's packets (`handshake.rs`), what a frame causes (`session.rs`), and
//! encryption (`crypt.rs`); in a plain session the 16 bytes of the tag hold a CRC32C and the session's
//! token. Structure after RFC 9000, sections 17 and 19.

use crate::codec::{DecodeError, Reader, Writer};
use crate::config::net::{ACK_RANGES_MAX, CLOSE_REASON_LEN_MAX};
use crate::page::Span;

/// Version of every byte layout below and of the handshake.
pub const PROTOCOL: u32 = 10;
/// Bytes of a packet's tag: of its AEAD, or a checksum of 4 and a token of 12.
pub const TAG_LEN: usize = 16;
/// Bytes before the first frame: type 1, tag 16, session 4, packet number 8.
pub const HEADER_LEN: usize = SESSION_AT + 12;
/// Bytes of the header that an AEAD authenticates: all but the tag.
pub const COVERED_LEN: usize = HEADER_LEN - TAG_LEN;
/// First byte of a hello.
pub const TYPE_HELLO: u8 = 0x01;
/// First byte of a welcome.
pub const TYPE_WELCOME: u8 = 0x02;
/// First byte of a refusal.
pub const TYPE_REFUSE: u8 = 0x03;
/// First byte of a cookie: say hello again, with it.
pub const TYPE_COOKIE: u8 = 0x04;
/// First byte of a data packet in the even key phase.
pub const TYPE_DATA: u8 = 0x10;
/// The same in the odd key phase.
pub const TYPE_DATA_ODD: u8 = 0x11;

const TAG_AT: usize = 1;
const SESSION_AT: usize = TAG_AT + TAG_LEN;
/// The checksum covers everything from here on, so that it is one run of bytes.
const CHECKED_AT: usize = TAG_AT + 4;
const TOKEN_LEN: usize = 12;

const FRAME_WHOLE: u8 = 1;
const FRAME_PART: u8 = 2;
const FRAME_ACK: u8 = 3;
const FRAME_CREDIT: u8 = 4;
const FRAME_PING: u8 = 5;
const FRAME_CLOSE: u8 = 6;
const FRAME_PROBE: u8 = 7;

/// Bytes of a whole message's frame before the message.
pub const WHOLE_HEAD_LEN: usize = 11;
/// Bytes of a fragment's frame before the fragment.
pub const PART_HEAD_LEN: usize = 19;
/// Bytes of the longest ACK frame.
pub const ACK_LEN_MAX: usize = 18 + (ACK_RANGES_MAX - 1) * 8;
/// Bytes of a CREDIT frame.
pub const CREDIT_LEN: usize = 5;

/// A session as its receiver numbers it: the low bits are a table index, the rest is random.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionId(pub u32);

/// Twelve bytes that only the two ends of a plain session know, one value for each direction. They keep
/// packets of other sessions and blind forgeries out; they are no defence against who reads along.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token(pub [u8; TOKEN_LEN]);

/// Which of two keys a packet is under; it changes with each new key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Of a session's first key, and of all plain packets.
    Even,
    /// Of its second.
    Odd,
}

impl Phase {
    /// The one after this one.
    pub fn other(self) -> Phase {
        match self {
            Phase::Even => Phase::Odd,
            Phase::Odd => Phase::Even,
        }
    }

    fn packet_type(self) -> u8 {
        match self {
            Phase::Even => TYPE_DATA,
            Phase::Odd => TYPE_DATA_ODD,
        }
    }
}

/// A data packet whose header has the right shape; nothing has been checked yet.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The session, as the receiver numbers it.
    pub receiver: SessionId,
    /// The packet's number; never used twice in one direction of a session.
    pub number: u64,
    /// Which key it is under.
    pub phase: Phase,
    datagram: &'a mut [u8],
}

impl<'a> Packet<'a> {
    /// Reads a datagram's header. Fails on other packet types and on datagrams shorter than a header.
    pub fn decode(datagram: &'a mut [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(datagram);
        let phase = match reader.u8()? {
            TYPE_DATA => Phase::Even,
            TYPE_DATA_ODD => Phase::Odd,
            _ => return Err(DecodeError::Bad("packet type")),
        };
        reader.bytes(TAG_LEN)?;
        let receiver = SessionId(reader.u32()?);
        let number = reader.u64()?;
        Ok(Packet { receiver, number, phase, datagram })
    }

    /// What an AEAD covers of the header, the tag, and the frames.
    pub fn parts(self) -> ([u8; COVERED_LEN], [u8; TAG_LEN], &'a mut [u8]) {
        let (header, frames) = self.datagram.split_at_mut(HEADER_LEN);
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&header[TAG_AT..SESSION_AT]);
        (covered(header).0, tag, frames)
    }

    /// The frames, if this is an unaltered packet of the plain session with this token.
    pub fn plain_frames(self, token: Token) -> Option<&'a mut [u8]> {
        let checked = &self.datagram[CHECKED_AT..];
        let crc = &self.datagram[TAG_AT..CHECKED_AT];
        let is_ours = self.phase == Phase::Even
            && checked[..TOKEN_LEN] == token.0
            && crc_fast::crc32_iscsi(checked).to_le_bytes() == crc;
        is_ours.then_some(&mut self.datagram[HEADER_LEN..])
    }
}

/// What an AEAD covers of a header, and the packet number in it.
pub fn covered(header: &[u8]) -> ([u8; COVERED_LEN], u64) {
    let (mut covered, mut number) = ([0; COVERED_LEN], [0; 8]);
    covered[0] = header[0];
    covered[1..].copy_from_slice(&header[SESSION_AT..HEADER_LEN]);
    number.copy_from_slice(&covered[5..]);
    (covered, u64::from_le_bytes(number))
}

/// Appends the header of a packet that is going to be encrypted; [`put_tag`] completes it.
pub fn put_header(out: &mut Vec<u8>, phase: Phase, receiver: SessionId, number: u64) {
    out.put_u8(phase.packet_type());
    out.put(&[0; TAG_LEN]);
    out.put_u32(receiver.0);
    out.put_u64(number);
}

/// Writes an AEAD's tag into a header.
pub fn put_tag(header: &mut [u8], tag: &[u8]) {
    header[TAG_AT..SESSION_AT].copy_from_slice(tag);
}

/// Appends the header of a plain packet; [`put_checksum`] completes it.
pub fn put_plain_header(out: &mut Vec<u8>, receiver: SessionId, number: u64, token: Token) {
    out.put_u8(TYPE_DATA);
    out.put_u32(0);
    out.put(&token.0);
    out.put_u32(receiver.0);
    out.put_u64(number);
}

/// The CRC32C of a packet that lies in several places.
pub struct Checksum(crc_fast::Digest);

impl Checksum {
    /// Begins with a packet's first bytes: at least its header.
    pub fn of_first(bytes: &[u8]) -> Self {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        digest.update(&bytes[CHECKED_AT..]);
        Checksum(digest)
    }

    /// Goes on with the bytes that follow.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum as it stands in the header.
    pub fn finish(&self) -> u32 {
        self.0.finalize() as u32
    }
}

/// Writes the checksum into the header at the start of a plain packet; it is the packet's own if none is given.
pub fn put_checksum(packet: &mut [u8], crc: Option<u32>) {
    let crc = crc.unwrap_or_else(|| crc_fast::crc32_iscsi(&packet[CHECKED_AT..]));
    packet[TAG_AT..CHECKED_AT].copy_from_slice(&crc.to_le_bytes());
}

/// Consecutive packet numbers, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PacketRange {
    /// The lowest number.
    pub first: u64,
    /// The highest number.
    pub last: u64,
}

/// One frame of a packet. Bytes are slices of the datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// A message that fits one packet.
    Whole {
        /// Number of the message; counted for each direction of a session, from 0.
        id: u64,
        /// The message.
        bytes: &'a [u8],
    },
    /// A piece of a longer message.
    Part {
        /// Number of the message.
        id: u64,
        /// Where the piece starts in the message.
        offset: u32,
        /// Bytes of the whole message.
        total: u32,
        /// The piece.
        bytes: &'a [u8],
    },
    /// Packets that arrived.
    Ack(Ack<'a>),
    /// Bytes, in truesize terms, that the receiver of this frame may have unacknowledged.
    Credit {
        /// The bytes.
        window: u32,
    },
    /// Asks for an acknowledgement.
    Ping,
    /// The session is over.
    Close {
        /// Why, for programs.
        code: u16,
        /// Why, for people; not checked to be UTF-8.
        reason: &'a [u8],
    },
    /// Padding to the end of the packet, to learn whether packets of this size arrive.
    Probe,
}

/// An ACK frame that has been checked: iterating its ranges cannot fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack<'a> {
    /// Between the newest packet's arrival and this frame.
    pub delay: Span,
    /// The newest packet that arrived.
    pub largest: u64,
    first_len: u32,
    more: &'a [u8],
}

impl Ack<'_> {
    /// The ranges, newest first.
    pub fn ranges(&self) -> impl Iterator<Item = PacketRange> {
        let newest = PacketRange { first: self.largest - u64::from(self.first_len), last: self.largest };
        let mut below = newest.first;
        let more = self.more.chunks_exact(8).filter_map(move |chunk| {
            let range = next_range(chunk, below)?;
            below = range.first;
            Some(range)
        });
        std::iter::once(newest).chain(more)
    }
}

/// The range described by 4 bytes of gap and 4 bytes of length under packet number `below`.
fn next_range(chunk: &[u8], below: u64) -> Option<PacketRange> {
    let mut reader = Reader::new(chunk);
    let gap = u64::from(reader.u32().ok()?);
    let len = u64::from(reader.u32().ok()?);
    let last = below.checked_sub(gap)?.checked_sub(2)?;
    Some(PacketRange { first: last.checked_sub(len)?, last })
}

/// Decodes the next frame of a packet; `None` at its end.
pub fn next_frame<'a>(reader: &mut Reader<'a>) -> Result<Option<Frame<'a>>, DecodeError> {
    if reader.is_empty() {
        return Ok(None);
    }
    let frame = match reader.u8()? {
        FRAME_WHOLE => {
            let id = reader.u64()?;
            let len = usize::from(reader.u16()?);
            Frame::Whole { id, bytes: reader.bytes(len)? }
        }
        FRAME_PART => {
            let id = reader.u64()?;
            let offset = reader.u32()?;
            let total = reader.u32()?;
            let len = usize::from(reader.u16()?);
            Frame::Part { id, offset, total, bytes: reader.bytes(len)? }
        }
        FRAME_ACK => Frame::Ack(decode_ack(reader)?),
        FRAME_CREDIT => Frame::Credit { window: reader.u32()? },
        FRAME_PING => Frame::Ping,
        FRAME_CLOSE => {
            let code = reader.u16()?;
            let len = usize::from(reader.u8()?);
            if len > CLOSE_REASON_LEN_MAX {
                return Err(DecodeError::Bad("close reason"));
            }
            Frame::Close { code, reason: reader.bytes(len)? }
        }
        FRAME_PROBE => {
            reader.bytes(reader.rest().len())?;
            Frame::Probe
        }
        _ => return Err(DecodeError::Bad("frame type")),
    };
    Ok(Some(frame))
}

fn decode_ack<'a>(reader: &mut Reader<'a>) -> Result<Ack<'a>, DecodeError> {
    let delay = Span::from_us(u64::from(reader.u32()?));
    let ranges = usize::from(reader.u8()?);
    let largest = reader.u64()?;
    let first_len = reader.u32()?;
    if ranges == 0 || ranges > ACK_RANGES_MAX || u64::from(first_len) > largest {
        return Err(DecodeError::Bad("ack"));
    }
    let more = reader.bytes((ranges - 1) * 8)?;
    let mut below = largest - u64::from(first_len);
    for chunk in more.chunks_exact(8) {
        below = next_range(chunk, below).ok_or(DecodeError::Bad("ack range"))?.first;
    }
    Ok(Ack { delay, largest, first_len, more })
}

/// Appends the head of a whole message; the message's `len` bytes must follow.
pub fn put_whole_head(out: &mut Vec<u8>, id: u64, len: u16) {
    out.put_u8(FRAME_WHOLE);
    out.put_u64(id);
    out.put_u16(len);
}

/// Appends the head of a fragment; its `len` bytes must follow.
pub fn put_part_head(out: &mut Vec<u8>, id: u64, offset: u32, total: u32, len: u16) {
    out.put_u8(FRAME_PART);
    out.put_u64(id);
    out.put_u32(offset);
    out.put_u32(total);
    out.put_u16(len);
}

/// Appends an ACK of `ranges`, newest first. Ranges beyond the format's reach are left out: they
/// are acknowledged no more, which costs their sender a retransmission.
pub fn put_ack(out: &mut Vec<u8>, ranges: &[PacketRange], delay: Span) {
    let Some((newest, older)) = ranges.split_first() else {
        return;
    };
    out.put_u8(FRAME_ACK);
    out.put_u32(u32::try_from(delay.0 / 1_000).unwrap_or(u32::MAX));
    let count_at = out.len();
    out.put_u8(1);
    out.put_u64(newest.last);
    let first_len = u32::try_from(newest.last - newest.first).unwrap_or(u32::MAX);
    out.put_u32(first_len);
    let mut below = newest.last - u64::from(first_len);
    let mut count = 1;
    for range in older.iter().take(ACK_RANGES_MAX - 1) {
        let (Ok(gap), Ok(len)) =
            (u32::try_from(below - range.last - 2), u32::try_from(range.last - range.first))
        else {
            break;
        };
        out.put_u32(gap);
        out.put_u32(len);
        below = range.first;
        count += 1;
    }
    out[count_at] = count;
}

/// Appends a CREDIT frame.
pub fn put_credit(out: &mut Vec<u8>, window: u32) {
    out.put_u8(FRAME_CREDIT);
    out.put_u32(window);
}

/// Appends a PING frame.
pub fn put_ping(out: &mut Vec<u8>) {
    out.put_u8(FRAME_PING);
}

/// Appends a CLOSE frame; a longer reason is cut.
pub fn put_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let reason = &reason.as_bytes()[..reason.floor_char_boundary(CLOSE_REASON_LEN_MAX)];
    out.put_u8(FRAME_CLOSE);
    out.put_u16(code);
    out.put_u8(u8::try_from(reason.len()).expect("cut above"));
    out.put(reason);
}

/// Appends the head of a PROBE; everything after it in the packet is padding.
pub fn put_probe_head(out: &mut Vec<u8>) {
    out.put_u8(FRAME_PROBE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode_all(payload: &[u8]) -> Result<usize, DecodeError> {
        let mut reader = Reader::new(payload);
        let mut count = 0;
        while let Some(frame) = next_frame(&mut reader)? {
            if let Frame::Ack(ack) = frame {
                count += ack.ranges().count();
            }
            count += 1;
        }
        Ok(count)
    }

    #[test]
    fn frames_come_back_as_they_were_written() {
        let ranges = [
            PacketRange { first: 90, last: 99 },
            PacketRange { first: 50, last: 50 },
            PacketRange { first: 0, last: 48 },
        ];
        let mut out = Vec::new();
        put_ack(&mut out, &ranges, Span::from_us(17));
        put_credit(&mut out, 4711);
        put_ping(&mut out);
        put_whole_head(&mut out, 7, 2);
        out.put(b"hi");
        put_part_head(&mut out, 8, 1000, 5000, 3);
        out.put(b"abc");
        put_close(&mut out, 3, &"é".repeat(100));
        put_probe_head(&mut out);
        out.put(&[0; 40]);
        let mut reader = Reader::new(&out);
        let mut next = || next_frame(&mut reader).unwrap();
        let Some(Frame::Ack(ack)) = next() else { panic!("an ack first") };
        assert_eq!((ack.delay, ack.largest), (Span::from_us(17), 99));
        assert_eq!(ack.ranges().collect::<Vec<_>>(), ranges);
        assert_eq!(next(), Some(Frame::Credit { window: 4711 }));
        assert_eq!(next(), Some(Frame::Ping));
        assert_eq!(next(), Some(Frame::Whole { id: 7, bytes: b"hi" }));
        assert_eq!(next(), Some(Frame::Part { id: 8, offset: 1000, total: 5000, bytes: b"abc" }));
        assert_eq!(next(), Some(Frame::Close { code: 3, reason: "é".repeat(60).as_bytes() }));
        assert_eq!(next(), Some(Frame::Probe));
        assert_eq!(next(), None);
    }

    #[test]
    fn a_plain_packet_is_accepted_only_as_it_was_sealed() {
        let token = Token([9; 12]);
        let mut out = Vec::new();
        put_plain_header(&mut out, SessionId(5), 77, token);
        put_ping(&mut out);
        let mut crc = Checksum::of_first(&out[..HEADER_LEN]);
        crc.add(&out[HEADER_LEN..]);
        let mut twin = out.clone();
        put_checksum(&mut out, None);
        put_checksum(&mut twin, Some(crc.finish()));
        assert_eq!(out, twin, "in two places or in one");
        let is_accepted = |bytes: &mut [u8]| {
            Packet::decode(bytes).is_ok_and(|packet| {
                (packet.receiver, packet.number) == (SessionId(5), 77) && packet.plain_frames(token).is_some()
            })
        };
        assert!(is_accepted(&mut out));
        for bit in 0..out.len() * 8 {
            out[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_accepted(&mut out), "bit {bit} may flip unseen");
            out[bit / 8] ^= 1 << (bit % 8);
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode_all(&bytes);
            let _ = Packet::decode(&mut bytes).map(|packet| packet.plain_frames(Token([0; 12])).is_some());
        }

        #[test]
        fn random_bytes_after_each_frame_type_never_panic(
            kind in 0u8..9, bytes in proptest::collection::vec(any::<u8>(), 0..300)
        ) {
            let mut all = vec![kind];
            all.extend(bytes);
            let _ = decode_all(&all);
        }
    }
}
