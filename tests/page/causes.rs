//! The causes that the page shows for a status.

use serde_json::{Value, json};

use super::fixture::{Front, NOW, fixture, status};
use crate::support::browser;
use crate::support::command::has;

/// Returns the bars of the page for this status, each with its text.
async fn bars(status: Value) -> Vec<String> {
    let front = Front::new(status).await;
    let page = browser::open(&front.url, 5000).await;
    assert_eq!(page.console, "");
    let list = page.dom.split_once("id=\"problems\"").unwrap().1;
    let list = list.split_once("<p class=\"spoken\"").unwrap().0;
    list.split("<li class").skip(1).map(|bar| format!("<li class{bar}")).collect()
}

/// Returns the problems that the page shows for this status, each with its grade and title.
async fn problems(status: Value) -> Vec<String> {
    let title = |bar: String| browser::text(bar.split("</b>").next().unwrap());
    bars(status).await.into_iter().map(title).collect()
}

/// Returns a rollout in this state, with three failures of the new certificate.
fn rollout(listener: &str, state: &str) -> Value {
    let group =
        |failed: u32| json!({ "addresses": 9, "failed_addresses": failed, "handshakes": {} });
    json!({ "listener": listener, "route": null, "state": state, "since": NOW, "until": NOW,
        "decided": null, "decided_by": null, "share_percent": 5, "earlier": [], "new": [],
        "groups": { "old": group(0), "new": group(3) } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_the_same_problems_as_the_alerts_and_no_others() {
    if !has("chromium") {
        return;
    }
    const DAY: i64 = 86_400;
    let now = NOW;
    let certificate = |cert: &str, age: i64, left: i64| {
        let (from, to) = (now - age * DAY, now + left * DAY);
        json!({ "listener": "l", "cert": cert, "issuer": "i", "serial": "1", "sha256": "2",
            "key": "ecdsa", "not_before": from, "not_after": to })
    };
    let ca = |name: &str, age: i64, left: i64| json!({ "listener": "l", "ca": name, "not_before": now - age * DAY, "not_after": now + left * DAY });
    let backend = |listener: &str| json!({ "listener": listener, "backend": format!("{listener}:1"), "up": false, "connects": { "refused": 9 } });
    let mut gone = fixture("gone", 10, 0, &[]);
    gone.1["active"] = json!([100, 90, 10]);
    let listeners = vec![
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
        fixture("lost-way", 9, 20, &[("no_route", 7)]),
        fixture("misled", 9, 30, &[("no_route", 30)]),
        fixture("vanished", 90, 0, &[("client_lost", 30)]),
        // Strangers on a public port, and one failure among few handshakes.
        fixture("public", 0, 1, &[("client_tls_not_tls", 30)]),
        fixture("few", 3, 1, &[("client_tls_eof", 1)]),
        fixture("well", 100, 1_000, &[("client_tls_eof", 9), ("ok", 900)]),
        gone,
    ];
    let mut status = status(listeners);
    status["certificates"] = json!([
        certificate("week", 84, 6),
        certificate("late", 80, 19),
        certificate("good", 60, 30),
        certificate("dated-back", 9_000, 365),
        certificate("future", -1, 90),
    ]);
    status["rollouts"] = json!([
        rollout("back", "rolled_back"),
        rollout("on", "observing"),
        rollout("done", "promoted"),
    ]);
    status["client_cas"] =
        json!([ca("short", 26, 4), ca("ending", 3_500, 150), ca("long", 6_600, 692)]);
    status["crls"] = json!([{ "listener": "l", "crl": "c", "next_update": now - 3 * DAY }]);
    status["reload"]["failing"] = json!(true);
    status["reload"]["failures"] = json!(["f"]);
    status["backends"] = json!([backend("down"), backend("quiet")]);
    let mut found = problems(status).await;
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "Critical: Backend of down is down.",
            "Critical: Certificate of l: 6 days left.",
            "Critical: Client CA of l: 4 days left.",
            "Critical: Devices of misled match no route.",
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
            "Warning: Devices of lost-way match no route.",
            "Warning: Devices of vanished have stopped answering.",
            "Warning: Devices reject the certificate of one.",
            "Warning: Many handshakes of public fail.",
            "Warning: The last reload failed; the current configuration is kept.",
            "Warning: The new certificate of back was rolled back.",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_down_is_one_bar_above_all_that_it_takes_with_it() {
    if !has("chromium") {
        return;
    }
    let mut mqtt = fixture("mqtt", 10, 43, &[("backend_refused", 43)]);
    mqtt.1["active"] = json!([100, 90, 10]);
    let modbus = fixture("modbus", 5, 4, &[("backend_refused", 4)]);
    let mut lost = fixture("lost", 1, 0, &[]);
    lost.1["active"] = json!([100, 90, 1]);
    let mut status = status(vec![lost, mqtt, modbus]);
    let backend = |listener: &str| json!({ "listener": listener, "backend": "plant:1", "up": false, "has_replacement": null, "connects": {} });
    status["backends"] = json!([backend("mqtt"), backend("modbus")]);
    let found: Vec<_> = bars(status).await.iter().map(|bar| browser::text(bar)).collect();
    let [first, second] = &found[..] else { panic!("{found:?}") };
    assert!(first.starts_with("Critical: Backend of mqtt and modbus is down. plant:1"), "{first}");
    assert!(first.contains("Runbook TlsidecarBackendDown"), "{first}");
    assert!(first.contains("mqtt: most devices have disconnected: 10 connections"), "{first}");
    assert!(first.contains("modbus: 4 devices completed the handshake"), "{first}");
    let left =
        "Critical: Most devices of lost have disconnected. 1 connection is left; the maximum";
    assert!(second.starts_with(left), "{second}");
}

/// Returns a status in which devices sent these alerts, for these likely causes.
fn rejected(alerts: Value, causes: Value) -> Value {
    let mut mqtt = fixture("mqtt", 0, 0, &[("client_tls_alert", 30)]);
    mqtt.1["alerts"] = alerts;
    mqtt.1["certificate_rejections"] = causes;
    status(vec![mqtt])
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_reject_the_certificate_are_a_bar_with_their_alerts_and_the_likely_causes() {
    if !has("chromium") {
        return;
    }
    let alerts = json!({ "bad_certificate": [0, 0, 28], "unknown_ca": [0, 0, 2] });
    let causes = json!({ "clock_behind": [0, 0, 28], "unknown_ca": [0, 0, 2] });
    let front = Front::new(rejected(alerts, causes)).await;
    let text = browser::text(&browser::open(&front.url, 5000).await.dom);
    let bar = "30 of 30 handshakes in 5 minutes ended with an alert from the device (bad_certificate 28, unknown_ca 2). \
               Likely causes: clock_behind 28, unknown_ca 2. Was the certificate replaced recently?";
    assert!(text.contains(bar), "{text}");
    let row = "bad_certificate 28, unknown_ca 2; likely cause clock_behind 28, unknown_ca 2";
    assert!(text.contains(row), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_reject_the_certificate_for_their_clock_are_not_blamed_on_a_replaced_one() {
    if !has("chromium") {
        return;
    }
    let [alerts, causes] =
        ["bad_certificate", "clock_behind"].map(|key| json!({ key: [0, 0, 30] }));
    let [bar] = &bars(rejected(alerts, causes)).await[..] else { panic!("one bar") };
    let text = browser::text(bar);
    assert!(text.contains("Likely cause: clock_behind 30."), "{text}");
    assert!(!text.contains("replaced"), "{text}");
}
