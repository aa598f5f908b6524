//! Checks the text of a configuration file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tlsidecar_fuzz::Material;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = Material::get().file("tlsidecar.toml");
    if let Err(error) = tlsidecar::config::file::parse(text, &path) {
        // Formats it, as the program does.
        let _text = error.to_string();
    }
});
