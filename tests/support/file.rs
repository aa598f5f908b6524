//! Configuration files for tests. All listeners use free ports.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::Pair;

/// Returns a configuration with the listener `test`; `more` is appended to its section.
pub(crate) fn text(backend: SocketAddr, pair: &Pair, more: &str) -> String {
    let mut text = String::new();
    writeln!(text, "[admin]\nlisten = \"127.0.0.1:0\"").unwrap();
    writeln!(text, "[[listener]]\nname = \"test\"\nlisten = \"127.0.0.1:0\"").unwrap();
    writeln!(text, "backend = \"{backend}\"").unwrap();
    writeln!(
        text,
        "tls.certificates = [{{ cert = {:?}, key = {:?} }}]",
        pair.files.cert, pair.files.key
    )
    .unwrap();
    text + more
}

/// Writes a configuration by replacing the file, as an editor does.
pub(crate) fn write(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("tlsidecar.toml");
    super::certs::replace(&path, text);
    path
}
