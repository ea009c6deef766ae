//! `pagemesh_fuzz::datagram`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pagemesh_fuzz::datagram(bytes));
