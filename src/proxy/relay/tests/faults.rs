//! TLS sessions that fail: forged records, exhausted keys, devices that have closed.
//!
//! **Not here.** Handshakes that fail: `tests/wire.rs`.

use super::*;

#[tokio::test]
async fn a_forged_record_ends_the_connection_with_an_alert_and_resets_the_backend() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    let forged = [&[23, 3, 3, 0, 40][..], &[0; 40]].concat();
    line.device.get_mut().0.write_all(&forged).await.unwrap();
    let error = line.device.read(&mut [0; 1]).await.unwrap_err();
    // bad_record_mac, RFC 8446 section 5.2.
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    drop(line.device.get_mut().0.shutdown().await);
    assert_eq!(line.ended_with().await, (Some(Reason::ClientTlsError), Some(Side::Backend)));
}

#[tokio::test]
async fn bytes_before_a_forged_record_in_the_same_segment_are_delivered() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    line.device.write_all(b"report").await.unwrap();
    let forged = [&[23, 3, 3, 0, 40][..], &[0; 40]].concat();
    line.device.get_mut().0.write_all(&forged).await.unwrap();
    // The session is over, so this must not be sealed.
    line.backend.write_all(b"answer").await.unwrap();
    let error = line.device.read(&mut [0; 1]).await.unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    drop(line.device.get_mut().0.shutdown().await);
    assert_eq!(read_all(&mut line.backend).await, b"report");
    assert_eq!(line.ended_with().await, (Some(Reason::ClientTlsError), Some(Side::Backend)));
}

#[tokio::test]
async fn a_session_that_is_over_seals_nothing_while_its_last_bytes_wait_for_the_backend() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    line.device.write_all(&[1; 900]).await.unwrap();
    line.backend.read_exact(&mut [0; 1]).await.unwrap();
    line.device.write_all(&[2; 600]).await.unwrap();
    let forged = [&[23, 3, 3, 0, 40][..], &[0; 40]].concat();
    line.device.get_mut().0.write_all(&forged).await.unwrap();
    line.backend.write_all(b"answer").await.unwrap();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    drop(line.device);
    assert_eq!(read_all(&mut line.backend).await.len(), 1499);
    let ended = line.ended.await.unwrap();
    assert_eq!(ended.result.unwrap_err().reason(), Reason::ClientTlsError);
}

#[tokio::test]
async fn a_session_that_is_over_stays_so_if_its_client_resets() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    // Neither the backend nor the device takes all bytes.
    line.device.write_all(&[1; 900]).await.unwrap();
    line.backend.read_exact(&mut [0; 1]).await.unwrap();
    line.backend.write_all(&[3; 2000]).await.unwrap();
    line.device.write_all(&[2; 600]).await.unwrap();
    let forged = [&[23, 3, 3, 0, 40][..], &[0; 40]].concat();
    line.device.get_mut().0.write_all(&forged).await.unwrap();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    *line.device_is.lock().unwrap() = PeerState::Reset;
    // This read makes room for the write that fails.
    line.device.get_mut().0.read_exact(&mut [0; 512]).await.unwrap();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(read_all(&mut line.backend).await.len(), 1499);
    assert_eq!(line.ended_with().await, (Some(Reason::ClientTlsError), Some(Side::Backend)));
}

#[tokio::test]
async fn the_report_of_a_device_that_closes_before_it_has_read_its_tickets_is_delivered() {
    // The pipe is so small that the relay has not begun: the Finished is in the pipe.
    let mut line = Line::new(512, UNBOUNDED).await;
    line.device.write_all(b"report").await.unwrap();
    line.device.shutdown().await.unwrap();
    *line.device_is.lock().unwrap() = PeerState::Reset;
    assert_eq!(read_all(&mut line.backend).await, b"report");
    assert_eq!(line.ended_with().await, (Some(Reason::ClientReset), None));
}

#[tokio::test]
async fn the_reset_of_a_device_before_it_has_read_its_tickets_is_passed_on() {
    let mut line = Line::new(512, UNBOUNDED).await;
    line.device.write_all(b"half a re").await.unwrap();
    *line.device_is.lock().unwrap() = PeerState::Reset;
    assert_eq!(read_all(&mut line.backend).await, b"half a re");
    assert_eq!(line.ended_with().await, (Some(Reason::ClientReset), Some(Side::Backend)));
}

