//! The status page in a real browser: it shows the state, and never runs text from a device.

mod causes;
mod fixture;
mod pictures;
mod plant;
mod reading;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tlsidecar::config::{BackendAddress, ClientAuth, ClientTrust, Config, ListenerConfig};
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::backend::nobody;
use crate::support::browser::{self, OpenPage, Rendered};
use crate::support::certs::{Wish, replace};
use crate::support::client::{Session, say_and_hear};
use crate::support::command::has;
use crate::support::process::ask;
use crate::support::proxy::{config, listener};
use crate::support::raw::answer_to;
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Pair, Proxy, eventually};

/// A name that runs a script in a page that does not escape it.
const HOSTILE: &str = "<img src=x onerror=document.title='taken'>";

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
    let known = Device::showing(&servers, &devices.named("device", "pump-7"));
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
    let rejected = || status(&proxy)["certificates"][0]["rejected"].clone();
    assert!(rejected().as_str().unwrap().contains("server.crt: "), "the row is marked");
    let failing = &status(&proxy)["reload"];
    let failures = failing["failures"].as_array().unwrap();
    assert!(failures.iter().any(|failure| failure.as_str().unwrap().contains("server.crt")));
    replace(&pair.files.cert, &good);
    eventually("it succeeds again", || status(&proxy)["reload"]["failing"] == json!(false)).await;
    assert_eq!(rejected(), Value::Null);
    let key = fs::read_to_string(&pair.files.key).unwrap();
    replace(&pair.files.key, "rubbish");
    eventually("so is that of a key", || {
        rejected().as_str().is_some_and(|r| r.contains("server.key: "))
    })
    .await;
    replace(&pair.files.key, &key);
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
    assert!(page.len() < 128 * 1024, "{} bytes", page.len());
    for path in ["/", "/status", "/runbooks/TlsidecarBackendDown"] {
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

#[tokio::test(flavor = "multi_thread")]
async fn the_status_has_the_alerts_of_devices_and_the_resources_of_the_process() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let stranger = Device::new(&Authority::new("another"));
    assert!(stranger.connect(proxy.address).await.is_err());
    proxy.ends_with(Reason::ClientTlsAlert).await;
    let now = status(&proxy);
    assert_eq!(now["listeners"][0]["alerts"], json!({ "unknown_ca": 1 }));
    assert_eq!(recent(&now, 0, "alerts/unknown_ca"), 1);
    // No device has accepted the certificate yet.
    let likely = "certificate_rejections/issuer_not_sent";
    assert_eq!(now["listeners"][0]["certificate_rejections"], json!({ "issuer_not_sent": 1 }));
    assert_eq!(recent(&now, 0, likely), 1);
    assert_eq!(now["listeners"][0]["refused_suites"], json!({}));
    let resources = &now["resources"];
    for key in ["memory_bytes", "memory_limit_bytes", "open_fds", "max_fds", "workers"] {
        assert!(resources[key].as_u64().unwrap() > 0, "{key} in {resources}");
    }
    assert_eq!(now["page_ends_sessions"], json!(true), "the port is on loopback");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runbook_is_answered_without_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    fs::write(&path, "0123456789abcdef").unwrap();
    let (proxy, ..) = fleet(&[], |config| config.admin.token_file = Some(path)).await;
    let get = |path: &str| ask(proxy.app.admin.unwrap(), "GET", path, "").unwrap();
    let (status, text) = get("/runbooks/TlsidecarBackendDown");
    assert_eq!((status, text.lines().next()), (200, Some("# TlsidecarBackendDown")));
    let (status, text) = get("/runbooks/..%2Freasons");
    assert!(status == 404 && text.contains("TlsidecarMassDisconnect"), "{status} {text}");
    assert_eq!(get("/status").0, 401, "everything with data needs it");
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
        let device = Device::showing(&servers, &devices.named("device", name));
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
async fn the_page_follows_events_while_their_part_of_it_is_open() {
    if !has("chromium") {
        return;
    }
    let (proxy, mut sessions, _kept) = fleet(&["pump-7"], |_| {}).await;
    let admin = proxy.app.admin.unwrap();
    let mut page = OpenPage::open(&format!("http://{admin}/")).await;
    page.until("document.querySelectorAll('#sessions th').length === 1").await;
    assert_eq!(page.evaluate("following").await, Value::Null);
    page.evaluate("document.getElementById('events-details').open = true").await;
    page.until("following !== null && document.querySelector('#events tr') !== null").await;
    assert_eq!(ask(admin, "DELETE", "/sessions?identity=pump-7", "").unwrap().0, 200);
    let first = "document.querySelector('#events tr').innerText.replace(/\\s+/g, ' ')";
    page.until(&format!("{first}.includes('closed test pump-7')")).await;
    assert!(page.evaluate(first).await.as_str().unwrap().contains("killed, after"));
    assert_eq!(within("the end", sessions[0].read(&mut [0; 1])).await.unwrap(), 0);
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
    let hostile = Device::showing(&servers, &devices.named("device", HOSTILE));
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
    let row = part(&page, "reasons-client_tls_not_tls", "tr");
    assert!(row.ends_with("test 3 looks like http 3 3 3 3 3"), "{row}");
    assert!(row.contains("Remedy: ") && row.contains("configure the device for TLS"), "{row}");
    assert!(part(&page, "reasons-backend_refused", "tr").ends_with("test 3 3 3 3 3"));
    let certificates = part(&page, "certificates", "tbody");
    let left = (2_840_140_800 - status(&proxy)["now"].as_i64().unwrap()) / 86_400;
    let days = format!("{},{:03} days left", left / 1000, left % 1000);
    assert!(certificates.contains(&days) && certificates.contains("server.crt"), "{certificates}");
    assert!(part(&page, "trust", "tbody").contains("CN=devices"));
    assert!(part(&page, "backends", "tbody").contains(&format!("test {down} down 0 refused 3")));
    let problems = part(&page, "problems", "ul");
    assert!(problems.contains("Backend of test is down"), "{problems}");
    let peers = part(&page, "peers", "tbody");
    assert!(peers.ends_with("127.0.0.1 6"), "{peers}");

    // The names of issuers and devices are text.
    let identities = &page.dom.split_once("id=\"identities\"").unwrap().1;
    assert!(browser::text(identities).contains(&format!("{HOSTILE} 3")), "{identities}");
    assert!(certificates.contains(HOSTILE), "{certificates}");
    assert!(!page.dom.contains("<img") && !page.dom.contains("<title>taken"));
    assert!(page.dom.contains(" · tlsidecar · running</title>"));
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
    assert!(page.dom.contains("<body data-state=\"lost\" class=\"stale\""));
    assert!(part(&page, "phase", "span").contains("no answer"), "the phase is unknown");
    assert!(part(&page, "listeners", "tbody").contains("test"), "the last known state stays");
}
