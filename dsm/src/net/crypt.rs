//! What guards the packets of a session, in one direction each: an AEAD, or in a session that both ends
//! want plain a checksum and a token. Both fill the 16 bytes of the header's tag.
//!
//! The nonce of a packet is its number, which no session uses twice, combined with a secret of its key.
//! A key serves [`REKEY_PACKETS`] packets or [`REKEY_AFTER`]; the next one is derived from its secret,
//! which is then forgotten. The header's key phase tells the receiver which of two keys it is (RFC 9001,
//! section 6; but each direction changes by itself). The secrets of a session come out of its handshake.

use ring::aead::{AES_128_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

use super::mutation::Rules;
use super::wire::{self, HEADER_LEN, Packet, Phase, SessionId, Token};
use crate::config::net::{REKEY_AFTER, REKEY_PACKETS};
use crate::page::{Span, Time};

/// What guards the packets of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cipher {
    /// A checksum and a token: who reads along sees all, and can forge.
    Plain,
    /// AES-128-GCM.
    Aes128Gcm,
    /// ChaCha20-Poly1305, where a processor has no AES instructions.
    Chacha20Poly1305,
}

impl Cipher {
    /// The fastest encryption of this processor.
    pub fn fastest() -> Cipher {
        #[cfg(target_arch = "x86_64")]
        let has_aes = is_x86_feature_detected!("aes") && is_x86_feature_detected!("pclmulqdq");
        #[cfg(target_arch = "aarch64")]
        let has_aes = std::arch::is_aarch64_feature_detected!("aes")
            && std::arch::is_aarch64_feature_detected!("pmull");
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let has_aes = false;
        if has_aes { Cipher::Aes128Gcm } else { Cipher::Chacha20Poly1305 }
    }
}

impl std::fmt::Display for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Cipher::Plain => "plain",
            Cipher::Aes128Gcm => "aes-128-gcm",
            Cipher::Chacha20Poly1305 => "chacha20-poly1305",
        })
    }
}

/// How long one key is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyLife {
    /// Packets that it encrypts.
    pub packets: u64,
    /// Since its first packet.
    pub time: Span,
}

impl Default for KeyLife {
    fn default() -> Self {
        KeyLife { packets: REKEY_PACKETS, time: REKEY_AFTER }
    }
}

/// The secret of one direction, from which its keys are derived.
pub(super) type Secret = [u8; 32];

/// The packet's tag is not of this session and these bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BadTag;

/// Both directions of a session.
pub(crate) struct Guards {
    pub(crate) seal: Seal,
    pub(crate) open: Open,
}

impl Guards {
    /// Of a session that begins now, from the secrets of what is sent and of what is received.
    pub(super) fn new(
        now: Time,
        cipher: Cipher,
        (sent, received): (Secret, Secret),
        (life, rules): (KeyLife, Rules),
    ) -> Guards {
        if cipher == Cipher::Plain {
            return Guards {
                seal: Seal::Plain(plain_token(&sent)),
                open: Open::Plain(plain_token(&received)),
            };
        }
        let seal = Sealing {
            cipher,
            key: PacketKey::of(cipher, &sent),
            secret: sent,
            phase: Phase::Even,
            first: 0,
            since: now,
            life,
            rules,
        };
        let next_secret = next_secret(&received);
        let open = Opening {
            cipher,
            phase: Phase::Even,
            first: 0,
            previous: None,
            current: PacketKey::of(cipher, &received),
            next: PacketKey::of(cipher, &next_secret),
            next_secret,
        };
        Guards { seal: Seal::Encrypted(Box::new(seal)), open: Open::Encrypted(Box::new(open)) }
    }
}

/// What packets are sealed with.
pub(crate) enum Seal {
    Plain(Token),
    Encrypted(Box<Sealing>),
}

/// What packets are opened with.
pub(crate) enum Open {
    Plain(Token),
    Encrypted(Box<Opening>),
}

/// The key under which packets go out.
pub(crate) struct Sealing {
    cipher: Cipher,
    key: PacketKey,
    secret: Secret,
    phase: Phase,
    /// Number of the first packet under this key, and when that was.
    first: u64,
    since: Time,
    life: KeyLife,
    rules: Rules,
}

/// The keys under which packets may come.
pub(crate) struct Opening {
    cipher: Cipher,
    /// Of `current`.
    phase: Phase,
    /// The lowest number that has come under `current`.
    first: u64,
    /// For packets that a newer one has overtaken.
    previous: Option<PacketKey>,
    current: PacketKey,
    /// Made beforehand, so that a forged key phase costs no more than any other forgery.
    next: PacketKey,
    next_secret: Secret,
}

