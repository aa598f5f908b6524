//! Parses the query of `/sessions` and `/top`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    tlsidecar::control::admin::fuzz::query(text);
});
