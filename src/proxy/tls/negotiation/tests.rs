//! Handshakes with a client that chooses which bytes leave together.
//!
//! **Not here.** Handshakes that are refused, over sockets: `tests/wire.rs`.

use std::io::{Read, Write};
use std::task::{Context, Waker};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    AlertDescription, ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion,
    RootCertStore, ServerConnection, SupportedProtocolVersion,
};

use super::*;
use crate::proxy::handshake::{self, EstablishedClient, FailedHandshake, HandshakeError};
use crate::proxy::handshake_memory::Share;
use crate::proxy::tls::{ReceiveError, Received};
use crate::trust::provider::FlightSizes;
use crate::trust::snapshot::Snapshot;
use crate::trust::testing::snapshot_and_client;

type Accepted = Result<EstablishedClient<DuplexStream>, Box<FailedHandshake>>;

/// Starts the proxy's side of a handshake in its own task.
fn accepting(snapshot: Arc<Snapshot>) -> (DuplexStream, tokio::task::JoinHandle<Accepted>) {
    let (device, ours) = duplex(1 << 20);
    let accepted = tokio::spawn(async move {
        let started = handshake::read_client_hello(
            ours,
            &snapshot.listener,
            Share::default(),
            handshake::Kernel::NONE,
            None,
        )
        .await?;
        started.accept(&snapshot, &0, None).await.0
    });
    (device, accepted)
}

