//! The Noise messages inside hello and welcome: `NNpsk0`, one round trip, by the crate `snow`.
//!
//! Each side draws an ephemeral key, so that a recorded session stays closed to who learns the cluster's
//! key later. The cluster's key is the only identity: whoever has it can be any member.

use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};

use crate::net::crypt::Secret;
use crate::net::entropy::{Entropy, Exchange, StandIn};

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// What a Noise message is longer than its payload: an ephemeral key and a tag.
pub(super) const OVERHEAD: usize = KEY_LEN + 16;
const KEY_LEN: usize = 32;

/// Not a message of this handshake, made with this key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BadMessage;

/// The secrets of a session: of what its initiator sends, and of what its responder sends.
pub(in crate::net) type Secrets = (Secret, Secret);

/// An initiator's side between hello and welcome.
pub(in crate::net) struct Pending(Box<HandshakeState>);

impl Pending {
    /// Writes the message of a hello into `message`, which is longer than `payload` by [`OVERHEAD`].
    pub(super) fn begin(
        psk: &[u8; 32],
        prologue: &[u8],
        entropy: &mut Entropy,
        payload: &[u8],
        message: &mut [u8],
    ) -> Pending {
        let mut state = builder(psk, prologue, entropy).build_initiator().expect("a complete handshake");
        state.write_message(payload, message).expect("the first message is the initiator's");
        Pending(Box::new(state))
    }

    /// Reads the message of the welcome. After an error the right one is still accepted.
    pub(super) fn finish(&mut self, message: &[u8], payload: &mut [u8]) -> Result<Secrets, BadMessage> {
        self.0.read_message(message, payload).map_err(|_| BadMessage)?;
        Ok(self.0.dangerously_get_raw_split())
    }
}

/// A responder's side between reading a hello and writing a welcome.
pub(in crate::net) struct Asked(Box<HandshakeState>);

impl Asked {
    /// Reads the message of a hello. No curve arithmetic yet.
    pub(super) fn read(
        psk: &[u8; 32],
        prologue: &[u8],
        entropy: &mut Entropy,
        message: &[u8],
        payload: &mut [u8],
    ) -> Result<Asked, BadMessage> {
        let mut state = builder(psk, prologue, entropy).build_responder().expect("a complete handshake");
        state.read_message(message, payload).map_err(|_| BadMessage)?;
        Ok(Asked(Box::new(state)))
    }

    /// Writes the message of a welcome into `message`, which is longer than `payload` by [`OVERHEAD`].
    pub(super) fn answer(mut self, payload: &[u8], message: &mut [u8]) -> Secrets {
        self.0.write_message(payload, message).expect("the second message is the responder's");
        self.0.dangerously_get_raw_split()
    }
}

fn builder<'a>(psk: &'a [u8; 32], prologue: &'a [u8], entropy: &mut Entropy) -> Builder<'a> {
    let params: NoiseParams = PATTERN.parse().expect("a pattern that snow knows");
    let resolver = Resolver { private: entropy.bytes(), exchange: entropy.exchange() };
    let builder = Builder::with_resolver(params, Box::new(resolver));
    builder.psk(0, psk).and_then(|builder| builder.prologue(prologue)).expect("each is given once")
}

/// Gives a handshake its one ephemeral key from outside, and a simulation's the exchange of it; all else is as usual.
struct Resolver {
    private: [u8; KEY_LEN],
    exchange: Exchange,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.private))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match self.exchange {
            Exchange::Curve25519 => DefaultResolver.resolve_dh(choice),
            Exchange::StandIn(stand_in) => {
                Some(Box::new(Simulated { stand_in, private: [0; KEY_LEN], public: [0; KEY_LEN] }))
            }
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// Random bytes for one key, once.
struct Once(Option<[u8; KEY_LEN]>);

impl Random for Once {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        match self.0.take() {
            Some(bytes) if bytes.len() == dest.len() => {
                dest.copy_from_slice(&bytes);
                Ok(())
            }
            Some(_) | None => Err(snow::Error::Rng),
        }
    }
}

/// A side of the exchange that a simulation brings along.
struct Simulated {
    stand_in: StandIn,
    private: [u8; KEY_LEN],
    public: [u8; KEY_LEN],
}

impl Dh for Simulated {
    /// The pattern's name is hashed, not this one.
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_LEN
    }

    fn priv_len(&self) -> usize {
        KEY_LEN
    }

    fn set(&mut self, private: &[u8]) {
        self.private.copy_from_slice(private);
        self.public = (self.stand_in.public_of)(&self.private);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut private = [0; KEY_LEN];
        rng.try_fill_bytes(&mut private)?;
        self.set(&private);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.private
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let public = public.first_chunk().ok_or(snow::Error::Dh)?;
        let out = out.first_chunk_mut().ok_or(snow::Error::Dh)?;
        *out = (self.stand_in.shared_of)(&self.private, public);
        Ok(())
    }
}
