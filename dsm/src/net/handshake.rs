//! The three handshake packets: a hello, and a welcome or a refusal as its answer.
//!
//! One round trip proves to both sides that the other knows the cluster's key and is alive now: the
//! welcome's MAC covers the initiator's nonce, and the initiator's first data packet carries a token
//! made of both nonces. Nothing is answered, and no state kept, before the MAC has been checked.
//! There are no session keys yet; Noise will take this file's place (docs/transport.md).

use std::fmt;

use crate::codec::{DecodeError, Reader, Writer};
use crate::page::Incarnation;

use super::wire::{PROTOCOL, SessionId, TYPE_HELLO, TYPE_REFUSE, TYPE_WELCOME, Token};

/// Bytes of a hello and of a welcome. The answer is never longer than the question.
pub(super) const HELLO_LEN: usize = 96;
/// Bytes that a later version's hello may have and still be refused politely.
const HANDSHAKE_LEN_MAX: usize = 1200;

const MAC_AT: usize = 13;
const MAC_LEN: usize = 16;
const MAC_END: usize = MAC_AT + MAC_LEN;

/// The secret that all nodes of a cluster share.
#[derive(Clone)]
pub struct ClusterKey([u8; 32]);

impl ClusterKey {
    /// A key of these bytes, which should be random.
    pub fn new(bytes: [u8; 32]) -> Self {
        ClusterKey(bytes)
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

/// The numbers of the library's release.
const RELEASE: [&str; 3] =
    [env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"), env!("CARGO_PKG_VERSION_PATCH")];

/// What both ends of a session must agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    /// The transport's protocol.
    pub protocol: u32,
    /// The library's release, 16 bits for each of its three numbers: nodes of one cluster run the same code.
    pub library: u64,
}

impl Version {
    /// This protocol, and a library of this release.
    pub fn of_library(library: u64) -> Self {
        Version { protocol: PROTOCOL, library }
    }

    /// This protocol and this library.
    pub fn ours() -> Self {
        let [major, minor, patch] = RELEASE.map(|number| number.parse::<u16>().expect("a small number"));
        Version::of_library(u64::from(major) << 32 | u64::from(minor) << 16 | u64::from(patch))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = [32, 16, 0].map(|shift| self.library >> shift & 0xffff);
        write!(f, "library {major}.{minor}.{patch} (protocol {})", self.protocol)
    }
}

/// Sixteen bytes used once.
pub(crate) type Nonce = [u8; 16];

/// Names the attempts of a node to open one session, until one of them comes up. None of the earlier ones has: what
/// its peer has sent there was given to nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Series(u64);

impl Series {
    pub(super) fn new(number: u64) -> Self {
        Series(number)
    }
}

/// Keys derived from the cluster's key, one for each use.
pub(super) struct Keys {
    mac: [u8; 32],
    token: [u8; 32],
    fingerprint: [u8; 8],
}

/// The first packet of an initiator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub(super) version: Version,
    pub(super) nonce: Nonce,
    pub(super) session: SessionId,
    pub(super) incarnation: Incarnation,
    pub(super) credit: u32,
    pub(super) series: Series,
}

/// A responder's yes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Welcome {
    pub(super) receiver: SessionId,
    pub(super) version: Version,
    pub(super) hello_nonce: Nonce,
    pub(super) nonce: Nonce,
    pub(super) session: SessionId,
    pub(super) incarnation: Incarnation,
    pub(super) credit: u32,
}

/// A responder's no.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refuse {
    pub(super) receiver: SessionId,
    pub(super) version: Version,
    pub(super) hello_nonce: Nonce,
    pub(super) why: RefuseWhy,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RefuseWhy {
    Version,
    Full,
}

/// An authentic handshake packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Handshake {
    Hello(Hello),
    Welcome(Welcome),
    Refuse(Refuse),
    /// A hello of another protocol version, which may be laid out differently behind its nonce.
    ForeignHello {
        version: Version,
        nonce: Nonce,
        session: SessionId,
    },
}

/// Why a handshake packet is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reject {
    /// Wrong length, or an authentic packet that makes no sense.
    Malformed,
    /// Made with another key.
    Key,
    /// Altered, or made without the key.
    Mac,
}

impl From<DecodeError> for Reject {
    fn from(_: DecodeError) -> Self {
        Reject::Malformed
    }
}

