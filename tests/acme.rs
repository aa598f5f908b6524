//! Does a certificate from an ACME server come, and its successor, without anybody's help?
//!
//! The server is pebble, which looks for the answer to its challenge over HTTP as a public one does;
//! the client is lego. It writes where tlsidecar reads: what is renewed is taken up as it comes.
//! The way over a hook and another directory is in docs/acme.md, whose commands are run too.

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

/// An ACME server, and a name server to which every name is this machine.
struct Acme {
    /// Who vouches for the server itself.
    authority: Authority,
    directory: SocketAddr,
    management: SocketAddr,
    /// Where the server looks for the answer to its challenge.
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

    /// Lets lego get a certificate, or the next one.
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

    /// The root of what it issues, which it makes anew each time that it starts.
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

/// The certificate that a device has been shown.
fn shown(session: &Session) -> CertificateDer<'static> {
    session.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_lego_renews_is_taken_up_and_a_connected_device_does_not_notice() {
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
    eventually("the new certificate is in force", swapped).await;

    let after = device.echo(sidecar.address).await.unwrap();
    assert_ne!(shown(&before), shown(&after));
    let files = CertificateDer::from_pem_file(&pair.files.cert).unwrap();
    assert_eq!(shown(&after), files);
    say_and_hear(&mut before, b"still here").await.unwrap();
    assert_eq!(sidecar.count("tlsidecar_connections_active{listener=\"test\"}"), 2);
    assert_eq!(sidecar.count("tlsidecar_reload_failing"), 0);
}
