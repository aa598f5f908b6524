//! Tests of resumption: shared ticket keys, the policy that a ticket must not outlive, the age of a session.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use data_encoding::BASE64;
use tlsidecar::app::{self, Checked, StartError};
use tlsidecar::config::{ClientAuth, ClientTrust, Config, ListenerConfig};
use tlsidecar::terms::labels::ReloadOutcome;
use tlsidecar::terms::reason::Reason;
use tokio::task::JoinSet;
use tokio_rustls::rustls::HandshakeKind;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::client_auth::issue_until;
use crate::support::certs::{Wish, replace};
use crate::support::command::{has, run};
use crate::support::file;
use crate::support::process::Sidecar;
use crate::support::proxy::listener;
use crate::support::{Authority, Backend, Device, Pair, Proxy, eventually};

/// A CA of servers and devices, a backend, and a file of ticket keys.
struct Scene {
    authority: Authority,
    backend: Backend,
}

impl Scene {
    async fn new() -> Self {
        let scene = Self { authority: Authority::new("ca"), backend: Backend::echo().await };
        scene.write_keys(&[1, 2, 3]);
        scene
    }

    fn file(&self) -> PathBuf {
        self.authority.dir().join("tickets.key")
    }

    /// Writes a file of keys, each made of one byte.
    fn write_keys(&self, bytes: &[u8]) {
        replace(&self.file(), &keys(bytes));
    }

    /// Returns a listener with the keys of the file that requires a client certificate.
    fn listener(&self) -> ListenerConfig {
        let mut listener = listener(self.backend.config(), &self.authority.server());
        listener.tls.ticket_keys = Some(self.file());
        let trust = ClientTrust::new(self.authority.ca());
        listener.tls.client_auth = ClientAuth::Required(trust);
        listener
    }

    fn proxy(&self) -> Proxy {
        Proxy::with(self.listener())
    }

    fn pair(&self) -> Pair {
        self.authority.issue("device", &wish())
    }

    /// Returns a device that resumes with either version of TLS.
    fn devices(&self, pair: &Pair) -> [Device; 2] {
        [&TLS12, &TLS13].map(|version| {
            let provider = aws_lc_rs::default_provider();
            Device::with(self.authority.roots(), &[version], provider, Some(pair)).resuming()
        })
    }

    /// Returns the configuration of a process with the listener of [`Self::listener`].
    fn text(&self) -> String {
        let more = format!(
            "tls.ticket_keys = {:?}\ntls.client_auth = \"required\"\ntls.client_ca = {:?}\n",
            self.file(),
            self.authority.ca()
        );
        file::text(self.backend.address, &self.authority.server(), &more)
    }

    fn check(&self) -> Result<Checked, StartError> {
        app::check(&Config::of(self.listener()))
    }
}

/// Returns a file of keys in HAProxy's format, each made of one byte.
pub(crate) fn keys(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| BASE64.encode(&[byte; 80]) + "\n").collect()
}

/// The wish for a device's certificate.
fn wish() -> Wish<'static> {
    Wish::of_device(&["device-1"])
}

/// Returns the kind of a handshake, after which the device got its echo.
async fn kind(device: &Device, proxy: &Proxy) -> HandshakeKind {
    let session = device.echo(proxy.address).await.unwrap();
    session.get_ref().1.handshake_kind().unwrap()
}

/// Returns the resumptions of a proxy with this outcome.
fn resumptions(proxy: &Proxy, outcome: &str) -> u64 {
    let labels = format!("listener=\"test\",outcome=\"{outcome}\"");
    proxy.count(&format!("tlsidecar_resumptions_total{{{labels}}}"))
}

#[tokio::test]
async fn listeners_with_the_same_keys_and_policy_resume_each_others_sessions() {
    let scene = Scene::new().await;
    let (one, other) = (scene.proxy(), scene.proxy());
    for device in scene.devices(&scene.pair()) {
        assert_eq!(kind(&device, &one).await, HandshakeKind::Full);
        assert_eq!(kind(&device, &other).await, HandshakeKind::Resumed);
        assert_eq!(kind(&device, &one).await, HandshakeKind::Resumed);
    }
}

