//! The records that devices get, as they are on the wire.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};

use tlsidecar::config::{ClientAuth, ClientTrust, ListenerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::certs::{Wish, device};
use crate::support::command::{has, run};
use crate::support::proxy::listener;
use crate::support::{Authority, Backend, Pair, Proxy};

const HANDSHAKE: u8 = 22;
const CHANGE_CIPHER_SPEC: u8 = 20;

/// Bytes that encryption adds to a record with AES-GCM: RFC 5288 section 3, RFC 8446 section 5.2 (the type of the
/// content, and the tag).
const TLS_1_2_ADDS: usize = 24;
const TLS_1_3_ADDS: usize = 17;

/// A TCP proxy that keeps the bytes from the server.
struct Tap {
    relay: Backend,
    from_server: Arc<Mutex<Vec<u8>>>,
}

/// A record from the server.
#[derive(Debug)]
struct Record {
    kind: u8,
    content: Vec<u8>,
}

impl Tap {
    async fn before(server: SocketAddr) -> Self {
        let from_server = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&from_server);
        let relay = Backend::serving(move |client| {
            let kept = Arc::clone(&kept);
            async move {
                let server = TcpStream::connect(server).await.unwrap();
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                let mut sent = Vec::new();
                tokio::join!(
                    copy(client_read, server_write, |bytes| sent.extend_from_slice(bytes)),
                    copy(server_read, client_write, |bytes| {
                        kept.lock().unwrap().extend_from_slice(bytes);
                    }),
                );
            }
        })
        .await;
        Self { relay, from_server }
    }

    /// Returns the complete records of the connection up to now.
    fn records(&self) -> Vec<Record> {
        let bytes = self.from_server.lock().unwrap();
        let (mut rest, mut records) = (&bytes[..], Vec::new());
        while let [kind, 3, _, high, low, more @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let Some((content, behind)) = more.split_at_checked(length) else { break };
            records.push(Record { kind: *kind, content: content.to_vec() });
            rest = behind;
        }
        records
    }
}

/// Copies bytes and shows them to `see`, until one side ends.
async fn copy<R, W>(mut from: R, mut to: W, mut see: impl FnMut(&[u8]))
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        see(&buffer[..read]);
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    let _gone = to.shutdown().await;
}

/// Returns 64 KiB of numbered lines.
fn burst() -> String {
    (0..4096).map(|line| format!("line {line:010}\n")).collect()
}

/// Returns a legacy server that sends a burst and ends its stream.
async fn bursting() -> Backend {
    Backend::serving(async |mut tcp: TcpStream| {
        tcp.write_all(burst().as_bytes()).await.unwrap();
        tcp.shutdown().await.unwrap();
        let _left = tcp.read(&mut [0; 1]).await;
    })
    .await
}

/// Returns a chain whose Certificate message has more than 1 KiB.
fn long_chain(authority: &Authority) -> Pair {
    let label = "a-long-label-as-cloud-providers-make-them-for-each-instance";
    let long = [label; 4].join(".");
    let wish = Wish { names: &["localhost", &long], rsa: true, ..Wish::default() };
    authority.intermediate("below").issue("server", &wish)
}

/// Runs a client that prints what it receives against a proxy with this listener, and returns the records that it gets.
async fn burst_to(
    set: impl FnOnce(&mut ListenerConfig, &Authority),
    client: impl FnOnce(SocketAddr, &Authority) -> Command,
) -> Vec<Record> {
    let authority = Authority::new("ca");
    let backend = bursting().await;
    let mut listener = listener(backend.config(), &long_chain(&authority));
    set(&mut listener, &authority);
    let proxy = Proxy::with(listener);
    let tap = Tap::before(proxy.address).await;
    let (good, text) = run(client(tap.relay.address, &authority)).await;
    assert!(good && text.contains(&burst()), "{}", &text[text.len().saturating_sub(2000)..]);
    tap.records()
}

/// Returns openssl s_client with these arguments.
fn openssl(address: SocketAddr, authority: &Authority, arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-verify_quiet", "-verify_return_error"]);
    command.args(["-connect", &address.to_string(), "-servername", "localhost", "-CAfile"]);
    command.arg(authority.ca()).args(arguments);
    command
}

/// Returns the length of each plaintext handshake record before the keys change, and asserts that no message is split.
fn plain_flight(records: &[Record]) -> Vec<usize> {
    let plain = records.iter().take_while(|record| record.kind != CHANGE_CIPHER_SPEC);
    plain
        .filter(|record| record.kind == HANDSHAKE)
        .map(|record| {
            let mut rest = &record.content[..];
            while let [_, high, middle, low, behind @ ..] = rest {
                let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
                rest = behind.get(length..).expect("a message is split");
            }
            record.content.len()
        })
        .collect()
}