#[tokio::test]
async fn a_record_that_is_too_long_is_not_buffered() {
    let mut line = Line::new(1 << 20, UNBOUNDED).await;
    // The header announces more than the longest record (RFC 8446 section 5.2: 2^14 + 256).
    line.device.get_mut().0.write_all(&[23, 3, 3, 0x7f, 0xff]).await.unwrap();
    line.device.get_mut().0.write_all(&[0; 40_000]).await.unwrap();
    drop(line.device.get_mut().0.shutdown().await);
    assert_eq!(line.ended_with().await, (Some(Reason::ClientTlsError), Some(Side::Backend)));
}

#[tokio::test]
async fn an_end_of_tcp_in_the_middle_of_a_record_resets_the_backend() {
    for half in [&[23][..], &[23, 3, 3], &[23, 3, 3, 0, 40], &[23, 3, 3, 0, 40, 1, 2]] {
        let mut line = Line::new(1024, UNBOUNDED).await;
        line.device.write_all(b"whole").await.unwrap();
        let tcp = &mut line.device.get_mut().0;
        tcp.write_all(half).await.unwrap();
        tcp.shutdown().await.unwrap();
        // The complete record before it is delivered.
        assert_eq!(read_all(&mut line.backend).await, b"whole");
        let expected = (Some(Reason::ClientRecordTruncated), Some(Side::Backend));
        assert_eq!(line.ended_with().await, expected, "{half:?}");
    }
}

#[tokio::test]
async fn an_end_of_tcp_in_the_middle_of_a_record_resets_the_backend_also_after_its_own_end() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    line.backend.shutdown().await.unwrap();
    assert_eq!(line.device.read(&mut [0; 1]).await.unwrap(), 0);
    let tcp = &mut line.device.get_mut().0;
    tcp.write_all(&[23, 3, 3, 0]).await.unwrap();
    tcp.shutdown().await.unwrap();
    let expected = (Some(Reason::ClientRecordTruncated), Some(Side::Backend));
    assert_eq!(line.ended_with().await, expected);
}

#[tokio::test]
async fn an_end_of_tcp_between_two_records_is_passed_on_as_an_end() {
    let mut line = Line::new(1024, UNBOUNDED).await;
    line.device.write_all(b"whole").await.unwrap();
    line.device.get_mut().0.shutdown().await.unwrap();
    assert_eq!(read_all(&mut line.backend).await, b"whole");
    line.backend.shutdown().await.unwrap();
    assert_eq!(line.ended_with().await, (Some(Reason::ClientTruncated), None));
}

/// Returns a server's configuration whose TLS 1.2 keys may seal this number of records.
fn short_lived_keys(config: &ServerConfig, records: u64) -> ServerConfig {
    let SupportedCipherSuite::Tls12(suite) = TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 else {
        panic!("a suite of TLS 1.2");
    };
    let common = CipherSuiteCommon {
        suite: suite.common.suite,
        hash_provider: suite.common.hash_provider,
        confidentiality_limit: records,
    };
    let short_lived = Tls12CipherSuite { common, ..*suite };
    let suites = vec![SupportedCipherSuite::Tls12(Box::leak(Box::new(short_lived)))];
    let provider = CryptoProvider { cipher_suites: suites, ..default_provider() };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&config.cert_resolver));
    config.enable_secret_extraction = true;
    config
}

#[tokio::test]
async fn an_exhausted_key_ends_the_connection_without_a_close_notify() {
    let (mut snapshot, connector) = snapshot_and_client();
    // The real limit, 2^24, would take minutes.
    let short_lived = Arc::new(short_lived_keys(&snapshot.policy().server_configs.server_order, 4));
    snapshot.policies[0].server_configs.server_order = Arc::clone(&short_lived);
    snapshot.policies[0].server_configs.client_order = short_lived;
    let mut line = Line::between((snapshot, connector), 4096, UNBOUNDED).await;
    // The first record was our Finished.
    for record in 1..4 {
        line.backend.write_u8(record).await.unwrap();
        assert_eq!(line.device.read_u8().await.unwrap(), record);
    }
    line.backend.write_u8(4).await.unwrap();
    // Bytes are missing, so there is no close_notify: rustls reports an error.
    assert!(line.device.read(&mut [0; 1]).await.is_err());
    assert_eq!(counted(&line.metrics, Direction::ToClient), 3);
    assert_eq!(line.ended_with().await, (Some(Reason::KeysExhausted), Some(Side::Client)));
}
