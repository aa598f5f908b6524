//! `tlsidecar trace --pcap`: the bytes of traced connections, as a capture.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tlsidecar::config::ClientAuth;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::version::{TLS12, TLS13};

use super::{Trace, find, follow};
use crate::support::bytes::{Bytes, receive_some, send};
use crate::support::command::has;
use crate::support::process::binary;
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Fleet, Sidecar, eventually, file};

/// The bytes of one direction of a connection, by its sender.
pub(super) type Streams = BTreeMap<(SocketAddr, SocketAddr), Vec<u8>>;

/// The content of a capture.
#[derive(Default)]
pub(super) struct Read {
    pub(super) streams: Streams,
    secrets: String,
    /// Segments that are missing: the bytes before the next one.
    gaps: usize,
}

impl Read {
    /// Reads a file by the form of pcapng, Ethernet, IP and TCP, and joins its segments.
    pub(super) fn of(path: &Path) -> Self {
        let file = std::fs::read(path).unwrap();
        let (mut at, mut read) = (0, Self::default());
        while at < file.len() {
            let field = |from: usize| {
                u32::from_le_bytes(file[at + from..at + from + 4].try_into().unwrap())
            };
            let length = field(4) as usize;
            assert!(length.is_multiple_of(4) && length >= 12, "a block of {length} bytes");
            assert_eq!(field(length - 4) as usize, length, "the length is repeated");
            match field(0) {
                0x0a0d_0d0a => assert_eq!(field(8), 0x1a2b_3c4d),
                1 => assert_eq!(field(8), 1, "Ethernet"),
                6 => {
                    assert_eq!(field(20), field(24), "it is complete");
                    read.frame(&file[at + 28..at + 28 + field(20) as usize]);
                }
                10 => {
                    assert_eq!(field(8), 0x544c_534b);
                    let lines = &file[at + 16..at + 16 + field(12) as usize];
                    read.secrets.push_str(std::str::from_utf8(lines).unwrap());
                }
                other => panic!("a block of the type {other}"),
            }
            at += length;
        }
        read
    }

    fn frame(&mut self, frame: &[u8]) {
        let word = |at: usize| u16::from_be_bytes(frame[at..at + 2].try_into().unwrap());
        let (from, to, tcp): ([u8; 16], [u8; 16], usize) = match word(12) {
            0x0800 => {
                assert_eq!((frame[14], frame[23]), (0x45, 6));
                assert_eq!(usize::from(word(16)) + 14, frame.len());
                let address = |at: usize| {
                    let octets: [u8; 4] = frame[at..at + 4].try_into().unwrap();
                    std::net::Ipv4Addr::from(octets).to_ipv6_mapped().octets()
                };
                assert_eq!(sum(&frame[14..34], 0), 0xffff, "the checksum of IPv4");
                (address(26), address(30), 34)
            }
            0x86dd => {
                assert_eq!((frame[14] >> 4, frame[20]), (6, 6));
                assert_eq!(usize::from(word(18)) + 54, frame.len());
                (frame[22..38].try_into().unwrap(), frame[38..54].try_into().unwrap(), 54)
            }
            other => panic!("EtherType {other:x}"),
        };
        // The pseudo-header: addresses, length, protocol.
        let addresses = if tcp == 34 { &frame[26..34] } else { &frame[22..54] };
        let pseudo = sum(addresses, (frame.len() - tcp) as u32 + 6);
        assert_eq!(sum(&frame[tcp..], u32::from(pseudo)), 0xffff, "the checksum of TCP");
        let side = |address: [u8; 16], port: usize| {
            let address = std::net::Ipv6Addr::from(address).to_canonical();
            SocketAddr::new(address, word(port))
        };
        let key = (side(from, tcp), side(to, tcp + 2));
        let sequence = u32::from_be_bytes(frame[tcp + 4..tcp + 8].try_into().unwrap());
        let bytes = &frame[tcp + usize::from(frame[tcp + 12] >> 4) * 4..];
        let stream = self.streams.entry(key).or_default();
        if !bytes.is_empty() {
            self.gaps += usize::from(sequence as usize != stream.len() + 1);
            stream.resize(sequence as usize - 1, 0);
            stream.extend(bytes);
        }
    }
}

