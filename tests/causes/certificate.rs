//! The device rejects the server certificate: its clock is wrong, or it lacks the CA.

use std::fs;
use std::process::Command;

use super::Scene;
use crate::support::Authority;
use crate::support::access_log::has_fields;
use crate::support::command::{has, run, skipped};

/// Connects openssl with this CA and clock, and asserts the alert in the metric and in the log.
async fn rejects(ca: Option<&Authority>, clock: Option<&str>, alert: &str) {
    let mut scene = Scene::new("").await;
    let ca = ca.unwrap_or(&scene.authority).ca();
    let mut options = vec!["-verify_return_error", "-CAfile", ca.to_str().unwrap()];
    options.extend(clock.into_iter().flat_map(|clock| ["-attime", clock]));
    if !scene.openssl(&options).await {
        return;
    }
    has_fields(
        &scene.line("client_tls_alert"),
        &["phase=\"handshake\"", &format!("error=the client sent the fatal alert {alert}")],
    );
    let series = format!("tlsidecar_client_alerts_total{{alert=\"{alert}\",listener=\"test\"}}");
    assert_eq!(scene.sidecar.count(&series), 1);
}

#[tokio::test]
async fn a_clock_in_1970_is_bad_certificate_with_openssl() {
    rejects(None, Some("86400"), "bad_certificate").await;
}

#[tokio::test]
async fn a_clock_that_is_ahead_is_certificate_expired() {
    rejects(None, Some("3000000000"), "certificate_expired").await;
}

#[tokio::test]
async fn a_missing_ca_is_unknown_ca() {
    rejects(Some(&Authority::new("other")), None, "unknown_ca").await;
}

/// A device with mbedTLS whose clock is the second of the variable `CLOCK`.
const CLOCK: &str = "#include <stdlib.h>\n#include <time.h>\n\
    time_t time(time_t *t) { time_t now = atoll(getenv(\"CLOCK\")); if (t) *t = now; return now; }\n";

#[tokio::test]
async fn the_log_has_the_clock_of_a_device_with_mbedtls() {
    let mut scene = Scene::new("").await;
    let directory = scene.authority.dir().to_owned();
    let (clock, device) = (directory.join("clock.c"), directory.join("device"));
    fs::write(&clock, CLOCK).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-rdynamic", "-o"]).arg(&device).arg("examples/mbedtls/device.c").arg(&clock);
    cc.args(["-lmbedtls", "-lmbedx509", "-lmbedcrypto"]);
    if !has("cc") || !run(cc).await.0 {
        skipped("libmbedtls-dev is not installed on this machine");
        return;
    }
    let mut command = Command::new(&device);
    let port = scene.address().port().to_string();
    command.args(["localhost", &port]).arg(scene.authority.ca()).env("CLOCK", "86400");
    let (connected, output) = run(command).await;
    assert!(!connected, "{output}");
    let line = scene.line("client_tls_alert");
    has_fields(&line, &["client_time=\"1970-01-02T00:00:00Z\""]);
    assert!(line.contains("certificate_unknown") || line.contains("bad_certificate"), "{line}");
}

#[tokio::test]
async fn a_random_is_not_logged_as_a_clock() {
    let mut scene = Scene::new("").await;
    let other = Authority::new("other");
    let ca = other.ca();
    if scene.openssl(&["-verify_return_error", "-CAfile", ca.to_str().unwrap()]).await {
        assert!(!scene.line("client_tls_alert").contains("client_time"));
    }
}
