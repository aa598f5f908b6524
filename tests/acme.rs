//! Certificates from an ACME server, and their renewal without operator action.
//!
//! The server is pebble, which validates challenges over HTTP as a public CA does; the client is lego. lego writes to the
//! files that tlsidecar watches. The variant with a hook and another directory is in docs/acme.md, whose commands are
//! tested too.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tlsidecar::config::CertificateFiles;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::version::TLS13;

use crate::support::backend::free;
use crate::support::client::{Session, say_and_hear};
use crate::support::command::{Running, has, run};
use crate::support::{Authority, Backend, Device, Pair, Sidecar, eventually, file};

const NAME: &str = "gateway.plant.example";

/// An ACME server, and a name server that resolves every name to this machine.
struct Acme {
    /// The CA of the server's own certificate.
    authority: Authority,
    directory: SocketAddr,
    management: SocketAddr,
    /// The port at which the server validates challenges.
    challenge: SocketAddr,
    _running: [Running; 2],
}

impl Acme {
    async fn start() -> Self {
        let authority = Authority::new("acme");
        let own = authority.server();
        let (directory, management) = (free(), free());
        let (challenge, dns) = (free(), free());
        let config = authority.dir().join("pebble.json");
        let text = serde_json::json!({ "pebble": {
            "listenAddress": directory.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": own.files.cert,
            "privateKey": own.files.key,
            "httpPort": challenge.port(),
            "tlsPort": 1,
        }});
        std::fs::write(&config, text.to_string()).unwrap();
        let mut names = Command::new("pebble-challtestsrv");
        let control = free();
        names.args(["-dns01", &dns.to_string(), "-management", &control.to_string()]);
        names.args(["-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]);
        let mut pebble = Command::new("pebble");
        pebble.args(["-dnsserver", &dns.to_string(), "-config"]).arg(config);
        pebble.env("PEBBLE_VA_NOSLEEP", "1");
        let running = [names, pebble].map(|mut command| {
            command.stdout(Stdio::null()).stderr(Stdio::null());
            Running(command.spawn().unwrap())
        });
        for address in [directory, management, control] {
            eventually("the server listens", || TcpStream::connect(address).is_ok()).await;
        }
        Self { authority, directory, management, challenge, _running: running }
    }

    /// Runs lego to get the first or the next certificate.
    async fn lego(&self, arguments: &[&str]) -> Pair {
        let mut lego = Command::new("lego");
        lego.env("LEGO_CA_CERTIFICATES", self.authority.ca());
        lego.args(["--server", &format!("https://{}/dir", self.directory), "--accept-tos"]);
        lego.args(["--email", "you@plant.example", "--domains", NAME]);
        lego.args(["--http", "--http.port", &self.challenge.to_string(), "--path"]);
        lego.arg(self.home()).args(arguments);
        let (good, text) = run(lego).await;
        assert!(good, "{text}");
        let file = |end: &str| self.home().join(format!("certificates/{NAME}.{end}"));
        Pair { files: CertificateFiles { cert: file("crt"), key: file("key") } }
    }

    fn home(&self) -> PathBuf {
        self.authority.dir().join("lego")
    }

    /// Returns the root of the issued certificates, which the server generates at each start.
    async fn roots(&self) -> RootCertStore {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-f", "--cacert"]).arg(self.authority.ca());
        curl.arg(format!("https://{}/roots/0", self.management));
        let (good, pem) = run(curl).await;
        assert!(good, "{pem}");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        roots
    }
}

/// Returns the server certificate of a session.
fn shown(session: &Session) -> CertificateDer<'static> {
    session.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_lego_renews_is_loaded_without_disconnecting_devices() {
    let programs = ["lego", "pebble", "pebble-challtestsrv", "curl"];
    if !programs.into_iter().all(has) {
        return;
    }
    let acme = Acme::start().await;
    let backend = Backend::echo().await;
    let pair = acme.lego(&["run"]).await;
    let text = file::text(backend.address, &pair, "");
    let sidecar = Sidecar::start(acme.authority.dir(), &text);
    let provider = aws_lc_rs::default_provider();
    let device = Device::with(acme.roots().await, &[&TLS13], provider, None).asking_for(NAME);
    let mut before = device.echo(sidecar.address).await.unwrap();

    acme.lego(&["renew", "--days", "9999", "--no-random-sleep"]).await;
    let swapped = || sidecar.count("tlsidecar_reloads_total{outcome=\"swapped\"}") > 0;
    eventually("the new certificate is active", swapped).await;

    let after = device.echo(sidecar.address).await.unwrap();
    assert_ne!(shown(&before), shown(&after));
    let files = CertificateDer::from_pem_file(&pair.files.cert).unwrap();
    assert_eq!(shown(&after), files);
    say_and_hear(&mut before, b"still here").await.unwrap();
    assert_eq!(sidecar.count("tlsidecar_connections_active{listener=\"test\"}"), 2);
    assert_eq!(sidecar.count("tlsidecar_reload_failing"), 0);
}
