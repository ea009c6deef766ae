//! The four handshake packets: a hello, and a welcome, a refusal or a cookie as its answer.
//!
//! One round trip proves to both sides that the other knows the cluster's key and is alive now, and gives
//! them fresh secrets (`handshake/noise.rs`). In front of that stands a keyed MAC, as WireGuard's mac1:
//! nothing is answered, computed or kept before it has been checked. The first data packet of each side
//! is under the fresh secrets. Protocol, library and session stand in the clear, where every version
//! looks for them.

mod noise;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::codec::{DecodeError, Reader, Writer};
use crate::config::net::COOKIE_LIFE;
use crate::page::{Incarnation, Time};

use super::crypt::Cipher;
use super::entropy::Entropy;
use super::wire::{PROTOCOL, SessionId, TYPE_COOKIE, TYPE_HELLO, TYPE_REFUSE, TYPE_WELCOME};

use noise::{Asked, OVERHEAD, Pending as NoisePending, Secrets};

/// Bytes of a hello. No answer is longer: a welcome has [`WELCOME_LEN`].
pub(super) const HELLO_LEN: usize = COOKIE_AT + COOKIE_LEN;
const WELCOME_LEN: usize = HEAD_LEN + WELCOME_NOISE_LEN;
/// Bytes of a refusal, of every version.
const REFUSE_LEN: usize = HEAD_LEN + 1;
/// Bytes that a later version's hello may have and still be refused politely.
const HANDSHAKE_LEN_MAX: usize = 1200;

const MAC_AT: usize = 13;
const MAC_LEN: usize = 16;
const MAC_END: usize = MAC_AT + MAC_LEN;
/// Bytes before the fields of each type: the nonce is the last of them.
const HEAD_LEN: usize = MAC_END + 12 + 16;
/// In a hello: the initiator's session comes before.
const HELLO_NOISE_AT: usize = HEAD_LEN + 4;
const HELLO_PAYLOAD_LEN: usize = 8 + 4 + 8 + 1 + 1;
const HELLO_NOISE_LEN: usize = HELLO_PAYLOAD_LEN + OVERHEAD;
const WELCOME_PAYLOAD_LEN: usize = 4 + 8 + 4 + 1;
const WELCOME_NOISE_LEN: usize = WELCOME_PAYLOAD_LEN + OVERHEAD;
const COOKIE_AT: usize = HELLO_NOISE_AT + HELLO_NOISE_LEN;
const COOKIE_LEN: usize = 16;
const _: () = assert!(WELCOME_LEN <= HELLO_LEN);

/// The secret that all nodes of a cluster share.
#[derive(Clone)]
pub struct ClusterKey([u8; 32]);

impl ClusterKey {
    /// A key of these bytes, which should be random.
    pub fn new(bytes: [u8; 32]) -> Self {
        ClusterKey(bytes)
    }

    /// What tells it from other keys, and tells nothing else about it: 16 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        Keys::derive(self).fingerprint.iter().map(|byte| format!("{byte:02x}")).collect()
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

/// Proves that its bearer receives at the address that a hello came from. Zeros: none yet.
pub(super) type Cookie = [u8; COOKIE_LEN];

/// Keys derived from the cluster's key, one for each use.
pub(super) struct Keys {
    mac: [u8; 32],
    psk: [u8; 32],
    fingerprint: Fingerprint,
}

/// Tells keys apart, and tells nothing else about them.
pub(super) type Fingerprint = [u8; 8];

/// What a hello shows to every node that has the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub(super) version: Version,
    pub(super) nonce: Nonce,
    pub(super) session: SessionId,
    pub(super) cookie: Cookie,
    noise: [u8; HELLO_NOISE_LEN],
}

/// What a hello says of its initiator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Caller {
    pub(super) incarnation: Incarnation,
    pub(super) credit: u32,
    pub(super) series: Series,
    /// Whether the session may be plain.
    pub(super) plain: Plain,
    /// The encryption that suits its processor.
    pub(super) cipher: Cipher,
}

/// What one end of a session says of encryption.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Plain {
    /// It must be encrypted.
    Never,
    /// It may be plain if the other end says so too.
    Wanted,
}

/// A responder's yes, as far as it is in the clear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Welcome {
    pub(super) receiver: SessionId,
    pub(super) version: Version,
    pub(super) hello_nonce: Nonce,
    noise: [u8; WELCOME_NOISE_LEN],
}

