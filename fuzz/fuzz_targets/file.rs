#![no_main]

#[path = "../../tests/pure/invariants/file.rs"]
#[allow(dead_code, reason = "the property tests use more of it")]
mod invariants;

libfuzzer_sys::fuzz_target!(|data: &[u8]| invariants::check(data));
