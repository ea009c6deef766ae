//! Calls without stubs to a server whose description and answers are made to take as much as they can.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use pagemesh::rpc::dynamic::{Dynamic, DynamicError};
use pagemesh::rpc::{
    Context, DecodeError, Decoder, Interface, Kind, Method, Reply, Service, Shape, Sink, Wire,
};
use serde_json::{Value, json};

use super::support::Pair;

/// Stack of the thread that calls: an eighth of what a thread has by default.
const STACK_LEN: usize = 256 << 10;
/// Lists inside each other in the field of a struct; readers of JSON accept no deeper description.
const LISTS: usize = 100;

const fn method(name: &'static str, id: u64, kind: Kind) -> Method {
    let (idempotent, longrunning) = (false, false);
    Method { interface: "Hostile", version: 1, name, id, kind, deadline_us: None, idempotent, longrunning }
}

static HOSTILE: Interface = Interface {
    name: "Hostile",
    version: 1,
    hash: 1,
    methods: &[
        method("deep", 0x77_0000_0001, Kind::Unary),
        method("wide", 0x77_0000_0002, Kind::Unary),
        method("many", 0x77_0000_0003, Kind::Stream),
    ],
    description: "",
};

/// The bytes as they are.
struct Bytes(Vec<u8>);

impl Wire for Bytes {
    const SHAPE: Shape = Shape::Bare;
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn decode(_: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Err(DecodeError::Bad("never read"))
    }
}

/// Tells when its stream has ended.
#[derive(Clone, Default)]
struct Hostile {
    stream_ended: Arc<AtomicBool>,
}

impl Service for Hostile {
    fn interface(&self) -> &'static Interface {
        &HOSTILE
    }
    fn dispatch(
        &self,
        method: usize,
        context: &Context<'_>,
        _: &mut Decoder<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), DecodeError> {
        match method {
            0 => reply.answer::<_, pagemesh::rpc::Error>(Ok(Bytes(nested(28)))),
            1 => reply.answer::<_, pagemesh::rpc::Error>(Ok(Bytes(wide()))),
            _ => {
                let mut sink = Sink::new(context);
                let item = Bytes([&(1u32 << 19).to_le_bytes()[..], &vec![7; 1 << 19]].concat());
                let sent = (0..200).try_for_each(|_| sink.send(&item));
                reply.end::<_, pagemesh::rpc::Error>(sent, &sink);
                self.stream_ended.store(true, Ordering::SeqCst);
            }
        }
        Ok(())
    }
}

/// A struct in lists in the field of a struct, and so on. Each level of it is a level of every reader.
fn nested(structs: usize) -> Vec<u8> {
    let mut bytes = 0u32.to_le_bytes().to_vec();
    for _ in 1..structs {
        let lists = [1u32.to_le_bytes().repeat(LISTS), bytes].concat();
        let field = [&[1 << 3 | 5][..], &(lists.len() as u32).to_le_bytes(), &lists].concat();
        bytes = [&(field.len() as u32).to_le_bytes()[..], &field].concat();
    }
    bytes
}

/// A list of structs of one byte each, in JSON each with the name of the field.
fn wide() -> Vec<u8> {
    let count = 100_000;
    let one = [&2u32.to_le_bytes()[..], &[1 << 3, 7]].concat();
    [&(count as u32).to_le_bytes()[..], &one.repeat(count)].concat()
}

static DESCRIPTION: LazyLock<String> = LazyLock::new(|| {
    let lists = (0..LISTS).fold(json!({"named": "Deep"}), |inner, _| json!({ "list": inner }));
    let method = |at: usize, kind: &str, arguments: Value, returns: Value| {
        json!({
            "id": format!("{:#x}", HOSTILE.methods[at].id), "name": HOSTILE.methods[at].name, "kind": kind,
            "arguments": arguments, "returns": returns, "throws": [], "idempotent": false, "longrunning": false,
        })
    };
    let optionals = (0..LISTS).fold(json!({"named": "Argument"}), |inner, _| json!({ "optional": inner }));
    json!({
        "name": "Hostile",
        "version": 1,
        "methods": [
            method(0, "unary", json!([{"id": 1, "name": "a", "type": optionals}]), json!({"named": "Deep"})),
            method(1, "unary", json!([]), json!({"list": {"named": "Wide"}})),
            method(2, "stream", json!([]), json!("bytes")),
        ],
        "types": {
            "Deep": {"struct": [{"id": 1, "name": "f", "type": lists}]},
            "Wide": {"struct": [{"id": 1, "name": "w".repeat(1000), "type": "u8"}]},
            "Argument": {"struct": [{"id": 1, "name": "a", "type": {"list": optionals}}]},
        },
    })
    .to_string()
});

/// Calls a method on a thread with a small stack.
fn call(method: &'static str, arguments: Value) -> Result<Value, DynamicError> {
    let (pair, hostile) = (Pair::by_hand(), Hostile::default());
    pair.server_end.serve(hostile.clone(), 8);
    let dynamic = Dynamic::new(&DESCRIPTION).unwrap();
    let channel = pair.channel();
    pair.alive(|| {
        let result = std::thread::scope(|scope| {
            let small = std::thread::Builder::new().stack_size(STACK_LEN);
            let called = small.spawn_scoped(scope, || dynamic.call(&channel, method, &arguments)).unwrap();
            called.join().unwrap()
        });
        // The server learns that nobody reads the stream any more, and ends it.
        while method == "many" && !hostile.stream_ended.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        result
    })
}

#[test]
fn a_deep_answer_is_an_error_and_overflows_no_small_stack() {
    assert!(nested(28).len() < 28 << 10);
    let error = call("deep", json!({})).unwrap_err();
    assert!(matches!(error, DynamicError::TooDeep), "{error}");
    assert!(error.to_string().contains("deeper than 128 levels"), "{error}");
}

#[test]
fn a_deep_argument_is_an_error_and_overflows_no_small_stack() {
    let deep = (0..60).fold(json!({"a": []}), |inner, _| json!({"a": [inner]}));
    let error = call("deep", json!({ "a": deep })).unwrap_err();
    assert!(matches!(error, DynamicError::Arguments(_)), "{error}");
    assert!(error.to_string().contains("nests deeper than 128 levels"), "{error}");
}

#[test]
fn an_answer_of_few_bytes_is_bounded_by_the_memory_of_its_json() {
    let error = call("wide", json!({})).unwrap_err();
    assert!(matches!(error, DynamicError::TooLarge), "{error}");
    assert!(error.to_string().contains("64 MiB"), "{error}");
}

#[test]
fn the_items_of_a_stream_share_one_budget_of_memory() {
    let error = call("many", json!({})).unwrap_err();
    assert!(matches!(error, DynamicError::TooLarge), "{error}");
}

#[test]
fn a_description_with_an_id_that_no_tag_holds_is_refused() {
    let wrong = DESCRIPTION.replace(r#"[{"id":1,"name":"f""#, r#"[{"id":4096,"name":"f""#);
    assert!(wrong != *DESCRIPTION);
    let error = Dynamic::new(&wrong).err().expect("an id that wraps");
    assert!(error.to_string().contains("Deep.f has the id 4096"), "{error}");
}
