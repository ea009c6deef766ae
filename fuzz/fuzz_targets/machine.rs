//! `pagemesh_fuzz::machine`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pagemesh_fuzz::machine(bytes));
