//! Who has the cluster's key, and what a process without it can do: nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pagemesh::admin::Admin;
use pagemesh::client::Client;
use pagemesh::net::ClusterKey;
use pagemesh::{Dsm, Error, Node, NodeConfig, NodeId, Settings};

use system_tests::rig::{self, until};

/// Settings that name no key file.
fn without_key() -> Settings {
    Settings { key_file: None, ..rig::small() }
}

fn join(settings: Settings) -> Result<Dsm, Error> {
    Dsm::builder().settings(settings).arena_anywhere().join()
}

#[track_caller]
fn assert_asks_for_the_key<T>(result: Result<T, Error>) {
    match result {
        Err(Error::Invalid(why)) => assert!(why.contains("PAGEMESH_KEY_FILE"), "{why}"),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("nobody asked for the key"),
    }
}

/// Another user of this host can see the address of every socket.
#[test]
fn a_process_that_knows_only_the_address_finds_no_way_in() {
    let founder = Node::start(NodeConfig::daemon(without_key(), 0)).expect("it founds a cluster");
    let addr = founder.local_addr();
    let settings = || Settings { join: Some(addr), program: 7, ..without_key() };
    assert_asks_for_the_key(join(settings()));
    assert_asks_for_the_key(Node::start(NodeConfig::daemon(settings(), 1)));
    let own = Settings { join: Some(addr), program: 7, ..rig::small() };
    let guessed =
        [ClusterKey::new([0; 32]), ClusterKey::load(&own.key_file.expect("a file")).expect("a key")];
    for key in guessed {
        let client = Client::new(key, SocketAddr::from(([127, 0, 0, 1], 0)), None).expect("a client");
        assert!(client.connect(NodeId(0), addr, Duration::from_millis(500)).is_err(), "it has the key");
    }
    until("the hellos have come", || founder.status().net.bad_key > 0);
    founder.request_shutdown();
}

/// A node gives no answer to who has another key; on its own host it shows which one it has.
#[test]
fn a_joiner_of_the_same_host_with_another_key_hears_so_within_a_second() {
    let settings = rig::small();
    let founder = Node::start(NodeConfig::daemon(settings.clone(), 0)).expect("it founds a cluster");
    let addr = founder.local_addr();
    let path = std::env::temp_dir().join(format!("pagemesh-other-key-{}", std::process::id()));
    let other = ClusterKey::generate(&path).expect("a new file").fingerprint();
    let began = Instant::now();
    let joined =
        join(Settings { key_file: Some(path.clone()), join: Some(addr), program: 7, ..settings.clone() });
    let admin = Admin::connect(addr, &path, Duration::from_secs(5));
    let took = began.elapsed();
    std::fs::remove_file(&path).expect("the test's own file");
    let own = ClusterKey::load(&settings.key_file.expect("a file")).expect("a key").fingerprint();
    for why in [joined.map(drop).expect_err("another key"), admin.map(drop).expect_err("another key")] {
        let why = why.to_string();
        let says = [path.to_str().expect("text"), &other, &own, &addr.to_string(), "use that"];
        assert!(says.iter().all(|part| why.contains(part)) && !why.contains('\n'), "{why}");
    }
    assert!(took < Duration::from_secs(1), "{took:?}");
    founder.request_shutdown();
}

#[test]
fn joining_without_a_key_file_is_refused_whatever_the_addresses_are() {
    for (bind, addr) in [
        ("127.0.0.1:0", "127.0.0.1:7400"),
        ("[::1]:0", "[::1]:7400"),
        ("0.0.0.0:0", "192.0.2.1:7400"),
        ("[::]:0", "[2001:db8::1]:7400"),
    ] {
        let [bind, addr] = [bind, addr].map(|text| text.parse().expect("an address"));
        let settings = || Settings { bind, join: Some(addr), ..without_key() };
        assert_asks_for_the_key(join(settings()));
        assert_asks_for_the_key(Node::start(NodeConfig::daemon(settings(), 1)));
    }
}

#[test]
fn a_founder_without_a_key_file_hears_at_once_that_its_other_ranks_could_not_join() {
    assert_asks_for_the_key(join(Settings { ranks: 2, ..without_key() }));
}

#[test]
fn a_program_alone_needs_no_key_file() {
    let dsm = join(without_key()).expect("a cluster of one");
    let data = dsm.alloc::<u64>("data", 512).unwrap();
    data.set(3, 4);
    assert_eq!(data.get(3), 4);
    dsm.leave().unwrap();
}
