//! libFuzzer's way into the oracle of `hpack`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: trackbed_fuzz::seeds::plant("hpack"), |data: &[u8]| trackbed_fuzz::hpack(data));
