//! What is wrong is said in one line, with exit code 2, and nothing is left running.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;

use pagemesh::net::{ClusterKey, Endpoint, EndpointConfig, Entropy, TransmitBuf, Version};
use pagemesh::page::{Incarnation, Time};

use crate::bed::Bed;

#[test]
fn wrong_flags_are_named() {
    let bed = Bed::new();
    for (line, words) in [
        ("up --daemon 3", ["'--daemon'", "'--daemons'"]),
        ("up --daemons three", ["three", "--daemons"]),
        ("run --nodes 0 matmul", ["--daemons 0", "1 to"]),
        ("run --ranks 0 matmul", ["--ranks 0", "at least one"]),
        ("run --memory-max lots matmul", ["lots", "not a size"]),
        ("up --memory-max 5", ["--memory-max", "at least 256 KiB"]),
        ("run --memory-max 200KiB matmul", ["`200KiB` is too little", "at least 256 KiB"]),
        (
            "run --private --arena-base 0 matmul",
            ["for '--arena-base <ADDRESS>': `0`", "a multiple of 4096 above 0"],
        ),
        ("up --arena-base 0x1001", ["for '--arena-base <ADDRESS>': `0x1001`", "a multiple of 4096 above 0"]),
        ("up --arena-size 5000", ["for '--arena-size <SIZE>': `5000`", "a multiple of 4096 above 0"]),
        ("run", ["not provided", "<PROGRAM>"]),
        ("up --hosts no-such-file", ["hosts file", "no-such-file"]),
        ("up --hosts /dev/zero", ["hosts file /dev/zero", "longer than 1 MiB"]),
        ("run matmull", ["matmull", "did you mean the example `matmul`"]),
        ("run ./matmul", ["./matmul", "No such file"]),
        ("run /tmp", ["/tmp", "directory"]),
        ("status", ["no cluster is running here", "pagemesh up"]),
        ("logs 3", ["no log", "node 3"]),
        ("regions ls", ["no cluster is running here", "pagemesh up"]),
    ] {
        bed.pagemesh(line).refused(&words);
    }
    bed.assert_nothing_left();
}

#[test]
fn a_bad_hosts_file_is_named_with_its_line() {
    let bed = Bed::new();
    for (text, words) in [
        ("red\nblue slots=x\n", ["line 2", "slots=x"]),
        ("red:100\n# and\nred:29\n", ["line 3", "`red` has 129 slots"]),
        ("slots=3\n", ["line 1", "host's name"]),
        ("\n", ["no host in it", "slots=2"]),
        ("localhost\nred\n", ["localhost", "another machine"]),
    ] {
        let hosts = bed.file("hosts", text);
        bed.pagemesh(&format!("up --hosts {hosts}")).refused(&words);
    }
    bed.assert_nothing_left();
}

#[test]
fn a_port_in_use_is_named() {
    let bed = Bed::new();
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let port = taken.local_addr().expect("bound").port();
    for command in [format!("up --port {port}"), format!("run --port {port} matmul --n 4")] {
        bed.pagemesh(&command).refused(&["node 0", &port.to_string(), "in use"]);
    }
    bed.assert_nothing_left();
}

#[test]
fn an_unknown_setting_is_named_with_a_suggestion() {
    let bed = Bed::new().set("PAGEMESH_NET_LOS", "5%");
    bed.pagemesh("run --nodes 1 matmul --n 4").refused(&["PAGEMESH_NET_LOS", "did you mean `net_loss`"]);
    bed.assert_nothing_left();
}

/// IBM's backup client sets these for every user of a machine, to files and directories of its own.
#[test]
fn variables_of_another_program_have_no_effect() {
    let bed = Bed::new()
        .set("DSM_CONFIG", "/no/such/dsm.opt")
        .set("DSM_LOG", "/no/such")
        .set("DSM_DIR", "/no/such");
    let output = bed.pagemesh("run --nodes 1 --ranks 2 matmul --n 8").ok();
    assert!(output.err.is_empty(), "{}", output.err);
    bed.assert_nothing_left();
}

#[test]
fn a_settings_file_that_others_may_write_is_refused() {
    let bed = Bed::new();
    let path = bed.file("pagemesh.toml", "net_loss = \"5%\"\n");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).expect("opened");
    bed.pagemesh("doctor").refused(&["pagemesh.toml", "other users may write it", "chmod go-w"]);
    bed.pagemesh("run --nodes 1 matmul --n 4").refused(&["pagemesh.toml", "other users may write it"]);
    bed.assert_nothing_left();
}

#[test]
fn a_memory_limit_in_which_nothing_runs_is_refused_wherever_it_stands() {
    let bed = Bed::new().set("PAGEMESH_MEMORY_MAX", "5");
    bed.pagemesh("up --nodes 1").refused(&["PAGEMESH_MEMORY_MAX", "`5` is too little", "256 KiB"]);
    bed.pagemesh("run --no-daemons matmul --n 4").refused(&["PAGEMESH_MEMORY_MAX", "256 KiB"]);
    let bed = Bed::new();
    bed.file("pagemesh.toml", "memory_max = \"4096\"\n");
    bed.pagemesh("up --nodes 1").refused(&["pagemesh.toml: memory_max", "256 KiB"]);
    assert!(!bed.state().join("logs").exists(), "no daemon was started");
    bed.assert_nothing_left();
    // What is enough is enough.
    let bed = Bed::new();
    bed.pagemesh("run --nodes 1 --memory-max 512KiB counter --increments 5").ok();
}

