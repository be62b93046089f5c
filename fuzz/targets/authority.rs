//! libFuzzer's way into the oracle of `authority`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: trackbed_fuzz::seeds::plant("authority"), |data: &[u8]| trackbed_fuzz::authority(data));
