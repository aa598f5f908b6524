//! Inputs of an unauthenticated client: the one with the maximal cost of each kind.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::chain::{self, Names};
use super::hello::{self, RECORD_BYTES, numbers, record, records, vector};
use super::{Sent, read, sealed, write};
use crate::device::{self, Version};
use crate::peer::Site;

/// A kind of input.
#[derive(Debug)]
pub struct Input {
    /// True for connections that are held, for their memory; otherwise their CPU is measured.
    pub holds: bool,
    what: What,
}

#[derive(Debug)]
enum What {
    /// Pieces, written one by one.
    Bytes(fn() -> Vec<Vec<u8>>),
    /// Pieces after a TLS 1.2 ClientHello and the server's answer.
    AfterServerHello(fn() -> Vec<Vec<u8>>),
    /// A handshake whose client sends a chain without a trusted root.
    Chain(Version, Names, usize),
    /// A TLS 1.3 handshake without a client certificate, then `count` records of this type.
    Records { kind: u8, content: &'static [u8], count: usize },
    /// A TLS 1.3 handshake without a client certificate, then this number of key updates.
    KeyUpdates(usize),
}

macro_rules! inputs {
    ($($(#[$doc:meta])* $name:ident = $holds:expr, $what:expr;)*) => {
        $($(#[$doc])* pub const $name: &Input = &Input { holds: $holds, what: $what };)*
    };
}

inputs! {
    SILENT = true, What::Bytes(Vec::new);
    FORTY_BYTES = true, What::Bytes(|| vec![records(&ordinary(), RECORD_BYTES)[..40].to_vec()]);
    HELLO_WITHOUT_ITS_END = true, What::Bytes(|| vec![all_but_the_end(&padded())]);
    HELLO_THEN_NOTHING = true, What::Bytes(|| vec![records(&ordinary(), RECORD_BYTES)]);
    CERTIFICATE_WITHOUT_ITS_END = true, What::AfterServerHello(|| vec![all_but_the_end(&certificate(64_000))]);

    ORDINARY = false, What::Bytes(|| vec![records(&ordinary(), RECORD_BYTES)]);
    PADDED = false, What::Bytes(|| vec![records(&padded(), RECORD_BYTES)]);
    SUITES = false, What::Bytes(|| whole(&hello::hello(&many(30_000), &hello::with(&[]))));
    GROUPS = false, What::Bytes(|| list(10));
    SCHEMES = false, What::Bytes(|| list(13));
    PROTOCOLS = false, What::Bytes(|| of_hello(16, &[1, b'x'].repeat(30_000)));
    SHARES = false, What::Bytes(|| of_hello(51, &shares()));
    GROUPS_AND_SHARES = false, What::Bytes(|| whole(&groups_and_shares()));
    EXTENSIONS = false, What::Bytes(|| {
        let unknown: Vec<_> = (0..15_000).map(|n| (0x4000 + n, Vec::new())).collect();
        whole(&hello::hello(hello::SUITES, &hello::with(&unknown)))
    });
    PSKS = false, What::Bytes(|| whole(&psks(1300)));
    RETRY = false, What::Bytes(|| of_hello(51, &[]));
    RECORDS_OF_ONE_BYTE = false, What::Bytes(|| vec![records(&with_padding(2000), 1)]);
    SEGMENTS_OF_ONE_BYTE = false, What::Bytes(|| {
        records(&with_padding(700), RECORD_BYTES).chunks(1).map(<[u8]>::to_vec).collect()
    });
    EMPTY_RECORDS = false, What::Bytes(|| vec![record(22, &[]).repeat(4000)]);
    WARNINGS = false, What::Bytes(|| vec![record(21, &[1, 90]).repeat(4000)]);
    CHANGE_CIPHER_SPECS = false, What::Bytes(|| {
        vec![[records(&ordinary(), RECORD_BYTES), record(20, &[1]).repeat(4000)].concat()]
    });
    EARLY_DATA = false, What::Bytes(|| {
        let early = [records(&early(), RECORD_BYTES), record(23, &[5; 1000]).repeat(64)];
        vec![early.concat()]
    });
    SMALL_EARLY_DATA = false, What::Bytes(|| {
        vec![[records(&early(), RECORD_BYTES), record(23, &[5; 17]).repeat(1500)].concat()]
    });
    NOT_TLS = false, What::Bytes(|| vec![b"GET / HTTP/1.1\r\n".repeat(4000)]);
    ENDLESS_MESSAGE = false, What::AfterServerHello(|| {
        let head = [&[11, 0xff, 0xff, 0xff][..], &[0; 240_000]].concat();
        vec![records(&head, RECORD_BYTES)]
    });
    CERTIFICATE_IN_SMALL_RECORDS = false, What::AfterServerHello(|| {
        vec![records(&certificate(8000), 1)]
    });
    CHAIN_12_LAYERS = false, What::Chain(Version::Tls12, Names::Layers, 180);
    CHAIN_13_LAYERS = false, What::Chain(Version::Tls13, Names::Layers, 180);
    CHAIN_13_SAME = false, What::Chain(Version::Tls13, Names::Same, 9);
    CHAIN_13_DISTINCT = false, What::Chain(Version::Tls13, Names::Distinct, 180);
    EMPTY_DATA = false, What::Records { kind: 23, content: &[], count: 4000 };
    ONE_BYTE_DATA = false, What::Records { kind: 23, content: b"x", count: 4000 };
    PLAIN_HANDSHAKE = false, What::Records { kind: 23, content: b"x", count: 0 };
    KEY_UPDATES = false, What::KeyUpdates(1000);
}

/// An input that is prepared for repeated sending.
#[derive(Clone)]
pub enum Act {
    Bytes { first: Option<Arc<[Vec<u8>]>>, then: Arc<[Vec<u8>]> },
    Handshake { connector: TlsConnector, bytes: usize, then: Then },
}

/// The records after a handshake.
#[derive(Clone, Copy)]
pub enum Then {
    Nothing,
    Records { kind: u8, content: &'static [u8], count: usize },
    KeyUpdates(usize),
}

impl Act {
    pub fn prepare(input: &Input, site: &Site<'_>) -> Self {
        let material = site.material;
        match input.what {
            What::Bytes(make) => Self::Bytes { first: None, then: make().into() },
            What::AfterServerHello(make) => {
                let hello = hello::hello(hello::OLD_SUITES, &hello::old_with(&[]));
                let first = vec![records(&hello, RECORD_BYTES)];
                Self::Bytes { first: Some(first.into()), then: make().into() }
            }
            What::Chain(version, names, count) => {
                let chain = chain::junk(&material.stranger().0, names, count);
                let bytes = chain.iter().map(|cert| cert.len() + 5).sum();
                let identity = (chain, material.stranger().1.clone_key().into());
                let connector = device::connector(material, version, Some(identity));
                Self::Handshake { connector, bytes, then: Then::Nothing }
            }
            What::Records { kind, content, count } => {
                let connector = device::connector(material, Version::Tls13, None);
                let then = Then::Records { kind, content, count };
                Self::Handshake { connector, bytes: 500, then }
            }
            What::KeyUpdates(count) => {
                let connector = device::connector(material, Version::Tls13, None);
                Self::Handshake { connector, bytes: 500, then: Then::KeyUpdates(count) }
            }
        }
    }

    /// Connects and sends the input.
    pub async fn send(&self, address: SocketAddr) -> io::Result<Sent> {
        let mut tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        match self {
            Self::Bytes { first, then } => {
                let mut bytes = 0;
                if let Some(first) = first {
                    bytes += write(&mut tcp, first).await;
                    read(&mut tcp).await;
                }
                bytes += write(&mut tcp, then).await;
                Ok(Sent { tcp, bytes })
            }
            Self::Handshake { connector, bytes, then } => {
                let name = ServerName::try_from("localhost").expect("the name is valid");
                let shaking = connector.connect(name, tcp).into_fallible();
                let session = match shaking.await {
                    Ok(session) => session,
                    Err((_refused, tcp)) => return Ok(Sent { tcp, bytes: *bytes }),
                };
                let (mut tcp, records) = match *then {
                    Then::Nothing => (session.into_inner().0, Vec::new()),
                    Then::Records { kind, content, count } => {
                        sealed::records(session, kind, content, count)?
                    }
                    Then::KeyUpdates(count) => sealed::key_updates(session, count)?,
                };
                let sent = write(&mut tcp, &[records]).await;
                Ok(Sent { tcp, bytes: bytes + sent })
            }
        }
    }
}

fn ordinary() -> Vec<u8> {
    hello::hello(hello::SUITES, &hello::with(&[]))
}

/// Returns a TLS 1.3 ClientHello with an unknown extension of this size.
fn with_padding(bytes: usize) -> Vec<u8> {
    hello::hello(hello::SUITES, &hello::with(&[(0x4444, vec![0; bytes])]))
}

/// Returns a ClientHello of nearly the maximal length that rustls accepts.
fn padded() -> Vec<u8> {
    with_padding(64_000)
}

/// Returns a ClientHello with this extension.
fn of_hello(number: u16, list: &[u8]) -> Vec<Vec<u8>> {
    whole(&hello::hello(hello::SUITES, &hello::with(&[(number, vector(2, list))])))
}

/// Returns a ClientHello with 30,000 two-byte entries in this list, the supported ones last.
fn list(number: u16) -> Vec<Vec<u8>> {
    let useful = if number == 10 { [0x001d, 0x0017] } else { [0x0403, 0x0804] };
    of_hello(number, &numbers(&[many(30_000), useful.to_vec()].concat()))
}

fn whole(message: &[u8]) -> Vec<Vec<u8>> {
    vec![records(message, RECORD_BYTES)]
}

/// Returns `count` undefined numbers, followed by the supported suites.
fn many(count: u16) -> Vec<u16> {
    (0..count).map(|n| 0x6000 + n % 0x3000).chain(hello::SUITES.iter().copied()).collect()
}

fn shares() -> Vec<u8> {
    let share = |group: u16| [&group.to_be_bytes()[..], &vector(2, &[9; 32])].concat();
    (0..1600).map(|n| 0x6000 + n).chain([0x001d]).flat_map(share).collect()
}

/// Returns a ClientHello with 15,000 groups, and 6,600 key shares of the last one, which nobody has.
fn groups_and_shares() -> Vec<u8> {
    let groups: Vec<_> = std::iter::repeat_n(0x001d, 15_000).chain([0x6000]).collect();
    let shares = [&0x6000_u16.to_be_bytes()[..], &vector(2, &[9])].concat().repeat(6600);
    let both = [(10, vector(2, &numbers(&groups))), (51, vector(2, &shares))];
    hello::hello(hello::SUITES, &hello::with(&both))
}

/// Returns a ClientHello with `count` PSK identities and binders. `pre_shared_key` must be the last extension.
fn psks(count: usize) -> Vec<u8> {
    let identity = [vector(2, b"ticket"), vec![0; 4]].concat();
    let binder = vector(1, &[3; 32]);
    let content = [vector(2, &identity.repeat(count)), vector(2, &binder.repeat(count))].concat();
    hello::hello(hello::SUITES, &hello::with(&[(45, vector(1, &[1])), (41, content)]))
}

/// Returns a ClientHello that announces early data with an invalid ticket.
fn early() -> Vec<u8> {
    let identity = [vector(2, &[6; 200]), vec![0; 4]].concat();
    let content = [vector(2, &identity), vector(2, &vector(1, &[3; 32]))].concat();
    let extensions = [(45, vector(1, &[1])), (42, Vec::new()), (41, content)];
    hello::hello(hello::SUITES, &hello::with(&extensions))
}

/// Returns a Certificate message with one invalid certificate of this size.
fn certificate(bytes: usize) -> Vec<u8> {
    let one = vector(3, &vec![0x30; bytes]);
    hello::message(11, &vector(3, &one))
}

fn all_but_the_end(message: &[u8]) -> Vec<u8> {
    let mut bytes = records(message, RECORD_BYTES);
    bytes.truncate(bytes.len() - 100);
    bytes
}
