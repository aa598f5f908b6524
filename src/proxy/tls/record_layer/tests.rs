//! The record layer against a client whose keys the test has, so that it can send invalid records.
//!
//! **Not here.** Whole devices over sockets: `tests/devices.rs`, `tests/relay.rs`.

mod alerts;
mod key_updates;
mod rebuilt_ciphers;
mod sizes;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::ready;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as Device;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedCipherSuite};

use super::*;
use crate::proxy::handshake;
use crate::proxy::handshake_memory::Share;
use crate::proxy::tls::keys::key_of;
use crate::proxy::tls::scratch::{self, HANDSHAKE_READ_BYTES};
use crate::proxy::tls::{ReceiveError, Received, TlsStream};
use crate::trust::snapshot::Snapshot;
use crate::trust::testing::{snapshot_and_client, snapshot_with};

type Ours = TlsStream<DuplexStream>;

const FINISHED: u8 = 20;

/// Returns a connected device, and the proxy's side.
async fn connected(snapshot: &Snapshot, connector: TlsConnector) -> (Device<DuplexStream>, Ours) {
    let (device, ours) = duplex(1 << 20);
    let localhost = ServerName::try_from("localhost").unwrap();
    let (device, ours) = tokio::join!(connector.connect(localhost, device), async {
        let started = handshake::read_client_hello(
            ours,
            &snapshot.listener,
            Share::default(),
            handshake::Kernel::NONE,
            None,
        )
        .await
        .unwrap();
        started.accept(snapshot, &0, None).await.0.unwrap().stream
    });
    (device.unwrap(), ours)
}

/// Returns a client configuration for one suite, with extraction of secrets.
fn connector(snapshot: &Snapshot, suite: SupportedCipherSuite) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(snapshot.policy().certificates[0].leaf.clone()).unwrap();
    let provider = CryptoProvider { cipher_suites: vec![suite], ..default_provider() };
    let version = if suite.tls13().is_some() { &TLS13 } else { &TLS12 };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    TlsConnector::from(Arc::new(config))
}

/// The client's side of a connection, record by record.
struct TestClient {
    io: DuplexStream,
    opener: Opener,
    sealer: Sealer,
}

impl TestClient {
    async fn connect(suite: SupportedCipherSuite) -> (Self, Ours) {
        Self::connect_to(&snapshot_with(|_| {}), suite).await
    }

    async fn connect_to(snapshot: &Snapshot, suite: SupportedCipherSuite) -> (Self, Ours) {
        let (mut device, mut ours) = connected(snapshot, connector(snapshot, suite)).await;
        // rustls processes the tickets, which come before it.
        assert_eq!(send(&mut ours, b"!"), Ok(()));
        assert_eq!(device.read_u8().await.unwrap(), b'!');
        let (io, connection) = device.into_inner();
        let secrets = connection.dangerous_extract_secrets().unwrap();
        let ((received, theirs), (sent, own)) = (secrets.rx, secrets.tx);
        let opener = Opener::new(suite, key_of(theirs).unwrap(), received);
        let sealer = Sealer::new(suite, key_of(own).unwrap(), sent).unwrap();
        (Self { io, opener, sealer }, ours)
    }

    async fn tls13() -> (Self, Ours) {
        Self::connect(cipher_suite::TLS13_AES_128_GCM_SHA256).await
    }

    async fn tls12() -> (Self, Ours) {
        Self::connect(cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256).await
    }

    fn seal(&mut self, kind: ContentType, plain: &[u8]) -> Vec<u8> {
        self.sealer.seal(kind, plain).unwrap()
    }

    async fn send(&mut self, kind: ContentType, plain: &[u8]) {
        let record = self.seal(kind, plain);
        self.io.write_all(&record).await.unwrap();
    }

