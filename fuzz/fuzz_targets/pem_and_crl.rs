//! Loads files: the server's chain, its key, the CAs and the CRLs. The first byte of an input selects the file that
//! gets the rest; from 4 on it is a CRL in DER, wrapped into PEM.

#![no_main]

use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use tlsidecar::proxy::fuzz::load;
use tlsidecar_fuzz::Material;

const FILES: [&str; 4] = ["server.crt", "server.key", "ca.crt", "devices.crl"];

fuzz_target!(|data: &[u8]| {
    let Some((which, content)) = data.split_first() else { return };
    let material = Material::get();
    let made_up = material.file("made-up");
    let content = if *which >= 4 { as_pem(content) } else { content.to_vec() };
    std::fs::write(&made_up, content).expect("the directory is writable");
    let which = usize::from(*which).min(3);
    let files: [PathBuf; 4] =
        std::array::from_fn(|i| if i == which { made_up.clone() } else { material.file(FILES[i]) });
    // The problems are the result.
    let _refused = load(&files);
});

fn as_pem(der: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = b"-----BEGIN X509 CRL-----\n".to_vec();
    for three in der.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if digit <= three.len() { DIGITS[value as usize] } else { b'=' });
        }
    }
    text.extend(b"\n-----END X509 CRL-----\n");
    text
}