#[test]
fn a_state_directory_that_others_may_enter_is_refused() {
    let bed = Bed::new();
    std::fs::create_dir(bed.state()).expect("made");
    std::fs::set_permissions(bed.state(), PermissionsExt::from_mode(0o755)).expect("opened");
    bed.pagemesh("up").refused(&["others may enter it", "chmod 700"]);
    bed.assert_nothing_left();
}

#[test]
fn a_key_that_is_missing_or_open_is_named() {
    let bed = Bed::new();
    bed.pagemesh("up --nodes 1").ok();
    let key = bed.state().join("key");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).expect("opened");
    bed.pagemesh("status").refused(&["key", "chmod 600"]);
    let done = bed.pagemesh("run matmul --n 4");
    assert_eq!(done.code, 2, "{done:#?}");
    done.says(&["matmul: ", "chmod 600"]);
    std::fs::remove_file(&key).expect("removed");
    bed.pagemesh("status").refused(&["key", "No such file"]);
    // Without the key nobody can ask it to stop; it is stopped by force.
    bed.pagemesh("down").ok().says(&["stopping its processes"]);
    bed.assert_nothing_left();
}

#[test]
fn a_daemon_with_another_key_is_not_let_in() {
    let bed = Bed::new();
    bed.pagemesh("up --nodes 1").ok();
    let status = bed.status();
    let addr = status["members"][0]["addr"].as_str().expect("an address").to_owned();
    let key = bed.file("other-key", &"5a".repeat(32));
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("closed");
    let done = bed.pagemesh(&format!("daemon --index 1 --join {addr} --key-file {key}"));
    done.refused(&["pagemesh daemon: ", &addr, "is not the key of the cluster"]);
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

#[test]
fn a_node_that_never_answers_is_named() {
    let bed = Bed::new();
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let addr = silent.local_addr().expect("bound").to_string();
    let key = bed.file("key", &"5a".repeat(32));
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("closed");
    let done = bed.pagemesh(&format!("daemon --index 1 --join {addr} --key-file {key}"));
    done.refused(&["pagemesh daemon: ", &addr, "no answer"]);
    bed.assert_nothing_left();
}

/// Answers at `socket` as a node of another version, until a peer has been told so.
fn refuse_as_another_version(socket: UdpSocket, theirs: Version) {
    let key = ClusterKey::new([0x5a; 32]);
    let mut endpoint =
        Endpoint::new(EndpointConfig::new(key, Incarnation(1), theirs, 1 << 20), Entropy::of_seed(1));
    let (mut datagram, mut transmit) = (vec![0; 1 << 16], TransmitBuf::default());
    // A question that comes again gets the same answer; one that is answered does not come again.
    while let Ok((len, from)) = socket.recv_from(&mut datagram) {
        endpoint.handle_datagram(Time(1), from, &mut datagram[..len], &mut |_, _| {});
        while let Some(answer) = endpoint.poll_transmit(Time(1), &mut transmit) {
            socket
                .send_to(&answer.with_slices(|slices| slices.concat()), answer.to)
                .expect("an answer goes out");
        }
    }
}

#[test]
fn a_cluster_of_another_version_is_named_with_both() {
    let bed = Bed::new();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let addr = socket.local_addr().expect("bound").to_string();
    let (ours, theirs) = (Version::ours(), Version::of_library(7 << 32 | 8 << 16 | 9));
    // It ends with this process.
    std::thread::spawn(move || refuse_as_another_version(socket, theirs));
    let key = bed.file("key", &"5a".repeat(32));
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("closed");
    let done = bed.pagemesh(&format!("daemon --index 1 --join {addr} --key-file {key}"));
    done.refused(&["pagemesh daemon: ", &addr, "version", &ours.to_string(), "library 7.8.9"]);
    bed.assert_nothing_left();
}

#[test]
fn what_a_program_finds_wrong_with_its_flags_is_one_line_a_rank() {
    let bed = Bed::new();
    let done = bed.pagemesh("run --nodes 1 --ranks 2 matmul --nn 7");
    assert_eq!(done.code, 2, "{done:#?}");
    assert_eq!(done.err.lines().filter(|line| line.contains("matmul: ")).count(), 2, "{done:#?}");
    let ends: Vec<&str> = done.err.lines().filter(|line| line.starts_with("pagemesh: ")).collect();
    let expected = ["pagemesh: rank 0 exited with code 2", "pagemesh: then rank 1 exited with code 2"];
    let other = ["pagemesh: rank 1 exited with code 2", "pagemesh: then rank 0 exited with code 2"];
    assert!(ends.ends_with(&expected) || ends.ends_with(&other), "and how the ranks ended: {done:#?}");
    done.says(&["[0] matmul: unexpected argument '--nn'", "'--n'"]);
    bed.pagemesh("daemon --indx 1").refused(&["pagemesh: ", "'--indx'", "'--index'"]);
    bed.assert_nothing_left();
}

#[test]
fn a_bad_settings_file_is_named_with_its_line() {
    let bed = Bed::new();
    bed.file("pagemesh.toml", "net_seed = 1\nthis is no toml\n");
    bed.pagemesh("run --nodes 1 matmul --n 4").refused(&["pagemesh.toml: line 2: "]);
    bed.file("pagemesh.toml", "net_los = \"5%\"\n");
    bed.pagemesh("run --nodes 1 matmul --n 4")
        .refused(&["pagemesh.toml: net_los", "did you mean `net_loss`"]);
    bed.assert_nothing_left();
}
