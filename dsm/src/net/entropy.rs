//! What keys, nonces and session ids are drawn from: BLAKE3 in its extendable mode, keyed by a secret
//! that each draw replaces, so that who reads the memory later learns nothing that was drawn before.

use crate::error::{Error, Result};

/// A generator of secrets. A program's comes from the operating system, a simulation's from its seed.
pub struct Entropy {
    secret: [u8; 32],
    exchange: Exchange,
}

/// How two nodes come to a secret from the keys that they have drawn.
#[derive(Clone, Copy)]
pub(super) enum Exchange {
    Curve25519,
    StandIn(StandIn),
}

/// A key exchange that a simulation brings along, because X25519 would take two fifths of its time. The library has
/// none, and a generator from the operating system never takes one: what a stand-in agrees on is no secret.
#[derive(Clone, Copy)]
pub struct StandIn {
    /// The public key of a private one.
    pub public_of: fn(&[u8; 32]) -> [u8; 32],
    /// What both sides compute, each from its private key and the other's public one.
    pub shared_of: fn(&[u8; 32], &[u8; 32]) -> [u8; 32],
}

impl Entropy {
    /// A generator that nobody can predict.
    pub fn from_system() -> Result<Entropy> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| Error::Refused(format!("random numbers: {error}")))?;
        Ok(Entropy { secret: seed, exchange: Exchange::Curve25519 })
    }

    /// A generator that repeats itself: for simulations and tests alone, since whoever knows the seed
    /// knows every key.
    pub fn of_seed(seed: u64) -> Entropy {
        let secret = blake3::derive_key("pagemesh transport simulation seed", &seed.to_le_bytes());
        Entropy { secret, exchange: Exchange::Curve25519 }
    }

    /// The same, with a key exchange that costs less: for simulations alone.
    pub fn of_seed_with(seed: u64, stand_in: StandIn) -> Entropy {
        Entropy { exchange: Exchange::StandIn(stand_in), ..Entropy::of_seed(seed) }
    }

    /// How the keys drawn here are exchanged.
    pub(super) fn exchange(&self) -> Exchange {
        self.exchange
    }

    /// Fills `out` with fresh bytes.
    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        let mut stream = blake3::Hasher::new_keyed(&self.secret).finalize_xof();
        stream.fill(&mut self.secret);
        stream.fill(out);
    }

    /// Fresh bytes.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_gives_each_endpoint_another_stream_and_a_seed_always_the_same() {
        let mut drawn: Vec<[u8; 32]> = (0..4).map(|_| Entropy::from_system().unwrap().bytes()).collect();
        let mut seeded = Entropy::of_seed(7);
        drawn.extend([seeded.bytes(), seeded.bytes(), Entropy::of_seed(8).bytes()]);
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 7, "no two are the same");
        assert_eq!(Entropy::of_seed(7).bytes::<32>(), Entropy::of_seed(7).bytes::<32>());
    }
}
