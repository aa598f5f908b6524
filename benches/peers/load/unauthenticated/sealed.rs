//! Records of TLS 1.3 after the handshake of a client without a certificate.

use std::io;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ConnectionTrafficSecrets;

/// Returns the socket of `session` and `count` records of this inner type and content, sealed with its keys.
pub fn records(
    session: TlsStream<TcpStream>,
    kind: u8,
    content: &[u8],
    count: usize,
) -> io::Result<(TcpStream, Vec<u8>)> {
    let (tcp, connection) = session.into_inner();
    let secrets = connection.dangerous_extract_secrets().map_err(io::Error::other)?;
    let (first, ConnectionTrafficSecrets::Aes128Gcm { key, iv }) = secrets.tx else {
        return Err(io::Error::other("the suite was not offered"));
    };
    let key = UnboundKey::new(&AES_128_GCM, key.as_ref()).map_err(io::Error::other)?;
    let key = LessSafeKey::new(key);
    let sealed = (first..).take(count).flat_map(|sequence| {
        let mut nonce: [u8; 12] =
            iv.as_ref().try_into().expect("the nonce of AES-GCM has twelve bytes");
        for (byte, other) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= other;
        }
        let mut inner = [content, &[kind]].concat();
        let length = u16::try_from(inner.len() + 16).expect("records are short");
        let mut record = vec![23, 3, 3];
        record.extend(length.to_be_bytes());
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(record.clone()),
            &mut inner,
        )
        .expect("the record is short");
        record.extend(inner);
        record
    });
    let sealed = sealed.collect();
    Ok((tcp, sealed))
}

/// Returns the socket of `session` and `count` key updates that request an update.
pub fn key_updates(
    session: TlsStream<TcpStream>,
    count: usize,
) -> io::Result<(TcpStream, Vec<u8>)> {
    let (tcp, mut connection) = session.into_inner();
    let mut records = Vec::new();
    for _ in 0..count {
        connection.refresh_traffic_keys().map_err(io::Error::other)?;
        while connection.wants_write() {
            connection.write_tls(&mut records)?;
        }
    }
    Ok((tcp, records))
}
