//! The table of bytes on the wire in docs/devices.md, which `cargo bench --bench peers -- --wire` prints.

#[path = "../../benches/peers/wire/relay.rs"]
#[expect(unreachable_pub, reason = "it is a part of a program, without a public interface")]
mod relay;

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use self::relay::{Relay, Wire};

/// Rows of the table: server, client certificate and version.
const ROWS: [&str; 6] = [
    "ECDSA, none, 1.2",
    "ECDSA, none, 1.3",
    "ECDSA, ECDSA, 1.2",
    "ECDSA, ECDSA, 1.3",
    "RSA, RSA, 1.2",
    "RSA, RSA, 1.3",
];

/// Returns the bytes in both directions, of a full and of a resumed handshake: `299/833 in 2, 431/302 in 1`.
fn bytes(cell: &str) -> [f64; 2] {
    let sums = cell.split(", ").map(|handshake| {
        let (both, _round_trips) = handshake.split_once(" in ").unwrap();
        both.split('/').map(|bytes| bytes.parse::<f64>().unwrap()).sum()
    });
    sums.collect::<Vec<_>>().try_into().unwrap()
}

#[test]
fn the_documented_ratios_of_bytes_are_those_of_the_figures() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/devices.md");
    let page = std::fs::read_to_string(page).unwrap();
    let head = "| server, client, version | tlsidecar | nginx | HAProxy | ratio |";
    let table = page.lines().skip_while(|line| *line != head).skip(2);
    let table = table.take_while(|line| line.starts_with('|'));
    let rows: Vec<Vec<_>> =
        table.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), ROWS);
    for row in rows {
        let [ours, nginx, haproxy] = [1, 2, 3].map(|column| bytes(row[column]));
        let ratios = [0, 1].map(|i| format!("{:.2}", ours[i] / nginx[i].min(haproxy[i])));
        assert_eq!(row[4], ratios.join(", "), "{}", row[0]);
    }
}

/// Serves one connection as a proxy does: 20 bytes for 10, then a request of 5 bytes behind 7 others, and its answer
/// behind 4 others; an end for an end.
async fn proxy(listener: TcpListener, backend: std::net::SocketAddr) {
    let (mut device, _) = listener.accept().await.unwrap();
    let mut bytes = [0; 64];
    device.read_exact(&mut bytes[..10]).await.unwrap();
    device.write_all(&bytes[..20]).await.unwrap();
    device.read_exact(&mut bytes[..12]).await.unwrap();
    device.write_all(&bytes[..4]).await.unwrap();
    let mut backend = TcpStream::connect(backend).await.unwrap();
    backend.write_all(&bytes[..5]).await.unwrap();
    backend.read_exact(&mut bytes[..5]).await.unwrap();
    device.write_all(&bytes[..5]).await.unwrap();
    device.read_exact(&mut bytes[..3]).await.unwrap();
    device.write_all(&bytes[..3]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bench_counts_a_handshake_and_not_the_end_of_its_connection() {
    let echo = relay::echo().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = Relay::start(listener.local_addr().unwrap(), &echo).await.unwrap();
    let proxy = tokio::spawn(proxy(listener, echo.address));
    let mut device = TcpStream::connect(relay.address).await.unwrap();
    let mut bytes = [0; 64];
    device.write_all(&bytes[..10]).await.unwrap();
    device.read_exact(&mut bytes[..20]).await.unwrap();
    // Two writes without a read between them are one flight.
    device.write_all(&bytes[..7]).await.unwrap();
    device.write_all(&bytes[..5]).await.unwrap();
    device.read_exact(&mut bytes[..9]).await.unwrap();
    device.write_all(&bytes[..3]).await.unwrap();
    device.read_exact(&mut bytes[..3]).await.unwrap();
    proxy.await.unwrap();
    let counted = relay.connections();
    let found: Vec<_> = counted.iter().map(|wire| wire.without(5)).collect();
    assert_eq!(found, [Wire { to_server: 17, to_device: 24, round_trips: 1 }]);
    assert_eq!(found[0].bytes(), 41);
}
