//! The page for its readers: on a phone, by keyboard, with assistive technology, and under a moving pointer.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::fixture::{Front, NOW, fixture, status};
use crate::support::browser::OpenPage;
use crate::support::command::{has, skipped};

/// Widths of a screen, of a part of one, and of a phone.
const WIDTHS: [u32; 3] = [1280, 700, 390];

/// The rules of accessibility, from npm: tests/deploy/tools.sh installs them.
const AXE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/target/checks/npm/node_modules/axe-core/axe.min.js");

/// Returns a status with something in every part of the page.
fn full() -> Value {
    let failing = [("client_tls_alert", 30), ("client_tls_not_tls", 1), ("ok", 100)];
    let mut mqtt = fixture("mqtt", 1_900, 100, &failing);
    mqtt.1["alerts"] = json!({ "unknown_ca": [0, 0, 30] });
    mqtt.1["certificate_rejections"] = json!({ "issuer_not_sent": [0, 0, 30] });
    mqtt.0["address"] = json!("[2001:db8:1234:5678:9abc:def0:1234:5678]:8883");
    let mut status = status(vec![mqtt, fixture("modbus", 5, 9, &[("backend_refused", 9)])]);
    let file = "/etc/tlsidecar/certificates/a-long-name-of-a-plant/gateway.crt";
    status["certificates"] = json!([{ "listener": "mqtt", "cert": file, "issuer": "CN=Plant 7 Server CA,O=Example Manufacturing", "serial": "4fa122901c",
        "sha256": "ab", "key": "ecdsa", "not_before": NOW - 9_000_000, "not_after": NOW + 90_000, "rejected": "the key does not belong to this certificate" }]);
    status["backends"] = json!([
        { "listener": "mqtt", "backend": "unix:/run/historian/legacy-server.sock", "up": null, "has_replacement": null, "sessions": 0, "connects": {} },
        { "listener": "modbus", "backend": "10.20.30.40:502", "up": false, "has_replacement": null, "sessions": 0, "connects": { "refused": 9 } },
    ]);
    status["crls"] = json!([{ "listener": "mqtt", "crl": "/etc/tlsidecar/devices.crl", "next_update": NOW + 90_000 }]);
    status["phase"] = json!("closing");
    status["drain"]["started"] = json!(NOW - 5);
    status["resources"] = json!({ "memory_bytes": 123_456_789, "memory_limit_bytes": 1 << 30, "open_fds": 60_000, "max_fds": 65_536,
        "cpu_seconds": 1, "workers": 4, "busy_seconds": 1.5, "log_lines_dropped": 0 });
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn axe_finds_nothing_on_a_screen_and_on_a_phone_and_nothing_is_cut() {
    if !has("chromium") {
        return;
    }
    let Ok(axe) = fs::read_to_string(Path::new(AXE)) else {
        skipped("axe-core is not installed: just deploy-tools");
        return;
    };
    let front = Front::new(full()).await;
    let mut page = OpenPage::open(&front.url).await;
    page.evaluate(&format!("{axe}; true")).await;
    page.until("document.querySelectorAll('#sessions tr').length === 3").await;
    for width in WIDTHS {
        page.resize(width, 900).await;
        let found = page.evaluate("axe.run().then(found => found.violations.map(v => [v.id, ...v.nodes.map(n => n.target.join())].join(' ')))").await;
        assert_eq!(found, json!([]), "at a width of {width}");
        // Text that ends beside its place, in the page or in a table without a sign.
        let cut = "[document.documentElement, ...document.querySelectorAll('main *')].filter(e => e.clientWidth && getComputedStyle(e).display !== 'inline' \
                   && e.scrollWidth > e.clientWidth + 1 && !e.matches('.more, .spoken, svg *')).map(e => e.outerHTML.slice(0, 200))";
        assert_eq!(page.evaluate(cut).await, json!([]), "at a width of {width}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_keep_their_place_under_the_pointer_and_the_keyboard_focus() {
    if !has("chromium") {
        return;
    }
    let front = Front::new(status(vec![fixture("mqtt", 3, 9, &[("ok", 9)])])).await;
    let mut page = OpenPage::open(&front.url).await;
    let rows = "[...document.querySelectorAll('#sessions th')].map(cell => cell.innerText.slice(0, 6)).join()";
    page.until(&format!("{rows} === 'pump-1,pump-2,pump-3'")).await;
    let top = "document.getElementById('sessions-2').getBoundingClientRect().top";
    page.evaluate("document.querySelector('#sessions-2 button').scrollIntoView()").await;
    page.evaluate("document.querySelector('#sessions-2 button').focus()").await;
    let before = page.evaluate(top).await.as_f64().unwrap();

    // Two more causes above the row.
    front.change(|status| {
        status["reload"] = json!({ "failing": true, "last_success": NOW, "last_swap": null, "failures": ["f"], "waiting": ["w"] });
    });
    page.evaluate("tick()").await;
    page.until("document.querySelectorAll('#problems > li').length === 2").await;
    let after = page.evaluate(top).await.as_f64().unwrap();
    assert!((before - after).abs() < 2.0, "the row moved from {before} to {after}");

    // A poll with another order, as sessions overtake each other.
    let overtaken = "ask('/sessions?sort=bytes').then(found => { inPlace(() => showSessions(found, '', false)); return true; })";
    assert_eq!(page.evaluate(overtaken).await, json!(true));
    assert_eq!(page.evaluate(rows).await, json!("pump-1,pump-2,pump-3"), "held by the focus");
    let focused = "document.activeElement.closest('tr').id";
    assert_eq!(page.evaluate(focused).await, json!("sessions-2"));
    page.evaluate("document.activeElement.blur()").await;
    page.until(&format!("{rows} === 'pump-3,pump-2,pump-1'")).await;

    page.point_at("#sessions-2").await;
    page.until("document.getElementById('sessions').matches(':hover')").await;
    let again = "ask('/sessions?sort=age').then(found => { inPlace(() => showSessions(found, '', false)); return true; })";
    assert_eq!(page.evaluate(again).await, json!(true));
    assert_eq!(page.evaluate(rows).await, json!("pump-3,pump-2,pump-1"), "held by the pointer");
    page.point_at("h1").await;
    page.until(&format!("{rows} === 'pump-1,pump-2,pump-3'")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_would_refuse_it_offers_no_end_of_sessions() {
    if !has("chromium") {
        return;
    }
    let mut open = status(vec![fixture("mqtt", 3, 9, &[("ok", 9)])]);
    open["page_ends_sessions"] = json!(false);
    let front = Front::new(open).await;
    let mut page = OpenPage::open(&front.url).await;
    page.until("document.querySelectorAll('#sessions tr').length === 3").await;
    assert_eq!(page.evaluate("document.querySelector('#sessions button')").await, Value::Null);
    let note = page.evaluate("document.getElementById('sessions-note').innerText").await;
    assert!(note.as_str().unwrap().contains("needs a token"), "{note}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_on_top_with_its_progress_and_the_header_changes_its_colour() {
    if !has("chromium") {
        return;
    }
    let front = Front::new(status(vec![fixture("mqtt", 40, 9, &[("ok", 9)])])).await;
    let mut page = OpenPage::open(&front.url).await;
    page.until("document.body.dataset.state === 'fine'").await;
    let colour = "getComputedStyle(document.querySelector('header')).borderTopColor";
    let before = page.evaluate(colour).await;
    front.change(|status| {
        status["phase"] = json!("closing");
        status["drain"]["started"] = json!(NOW - 5);
        status["listeners"][0]["active"] = json!(10);
        status["recent"]["listeners"][0]["active"] = json!([40, 40, 10]);
    });
    page.evaluate("tick()").await;
    page.until("document.body.dataset.state === 'draining'").await;
    assert_ne!(page.evaluate(colour).await, before);
    let bar = "[document.getElementById('drain-progress').value, document.getElementById('drain-progress').max]";
    assert_eq!(page.evaluate(bar).await, json!([30, 40]));
    let shown = page.evaluate("document.getElementById('drain-section').innerText").await;
    let shown = shown.as_str().unwrap();
    assert!(shown.starts_with("Not ready: closing, at most 20 seconds left"), "{shown}");
    assert!(shown.contains("30 of 40 connections have ended, 10 are open."), "{shown}");
    let first = "document.querySelector('main > :not(noscript):not([hidden])').id";
    assert_eq!(page.evaluate(first).await, json!("drain-section"));
}
