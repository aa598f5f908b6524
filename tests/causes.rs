//! Causes of "my device cannot connect", each staged with a real device: the metric and the log line name it.

use std::net::SocketAddr;
use std::process::Command;

use tokio::net::TcpStream;

use crate::support::access_log::line;
use crate::support::command::{has, run};
use crate::support::proxy::metric;
use crate::support::{Authority, Backend, Device, Pair, Sidecar, file};

/// The device rejects the server certificate.
mod certificate;

/// The device has nothing in common with the listener.
mod offers;

/// The device stops in the handshake: a scanner, a path that loses packets.
mod stops;

/// More devices connect than the proxy can serve.
mod overload;

/// The device has no route, or does not speak TLS.
mod routes;

/// The legacy server is down or silent, or this process has no descriptors for it.
mod servers;

/// The network forgets a connection.
mod network;

/// Starts a sidecar in front of this address, and returns a device for it. `more` is appended to its listener's section.
fn before(backend: SocketAddr, more: &str) -> (Device, Sidecar) {
    let authority = Authority::new("ca");
    let text = file::text(backend, &authority.server(), more);
    let sidecar = Sidecar::start(authority.dir(), &text);
    (Device::new(&authority), sidecar)
}

/// A sidecar with an echo as its backend.
struct Scene {
    sidecar: Sidecar,
    authority: Authority,
    _backend: Backend,
}

impl Scene {
    /// Starts it; `more` is appended to its listener's section.
    async fn new(more: &str) -> Self {
        let authority = Authority::new("ca");
        let server = authority.server();
        Self::of(authority, &server, more).await
    }

    /// Starts it with this certificate of its CA.
    async fn of(authority: Authority, server: &Pair, more: &str) -> Self {
        let backend = Backend::echo().await;
        let text = file::text(backend.address, server, more);
        let sidecar = Sidecar::start(authority.dir(), &text);
        Self { sidecar, authority, _backend: backend }
    }

    fn address(&self) -> SocketAddr {
        self.sidecar.address
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.unwrap()
    }

    fn device(&self) -> Device {
        Device::new(&self.authority)
    }

    /// Connects with openssl and these options. Returns false if it is not installed.
    async fn openssl(&self, options: &[&str]) -> bool {
        if !has("openssl") {
            return false;
        }
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-connect", &self.address().to_string()]).args(options);
        let (connected, output) = run(openssl).await;
        assert!(!connected, "{output}");
        true
    }

    /// Waits for the access-log line of a connection that has ended for this reason, and returns it.
    fn line(&mut self, reason: &str) -> String {
        line(&mut self.sidecar, reason)
    }

    /// Returns a counter of handshakes that the device did not finish.
    fn unfinished(&self, how: &str, stage: &str) -> u64 {
        unfinished(&self.sidecar, how, stage)
    }
}

/// Returns a counter of handshakes that the device did not finish. It is exported from the first one on.
fn unfinished(sidecar: &Sidecar, how: &str, stage: &str) -> u64 {
    let series = format!(
        "tlsidecar_handshake_unfinished_total{{how=\"{how}\",listener=\"test\",stage=\"{stage}\"}}"
    );
    let (_, text) = sidecar.ask("GET", "/metrics").unwrap();
    metric(&text, &series).unwrap_or(0)
}
