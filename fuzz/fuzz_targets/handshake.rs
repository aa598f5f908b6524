//! Input of a client before keys are negotiated: records, their split, and handshake messages in them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tlsidecar_fuzz::{Script, segmented, with_server};

fuzz_target!(|data: &[u8]| {
    let (segments, bytes) = segmented(data);
    with_server(async |server| {
        let backend = Script::new(b"hello".to_vec(), &[]);
        server.serve(Script::new(bytes.to_vec(), segments), backend).await;
    });
});
