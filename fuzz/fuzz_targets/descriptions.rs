//! `pagemesh_fuzz::descriptions`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pagemesh_fuzz::descriptions(bytes));
