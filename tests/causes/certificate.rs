//! The device rejects the server certificate: its clock is wrong, or it lacks the CA.

use std::fs;
use std::process::Command;

use super::Scene;
use crate::support::Authority;
use crate::support::access_log::has_fields;
use crate::support::certs::{Wish, replace};
use crate::support::command::{has, run, skipped};

/// Connects openssl with this CA and clock, and asserts the alert and the cause in the metrics and in the log.
async fn rejects(clock: Option<&str>, name: &str, (alert, cause): (&str, &str)) {
    let mut scene = Scene::new("").await;
    let _accepts = scene.device().echo(scene.address()).await.unwrap();
    let ca = scene.authority.ca();
    let mut options = vec!["-verify_return_error", "-CAfile", ca.to_str().unwrap()];
    options.extend(["-servername", name, "-verify_hostname", name]);
    options.extend(clock.into_iter().flat_map(|clock| ["-attime", clock]));
    if !scene.openssl(&options).await {
        return;
    }
    has_fields(
        &scene.line("client_tls_alert"),
        &[
            "phase=\"handshake\"",
            &format!("likely_cause={cause:?}"),
            &format!("error=the client sent the fatal alert {alert}"),
        ],
    );
    let series = format!("tlsidecar_client_alerts_total{{alert=\"{alert}\",listener=\"test\"}}");
    assert_eq!(scene.sidecar.count(&series), 1);
    assert_eq!(rejections(&scene, cause), 1);
}

/// Returns the counter of the rejections for this cause.
fn rejections(scene: &Scene, cause: &str) -> u64 {
    scene.sidecar.count(&format!(
        "tlsidecar_certificate_rejections_total{{likely_cause={cause:?},listener=\"test\"}}"
    ))
}

#[tokio::test]
async fn a_clock_in_1970_is_bad_certificate_with_openssl() {
    rejects(Some("86400"), "localhost", ("bad_certificate", "clock_behind")).await;
}

#[tokio::test]
async fn a_clock_that_is_ahead_is_certificate_expired() {
    rejects(Some("3000000000"), "localhost", ("certificate_expired", "clock_ahead")).await;
}

#[tokio::test]
async fn a_name_that_the_certificate_does_not_have_is_not_taken_for_a_clock() {
    rejects(None, "gateway.example", ("bad_certificate", "name")).await;
}

/// Connects openssl with a CA to a sidecar whose certificate is of an intermediate, and returns the log.
async fn of_intermediate(
    sends_issuer: bool,
    ca: Option<&Authority>,
    cause: &str,
) -> Option<String> {
    let root = Authority::new("ca");
    let (chain, key) = root.intermediate("issuing").issue_pem(&Wish::default());
    let end = "-----END CERTIFICATE-----\n";
    let leaf = chain.split_inclusive(end).next().unwrap();
    let server = root.server();
    replace(&server.files.cert, if sends_issuer { &chain } else { leaf });
    replace(&server.files.key, &key);
    let mut scene = Scene::of(root, &server, "").await;
    let ca = ca.unwrap_or(&scene.authority).ca();
    let options = ["-verify_return_error", "-servername", "localhost", "-CAfile"];
    if !scene.openssl(&[&options[..], &[ca.to_str().unwrap()]].concat()).await {
        return None;
    }
    let line = scene.line("client_tls_alert");
    has_fields(&line, &["alert=\"unknown_ca\"", &format!("likely_cause={cause:?}")]);
    assert_eq!(rejections(&scene, cause), 1);
    Some(scene.sidecar.log())
}

#[tokio::test]
async fn a_missing_ca_is_unknown_ca() {
    of_intermediate(true, Some(&Authority::new("other")), "unknown_ca").await;
}

#[tokio::test]
async fn a_missing_ca_is_named_once_another_device_accepts_the_certificate_alone() {
    let mut scene = Scene::new("").await;
    let _session = scene.device().echo(scene.address()).await.unwrap();
    let other = Authority::new("other");
    let ca = other.ca();
    let options = ["-verify_return_error", "-servername", "localhost", "-CAfile"];
    if scene.openssl(&[&options[..], &[ca.to_str().unwrap()]].concat()).await {
        has_fields(&scene.line("client_tls_alert"), &["likely_cause=\"unknown_ca\""]);
    }
}

#[tokio::test]
async fn an_intermediate_that_is_not_sent_is_named() {
    let Some(log) = of_intermediate(false, None, "issuer_not_sent").await else { return };
    assert!(log.contains("holds one certificate, and not that of its issuer"), "{log}");
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
    assert_eq!(rejections(&scene, "clock_behind"), 1);
    has_fields(&line, &["likely_cause=\"clock_behind\"", "client_time=\"1970-01-02T00:00:00Z\""]);
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
