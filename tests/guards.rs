//! Guards: a renewed server certificate that devices may reject is used with a warning, or refused, as configured.

use tlsidecar::config::CertificateFiles;

use crate::reload::serial;
use crate::support::certs::{Wish, replace};
use crate::support::process::Sidecar;
use crate::support::{Authority, Backend, Device, Pair, eventually, file};

/// Every guard.
const KEYS: [&str; 6] = ["key_type", "issuer", "names", "not_yet_valid", "intermediate", "flight"];

/// A process that sends the certificate with the serial number 1, issued by the intermediate `below`.
struct Scene {
    root: Authority,
    below: Authority,
    files: CertificateFiles,
    backend: Backend,
    sidecar: Sidecar,
}

impl Scene {
    /// Starts it with these guards, in TOML.
    async fn new(guards: &str) -> Self {
        let root = Authority::new("root");
        let below = root.intermediate("below");
        let backend = Backend::echo().await;
        let pair = below.issue("server", &Wish::default());
        let sidecar = Sidecar::start(root.dir(), &text(&backend, &pair, guards));
        Self { root, below, files: pair.files, backend, sidecar }
    }

    /// Starts it with one guard; the others ignore everything.
    async fn with(key: &str, action: &str) -> Self {
        Self::new(&only(key, action)).await
    }

    /// Replaces the certificate and its key, reloads, and returns the answer.
    fn replace(&self, (chain, key): &(String, String)) -> (u16, String) {
        replace(&self.files.key, key);
        replace(&self.files.cert, chain);
        self.sidecar.ask("POST", "/reload").unwrap()
    }

    /// Writes the configuration with these guards and further lines, reloads, and returns the answer.
    fn configure(&self, guards: &str, more: &str) -> (u16, String) {
        let pair = Pair { files: self.files.clone() };
        file::write(self.root.dir(), &(text(&self.backend, &pair, guards) + more));
        self.sidecar.ask("POST", "/reload").unwrap()
    }

    /// Returns the serial number of the certificate that a device gets.
    async fn serial(&self, device: &Device) -> u64 {
        serial(&device.echo(self.sidecar.address).await.unwrap())
    }

    fn fails(&self) -> bool {
        self.sidecar.count("tlsidecar_reload_failing") == 1
    }

    /// Returns the keys of the guards that the log has warned of.
    fn warned(&self) -> Vec<&'static str> {
        let log = self.sidecar.log();
        let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
        let is_named =
            |key: &&&str| warnings.iter().any(|line| line.contains(&format!("(guards.{key})")));
        KEYS.iter().filter(is_named).copied().collect()
    }

    /// Asserts that only this guard refused the new certificate, that it is reported, and that a device still gets
    /// the current one.
    async fn has_refused(&self, key: &str, (status, answer): (u16, String), device: &Device) {
        assert_eq!(status, 500, "{answer}");
        let named = KEYS.iter().filter(|key| answer.contains(&format!("guards.{key} ")));
        assert_eq!(named.copied().collect::<Vec<_>>(), [key], "{answer}");
        assert!(answer.contains("server.crt"), "{answer}");
        assert!(self.fails());
        assert_eq!(self.serial(device).await, 1);
    }

    /// Asserts that only this guard warned of the new certificate, and that a device gets it.
    async fn has_warned(&self, key: &str, (status, answer): (u16, String), device: &Device) {
        assert_eq!(status, 200, "{answer}");
        // Log lines are written by a thread.
        eventually("it warns", || !self.warned().is_empty()).await;
        assert_eq!(self.warned(), [key]);
        assert!(!self.fails());
        assert_eq!(self.serial(device).await, 2);
    }
}

fn text(backend: &Backend, pair: &Pair, guards: &str) -> String {
    file::text(backend.address, pair, &format!("tls.guards = {{ {guards} }}\n"))
}

/// Returns guards of which only this one does not ignore everything.
fn only(key: &str, action: &str) -> String {
    let set = |each: &str| match each == key {
        true => format!("{each} = \"{action}\""),
        false => format!("{each} = \"ignore\""),
    };
    KEYS.map(set).join(", ")
}

/// Returns guards that refuse everything.
fn strict() -> String {
    KEYS.map(|key| format!("{key} = \"refuse\"")).join(", ")
}

