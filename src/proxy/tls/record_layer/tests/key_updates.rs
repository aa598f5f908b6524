//! Key updates of the client and of the proxy.
//!
//! **Not here.** Keys of TLS 1.2 that are used up (`relay/tests/faults.rs`).

use tokio_rustls::rustls::{CipherSuiteCommon, ServerConfig, Tls13CipherSuite};

use super::*;

#[tokio::test]
async fn a_client_of_any_suite_may_renew_its_key() {
    for suite in [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ] {
        renew_keys(suite).await;
    }
}

async fn renew_keys(suite: SupportedCipherSuite) {
    let (snapshot, _) = snapshot_and_client();
    let (mut device, mut ours) = connected(&snapshot, connector(&snapshot, suite)).await;
    for round in 0..3_u8 {
        device.get_mut().1.refresh_traffic_keys().unwrap();
        device.write_all(&[round]).await.unwrap();
        device.flush().await.unwrap();
        let mut opened = Vec::new();
        while opened.is_empty() {
            opened = receive(&mut ours).await.unwrap().1;
        }
        assert_eq!(opened, [round]);
        // The device has requested an update of the proxy's key.
        assert_eq!(send(&mut ours, &[round]), Ok(()));
        assert_eq!(device.read_u8().await.unwrap(), round);
    }
}

#[tokio::test]
async fn key_updates_are_answered_once_and_before_the_next_data() {
    let (mut client, mut ours) = TestClient::tls13().await;
    client.send(ContentType::Handshake, &[24, 0, 0, 1, 1]).await;
    assert_eq!(receive(&mut ours).await, some(b""));
    assert_eq!(ours.queued(), 0);
    assert_eq!(send(&mut ours, b"data"), Ok(()));
    assert_eq!(client.receive().await, (ContentType::Handshake, KEY_UPDATE.to_vec()));
}

#[tokio::test]
async fn a_key_update_may_be_split_over_records() {
    let (mut client, mut ours) = TestClient::tls13().await;
    for part in [&KEY_UPDATE[..1], &KEY_UPDATE[1..3], &KEY_UPDATE[3..4], &KEY_UPDATE[4..]] {
        client.send(ContentType::Handshake, part).await;
        assert_eq!(receive(&mut ours).await, some(b""));
    }
    // Records under the old key are refused.
    client.send(ContentType::ApplicationData, b"late").await;
    assert_eq!(receive(&mut ours).await, Err(Error::DecryptError));
}

#[tokio::test]
async fn bytes_after_a_key_update_in_its_record_are_refused() {
    let (mut client, mut ours) = TestClient::tls13().await;
    client.send(ContentType::Handshake, &[24, 0, 0, 1, 0, 24]).await;
    let error = receive(&mut ours).await.unwrap_err();
    assert_eq!(error, PeerMisbehaved::KeyEpochWithPendingFragment.into());
    let answer = final_alert(&mut client, &mut ours, &error).await;
    assert_eq!(answer, alert(AlertDescription::UnexpectedMessage));
}

#[tokio::test]
async fn a_key_update_that_asks_for_something_unknown_is_refused() {
    let (mut client, mut ours) = TestClient::tls13().await;
    client.send(ContentType::Handshake, &[24, 0, 0, 1, 2]).await;
    let error = receive(&mut ours).await.unwrap_err();
    assert_eq!(error, InvalidMessage::InvalidKeyUpdate.into());
    let answer = final_alert(&mut client, &mut ours, &error).await;
    assert_eq!(answer, alert(AlertDescription::IllegalParameter));
}

#[tokio::test]
async fn a_key_update_of_another_length_is_refused() {
    let (mut client, mut ours) = TestClient::tls13().await;
    client.send(ContentType::Handshake, &[24, 0, 0, 2, 0, 0]).await;
    let error = receive(&mut ours).await.unwrap_err();
    let answer = final_alert(&mut client, &mut ours, &error).await;
    assert_eq!(answer, alert(AlertDescription::DecodeError));
}

