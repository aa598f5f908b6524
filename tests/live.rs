//! `tlsidecar check --live`: the prediction for connected devices, and the reload that follows.

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::support::certs::{Wish, replace};
use crate::support::client::{Session, say_and_hear};
use crate::support::command::output;
use crate::support::process::{Sidecar, binary};
use crate::support::raw::answering;
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, eventually, file};

/// The names of the connected devices. The first two are of the first CA.
const DEVICES: [&str; 3] = ["pump-1", "pump-2", "valve-1"];

/// A sidecar with connected devices, and its files.
struct Scene {
    servers: Authority,
    /// Of the pumps and of the valves.
    cas: [Authority; 2],
    backend: Backend,
    sidecar: Sidecar,
    /// In the order of [`DEVICES`].
    sessions: Vec<Session>,
}

/// The parts of a configuration that a candidate changes.
#[derive(Clone, Copy)]
struct Candidate {
    /// The places of the CAs that it trusts.
    cas: &'static [usize],
    /// The serial numbers that the CRL of the first of them revokes; none without CRLs.
    revoked: Option<&'static [u64]>,
    /// Further keys of the listener.
    more: &'static str,
    /// The server certificate has an RSA key.
    rsa: bool,
}

const CURRENT: Candidate = Candidate { cas: &[0, 1], revoked: None, more: "", rsa: false };

impl Candidate {
    /// Writes the bundle and the CRLs under names with `prefix`, and returns the configuration.
    fn text(
        &self,
        prefix: &str,
        (servers, cas): (&Authority, &[Authority; 2]),
        backend: &Backend,
    ) -> String {
        let path = |name: &str| servers.dir().join(format!("{prefix}.{name}"));
        let trusted = self.cas.iter().map(|place| &cas[*place]);
        replace(&path("ca"), &trusted.clone().map(Authority::pem).collect::<String>());
        let Self { more, .. } = self;
        let mut more = format!(
            "tls.client_auth = \"required\"\ntls.recheck_spread = \"0s\"\ntls.client_ca = {:?}\n{more}\n",
            path("ca")
        );
        if let Some(revoked) = self.revoked {
            let of_first = [revoked].into_iter().chain(std::iter::repeat(&[][..]));
            let crls = trusted.zip(of_first).map(|(ca, revoked)| ca.crl_pem(2, revoked));
            replace(&path("crl"), &crls.collect::<String>());
            writeln!(more, "tls.crls = [{:?}]", path("crl")).unwrap();
        }
        let server = match self.rsa {
            true => servers.issue("server-rsa", &Wish { rsa: true, ..Wish::default() }),
            false => servers.server(),
        };
        file::text(backend.address, &server, &more)
    }
}

impl Scene {
    async fn new() -> Self {
        let servers = Authority::new("servers");
        let cas = ["pumps", "valves"].map(Authority::new);
        let backend = Backend::echo().await;
        let text = CURRENT.text("current", (&servers, &cas), &backend);
        let sidecar = Sidecar::start(servers.dir(), &text);
        let mut sessions = Vec::new();
        for (serial, name) in (1..).zip(DEVICES) {
            let ca = &cas[usize::from(!name.starts_with("pump"))];
            let pair = ca.issue(name, &Wish { serial, ..Wish::of_device(&[name]) });
            let device = Device::showing(&servers, &pair);
            sessions.push(device.echo(sidecar.address).await.unwrap());
        }
        Self { servers, cas, backend, sidecar, sessions }
    }

    /// Writes a candidate, and returns its text and its file.
    fn write(&self, candidate: Candidate) -> (String, PathBuf) {
        let text = candidate.text("candidate", (&self.servers, &self.cas), &self.backend);
        let path = self.servers.dir().join("candidate.toml");
        replace(&path, &text);
        (text, path)
    }

    /// Runs the check of a candidate with these flags, and returns its exit code and both outputs.
    fn run(&self, candidate: Candidate, flags: &[&str]) -> (i32, String, String) {
        let (_, path) = self.write(candidate);
        let mut command = binary();
        command.arg("check").arg(path).args(flags);
        output(command.args(["--live", &self.sidecar.admin.to_string()]))
    }

    /// Checks a candidate, and returns the exit code and the effects on connected devices.
    fn check(&self, candidate: Candidate) -> (i32, Value) {
        let (code, report, errors) = self.run(candidate, &["--strict", "--output", "json"]);
        let mut report: Value = serde_json::from_str(&report).expect(&errors);
        (code, report["live"].take())
    }