/// The wish for the next certificate.
fn next() -> Wish<'static> {
    Wish { serial: 2, ..Wish::default() }
}

/// Returns a chain without its intermediate CA.
fn leaf_only((chain, key): (String, String)) -> (String, String) {
    let end = chain.find("-----END CERTIFICATE-----").unwrap() + 26;
    (chain[..end].to_owned(), key)
}

/// Tests one guard with a new certificate: refused, and used with a warning.
async fn is_guarded(key: &str, new: impl Fn(&Scene) -> (String, String)) {
    let scene = Scene::with(key, "refuse").await;
    let answer = scene.replace(&new(&scene));
    scene.has_refused(key, answer, &Device::new(&scene.root)).await;
    let scene = Scene::with(key, "warn").await;
    let answer = scene.replace(&new(&scene));
    scene.has_warned(key, answer, &Device::new(&scene.root)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_type_is_guarded() {
    let rsa = || Wish { rsa: true, ..next() };
    is_guarded("key_type", |scene| scene.below.issue_pem(&rsa())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_issuer_is_guarded() {
    is_guarded("issuer", |scene| scene.root.intermediate("other").issue_pem(&next())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_with_the_same_name_and_another_key_is_guarded() {
    is_guarded("issuer", |scene| scene.root.intermediate("below").issue_pem(&next())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_name_is_guarded() {
    let fewer = || Wish { names: &["localhost", "other.example"], ..next() };
    is_guarded("names", |scene| scene.below.issue_pem(&fewer())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_larger_flight_is_guarded() {
    let names: Vec<_> = (0..20).map(|i| format!("gateway-{i}.plant.example")).collect();
    let names: Vec<_> =
        ["localhost", "127.0.0.1"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let larger = || Wish { names: &names, ..next() };
    is_guarded("flight", |scene| scene.below.issue_pem(&larger())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_intermediate_is_guarded() {
    let scene = Scene::with("intermediate", "refuse").await;
    let answer = scene.replace(&leaf_only(scene.below.issue_pem(&next())));
    scene.has_refused("intermediate", answer, &Device::new(&scene.root)).await;
    let scene = Scene::with("intermediate", "warn").await;
    let answer = scene.replace(&leaf_only(scene.below.issue_pem(&next())));
    scene.has_warned("intermediate", answer, &Device::new(&scene.below)).await;
    let rejected = Device::new(&scene.root).echo(scene.sidecar.address).await;
    assert!(rejected.is_err(), "a device that knows only the root cannot verify it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_not_before_in_the_future_is_guarded() {
    let future = || Wish { years: (2050, 2051), ..next() };
    let scene = Scene::with("not_yet_valid", "refuse").await;
    let answer = scene.replace(&scene.below.issue_pem(&future()));
    scene.has_refused("not_yet_valid", answer, &Device::new(&scene.root)).await;
    for action in ["warn", "ignore"] {
        let scene = Scene::with("not_yet_valid", action).await;
        let (status, answer) = scene.replace(&scene.below.issue_pem(&future()));
        assert_eq!(status, 200, "{answer}");
        let rejected = Device::new(&scene.root).echo(scene.sidecar.address).await.unwrap_err();
        assert!(rejected.to_string().contains("not valid yet"), "it gets the new one: {rejected}");
        // After the warnings about the certificate.
        let times = || scene.sidecar.log().matches("certificate in force").count();
        eventually("its use is logged", || times() == 2).await;
        let has_warned = scene.sidecar.log().contains("is not valid before");
        assert_eq!(has_warned, action == "warn");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_by_the_same_ca_passes_the_strictest_guards() {
    let scene = Scene::new(&strict()).await;
    let device = Device::new(&scene.root);
    for serial in 2..10 {
        let renewed = scene.below.issue_pem(&Wish { serial, ..Wish::default() });
        let (status, answer) = scene.replace(&renewed);
        assert_eq!((status, scene.serial(&device).await), (200, serial), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_added_or_covered_by_a_wildcard_pass() {
    let scene = Scene::with("names", "refuse").await;
    let device = Device::new(&scene.root);
    let lists: [&[&str]; 3] = [
        &["localhost", "127.0.0.1", "a.example"],
        &["localhost", "127.0.0.1", "A.example", "b.example"],
        &["localhost", "127.0.0.1", "*.example"],
    ];
    for (serial, names) in (2..).zip(lists) {
        let (status, answer) =
            scene.replace(&scene.below.issue_pem(&Wish { serial, names, ..Wish::default() }));
        assert_eq!((status, scene.serial(&device).await), (200, serial), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_difference_is_reported_at_once() {
    let scene = Scene::new(&strict()).await;
    let other = Authority::new("stranger");
    let wish = Wish { names: &["other.example"], rsa: true, years: (2050, 2051), ..next() };
    let (status, answer) = scene.replace(&other.issue_pem(&wish));
    assert_eq!(status, 500, "{answer}");
    for key in ["key_type", "issuer", "names", "not_yet_valid", "intermediate"] {
        assert!(answer.contains(&format!("guards.{key} ")), "{key} in {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_a_missing_name_is_used_with_a_warning() {
    let scene = Scene::new("").await;
    let fewer = scene.below.issue_pem(&Wish { names: &["localhost"], ..next() });
    let answer = scene.replace(&fewer);
    scene.has_warned("names", answer, &Device::new(&scene.root)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_certificate_is_used_once_its_guard_only_warns() {
    let scene = Scene::with("names", "refuse").await;
    let device = Device::new(&scene.root);
    let answer = scene.replace(&scene.below.issue_pem(&Wish { names: &["localhost"], ..next() }));
    scene.has_refused("names", answer, &device).await;
    let answer = scene.configure(&only("names", "warn"), "");
    scene.has_warned("names", answer, &device).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_configuration_with_the_same_file_is_compared_as_well() {
    let scene = Scene::with("names", "refuse").await;
    let device = Device::new(&scene.root);
    let fewer = scene.below.issue_pem(&Wish { names: &["localhost"], ..next() });
    replace(&scene.files.key, &fewer.1);
    replace(&scene.files.cert, &fewer.0);
    let answer = scene.configure(&only("names", "refuse"), "limits.max_connections = 7\n");
    scene.has_refused("names", answer, &device).await;
    let limit = "tlsidecar_connections_limit{listener=\"test\"}";
    assert_eq!(scene.sidecar.count(limit), 7, "the configuration is applied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_uses_a_refused_certificate() {
    let mut scene = Scene::with("issuer", "refuse").await;
    let device = Device::new(&scene.root);
    let answer = scene.replace(&scene.root.intermediate("other").issue_pem(&next()));
    scene.has_refused("issuer", answer, &device).await;
    let pair = Pair { files: scene.files.clone() };
    let text = text(&scene.backend, &pair, &only("issuer", "refuse"));
    scene.sidecar = Sidecar::start(scene.root.dir(), &text);
    assert_eq!(scene.serial(&device).await, 2);
    assert!(!scene.fails());
}

#[tokio::test]
async fn a_route_whose_conditions_and_files_change_together_is_guarded_and_keeps_its_files() {
    let guards = only("names", "refuse");
    let scene = Scene::new(&guards).await;
    let issue = |names, serial| {
        scene.below.issue("route", &Wish { names, serial, ..Wish::default() }).files
    };
    let all = &["a.example", "b.example", "c.example"];
    let CertificateFiles { cert, key } = issue(all, 7);
    let configure = |name: &str| {
        let backend = scene.backend.address;
        let pair = format!("tls.certificates = [{{ cert = {cert:?}, key = {key:?} }}]");
        let route =
            format!("[[listener.route]]\nsni = [\"{name}\"]\nbackend = \"{backend}\"\n{pair}\n");
        scene.configure(&guards, &route)
    };
    let serial = async |name: &str| scene.serial(&Device::new(&scene.root).asking_for(name)).await;
    assert_eq!(configure("a.example").0, 200);
    assert_eq!(serial("a.example").await, 7);
    issue(&["a.example", "b.example"], 8);
    let (status, answer) = configure("b.example");
    assert!(status == 500 && answer.contains("guards.names "), "{answer}");
    assert_eq!(serial("b.example").await, 7, "the new condition, and the current certificate");
    replace(&cert, "rubbish");
    assert_eq!(configure("c.example").0, 500);
    assert_eq!(serial("c.example").await, 7);
    assert!(scene.fails());
}