impl Keys {
    pub(super) fn derive(key: &ClusterKey) -> Self {
        let fingerprint = blake3::derive_key("dsm transport 1 cluster key fingerprint", &key.0);
        let mut short = [0; 8];
        short.copy_from_slice(&fingerprint[..8]);
        Keys {
            mac: blake3::derive_key("dsm transport 1 handshake mac", &key.0),
            token: blake3::derive_key("dsm transport 1 session token", &key.0),
            fingerprint: short,
        }
    }

    /// The tokens of a session: the initiator's packets, the responder's packets.
    pub(super) fn tokens(&self, hello: &Nonce, welcome: &Nonce) -> (Token, Token) {
        let mut hasher = blake3::Hasher::new_keyed(&self.token);
        hasher.update(hello).update(welcome);
        let hash = hasher.finalize();
        let (mut initiator, mut responder) = ([0; 12], [0; 12]);
        initiator.copy_from_slice(&hash.as_bytes()[..12]);
        responder.copy_from_slice(&hash.as_bytes()[12..24]);
        (Token(initiator), Token(responder))
    }

    pub(super) fn encode_hello(&self, hello: &Hello) -> Vec<u8> {
        // The responder's session does not exist yet.
        let mut out = self.begin(TYPE_HELLO, SessionId(0), hello.version, &hello.nonce);
        out.put_u32(hello.session.0);
        out.put_u64(hello.incarnation.0);
        out.put_u32(hello.credit);
        out.put_u64(hello.series.0);
        out.resize(HELLO_LEN, 0);
        self.seal(out)
    }

    pub(super) fn encode_welcome(&self, welcome: &Welcome) -> Vec<u8> {
        let mut out = self.begin(TYPE_WELCOME, welcome.receiver, welcome.version, &welcome.hello_nonce);
        out.put(&welcome.nonce);
        out.put_u32(welcome.session.0);
        out.put_u64(welcome.incarnation.0);
        out.put_u32(welcome.credit);
        out.resize(HELLO_LEN, 0);
        self.seal(out)
    }

    pub(super) fn encode_refuse(&self, refuse: &Refuse) -> Vec<u8> {
        let mut out = self.begin(TYPE_REFUSE, refuse.receiver, refuse.version, &refuse.hello_nonce);
        out.put_u8(match refuse.why {
            RefuseWhy::Version => 1,
            RefuseWhy::Full => 2,
        });
        self.seal(out)
    }

    /// Checks and decodes a datagram of one of the three types. The cheapest checks come first.
    pub(super) fn decode(&self, datagram: &[u8]) -> Result<Handshake, Reject> {
        if datagram.len() > HANDSHAKE_LEN_MAX {
            return Err(Reject::Malformed);
        }
        let mut reader = Reader::new(datagram);
        let kind = reader.u8()?;
        let receiver = SessionId(reader.u32()?);
        if reader.bytes(8)? != self.fingerprint {
            return Err(Reject::Key);
        }
        let mac = reader.bytes(MAC_LEN)?;
        let (Some(head), Some(body)) = (datagram.get(..MAC_AT), datagram.get(MAC_END..)) else {
            return Err(Reject::Malformed);
        };
        if !is_equal(mac, &self.mac_of(head, body)) {
            return Err(Reject::Mac);
        }
        let version = Version { protocol: reader.u32()?, library: reader.u64()? };
        let nonce = read_nonce(&mut reader)?;
        match kind {
            TYPE_HELLO => {
                let session = SessionId(reader.u32()?);
                // An answer of HELLO_LEN bytes must not be longer than what asked for it.
                if datagram.len() < HELLO_LEN {
                    return Err(Reject::Malformed);
                }
                if version.protocol != PROTOCOL {
                    return Ok(Handshake::ForeignHello { version, nonce, session });
                }
                let incarnation = Incarnation(reader.u64()?);
                let (credit, series) = (reader.u32()?, Series(reader.u64()?));
                Ok(Handshake::Hello(Hello { version, nonce, session, incarnation, credit, series }))
            }
            TYPE_WELCOME => Ok(Handshake::Welcome(Welcome {
                receiver,
                version,
                hello_nonce: nonce,
                nonce: read_nonce(&mut reader)?,
                session: SessionId(reader.u32()?),
                incarnation: Incarnation(reader.u64()?),
                credit: reader.u32()?,
            })),
            TYPE_REFUSE => {
                let why = match reader.u8()? {
                    1 => RefuseWhy::Version,
                    2 => RefuseWhy::Full,
                    _ => return Err(Reject::Malformed),
                };
                Ok(Handshake::Refuse(Refuse { receiver, version, hello_nonce: nonce, why }))
            }
            _ => Err(Reject::Malformed),
        }
    }