/// Returns the extensions of the ServerHello, by their types.
fn server_hello_extensions(records: &[Record]) -> BTreeMap<u16, Vec<u8>> {
    let message = &records[0].content;
    let length = u32::from_be_bytes([0, message[1], message[2], message[3]]) as usize;
    let session_id = usize::from(message[38]);
    // Behind the suite, the compression method and the length of the list.
    let mut rest = &message[39 + session_id + 5..4 + length];
    let mut extensions = BTreeMap::new();
    while let [high, low, _, bytes, more @ ..] = rest {
        let (body, behind) = more.split_at(usize::from(*bytes));
        extensions.insert(u16::from_be_bytes([*high, *low]), body.to_vec());
        rest = behind;
    }
    extensions
}

fn longest(records: &[Record]) -> usize {
    records.iter().map(|record| record.content.len()).max().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_gets_no_longer_record_than_its_max_fragment_length() {
    for (version, added) in [("-tls1_2", TLS_1_2_ADDS), ("-tls1_3", TLS_1_3_ADDS)] {
        for limit in [512, 1024, 2048, 4096] {
            let limit_text = limit.to_string();
            let arguments = [version, "-maxfraglen", &limit_text];
            let client = |address, authority: &_| openssl(address, authority, &arguments);
            let records = burst_to(|_, _| {}, client).await;
            let longest = longest(&records);
            assert!((limit..=limit + added).contains(&longest), "{version} {limit}: {longest}");
            for record in records.iter().take_while(|record| record.kind == HANDSHAKE) {
                assert!(record.content.len() <= limit, "{version} {limit}: plaintext");
            }
        }
    }
}

/// The client's Finished and, in TLS 1.2, its CertificateVerify cover the changed ServerHello. The ticket of TLS 1.3 has
/// the device's certificate, and more bytes than a record.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_a_certificate_gets_small_records_and_in_tls_1_2_an_acknowledgement() {
    for (version, acknowledged) in [("-tls1_2", true), ("-tls1_3", false)] {
        let require = |listener: &mut ListenerConfig, authority: &Authority| {
            listener.tls.client_auth = ClientAuth::Required(ClientTrust::new(authority.ca()));
        };
        // With an address as the name, rustls gets another ClientHello than the client has sent.
        for name in ["localhost", "10.0.0.1:8883"] {
            let client = |address, authority: &Authority| {
                let own = device(authority, 7).files;
                let mut command = openssl(address, authority, &[version, "-maxfraglen", "512"]);
                command.args(["-servername", name, "-cert"]).arg(own.cert);
                command.arg("-key").arg(own.key);
                command
            };
            let records = burst_to(require, client).await;
            assert!(longest(&records) <= 512 + TLS_1_2_ADDS, "{version}");
            let extensions = server_hello_extensions(&records);
            assert_eq!(extensions.get(&1), acknowledged.then_some(&vec![1]), "{version}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_the_configuration_holds_for_data_and_splits_no_message() {
    let client = |address, authority: &_| openssl(address, authority, &["-tls1_2"]);
    let records = burst_to(|listener, _| listener.tls.max_record_bytes = 512, client).await;
    let flight = plain_flight(&records);
    // ServerHello, Certificate, ServerKeyExchange and ServerHelloDone, ticket.
    assert_eq!(flight.len(), 4, "{flight:?}");
    assert!(flight[1] > 1024, "{flight:?}");
    let data = records.iter().filter(|record| record.kind == 23);
    let sizes: Vec<_> = data.map(|record| record.content.len() - TLS_1_2_ADDS).collect();
    assert_eq!(sizes, vec![512; 128]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_record_of_a_tls_1_2_flight_is_longer_than_its_longest_message() {
    let client = |address, authority: &_| openssl(address, authority, &["-tls1_2"]);
    let records = burst_to(|_, _| {}, client).await;
    let flight = plain_flight(&records);
    assert_eq!(flight.len(), 4, "{flight:?}");
    let [hello, certificate, rest, _ticket] = flight[..] else { panic!("{flight:?}") };
    assert!(certificate > 1024 && hello + certificate + rest > certificate, "{flight:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gnutls_device_gets_records_of_its_record_size_limit() {
    if !has("gnutls-cli") {
        return;
    }
    for (priority, added) in [
        ("NORMAL:-VERS-ALL:+VERS-TLS1.2", TLS_1_2_ADDS),
        // With TLS 1.3, GnuTLS asks for 601 bytes: the limit then includes the type of the content.
        ("NORMAL:-VERS-ALL:+VERS-TLS1.3", TLS_1_3_ADDS),
    ] {
        let client = |address: SocketAddr, authority: &Authority| {
            let mut command = Command::new("gnutls-cli");
            command.args(["--recordsize", "600", "--priority", priority, "--logfile=/dev/null"]);
            command.args(["--port", &address.port().to_string(), "--x509cafile"]);
            command.arg(authority.ca()).arg("localhost");
            command
        };
        let records = burst_to(|_, _| {}, client).await;
        let data = records.iter().filter(|record| record.kind == 23);
        assert_eq!(data.map(|record| record.content.len()).max(), Some(600 + added), "{priority}");
    }
}