impl Seal {
    /// What the session uses.
    pub(crate) fn cipher(&self) -> Cipher {
        match self {
            Seal::Plain(_) => Cipher::Plain,
            Seal::Encrypted(sealing) => sealing.cipher,
        }
    }

    /// Takes the next key if this one has served its time. `acknowledged` is the newest packet that the
    /// peer has acknowledged: it must know this key before it can be asked to follow to the next.
    pub(crate) fn renew(&mut self, now: Time, number: u64, acknowledged: Option<u64>) {
        let Seal::Encrypted(sealing) = self else { return };
        let KeyLife { packets, time } = sealing.life;
        let is_used_up = number - sealing.first >= packets || now.since(sealing.since) >= time;
        let is_known = acknowledged.is_some_and(|newest| newest >= sealing.first);
        if is_used_up && (is_known || !sealing.rules.renews_known_keys()) {
            sealing.secret = next_secret(&sealing.secret);
            sealing.key = PacketKey::of(sealing.cipher, &sealing.secret);
            sealing.phase = sealing.phase.other();
            (sealing.first, sealing.since) = (number, now);
        }
    }

    /// Appends the header of a packet whose tag is still to come.
    pub(crate) fn put_header(&self, out: &mut Vec<u8>, receiver: SessionId, number: u64) {
        match self {
            Seal::Plain(token) => wire::put_plain_header(out, receiver, number, *token),
            Seal::Encrypted(sealing) => wire::put_header(out, sealing.phase, receiver, number),
        }
    }

    /// Writes the tag of a packet that lies in one piece, and encrypts its frames.
    pub(crate) fn seal(&self, packet: &mut [u8]) {
        match self {
            Seal::Plain(_) => wire::put_checksum(packet, None),
            Seal::Encrypted(sealing) => {
                let (header, frames) = packet.split_at_mut(HEADER_LEN);
                let (covered, number) = wire::covered(header);
                let nonce = sealing.key.nonce(number);
                let sealed = sealing.key.key.seal_in_place_separate_tag(nonce, Aad::from(covered), frames);
                wire::put_tag(
                    header,
                    sealed.expect("a datagram is no longer than an AEAD's message").as_ref(),
                );
            }
        }
    }
}

impl Open {
    /// Checks a packet; its frames, decrypted in place.
    pub(super) fn open<'a>(&mut self, packet: Packet<'a>) -> Result<&'a mut [u8], BadTag> {
        match self {
            Open::Plain(token) => packet.plain_frames(*token).ok_or(BadTag),
            Open::Encrypted(opening) => opening.open(packet),
        }
    }
}

impl Opening {
    fn open<'a>(&mut self, packet: Packet<'a>) -> Result<&'a mut [u8], BadTag> {
        let (number, phase) = (packet.number, packet.phase);
        if phase == self.phase {
            let frames = self.current.open(packet)?;
            self.first = self.first.min(number);
            return Ok(frames);
        }
        if number < self.first {
            return self.previous.as_ref().ok_or(BadTag)?.open(packet);
        }
        let frames = self.next.open(packet)?;
        self.next_secret = next_secret(&self.next_secret);
        let after = PacketKey::of(self.cipher, &self.next_secret);
        let current = std::mem::replace(&mut self.next, after);
        self.previous = Some(std::mem::replace(&mut self.current, current));
        (self.phase, self.first) = (phase, number);
        Ok(frames)
    }
}

/// The key of one phase of one direction.
struct PacketKey {
    key: LessSafeKey,
    iv: [u8; 12],
}

impl PacketKey {
    fn of(cipher: Cipher, secret: &Secret) -> PacketKey {
        let mut material = [0; 44];
        let mut hasher = blake3::Hasher::new_derive_key("pagemesh transport 9 packet key");
        hasher.update(secret).finalize_xof().fill(&mut material);
        let (key, last) = material.split_at(32);
        let unbound = match cipher {
            Cipher::Aes128Gcm => UnboundKey::new(&AES_128_GCM, &key[..16]),
            Cipher::Chacha20Poly1305 => UnboundKey::new(&CHACHA20_POLY1305, key),
            Cipher::Plain => unreachable!("a plain session has no keys"),
        };
        let mut iv = [0; 12];
        iv.copy_from_slice(last);
        PacketKey { key: LessSafeKey::new(unbound.expect("the length of a key of this cipher")), iv }
    }

    fn nonce(&self, number: u64) -> Nonce {
        let mut nonce = self.iv;
        nonce.iter_mut().rev().zip(number.to_be_bytes().iter().rev()).for_each(|(to, byte)| *to ^= byte);
        Nonce::assume_unique_for_key(nonce)
    }