    fn begin(&self, kind: u8, receiver: SessionId, version: Version, nonce: &Nonce) -> Vec<u8> {
        let mut out = Vec::with_capacity(HELLO_LEN);
        out.put_u8(kind);
        out.put_u32(receiver.0);
        out.put(&self.fingerprint);
        out.put(&[0; MAC_LEN]);
        out.put_u32(version.protocol);
        out.put_u64(version.library);
        out.put(nonce);
        out
    }

    fn seal(&self, mut out: Vec<u8>) -> Vec<u8> {
        let mac = self.mac_of(&out[..MAC_AT], &out[MAC_END..]);
        out[MAC_AT..MAC_END].copy_from_slice(&mac);
        out
    }

    fn mac_of(&self, head: &[u8], body: &[u8]) -> [u8; MAC_LEN] {
        let mut hasher = blake3::Hasher::new_keyed(&self.mac);
        hasher.update(head).update(body);
        let mut mac = [0; MAC_LEN];
        mac.copy_from_slice(&hasher.finalize().as_bytes()[..MAC_LEN]);
        mac
    }
}

fn read_nonce(reader: &mut Reader<'_>) -> Result<Nonce, DecodeError> {
    let mut nonce = [0; 16];
    nonce.copy_from_slice(reader.bytes(16)?);
    Ok(nonce)
}

/// Compares in a time that does not tell where the difference is.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            version: Version::of_library(7),
            nonce: [3; 16],
            session: SessionId(9),
            incarnation: Incarnation(11),
            credit: 12_288,
            series: Series(13),
        }
    }

    #[test]
    fn packets_come_back_as_they_were_written() {
        let keys = Keys::derive(&ClusterKey::new([1; 32]));
        assert_eq!(keys.decode(&keys.encode_hello(&hello())), Ok(Handshake::Hello(hello())));
        let welcome = Welcome {
            receiver: SessionId(9),
            version: Version::of_library(7),
            hello_nonce: [3; 16],
            nonce: [4; 16],
            session: SessionId(10),
            incarnation: Incarnation(12),
            credit: 12_288,
        };
        assert_eq!(keys.decode(&keys.encode_welcome(&welcome)), Ok(Handshake::Welcome(welcome)));
        let refuse = Refuse {
            receiver: SessionId(9),
            version: Version::of_library(8),
            hello_nonce: [3; 16],
            why: RefuseWhy::Version,
        };
        assert_eq!(keys.decode(&keys.encode_refuse(&refuse)), Ok(Handshake::Refuse(refuse)));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_rejected() {
        let keys = Keys::derive(&ClusterKey::new([1; 32]));
        let mut bytes = keys.encode_hello(&hello());
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(keys.decode(&bytes).is_err(), "bit {bit} may flip unseen");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..bytes.len() {
            assert!(keys.decode(&bytes[..len]).is_err(), "{len} bytes are enough");
        }
    }

    #[test]
    fn another_key_is_told_from_a_wrong_mac() {
        let keys = Keys::derive(&ClusterKey::new([1; 32]));
        let other = Keys::derive(&ClusterKey::new([2; 32]));
        let mut bytes = other.encode_hello(&hello());
        assert_eq!(keys.decode(&bytes), Err(Reject::Key));
        bytes[5..13].copy_from_slice(&keys.fingerprint);
        assert_eq!(keys.decode(&bytes), Err(Reject::Mac));
    }

    #[test]
    fn a_longer_hello_of_a_later_protocol_still_names_its_version() {
        let keys = Keys::derive(&ClusterKey::new([1; 32]));
        let version = Version { protocol: PROTOCOL + 1, library: 5 };
        let mut bytes = keys.encode_hello(&Hello { version, ..hello() });
        bytes.extend([9; 40]);
        let bytes = keys.seal(bytes);
        let foreign = Handshake::ForeignHello { version, nonce: [3; 16], session: SessionId(9) };
        assert_eq!(keys.decode(&bytes), Ok(foreign));
    }
}
