//! The device has no route, or does not speak TLS, and the counters and the log say which.

use std::process::Command;

use super::before;
use crate::support::access_log::{has_fields, line};
use crate::support::certs::Wish;
use crate::support::command::{has, run};
use crate::support::{Authority, Backend, Sidecar, eventually, file};

/// Starts a sidecar with one route, for `a.example` and `*.plant.example`, and no backend for other names.
async fn routed() -> (Authority, Backend, Sidecar) {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let wish = Wish { names: &["a.example", "c.example"], ..Wish::default() };
    let own = format!("backend = \"{}\"\n", backend.address);
    let route = format!("[[listener.route]]\nsni = [\"a.example\", \"*.plant.example\"]\n{own}");
    let text = file::text(backend.address, &authority.issue("server", &wish), &route);
    let sidecar = Sidecar::start(authority.dir(), &text.replacen(&own, "", 1));
    (authority, backend, sidecar)
}

/// Connects with openssl and these options, without a route, and returns the log line.
async fn without_route(options: &[&str], what: &str) -> Option<String> {
    let (_authority, backend, mut sidecar) = routed().await;
    if !has("openssl") {
        return None;
    }
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &sidecar.address.to_string()]).args(options);
    run(openssl).await;
    let line = line(&mut sidecar, "no_route");
    let series = format!("tlsidecar_no_route_total{{listener=\"test\",what=\"{what}\"}}");
    assert_eq!((sidecar.count(&series), backend.connections()), (1, 0));
    Some(line)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_a_server_name_has_no_route_for_that_cause() {
    let Some(line) = without_route(&["-noservername"], "no_sni").await else { return };
    has_fields(&line, &["what=\"no_sni\"", "error="]);
    assert!(!line.contains(" sni="), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_an_unknown_server_name_has_no_route_and_its_name_is_in_the_log() {
    let options = ["-servername", "c.example"];
    let Some(line) = without_route(&options, "unknown_name").await else { return };
    has_fields(&line, &["what=\"unknown_name\"", "sni=\"c.example\""]);
}

/// Runs a client that does not use TLS, and asserts the protocol that it looks like.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_name_that_is_no_dns_name_has_no_route_like_a_missing_one() {
    let options = ["-servername", "a b.plant.example"];
    let Some(line) = without_route(&options, "no_sni").await else { return };
    has_fields(&line, &["what=\"no_sni\"", "sni=\"a b.plant.example\""]);
}

async fn without_tls(client: &str, arguments: impl Fn(&str, &str) -> Vec<String>, looks: &str) {
    let backend = Backend::echo().await;
    let (_device, mut sidecar) = before(backend.address, "");
    if !has(client) {
        return;
    }
    let (host, port) = ("127.0.0.1", sidecar.address.port().to_string());
    let mut command = Command::new(client);
    command.args(arguments(host, &port));
    let (connected, output) = run(command).await;
    assert!(!connected, "{output}");
    has_fields(&line(&mut sidecar, "client_tls_not_tls"), &[&format!("looks_like={looks:?}")]);
    let series = format!("tlsidecar_not_tls_total{{listener=\"test\",looks_like={looks:?}}}");
    let text = || sidecar.ask("GET", "/metrics").unwrap().1;
    eventually(&series, || text().contains(&format!("{series} "))).await;
    let text = text();
    let help = text.lines().find(|line| line.starts_with("# HELP tlsidecar_not_tls_total "));
    assert!(help.unwrap().contains("proxy_header_unexpected"), "{help:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_without_tls_looks_like_http() {
    let arguments = |host: &str, port: &str| {
        vec!["--silent".to_owned(), "--show-error".to_owned(), format!("http://{host}:{port}/")]
    };
    without_tls("curl", arguments, "http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_publishes_without_tls_looks_like_mqtt() {
    let arguments = |host: &str, port: &str| {
        ["-h", host, "-p", port, "-t", "a", "-m", "b"].map(str::to_owned).to_vec()
    };
    without_tls("mosquitto_pub", arguments, "mqtt").await;
}
