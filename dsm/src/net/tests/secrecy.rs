//! What an eavesdropper sees, which cipher a session gets, and how its keys change.

use super::rig::{Rig, addr, assert_exactly_once, config, lan, pattern};
use crate::net::inject::{Chance, InjectorConfig};
use crate::net::wire::{TYPE_DATA, TYPE_DATA_ODD};
use crate::net::{Cipher, EndpointConfig, KeyLife, Priority, SessionHandle};
use crate::page::{PAGE_SIZE, Span};
use crate::settings::Encrypt;

/// Messages that each node sends while keys change.
const MESSAGES: u64 = 200;

/// Two nodes with a session.
fn pair(configs: [EndpointConfig; 2]) -> (Rig, SessionHandle, SessionHandle) {
    let mut rig = Rig::new(0, lan(1));
    configs.into_iter().for_each(|config| {
        rig.add(config, lan(1));
    });
    rig.capture = Some(Vec::new());
    let (a, b) = rig.connect(0, 1);
    (rig, a, b)
}

fn with(encrypt: Encrypt) -> [EndpointConfig; 2] {
    [0, 1].map(|index| EndpointConfig { encrypt, ..config(index) })
}

/// Whether a piece of the secret, of 16 bytes, stands in a captured datagram.
fn is_seen(rig: &Rig, secret: &[u8]) -> bool {
    let captured = rig.capture.as_ref().expect("captured");
    secret
        .chunks_exact(16)
        .any(|piece| captured.iter().any(|one| one.bytes.windows(16).any(|at| at == piece)))
}

/// The cipher of a session, which both ends know alike.
fn cipher(rig: &Rig, a: SessionHandle, b: SessionHandle) -> Option<Cipher> {
    let ciphers = [rig.nodes[0].endpoint.cipher(a), rig.nodes[1].endpoint.cipher(b)];
    assert_eq!(ciphers[0], ciphers[1]);
    ciphers[0]
}

/// Both nodes send [`MESSAGES`] messages, one after each pause; those of node 0 have `len` bytes.
fn exchange(rig: &mut Rig, (a, b): (SessionHandle, SessionHandle), len: usize, pause: Span) {
    for number in 0..MESSAGES {
        rig.send(0, a, &pattern(number, len), Priority::Bulk);
        rig.send(1, b, &pattern(number, 100), Priority::Control);
        rig.run(pause);
    }
}

fn assert_all_arrived(rig: &Rig) {
    rig.nodes.iter().for_each(|node| assert_exactly_once(node, MESSAGES));
}

/// How many keys a node's captured data packets are under: the key phase changes with each.
fn keys_used(rig: &Rig, index: usize) -> usize {
    let captured = rig.capture.as_ref().expect("captured");
    let types = captured.iter().filter(|one| one.from == rig.nodes[index].addr).map(|one| one.bytes[0]);
    let mut phases: Vec<u8> = types.filter(|kind| [TYPE_DATA, TYPE_DATA_ODD].contains(kind)).collect();
    phases.dedup();
    phases.len()
}

#[test]
fn nothing_of_a_page_or_a_name_is_seen_on_the_network() {
    let mut rng = fastrand::Rng::with_seed(5);
    let page: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(PAGE_SIZE).collect();
    let name = b"a region of accounts, method transfer";
    for encrypt in [Encrypt::All, Encrypt::Never] {
        let (mut rig, a, b) = pair(with(encrypt));
        rig.send(0, a, &page, Priority::Bulk);
        rig.send(1, b, name, Priority::Control);
        rig.run(Span::from_ms(100));
        assert_eq!((rig.nodes[1].delivered.len(), rig.nodes[0].delivered.len()), (1, 1));
        let expected = encrypt == Encrypt::Never;
        assert_eq!((is_seen(&rig, &page), is_seen(&rig, name)), (expected, expected), "{encrypt:?}");
        // Nor does the handshake tell which start of a node it is.
        let incarnations = rig.nodes.iter().map(|node| node.config.incarnation.0.to_le_bytes());
        let captured = rig.capture.as_ref().expect("captured");
        for known in incarnations {
            assert!(!captured.iter().any(|one| one.bytes.windows(8).any(|at| at == known)));
        }
    }
}

