//! `GET /sessions` and `GET /top`: live sessions and rankings; `DELETE /sessions`.

use std::time::Duration;

use rcgen::{CertificateParams, DnType, DnValue, ExtendedKeyUsagePurpose, SanType, date_time_ymd};
use serde_json::{Value, json};
use tlsidecar::config::{ClientAuth, Config};
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::backend::FullBacklog;
use crate::support::client::{Session, say_and_hear};
use crate::support::process::ask;
use crate::support::proxy::listener;
use crate::support::raw::answer_to;
use crate::support::wait::within;
use crate::support::{Authority, Device, Fleet, Proxy, eventually};

/// Starts a proxy that accepts client certificates, and clients without one.
async fn fleet() -> Fleet {
    let set = |config: &mut Config, _: &Authority| {
        config.listeners[0].tls.alpn = vec![b"mqtt".to_vec()];
    };
    Fleet::new(ClientAuth::Optional, set).await
}

/// Connects a device with this name, and echoes `bytes`.
async fn connected(fleet: &Fleet, name: &str, bytes: usize) -> Session {
    let device = fleet.device(name).offering(&["mqtt"]);
    let mut session = device.connect(fleet.proxy.address).await.unwrap();
    say_and_hear(&mut session, &vec![7; bytes]).await.unwrap();
    session
}