    /// Reads the next record from the proxy.
    async fn receive(&mut self) -> (ContentType, Vec<u8>) {
        let mut record = vec![0; 5];
        self.io.read_exact(&mut record).await.unwrap();
        record.resize(5 + usize::from(u16::from_be_bytes([record[3], record[4]])), 0);
        self.io.read_exact(&mut record[5..]).await.unwrap();
        let record = next_record(&mut record, MAX_SEALED_BYTES_TLS12).unwrap().unwrap();
        let opened = self.opener.open(record).unwrap();
        (opened.kind, opened.payload.to_vec())
    }
}

/// Sends from the proxy's side.
fn send(ours: &mut Ours, plain: &[u8]) -> Result<(), String> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    scratch::with(|scratch| ours.send(&mut cx, plain, &mut scratch.sealed))
        .map_err(|error| error.to_string())
}

/// Reads once at the proxy's side.
async fn receive(ours: &mut Ours) -> Result<(Received, Vec<u8>), Error> {
    let read = poll_fn(|cx| {
        scratch::with(|scratch| {
            let received = ready!(ours.poll_receive(cx, scratch, HANDSHAKE_READ_BYTES));
            std::task::Poll::Ready((received, scratch.plain().to_vec()))
        })
    });
    match read.await {
        (Ok(received), plain) => Ok((received, plain)),
        (Err(ReceiveError::Tls(error)), _) => Err(error),
        (Err(error @ (ReceiveError::Io(_) | ReceiveError::MidRecord)), _) => panic!("{error}"),
    }
}

/// Returns the alert that the client gets for `error`.
async fn final_alert(client: &mut TestClient, ours: &mut Ours, error: &Error) -> Vec<u8> {
    ours.queue_alert(error);
    poll_fn(|cx| ours.poll_flush(cx)).await.unwrap();
    let (kind, alert) = client.receive().await;
    assert_eq!(kind, ContentType::Alert);
    alert
}

fn alert(description: AlertDescription) -> Vec<u8> {
    vec![FATAL, u8::from(description)]
}

fn some(plain: &[u8]) -> Result<(Received, Vec<u8>), Error> {
    Ok((Received::Some, plain.to_vec()))
}

#[tokio::test]
async fn every_suite_carries_bytes_both_ways() {
    let (snapshot, _) = snapshot_and_client();
    let ours = default_provider().cipher_suites;
    let ecdsa = |suite: &SupportedCipherSuite| !format!("{suite:?}").contains("_RSA_");
    let mut carried = 0;
    for suite in ours.into_iter().filter(ecdsa) {
        let (mut device, mut ours) = connected(&snapshot, connector(&snapshot, suite)).await;
        for record in 0..5_u8 {
            let plain = vec![record; 1000 * usize::from(record) + 1];
            device.write_all(&plain).await.unwrap();
            device.flush().await.unwrap();
            assert_eq!(receive(&mut ours).await, some(&plain), "{suite:?}");
            assert_eq!(send(&mut ours, &plain), Ok(()));
            let mut echo = vec![0; plain.len()];
            device.read_exact(&mut echo).await.unwrap();
            assert!(echo == plain, "{suite:?}");
        }
        carried += 1;
    }
    assert_eq!(carried, 6);
}

#[tokio::test]
async fn records_in_single_bytes_are_as_good_as_whole_ones() {
    let (mut client, mut ours) = TestClient::tls13().await;
    let records = [
        client.seal(ContentType::ApplicationData, b"one"),
        client.seal(ContentType::ApplicationData, b"two"),
    ]
    .concat();
    let mut opened = Vec::new();
    for byte in records {
        client.io.write_u8(byte).await.unwrap();
        let (received, plain) = receive(&mut ours).await.unwrap();
        assert_eq!(received, Received::Some);
        opened.extend(plain);
    }
    assert_eq!(opened, b"onetwo");
    assert_eq!(ours.partial(), 0);
}

#[tokio::test]
async fn other_messages_after_the_handshake_are_refused() {
    for (mut client, mut ours) in [TestClient::tls13().await, TestClient::tls12().await] {
        client.send(ContentType::Handshake, &[FINISHED, 0, 0, 0]).await;
        let error = receive(&mut ours).await.unwrap_err();
        assert!(matches!(error, Error::InappropriateHandshakeMessage { .. }), "{error}");
        let answer = final_alert(&mut client, &mut ours, &error).await;
        assert_eq!(answer, alert(AlertDescription::UnexpectedMessage));
    }
}