/// Returns the sum of RFC 1071.
fn sum(bytes: &[u8], start: u32) -> u16 {
    let words =
        bytes.chunks(2).map(|word| u32::from_be_bytes([0, 0, word[0], *word.get(1).unwrap_or(&0)]));
    let mut sum = start + words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A running `tlsidecar trace`.
struct Capture {
    child: Child,
    path: PathBuf,
}

impl Capture {
    /// Starts it, and waits until the trace has begun.
    fn start(sidecar: &mut Sidecar, dir: &Path, arguments: &[&str]) -> Self {
        let path = dir.join(format!("{}.pcapng", sidecar.log().matches("trace started").count()));
        let before = sidecar.log().matches("trace started").count();
        let mut command = binary();
        command
            .args(["trace", "--admin"])
            .arg(format!("unix:{}", dir.join("admin.sock").display()));
        command.args(arguments).arg("--pcap").arg(&path);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        sidecar.until("it has begun", |log| log.matches("trace started").count() > before);
        Self { child, path }
    }

    /// Waits for its end, and returns the content of the file and the last lines.
    fn ended(self) -> (Read, String) {
        let output = tokio::task::block_in_place(|| self.child.wait_with_output().unwrap());
        let lines = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{lines}");
        assert_eq!(self.path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        (Read::of(&self.path), lines)
    }
}

pub(super) fn sidecar(authority: &Authority, backend: &Backend, more: &str) -> Sidecar {
    let text = file::text(backend.address, &authority.server(), more);
    let socket = authority.dir().join("admin.sock");
    Sidecar::start(
        authority.dir(),
        &text.replace("[admin]\n", &format!("[admin]\nsocket = {socket:?}\n")),
    )
}

/// A network between devices and a sidecar that records the bytes of each connection: those of the device, and the others.
struct Wire {
    address: SocketAddr,
    recorded: Recorded,
}

/// The bytes of each connection, by its address at the sidecar.
type Recorded = Arc<Mutex<BTreeMap<SocketAddr, [Vec<u8>; 2]>>>;

impl Wire {
    async fn to(sidecar: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let recorded = Recorded::default();
        let records = Arc::clone(&recorded);
        tokio::spawn(async move {
            while let Ok((device, _)) = listener.accept().await {
                let proxy = TcpStream::connect(sidecar).await.unwrap();
                let name = proxy.local_addr().unwrap();
                let (device, proxy) = (device.into_split(), proxy.into_split());
                for (place, (mut from, mut to)) in
                    [(device.0, proxy.1), (proxy.0, device.1)].into_iter().enumerate()
                {
                    let records = Arc::clone(&records);
                    tokio::spawn(async move {
                        let mut chunk = vec![0; 1 << 16];
                        while let Ok(read @ 1..) = from.read(&mut chunk).await {
                            let bytes = &chunk[..read];
                            records.lock().unwrap().entry(name).or_default()[place].extend(bytes);
                            if to.write_all(&chunk[..read]).await.is_err() {
                                return;
                            }
                        }
                    });
                }
            }
        });
        Self { address, recorded }
    }
}

/// Sends so many bytes through an echo, and ends the session.
async fn visit(device: &Device, address: SocketAddr, bytes: usize) -> Vec<u8> {
    let mut session = device.connect(address).await.unwrap();
    let mut data = vec![0; bytes];
    Bytes::new(7).fill(&mut data);
    let (mut read, mut write) = tokio::io::split(&mut session);
    let sending = async {
        write.write_all(&data).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut echoed = Vec::new();
    let (_, read) =
        within("the echo", async { tokio::join!(sending, read.read_to_end(&mut echoed)) }).await;
    read.unwrap();
    assert!(echoed == data);
    data
}

#[tokio::test(flavor = "multi_thread")]
async fn the_capture_has_exactly_the_bytes_of_the_selected_connections() {
    let (authority, devices, backend) =
        (Authority::new("ca"), Authority::new("devices"), Backend::echo().await);
    let ca = devices.ca();
    let more = format!("tls.client_auth = \"optional\"\ntls.client_ca = {ca:?}\n");
    let mut sidecar = sidecar(&authority, &backend, &more);
    let wire = Wire::to(sidecar.address).await;
    // The name is known at the end of the handshake only: what was before is in the capture.
    let capture =
        Capture::start(&mut sidecar, authority.dir(), &["--identity", "pump-7", "--for", "3s"]);
    let pump = Device::showing(&authority, &devices.device("pump-7"));
    let other = Device::showing(&authority, &devices.device("pump-8"));
    visit(&other, wire.address, 10).await;
    visit(&pump, wire.address, 200_000).await;
    visit(&other, wire.address, 10).await;
    visit(&pump, wire.address, 5).await;
    let (read, lines) = capture.ended();
    assert!(read.secrets.is_empty(), "nobody has asked for them");
    assert_eq!(read.gaps, 0);
    assert!(!lines.contains("packets"), "{lines}");
    let recorded = wire.recorded.lock().unwrap();
    assert_eq!((recorded.len(), read.streams.len()), (4, 4), "two of four, in two directions");
    let mut captured = 0;
    for (name, [to_sidecar, to_device]) in &*recorded {
        let Some(stream) = read.streams.get(&(*name, sidecar.address)) else { continue };
        captured += 1;
        assert!(stream == to_sidecar && read.streams[&(sidecar.address, *name)] == *to_device);
    }
    assert_eq!(captured, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_hello_and_its_alert_are_in_the_capture() {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let mut sidecar = sidecar(&authority, &backend, "");
    let capture =
        Capture::start(&mut sidecar, authority.dir(), &["--peer", "127.0.0.1", "--for", "2s"]);
    let request = b"GET / HTTP/1.1\r\n\r\n";
    crate::support::raw::answer_to(sidecar.address, request).await;
    let (read, _) = capture.ended();
    let streams: Vec<_> = read.streams.values().cloned().collect();
    assert!(streams.contains(&request.to_vec()), "{streams:?}");
    assert!(streams.contains(&crate::support::raw::alert(10)), "{streams:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tshark_decrypts_the_file_alone_if_secrets_were_asked_for() {
    if !has("tshark") {
        return;
    }
    let (authority, devices, backend) =
        (Authority::new("ca"), Authority::new("devices"), Backend::echo().await);
    let ca = devices.ca();
    let more = format!("tls.client_auth = \"optional\"\ntls.client_ca = {ca:?}\n");
    let mut sidecar = sidecar(&authority, &backend, &more);
    let secrets = ["--peer", "127.0.0.1", "--for", "3s", "--pcap-secrets"];
    let with = Capture::start(&mut sidecar, authority.dir(), &secrets);
    let without = Capture::start(&mut sidecar, authority.dir(), &secrets[..4]);
    let named = ["--identity", "pump-7", "--for", "3s", "--pcap-secrets"];
    let named = Capture::start(&mut sidecar, authority.dir(), &named);
    let data = [
        visit(&Device::speaking(&authority, &TLS13), sidecar.address, 70_000).await,
        visit(&Device::speaking(&authority, &TLS12), sidecar.address, 3000).await,
    ];
    let pump = Device::showing(&authority, &devices.device("pump-7"));
    let of_pump = visit(&pump, sidecar.address, 500).await;
    let (with_path, without_path) = (with.path.clone(), without.path.clone());
    let (read, _) = with.ended();
    assert!(
        read.secrets.contains("CLIENT_TRAFFIC_SECRET_0 ")
            && read.secrets.contains("CLIENT_RANDOM ")
    );
    assert!(without.ended().0.secrets.is_empty());
    // Its packets are known after its handshake only.
    let named_path = named.path.clone();
    assert_eq!(named.ended().0.streams.len(), 2);
    assert_eq!(decrypted(&named_path, sidecar.address.port(), 0), [of_pump.clone(), of_pump]);
    for (number, data) in data.iter().enumerate() {
        let [sent, echoed] = decrypted(&with_path, sidecar.address.port(), number);
        assert!(sent == *data && echoed == *data, "{} and {} bytes", sent.len(), echoed.len());
        let nothing = decrypted(&without_path, sidecar.address.port(), number);
        assert!(nothing.iter().all(Vec::is_empty));
    }
    let faults = "tcp.analysis.flags || tcp.checksum.status == 0 || ip.checksum.status == 0 || _ws.malformed";
    let checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-Y", faults];
    assert_eq!(tshark(&with_path, sidecar.address.port(), &checks), "");
    // TLS is found without the port.
    let mut command = Command::new("tshark");
    command.arg("-r").arg(&with_path).args(["-Y", "tls.handshake.type == 1"]);
    let found = tokio::task::block_in_place(|| command.output().unwrap());
    assert_eq!(String::from_utf8(found.stdout).unwrap().lines().count(), 3);
}

/// Returns the output of tshark on a file.
fn tshark(path: &Path, port: u16, arguments: &[&str]) -> String {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(path).args(["-d", &format!("tcp.port=={port},tls")]).args(arguments);
    let output = tokio::task::block_in_place(|| command.output().unwrap());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the data of both directions of a TLS stream, as tshark decrypts it.
fn decrypted(path: &Path, port: u16, number: usize) -> [Vec<u8>; 2] {
    let followed = tshark(path, port, &["-q", "-z", &format!("follow,tls,raw,{number}")]);
    let mut data = [vec![], vec![]];
    for line in followed.lines() {
        // Lines of the server begin with a tab.
        let (place, hex) = line.strip_prefix('\t').map_or((0, line), |hex| (1, hex));
        if !hex.is_empty()
            && hex.len().is_multiple_of(2)
            && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        {
            let bytes = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
            data[place].extend(bytes);
        }
    }
    data
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_ipv6_are_in_the_capture() {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let socket = authority.dir().join("admin.sock");
    let text = file::text(backend.address, &authority.server(), "");
    let text = text.replace("[admin]\n", &format!("[admin]\nsocket = {socket:?}\n"));
    let text = text.replacen(
        "name = \"test\"\nlisten = \"127.0.0.1:0\"",
        "name = \"test\"\nlisten = \"[::1]:0\"",
        1,
    );
    let mut sidecar = Sidecar::start(authority.dir(), &text);
    let capture = Capture::start(&mut sidecar, authority.dir(), &["--peer", "::1", "--for", "2s"]);
    visit(&Device::new(&authority), sidecar.address, 5).await;
    let (read, _) = capture.ended();
    assert_eq!((read.streams.len(), read.gaps), (2, 0));
    assert!(read.streams.keys().all(|(from, to)| from.is_ipv6() && to.is_ipv6()));
    assert!(read.streams.keys().any(|(_, to)| *to == sidecar.address));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_is_cut_at_its_bound_and_says_so() {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let mut sidecar = sidecar(&authority, &backend, "");
    let bounded = ["--peer", "127.0.0.1", "--for", "3s", "--pcap-bytes", "50000"];
    let capture = Capture::start(&mut sidecar, authority.dir(), &bounded);
    visit(&Device::new(&authority), sidecar.address, 200_000).await;
    let (read, lines) = capture.ended();
    let bytes: usize = read.streams.values().map(Vec::len).sum();
    assert!((20_000..=50_000).contains(&bytes), "{bytes}");
    assert!(
        lines.contains("later ones are missing") && lines.contains("the capture was cut"),
        "{lines}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_too_slow_loses_packets_and_delays_no_device() {
    let fleet = Fleet::new(ClientAuth::Optional, |_, _| ()).await;
    let query = "peer=127.0.0.1&seconds=20&packets=1073741824";
    let mut trace: Trace = follow(&fleet, query).await;
    // More than the sockets and the queue hold, while nothing is read.
    let mut session = fleet.device("pump-7").connect(fleet.proxy.address).await.unwrap();
    let (mut read, mut write) = tokio::io::split(&mut session);
    let total = 30 << 20;
    within("all bytes", async {
        let sending = send(&mut write, 7, total, 1 << 16);
        tokio::join!(sending, receive_some(&mut read, total)).1
    })
    .await;
    drop(session);
    eventually("it has ended", || fleet.proxy.active() == 0).await;
    fleet.proxy.app.shutdown.drain();
    while trace.more().await {}
    let steps = trace.steps();
    let ended = find(&steps, "ended");
    assert!(ended["lost_packets"].as_u64().unwrap() > 100, "{ended}");
    assert_eq!(ended["truncated"], false);
    assert!(
        steps.iter().any(|step| step["step"] == "closed"),
        "steps are not displaced by packets"
    );
}