    /// Makes a candidate the configuration of the sidecar.
    fn apply(&self, candidate: Candidate) {
        let (text, _) = self.write(candidate);
        file::write(self.servers.dir(), &text);
        let (status, answer) = self.sidecar.ask("POST", "/reload").unwrap();
        assert_eq!(status, 200, "{answer}");
    }

    /// Checks that a candidate would refuse the offer of a device with this cryptography, and no other session, then that
    /// it does. Returns the report.
    async fn refuses(&self, provider: CryptoProvider, candidate: Candidate) -> Value {
        let pair = self.cas[0].device("pump-small");
        let device = Device::with(self.servers.roots(), &[&TLS13, &TLS12], provider, Some(&pair));
        let _session = device.echo(self.sidecar.address).await.unwrap();
        let (code, live) = self.check(candidate);
        assert_eq!((code, &live["ended"]["count"]), (78, &json!(0)), "{live}");
        assert_eq!(named(&live, "refused", "client_tls_incompatible"), ["pump-small"], "{live}");
        self.apply(candidate);
        assert!(device.echo(self.sidecar.address).await.is_err());
        live
    }

    /// Expects that a candidate would end these devices for a reason, then applies it, and expects just that.
    async fn predicts_and_applies(mut self, candidate: Candidate, reason: &str, ended: &[&str]) {
        let (code, live) = self.check(candidate);
        assert_eq!(code, if ended.is_empty() { 0 } else { 78 }, "{live}");
        assert_eq!(live["sessions"], DEVICES.len(), "{live}");
        assert_eq!(live["ended"]["count"], ended.len(), "{live}");
        assert_eq!(named(&live, "ended", reason), ended, "{live}");
        self.apply(candidate);
        for (name, session) in DEVICES.iter().zip(&mut self.sessions) {
            if ended.contains(name) {
                assert_eq!(within("the end", session.read(&mut [0; 1])).await.unwrap(), 0);
            }
        }
        for (name, session) in DEVICES.iter().zip(&mut self.sessions) {
            if !ended.contains(name) {
                say_and_hear(session, b"still here").await.unwrap();
            }
        }
        let series = "tlsidecar_connections_closed_total";
        let closed = format!("{series}{{listener=\"test\",reason=\"{reason}\"}}");
        let are_counted = || self.sidecar.count(&closed) == ended.len() as u64;
        eventually("they are counted", are_counted).await;
    }
}

