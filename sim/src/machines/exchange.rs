//! The key exchange of most runs, in place of X25519: cheap, and agreed on by both sides as Diffie and Hellman's is,
//! but no secret to anybody who reads the packets. It stands in this crate, which no program is built from.

use pagemesh::net::StandIn;

pub(super) const STAND_IN: StandIn = StandIn { public_of, shared_of };

/// Odd, so that no two private keys have the same public one.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

fn public_of(private: &[u8; 32]) -> [u8; 32] {
    let mut base = [0; 32];
    base.as_chunks_mut::<8>().0.fill(BASE.to_le_bytes());
    product(private, &base)
}

fn shared_of(private: &[u8; 32], public: &[u8; 32]) -> [u8; 32] {
    product(private, public)
}

/// Lane by lane, modulo 2^64: the order of the factors does not matter.
fn product(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
    let mut out = [0; 32];
    let lanes = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
    for (to, (a, b)) in out.as_chunks_mut::<8>().0.iter_mut().zip(lanes) {
        *to = u64::from_le_bytes(*a).wrapping_mul(u64::from_le_bytes(*b)).to_le_bytes();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_agree_and_another_key_gives_another_secret() {
        let [a, b, c] = [[3; 32], [5; 32], [9; 32]];
        assert_eq!(shared_of(&a, &public_of(&b)), shared_of(&b, &public_of(&a)));
        assert_ne!(shared_of(&a, &public_of(&b)), shared_of(&c, &public_of(&b)));
    }
}