    fn open<'a>(&self, packet: Packet<'a>) -> Result<&'a mut [u8], BadTag> {
        let nonce = self.nonce(packet.number);
        let (covered, tag, frames) = packet.parts();
        let frames =
            self.key.open_in_place_separate_tag(nonce, Aad::from(covered), Tag::from(tag), frames, 0..);
        frames.map_err(|_| BadTag)
    }
}

fn next_secret(secret: &Secret) -> Secret {
    blake3::derive_key("pagemesh transport 9 next secret", secret)
}

fn plain_token(secret: &Secret) -> Token {
    let mut token = [0; 12];
    token.copy_from_slice(&blake3::derive_key("pagemesh transport 9 plain token", secret)[..12]);
    Token(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId(5);

    fn pair(cipher: Cipher) -> (Guards, Guards) {
        let guards = |sent, received| Guards::new(Time(0), cipher, (sent, received), Default::default());
        (guards([1; 32], [2; 32]), guards([2; 32], [1; 32]))
    }

    fn packet(seal: &Seal, number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        seal.put_header(&mut bytes, SESSION, number);
        bytes.extend_from_slice(b"frames of the packet");
        seal.seal(&mut bytes);
        bytes
    }

    fn opens(open: &mut Open, bytes: &[u8]) -> bool {
        let mut bytes = bytes.to_vec();
        let Ok(packet) = Packet::decode(&mut bytes) else { return false };
        open.open(packet).is_ok_and(|frames| frames == b"frames of the packet")
    }

    #[test]
    fn a_packet_opens_at_the_other_end_alone_and_only_unaltered() {
        for cipher in [Cipher::Plain, Cipher::Aes128Gcm, Cipher::Chacha20Poly1305] {
            let (mut ours, mut theirs) = pair(cipher);
            let mut bytes = packet(&ours.seal, 77);
            let is_readable = bytes.ends_with(b"packet");
            assert_eq!(is_readable, cipher == Cipher::Plain);
            assert!(opens(&mut theirs.open, &bytes) && !opens(&mut ours.open, &bytes), "{cipher}");
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(!opens(&mut theirs.open, &bytes), "{cipher}: bit {bit} may flip unseen");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            for len in 0..bytes.len() {
                assert!(!opens(&mut theirs.open, &bytes[..len]), "{cipher}: {len} bytes are enough");
            }
            assert!(opens(&mut theirs.open, &bytes), "what was forged has changed nothing");
        }
    }

    #[test]
    fn a_key_ends_by_packets_and_by_time_once_the_peer_knows_it() {
        let (mut ours, mut theirs) = pair(Cipher::Aes128Gcm);
        let mut now = Time(1);
        let is_odd = |seal: &Seal| packet(seal, 0)[0] == wire::TYPE_DATA_ODD;
        ours.seal.renew(now, REKEY_PACKETS - 1, Some(9));
        assert!(!is_odd(&ours.seal));
        ours.seal.renew(now, REKEY_PACKETS, None);
        assert!(!is_odd(&ours.seal), "nobody has acknowledged a packet");
        let late = packet(&ours.seal, REKEY_PACKETS - 1);
        ours.seal.renew(now, REKEY_PACKETS, Some(9));
        assert!(is_odd(&ours.seal));
        let (first, second) = (packet(&ours.seal, REKEY_PACKETS), packet(&ours.seal, REKEY_PACKETS + 1));
        // Overtaken by the next one, and by those of the next key.
        assert!([&second, &late, &first].iter().all(|bytes| opens(&mut theirs.open, bytes)));
        now = now + REKEY_AFTER;
        ours.seal.renew(now, REKEY_PACKETS + 2, Some(REKEY_PACKETS - 1));
        assert!(is_odd(&ours.seal), "the peer has acknowledged nothing of this key");
        ours.seal.renew(now, REKEY_PACKETS + 2, Some(REKEY_PACKETS));
        assert!(!is_odd(&ours.seal));
        assert!(opens(&mut theirs.open, &packet(&ours.seal, REKEY_PACKETS + 2)));
        assert!(opens(&mut theirs.open, &second) && !opens(&mut theirs.open, &late), "two keys ago");
    }

    /// A stranger can set the key phase to what it likes.
    #[test]
    fn a_forged_key_phase_changes_no_key() {
        let (ours, mut theirs) = pair(Cipher::Aes128Gcm);
        let mut forged = packet(&ours.seal, 3);
        forged[0] = wire::TYPE_DATA_ODD;
        assert!(!opens(&mut theirs.open, &forged));
        assert!(opens(&mut theirs.open, &packet(&ours.seal, 3)));
    }
}
