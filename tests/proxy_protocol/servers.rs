//! nginx and HAProxy as senders and receivers of PROXY protocol headers.
//!
//! mosquitto reads them from version 2.1 on, which Debian 12 does not have.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use tlsidecar::config::{BackendAddress, Cidr, HeaderTlv, ProxyProtocol, SendHeader};
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::support::backend::free;
use crate::support::client::say_and_hear;
use crate::support::command::{Running, has, skipped};
use crate::support::process::ask;
use crate::support::proxy::listener;
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Proxy, eventually};

/// The stream module of Debian's nginx.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

fn has_nginx() -> bool {
    has("nginx")
        && (Path::new(STREAM_MODULE).exists()
            || skipped("nginx has no stream module on this machine"))
}

/// Runs a server with this configuration until it accepts at `address`.
async fn run(program: &str, dir: &Path, text: &str, address: SocketAddr) -> Running {
    let config = dir.join(format!("{program}.conf"));
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(program);
    match program {
        "nginx" => command.arg("-p").arg(dir).arg("-e").arg("stderr").arg("-c").arg(&config),
        _ => command.arg("-db").arg("-f").arg(&config),
    };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running(command.spawn().unwrap());
    eventually("it accepts", || TcpStream::connect(address).is_ok()).await;
    running
}

/// Runs nginx with this server in its stream module.
async fn nginx(dir: &Path, server: &str, address: SocketAddr) -> Running {
    let text = format!(
        "load_module {STREAM_MODULE};\ndaemon off;\nmaster_process off;\npid nginx.pid;\n\
         error_log stderr;\nevents {{}}\nstream {{ server {{ listen {address} {server} }} }}\n"
    );
    run("nginx", dir, &text, address).await
}

/// Runs HAProxy with these sections.
async fn haproxy(dir: &Path, sections: &str, address: SocketAddr) -> Running {
    let text = format!(
        "defaults\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n{sections}\n"
    );
    run("haproxy", dir, &text, address).await
}

/// Connects a device to a proxy with this backend and header. Sends `request`, and returns the answer of the server
/// and the addresses of the device.
async fn answer_of(server: SocketAddr, header: ProxyProtocol, request: &[u8]) -> (String, String) {
    let authority = Authority::new("ca");
    let backend = server.to_string().parse::<BackendAddress>().unwrap();
    let mut listener = listener(backend, &authority.server());
    listener.proxy_protocol = header;
    let proxy = Proxy::with(listener);
    let mut session = Device::new(&authority).connect(proxy.address).await.unwrap();
    session.write_all(request).await.unwrap();
    let mut answer = String::new();
    within("the answer", session.read_to_string(&mut answer)).await.unwrap();
    let (from, to) = (session.get_ref().0.local_addr().unwrap(), proxy.address);
    (answer, format!("{} {} {} {}", from.ip(), from.port(), to.ip(), to.port()))
}

fn v1() -> ProxyProtocol {
    ProxyProtocol { send: SendHeader::V1, ..ProxyProtocol::default() }
}

