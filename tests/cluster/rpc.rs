//! `pagemesh rpc`: looking at the interfaces of a running cluster, and calling them.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::bed::{Bed, Done};

fn answer(done: Done) -> Value {
    serde_json::from_str(&done.ok().out).expect("JSON")
}

#[test]
fn interfaces_are_listed_described_and_called() {
    let bed = Bed::new();
    bed.pagemesh("up --nodes 2").ok();
    bed.pagemesh("run region write data --len 1000").ok();

    let nodes = answer(bed.pagemesh("rpc ls --json"));
    let names = |node: usize| {
        let interfaces = nodes[node]["interfaces"].as_array().expect("a list");
        interfaces.iter().map(|interface| interface["interface"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        (names(0), names(1)),
        (vec![json!("Cluster"), json!("Meta"), json!("Node")], vec![json!("Meta"), json!("Node")])
    );
    assert_eq!(answer(bed.pagemesh("rpc ls 1 --json")).as_array().map(Vec::len), Some(1));

    let hash = nodes[0]["interfaces"][0]["hash"].as_str().expect("ids are text");
    assert!(hash.len() == 16 && u64::from_str_radix(hash, 16).is_ok(), "{hash}");
    let table = bed.pagemesh("rpc ls").ok().out;
    let lines: Vec<&str> = table.lines().collect();
    // A heading, and a line for each interface of each node, none wider than a terminal.
    assert!(lines.len() == 6 && lines[0].starts_with("NODE") && lines[0].contains("INTERFACE"), "{table}");
    assert!(lines[1].contains("Cluster") && lines[1].contains(hash), "{table}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{table}");

    // What `describe` prints is an interface file, of which stubs are made.
    let text = bed.pagemesh("rpc describe Cluster").ok().out;
    let file = bed.file("cluster.idl", &text);
    bed.pagemesh(&format!("rpcgen fmt --check {file}")).ok();
    let stubs = bed.pagemesh(&format!("rpcgen {file}")).ok().out;
    assert!(stubs.contains("pub trait Cluster") && stubs.contains(&format!("hash: 0x{hash}")), "{text}");

    let described = answer(bed.pagemesh("rpc describe Node --json"));
    assert_eq!(described["name"], "Node");
    assert!(described["methods"].as_array().is_some_and(|methods| methods.len() == 7), "{described:#}");

    let region = answer(bed.pagemesh(r#"rpc call 1 Node.region {"name":"data"}"#));
    assert_eq!((&region["name"], &region["len"]), (&json!("data"), &json!(8000)));
    assert_eq!(answer(bed.pagemesh(r#"rpc call 0 Node.region {"name":"none"}"#)), Value::Null);
    assert_eq!(answer(bed.pagemesh(r#"rpc call 0 Meta.ping {"payload":"00ff"}"#)), "00ff");

    let thrown = bed.pagemesh(r#"rpc call 0 Cluster.remove_region {"name":"none"}"#);
    assert_eq!(thrown.code, 1, "{thrown:#?}");
    assert!(thrown.out.contains("\"thrown\"") && thrown.out.contains("none"), "{thrown:#?}");
    bed.pagemesh("rpc call 0 Meta.ping --deadline 0").says(&["no time at all"]);
    bed.pagemesh("rpc call 0 Meta.ping --deadline soon").says(&["not a number of seconds"]);
    assert_eq!(
        answer(bed.pagemesh("rpc call 0 Node.region {\"name\":\"none\"} --deadline 0.5")),
        Value::Null
    );
    bed.pagemesh("rpc call 1 Cluster.shutdown").says(&["does not serve Cluster", "these nodes do: 0"]);
    bed.pagemesh("rpc call 1 Clustre.shutdown").says(&["does not serve Clustre", "did you mean `Cluster`"]);
    bed.pagemesh("rpc call 0 Meta.pin").says(&["no method Meta.pin", "did you mean `ping`"]);
    bed.pagemesh("rpc call 9 Meta.list").says(&["no node 9", "0, 1"]);
    bed.pagemesh(r#"rpc call 0 Meta.ping {"pay":"00"}"#).says(&["no argument pay", "payload"]);
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

/// Numbers above which a reader of JSON that has doubles alone gives another number.
const EXACT_MAX: u64 = 1 << 53;

/// Fails if a number in this JSON, or in a text of JSON in it, is beyond what every reader holds exactly.
fn assert_exact(line: &str, value: &serde_json::Value) {
    match value {
        serde_json::Value::Number(number) => {
            assert!(number.as_u64().is_none_or(|number| number <= EXACT_MAX), "{line}: {number}");
        }
        serde_json::Value::String(text) => {
            if let Ok(value @ serde_json::Value::Object(_)) = serde_json::from_str(text) {
                assert_exact(line, &value);
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| assert_exact(line, value)),
        serde_json::Value::Object(fields) => fields.values().for_each(|value| assert_exact(line, value)),
        serde_json::Value::Null | serde_json::Value::Bool(_) => {}
    }
}

#[test]
fn hashes_and_incarnations_are_texts_wherever_they_are_shown() {
    let bed = Bed::new();
    bed.pagemesh("up --daemons 2").ok();
    bed.pagemesh("run --ranks 2 region write data").ok();
    for (line, id) in [
        ("rpc ls --json", "hash"),
        ("rpc call 0 Meta.list", "hash"),
        ("rpc call 0 Cluster.directory", ""),
        ("rpc call 0 Cluster.status", ""),
        ("rpc call 0 Node.status", ""),
        ("rpc describe Meta --json", ""),
        ("status --json --interval 0", ""),
        ("regions ls --json", "program"),
    ] {
        let done = bed.pagemesh(line).ok();
        assert_exact(line, &serde_json::from_str(&done.out).expect("JSON"));
        let ids = done.out.lines().filter(|shown| shown.contains(&format!("\"{id}\": ")));
        let texts = ids.filter(|shown| shown.contains(&format!("\"{id}\": \""))).count();
        assert!(id.is_empty() || texts > 0, "{line} shows no {id} as a text: {done:#?}");
    }
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

/// Members that get no core are waited for together, and listed. Without node 0, or with the key of another cluster,
/// nobody can be asked: the line says so, and what to do.
#[test]
fn a_command_that_gets_no_answer_ends_with_one_line() {
    let bed = Bed::new();
    bed.pagemesh("up --nodes 3").ok();
    let file = std::fs::read_to_string(bed.state().join("cluster.json")).expect("the cluster's file");
    let cluster: Value = serde_json::from_str(&file).expect("JSON");
    let signal = |node: usize, signal: Signal| {
        let pid = cluster["nodes"][node]["pid"].as_i64().expect("a number");
        kill(Pid::from_raw(pid as i32), signal).expect("it runs");
    };
    [1, 2].into_iter().for_each(|node| signal(node, Signal::SIGSTOP));
    let listed = bed.pagemesh("rpc ls");
    [1, 2].into_iter().for_each(|node| signal(node, Signal::SIGCONT));
    assert!(listed.code == 1 && listed.out.contains("Cluster"), "{listed:#?}");
    assert!(listed.out.contains("node 1 (") && listed.out.contains("node 2 ("), "{listed:#?}");

    let silent = ["the cluster does not answer", "`pagemesh down`"];
    signal(0, Signal::SIGSTOP);
    let refused = ["status", "rpc ls", "regions ls"].map(|command| bed.pagemesh(command));
    signal(0, Signal::SIGCONT);
    refused.into_iter().for_each(|done| drop(done.refused(&silent)));

    let key = bed.state().join("key");
    let own = std::fs::read(&key).expect("the key");
    std::fs::write(&key, "0".repeat(64)).expect("another key");
    let began = std::time::Instant::now();
    let says =
        [key.to_str().expect("text"), "is not the key of the cluster at", "use that cluster's key file"];
    bed.pagemesh("status").refused(&says);
    assert!(began.elapsed() < std::time::Duration::from_secs(1), "{:?}", began.elapsed());
    std::fs::write(&key, own).expect("the key again");
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}
