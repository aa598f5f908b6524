//! Reads a ClientHello. Asserts that its split into segments does not change the result, and that rustls reads the
//! same server name.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tlsidecar_fuzz::{Script, segmented, with_server};
use tokio_rustls::rustls::server::Acceptor;

fuzz_target!(|data: &[u8]| {
    let (segments, bytes) = segmented(data);
    let (whole, split) = with_server(async |server| {
        let whole = server.server_name(Script::new(bytes.to_vec(), &[])).await;
        (whole, server.server_name(Script::new(bytes.to_vec(), segments)).await)
    });
    assert_eq!(whole, split, "the split into segments changes what is seen");
    if let (Some(ours), Some(theirs)) = (whole, by_rustls(bytes)) {
        assert_eq!(ours, theirs, "rustls sees another name");
    }
});

/// Returns the name that rustls reads; none if rustls refuses the hello.
fn by_rustls(mut bytes: &[u8]) -> Option<Option<Box<str>>> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            return Some(accepted.client_hello().server_name().map(Box::from));
        }
    }
    None
}
