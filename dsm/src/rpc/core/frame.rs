//! The bytes of a call between two nodes. A message of the transport holds one frame or several: what
//! is ready at the same time for the same peer travels together.
//!
//! ```text
//! 0      1      2      4         8           16          24        32        40
//! | kind | flags | aux | length  | sequence  | extra     | budget  | settled | body
//! |      |       |     | of body |           |           | only in a call    |
//! ```
//! Sequences count the calls of one client to one server, so that (client incarnation, sequence) names
//! a call for ever; `settled` says that the client will ask for nothing below it any more.

use crate::codec::{DecodeError, Reader};

/// Bytes in front of a call's arguments.
pub const CALL_HEADER_LEN: usize = 40;
/// Bytes in front of any other body.
pub(in crate::rpc) const HEADER_LEN: usize = 24;

/// No answer is wanted; the sequence is of the oneway calls.
pub(in crate::rpc) const ONEWAY: u8 = 1;
/// May be executed again.
pub(in crate::rpc) const IDEMPOTENT: u8 = 2;

/// Was sent before, over a session that is lost.
pub(in crate::rpc) const RETRIED: u8 = 4;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::rpc) enum FrameKind {
    /// extra: method; aux: items that the client has room for.
    Call = 1,
    /// aux: [`Status`]; extra: items of the stream that it ends.
    Reply = 2,
    /// extra: index of the item.
    Item = 3,
    /// extra: number of the report. Body: done and total, or nothing for a sign of life.
    Progress = 4,
    /// extra: items that the client has room for, counted from the first.
    Credit = 5,
    /// The client does not wait any more.
    Cancel = 6,
}

/// How a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Body: the result.
    Done = 0,
    /// Body: which of the declared errors, and its value.
    Thrown = 1,
    /// Body: a text.
    Remote = 2,
    /// Not executed: no place in the queue.
    Busy = 3,
    /// Not executed: its time was over before it began.
    Deadline = 4,
    /// The server saw the cancellation.
    Cancelled = 5,
    /// Not executed. Extra: the server's version of the interface.
    BadVersion = 6,
    /// Not executed: no such interface here.
    Unknown = 7,
    /// Executed earlier, and the reply is no longer kept.
    ReplyLost = 8,
}

impl Frame<'_> {
    /// Whether it is a client's first call, at its first attempt.
    pub(in crate::rpc) fn is_first(&self) -> bool {
        self.kind == FrameKind::Call && self.flags & (ONEWAY | RETRIED) == 0 && self.sequence == 0
    }
}

/// Whether the bytes are frames, one after the other: for who must keep a message before it is handled.
pub fn is_message(bytes: &[u8]) -> bool {
    all_frames(bytes, |_| true)
}

/// Whether the message is nothing but calls whose client asks again when its session is new.
pub fn is_asked_again(message: &[u8]) -> bool {
    all_frames(message, |frame| frame.kind == FrameKind::Call && frame.flags & ONEWAY == 0)
}

fn all_frames(bytes: &[u8], are: impl Fn(&Frame<'_>) -> bool) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        match Frame::decode(rest) {
            Ok((frame, behind)) if are(&frame) => rest = behind,
            Ok(_) | Err(_) => return false,
        }
    }
    true
}

/// One frame of a message.
#[derive(Clone, Copy, Debug)]
pub(in crate::rpc) struct Frame<'a> {
    pub(in crate::rpc) kind: FrameKind,
    pub(in crate::rpc) flags: u8,
    pub(in crate::rpc) aux: u16,
    pub(in crate::rpc) sequence: u64,
    pub(in crate::rpc) extra: u64,
    /// Nanoseconds that the call may still take; 0 for no limit.
    pub(in crate::rpc) budget: u64,
    pub(in crate::rpc) settled: u64,
    pub(in crate::rpc) body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads a frame from the front of `bytes`, and says what follows it.
    pub(in crate::rpc) fn decode(bytes: &'a [u8]) -> Result<(Frame<'a>, &'a [u8]), DecodeError> {
        let mut reader = Reader::new(bytes);
        let kind = match reader.u8()? {
            1 => FrameKind::Call,
            2 => FrameKind::Reply,
            3 => FrameKind::Item,
            4 => FrameKind::Progress,
            5 => FrameKind::Credit,
            6 => FrameKind::Cancel,
            _ => return Err(DecodeError::Bad("frame kind")),
        };
        let (flags, aux, len) = (reader.u8()?, reader.u16()?, reader.u32()?);
        let (sequence, extra) = (reader.u64()?, reader.u64()?);
        let (budget, settled) = match kind {
            FrameKind::Call => (reader.u64()?, reader.u64()?),
            FrameKind::Reply
            | FrameKind::Item
            | FrameKind::Progress
            | FrameKind::Credit
            | FrameKind::Cancel => (0, 0),
        };
        let body = reader.bytes(len as usize)?;
        Ok((Frame { kind, flags, aux, sequence, extra, budget, settled, body }, reader.rest()))
    }

    /// Appends the frame.
    pub(in crate::rpc) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + self.header_len(), 0);
        out.extend_from_slice(self.body);
        self.write_header(&mut out[start..], self.body.len());
    }

    /// Writes the header over the front of `bytes`, for a body of `len` bytes that is there already.
    pub(in crate::rpc) fn write_header(&self, bytes: &mut [u8], len: usize) {
        let len = u32::try_from(len).expect("messages are bounded");
        bytes[0] = self.kind as u8;
        bytes[1] = self.flags;
        bytes[2..4].copy_from_slice(&self.aux.to_le_bytes());
        bytes[4..8].copy_from_slice(&len.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.extra.to_le_bytes());
        if self.kind == FrameKind::Call {
            bytes[24..32].copy_from_slice(&self.budget.to_le_bytes());
            bytes[32..40].copy_from_slice(&self.settled.to_le_bytes());
        }
    }

    /// A frame of this kind with nothing in it yet.
    pub(in crate::rpc) fn new(kind: FrameKind, sequence: u64, extra: u64) -> Frame<'static> {
        Frame { kind, flags: 0, aux: 0, sequence, extra, budget: 0, settled: 0, body: &[] }
    }

    /// The bytes of this frame alone.
    pub(in crate::rpc) fn to_vec(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.header_len() + self.body.len());
        self.encode(&mut out);
        out
    }

    fn header_len(&self) -> usize {
        if self.kind == FrameKind::Call { CALL_HEADER_LEN } else { HEADER_LEN }
    }
}

impl Status {
    pub(in crate::rpc) fn from_wire(value: u16) -> Result<Status, DecodeError> {
        Ok(match value {
            0 => Status::Done,
            1 => Status::Thrown,
            2 => Status::Remote,
            3 => Status::Busy,
            4 => Status::Deadline,
            5 => Status::Cancelled,
            6 => Status::BadVersion,
            7 => Status::Unknown,
            8 => Status::ReplyLost,
            _ => return Err(DecodeError::Bad("status")),
        })
    }
}
