//! Tests of what a ticket costs a device: its nonce, its size, and when it is renewed.
//!
//! **Not here.** Which tickets are accepted (`resumption.rs`).

use std::process::Command;

use socket2::SockRef;
use tlsidecar::config::{ClientAuth, ClientTrust};
use tokio::net::TcpStream;

use crate::resumption::s_client;
use crate::support::certs::Wish;
use crate::support::client::say_and_hear;
use crate::support::command::{has, run, skipped};
use crate::support::proxy::listener;
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Pair, Proxy};

/// A row of the table of bytes in docs/devices.md: the kind of the keys, and whether the device has a certificate.
struct Row {
    name: &'static str,
    authority: Authority,
    backend: Backend,
    server: Pair,
    device: Pair,
    has_certificate: bool,
}

impl Row {
    async fn new(name: &'static str, rsa: bool, has_certificate: bool) -> Self {
        let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
        let server = authority.issue("server", &Wish { rsa, ..Wish::default() });
        let wish = Wish { rsa, ..Wish::of_device(&["device-1"]) };
        let device = authority.issue("device", &wish);
        Self { name, authority, backend, server, device, has_certificate }
    }

    async fn all() -> [Self; 3] {
        [
            Self::new("ECDSA, none", false, false).await,
            Self::new("ECDSA, ECDSA", false, true).await,
            Self::new("RSA, RSA", true, true).await,
        ]
    }

    /// Starts a proxy that sends so many tickets of TLS 1.3.
    fn proxy(&self, tickets: u8) -> Proxy {
        let mut listener = listener(self.backend.config(), &self.server);
        listener.tls.tickets = tickets;
        if self.has_certificate {
            let trust = ClientTrust::new(self.authority.ca());
            listener.tls.client_auth = ClientAuth::Required(trust);
        }
        Proxy::with(listener)
    }

    /// Runs openssl with this version, which resumes the session in the file `offers`. If it gets a ticket, it saves the
    /// session in the file `saves`.
    async fn openssl(
        &self,
        proxy: &Proxy,
        version: &str,
        saves: &str,
        offers: Option<&str>,
    ) -> String {
        let path = |file: &str| self.authority.dir().join(format!("{file}{version}"));
        let offered = offers.map(|file| path(file).display().to_string());
        let mut arguments = vec![version, "-msg"];
        arguments.extend(offered.iter().flat_map(|file| ["-sess_in", file]));
        let at = proxy.address.to_string();
        let text = s_client(&at, &self.device, &path(saves), &arguments).await;
        let kind = if offers.is_some() { "Reused, " } else { "New, " };
        assert!(text.contains(kind), "{} {version}: {text}", self.name);
        text
    }
}

/// Returns the tickets' messages in the output of `openssl s_client -msg`.
fn tickets(text: &str) -> Vec<Vec<u8>> {
    let received = text.split("<<< ").filter(|message| {
        message.lines().next().is_some_and(|title| title.ends_with("NewSessionTicket"))
    });
    let bytes = received.map(|message| {
        let lines = message.lines().skip(1).take_while(|line| line.starts_with("    "));
        let bytes = lines.flat_map(str::split_whitespace);
        bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    });
    bytes.collect()
}

/// Returns the bytes that openssl has received in its handshake.
fn handshake_bytes(text: &str) -> usize {
    let bytes = text.split("SSL handshake has read ").nth(1).unwrap();
    bytes.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nonce_of_a_tls_1_3_ticket_has_one_byte() {
    let row = Row::new("ECDSA, none", false, false).await;
    let proxy = row.proxy(3);
    for (saves, offers) in [("first", None), ("second", Some("first"))] {
        let text = row.openssl(&proxy, "-tls1_3", saves, offers).await;
        // Type, length, lifetime and ticket_age_add come before it.
        let nonces: Vec<_> = tickets(&text).iter().map(|ticket| ticket[12..14].to_vec()).collect();
        assert_eq!(nonces, [[1, 0], [1, 1], [1, 2]], "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_1_2_resumption_sends_no_ticket_and_141_bytes() {
    for row in Row::all().await {
        let proxy = row.proxy(1);
        let full = row.openssl(&proxy, "-tls1_2", "first", None).await;
        assert_eq!(tickets(&full).len(), 1, "{}", row.name);
        // The device goes on using its first ticket.
        for saves in ["none", "none-again"] {
            let text = row.openssl(&proxy, "-tls1_2", saves, Some("first")).await;
            assert_eq!((tickets(&text).len(), handshake_bytes(&text)), (0, 141), "{}", row.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_has_few_bytes_beside_the_devices_own_certificate() {
    for row in Row::all().await {
        let proxy = row.proxy(1);
        let own = if row.has_certificate { row.device.load().0[0].len() } else { 0 };
        for (version, most) in [("-tls1_2", 170), ("-tls1_3", 160)] {
            let text = row.openssl(&proxy, version, "first", None).await;
            let [ticket] = &tickets(&text)[..] else { panic!("{text}") };
            let beside = ticket.len() - own;
            assert!(beside <= most, "{} {version}: {beside} bytes beside {own}", row.name);
        }
    }
}

#[tokio::test]
async fn a_device_that_sends_nothing_gets_its_ticket_as_well() {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let proxy = Proxy::with(listener(backend.config(), &authority.server()));
    let session = Device::new(&authority).connect(proxy.address).await.unwrap();
    let tcp = session.get_ref().0;
    let mut ticket = [0; 1];
    within("the ticket", async {
        tcp.readable().await.unwrap();
        assert_eq!(tcp.peek(&mut ticket).await.unwrap(), 1);
    })
    .await;
    assert_eq!(ticket, [23], "a sealed record");
}

#[tokio::test]
async fn a_ticket_takes_no_packet_of_its_own_from_a_device_that_speaks_first() {
    if !has("ss") && skipped("ss is not installed") {
        return;
    }
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let proxy = Proxy::with(listener(backend.config(), &authority.server()));
    let tcp = TcpStream::connect(proxy.address).await.unwrap();
    // The message leaves with the end of the handshake.
    SockRef::from(&tcp).set_tcp_cork(true).unwrap();
    let mut session = Device::new(&authority).connect_over(tcp).await.unwrap();
    say_and_hear(&mut session, b"ping").await.unwrap();
    let mut ss = Command::new("ss");
    let port = session.get_ref().0.local_addr().unwrap().port();
    ss.args(["--no-header", "--tcp", "--info", &format!("sport = :{port}")]);
    let (_, info) = run(ss).await;
    assert!(info.contains("data_segs_in:2"), "the flight, then ticket and answer: {info}");
}
