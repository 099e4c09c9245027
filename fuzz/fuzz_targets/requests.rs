//! Fuzzes [`bodies::requests`].
#![no_main]

#[allow(dead_code, reason = "the bodies of all targets are in one file")]
#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::requests(bytes));
