//! What `doctor` says of this host and of others. The other hosts are addresses of the loopback network, and the
//! `ssh` in PATH is a script of the test.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::bed::{Bed, Done};

/// A place in which `ssh` is this script; its last argument is the command line for the other host.
fn with_ssh(script: &str) -> Bed {
    let bed = Bed::new();
    let ssh = bed.file("ssh", &format!("#!/bin/sh\nfor last; do :; done\n{script}\n"));
    std::fs::set_permissions(&ssh, PermissionsExt::from_mode(0o755)).expect("executable");
    let path = format!("{}:{}", bed.dir().display(), std::env::var("PATH").unwrap_or_default());
    bed.set("PATH", &path)
}

/// As sshd does it: through a shell.
const WORKING: &str = "exec sh -c \"$last\"";

/// The report about the first other host.
fn report(done: &Done) -> (Value, Vec<Value>) {
    let report: Value = serde_json::from_str(&done.out).expect("JSON");
    assert_eq!(report["hosts"][1]["host"], "127.0.0.2", "{report:#}");
    let checks = report["hosts"][1]["checks"].as_array().expect("checks").clone();
    (report, checks)
}

fn check<'a>(checks: &'a [Value], name: &str) -> &'a Value {
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no check `{name}` in {checks:#?}"))
}

#[test]
fn this_host_gets_a_verdict_and_each_bad_finding_a_mend() {
    let bed = Bed::new();
    let done = bed.pagemesh("doctor").ok();
    let verdict = done.out.lines().next().expect("a verdict");
    assert!(verdict == "ready" || verdict.starts_with("usable, slower because "), "{done:#?}");
    let done = bed.pagemesh("doctor --json").ok();
    let report: Value = serde_json::from_str(&done.out).expect("JSON");
    assert_eq!(report["verdict"], verdict);
    let checks = report["hosts"][0]["checks"].as_array().expect("checks");
    for name in
        ["kernel", "fault backend", "seccomp", "signal mask", "memory", "cores", "socket buffer", "MTU"]
    {
        let check = check(checks, name);
        assert_eq!(check["health"] == "Ok", check["mend"].is_null(), "{check:#}");
    }
    bed.assert_nothing_left();
}

#[test]
fn a_host_that_is_too_small_will_not_work() {
    let bed = Bed::new();
    // An arena that the limit on addresses does not allow.
    let line = format!("ulimit -v 1000000; exec {} doctor", bed.binary("pagemesh"));
    let script = bed.file("limited.sh", &line);
    let done = bed.start_path("sh", &script).wait();
    assert_eq!(done.code, 1, "{done:#?}");
    assert!(
        done.out.starts_with("will not work: ") && done.out.contains("mend: ulimit -v unlimited"),
        "{done:#?}"
    );
}

#[test]
fn other_hosts_are_reached_by_ssh_and_by_datagrams_both_ways() {
    let bed = with_ssh(WORKING);
    let hosts = bed.file("hosts", "127.0.0.2\n127.0.0.3 slots=2\n");
    let done = bed.pagemesh(&format!("doctor --hosts {hosts} --json")).ok();
    let (report, checks) = report(&done);
    assert_eq!(report["hosts"].as_array().map(Vec::len), Some(3), "{report:#}");
    for name in ["address", "ssh", "version", "UDP there and back", "UDP from there unasked"] {
        assert_eq!(check(&checks, name)["health"], "Ok", "{checks:#?}");
    }
    // What the other side has found about itself.
    check(&checks, "cores");
    bed.assert_nothing_left();
}

/// As with `ControlPersist`: a process stays in the background, and holds the pipes open.
#[test]
fn an_ssh_that_leaves_a_process_behind_is_not_waited_for() {
    let behind = "exec tail -f /dev/null";
    let bed = with_ssh(&format!("({behind}) &\necho 'Permission denied (publickey).' >&2; exit 255"));
    let hosts = bed.file("hosts", "127.0.0.2\n");
    let done = bed.pagemesh(&format!("doctor --hosts {hosts}"));
    assert_eq!(done.code, 1, "{done:#?}");
    assert!(done.out.starts_with("will not work: 127.0.0.2: ssh: Permission denied"), "{done:#?}");
    // One that holds standard error alone.
    let bed = with_ssh(&format!("({behind}) > /dev/null &\necho 'Connection refused' >&2; exit 255"));
    let hosts = bed.file("hosts", "127.0.0.2\n");
    let done = bed.pagemesh(&format!("doctor --hosts {hosts}"));
    assert!(done.out.starts_with("will not work: 127.0.0.2: ssh: Connection refused"), "{done:#?}");
}

