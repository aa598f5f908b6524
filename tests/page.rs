//! The status page in a real browser: it shows the state, and never runs text from a device.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, date_time_ymd};
use serde_json::{Map, Value, json};
use tlsidecar::config::{
    BackendAddress, CertificateFiles, ClientAuth, ClientTrust, Config, ListenerConfig,
};
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, interval};

use crate::support::backend::nobody;
use crate::support::browser::{self, OpenPage, Rendered};
use crate::support::certs::{Wish, replace};
use crate::support::client::{Session, say_and_hear};
use crate::support::command::{has, run};
use crate::support::process::ask;
use crate::support::proxy::{config, listener};
use crate::support::raw::answer_to;
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Pair, Proxy, eventually};

/// A name that runs a script in a page that does not escape it.
const HOSTILE: &str = "<img src=x onerror=document.title='taken'>";

/// Issues a device certificate with this name only.
fn named(devices: &Authority, file: &str, name: &str) -> Pair {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_after = date_time_ymd(2060, 1, 1);
    devices.sign(file, &params)
}

fn status(proxy: &Proxy) -> Value {
    let (status, text) = ask(proxy.app.admin.unwrap(), "GET", "/status", "").unwrap();
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Returns the recent increase of a listener's counter.
fn recent(status: &Value, listener: usize, what: &str) -> u64 {
    let counts = &status["recent"]["listeners"][listener];
    let counts = what.split('/').fold(counts, |found, key| &found[key]);
    let counts = counts.as_array().cloned().unwrap_or_default();
    counts.iter().map(|count| count.as_u64().unwrap()).sum()
}

/// Returns a listener that requires certificates of `devices`.
fn strict(name: &str, backend: BackendAddress, pair: &Pair, devices: &Authority) -> ListenerConfig {
    let trust = ClientTrust {
        crls: vec![devices.crl("devices.crl", &[7])],
        ..ClientTrust::new(devices.ca())
    };
    let mut listener = ListenerConfig { name: name.to_owned(), ..listener(backend, pair) };
    listener.tls.client_auth = ClientAuth::Required(trust);
    listener
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_agrees_with_the_counters() {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let (backend, down) = (Backend::echo().await, nobody());
    let pair = servers.server();
    let down = down.to_string().parse::<BackendAddress>().unwrap();
    let strict = strict("strict", down.clone(), &pair, &devices);
    let first = config(listener(backend.config(), &pair));
    let listeners = vec![first.listeners[0].clone(), strict];
    let proxy = Proxy::on(Config { listeners, ..first }, None);

    let before = status(&proxy);
    assert_eq!((&before["phase"], &before["drain"]["started"]), (&json!("running"), &Value::Null));
    assert_eq!(
        (&before["backends"][0]["up"], &before["backends"][1]["up"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(before["listeners"][1]["address"], json!(proxy.app.listeners[1].1.to_string()));

    let _held = Device::new(&servers).echo(proxy.address).await.unwrap();
    answer_to(proxy.address, b"GET / HTTP/1.1\r\n\r\n").await;
    let known = Device::showing(&servers, &named(&devices, "device", "pump-7"));
    let mut refused = known.connect(proxy.app.listeners[1].1).await.unwrap();
    let _closed = refused.read(&mut [0; 1]).await;
    let counted = || {
        let now = status(&proxy);
        let closed = [(0, "client_tls_not_tls"), (1, "backend_refused")];
        closed.iter().all(|(at, reason)| now["listeners"][at]["closed"][reason] == json!(1))
    };
    eventually("both failures are counted", counted).await;

    let now = status(&proxy);
    let first = &now["listeners"][0];
    for (key, value) in [
        ("name", json!("test")),
        ("active", json!(1)),
        ("sessions", json!(1)),
        ("at_limit", json!(false)),
        ("handshakes_in_progress", json!(0)),
        ("accepted", json!(2)),
        ("handshakes", json!(1)),
        ("closed", json!({ "client_tls_not_tls": 1 })),
    ] {
        assert_eq!(first[key], value, "{key} in {first}");
    }
    assert!(first["limit"].as_u64().unwrap() > 100, "{first}");
    assert_eq!(recent(&now, 0, "accepted"), 2);
    assert_eq!(recent(&now, 0, "handshakes"), 1);
    assert_eq!(recent(&now, 0, "closed/client_tls_not_tls"), 1);
    assert_eq!(recent(&now, 1, "closed/backend_refused"), 1);
    let recent = &now["recent"];
    assert_eq!(recent["ended_seconds_ago"].as_array().unwrap().last(), Some(&json!(0)));
    assert_eq!(recent["listeners"][0]["active"].as_array().unwrap().last(), Some(&json!(1)));
    assert!(now["uptime_seconds"].as_u64().unwrap() < 60, "{now}");

    let certificate = &now["certificates"][0];
    assert_eq!(certificate["cert"], json!(pair.files.cert.display().to_string()));
    assert_eq!(certificate["not_after"], json!(2_840_140_800_i64));
    assert_eq!((&certificate["key"], &certificate["serial"]), (&json!("ecdsa"), &json!("01")));
    assert_eq!(now["client_cas"][0]["ca"], json!("CN=devices"));
    assert!(now["crls"][0]["crl"].as_str().unwrap().ends_with("devices.crl"));
    let backends = &now["backends"];
    assert_eq!((&backends[0]["up"], &backends[0]["connects"]["ok"]), (&json!(true), &json!(1)));
    assert_eq!(
        (&backends[1]["up"], &backends[1]["connects"]["refused"]),
        (&json!(false), &json!(1))
    );
    assert_eq!(backends[1]["backend"], json!(down.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_reports_reloads_and_the_drain() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let pair = authority.server();
    let proxy = Proxy::start(backend.config(), &pair);
    assert_eq!(status(&proxy)["reload"]["last_swap"], Value::Null);
    let good = fs::read_to_string(&pair.files.cert).unwrap();
    replace(&pair.files.cert, "rubbish");
    eventually("it fails", || status(&proxy)["reload"]["failing"] == json!(true)).await;
    let failing = &status(&proxy)["reload"];
    let failures = failing["failures"].as_array().unwrap();
    assert!(failures.iter().any(|failure| failure.as_str().unwrap().contains("server.crt")));
    replace(&pair.files.cert, &good);
    eventually("it succeeds again", || status(&proxy)["reload"]["failing"] == json!(false)).await;
    authority.issue("server", &Wish { serial: 2, ..Wish::default() });
    let swapped = || status(&proxy)["certificates"][0]["serial"] == json!("02");
    eventually("the new one is reported", swapped).await;
    eventually("the time is reported", || status(&proxy)["reload"]["last_swap"].is_u64()).await;
    let _held = Device::new(&authority).echo(proxy.address).await.unwrap();
    proxy.app.shutdown.drain();
    eventually("it drains", || status(&proxy)["drain"]["started"].is_u64()).await;
    let drains = status(&proxy);
    assert_ne!(drains["phase"], json!("running"));
    assert!(drains["drain"]["timeout_seconds"].as_f64().unwrap() > 1.0, "{drains}");
    proxy.app.shutdown.force();
    proxy.app.shutdown.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_served_with_a_policy_that_allows_nothing_else() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = String::from_utf8(answer_to(proxy.app.admin.unwrap(), request).await).unwrap();
    let (header, page) = answer.split_once("\r\n\r\n").unwrap();
    let value = |name: &str| {
        header.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap()
    };
    assert_eq!(value("content-type"), "text/html; charset=utf-8");
    assert_eq!(value("cache-control"), "no-store");
    assert_eq!(value("x-content-type-options"), "nosniff");
    let policy = value("content-security-policy");
    for part in ["default-src 'none'", "script-src 'sha256-", "connect-src 'self'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(page.len() < 64 * 1024 && !page.contains("https://"), "{} bytes", page.len());
    for path in ["/", "/status"] {
        assert_eq!(ask(proxy.app.admin.unwrap(), "HEAD", path, ""), Some((200, String::new())));
        for method in ["POST", "PUT", "DELETE"] {
            assert_eq!(
                ask(proxy.app.admin.unwrap(), method, path, "").unwrap().0,
                405,
                "{method} {path}"
            );
        }
    }
    assert!(ask(proxy.app.admin.unwrap(), "GET", "/elsewhere", "").unwrap().1.contains("GET / "));
}

/// Returns the text of the element with this id.
fn part(rendered: &Rendered, id: &str, tag: &str) -> String {
    let start = rendered.dom.split_once(&format!("id=\"{id}\""));
    let after = start.unwrap_or_else(|| panic!("no {id} in\n{}", rendered.dom)).1;
    let within = after.split(&format!("</{tag}>")).next().unwrap();
    browser::text(&format!("<{within}"))
}

/// Returns a proxy that accepts certificates of `devices`, and a connected device for each name.
async fn fleet(
    names: &[&str],
    change: impl FnOnce(&mut Config),
) -> (Proxy, Vec<Session>, (Authority, Backend)) {
    let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
    let backend = Backend::echo().await;
    let mut strict = strict("test", backend.config(), &servers.server(), &devices);
    if let ClientAuth::Required(trust) = &mut strict.tls.client_auth {
        trust.crls.clear();
    }
    let mut config = config(strict);
    change(&mut config);
    let proxy = Proxy::on(config, None);
    let mut sessions = Vec::new();
    for name in names {
        let device = Device::showing(&servers, &named(&devices, "device", name));
        sessions.push(device.echo(proxy.address).await.unwrap());
    }
    (proxy, sessions, (servers, backend))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_searches_sessions_and_ends_one_after_a_confirmation() {
    if !has("chromium") {
        return;
    }
    let (proxy, mut sessions, _kept) = fleet(&["pump-7", HOSTILE, "pump-9"], |_| {}).await;
    let url = format!("http://{}/", proxy.app.admin.unwrap());
    let mut page = OpenPage::open(&url).await;
    let devices = "[...document.querySelectorAll('#sessions th')].map(cell => cell.innerText)";
    page.until(&format!("{devices}.length === 3")).await;
    assert_eq!(page.evaluate(devices).await, json!(["pump-7", HOSTILE, "pump-9"]));
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let about = page.evaluate("document.getElementById('about').innerText").await;
    let about = about.as_str().unwrap();
    assert!(about.starts_with(host.trim()) && about.contains(env!("CARGO_PKG_VERSION")), "{about}");
    page.until("document.getElementById('tiles').innerText.includes('B/s')").await;

    let search = "const field = document.getElementById('search'); field.value = 'PUMP-9'; \
                  field.dispatchEvent(new Event('input'))";
    page.evaluate(&format!("(() => {{ {search} }})()")).await;
    page.until(&format!("JSON.stringify({devices}) === '[\"pump-9\"]'")).await;
    page.evaluate("document.querySelector('#sessions button').click()").await;
    // Longer than the interval of the polls: the confirmation stays open.
    page.evaluate("pollSessions()").await;
    page.until("document.querySelectorAll('#sessions button.danger').length === 1").await;
    assert_eq!(proxy.closed(Reason::Killed), 0, "not before the confirmation");
    page.evaluate("document.querySelector('#sessions button.danger').click()").await;
    assert_eq!(within("the end", sessions[2].read(&mut [0; 1])).await.unwrap(), 0);
    proxy.ends_with(Reason::Killed).await;
    page.until("document.getElementById('sessions').innerText.includes('No session matches')")
        .await;
    say_and_hear(&mut sessions[0], b"still there").await.unwrap();
    assert_ne!(page.evaluate("document.title").await, json!("taken"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_asks_for_the_token_and_sends_it() {
    if !has("chromium") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    fs::write(&path, "0123456789abcdef").unwrap();
    let (proxy, _sessions, _kept) =
        fleet(&["pump-7"], |config| config.admin.token_file = Some(path)).await;
    let url = format!("http://{}/", proxy.app.admin.unwrap());
    let mut page = OpenPage::open(&url).await;
    page.until("!document.getElementById('token-form').hidden").await;
    assert_eq!(page.evaluate("document.querySelectorAll('#sessions th').length").await, json!(0));
    for (token, expected) in [
        ("wrong", "document.body.innerText.includes('The token is not accepted')"),
        ("0123456789abcdef", "document.querySelectorAll('#sessions th').length === 1"),
    ] {
        let fill = format!("document.getElementById('token').value = '{token}'");
        page.evaluate(&fill).await;
        page.evaluate("document.getElementById('token-form').requestSubmit()").await;
        page.until(expected).await;
    }
    assert_eq!(page.evaluate("document.getElementById('token-form').hidden").await, json!(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_failures_and_certificates_as_text() {
    if !has("chromium") {
        return;
    }
    let (servers, devices) = (Authority::new(HOSTILE), Authority::new("devices"));
    let down = nobody().to_string().parse::<BackendAddress>().unwrap();
    let pair = servers.server();
    let mut strict = strict("test", down.clone(), &pair, &devices);
    strict.name = "test".to_owned();
    let proxy = Proxy::with(strict);
    for _ in 0..3 {
        answer_to(proxy.address, b"GET / HTTP/1.1\r\n\r\n").await;
    }
    let hostile = Device::showing(&servers, &named(&devices, "device", HOSTILE));
    for _ in 0..3 {
        let mut refused = hostile.connect(proxy.address).await.unwrap();
        let _closed = refused.read(&mut [0; 1]).await;
    }
    let ended = || {
        let counts = [Reason::ClientTlsNotTls, Reason::BackendRefused].map(|r| proxy.closed(r));
        counts == [3, 3]
    };
    eventually("all have ended", ended).await;

    let page = browser::open(&format!("http://{}/", proxy.app.admin.unwrap()), 5000).await;
    assert_eq!(page.console, "", "the policy refuses nothing, and no script fails");
    let row = part(&page, "reason-client_tls_not_tls", "tr");
    assert!(row.ends_with("test 3 3 3 3 3"), "{row}");
    assert!(row.contains("Remedy: Check that the device is configured for TLS"), "{row}");
    assert!(part(&page, "reason-backend_refused", "tr").ends_with("test 3 3 3 3 3"));
    let certificates = part(&page, "certificates", "tbody");
    let left = (2_840_140_800 - status(&proxy)["now"].as_i64().unwrap()) / 86_400;
    let days = format!("{},{:03} days left", left / 1000, left % 1000);
    assert!(certificates.contains(&days) && certificates.contains("server.crt"), "{certificates}");
    assert!(part(&page, "trust", "tbody").contains("CN=devices"));
    assert!(part(&page, "backends", "tbody").contains(&format!("test {down} down refused 3")));
    let problems = part(&page, "problems", "ul");
    assert!(problems.contains("Backend of test is down"), "{problems}");
    let peers = part(&page, "peers", "tbody");
    assert!(peers.ends_with("127.0.0.1 6"), "{peers}");

    // The names of issuers and devices are text.
    let identities = &page.dom.split_once("id=\"identities\"").unwrap().1;
    assert!(browser::text(identities).contains(&format!("{HOSTILE} 3")), "{identities}");
    assert!(certificates.contains(HOSTILE), "{certificates}");
    assert!(!page.dom.contains("<img") && !page.dom.contains("<title>taken"));
    assert!(page.dom.contains("tlsidecar · running</title>"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_reports_that_the_process_does_not_answer() {
    if !has("chromium") {
        return;
    }
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let (admin, answered) = (proxy.app.admin.unwrap(), Arc::new(AtomicBool::new(false)));
    // In front of the admin port: it answers `/status` once, and never again.
    let front = Backend::serving(move |mut tcp| {
        let answered = Arc::clone(&answered);
        async move {
            let mut request = vec![0; 4096];
            let Ok(read) = tcp.read(&mut request).await else { return };
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
            if path == "/status" && answered.swap(true, Ordering::SeqCst) {
                return;
            }
            let asked =
                format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let answer = answer_to(admin, asked.as_bytes()).await;
            // The browser may have closed the connection.
            let _gone = tcp.write_all(&answer).await;
        }
    })
    .await;
    let page = browser::open(&format!("http://{}/", front.address), 9000).await;
    let problems = part(&page, "problems", "ul");
    assert!(problems.contains("No answer from the process"), "{problems}");
    assert!(problems.contains("The data below is"), "{problems}");
    assert!(page.dom.contains("<body class=\"stale\""));
    assert!(part(&page, "phase", "span").contains("no answer"), "the phase is unknown");
    assert!(part(&page, "listeners", "tbody").contains("test"), "the last known state stays");
}

/// Returns a listener and its last half minute, with the connections that just ended, by reason.
fn fixture(name: &str, active: i64, handshakes: u64, closed: &[(&str, u64)]) -> (Value, Value) {
    let now: Map<_, _> = closed.iter().map(|(r, n)| ((*r).to_owned(), json!([0, 0, n]))).collect();
    let ever: Map<_, _> = closed.iter().map(|(r, n)| ((*r).to_owned(), json!(n))).collect();
    let listener = json!({
        "name": name, "address": "0.0.0.0:1", "active": active, "limit": 10_000, "at_limit": false,
        "handshakes_in_progress": 0, "sessions": active, "accepted": 1, "handshakes": handshakes,
        "closed": ever,
    });
    let recent = json!({
        "listener": name, "accepted": [0, 0, 0], "handshakes": [0, 0, handshakes],
        "active": [active, active, active], "closed": now,
    });
    (listener, recent)
}

/// Returns the problems that the page shows for this status, each with its grade and title.
async fn problems(status: Value) -> Vec<String> {
    let front = Backend::serving(move |mut tcp| {
        let status = status.clone();
        async move {
            let mut request = vec![0; 4096];
            let Ok(read) = tcp.read(&mut request).await else { return };
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let (kind, body) = match request.split(' ').nth(1) {
                Some("/") => {
                    ("text/html", include_str!("../src/control/admin/page.html").to_owned())
                }
                Some("/status") => ("application/json", status.to_string()),
                _ => ("application/json", json!({ "entries": [], "since": null }).to_string()),
            };
            let length = body.len();
            let header = format!("content-type: {kind}\r\ncontent-length: {length}");
            let answer = format!("HTTP/1.1 200 OK\r\n{header}\r\nconnection: close\r\n\r\n{body}");
            // The browser may have closed the connection.
            let _gone = tcp.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    let page = browser::open(&format!("http://{}/", front.address), 5000).await;
    let list = page.dom.split_once("id=\"problems\"").unwrap().1;
    let items = list.split_once("</ul>").unwrap().0.split("<li").skip(1);
    let title = |item: &str| browser::text(&format!("<{}", item.split("</b>").next().unwrap()));
    items.map(title).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_the_same_problems_as_the_alerts_and_no_others() {
    if !has("chromium") {
        return;
    }
    const DAY: i64 = 86_400;
    let now = 1_800_000_000_i64;
    let certificate = |cert: &str, age: i64, left: i64| {
        let (from, to) = (now - age * DAY, now + left * DAY);
        json!({ "listener": "l", "cert": cert, "issuer": "i", "serial": "1", "sha256": "2",
            "key": "ecdsa", "not_before": from, "not_after": to })
    };
    let ca = |name: &str, age: i64, left: i64| json!({ "listener": "l", "ca": name, "not_before": now - age * DAY, "not_after": now + left * DAY });
    let group =
        |failed: u32| json!({ "addresses": 9, "failed_addresses": failed, "handshakes": {} });
    let rollout = |listener: &str, state: &str| {
        json!({ "listener": listener, "route": null, "state": state, "since": now, "until": now,
            "decided": null, "decided_by": null, "share_percent": 5, "earlier": [], "new": [],
            "groups": { "old": group(0), "new": group(3) } })
    };
    let backend = |listener: &str| json!({ "listener": listener, "backend": "b:1", "up": false, "connects": { "refused": 9 } });
    let mut gone = fixture("gone", 10, 0, &[]);
    gone.1["active"] = json!([100, 90, 10]);
    let (listeners, recent): (Vec<_>, Vec<_>) = [
        // All devices reject the certificate; then one device of a fleet that stays connected.
        fixture("refused", 0, 0, &[("client_tls_alert", 30)]),
        fixture("one", 5_000, 0, &[("client_tls_alert", 9)]),
        // Most handshakes fail; then sessions end, which are not handshakes.
        fixture("old", 100, 10, &[("client_tls_incompatible", 30)]),
        fixture("lost", 100, 0, &[("client_reset", 500), ("ok", 500)]),
        // No connection reaches the backend; then nothing was attempted for a long time.
        fixture("down", 0, 43, &[("backend_refused", 43)]),
        fixture("quiet", 0, 0, &[]),
        fixture("ours", 1, 9, &[("internal", 1)]),
        fixture("well", 100, 1_000, &[("client_tls_eof", 9), ("ok", 900)]),
        gone,
    ]
    .into_iter()
    .unzip();
    let status = json!({
        "version": "1", "now": now, "uptime_seconds": 60, "phase": "running",
        "drain": { "started": null, "timeout_seconds": 25 },
        "listeners": listeners,
        "recent": { "ended_seconds_ago": [20, 10, 0], "listeners": recent },
        "certificates": [
            certificate("week", 84, 6), certificate("late", 80, 19), certificate("good", 60, 30),
            certificate("dated-back", 9_000, 365), certificate("future", -1, 90),
        ],
        "rollouts": [
            rollout("back", "rolled_back"), rollout("on", "observing"), rollout("done", "promoted"),
        ],
        "client_cas": [ca("short", 26, 4), ca("ending", 3_500, 150), ca("long", 6_600, 692)],
        "crls": [{ "listener": "l", "crl": "c", "next_update": now - 3 * DAY }],
        "reload": { "failing": true, "last_success": now, "last_swap": null, "failures": ["f"], "waiting": [] },
        "backends": [backend("down"), backend("quiet")],
    });
    let mut found = problems(status).await;
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "Critical: Backend of down is down.",
            "Critical: Certificate of l: 6 days left.",
            "Critical: Client CA of l: 4 days left.",
            "Critical: Devices reject the certificate of refused.",
            "Critical: Many handshakes of old fail.",
            "Critical: Most devices of gone have disconnected.",
            "Note: A new certificate of on is sent to 5 % of the devices.",
            "Note: Backend of quiet: the last attempt to connect failed.",
            "Warning: CRL of l is overdue for 3 days.",
            "Warning: Certificate of l: 19 days left.",
            "Warning: Certificate of l: valid in 24 hours; is the clock right?.",
            "Warning: Client CA of l: 150 days left.",
            "Warning: Connections to ours ended because of a bug in tlsidecar.",
            "Warning: Devices reject the certificate of one.",
            "Warning: The last reload failed; the current configuration is kept.",
            "Warning: The new certificate of back was rolled back.",
        ]
    );
}

/// A plant for the pictures: three listeners, with healthy and with failing devices.
struct Plant {
    servers: Authority,
    devices: Authority,
    proxy: Proxy,
    _backends: [Backend; 2],
    held: Vec<Session>,
}

impl Plant {
    async fn new(dir: &Path) -> Self {
        let (servers, devices) =
            (Authority::new("Plant 7 Server CA"), Authority::new("Plant 7 Device CA"));
        let backends = [Backend::echo().await, Backend::echo().await];
        let down = nobody().to_string().parse::<BackendAddress>().unwrap();
        let pair = |name: &str, past: u64, left: u64| {
            let days = |n: u64| Duration::from_secs(n * 86_400);
            let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.not_before = date_time_ymd(1970, 1, 1) + (today - days(past));
            params.not_after = date_time_ymd(1970, 1, 1) + (today + days(left));
            placed(&servers.sign(name, &params), dir, name)
        };
        let mqtt = listener(backends[0].config(), &pair("mqtt", 20, 70));
        let mut mqtt = ListenerConfig { name: "mqtt".to_owned(), ..mqtt };
        let trust = ClientTrust::new(devices.ca());
        mqtt.tls.client_auth = ClientAuth::Optional(trust);
        mqtt.limits.max_connections = Some(2000);
        let mut modbus =
            strict("modbus", backends[1].config(), &pair("modbus", 100, 265), &devices);
        modbus.limits.max_connections = Some(40);
        if let ClientAuth::Required(trust) = &mut modbus.tls.client_auth {
            trust.crls = vec![dir.join("devices.crl")];
            fs::copy(devices.dir().join("devices.crl"), &trust.crls[0]).unwrap();
        }
        let historian = listener(down, &pair("historian", 84, 6));
        let historian = ListenerConfig { name: "historian".to_owned(), ..historian };
        let whole = config(mqtt.clone());
        let proxy = Proxy::on(Config { listeners: vec![mqtt, modbus, historian], ..whole }, None);
        Self { servers, devices, proxy, _backends: backends, held: Vec::new() }
    }

    fn at(&self, listener: usize) -> SocketAddr {
        self.proxy.app.listeners[listener].1
    }

    /// Connects one healthy device.
    async fn connect_healthy(&mut self, listener: usize, name: &str, from: u8, most: usize) {
        let device = Device::showing(&self.servers, &named(&self.devices, "known", name));
        let tcp = dial(self.at(listener), from).await;
        let mut session = device.connect_over(tcp).await.unwrap();
        if say_and_hear(&mut session, b"reading").await.is_ok() {
            self.held.push(session);
        }
        if self.held.len() > most {
            let mut oldest = self.held.remove(0);
            oldest.shutdown().await.unwrap();
        }
    }

    /// Makes the connections of one step of the simulation.
    async fn step(&mut self, n: u64) {
        let every = |turns| n.is_multiple_of(turns);
        let busy = n % 97 < 40;
        if busy || every(3) {
            self.connect_healthy(0, &format!("sensor-{}", n % 120), (n % 60) as u8 + 10, 60).await;
        }
        if every(9) {
            self.connect_healthy(1, &format!("plc-{}", n % 8), 90 + (n % 8) as u8, 60).await;
        }
        if every(14) {
            let mut tcp = dial(self.at(0), 23).await;
            tcp.write_all(b"\x10\x12\0\x04MQTT\x04").await.unwrap();
            let _closed = tcp.read(&mut [0; 16]).await;
        }
        if every(6) && n % 200 > 120 {
            let stranger = Device::new(&Authority::new("last year's"));
            let tcp = dial(self.at(0), 31 + (n % 3) as u8).await;
            assert!(stranger.connect_over(tcp).await.is_err());
        }
        if every(26) {
            let nameless = Device::new(&self.servers);
            let mut refused = nameless.connect_over(dial(self.at(1), 44).await).await.unwrap();
            let _closed = refused.read(&mut [0; 1]).await;
        }
        if every(17) {
            let wish = Wish {
                names: &["plc-12"],
                years: (2020, 2022),
                purpose: ExtendedKeyUsagePurpose::ClientAuth,
                ..Wish::default()
            };
            let late = Device::showing(&self.servers, &self.devices.issue("late", &wish));
            let mut refused = late.connect_over(dial(self.at(1), 45).await).await.unwrap();
            let _closed = refused.read(&mut [0; 1]).await;
        }
        if every(40) {
            let gateway = Device::new(&self.servers);
            let mut refused = gateway.connect_over(dial(self.at(2), 70).await).await.unwrap();
            let _closed = refused.read(&mut [0; 1]).await;
        }
        if every(31) {
            self.connect_healthy(0, "pump-7.hall-2.plant.example", 52, 60).await;
            // It loses power: no close_notify, and a reset.
            if let Some(session) = self.held.pop() {
                let tcp = session.into_inner().0;
                tcp.set_zero_linger().unwrap();
            }
        }
    }
}

/// Copies a certificate to a directory with a realistic name.
fn placed(pair: &Pair, dir: &Path, name: &str) -> Pair {
    let files = CertificateFiles {
        cert: dir.join(format!("{name}.crt")),
        key: dir.join(format!("{name}.key")),
    };
    fs::copy(&pair.files.cert, &files.cert).unwrap();
    fs::copy(&pair.files.key, &files.key).unwrap();
    Pair { files }
}

/// Connects from 127.0.0.`from`.
async fn dial(address: SocketAddr, from: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, from], 0))).unwrap();
    let tcp = socket.connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "draws docs/page*.png, in a quarter of an hour or TLSIDECAR_PICTURE_SECONDS"]
async fn the_pictures_of_the_page_are_drawn() {
    let dir = std::env::temp_dir().join("plant-7");
    fs::create_dir_all(&dir).unwrap();
    let mut plant = Plant::new(&dir).await;
    let seconds = std::env::var("TLSIDECAR_PICTURE_SECONDS");
    let seconds = seconds.map_or(900, |seconds| seconds.parse().unwrap());
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut turns = interval(Duration::from_millis(300));
    for n in 0.. {
        turns.tick().await;
        plant.step(n).await;
        if Instant::now() > until {
            break;
        }
    }
    let url = format!("http://{}/", plant.proxy.app.admin.unwrap());
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs");
    let whole = (1280, 2080);
    // The README shows its upper part, at a width at which it can be read.
    let top = (1000, 760);
    for (name, dark, size) in
        [("page.png", false, whole), ("page-dark.png", true, whole), ("page-top.png", false, top)]
    {
        let file = docs.join(name);
        browser::draw(&url, dark, size, &file).await;
        // A page has few colours.
        let mut fewer = Command::new("pngquant");
        fewer.args(["--force", "--strip", "--output"]).arg(&file).arg("64").arg(&file);
        let (good, text) = run(fewer).await;
        assert!(good, "{text}");
    }
    plant.held.clear();
    eventually("all have left", || plant.proxy.text().matches("connections_active{").count() == 3)
        .await;
    fs::remove_dir_all(dir).unwrap();
}
