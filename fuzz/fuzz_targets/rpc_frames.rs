//! `pagemesh_fuzz::rpc_frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pagemesh_fuzz::rpc_frames(bytes));