#[test]
fn a_host_that_ssh_does_not_reach_will_not_work_and_the_mend_is_said() {
    let bed = with_ssh("echo 'Permission denied (publickey).' >&2; exit 255");
    let hosts = bed.file("hosts", "127.0.0.2\n");
    let done = bed.pagemesh(&format!("doctor --hosts {hosts}"));
    assert_eq!(done.code, 1, "{done:#?}");
    assert!(done.out.starts_with("will not work: 127.0.0.2: ssh: Permission denied"), "{done:#?}");
    assert!(done.out.contains("mend: `ssh -o BatchMode=yes 127.0.0.2 true` must succeed"), "{done:#?}");
    bed.assert_nothing_left();
}

#[test]
fn a_host_without_this_build_or_with_another_is_named_with_both() {
    let bed = with_ssh("echo 'sh: pagemesh: not found' >&2; exit 127");
    let hosts = bed.file("hosts", "127.0.0.2\n");
    let line = format!("doctor --hosts {hosts} --json");
    let done = bed.pagemesh(&line);
    let (_, checks) = report(&done);
    assert_eq!((done.code, &check(&checks, "version")["health"]), (1, &"Bad".into()), "{checks:#?}");
    let other =
        r#"{"version":"library 9.9.9 (protocol 77)","commit":"0123456","listens":{"Err":"x"},"checks":[]}"#;
    let bed = with_ssh(&format!("echo '{other}'; exec cat > /dev/null"));
    let hosts = bed.file("hosts", "127.0.0.2\n");
    let done = bed.pagemesh(&format!("doctor --hosts {hosts} --json"));
    let (_, checks) = report(&done);
    let found = check(&checks, "version");
    let ours = pagemesh::net::Version::ours().to_string();
    let text = found["found"].as_str().expect("text");
    assert!(done.code == 1 && text.contains("library 9.9.9") && text.contains(&ours), "{found:#}");
    bed.assert_nothing_left();
}

#[test]
fn a_host_from_which_no_datagram_comes_back_will_not_work() {
    // It bears the name of a host that answers by ssh, and nobody reads what comes to its port.
    let silent = UdpSocket::bind("127.0.0.2:0").expect("a socket");
    let port = silent.local_addr().expect("bound").port();
    let instead = format!("sed -uE 's/127[.]0[.]0[.]2:[0-9]+/127.0.0.2:{port}/'");
    let bed = with_ssh(&format!("sh -c \"$last\" | {instead}"));
    let hosts = bed.file("hosts", "127.0.0.2\n");
    let done = bed.pagemesh(&format!("doctor --hosts {hosts} --json"));
    let (_, checks) = report(&done);
    let found = check(&checks, "UDP there and back");
    assert_eq!((done.code, &found["health"]), (1, &"Bad".into()), "{checks:#?}");
    assert!(found["mend"].as_str().is_some_and(|mend| mend.contains("let UDP through")), "{found:#}");
    bed.assert_nothing_left();
}

#[test]
fn a_name_that_leads_to_another_host_is_found() {
    // No address of this host.
    let bed = with_ssh(&format!("last=$(printf '%s' \"$last\" | sed 's/127.0.0.2/192.0.2.1/'); {WORKING}"));
    let hosts = bed.file("hosts", "127.0.0.2\n");
    let done = bed.pagemesh(&format!("doctor --hosts {hosts} --json"));
    let (_, checks) = report(&done);
    assert_eq!((done.code, &check(&checks, "UDP there")["health"]), (1, &"Bad".into()), "{checks:#?}");
    bed.pagemesh("doctor --hosts nowhere").refused(&["hosts file nowhere"]);
    bed.assert_nothing_left();
}
