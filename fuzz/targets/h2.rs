//! libFuzzer's way into the oracle of `h2`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: trackbed_fuzz::seeds::plant("h2"), |data: &[u8]| trackbed_fuzz::h2(data));