#[tokio::test(start_paused = true)]
async fn key_updates_of_a_device_that_only_listens_are_answered_for_weeks() {
    let (_client, mut ours) = TestClient::tls13().await;
    let session = ours.record_layer_mut();
    // More often than any device updates its keys.
    for _ in 0..10_000 {
        tokio::time::advance(std::time::Duration::from_millis(50)).await;
        assert_eq!(session.process_key_update(1, &[]), Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_key_updates_ends_the_session_also_after_weeks() {
    let (_client, mut ours) = TestClient::tls13().await;
    let session = ours.record_layer_mut();
    for _ in 0..3 {
        tokio::time::advance(std::time::Duration::from_secs(14 * 24 * 3600)).await;
        assert_eq!(session.process_key_update(1, &[]), Ok(()));
    }
    tokio::time::advance(std::time::Duration::from_secs(2)).await;
    let allowed = (0..100).take_while(|_| session.process_key_update(1, &[]).is_ok()).count();
    assert_eq!(allowed, 32);
}

#[tokio::test(start_paused = true)]
async fn thirty_two_key_updates_without_data_are_allowed() {
    let (_client, mut ours) = TestClient::tls13().await;
    let session = ours.record_layer_mut();
    for _ in 0..32 {
        assert_eq!(session.process_key_update(0, &[]), Ok(()));
    }
    let used_up = PeerMisbehaved::TooManyKeyUpdateRequests.into();
    assert_eq!(session.process_key_update(0, &[]), Err(used_up));
}

#[tokio::test]
async fn tls_1_3_renews_a_key_that_may_seal_no_more() {
    let (mut snapshot, connector) = snapshot_and_client();
    let SupportedCipherSuite::Tls13(suite) = cipher_suite::TLS13_AES_128_GCM_SHA256 else {
        panic!("a suite of TLS 1.3");
    };
    let common = CipherSuiteCommon {
        suite: suite.common.suite,
        hash_provider: suite.common.hash_provider,
        confidentiality_limit: 4,
    };
    let short_lived: &Tls13CipherSuite =
        Box::leak(Box::new(Tls13CipherSuite { common, quic: None, ..*suite }));
    let suites = vec![SupportedCipherSuite::Tls13(short_lived)];
    let provider = CryptoProvider { cipher_suites: suites, ..default_provider() };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(
            &snapshot.policy().server_configs.server_order.cert_resolver,
        ));
    config.enable_secret_extraction = true;
    config.key_log = Arc::clone(&snapshot.policy().server_configs.server_order.key_log);
    snapshot.policies[0].server_configs.server_order = Arc::new(config);
    snapshot.policies[0].server_configs.client_order =
        Arc::clone(&snapshot.policy().server_configs.server_order);
    let (mut device, mut ours) = connected(&snapshot, connector).await;
    for record in 0..20 {
        assert_eq!(send(&mut ours, &[record]), Ok(()));
        assert_eq!(device.read_u8().await.unwrap(), record);
        assert!(ours.record_layer_mut().sealer.used() <= 4);
    }
}

#[tokio::test]
async fn two_key_updates_have_one_answer() {
    let (_client, mut ours) = TestClient::tls13().await;
    let session = ours.record_layer_mut();
    for _ in 0..2 {
        assert_eq!(session.process_key_update(1, &[]), Ok(()));
    }
    for expected in [2, 1] {
        let mut records = Vec::new();
        session.seal(b"data", &mut records).unwrap();
        assert_eq!(records.len(), expected);
    }
}

/// Lets the record layer process a record, as if it had been opened.
fn process(session: &mut RecordLayer, kind: ContentType, payload: &[u8]) -> Result<(), Error> {
    let record = OpenedRecord { kind, payload };
    session.process(&record, &mut Vec::new(), None)
}

#[tokio::test(start_paused = true)]
async fn data_gives_new_patience_for_key_updates_but_empty_records_do_not() {
    let (_client, mut ours) = TestClient::tls13().await;
    let session = ours.record_layer_mut();
    for _ in 0..2 {
        for _ in 0..32 {
            assert_eq!(process(session, ContentType::Handshake, &KEY_UPDATE), Ok(()));
            assert_eq!(process(session, ContentType::ApplicationData, b""), Ok(()));
        }
        assert_eq!(process(session, ContentType::ApplicationData, b"data"), Ok(()));
    }
    for _ in 0..32 {
        assert_eq!(process(session, ContentType::Handshake, &KEY_UPDATE), Ok(()));
        assert_eq!(process(session, ContentType::ApplicationData, b""), Ok(()));
    }
    let used_up = PeerMisbehaved::TooManyKeyUpdateRequests.into();
    assert_eq!(process(session, ContentType::Handshake, &KEY_UPDATE), Err(used_up));
}

#[tokio::test]
async fn a_key_update_that_asks_for_nothing_is_not_answered() {
    let (mut client, mut ours) = TestClient::tls13().await;
    client.send(ContentType::Handshake, &KEY_UPDATE).await;
    assert_eq!(receive(&mut ours).await, some(b""));
    assert_eq!(send(&mut ours, b"data"), Ok(()));
    assert_eq!(client.receive().await, (ContentType::ApplicationData, b"data".to_vec()));
}