#[tokio::test]
async fn a_record_of_another_kind_inside_of_a_message_is_refused() {
    let (mut client, mut ours) = TestClient::tls13().await;
    client.send(ContentType::Handshake, &KEY_UPDATE[..2]).await;
    client.send(ContentType::ApplicationData, b"data").await;
    let error = receive(&mut ours).await.unwrap_err();
    assert_eq!(error, PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
}

#[tokio::test]
async fn a_change_cipher_spec_after_the_handshake_is_refused() {
    for (mut client, mut ours) in [TestClient::tls13().await, TestClient::tls12().await] {
        client.io.write_all(&[20, 3, 3, 0, 1, 1]).await.unwrap();
        let error = receive(&mut ours).await.unwrap_err();
        let answer = final_alert(&mut client, &mut ours, &error).await;
        assert_eq!(answer, alert(AlertDescription::UnexpectedMessage));
    }
}

#[tokio::test]
async fn a_record_that_was_changed_on_the_way_is_refused_with_bad_record_mac() {
    for (mut client, mut ours) in [TestClient::tls13().await, TestClient::tls12().await] {
        let mut record = client.seal(ContentType::ApplicationData, b"data");
        *record.last_mut().unwrap() ^= 1;
        client.io.write_all(&record).await.unwrap();
        let error = receive(&mut ours).await.unwrap_err();
        assert_eq!(error, Error::DecryptError);
        let answer = final_alert(&mut client, &mut ours, &error).await;
        assert_eq!(answer, alert(AlertDescription::BadRecordMac));
    }
}

#[tokio::test]
async fn a_record_that_is_too_long_is_refused_before_it_has_come() {
    // RFC 8446 section 5.2, RFC 5246 section 6.2.3.
    for ((mut client, mut ours), longest) in
        [(TestClient::tls13().await, 0x4100_u16), (TestClient::tls12().await, 0x4800)]
    {
        let [high, low] = longest.to_be_bytes();
        client.io.write_all(&[23, 3, 3, high, low]).await.unwrap();
        assert_eq!(receive(&mut ours).await, some(b""));
        let (mut client, mut ours) =
            if longest == 0x4100 { TestClient::tls13().await } else { TestClient::tls12().await };
        client.io.write_all(&[23, 3, 3, high, low + 1]).await.unwrap();
        let error = receive(&mut ours).await.unwrap_err();
        let answer = final_alert(&mut client, &mut ours, &error).await;
        assert_eq!(answer, alert(AlertDescription::RecordOverflow));
    }
}

#[tokio::test]
async fn more_padding_than_a_record_may_have_is_refused_with_record_overflow() {
    let (mut client, mut ours) = TestClient::tls13().await;
    // The type after the data, then zeros: RFC 8446 section 5.2. The type that the cipher appends is a zero as
    // well.
    let padded = |bytes: usize| [&[1, 23][..], &vec![0; bytes - 2]].concat();
    client.send(ContentType::from(0), &padded(MAX_PLAIN_BYTES)).await;
    assert_eq!(receive(&mut ours).await, some(&[1]));
    client.send(ContentType::from(0), &padded(MAX_PLAIN_BYTES + 1)).await;
    let error = receive(&mut ours).await.unwrap_err();
    let answer = final_alert(&mut client, &mut ours, &error).await;
    assert_eq!(answer, alert(AlertDescription::RecordOverflow));
}

#[tokio::test]
async fn a_message_of_more_than_64_kib_is_refused_at_its_header() {
    for (mut client, mut ours) in [TestClient::tls13().await, TestClient::tls12().await] {
        client.send(ContentType::Handshake, &[1, 1, 0, 0]).await;
        let error = receive(&mut ours).await.unwrap_err();
        assert_eq!(final_alert(&mut client, &mut ours, &error).await[0], FATAL);
    }
}

#[tokio::test]
async fn an_invalid_record_header_is_refused() {
    let refusals = [
        ([23, 4, 3, 0, 1], InvalidMessage::UnknownProtocolVersion.into()),
        ([25, 3, 3, 0, 1], inappropriate(ContentType::from(25))),
        ([21, 3, 3, 0, 0], InvalidMessage::InvalidEmptyPayload.into()),
        ([22, 3, 3, 0, 0], InvalidMessage::InvalidEmptyPayload.into()),
    ];
    for (header, error) in refusals {
        let (mut client, mut ours) = TestClient::tls13().await;
        client.io.write_all(&header).await.unwrap();
        assert_eq!(receive(&mut ours).await, Err(error));
    }
}

#[tokio::test]
async fn thirty_two_empty_records_in_a_row_are_allowed() {
    let (mut client, mut ours) = TestClient::tls13().await;
    for round in 0..2 {
        for _ in 0..32 {
            client.send(ContentType::ApplicationData, b"").await;
        }
        assert_eq!(receive(&mut ours).await, some(b""), "{round}");
        client.send(ContentType::ApplicationData, b"data").await;
        assert_eq!(receive(&mut ours).await, some(b"data"));
    }
    for _ in 0..33 {
        client.send(ContentType::ApplicationData, b"").await;
    }
    let error = receive(&mut ours).await.unwrap_err();
    assert_eq!(error, PeerMisbehaved::TooManyEmptyFragments.into());
}

#[tokio::test]
async fn a_record_that_another_connection_left_in_the_buffers_is_not_sent() {
    let (mut client, mut ours) = TestClient::tls13().await;
    scratch::with(|scratch| scratch.sealed.push(vec![23, 3, 3, 0, 1, 0]));
    assert_eq!(send(&mut ours, b"data"), Ok(()));
    assert_eq!(client.receive().await, (ContentType::ApplicationData, b"data".to_vec()));
}

#[tokio::test]
async fn more_plaintext_than_a_record_may_have_is_refused_with_record_overflow() {
    for (mut client, mut ours) in [TestClient::tls13().await, TestClient::tls12().await] {
        client.send(ContentType::ApplicationData, &[0; MAX_PLAIN_BYTES]).await;
        assert_eq!(receive(&mut ours).await, some(&[0; MAX_PLAIN_BYTES]));
        client.send(ContentType::ApplicationData, &[0; MAX_PLAIN_BYTES + 1]).await;
        let error = receive(&mut ours).await.unwrap_err();
        assert_eq!(error, Error::PeerSentOversizedRecord);
        let answer = final_alert(&mut client, &mut ours, &error).await;
        assert_eq!(answer, alert(AlertDescription::RecordOverflow));
    }
}

#[tokio::test]
async fn a_sealed_record_with_its_type_outside_is_refused_in_tls_1_3() {
    for kind in [ContentType::Alert, ContentType::Handshake] {
        let (mut client, mut ours) = TestClient::tls13().await;
        let mut record = client.seal(ContentType::ApplicationData, b"data");
        record[0] = u8::from(kind);
        client.io.write_all(&record).await.unwrap();
        let error = receive(&mut ours).await.unwrap_err();
        assert_eq!(error, inappropriate(kind));
        let answer = final_alert(&mut client, &mut ours, &error).await;
        assert_eq!(answer, alert(AlertDescription::UnexpectedMessage));
    }
}

#[tokio::test]
async fn empty_messages_and_alerts_are_refused() {
    for kind in [ContentType::Alert, ContentType::Handshake] {
        for (mut client, mut ours) in [TestClient::tls13().await, TestClient::tls12().await] {
            client.send(kind, b"").await;
            let error = receive(&mut ours).await.unwrap_err();
            assert_eq!(error, inappropriate(kind));
            let answer = final_alert(&mut client, &mut ours, &error).await;
            assert_eq!(answer, alert(AlertDescription::UnexpectedMessage));
        }
    }
}
