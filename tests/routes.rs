//! Routes with TLS of their own: certificates, client certificates, rules, resumption, live sessions.

use std::path::PathBuf;

use tlsidecar::config::file::ConfigSource;
use tlsidecar::terms::labels::ReloadOutcome;
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{AlertDescription, HandshakeKind};

use crate::support::certs::{Wish, replace};
use crate::support::client::{Session, say_and_hear};
use crate::support::raw::{alert, extended_hello, vector16};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Pair, Proxy, eventually, file};

/// The CAs of servers and devices, the backend of the listener, and that of its route.
struct Scene {
    servers: Authority,
    devices: Authority,
    own: Backend,
    routed: Backend,
    server: Pair,
}

impl Scene {
    async fn new() -> Self {
        let servers = Authority::new("servers");
        let names = &["localhost", "127.0.0.1", "a.example", "b.example", "unknown.example"];
        let server = servers.issue("server", &Wish { names, ..Wish::default() });
        let devices = Authority::new("devices");
        let (own, routed) = (Backend::echo().await, Backend::echo().await);
        Self { servers, devices, own, routed, server }
    }

    /// Writes a configuration whose listener has these keys and routes.
    fn write(&self, listener: &str) -> PathBuf {
        let text = file::text(self.own.address, &self.server, listener);
        file::write(self.servers.dir(), &text)
    }

    /// Starts a proxy whose listener has these keys and routes.
    fn start(&self, listener: &str) -> Proxy {
        let source = ConfigSource { path: self.write(listener), overrides: Default::default() };
        Proxy::on(source.load().unwrap(), Some(source))
    }

    /// Returns a route with these keys.
    fn route(&self, keys: &str) -> String {
        format!("[[listener.route]]\nbackend = \"{}\"\n{keys}\n", self.routed.address)
    }

    /// Returns the keys that require a certificate of the devices' CA.
    fn required(&self) -> String {
        let ca = self.devices.ca();
        format!("tls.client_auth = \"required\"\ntls.client_ca = {ca:?}\n")
    }

    /// Returns a device without a certificate.
    fn stranger(&self) -> Device {
        Device::new(&self.servers)
    }

    fn device(&self, serial: u64) -> Device {
        Device::showing(&self.servers, &issue(&self.devices, "device", serial))
    }

    /// Returns the numbers of connections of both backends.
    fn reached(&self) -> (usize, usize) {
        (self.own.connections(), self.routed.connections())
    }
}

fn issue(ca: &Authority, name: &str, serial: u64) -> Pair {
    let names = [name];
    let wish = Wish { serial, ..Wish::of_device(&names) };
    ca.issue(&format!("{name}-{serial}"), &wish)
}

/// Returns the same device for each version of TLS.
fn versions(scene: &Scene, pair: Option<&Pair>) -> [Device; 2] {
    [&TLS12, &TLS13].map(|version| {
        Device::with(scene.servers.roots(), &[version], aws_lc_rs::default_provider(), pair)
    })
}

async fn kind(device: &Device, proxy: &Proxy) -> HandshakeKind {
    let session = device.echo(proxy.address).await.unwrap();
    session.get_ref().1.handshake_kind().unwrap()
}

async fn is_live(session: &mut Session) {
    say_and_hear(session, b"still here").await.unwrap();
}

/// Expects that the session is closed with close_notify, and counted with the reason.
async fn is_stopped(proxy: &Proxy, mut session: Session, reason: Reason) {
    assert_eq!(within("the end", session.read(&mut [0; 1])).await.unwrap(), 0);
    drop(session);
    eventually("the reason is counted", || proxy.closed(reason) > 0).await;
}

/// Waits until a reload has applied a change.
async fn reloaded(proxy: &Proxy, change: impl FnOnce()) {
    let before = proxy.reloads(ReloadOutcome::Swapped);
    change();
    eventually("the change is applied", || proxy.reloads(ReloadOutcome::Swapped) > before).await;
}

