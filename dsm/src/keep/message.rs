//! What a node and its keeper say to each other, one packet of the socket each.

use crate::codec::{DecodeError, Reader};
use crate::page::{Incarnation, NodeId};

/// First in each packet: who speaks otherwise is no node.
const MAGIC: u32 = 0x4b4d_4750;
/// Format of the packets and of the files that are handed over. A keeper of another format refuses.
const FORMAT: u16 = 2;
/// Longest packet, in bytes.
pub(super) const PACKET_MAX: usize = 512;
/// Longest reason of a refusal, in bytes.
const REASON_MAX: usize = 400;

const OFFER: u8 = 1;
const FORGET: u8 = 2;
const KEPT: u8 = 3;
const NO: u8 = 4;

/// What a node offers, beside the two descriptors: the arena's, then the record's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    /// Bytes of the arena's file.
    pub(super) arena_len: u64,
    /// Bytes of the record's file.
    pub(super) record_len: u64,
}

/// Node to keeper.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Request {
    /// Hold these two files.
    Offer(Offer),
    /// Close what was offered on this connection.
    Forget,
}

/// Keeper to node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Kept,
    No(String),
}

fn head(kind: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.extend(MAGIC.to_le_bytes());
    bytes.extend(FORMAT.to_le_bytes());
    bytes.push(kind);
    bytes
}

/// The kind of a packet, and its rest.
fn open(bytes: &[u8]) -> Result<(u8, Reader<'_>), DecodeError> {
    let mut reader = Reader::new(bytes);
    if reader.u32()? != MAGIC {
        return Err(DecodeError::Bad("magic number"));
    }
    if reader.u16()? != FORMAT {
        return Err(DecodeError::Bad("format"));
    }
    Ok((reader.u8()?, reader))
}

impl Request {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Request::Offer(Offer { node, incarnation, arena_len, record_len }) => {
                let mut bytes = head(OFFER);
                bytes.extend(node.0.to_le_bytes());
                for word in [incarnation.0, *arena_len, *record_len] {
                    bytes.extend(word.to_le_bytes());
                }
                bytes
            }
            Request::Forget => head(FORGET),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Request, DecodeError> {
        let (kind, mut reader) = open(bytes)?;
        let request = match kind {
            OFFER => Request::Offer(Offer {
                node: NodeId(reader.u16()?),
                incarnation: Incarnation(reader.u64()?),
                arena_len: reader.u64()?,
                record_len: reader.u64()?,
            }),
            FORGET => Request::Forget,
            _ => return Err(DecodeError::Bad("request")),
        };
        if reader.is_empty() { Ok(request) } else { Err(DecodeError::Bad("length")) }
    }
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Answer::Kept => head(KEPT),
            Answer::No(reason) => {
                let mut bytes = head(NO);
                let end = reason.floor_char_boundary(REASON_MAX);
                bytes.extend(&reason.as_bytes()[..end]);
                bytes
            }
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Answer, DecodeError> {
        let (kind, reader) = open(bytes)?;
        match kind {
            KEPT if reader.is_empty() => Ok(Answer::Kept),
            NO => Ok(Answer::No(String::from_utf8_lossy(reader.rest()).into_owned())),
            _ => Err(DecodeError::Bad("answer")),
        }
    }
}