fn config(snapshot: &Snapshot, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(snapshot.policy().certificates[0].leaf.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// A client whose bytes are moved by the test.
struct Device {
    tls: ClientConnection,
    io: DuplexStream,
}

impl Device {
    fn new(config: &Arc<ClientConfig>, io: DuplexStream) -> Self {
        let localhost = "localhost".try_into().unwrap();
        Self { tls: ClientConnection::new(Arc::clone(config), localhost).unwrap(), io }
    }

    /// Returns the bytes that the client has to send.
    fn outgoing(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    async fn send(&mut self) {
        let bytes = self.outgoing();
        self.io.write_all(&bytes).await.unwrap();
    }

    async fn receive(&mut self) {
        let mut bytes = vec![0; 1 << 16];
        let read = self.io.read(&mut bytes).await.unwrap();
        self.tls.read_tls(&mut &bytes[..read]).unwrap();
        self.tls.process_new_packets().unwrap();
    }

    /// Continues until the Finished is the next message to leave, or has left.
    async fn until_finished(&mut self) {
        self.send().await;
        while self.tls.is_handshaking() {
            self.receive().await;
            if self.tls.is_handshaking() {
                self.send().await;
            }
        }
    }
}

/// Returns a device whose next message is its Finished, and the proxy's side. In TLS 1.2 that requires a resumed
/// session.
async fn before_finished(
    version: &'static SupportedProtocolVersion,
) -> (Device, tokio::task::JoinHandle<Accepted>) {
    let (snapshot, _) = snapshot_and_client();
    let snapshot = Arc::new(snapshot);
    let config = config(&snapshot, version);
    if version.version == ProtocolVersion::TLSv1_2 {
        let (io, accepted) = accepting(Arc::clone(&snapshot));
        let mut device = Device::new(&config, io);
        device.until_finished().await;
        accepted.await.unwrap().unwrap();
    }
    let (io, accepted) = accepting(snapshot);
    let mut device = Device::new(&config, io);
    device.until_finished().await;
    let resumed = device.tls.handshake_kind() == Some(HandshakeKind::Resumed);
    assert_eq!(resumed, version.version == ProtocolVersion::TLSv1_2);
    (device, accepted)
}

/// Reads once at the proxy's side.
async fn receive(stream: &mut TlsStream<DuplexStream>) -> Result<(Received, Vec<u8>), Error> {
    let read = poll_fn(|cx| {
        scratch::with(|scratch| {
            let received = ready!(stream.poll_receive(cx, scratch, HANDSHAKE_READ_BYTES));
            Poll::Ready((received, scratch.plain().to_vec()))
        })
    });
    match read.await {
        (Ok(received), plain) => Ok((received, plain)),
        (Err(ReceiveError::Tls(error)), _) => Err(error),
        (Err(error @ (ReceiveError::Io(_) | ReceiveError::MidRecord)), _) => panic!("{error}"),
    }
}

#[tokio::test]
async fn data_and_a_close_notify_may_come_with_the_finished() {
    for version in [&TLS12, &TLS13] {
        let (mut device, accepted) = before_finished(version).await;
        device.tls.writer().write_all(b"report").unwrap();
        device.tls.send_close_notify();
        device.send().await;
        let EstablishedClient { mut stream, early, .. } = accepted.await.unwrap().unwrap();
        assert_eq!(early, b"report");
        assert_eq!(receive(&mut stream).await, Ok((Received::Closed, Vec::new())));
    }
}

#[tokio::test]
async fn a_record_may_be_cut_anywhere_behind_the_finished() {
    for version in [&TLS12, &TLS13] {
        for left_out in 1..34 {
            let (mut device, accepted) = before_finished(version).await;
            device.tls.writer().write_all(b"report").unwrap();
            let sent = device.outgoing();
            let (first, rest) = sent.split_at(sent.len() - left_out);
            device.io.write_all(first).await.unwrap();
            // The removed bytes can include a part of the Finished.
            tokio::task::yield_now().await;
            device.io.write_all(rest).await.unwrap();
            let EstablishedClient { mut stream, mut early, .. } = accepted.await.unwrap().unwrap();
            while early.is_empty() {
                early = receive(&mut stream).await.unwrap().1;
            }
            assert_eq!(early, b"report");
            assert_eq!(stream.partial(), 0);
        }
    }
}

#[tokio::test]
async fn data_with_the_finished_is_delivered_before_a_forged_record_is_refused() {
    for version in [&TLS12, &TLS13] {
        let (mut device, accepted) = before_finished(version).await;
        device.tls.writer().write_all(b"report").unwrap();
        let sent = [device.outgoing(), vec![23, 3, 3, 0, 30], vec![0; 30]].concat();
        device.io.write_all(&sent).await.unwrap();
        device.io.shutdown().await.unwrap();
        let EstablishedClient { mut stream, early, .. } = accepted.await.unwrap().unwrap();
        assert_eq!(early, b"report");
        assert_eq!(receive(&mut stream).await, Err(Error::DecryptError));
    }
}

#[tokio::test]
async fn a_key_update_may_come_with_the_finished() {
    let (mut device, accepted) = before_finished(&TLS13).await;
    device.tls.writer().write_all(b"old").unwrap();
    device.tls.refresh_traffic_keys().unwrap();
    device.tls.writer().write_all(b"new").unwrap();
    device.send().await;
    let EstablishedClient { mut stream, early, .. } = accepted.await.unwrap().unwrap();
    assert_eq!(early, b"oldnew");
    // It is answered before the next data.
    let mut cx = Context::from_waker(Waker::noop());
    poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
    scratch::with(|scratch| stream.send(&mut cx, b"answer", &mut scratch.sealed)).unwrap();
    let mut answer = Vec::new();
    while answer.len() < 6 {
        device.receive().await;
        drop(device.tls.reader().read_to_end(&mut answer));
    }
    assert_eq!(answer, b"answer");
}

#[tokio::test]
async fn a_device_that_another_server_has_allowed_early_data_is_served_without() {
    let (snapshot, _) = snapshot_and_client();
    let mut config = Arc::unwrap_or_clone(config(&snapshot, &TLS13));
    config.enable_early_data = true;
    let config = Arc::new(config);
    resumable_elsewhere(&snapshot, &config).await;

    let (io, accepted) = accepting(Arc::new(snapshot));
    let mut device = Device::new(&config, io);
    for _ in 0..3 {
        assert_eq!(device.tls.early_data().unwrap().write(&[1; 1000]).unwrap(), 1000);
    }
    device.until_finished().await;
    assert!(!device.tls.is_early_data_accepted());
    device.tls.writer().write_all(b"report").unwrap();
    device.send().await;
    let EstablishedClient { mut stream, mut early, .. } = accepted.await.unwrap().unwrap();
    while early.is_empty() {
        early = receive(&mut stream).await.unwrap().1;
    }
    assert_eq!(early, b"report");
}

#[tokio::test]
async fn rejected_early_data_is_skipped_up_to_16_kib_whatever_the_size_of_its_records() {
    for size in [1, 100, 1400, 16_000] {
        let (snapshot, _) = snapshot_and_client();
        let mut config = Arc::unwrap_or_clone(config(&snapshot, &TLS13));
        config.enable_early_data = true;
        let config = Arc::new(config);
        resumable_elsewhere(&snapshot, &config).await;
        let (io, accepted) = accepting(Arc::new(snapshot));
        let mut device = Device::new(&config, io);
        device.send().await;
        for _ in 0..16_000 / size {
            let early = device.tls.early_data().unwrap().write(&vec![1; size]).unwrap();
            assert_eq!(early, size);
            device.send().await;
        }
        device.until_finished().await;
        device.tls.writer().write_all(b"report").unwrap();
        device.send().await;
        let EstablishedClient { mut stream, mut early, .. } = accepted.await.unwrap().unwrap();
        while early.is_empty() {
            early = receive(&mut stream).await.unwrap().1;
        }
        assert_eq!(early, b"report", "{size}");
    }
}

/// Returns the error of a device of this version that answers our first flight with `bytes`.
async fn answer_to(version: &'static SupportedProtocolVersion, bytes: &[u8]) -> Error {
    let (snapshot, _) = snapshot_and_client();
    let config = config(&snapshot, version);
    let (io, accepted) = accepting(Arc::new(snapshot));
    let mut device = Device::new(&config, io);
    device.send().await;
    device.receive().await;
    device.io.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    device.io.read_to_end(&mut answer).await.unwrap();
    assert!(accepted.await.unwrap().is_err());
    device.tls.read_tls(&mut &answer[..]).unwrap();
    device.tls.process_new_packets().unwrap_err()
}

#[tokio::test]
async fn a_fault_after_our_first_flight_has_its_alert_sealed_where_records_are() {
    use AlertDescription as A;
    let faults: [(&[u8], A); 7] = [
        (&[99, 3, 3, 0, 1, 0], A::UnexpectedMessage),
        (&[22, 3, 3, 0, 0], A::UnexpectedMessage),
        (&[23, 3, 3, 0x48, 1], A::RecordOverflow),
        (&[22, 3, 3, 0xff, 0xff], A::RecordOverflow),
        (&[23, 3, 3, 0, 0], A::DecodeError),
        (&[20, 3, 3, 0, 2, 1, 1], A::UnexpectedMessage),
        (&[21, 5, 0, 0, 2], A::DecodeError),
    ];
    for version in [&TLS12, &TLS13] {
        for (bytes, alert) in faults {
            // A plaintext handshake record of any length is invalid once records are sealed.
            let alert = match (bytes[0], version.version) {
                (22, ProtocolVersion::TLSv1_3) => A::UnexpectedMessage,
                _ => alert,
            };
            let answer = answer_to(version, bytes).await;
            assert_eq!(answer, Error::AlertReceived(alert), "{version:?} {bytes:?}");
        }
    }
}

#[tokio::test]
async fn a_handshake_pauses_between_records_that_cost_much() {
    let (snapshot, _) = snapshot_and_client();
    let config = config(&snapshot, &TLS13);
    let (io, _) = duplex(1);
    let sent = Device::new(&config, io).outgoing();
    let (_device, ours) = duplex(1 << 20);
    let ours_config = Arc::clone(&snapshot.policy().server_configs.server_order);
    let sent_sizes = SentSizes { max: 1 << 14, starts_small: false };
    let mut negotiation = Negotiation::new(ours, ours_config, sent_sizes, None).unwrap();
    // A change_cipher_spec may follow the hello, which costs a signature.
    let records = [&sent[..], &[20, 3, 3, 0, 1, 1]].concat();
    let version = ProtocolVersion::TLSv1_3;
    let sizes = FlightSizes::default();
    let opening = Opening {
        records,
        version,
        disguise: None,
        early_data: false,
        plain_sizes: sizes,
        sealed_sizes: sizes,
        fragment_ack: None,
    };
    negotiation.open(opening);
    assert_eq!(negotiation.process(), Ok(Progress::Paused));
    while negotiation.process() == Ok(Progress::Paused) {}
    assert!(negotiation.held.is_empty());
}

/// Gets a ticket from another server that accepts early data.
async fn resumable_elsewhere(snapshot: &Snapshot, config: &Arc<ClientConfig>) {
    let mut other = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(
            &snapshot.policy().server_configs.server_order.cert_resolver,
        ));
    other.max_early_data_size = 1 << 14;
    let mut other = ServerConnection::new(Arc::new(other)).unwrap();
    let (io, mut other_end) = duplex(1 << 20);
    let mut device = Device::new(config, io);
    for _ in 0..2 {
        let sent = device.outgoing();
        other.read_tls(&mut &sent[..]).unwrap();
        other.process_new_packets().unwrap();
        let mut answer = Vec::new();
        while other.wants_write() {
            other.write_tls(&mut answer).unwrap();
        }
        other_end.write_all(&answer).await.unwrap();
        device.receive().await;
    }
}

/// Returns a ClientHello that offers early data without a ticket.
fn hello_with_early_data() -> Vec<u8> {
    let (snapshot, _) = snapshot_and_client();
    let (io, _) = duplex(1);
    let mut hello = Device::new(&config(&snapshot, &TLS13), io).outgoing();
    // After the headers, version and random: session id, suites, compression methods.
    let mut extensions = 43 + 1 + usize::from(hello[43]);
    let suites = u16::from_be_bytes([hello[extensions], hello[extensions + 1]]);
    extensions += 2 + usize::from(suites);
    extensions += 1 + usize::from(hello[extensions]);
    // RFC 8446 section 4.2.10.
    hello.extend([0, 42, 0, 0]);
    for length in [3, 7, extensions] {
        let longer = u16::from_be_bytes([hello[length], hello[length + 1]]) + 4;
        hello[length..length + 2].copy_from_slice(&longer.to_be_bytes());
    }
    hello
}

#[tokio::test]
async fn empty_records_in_a_handshake_are_refused() {
    let (snapshot, _) = snapshot_and_client();
    let (mut device, accepted) = accepting(Arc::new(snapshot));
    device.write_all(&hello_with_early_data()).await.unwrap();
    device.write_all(&[23, 3, 3, 0, 0]).await.unwrap();
    device.shutdown().await.unwrap();
    assert_eq!(refusal(accepted).await, InvalidMessage::InvalidEmptyPayload.into());
}

/// Returns the result for a client that sends a TLS 1.2 ClientHello and then `records`.
async fn result_of(records: &[u8]) -> Accepted {
    let (snapshot, _) = snapshot_and_client();
    let config = config(&snapshot, &TLS12);
    let (io, accepted) = accepting(Arc::new(snapshot));
    let mut device = Device::new(&config, io);
    device.send().await;
    device.io.write_all(records).await.unwrap();
    device.io.shutdown().await.unwrap();
    accepted.await.unwrap()
}

async fn refusal(accepted: tokio::task::JoinHandle<Accepted>) -> Error {
    error_of(accepted.await.unwrap())
}

fn error_of(accepted: Accepted) -> Error {
    let refused = accepted.err().expect("a refusal");
    let HandshakeError::Tls(error) = refused.error else { panic!("{refused}") };
    error
}

#[tokio::test]
async fn a_message_in_endless_tiny_records_is_not_collected_for_ever() {
    // A ClientKeyExchange of 64 KiB, which is allowed.
    let header = [[22, 3, 3, 0, 1, 16], [22, 3, 3, 0, 1, 0], [22, 3, 3, 0, 1, 0xff]];
    let body = [22, 3, 3, 0, 1, 0xff].repeat(0xffff);
    let accepted = result_of(&[header.as_flattened(), &body].concat()).await;
    let error = accepted.err().expect("a refusal");
    assert!(matches!(error.error, HandshakeError::CertificatesTooLarge), "{error}");
}

#[tokio::test]
async fn a_record_of_a_handshake_that_is_too_long_is_refused_before_it_has_come() {
    let error = error_of(result_of(&[22, 3, 3, 0x7f, 0xff]).await);
    assert_eq!(error, InvalidMessage::MessageTooLarge.into());
}