/// What a welcome says of its responder, and of the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Callee {
    pub(super) session: SessionId,
    pub(super) incarnation: Incarnation,
    pub(super) credit: u32,
    pub(super) cipher: Cipher,
}

/// An attempt that waits for its welcome.
pub(super) struct Pending {
    hello: Hello,
    noise: NoisePending,
}

impl Pending {
    pub(super) fn nonce(&self) -> &Nonce {
        &self.hello.nonce
    }
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
    /// Say hello again, with this.
    Cookie {
        receiver: SessionId,
        hello_nonce: Nonce,
        cookie: Cookie,
    },
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
            psk: blake3::derive_key("pagemesh transport 9 noise psk", &key.0),
            fingerprint: short,
        }
    }

    /// Begins a handshake; [`Keys::encode_hello`] gives its first packet.
    pub(super) fn begin_hello(
        &self,
        entropy: &mut Entropy,
        version: Version,
        session: SessionId,
        caller: &Caller,
    ) -> Pending {
        let nonce = entropy.bytes();
        let mut payload = Vec::with_capacity(HELLO_PAYLOAD_LEN);
        payload.put_u64(caller.incarnation.0);
        payload.put_u32(caller.credit);
        payload.put_u64(caller.series.0);
        payload.put_u8(match caller.plain {
            Plain::Never => 0,
            Plain::Wanted => 1,
        });
        payload.put_u8(number_of(caller.cipher));
        let mut message = [0; HELLO_NOISE_LEN];
        let prologue = prologue(version, &nonce, session);
        let noise = NoisePending::begin(&self.psk, &prologue, entropy, &payload, &mut message);
        let hello = Hello { version, nonce, session, cookie: [0; COOKIE_LEN], noise: message };
        Pending { hello, noise }
    }

    /// The hello of an attempt, with this cookie; zeros if none was asked for.
    pub(super) fn encode_hello(&self, pending: &Pending, cookie: &Cookie) -> Vec<u8> {
        let hello = &pending.hello;
        // The responder's session does not exist yet.
        let mut out = self.begin(TYPE_HELLO, SessionId(0), hello.version, &hello.nonce);
        out.put_u32(hello.session.0);
        out.put(&hello.noise);
        out.put(cookie);
        self.seal(out)
    }

    /// Reads what a hello says of its initiator. No curve arithmetic yet.
    pub(super) fn read_hello(&self, entropy: &mut Entropy, hello: &Hello) -> Option<(Caller, Asked)> {
        let mut payload = [0; HELLO_PAYLOAD_LEN];
        let prologue = prologue(hello.version, &hello.nonce, hello.session);
        let asked = Asked::read(&self.psk, &prologue, entropy, &hello.noise, &mut payload).ok()?;
        let mut reader = Reader::new(&payload);
        let caller = Caller {
            incarnation: Incarnation(reader.u64().ok()?),
            credit: reader.u32().ok()?,
            series: Series(reader.u64().ok()?),
            plain: match reader.u8().ok()? {
                1 => Plain::Wanted,
                _ => Plain::Never,
            },
            cipher: cipher_of(reader.u8().ok()?).filter(|&cipher| cipher != Cipher::Plain)?,
        };
        Some((caller, asked))
    }

    /// Answers a hello: the welcome, and the session's secrets.
    pub(super) fn encode_welcome(&self, hello: &Hello, asked: Asked, callee: &Callee) -> (Vec<u8>, Secrets) {
        let mut payload = Vec::with_capacity(WELCOME_PAYLOAD_LEN);
        payload.put_u32(callee.session.0);
        payload.put_u64(callee.incarnation.0);
        payload.put_u32(callee.credit);
        payload.put_u8(number_of(callee.cipher));
        let mut message = [0; WELCOME_NOISE_LEN];
        let secrets = asked.answer(&payload, &mut message);
        let mut out = self.begin(TYPE_WELCOME, hello.session, hello.version, &hello.nonce);
        out.put(&message);
        (self.seal(out), secrets)
    }

    /// Reads the welcome of an attempt: its responder, and the session's secrets.
    pub(super) fn read_welcome(&self, pending: &mut Pending, welcome: &Welcome) -> Option<(Callee, Secrets)> {
        let mut payload = [0; WELCOME_PAYLOAD_LEN];
        let secrets = pending.noise.finish(&welcome.noise, &mut payload).ok()?;
        let mut reader = Reader::new(&payload);
        let callee = Callee {
            session: SessionId(reader.u32().ok()?),
            incarnation: Incarnation(reader.u64().ok()?),
            credit: reader.u32().ok()?,
            cipher: cipher_of(reader.u8().ok()?)?,
        };
        Some((callee, secrets))
    }

    /// Asks for the same hello with a cookie.
    pub(super) fn encode_cookie(&self, hello: &Hello, cookie: &Cookie) -> Vec<u8> {
        let mut out = self.begin(TYPE_COOKIE, hello.session, hello.version, &hello.nonce);
        out.put(cookie);
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

    /// Checks and decodes a datagram of one of the four types. The cheapest checks come first.
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
        let nonce = read_array(&mut reader)?;
        match kind {
            TYPE_HELLO => {
                let session = SessionId(reader.u32()?);
                // No answer must be longer than what asked for it.
                if datagram.len() < REFUSE_LEN {
                    return Err(Reject::Malformed);
                }
                if version.protocol != PROTOCOL {
                    return Ok(Handshake::ForeignHello { version, nonce, session });
                }
                let (noise, cookie) = (read_array(&mut reader)?, read_array(&mut reader)?);
                Ok(Handshake::Hello(Hello { version, nonce, session, cookie, noise }))
            }
            TYPE_WELCOME => {
                let noise = read_array(&mut reader)?;
                Ok(Handshake::Welcome(Welcome { receiver, version, hello_nonce: nonce, noise }))
            }
            TYPE_COOKIE => {
                let cookie = read_array(&mut reader)?;
                Ok(Handshake::Cookie { receiver, hello_nonce: nonce, cookie })
            }
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

/// What both ends bind their secrets to besides the Noise messages.
fn prologue(version: Version, nonce: &Nonce, session: SessionId) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_LEN);
    out.put_u32(version.protocol);
    out.put_u64(version.library);
    out.put(nonce);
    out.put_u32(session.0);
    out
}