#[tokio::test]
async fn a_route_sends_its_own_certificate() {
    let scene = Scene::new().await;
    let others = Authority::new("other servers");
    let pair = others.issue("a", &Wish { names: &["a.example"], ..Wish::default() });
    let (cert, key) = (pair.files.cert, pair.files.key);
    let certificates = format!("tls.certificates = [{{ cert = {cert:?}, key = {key:?} }}]");
    let proxy = scene.start(&scene.route(&format!("sni = [\"a.example\"]\n{certificates}")));
    let (device, other) = (scene.stranger(), Device::new(&others));
    device.echo(proxy.address).await.unwrap();
    other.clone().asking_for("a.example").echo(proxy.address).await.unwrap();
    assert!(device.asking_for("a.example").echo(proxy.address).await.is_err());
    assert!(other.echo(proxy.address).await.is_err());
    assert_eq!(scene.reached(), (1, 1));
}

#[tokio::test]
async fn a_route_requires_certificates_while_its_listener_does_not() {
    let scene = Scene::new().await;
    let keys = format!("sni = [\"a.example\"]\n{}", scene.required());
    let proxy = scene.start(&scene.route(&keys));
    scene.stranger().echo(proxy.address).await.unwrap();
    scene.device(1).asking_for("a.example").echo(proxy.address).await.unwrap();
    assert_eq!(scene.reached(), (1, 1));
    let alert = scene.stranger().asking_for("a.example").refused_with(proxy.address).await;
    assert_eq!(alert, AlertDescription::CertificateRequired);
    eventually("it is counted", || proxy.closed(Reason::ClientCertMissing) == 1).await;
    assert_eq!(scene.reached(), (1, 1));
}

#[tokio::test]
async fn a_route_admits_strangers_while_its_listener_requires_certificates() {
    let scene = Scene::new().await;
    let route = scene.route("sni = [\"a.example\"]\ntls.client_auth = \"none\"");
    let proxy = scene.start(&(scene.required() + &route));
    scene.stranger().asking_for("a.example").echo(proxy.address).await.unwrap();
    let alert = scene.stranger().refused_with(proxy.address).await;
    assert_eq!(alert, AlertDescription::CertificateRequired);
    assert_eq!(scene.reached(), (0, 1));
}

#[tokio::test]
async fn the_allow_rules_of_a_route_replace_those_of_its_listener() {
    let scene = Scene::new().await;
    let route = scene.route("sni = [\"a.example\"]\nallow.dns = [\"two\"]");
    let proxy = scene.start(&format!("{}allow.cn = [\"one\"]\n{route}", scene.required()));
    let [one, two] =
        ["one", "two"].map(|name| Device::showing(&scene.servers, &issue(&scene.devices, name, 1)));
    one.echo(proxy.address).await.unwrap();
    two.clone().asking_for("a.example").echo(proxy.address).await.unwrap();
    let refused = [two, one.asking_for("a.example")];
    for device in refused {
        let alert = device.refused_with(proxy.address).await;
        assert_eq!(alert, AlertDescription::AccessDenied);
    }
    eventually("both are counted", || proxy.closed(Reason::ClientNotAllowed) == 2).await;
    assert_eq!(scene.reached(), (1, 1));
}

#[tokio::test]
async fn a_route_has_its_own_lowest_version() {
    let scene = Scene::new().await;
    let route = |name: &str, version: &str| {
        scene.route(&format!("sni = [\"{name}\"]\ntls.min_version = \"{version}\""))
    };
    let routes = [route("a.example", "1.3"), route("b.example", "1.2")].concat();
    let proxy = scene.start(&format!("tls.min_version = \"1.3\"\n{routes}"));
    let [old, new] = versions(&scene, None);
    old.clone().asking_for("b.example").echo(proxy.address).await.unwrap();
    new.asking_for("a.example").echo(proxy.address).await.unwrap();
    for device in [old.clone(), old.asking_for("a.example")] {
        let alert = device.refused_with(proxy.address).await;
        assert_eq!(alert, AlertDescription::ProtocolVersion);
    }
}

