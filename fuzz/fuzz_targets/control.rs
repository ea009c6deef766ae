//! `pagemesh_fuzz::control`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pagemesh_fuzz::control(bytes));