fn number_of(cipher: Cipher) -> u8 {
    match cipher {
        Cipher::Plain => 0,
        Cipher::Aes128Gcm => 1,
        Cipher::Chacha20Poly1305 => 2,
    }
}

fn cipher_of(number: u8) -> Option<Cipher> {
    match number {
        0 => Some(Cipher::Plain),
        1 => Some(Cipher::Aes128Gcm),
        2 => Some(Cipher::Chacha20Poly1305),
        _ => None,
    }
}

fn read_array<const N: usize>(reader: &mut Reader<'_>) -> Result<[u8; N], DecodeError> {
    let mut array = [0; N];
    array.copy_from_slice(reader.bytes(N)?);
    Ok(array)
}

/// The cookies that a responder gives and takes back, without a memory of them.
pub(super) struct Cookies {
    secret: [u8; 32],
}

impl Cookies {
    pub(super) fn new(entropy: &mut Entropy) -> Cookies {
        Cookies { secret: entropy.bytes() }
    }

    /// The cookie for a hello that came from `addr` now.
    pub(super) fn give(&self, now: Time, addr: SocketAddr, hello: &Hello) -> Cookie {
        self.of(now.0 / COOKIE_LIFE.0, addr, hello)
    }

    /// Whether the hello brings the cookie that was given for it, to this address, not long ago.
    pub(super) fn accept(&self, now: Time, addr: SocketAddr, hello: &Hello) -> bool {
        let turn = now.0 / COOKIE_LIFE.0;
        [Some(turn), turn.checked_sub(1)]
            .into_iter()
            .flatten()
            .any(|turn| is_equal(&hello.cookie, &self.of(turn, addr, hello)))
    }

    fn of(&self, turn: u64, addr: SocketAddr, hello: &Hello) -> Cookie {
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(&turn.to_le_bytes()).update(&ip.octets()).update(&addr.port().to_le_bytes());
        hasher.update(&hello.nonce);
        let mut cookie = [0; COOKIE_LEN];
        cookie.copy_from_slice(&hasher.finalize().as_bytes()[..COOKIE_LEN]);
        cookie
    }
}