fn get(fleet: &Fleet, path: &str) -> Value {
    let (status, text) = ask(fleet.admin(), "GET", path, "").unwrap();
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

/// Sends `DELETE /sessions` with a query or an id, and returns the status and the answer.
fn end(fleet: &Fleet, selection: &str) -> (u16, Value) {
    let (status, text) =
        ask(fleet.admin(), "DELETE", &format!("/sessions{selection}"), "").unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Returns the names of matching sessions.
fn find(fleet: &Fleet, query: &str) -> Vec<String> {
    let answer = get(fleet, &format!("/sessions?{query}"));
    let names = answer["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| session["identity"].as_str().unwrap_or("nobody").to_owned());
    names.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_session_is_listed_with_all_its_facts() {
    let fleet = fleet().await;
    let session = connected(&fleet, "sensor-1.plant.example", 1000).await;
    let counted = || get(&fleet, "/sessions")["sessions"][0]["bytes_to_client"] == json!(1000);
    eventually("its bytes are counted", counted).await;
    let answer = get(&fleet, "/sessions");
    assert_eq!((&answer["matching"], &answer["next"]), (&json!(1), &Value::Null));
    let listed = &answer["sessions"][0];
    for (key, value) in [
        ("listener", json!("test")),
        ("peer", json!(session.get_ref().0.local_addr().unwrap().to_string())),
        ("identity", json!("sensor-1.plant.example")),
        ("certificate_not_after", json!(2_840_140_800_i64)),
        ("sni", json!("localhost")),
        ("alpn", json!("mqtt")),
        ("tls", json!("1.3")),
        ("cipher", json!("TLS_AES_128_GCM_SHA256")),
        ("handshake", json!("full")),
        ("bytes_to_backend", json!(1000)),
    ] {
        assert_eq!(listed[key], value, "{key} in {listed}");
    }
    // In seconds, not milliseconds.
    for key in ["age_seconds", "idle_seconds"] {
        assert!(listed[key].as_u64().unwrap() < 60, "{key} in {listed}");
    }
    drop(session);
    eventually("it has ended", || fleet.proxy.active() == 0).await;
    assert_eq!(get(&fleet, "/sessions")["matching"], json!(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_is_the_first_uri_then_the_first_dns_name_then_the_common_name() {
    let fleet = fleet().await;
    let params = |sans: &[SanType]| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = sans.to_vec();
        params.distinguished_name.push(DnType::CommonName, "common");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_after = date_time_ymd(2060, 1, 1);
        params
    };
    let uri = SanType::URI("urn:plant:pump-7".try_into().unwrap());
    let dns = SanType::DnsName("pump-7.example".try_into().unwrap());
    let old = |name: DnValue| {
        let mut params = params(&[]);
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let (bmp, t61) = ("Pümpe 7".try_into().unwrap(), "Pump 8".try_into().unwrap());
    for (params, names) in [
        (params(&[dns.clone(), uri]), vec!["urn:plant:pump-7", "pump-7.example", "common"]),
        (params(&[dns]), vec!["pump-7.example", "common"]),
        (params(&[]), vec!["common"]),
        (old(DnValue::BmpString(bmp)), vec!["Pümpe 7"]),
        (old(DnValue::TeletexString(t61)), vec!["Pump 8"]),
    ] {
        let pair = fleet.devices.sign("device", &params);
        let device = Device::showing(&fleet.servers, &pair).offering(&["mqtt"]);
        let session = device.echo(fleet.proxy.address).await.unwrap();
        let listed = &get(&fleet, "/sessions")["sessions"][0];
        assert_eq!((&listed["identity"], &listed["names"]), (&json!(names[0]), &json!(names)));
        drop(session);
        eventually("it has ended", || fleet.proxy.active() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_found_by_each_filter() {
    let fleet = fleet().await;
    let _one = connected(&fleet, "sensor-1.plant.example", 1).await;
    let _two = connected(&fleet, "sensor-2.plant.example", 1).await;
    let nobody = Device::new(&fleet.servers).offering(&["mqtt"]);
    let nobody = nobody.echo(fleet.proxy.address).await.unwrap();
    let (one, two) = ("sensor-1.plant.example", "sensor-2.plant.example");
    assert_eq!(find(&fleet, ""), [one, two, "nobody"]);
    assert_eq!(find(&fleet, "identity=sensor-2.plant.example"), [two]);
    assert_eq!(find(&fleet, "identity=*.plant.example"), [one, two]);
    assert_eq!(find(&fleet, "identity=*.example"), [""; 0]);
    assert_eq!(find(&fleet, "listener=test&sni=LOCALHOST"), [one, two, "nobody"]);
    assert_eq!(find(&fleet, "listener=other"), [""; 0]);
    assert_eq!(find(&fleet, "peer=127.0.0.1"), [one, two, "nobody"]);
    let peer = nobody.get_ref().0.local_addr().unwrap();
    assert_eq!(find(&fleet, &format!("peer={peer}")), ["nobody"]);
    assert_eq!(find(&fleet, "peer=192.0.2.1"), [""; 0]);
    assert_eq!(find(&fleet, "search=SOR-2.PLANT"), [two]);
    assert_eq!(find(&fleet, &format!("search={}", peer.port())), ["nobody"]);
    assert_eq!(find(&fleet, "search=elsewhere"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_sorted_over_all_before_the_page_is_cut() {
    let fleet = fleet().await;
    let _quiet = connected(&fleet, "b", 1).await;
    let _loud = connected(&fleet, "a", 5000).await;
    let mut last = connected(&fleet, "c", 10).await;
    let counted =
        || get(&fleet, "/sessions?identity=a")["sessions"][0]["bytes_to_client"] == json!(5000);
    eventually("the bytes are counted", counted).await;
    assert_eq!(find(&fleet, "sort=bytes&limit=2"), ["a", "c"]);
    assert_eq!(get(&fleet, "/sessions?sort=bytes&limit=2")["next"], Value::Null);
    assert_eq!(find(&fleet, "sort=identity"), ["a", "b", "c"]);
    assert_eq!(find(&fleet, "sort=age"), ["b", "a", "c"]);
    say_and_hear(&mut last, b"again").await.unwrap();
    assert_eq!(find(&fleet, "sort=idle").last().unwrap(), "c");
    assert_eq!(ask(fleet.admin(), "GET", "/sessions?sort=x", "").unwrap().0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other_without_a_gap() {
    let fleet = fleet().await;
    let mut sessions = Vec::new();
    for n in 0..5 {
        sessions.push(connected(&fleet, &format!("sensor-{n}"), 1).await);
    }
    let mut found = Vec::new();
    let mut after = json!(0);
    let mut pages = 0;
    while !after.is_null() {
        found.extend(find(&fleet, &format!("limit=2&after={after}")));
        after = get(&fleet, &format!("/sessions?limit=2&after={after}"))["next"].clone();
        pages += 1;
    }
    assert_eq!(found, ["sensor-0", "sensor-1", "sensor-2", "sensor-3", "sensor-4"]);
    assert_eq!(pages, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_devices_with_most_failures_bytes_and_connections_are_listed() {
    let fleet = fleet().await;
    for _ in 0..3 {
        answer_to(fleet.proxy.address, b"GET / HTTP/1.1\r\n\r\n").await;
    }
    fleet.proxy.end_with(Reason::ClientTlsNotTls, 3).await;
    let failures = get(&fleet, "/top?by=peer&what=failures");
    assert_eq!(failures["entries"], json!([{ "name": "127.0.0.1", "count": 3 }]));
    assert_eq!((&failures["error_at_most"], &failures["by"]), (&json!(0), &json!("peer")));
    assert!(failures["since"].as_u64().unwrap() > 1_700_000_000);
    let quiet = connected(&fleet, "quiet", 10).await;
    let mut loud = connected(&fleet, "loud", 5000).await;
    // Ended sessions count, and live ones.
    loud.shutdown().await.unwrap();
    assert_eq!(loud.read(&mut [0; 1]).await.unwrap(), 0);
    eventually("it has ended", || fleet.proxy.active() == 1).await;
    let by_bytes = || get(&fleet, "/top?by=identity&what=bytes")["entries"].clone();
    let expected = json!([{ "name": "loud", "count": 10_000 }, { "name": "quiet", "count": 20 }]);
    eventually("both are counted", || by_bytes() == expected).await;
    let first = get(&fleet, "/top?by=identity&what=bytes&limit=1")["entries"].clone();
    assert_eq!(first, json!([{ "name": "loud", "count": 10_000 }]));
    let connections = get(&fleet, "/top?by=peer&what=connections")["entries"].clone();
    assert_eq!(connections, json!([{ "name": "127.0.0.1", "count": 5 }]));
    assert_eq!(get(&fleet, "/top?by=identity&what=failures")["entries"], json!([]));
    drop(quiet);
    eventually("all have ended", || fleet.proxy.active() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_is_misspelt_is_refused() {
    let fleet = fleet().await;
    for path in ["/sessions?identiy=x", "/sessions?limit=0", "/top?what=errors", "/top?peer=x"] {
        let (status, text) = ask(fleet.admin(), "GET", path, "").unwrap();
        assert!(status == 400 && text.contains(':'), "{path}: {status} {text}");
    }
    assert_eq!(ask(fleet.admin(), "POST", "/sessions", "").unwrap().0, 405);
}

/// Reads the end of a session. rustls reports a close_notify as 0 bytes, and an end without one as an error.
async fn gets_close_notify(session: &mut Session) {
    assert_eq!(within("the end", session.read(&mut [0; 1])).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_ended_by_its_id_with_a_close_notify() {
    let fleet = fleet().await;
    let mut ended = connected(&fleet, "sensor-1.plant.example", 1).await;
    let mut other = connected(&fleet, "sensor-2.plant.example", 1).await;
    let id = get(&fleet, "/sessions?identity=sensor-1.plant.example")["sessions"][0]["id"].clone();
    assert_eq!(end(&fleet, &format!("/{id}")), (200, json!({ "stopped": 1 })));
    gets_close_notify(&mut ended).await;
    fleet.proxy.ends_with(Reason::Killed).await;
    say_and_hear(&mut other, b"still there").await.unwrap();
    assert_eq!(end(&fleet, &format!("/{id}")).0, 404, "it has ended");
    for invalid in ["/x", "/-1", "/", "/1/2"] {
        assert!([400, 404].contains(&end(&fleet, invalid).0), "{invalid}");
    }
    assert_eq!(fleet.proxy.active(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_ended_by_filters_that_must_all_match() {
    let fleet = fleet().await;
    let mut one = connected(&fleet, "sensor-1.plant.example", 1).await;
    let mut two = connected(&fleet, "sensor-2.plant.example", 1).await;
    let mut gateway = connected(&fleet, "gateway", 1).await;
    assert_eq!(end(&fleet, "?identity=*.plant.example&peer=192.0.2.1").1, json!({ "stopped": 0 }));
    assert_eq!(end(&fleet, "?listener=other").1, json!({ "stopped": 0 }));
    let both = end(&fleet, "?identity=*.plant.example&peer=127.0.0.1&listener=test").1;
    assert_eq!(both, json!({ "stopped": 2 }));
    for ended in [&mut one, &mut two] {
        gets_close_notify(ended).await;
    }
    say_and_hear(&mut gateway, b"still there").await.unwrap();
    fleet.proxy.end_with(Reason::Killed, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_in_its_handshake_is_ended_too() {
    let fleet = fleet().await;
    let mut silent = TcpStream::connect(fleet.proxy.address).await.unwrap();
    eventually("it is accepted", || fleet.proxy.active() == 1).await;
    let peer = silent.local_addr().unwrap();
    assert_eq!(end(&fleet, &format!("?peer={peer}")).1, json!({ "stopped": 1 }));
    assert_eq!(within("the end", silent.read(&mut [0; 1])).await.unwrap_or(0), 0);
    fleet.proxy.ends_with(Reason::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_backend_is_not_connected_yet_gets_a_close_notify_as_well() {
    let (authority, full) = (Authority::new("ca"), FullBacklog::new().await);
    let backend = full.address.to_string().parse().unwrap();
    let mut listener = listener(backend, &authority.server());
    listener.timeouts.connect = Duration::from_secs(600);
    let proxy = Proxy::with(listener);
    let mut session = Device::new(&authority).connect(proxy.address).await.unwrap();
    let path = "/sessions?listener=test";
    let handshakes = "tlsidecar_handshakes_in_progress{listener=\"test\"}";
    eventually("its handshake ends", || proxy.count(handshakes) == 0).await;
    let answer = ask(proxy.app.admin.unwrap(), "DELETE", path, "").unwrap();
    assert_eq!(answer, (200, "{\"stopped\":1}\n".to_owned()));
    gets_close_notify(&mut session).await;
    proxy.ends_with(Reason::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_end_sessions_without_a_filter_or_from_a_web_page_is_refused() {
    let fleet = fleet().await;
    let mut session = connected(&fleet, "sensor-1", 1).await;
    for query in ["", "?", "?limit=1", "?identiy=sensor-1", "?identity=a&identity=sensor-1"] {
        let (status, text) = end(&fleet, query);
        assert_eq!(status, 400, "{query}: {text}");
    }
    let page = "Origin: http://localhost\r\n";
    for path in ["/sessions?listener=test", "/sessions/1"] {
        let answer = ask(fleet.admin(), "DELETE", path, page).unwrap();
        assert_eq!(answer, (403, "not for web pages\n".to_owned()), "{path}");
    }
    say_and_hear(&mut session, b"still there").await.unwrap();
}