fn v2() -> ProxyProtocol {
    use HeaderTlv::{Alpn, Authority, ClientCert, Crc32c, Ssl, UniqueId};
    let tlvs = vec![Ssl, Alpn, Authority, UniqueId, Crc32c, ClientCert];
    ProxyProtocol { send: SendHeader::V2, tlvs, ..ProxyProtocol::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_reads_the_addresses_of_a_device() {
    if !has_nginx() {
        return;
    }
    let (dir, address) = (tempfile::tempdir().unwrap(), free());
    let names = "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port";
    // It speaks first.
    let server = format!("proxy_protocol; return \"{names}\";");
    let _nginx = nginx(dir.path(), &server, address).await;
    // nginx 1.22 accepts headers of at most 107 bytes.
    let short = ProxyProtocol { tlvs: vec![HeaderTlv::UniqueId, HeaderTlv::Crc32c], ..v2() };
    for header in [v1(), short] {
        let (answer, addresses) = answer_of(address, header, b"").await;
        assert_eq!(answer, addresses);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_reads_the_addresses_and_the_tlvs_of_a_device() {
    if !has("haproxy") {
        return;
    }
    let (dir, address) = (tempfile::tempdir().unwrap(), free());
    let answer = "%[src] %[src_port] %[dst] %[dst_port]|%[fc_pp_authority]|%[fc_pp_unique_id]";
    let frontend = format!(
        "frontend f\n mode http\n bind {address} accept-proxy\n http-request return status 200 \
         content-type text/plain lf-string \"{answer}\""
    );
    let _haproxy = haproxy(dir.path(), &frontend, address).await;
    for header in [v1(), v2()] {
        let is_v2 = header.send == SendHeader::V2;
        let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let (answer, addresses) = answer_of(address, header, request).await;
        let body = answer.rsplit("\r\n").next().unwrap();
        let [found, authority, id] = body.split('|').collect::<Vec<_>>()[..] else {
            panic!("{answer}");
        };
        assert_eq!(found, addresses);
        assert_eq!(
            (authority, id.is_empty()),
            if is_v2 { ("localhost", false) } else { ("", true) }
        );
    }
}

/// Returns a proxy before an echo that expects headers from 127.0.0.1.
async fn behind() -> (Authority, Backend, Proxy) {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    listener.proxy_protocol.accept_from = vec!["127.0.0.1".parse::<Cidr>().unwrap()];
    let proxy = Proxy::with(listener);
    (authority, backend, proxy)
}

/// Connects a device from 127.0.0.77 through the server at `address`, and compares its address in `/sessions`.
async fn is_named_behind(address: SocketAddr, authority: &Authority, proxy: &Proxy) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 77], 0))).unwrap();
    let tcp = within("it connects", socket.connect(address)).await.unwrap();
    let mut session = Device::new(authority).connect_over(tcp).await.unwrap();
    say_and_hear(&mut session, b"ping").await.unwrap();
    let from = session.get_ref().0.local_addr().unwrap();
    let admin = proxy.app.admin.unwrap();
    let (_, text) = ask(admin, "GET", &format!("/sessions?peer={from}"), "").unwrap();
    let listed = &serde_json::from_str::<serde_json::Value>(&text).unwrap()["sessions"][0];
    assert_eq!(listed["peer"], from.to_string(), "{text}");
    assert!(listed["via"].as_str().unwrap().starts_with("127.0.0.1:"), "{text}");
    session.shutdown().await.unwrap();
    eventually("it has ended", || proxy.closed(Reason::Ok) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_behind_nginx_is_known_by_its_address() {
    if !has_nginx() {
        return;
    }
    let (authority, _backend, proxy) = behind().await;
    let address = free();
    let server = format!("; proxy_pass {}; proxy_protocol on;", proxy.address);
    let _nginx = nginx(authority.dir(), &server, address).await;
    is_named_behind(address, &authority, &proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_behind_haproxy_is_known_by_its_address_and_health_checks_are_probes() {
    if !has("haproxy") {
        return;
    }
    for option in ["send-proxy", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
        let (authority, _backend, proxy) = behind().await;
        let address = free();
        let sections = format!(
            "listen l\n mode tcp\n bind {address}\n unique-id-format %ci_%cp\n server s {} {option} check inter 50ms",
            proxy.address
        );
        let _haproxy = haproxy(authority.dir(), &sections, address).await;
        is_named_behind(address, &authority, &proxy).await;
        eventually("it is checked", || proxy.closed(Reason::ClientProbe) > 2).await;
        let invalid = [Reason::ProxyHeaderInvalid, Reason::ClientTlsEof, Reason::ClientReset];
        assert!(invalid.iter().all(|&reason| proxy.closed(reason) == 0), "{}", proxy.text());
    }
}

/// Returns the blocks of this kind in the page about the PROXY protocol.
fn blocks(kind: &str) -> Vec<String> {
    let page = include_str!("../../docs/proxy-protocol.md");
    let fence = format!("```{kind}\n");
    let blocks = page.split(&fence).skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Runs a program that checks a configuration, with its file as the last argument.
fn is_valid(program: &str, arguments: &[&str], text: &str) {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("checked.conf");
    std::fs::write(&config, text).unwrap();
    let checked = Command::new(program).args(arguments).arg(&config).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn the_configurations_of_the_page_are_valid() {
    let listener = "[[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\nbackend = \"127.0.0.1:1\"\n\
                    tls.certificates = [{ cert = \"/dev/null\", key = \"/dev/null\" }]\n";
    for block in blocks("toml") {
        let parsed = tlsidecar::config::file::parse(&format!("{listener}{block}"), Path::new("a"));
        let problems = parsed.map_or_else(|error| error.to_string(), |_| String::new());
        assert!(!problems.contains("proxy_protocol"), "{problems}");
    }
    let (haproxy, nginx) = (blocks("haproxy"), blocks("nginx"));
    assert_eq!((blocks("toml").len(), haproxy.len(), nginx.len()), (2, 2, 2));
    if has("haproxy") {
        haproxy.iter().for_each(|block| is_valid("haproxy", &["-c", "-f"], block));
    }
    if has_nginx() {
        for block in nginx {
            let pid = tempfile::tempdir().unwrap();
            let text = format!(
                "load_module {STREAM_MODULE};\npid {}/nginx.pid;\nevents {{}}\nstream {{\n{block}}}\n",
                pid.path().display()
            );
            is_valid("nginx", &["-t", "-q", "-e", "stderr", "-c"], &text);
        }
    }
}