#[tokio::test]
async fn the_policy_depends_on_the_content_of_files_and_not_on_their_paths() {
    let scene = Scene::new().await;
    let one = scene.proxy();
    let mut listener = scene.listener();
    let copy = scene.authority.dir().join("copy");
    for file in [scene.authority.ca(), scene.file()] {
        fs::copy(&file, copy.with_extension(file.extension().unwrap())).unwrap();
    }
    let trust = ClientTrust::new(copy.with_extension("crt"));
    listener.tls.client_auth = ClientAuth::Required(trust);
    listener.tls.ticket_keys = Some(copy.with_extension("key"));
    let other = Proxy::with(listener);
    for device in scene.devices(&scene.pair()) {
        assert_eq!(kind(&device, &one).await, HandshakeKind::Full);
        assert_eq!(kind(&device, &other).await, HandshakeKind::Resumed);
    }
}

#[tokio::test]
async fn a_ticket_of_another_policy_is_declined_into_a_full_handshake() {
    let scene = Scene::new().await;
    let one = scene.proxy();
    let trust = || ClientTrust::new(scene.authority.ca());
    let more_cas = scene.authority.dir().join("more.crt");
    let second = Authority::new("second");
    replace(&more_cas, &format!("{}{}", scene.authority.pem(), second.pem()));
    let crls = vec![scene.authority.crl("devices.crl", &[])];
    let mut others = [(); 4].map(|()| scene.listener());
    others[0].tls.client_auth = ClientAuth::Required(ClientTrust { ca: more_cas, ..trust() });
    others[1].tls.client_auth = ClientAuth::Required(ClientTrust { crls, ..trust() });
    others[2].tls.client_auth = ClientAuth::Optional(trust());
    others[3].tls.allow_v1 = false;
    let pair = scene.pair();
    for (i, other) in others.into_iter().enumerate() {
        let other = Proxy::with(other);
        for device in scene.devices(&pair) {
            assert_eq!(kind(&device, &one).await, HandshakeKind::Full);
            assert_eq!(kind(&device, &other).await, HandshakeKind::Full, "{i}");
            assert_eq!(kind(&device, &other).await, HandshakeKind::Resumed, "{i}");
        }
        let counted = ["unknown_key", "resumed"].map(|outcome| resumptions(&other, outcome));
        assert_eq!(counted, [2, 2], "{i}");
    }
}

#[tokio::test]
async fn a_ticket_of_a_foreign_key_is_declined_into_a_full_handshake() {
    let scene = Scene::new().await;
    let one = scene.proxy();
    let mut listener = scene.listener();
    let foreign = scene.authority.dir().join("foreign.key");
    replace(&foreign, &keys(&[7, 8, 9]));
    listener.tls.ticket_keys = Some(foreign);
    let other = Proxy::with(listener);
    for device in scene.devices(&scene.pair()) {
        assert_eq!(kind(&device, &one).await, HandshakeKind::Full);
        assert_eq!(kind(&device, &other).await, HandshakeKind::Full);
    }
}