/// Returns the names of the devices with this effect for this reason.
fn named<'a>(live: &'a Value, effect: &str, reason: &str) -> Vec<&'a str> {
    let affected = live["affected"].as_array().unwrap().iter();
    let with = affected.filter(|one| one["effect"] == effect && one["reason"] == reason);
    with.map(|one| one["identity"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_is_the_current_configuration_affects_no_device() {
    let scene = Scene::new().await;
    let (code, live) = scene.check(CURRENT);
    let none = json!({"count": 0, "by_reason": {}});
    assert_eq!(code, 0, "{live}");
    assert_eq!((&live["ended"], &live["refused"]), (&none, &none));
    assert_eq!((&live["sessions"], &live["affected"]), (&json!(3), &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_devices_of_a_removed_ca_are_named_and_then_ended() {
    let candidate = Candidate { cas: &[1], ..CURRENT };
    let scene = Scene::new().await;
    scene.predicts_and_applies(candidate, "client_not_allowed", &["pump-1", "pump-2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_devices_that_a_new_crl_lists_are_named_and_then_ended() {
    let candidate = Candidate { revoked: Some(&[2]), ..CURRENT };
    Scene::new().await.predicts_and_applies(candidate, "revoked", &["pump-2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_devices_that_no_rule_admits_are_named_and_then_ended() {
    let candidate = Candidate { more: "allow.cn = [\"pump-*\"]", ..CURRENT };
    Scene::new().await.predicts_and_applies(candidate, "client_not_allowed", &["valve-1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_recheck_devices_are_refused_at_the_next_connection_and_not_ended() {
    let scene = Scene::new().await;
    let candidate = Candidate { more: "tls.recheck = false", revoked: Some(&[2]), ..CURRENT };
    let (code, live) = scene.check(candidate);
    assert_eq!((code, &live["ended"]["count"]), (78, &json!(0)), "{live}");
    assert_eq!(named(&live, "refused", "client_cert_revoked"), ["pump-2"], "{live}");
    // Only a strict check fails.
    let (code, text, errors) = scene.run(candidate, &[]);
    assert_eq!(code, 0, "{text}{errors}");
    let first = "live: 3 session(s): 0 would be ended; 1 more would be refused at the next connection \
                 (client_cert_revoked 1)\nlive: refused: client_cert_revoked: \"pump-2\" from 127.0.0.1:";
    assert!(text.contains(first), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_without_a_version_of_the_candidate_are_named_also_after_they_have_left() {
    let scene = Scene::new().await;
    let old = |name| {
        let pair = scene.cas[0].device(name);
        let provider = aws_lc_rs::default_provider();
        Device::with(scene.servers.roots(), &[&TLS12], provider, Some(&pair))
    };
    let mut stays = old("pump-old").echo(scene.sidecar.address).await.unwrap();
    drop(old("pump-older").echo(scene.sidecar.address).await.unwrap());
    let candidate = Candidate { more: "tls.min_version = \"1.3\"", ..CURRENT };
    let (code, live) = scene.check(candidate);
    assert_eq!((code, &live["ended"]["count"]), (78, &json!(0)), "{live}");
    assert_eq!(named(&live, "refused", "client_tls_incompatible"), ["pump-old"], "{live}");
    let refused = live["offers"]["refused"].as_array().unwrap();
    assert_eq!((refused.len(), &live["offers"]["count"]), (1, &json!(2)), "{live}");
    assert_eq!((&refused[0]["handshakes"], &refused[0]["versions"]), (&json!(2), &json!(["1.2"])));
    assert_eq!(refused[0]["example"]["identity"], "pump-old");
    scene.apply(candidate);
    say_and_hear(&mut stays, b"still here").await.unwrap();
    assert!(old("pump-old").echo(scene.sidecar.address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_without_a_suite_of_the_candidate_are_named_with_the_cause() {
    let scene = Scene::new().await;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains("AES_128"));
    let candidate = Candidate { more: "tls.suites = [\"TLS_AES_256_GCM_SHA384\"]", ..CURRENT };
    let live = scene.refuses(provider, candidate).await;
    let cause = live["affected"][0]["cause"].as_str().unwrap();
    assert!(cause.contains("cipher suite"), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_cannot_verify_the_key_of_the_candidates_certificate_are_named() {
    let scene = Scene::new().await;
    let mut provider = aws_lc_rs::default_provider();
    let known = provider.signature_verification_algorithms;
    let ecdsa = known.mapping.iter().filter(|(scheme, _)| format!("{scheme:?}").contains("ECDSA"));
    let ecdsa: Vec<_> = ecdsa.copied().collect();
    provider.signature_verification_algorithms.mapping = Vec::leak(ecdsa);
    let live = scene.refuses(provider, Candidate { rsa: true, ..CURRENT }).await;
    assert_eq!(live["offers"]["refused"].as_array().unwrap().len(), 1, "{live}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_does_not_answer_fails_the_check_and_an_invalid_candidate_comes_first() {
    let mut scene = Scene::new().await;
    let invalid = Candidate { more: "no_such_key = 1", ..CURRENT };
    let (code, report, errors) = scene.run(invalid, &[]);
    assert_eq!((code, &*report), (78, ""), "{errors}");
    scene.sidecar.signal("KILL");
    scene.sidecar.ended();
    let (code, report, errors) = scene.run(CURRENT, &[]);
    assert!(code == 1 && errors.contains("cannot connect to the admin port"), "{errors}");
    assert!(report.contains("good, 1 listener(s)"), "{report}");
    let (_, report, errors) = scene.run(CURRENT, &["--output", "json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["valid"], &report["live"]), (&true.into(), &Value::Null));
    assert_eq!(report["live_error"], errors.trim_end());
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_sessions_without_an_end_are_an_error() {
    for next in ["", "1"] {
        let server = answering(move |line| {
            let (_, after) = line.split_once("after=").unwrap();
            let (after, _) = after.split_once(' ').unwrap();
            // Always a later one, or always the same one.
            let next = if next.is_empty() { format!("1{after}") } else { next.to_owned() };
            let next: u64 = next.parse().unwrap_or(u64::MAX);
            let page = json!({ "format": 1, "now": 0, "next": next, "paths": [], "sessions": [] });
            let page = page.to_string();
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{page}", page.len())
        })
        .await;
        let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
        let text = file::text(backend.address, &authority.server(), "");
        let path = authority.dir().join("candidate.toml");
        replace(&path, &text);
        let mut command = binary();
        command.args(["check", "--live", &server.to_string()]).arg(&path);
        let (code, _, errors) = output(&mut command);
        assert!(code == 1 && errors.contains("have no end"), "{code}: {errors}");
    }
}
