//! Looking in from outside: the meta interface, and calls without stubs.

use dsm::rpc::MetaClient;

use super::support::Pair;

#[test]
fn a_node_says_what_it_serves_and_what_it_did() {
    let pair = Pair::driven();
    let meta = MetaClient::new(pair.channel());
    let names: Vec<_> = meta.list().unwrap().into_iter().map(|served| (served.name, served.version)).collect();
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