#[tokio::test]
async fn issuers_that_a_process_has_not_seen_cost_one_full_handshake() {
    let scene = Scene::new().await;
    let (one, other) = (scene.proxy(), scene.proxy());
    let below = scene.authority.intermediate("below");
    for device in scene.devices(&below.issue("device", &wish())) {
        assert_eq!(kind(&device, &one).await, HandshakeKind::Full);
        assert_eq!(kind(&device, &one).await, HandshakeKind::Resumed);
    }
    let [first, second] = scene.devices(&below.issue("device-2", &wish()));
    for device in [&first, &second] {
        assert_eq!(kind(device, &one).await, HandshakeKind::Full);
    }
    assert_eq!(kind(&first, &other).await, HandshakeKind::Full, "it learns the issuers");
    assert_eq!(kind(&second, &other).await, HandshakeKind::Resumed);
    let counted = ["unknown_issuers", "resumed"].map(|outcome| resumptions(&other, outcome));
    assert_eq!(counted, [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_keys_move_by_one_keeps_tickets_valid() {
    let scene = Scene::new().await;
    let (moves, stays) = (scene.proxy(), scene.proxy());
    let devices = scene.devices(&scene.pair());
    for device in &devices {
        assert_eq!(kind(device, &moves).await, HandshakeKind::Full);
    }
    scene.write_keys(&[2, 3, 4]);
    let swapped = || moves.reloads_of("ticket_keys", ReloadOutcome::Swapped) > 0;
    eventually("the keys are active", swapped).await;
    for device in &devices {
        assert_eq!(kind(device, &moves).await, HandshakeKind::Resumed, "a ticket of before");
    }
    // The other replica reads the file as well; both orders are tested with the keys themselves.
    let swapped = || stays.reloads_of("ticket_keys", ReloadOutcome::Swapped) > 0;
    eventually("the other replica has them", swapped).await;
    for device in &devices {
        assert_eq!(kind(device, &stays).await, HandshakeKind::Resumed, "a ticket of after");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_file_keeps_the_keys_active() {
    let scene = Scene::new().await;
    let proxy = scene.proxy();
    let devices = scene.devices(&scene.pair());
    for device in &devices {
        assert_eq!(kind(device, &proxy).await, HandshakeKind::Full);
    }
    scene.write_keys(&[7, 8]);
    let failed = || proxy.reloads_of("ticket_keys", ReloadOutcome::Failed) > 0;
    eventually("it is refused", failed).await;
    for device in &devices {
        assert_eq!(kind(device, &proxy).await, HandshakeKind::Resumed);
    }
}

#[tokio::test]
async fn a_session_that_is_too_old_is_declined_into_a_full_handshake() {
    let scene = Scene::new().await;
    // The lifetime in its tickets is a day, so that devices offer them later.
    let (one, mut listener) = (scene.proxy(), scene.listener());
    listener.tls.max_session_age = Duration::from_secs(2);
    let other = Proxy::with(listener);
    let devices = scene.devices(&scene.pair());
    for device in &devices {
        assert_eq!(kind(device, &one).await, HandshakeKind::Full);
    }
    let start = SystemTime::now();
    let passed = || SystemTime::now() > start + Duration::from_secs(3);
    eventually("three seconds", passed).await;
    for device in &devices {
        assert_eq!(kind(device, &one).await, HandshakeKind::Resumed);
        // A new ticket, and still the same age.
        assert_eq!(kind(device, &other).await, HandshakeKind::Full);
    }
    assert_eq!(resumptions(&other, "too_old"), 2);
}

#[tokio::test]
async fn remembered_sessions_have_the_same_age() {
    let scene = Scene::new().await;
    let mut listener = scene.listener();
    listener.tls.max_session_age = Duration::from_secs(3);
    let proxy = Proxy::with(listener);
    let [device, _] = scene.devices(&scene.pair());
    let device = device.without_tickets();
    let (start, second) = (SystemTime::now(), Duration::from_secs(1));
    assert_eq!(kind(&device, &proxy).await, HandshakeKind::Full);
    assert_eq!(kind(&device, &proxy).await, HandshakeKind::Resumed);
    eventually("three seconds", || SystemTime::now() > start + 4 * second).await;
    assert_eq!(kind(&device, &proxy).await, HandshakeKind::Full);
    assert_eq!(resumptions(&proxy, "too_old"), 1);
}

#[tokio::test]
async fn a_session_that_is_not_remembered_leads_to_a_full_handshake() {
    let scene = Scene::new().await;
    let (one, other) = (scene.proxy(), scene.proxy());
    let [device, _] = scene.devices(&scene.pair());
    let device = device.without_tickets();
    assert_eq!(kind(&device, &one).await, HandshakeKind::Full);
    assert_eq!(kind(&device, &other).await, HandshakeKind::Full);
    assert_eq!(resumptions(&other, "unknown_session"), 1);
}

#[tokio::test]
async fn check_counts_the_keys_and_warns_of_a_file_that_all_users_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new().await;
    let checked = scene.check().unwrap();
    let files = checked.files.join("\n");
    assert!(files.contains("tickets.key: 3 ticket keys"), "{files}");
    assert_eq!(checked.warning_lines(), Vec::<String>::new());
    fs::set_permissions(scene.file(), fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = scene.check().unwrap().warning_lines();
    assert!(warnings.len() == 1 && warnings[0].contains("tickets.key"), "{warnings:?}");
}

#[tokio::test]
async fn each_wrong_line_of_the_keys_is_reported_and_not_quoted() {
    let scene = Scene::new().await;
    let short = BASE64.encode(&[5; 79]);
    replace(&scene.file(), &format!("{}# note\n{short}\n\n", keys(&[1, 2, 3])));
    let problems = scene.check().err().unwrap().lines();
    for (problem, line) in problems.iter().zip(["line 4", "line 5", "line 6"]) {
        assert!(problem.contains("tickets.key") && problem.contains(line), "{problem}");
        assert!(!problem.contains(&short) && !problem.contains("note"), "{problem}");
    }
    assert_eq!(problems.len(), 3, "{problems:?}");
}

/// Returns whether HAProxy accepts a file of ticket keys.
async fn is_accepted_by_haproxy(scene: &Scene) -> bool {
    let (dir, server) = (scene.authority.dir(), scene.authority.server());
    let parts = [server.files.cert, server.files.key].map(|file| fs::read_to_string(file).unwrap());
    let (crt, config) = (dir.join("both.pem"), dir.join("haproxy.cfg"));
    replace(&crt, &parts.concat());
    // It checks the configuration, and binds nothing.
    let text = format!(
        "defaults\n mode tcp\n timeout connect 1s\n timeout client 1s\n timeout server 1s\n\
         listen test\n bind 127.0.0.1:8883 ssl crt {} tls-ticket-keys {}\n server s 127.0.0.1:1\n",
        crt.display(),
        scene.file().display()
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new("haproxy");
    command.args(["-c", "-f"]).arg(config);
    run(command).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_accepts_the_same_files_of_keys() {
    if !has("haproxy") {
        return;
    }
    let scene = Scene::new().await;
    let three = keys(&[1, 2, 3]);
    let of = |byte, bytes| BASE64.encode(&vec![byte; bytes]) + "\n";
    for (file, is_good) in [
        (three.clone(), true),
        (keys(&[1, 2, 3, 4, 5]), true),
        (three.trim_end().to_owned(), true),
        (three.replace('\n', "\r\n"), true),
        (of(1, 48) + &of(2, 48) + &of(3, 48), true),
        (String::new(), false),
        (keys(&[1, 2]), false),
        (three.clone() + "\n", false),
        (three.replacen('\n', "\n\n", 1), false),
        (format!("# keys\n{three}"), false),
        (format!(" {three}"), false),
        (three.replace('\n', " \n"), false),
        (three.clone() + &of(4, 48), false),
        (three.clone() + &of(4, 79), false),
        (three.replacen('=', "", 1), false),
    ] {
        replace(&scene.file(), &file);
        let accepted = (scene.check().is_ok(), is_accepted_by_haproxy(&scene).await);
        assert_eq!(accepted, (is_good, is_good), "{file:?}");
    }
}

/// Runs openssl s_client, with a client certificate, until its session is saved in `saves`.
pub(crate) async fn s_client(
    address: &str,
    pair: &Pair,
    saves: &Path,
    arguments: &[&str],
) -> String {
    let (cert, key) = (pair.files.cert.display(), pair.files.key.display());
    let (out, saves) = (saves.with_extension("out"), saves.display());
    fs::write(&out, "").unwrap();
    // The echo arrives after the ticket. Q ends the session.
    let script = format!(
        "(echo hello; while ! grep -q '^hello' {out}; do :; done; echo Q) | openssl s_client \
         -connect {address} -servername localhost -cert {cert} -key {key} -sess_out {saves} {} \
         >{out} 2>&1",
        arguments.join(" "),
        out = out.display(),
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    let (good, _) = run(command).await;
    let text = fs::read_to_string(&out).unwrap();
    assert!(good, "{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_resumes_at_another_process_and_after_a_restart() {
    let scene = Scene::new().await;
    let (dir, pair) = (scene.authority.dir(), scene.pair());
    let text = scene.text();
    let start = || Sidecar::start(dir, &text);
    let (mut first, second) = (start(), start());
    for version in ["-tls1_2", "-tls1_3"] {
        let saved = dir.join(format!("session{version}"));
        let at = first.address.to_string();
        let full = s_client(&at, &pair, &saved, &[version]).await;
        assert!(full.contains("New, "), "{version}: {full}");
        first = start();
        let sess_in = ["-sess_in", saved.to_str().unwrap()];
        for sidecar in [&second, &first] {
            let at = sidecar.address.to_string();
            let out = dir.join("ignored");
            let arguments = [version, sess_in[0], sess_in[1]];
            let resumed = s_client(&at, &pair, &out, &arguments).await;
            assert!(resumed.contains("Reused, "), "{version}: {resumed}\n{}", sidecar.log());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_devices_that_return_at_once_after_a_restart_resume() {
    let scene = Scene::new().await;
    let (dir, text, pair) = (scene.authority.dir(), scene.text(), scene.pair());
    let mut process = Sidecar::start(dir, &text);
    let devices: Vec<_> = (0..10).flat_map(|_| scene.devices(&pair)).collect();
    for device in &devices {
        device.echo(process.address).await.unwrap();
    }
    process.signal("TERM");
    assert_eq!(process.ended().code(), Some(0), "{}", process.log());
    let next = Sidecar::start(dir, &text);
    let mut storm = JoinSet::new();
    for device in devices {
        let address = next.address;
        storm.spawn(async move { device.echo(address).await.map(drop) });
    }
    while let Some(one) = storm.join_next().await {
        one.unwrap().unwrap();
    }
    let (_, metrics) = next.ask("GET", "/metrics").unwrap();
    let of_kind = |kind: &str| {
        let kind = format!("kind=\"{kind}\"");
        let all = metrics.lines().filter(|line| line.starts_with("tlsidecar_handshakes_total{"));
        let counts = all.filter(|line| line.contains(&kind)).map(|line| line.rsplit(' ').next());
        counts.map(|count| count.unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    assert_eq!(["full", "full_retry", "resumed"].map(of_kind), [0, 0, 20], "{metrics}");
}

/// Returns the lifetime that the last ticket states.
fn lifetime(text: &str) -> u64 {
    let hint = text.split("ticket lifetime hint: ").last().unwrap();
    hint.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_states_the_rest_of_the_age() {
    let scene = Scene::new().await;
    let mut listener = scene.listener();
    listener.tls.max_session_age = Duration::from_secs(1000);
    let proxy = Proxy::with(listener);
    let (at, pair) = (proxy.address.to_string(), scene.pair());
    for version in ["-tls1_2", "-tls1_3"] {
        let saved = scene.authority.dir().join(format!("session{version}"));
        let full = s_client(&at, &pair, &saved, &[version]).await;
        assert!((999..=1000).contains(&lifetime(&full)), "{version}: {full}");
        let start = SystemTime::now();
        let passed = || SystemTime::now() > start + Duration::from_secs(3);
        eventually("three seconds", passed).await;
        let sess_in = [version, "-sess_in", saved.to_str().unwrap()];
        let resumed = s_client(&at, &pair, &saved.with_extension("2"), &sess_in).await;
        assert!(resumed.contains("Reused, "), "{version}: {resumed}");
        // A device of TLS 1.2 keeps its ticket.
        let is_new = version == "-tls1_3";
        assert_eq!(lifetime(&resumed) <= 998, is_new, "{version}: {resumed}");
        // rustls opens the ticket, and declines it under another name.
        let other = [&sess_in[..], &["-servername", "127.example"]].concat();
        let declined = s_client(&at, &pair, &saved.with_extension("3"), &other).await;
        assert!(declined.contains("New, "), "{version}: {declined}");
        assert!(lifetime(&declined) >= 999, "{version}: {declined}");
    }
    assert_eq!(resumptions(&proxy, "not_usable"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_states_no_longer_lifetime_than_the_certificate_has() {
    let scene = Scene::new().await;
    let proxy = scene.proxy();
    let at = proxy.address.to_string();
    let not_after = SystemTime::now() + Duration::from_secs(100);
    let pair = issue_until(&scene.authority, not_after);
    for version in ["-tls1_2", "-tls1_3"] {
        let saved = scene.authority.dir().join(format!("session{version}"));
        let full = s_client(&at, &pair, &saved, &[version]).await;
        assert!((60..=100).contains(&lifetime(&full)), "{version}: {full}");
    }
}

/// Returns the start of the ticket in a session file of openssl: the name of its key.
async fn key_name(saved: &Path) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(["sess_id", "-noout", "-text", "-in"]).arg(saved);
    let (good, text) = run(command).await;
    assert!(good, "{text}");
    let line = text.split("0000 - ").nth(1).unwrap();
    let bytes = line[..47].split([' ', '-']).map(|byte| u8::from_str_radix(byte, 16).unwrap());
    bytes.collect()
}

/// Changes the byte of the ticket at this place in a session file of openssl.
async fn change(saved: &Path, at: usize, to: &Path) {
    let text = fs::read_to_string(saved).unwrap();
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let mut der = BASE64.decode(body.as_bytes()).unwrap();
    let name = key_name(saved).await;
    let ticket = der.windows(name.len()).position(|bytes| bytes == name).unwrap();
    der[ticket + at] ^= 1;
    let label = "SSL SESSION PARAMETERS-----\n";
    let lines: Vec<_> = BASE64.encode(&der).into_bytes().chunks(64).map(<[u8]>::to_vec).collect();
    let body = String::from_utf8(lines.join(&b'\n')).unwrap();
    fs::write(to, format!("-----BEGIN {label}{body}\n-----END {label}")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_is_garbage_is_declined_into_a_full_handshake() {
    let scene = Scene::new().await;
    let proxy = scene.proxy();
    let (at, pair) = (proxy.address.to_string(), scene.pair());
    for version in ["-tls1_2", "-tls1_3"] {
        let saved = scene.authority.dir().join(format!("session{version}"));
        s_client(&at, &pair, &saved, &[version]).await;
        // A byte of the key's name, of the nonce, of the content.
        for place in [0, 20, 100] {
            let changed = saved.with_extension(place.to_string());
            change(&saved, place, &changed).await;
            let arguments = [version, "-sess_in", changed.to_str().unwrap()];
            let full = s_client(&at, &pair, &saved.with_extension("x"), &arguments).await;
            assert!(full.contains("New, "), "{version}, byte {place}: {full}");
        }
        let arguments = [version, "-sess_in", saved.to_str().unwrap()];
        let resumed = s_client(&at, &pair, &saved.with_extension("x"), &arguments).await;
        assert!(resumed.contains("Reused, "), "{version}: {resumed}");
    }
    proxy.end_with(Reason::Ok, 2 * 5).await;
    let counted = ["unknown_key", "damaged", "resumed"].map(|o| resumptions(&proxy, o));
    assert_eq!(counted, [2, 4, 2]);
}
