//! `pagemesh_fuzz::batches`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pagemesh_fuzz::batches(bytes));
