//! Ciphers that are dropped and rebuilt.
//!
//! **Not here.** The time after which they are dropped (`relay/tests/idle_ciphers.rs`).

use super::*;

const SUITES: [SupportedCipherSuite; 6] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// Sends a byte in both directions, which the device reads and writes as any TLS stack does.
async fn exchange(device: &mut Device<DuplexStream>, ours: &mut Ours, byte: u8) {
    device.write_all(&[byte]).await.unwrap();
    device.flush().await.unwrap();
    let mut opened = Vec::new();
    while opened.is_empty() {
        opened = receive(ours).await.unwrap().1;
    }
    assert_eq!(opened, [byte]);
    assert_eq!(send(ours, &[byte]), Ok(()));
    assert_eq!(device.read_u8().await.unwrap(), byte);
}

#[tokio::test]
async fn ciphers_of_every_suite_are_rebuilt() {
    let (snapshot, _) = snapshot_and_client();
    for suite in SUITES {
        let (mut device, mut ours) = connected(&snapshot, connector(&snapshot, suite)).await;
        for round in 0..4 {
            exchange(&mut device, &mut ours, round).await;
            assert!(ours.has_cipher());
            ours.drop_ciphers();
            assert!(!ours.has_cipher());
        }
    }
}

#[tokio::test]
async fn ciphers_are_rebuilt_with_renewed_keys() {
    let (snapshot, _) = snapshot_and_client();
    for suite in &SUITES[..3] {
        let (mut device, mut ours) = connected(&snapshot, connector(&snapshot, *suite)).await;
        for round in 0..4 {
            // The device's update comes while there is no cipher, and requests one of the proxy.
            ours.drop_ciphers();
            device.get_mut().1.refresh_traffic_keys().unwrap();
            exchange(&mut device, &mut ours, round).await;
            ours.drop_ciphers();
            exchange(&mut device, &mut ours, round).await;
        }
    }
}

#[tokio::test]
async fn a_rebuilt_cipher_refuses_a_record_that_was_opened_before() {
    let (mut client, mut ours) = TestClient::tls13().await;
    let record = client.seal(ContentType::ApplicationData, b"once");
    client.io.write_all(&record).await.unwrap();
    assert_eq!(receive(&mut ours).await, some(b"once"));
    ours.drop_ciphers();
    client.io.write_all(&record).await.unwrap();
    assert_eq!(receive(&mut ours).await, Err(Error::DecryptError));
}

#[tokio::test]
async fn a_session_without_ciphers_ends_with_an_alert_that_the_client_can_open() {
    for (mut client, mut ours) in [TestClient::tls13().await, TestClient::tls12().await] {
        ours.drop_ciphers();
        ours.queue_close_notify();
        poll_fn(|cx| ours.poll_flush(cx)).await.unwrap();
        assert_eq!(client.receive().await, (ContentType::Alert, vec![WARNING, 0]));
    }
}

#[tokio::test]
async fn a_record_that_arrives_in_parts_around_the_drop_is_opened() {
    for (mut client, mut ours) in [TestClient::tls13().await, TestClient::tls12().await] {
        let record = client.seal(ContentType::ApplicationData, b"in two parts");
        let (first, second) = record.split_at(9);
        client.io.write_all(first).await.unwrap();
        assert_eq!(receive(&mut ours).await, some(b""));
        ours.drop_ciphers();
        client.io.write_all(second).await.unwrap();
        assert_eq!(receive(&mut ours).await, some(b"in two parts"));
    }
}