/// Compares in a time that does not tell where the difference is.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: Caller = Caller {
        incarnation: Incarnation(11),
        credit: 12_288,
        series: Series(13),
        plain: Plain::Wanted,
        cipher: Cipher::Chacha20Poly1305,
    };

    fn keys() -> Keys {
        Keys::derive(&ClusterKey::new([1; 32]))
    }

    fn begin(keys: &Keys, version: Version) -> Pending {
        keys.begin_hello(&mut Entropy::of_seed(3), version, SessionId(9), &CALLER)
    }

    fn hello(keys: &Keys) -> Vec<u8> {
        keys.encode_hello(&begin(keys, Version::of_library(7)), &[5; 16])
    }

    #[test]
    fn both_ends_learn_of_each_other_and_have_the_same_secrets() {
        let keys = keys();
        let mut pending = begin(&keys, Version::of_library(7));
        let Ok(Handshake::Hello(hello)) = keys.decode(&keys.encode_hello(&pending, &[5; 16])) else {
            panic!("a hello")
        };
        assert_eq!((hello.nonce, hello.session, hello.cookie), (*pending.nonce(), SessionId(9), [5; 16]));
        let (caller, asked) = keys.read_hello(&mut Entropy::of_seed(4), &hello).expect("the same key");
        assert_eq!(caller, CALLER);
        let callee = Callee {
            session: SessionId(10),
            incarnation: Incarnation(12),
            credit: 12_288,
            cipher: Cipher::Aes128Gcm,
        };
        let (welcome, secrets) = keys.encode_welcome(&hello, asked, &callee);
        let Ok(Handshake::Welcome(welcome)) = keys.decode(&welcome) else { panic!("a welcome") };
        assert_eq!(welcome.receiver, SessionId(9));
        let read = keys.read_welcome(&mut pending, &welcome);
        assert_eq!(read, Some((callee, secrets)));
        assert_ne!(secrets.0, secrets.1);
    }

    #[test]
    fn answers_without_secrets_come_back_as_they_were_written() {
        let keys = keys();
        let refuse = Refuse {
            receiver: SessionId(9),
            version: Version::of_library(8),
            hello_nonce: [3; 16],
            why: RefuseWhy::Version,
        };
        let bytes = keys.encode_refuse(&refuse);
        assert_eq!(bytes.len(), REFUSE_LEN);
        assert_eq!(keys.decode(&bytes), Ok(Handshake::Refuse(refuse)));
        let Ok(Handshake::Hello(hello)) = keys.decode(&hello(&keys)) else { panic!("a hello") };
        let cookie = Handshake::Cookie { receiver: SessionId(9), hello_nonce: hello.nonce, cookie: [6; 16] };
        assert_eq!(keys.decode(&keys.encode_cookie(&hello, &[6; 16])), Ok(cookie));
    }

    #[test]
    fn a_cookie_is_of_one_hello_one_address_and_a_short_time() {
        let (keys, cookies) = (keys(), Cookies::new(&mut Entropy::of_seed(1)));
        let Ok(Handshake::Hello(mut hello)) = keys.decode(&hello(&keys)) else { panic!("a hello") };
        let (now, addr) = (Time(3_000_000_000), SocketAddr::from(([10, 0, 0, 1], 7)));
        assert!(!cookies.accept(now, addr, &hello));
        hello.cookie = cookies.give(now, addr, &hello);
        assert!(cookies.accept(now, addr, &hello) && cookies.accept(now + COOKIE_LIFE, addr, &hello));
        assert!(!cookies.accept(now + COOKIE_LIFE + COOKIE_LIFE, addr, &hello));
        assert!(!cookies.accept(now, SocketAddr::from(([10, 0, 0, 1], 8)), &hello));
        assert!(!cookies.accept(now, addr, &Hello { nonce: [0; 16], ..hello }));
        assert!(!Cookies::new(&mut Entropy::of_seed(2)).accept(now, addr, &hello));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_rejected() {
        let keys = keys();
        let mut bytes = hello(&keys);
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
        let keys = keys();
        let other = Keys::derive(&ClusterKey::new([2; 32]));
        let mut bytes = hello(&other);
        assert_eq!(keys.decode(&bytes), Err(Reject::Key));
        bytes[5..13].copy_from_slice(&keys.fingerprint);
        assert_eq!(keys.decode(&bytes), Err(Reject::Mac));
    }

    #[test]
    fn a_longer_hello_of_a_later_protocol_still_names_its_version() {
        let keys = keys();
        let version = Version { protocol: PROTOCOL + 1, library: 5 };
        let pending = begin(&keys, version);
        let nonce = *pending.nonce();
        let mut bytes = keys.encode_hello(&pending, &[0; 16]);
        bytes.extend([9; 40]);
        let bytes = keys.seal(bytes);
        let foreign = Handshake::ForeignHello { version, nonce, session: SessionId(9) };
        assert_eq!(keys.decode(&bytes), Ok(foreign));
    }
}