#[tokio::test]
async fn no_name_and_protocol_lead_a_stranger_to_a_closed_route() {
    for is_first in [true, false] {
        let scene = Scene::new().await;
        let open = Backend::echo().await;
        let mut routes = [
            scene.route(&format!("alpn = [\"closed\"]\n{}", scene.required())),
            format!(
                "[[listener.route]]\nbackend = \"{}\"\nsni = [\"a.example\"]\ntls.tickets = 2\n",
                open.address
            ),
        ];
        if !is_first {
            routes.reverse();
        }
        let alpn = "tls.alpn = [\"closed\", \"open\"]\n";
        let proxy = scene.start(&format!("{alpn}{}", routes.concat()));
        for device in versions(&scene, None) {
            for name in ["localhost", "127.0.0.1", "a.example", "b.example"] {
                for offered in
                    [&[][..], &["open"], &["closed"], &["open", "closed"], &["closed", "open"]]
                {
                    let device = device.clone().asking_for(name).offering(offered);
                    let is_admitted = device.echo(proxy.address).await.is_ok();
                    let is_open = !offered.contains(&"closed");
                    let is_named = name == "a.example" && !is_first;
                    assert_eq!(is_admitted, is_open || is_named, "{name} {offered:?} {is_first}");
                }
            }
        }
        assert_eq!(scene.routed.connections(), 0);
        assert!(open.connections() > 0 && scene.own.connections() > 0);
        scene.device(1).offering(&["closed"]).echo(proxy.address).await.unwrap();
        assert_eq!(scene.routed.connections(), 1);
    }
}

#[tokio::test]
async fn a_second_client_hello_cannot_select_another_route() {
    let scene = Scene::new().await;
    let keys = format!("sni = [\"a.example\"]\nalpn = [\"closed\"]\n{}", scene.required());
    let alpn = "tls.alpn = [\"closed\", \"open\"]\n";
    let proxy = scene.start(&(alpn.to_owned() + &scene.route(&keys)));
    // A ClientHello without a key share asks for a HelloRetryRequest.
    let share = vector16(&[&[0, 29][..], &vector16(&[9; 32])].concat());
    for (first, second, answer) in [
        (("a.example", "closed"), ("a.example", "closed"), 22),
        (("a.example", "closed"), ("b.example", "closed"), 21),
        (("b.example", "closed"), ("a.example", "closed"), 21),
        (("a.example", "closed"), ("a.example", "open"), 21),
        (("a.example", "open"), ("a.example", "closed"), 21),
    ] {
        let mut tcp = TcpStream::connect(proxy.address).await.unwrap();
        tcp.write_all(&hello(first, &vector16(&[]))).await.unwrap();
        let mut retry = vec![0; 1 << 12];
        let read = within("the request", tcp.read(&mut retry)).await.unwrap();
        assert_eq!(retry[..read].first(), Some(&22));
        tcp.write_all(&hello(second, &share)).await.unwrap();
        let mut answered = vec![0; 7];
        within("the answer", async {
            while answered[0] == 0 || answered[0] == 20 {
                // A change_cipher_spec for middleboxes has six bytes.
                tcp.read_exact(&mut answered[..6]).await.unwrap();
            }
        })
        .await;
        assert_eq!(answered[0], answer, "{first:?}, then {second:?}");
        if answer == 21 {
            tcp.read_exact(&mut answered[6..]).await.unwrap();
            assert_eq!(answered, alert(47), "illegal_parameter");
        }
    }
}

/// Returns a ClientHello of TLS 1.3 with a server name, a protocol and key shares.
fn hello((name, alpn): (&str, &str), shares: &[u8]) -> Vec<u8> {
    let alpn = vector16(&[&[alpn.len() as u8][..], alpn.as_bytes()].concat());
    let name = vector16(&[&[0][..], &vector16(name.as_bytes())].concat());
    extended_hello(
        [3, 3],
        &[[0x13, 1]],
        &[
            (0, &name),
            (10, &vector16(&[0, 29])),
            (13, &vector16(&[4, 3])),
            (16, &alpn),
            (43, &[2, 3, 4]),
            (51, shares),
        ],
    )
}

