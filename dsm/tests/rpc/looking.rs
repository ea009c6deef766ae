//! Looking in from outside: the meta interface, and calls without stubs.

use pagemesh::rpc::MetaClient;
use pagemesh::rpc::dynamic::Dynamic;
use serde_json::{Value, json};

use super::support::Pair;

#[test]
fn a_node_says_what_it_serves_and_what_it_did() {
    let pair = Pair::driven();
    let meta = MetaClient::new(pair.channel());
    let names: Vec<_> =
        meta.list().unwrap().into_iter().map(|served| (served.name, served.version)).collect();
    assert_eq!(names, [("Calculator".to_owned(), 2), ("Meta".to_owned(), 1)]);
    assert!(meta.describe("Calculator").unwrap().contains("\"divide\""));
    assert!(meta.describe("Nobody").is_err());
    assert_eq!(meta.ping(b"there?").unwrap(), b"there?");
    pair.blocking().func2(1, 2).unwrap();
    pair.blocking().nothing().unwrap_err();
    let lines = meta.statistics().unwrap();
    let line = |name: &str| lines.iter().find(|line| line.method == name).unwrap();
    assert_eq!((line("Calculator.func2").calls, line("Calculator.func2").failures), (1, 0));
    assert_eq!((line("Calculator.nothing").calls, line("Calculator.nothing").failures), (1, 1));
}

#[test]
fn a_method_is_called_in_json_as_the_stubs_would_call_it() {
    let pair = Pair::driven();
    let description = MetaClient::new(pair.channel()).describe("Calculator").unwrap();
    let dynamic = Dynamic::new(&description).unwrap();
    let call = |method: &str, arguments: Value| dynamic.call(&pair.channel(), method, &arguments);
    assert_eq!(call("func2", json!({"arg1": 2, "arg2": 3})).unwrap(), json!(5));
    assert_eq!(call("echo", json!({"data": "00ff"})).unwrap(), json!("00ff"));
    assert_eq!(call("count", json!({"upto": 3})).unwrap(), json!([0, 1, 2]));
    assert_eq!(call("note", json!({"text": "four"})).unwrap(), Value::Null);
    let tree = json!({"name": "t", "left": {"name": "l", "others": []}, "others": []});
    let mirrored = json!({"name": "t", "right": {"name": "l", "others": []}, "others": []});
    assert_eq!(call("mirror", json!({"tree": tree})).unwrap(), mirrored);
    let figure = json!({"polygon": {"corners": [{"x": 0.5, "y": 1.0}], "name": null}});
    assert_eq!(call("area", json!({"figure": figure, "color": "green"})).unwrap(), json!(6.0));
    let sample =
        json!({"time": 4.0, "values": [1, 2, 3, 4], "color": "red", "counts": {"a": 1}, "label": "x"});
    let stats = call("summary", json!({"samples": [sample], "tag": null})).unwrap();
    assert_eq!(stats, json!({"samples": 1, "mean": 4.0}));
    let sum = json!({"small": [1, 2], "flags": {"-7": true}, "f": 1.0, "type": true, "self": 2});
    assert_eq!(call("sum", sum).unwrap(), json!(8));
    let model = call("train", json!({"data": {"addr": 4096, "len": 2, "generation": 1}})).unwrap();
    assert_eq!(model, json!({"weights": [2.0]}));
}

#[test]
fn integers_that_a_double_does_not_hold_are_texts() {
    let pair = Pair::driven();
    let description = MetaClient::new(pair.channel()).describe("Meta").unwrap();
    let meta = Dynamic::new(&description).unwrap();
    let listed = meta.call(&pair.channel(), "list", &Value::Null).unwrap();
    let hash = crate::calculator::CALCULATOR.hash;
    assert!(hash > 1 << 53);
    assert_eq!((&listed[0]["hash"], &listed[0]["version"]), (&json!(hash.to_string()), &json!(2)));
    // What came as a text goes back as one.
    let calculator = Dynamic::new(crate::calculator::CALCULATOR.description).unwrap();
    let data = json!({"data": {"addr": hash.to_string(), "len": 1, "generation": 1}});
    assert_eq!(calculator.call(&pair.channel(), "train", &data).unwrap(), json!({"weights": [1.0]}));
}

#[test]
fn what_does_not_fit_is_said_before_anything_is_called() {
    let pair = Pair::driven();
    let dynamic = Dynamic::new(crate::calculator::CALCULATOR.description).unwrap();
    let said = |method: &str, arguments: Value| {
        dynamic.call(&pair.channel(), method, &arguments).unwrap_err().to_string()
    };
    assert_eq!(said("divide", json!({"a": 1, "b": 0})), r#"thrown: {"DivideByZero":{}}"#);
    assert_eq!(said("func3", json!({})), "there is no method Calculator.func3; did you mean `func1`?");
    assert_eq!(
        said("func1", json!({"arg1": 5_000_000_000u64})),
        "argument arg1: expected an int32, found 5000000000"
    );
    assert_eq!(said("func1", json!({"arg": 1})), "func1 has no argument arg; it has: arg1");
    assert_eq!(
        said("area", json!({"figure": {"circle": 1.0}, "color": "pink"})),
        "argument color: expected one of red, green, blue, found \"pink\""
    );
    assert_eq!(
        said("echo", json!({"data": "0g"})),
        "argument data: expected a text of pairs of hexadecimal digits, found \"0g\""
    );
    assert_eq!(said("divide", json!({"a": 1})), "argument b: it is missing");
    let sample =
        |time: Value| json!({"time": time, "values": [1, 2, 3, 4], "color": "red", "counts": {"x": 1}});
    let mut wrong = sample(json!(2.0));
    wrong["counts"]["x"] = json!(-1);
    assert_eq!(
        said("summary", json!({"samples": [sample(json!(1)), sample(json!("now"))]})),
        "argument samples[1].time: expected a number, found \"now\""
    );
    assert_eq!(
        said("summary", json!({"samples": [wrong]})),
        "argument samples[0].counts[\"x\"]: expected a uint64, found -1"
    );
    assert!(Dynamic::new("{}").is_err());
    assert_eq!(pair.server_end.counters().malformed, 0);
}