#[test]
fn the_stricter_of_two_nodes_decides_whether_a_session_is_plain() {
    use Encrypt::{All, Hosts, Never};
    for (modes, is_plain) in [
        ([All, All], false),
        ([All, Never], false),
        ([Never, All], false),
        ([Never, Never], true),
        ([Hosts, Never], false),
        ([Hosts, Hosts], false),
    ] {
        let configs = [0, 1].map(|index| EndpointConfig { encrypt: modes[index], ..config(index) });
        let (rig, a, b) = pair(configs);
        assert_eq!(cipher(&rig, a, b) == Some(Cipher::Plain), is_plain, "{modes:?}");
    }
}

/// The nodes of the rig are hosts of their own, unless one is told that the other's address is its own.
#[test]
fn a_session_within_a_host_is_plain_only_if_both_ends_want_it_and_know_it() {
    use Encrypt::{All, Hosts, Never};
    for (modes, know, is_plain) in [
        ([Hosts, Hosts], [true, true], true),
        ([Hosts, Never], [true, true], true),
        ([Hosts, Hosts], [true, false], false),
        ([Hosts, Hosts], [false, true], false),
        ([Hosts, All], [true, true], false),
    ] {
        let configs = [0, 1].map(|index| {
            let own_ip = know[index].then(|| addr(1 - index).ip());
            EndpointConfig { encrypt: modes[index], own_ip, ..config(index) }
        });
        let (rig, a, b) = pair(configs);
        assert_eq!(cipher(&rig, a, b) == Some(Cipher::Plain), is_plain, "{modes:?} {know:?}");
    }
}

#[test]
fn a_processor_without_aes_gets_the_other_cipher() {
    use Cipher::{Aes128Gcm, Chacha20Poly1305};
    for (suits, agreed) in [
        ([Aes128Gcm, Aes128Gcm], Aes128Gcm),
        ([Chacha20Poly1305, Aes128Gcm], Chacha20Poly1305),
        ([Aes128Gcm, Chacha20Poly1305], Chacha20Poly1305),
    ] {
        let configs = [0, 1].map(|index| EndpointConfig { cipher: suits[index], ..config(index) });
        let (mut rig, a, b) = pair(configs);
        assert_eq!(cipher(&rig, a, b), Some(agreed));
        (0..20).for_each(|number| rig.send(0, a, &pattern(number, 9_000), Priority::Bulk));
        rig.run(Span::from_ms(500));
        assert_exactly_once(&rig.nodes[1], 20);
    }
}

#[test]
fn keys_change_with_time_under_a_bad_network_and_nothing_is_lost() {
    for seed in 0..10 {
        let bad = InjectorConfig {
            loss: Chance::percent(10),
            duplicate: Chance::percent(10),
            reorder: Chance::percent(20),
            corrupt: Chance::percent(5),
            ..lan(seed)
        };
        let mut rig = Rig::new(2, bad);
        rig.capture = Some(Vec::new());
        let (a, b) = rig.connect(0, 1);
        exchange(&mut rig, (a, b), 3_000, Span::from_ms(1_000));
        rig.run(Span::from_ms(5_000));
        assert_all_arrived(&rig);
        for index in 0..2 {
            assert_eq!(rig.nodes[index].events.len(), 1, "one session all the time");
            assert_eq!(keys_used(&rig, index), 4, "seed {seed}: 200 seconds have four keys");
        }
    }
}

/// A key that serves one packet is the worst case: the next packet must wait for nobody, and is under the same
/// key until the peer has acknowledged one of it.
#[test]
fn keys_that_change_as_often_as_they_can_lose_nothing() {
    for seed in 0..10 {
        let bad = InjectorConfig {
            loss: Chance::percent(10),
            duplicate: Chance::percent(10),
            reorder: Chance::percent(20),
            ..lan(seed)
        };
        let mut rig = Rig::new(0, bad);
        for index in 0..2 {
            let key_life = KeyLife { packets: 1, ..KeyLife::default() };
            rig.add(EndpointConfig { key_life, ..config(index) }, bad);
        }
        rig.capture = Some(Vec::new());
        let (a, b) = rig.connect(0, 1);
        exchange(&mut rig, (a, b), 9_000, Span::from_ms(1));
        rig.run(Span::from_ms(10_000));
        assert_all_arrived(&rig);
        let keys = keys_used(&rig, 0);
        assert!(keys > 100, "seed {seed}: {keys} keys");
    }
}