#[tokio::test]
async fn a_ticket_of_one_route_is_declined_on_another() {
    let scene = Scene::new().await;
    let keys = scene.servers.dir().join("tickets.key");
    replace(&keys, &crate::resumption::keys(&[1, 2, 3]));
    let route = |alpn: &str| scene.route(&format!("alpn = [\"{alpn}\"]\ntls.tickets = 1"));
    let listener = format!("tls.ticket_keys = {keys:?}\ntls.alpn = [\"one\", \"two\"]\n");
    let proxy = scene.start(&format!("{listener}{}{}", route("one"), route("two")));
    for device in versions(&scene, None) {
        let device = device.resuming();
        let on = |alpn| device.clone().offering(&[alpn]);
        assert_eq!(kind(&on("one"), &proxy).await, HandshakeKind::Full);
        assert_eq!(kind(&on("one"), &proxy).await, HandshakeKind::Resumed);
        assert_eq!(kind(&on("two"), &proxy).await, HandshakeKind::Full);
        assert_eq!(kind(&on("two"), &proxy).await, HandshakeKind::Resumed);
    }
}

#[tokio::test]
async fn a_ticket_of_an_open_route_does_not_open_a_closed_one() {
    let scene = Scene::new().await;
    let keys = scene.servers.dir().join("tickets.key");
    replace(&keys, &crate::resumption::keys(&[1, 2, 3]));
    let listener = format!("tls.ticket_keys = {keys:?}\ntls.alpn = [\"open\", \"closed\"]\n");
    let route = scene.route(&format!("alpn = [\"closed\"]\n{}", scene.required()));
    let proxy = scene.start(&(listener + &route));
    for device in versions(&scene, None) {
        let device = device.resuming();
        device.clone().offering(&["open"]).echo(proxy.address).await.unwrap();
        assert!(device.offering(&["closed"]).echo(proxy.address).await.is_err());
    }
    eventually("both are counted", || proxy.closed(Reason::ClientCertMissing) == 2).await;
    assert_eq!(scene.reached(), (2, 0));
}

#[tokio::test]
async fn an_unknown_name_is_refused_where_that_is_configured() {
    let scene = Scene::new().await;
    let names = &["localhost", "*.known.example"];
    let pair = scene.servers.issue("known", &Wish { names, ..Wish::default() });
    let scene = Scene { server: pair, ..scene };
    let proxy = scene
        .start(&format!("unknown_name = \"refuse\"\n{}", scene.route("sni = [\"a.example\"]")));
    for device in versions(&scene, None) {
        let alert = device.clone().asking_for("b.example").refused_with(proxy.address).await;
        assert_eq!(alert, AlertDescription::UnrecognisedName);
        // Names of certificates are known; an IP address is not sent as a name.
        device.clone().echo(proxy.address).await.unwrap();
        device.clone().asking_for("x.known.example").echo(proxy.address).await.unwrap();
        let wrong = device.clone().asking_for("127.0.0.1").connect(proxy.address).await;
        assert!(wrong.unwrap_err().to_string().contains("certificate"), "it got a certificate");
        // The name of a route is known; no certificate has it.
        let routed = device.asking_for("a.example").connect(proxy.address).await;
        assert!(routed.unwrap_err().to_string().contains("certificate"), "it got a certificate");
    }
    eventually("they are counted", || proxy.closed(Reason::ClientNameUnknown) == 2).await;
}

