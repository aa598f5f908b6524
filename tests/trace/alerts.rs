//! Alerts in a trace: each one that tlsidecar sends, at every place that sends one, and those of devices.

use serde_json::Value;
use tlsidecar::config::{BackendAddress, BackendList, ClientAuth, Config, ConnectTime, TlsVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Trace, follow, kinds};
use crate::support::Fleet;
use crate::support::backend::nobody;
use crate::support::raw::{alert, answer_to, client_hello, extended_hello, old_hello, vector16};
use crate::support::wait::within;

async fn fleet(set: fn(&mut Config)) -> Fleet {
    Fleet::new(ClientAuth::Optional, |config, _| set(config)).await
}

/// Returns the alerts of these steps, each with its sender.
fn alerts(steps: &[Value]) -> Vec<(&str, &str)> {
    let alerts = steps.iter().filter(|step| step["step"] == "alert");
    alerts.map(|step| (step["sender"].as_str().unwrap(), step["alert"].as_str().unwrap())).collect()
}

fn unreachable() -> BackendList {
    nobody().to_string().parse::<BackendAddress>().unwrap().into()
}

async fn by_address(fleet: &Fleet) -> Trace {
    follow(fleet, "peer=127.0.0.1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_client_hello_have_the_alert_that_was_sent() {
    let fleet = fleet(|_| ()).await;
    let mut trace = by_address(&fleet).await;
    let mut malformed = client_hello();
    malformed[43] = 200;
    for (count, (bytes, sent, name)) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], 10, "unexpected_message"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", 10, "unexpected_message"),
        (&[22, 3, 1, 0x7f, 0xff], 22, "record_overflow"),
        (&malformed, 50, "decode_error"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(answer_to(fleet.proxy.address, bytes).await, alert(sent));
        let steps = trace.until_closed(count + 1).await;
        assert_eq!(alerts(&steps).len(), count + 1, "{steps:?}");
        assert_eq!(alerts(&steps)[count], ("tlsidecar", name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_hello_of_a_known_device_is_found_by_its_address_with_its_alert() {
    let fleet = fleet(|_| ()).await;
    let mut trace = follow(&fleet, "identity=pump-7").await;
    super::visit(&fleet, &fleet.device("pump-7")).await;
    answer_to(fleet.proxy.address, b"GET / HTTP/1.1\r\n\r\n").await;
    let steps = trace.until_closed(2).await;
    let last: Vec<_> = steps.into_iter().filter(|step| step["matched"] == "address").collect();
    assert_eq!(kinds(&last), ["accepted", "alert", "closed"]);
    assert_eq!(alerts(&last), [("tlsidecar", "unexpected_message")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_is_not_accepted_has_the_alert_that_was_sent() {
    let fleet = fleet(|config| config.listeners[0].tls.min_version = TlsVersion::Tls13).await;
    let mut trace = by_address(&fleet).await;
    let hello = old_hello([3, 3], &[[0xc0, 0x2b]]);
    assert_eq!(answer_to(fleet.proxy.address, &hello).await, alert(70));
    trace.until_closed(1).await;
    let no_suite = extended_hello(
        [3, 3],
        &[[0x13, 0x7f]],
        &[(10, &[0, 2, 0, 29]), (13, &[0, 2, 4, 3]), (43, &[2, 3, 4]), (51, &[0, 0])],
    );
    assert_eq!(answer_to(fleet.proxy.address, &no_suite).await, alert(40));
    let steps = trace.until_closed(2).await;
    let expected = [("tlsidecar", "protocol_version"), ("tlsidecar", "handshake_failure")];
    assert_eq!(alerts(&steps), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_second_client_hello_has_the_alert_that_was_sent() {
    let fleet = fleet(|_| ()).await;
    let mut trace = by_address(&fleet).await;
    let mut tcp = TcpStream::connect(fleet.proxy.address).await.unwrap();
    let (groups, schemes) = (vector16(&[0, 29, 0, 23]), vector16(&[4, 3]));
    let empty = vector16(&[]);
    let extensions = [(10, &groups[..]), (13, &schemes), (43, &[2, 3, 4]), (51, &empty)];
    tcp.write_all(&extended_hello([3, 3], &[[0x13, 1]], &extensions)).await.unwrap();
    let read = within("the request", tcp.read(&mut [0; 1 << 12])).await.unwrap();
    assert!(read > 0);
    tcp.write_all(b"\x17\x03\x03\x00\x01!").await.unwrap();
    let mut answer = Vec::new();
    within("it is closed", tcp.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.ends_with(&alert(10)), "{answer:?}");
    let steps = trace.until_closed(1).await;
    assert_eq!(alerts(&steps), [("tlsidecar", "unexpected_message")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_cannot_be_served_before_its_handshake_has_the_alert_that_was_sent() {
    let fleet = fleet(|config| {
        config.listeners[0].backend = Some(unreachable());
        config.listeners[0].balance.connect = ConnectTime::BeforeHandshake;
    })
    .await;
    let mut trace = by_address(&fleet).await;
    assert_eq!(answer_to(fleet.proxy.address, &client_hello()).await, alert(80));
    let steps = trace.until_closed(1).await;
    assert_eq!(kinds(&steps), ["accepted", "hello", "backend", "alert", "closed"]);
    assert_eq!(alerts(&steps), [("tlsidecar", "internal_error")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_cannot_be_served_after_its_handshake_has_the_alert_that_was_sent() {
    let fleet = fleet(|config| config.listeners[0].backend = Some(unreachable())).await;
    let mut trace = by_address(&fleet).await;
    let mut session = fleet.device("pump-7").connect(fleet.proxy.address).await.unwrap();
    let ended = within("its end", session.read(&mut [0; 1])).await;
    assert_eq!(ended.unwrap(), 0);
    drop(session);
    let steps = trace.until_closed(1).await;
    assert_eq!(alerts(&steps), [("tlsidecar", "close_notify")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_session_has_the_alerts_of_both_sides_in_their_order() {
    let fleet = fleet(|_| ()).await;
    let mut trace = by_address(&fleet).await;
    super::visit(&fleet, &fleet.device("pump-7")).await;
    let steps = trace.until_closed(1).await;
    assert_eq!(alerts(&steps), [("device", "close_notify"), ("tlsidecar", "close_notify")]);
    let mut session = fleet.device("pump-7").echo(fleet.proxy.address).await.unwrap();
    fleet.proxy.app.shutdown.force();
    assert_eq!(within("its end", session.read(&mut [0; 1])).await.unwrap(), 0);
    drop(session);
    let steps = trace.until_closed(2).await;
    assert_eq!(alerts(&steps)[2..], [("tlsidecar", "close_notify")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_record_of_a_session_has_the_alert_that_was_sent() {
    let fleet = fleet(|_| ()).await;
    let mut trace = by_address(&fleet).await;
    let session = fleet.device("pump-7").echo(fleet.proxy.address).await.unwrap();
    let mut tcp = session.into_inner().0;
    tcp.write_all(&[&[23, 3, 3, 0, 32][..], &[7; 32]].concat()).await.unwrap();
    let mut rest = Vec::new();
    within("its end", tcp.read_to_end(&mut rest)).await.unwrap();
    drop(tcp);
    let steps = trace.until_closed(1).await;
    assert_eq!(alerts(&steps), [("tlsidecar", "bad_record_mac")]);
}
