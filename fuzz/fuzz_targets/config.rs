#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| longwave_fuzz::config(data));
