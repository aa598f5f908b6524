//! A peer that sends raw bytes.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::wait::within;

/// Sends bytes and returns everything that arrives until the other side closes or resets.
pub(crate) async fn answer_to(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    // The other side may close before it has read everything.
    let _refused = tcp.write_all(bytes).await;
    let mut answer = Vec::new();
    let _reset = within("it is closed", tcp.read_to_end(&mut answer)).await;
    answer
}

/// Starts a server that reads a request and answers it, on each connection; the answer is made from the first line.
pub(crate) async fn answering(
    answer: impl Fn(&str) -> String + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
            while !request.ends_with(b"\r\n\r\n") {
                let Ok(read @ 1..) = tcp.read(&mut chunk).await else { break };
                request.extend(&chunk[..read]);
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let line = request.lines().next().unwrap_or_default();
            // The client may have left.
            let _sent = tcp.write_all(answer(line).as_bytes()).await;
        }
    });
    address
}

/// Returns an unencrypted fatal alert as it is on the wire.
pub(crate) fn alert(description: u8) -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, description]
}

/// Returns a ClientHello of rustls for localhost.
pub(crate) fn client_hello() -> Vec<u8> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

/// Returns a ClientHello of this version with these suites and no extensions.
pub(crate) fn old_hello(version: [u8; 2], suites: &[[u8; 2]]) -> Vec<u8> {
    records(&hello(version, suites, None))
}

/// Returns a ClientHello of this version with these suites and extensions, each by its type.
pub(crate) fn extended_hello(
    version: [u8; 2],
    suites: &[[u8; 2]],
    extensions: &[(u16, &[u8])],
) -> Vec<u8> {
    let extension =
        |(kind, body): &(u16, &[u8])| [&kind.to_be_bytes()[..], &vector16(body)].concat();
    let extensions: Vec<_> = extensions.iter().flat_map(extension).collect();
    records(&hello(version, suites, Some(&extensions)))
}

/// Returns a vector with a length of two bytes: RFC 8446 section 3.4.
pub(crate) fn vector16(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// Returns a message in records of 16 KiB.
fn records(message: &[u8]) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1][..], &vector16(part)].concat();
    message.chunks(1 << 14).flat_map(record).collect()
}

fn hello(version: [u8; 2], suites: &[[u8; 2]], extensions: Option<&[u8]>) -> Vec<u8> {
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.push(0);
    body.extend(vector16(&suites.concat()));
    body.extend([1, 0]);
    body.extend(extensions.map(vector16).unwrap_or_default());
    [&[1, 0][..], &vector16(&body)].concat()
}
