//! Any bytes as an interface file: an answer, never a panic or a wait without end.
//! `cargo +nightly fuzz run rpcgen_parser`; seeds are `rpcgen/tests/accepted/*.idl`.
#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(schema) = pagemesh_rpcgen::check::check(Path::new("fuzz.idl"), &mut |_| Ok(text.clone().into_owned())) {
        pagemesh_rpcgen::generate(&schema);
        let once = pagemesh_rpcgen::format_source("fuzz.idl", &text).expect("what compiles can be laid out");
        assert_eq!(pagemesh_rpcgen::format_source("fuzz.idl", &once).expect("still compiles"), once);
    }
});