#[tokio::test]
async fn an_unknown_name_gets_the_listeners_own_backend_by_default() {
    let scene = Scene::new().await;
    let proxy = scene.start(&scene.route("sni = [\"a.example\"]\ntls.min_version = \"1.3\""));
    scene.stranger().asking_for("unknown.example").echo(proxy.address).await.unwrap();
    assert_eq!(scene.reached(), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crl_of_a_route_ends_sessions_of_that_route_alone() {
    let scene = Scene::new().await;
    let crl = scene.devices.crl("route.crl", &[]);
    let route = scene.route(&format!("sni = [\"a.example\"]\ntls.crls = [{crl:?}]"));
    let proxy = scene.start(&(scene.required() + &route));
    let (lost, good) = (scene.device(66), scene.device(65));
    let routed = |device: &Device| device.clone().asking_for("a.example");
    let mut on_listener = lost.echo(proxy.address).await.unwrap();
    let mut stays = routed(&good).echo(proxy.address).await.unwrap();
    let ends = routed(&lost).echo(proxy.address).await.unwrap();
    replace(&crl, &scene.devices.crl_pem(2, &[66]));
    is_stopped(&proxy, ends, Reason::Revoked).await;
    is_live(&mut stays).await;
    is_live(&mut on_listener).await;
    assert_eq!(proxy.closed(Reason::Revoked), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_ca_of_a_route_ends_its_sessions_and_admits_its_new_devices() {
    let scene = Scene::new().await;
    let ca = scene.servers.dir().join("route.ca");
    replace(&ca, scene.devices.pem());
    let route = scene.route(&format!("sni = [\"a.example\"]\ntls.client_ca = {ca:?}"));
    let proxy = scene.start(&(scene.required() + &route));
    let mut on_listener = scene.device(1).echo(proxy.address).await.unwrap();
    let ends = scene.device(1).asking_for("a.example").echo(proxy.address).await.unwrap();
    let others = Authority::new("other devices");
    reloaded(&proxy, || replace(&ca, others.pem())).await;
    is_stopped(&proxy, ends, Reason::ClientNotAllowed).await;
    is_live(&mut on_listener).await;
    let new = Device::showing(&scene.servers, &issue(&others, "new", 1));
    new.asking_for("a.example").echo(proxy.address).await.unwrap();
    let alert = scene.device(1).asking_for("a.example").refused_with(proxy.address).await;
    assert_eq!(alert, AlertDescription::UnknownCA);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_file_of_a_route_keeps_its_content_and_delays_no_other_file() {
    let scene = Scene::new().await;
    let [ca, crl] = ["route.ca", "route.crl"].map(|name| scene.servers.dir().join(name));
    replace(&ca, scene.devices.pem());
    replace(&crl, &scene.devices.crl_pem(1, &[]));
    let keys = format!("tls.client_ca = {ca:?}\ntls.crls = [{crl:?}]");
    let route = scene.route(&format!("sni = [\"a.example\"]\n{keys}"));
    let proxy = scene.start(&(scene.required() + &route));
    replace(&ca, "rubbish");
    eventually("the reload fails", || proxy.reload_fails()).await;
    let session = scene.device(66).asking_for("a.example").echo(proxy.address).await.unwrap();
    replace(&crl, &scene.devices.crl_pem(2, &[66]));
    is_stopped(&proxy, session, Reason::Revoked).await;
    assert!(proxy.reload_fails());
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_follow_their_route_when_others_move_it() {
    let scene = Scene::new().await;
    let crl = scene.devices.crl("route.crl", &[]);
    let route = scene.route(&format!("sni = [\"a.example\"]\ntls.crls = [{crl:?}]"));
    let other = scene.route("sni = [\"b.example\"]\ntls.client_auth = \"none\"");
    let proxy = scene.start(&(scene.required() + &route));
    let (lost, good) = (scene.device(66), scene.device(65));
    let ends = lost.asking_for("a.example").echo(proxy.address).await.unwrap();
    let mut stays = good.asking_for("a.example").echo(proxy.address).await.unwrap();
    reloaded(&proxy, || drop(scene.write(&format!("{}{other}{route}", scene.required())))).await;
    replace(&crl, &scene.devices.crl_pem(2, &[66]));
    is_stopped(&proxy, ends, Reason::Revoked).await;
    is_live(&mut stays).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_removed_route_are_checked_like_those_of_the_listener() {
    let scene = Scene::new().await;
    let route = scene.route("sni = [\"a.example\"]\ntls.client_auth = \"none\"");
    let proxy = scene.start(&(scene.required() + &route));
    let ends = scene.stranger().asking_for("a.example").echo(proxy.address).await.unwrap();
    let mut stays = scene.device(1).echo(proxy.address).await.unwrap();
    drop(scene.write(&scene.required()));
    is_stopped(&proxy, ends, Reason::ClientNotAllowed).await;
    is_live(&mut stays).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_began_before_its_route_was_closed_is_checked_after_it() {
    let scene = Scene::new().await;
    let open = scene.route("sni = [\"a.example\"]\ntls.tickets = 0");
    let proxy = scene.start(&open);
    let tcp = TcpStream::connect(proxy.address).await.unwrap();
    eventually("it is accepted", || proxy.active() == 1).await;
    let closed = scene.route(&format!("sni = [\"a.example\"]\n{}", scene.required()));
    reloaded(&proxy, || drop(scene.write(&closed))).await;
    let session = scene.stranger().asking_for("a.example").connect_over(tcp).await.unwrap();
    is_stopped(&proxy, session, Reason::ClientNotAllowed).await;
    assert_eq!(scene.reached(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_without_recheck_keeps_its_sessions() {
    let scene = Scene::new().await;
    let crl = scene.devices.crl("devices.crl", &[]);
    let route = scene.route("sni = [\"a.example\"]\ntls.recheck = false");
    let listener = format!("{}tls.crls = [{crl:?}]\n", scene.required());
    let proxy = scene.start(&(listener + &route));
    let device = scene.device(66);
    let mut stays = device.clone().asking_for("a.example").echo(proxy.address).await.unwrap();
    let ends = device.echo(proxy.address).await.unwrap();
    replace(&crl, &scene.devices.crl_pem(2, &[66]));
    is_stopped(&proxy, ends, Reason::Revoked).await;
    is_live(&mut stays).await;
    assert!(device.asking_for("a.example").echo(proxy.address).await.is_err(), "a new handshake");
}

#[tokio::test]
async fn the_files_of_routes_are_checked_and_reported_once() {
    let scene = Scene::new().await;
    let crl = scene.devices.crl("devices.crl", &[]);
    let own = scene.devices.crl("route.crl", &[]);
    let route = scene.route(&format!("sni = [\"a.example\"]\ntls.crls = [{crl:?}, {own:?}]"));
    let path = scene.write(&format!("{}tls.crls = [{crl:?}]\n{route}", scene.required()));
    let config = tlsidecar::config::file::load(&path).unwrap();
    let checked = tlsidecar::app::check(&config).unwrap();
    let crls = checked.files.iter().filter(|line| line.contains("crls[")).collect::<Vec<_>>();
    assert_eq!(
        crls,
        ["listener \"test\": crls[0]: 1 CRL", "listener \"test\": route[0].crls[1]: 1 CRL"]
    );
    assert_eq!(checked.files.len(), 5, "{:?}", checked.files);
    let proxy = Proxy::on(config, None);
    for file in [crl, own] {
        let labels = format!("file={file:?},kind=\"crl\",listener=\"test\"");
        assert_eq!(proxy.count(&format!("tlsidecar_material_objects{{{labels}}}")), 1);
    }
}

#[tokio::test]
async fn a_forged_crl_is_not_used_although_the_name_of_its_route_changes_with_it() {
    let (scene, forger) = (Scene::new().await, Authority::new("devices"));
    let crl = scene.devices.crl("devices.crl", &[66]);
    let required = scene.required() + &format!("tls.crls = [{crl:?}]\n");
    let named = |name: &str| scene.route(&format!("sni = [\"{name}\"]\n{required}"));
    let proxy = scene.start(&named("a.example"));
    let on = |serial, name: &str| scene.device(serial).asking_for(name);
    on(65, "a.example").echo(proxy.address).await.unwrap();
    // The configuration is read as well when the event of the list arrives.
    scene.write(&named("b.example"));
    replace(&crl, &forger.crl_pem(2, &[]));
    eventually("it fails", || proxy.reload_fails()).await;
    on(65, "b.example").echo(proxy.address).await.unwrap();
    assert!(on(66, "b.example").echo(proxy.address).await.is_err());
    eventually("it is refused", || proxy.closed(Reason::ClientCertRevoked) == 1).await;
}
