//! libFuzzer's way into the oracle of `record`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: trackbed_fuzz::seeds::plant("record"), |data: &[u8]| trackbed_fuzz::record(data));
