//! libFuzzer's way into the oracle of `observe`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: trackbed_fuzz::seeds::plant("observe"), |data: &[u8]| trackbed_fuzz::observe(data));
