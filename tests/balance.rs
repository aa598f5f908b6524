//! Several backends: their policies, the failure and the return of one, checks, the time and the number of connects.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tlsidecar::config::{
    BackendAddress, BackendList, BalancePolicy, ClientAuth, ClientTrust, ConnectTime,
    ListenerConfig, SendHeader, Timeouts, UnknownName,
};
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::support::backend::{FullBacklog, echo, nobody, read_all, silent_port};
use crate::support::client::Session;
use crate::support::file;
use crate::support::process::ask;
use crate::support::proxy::{closed_series, listener};
use crate::support::raw::{alert, answer_to, client_hello};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Proxy, Sidecar, eventually};

/// The first bytes of a server that speaks first.
const GREETING: &[u8] = b"220 ready\r\n";

/// The alert `internal_error`: RFC 8446 section 6.2.
const INTERNAL_ERROR: u8 = 80;

fn address(address: SocketAddr) -> BackendAddress {
    address.to_string().parse::<BackendAddress>().unwrap()
}

/// Returns a listener with these backends.
fn several(
    backends: &[SocketAddr],
    policy: BalancePolicy,
    authority: &Authority,
) -> ListenerConfig {
    let list = backends.iter().map(|&backend| address(backend)).collect();
    let mut listener = listener(address(backends[0]), &authority.server());
    listener.backend = BackendList::new(list);
    listener.balance.policy = policy;
    listener
}

/// Returns a proxy that connects to its backend before the handshake.
fn before_handshake(backend: SocketAddr, authority: &Authority) -> ListenerConfig {
    let mut listener = listener(address(backend), &authority.server());
    listener.balance.connect = ConnectTime::BeforeHandshake;
    listener
}

/// Returns the number of connects of devices to this backend with this result.
fn connects(proxy: &Proxy, backend: SocketAddr, result: &str) -> u64 {
    let labels = format!("backend=\"{backend}\",listener=\"test\",result=\"{result}\"");
    proxy.count(&format!("tlsidecar_backend_connects_total{{{labels}}}"))
}

/// Returns a gauge of this backend; none if it is not exported.
fn gauge(proxy: &Proxy, name: &str, backend: SocketAddr) -> Option<u64> {
    let series = format!("tlsidecar_backend_{name}{{backend=\"{backend}\",listener=\"test\"}}");
    crate::support::proxy::metric(&proxy.text(), &series)
}

async fn is_closed(session: &mut Session) {
    assert_eq!(within("the end", session.read(&mut [0; 1])).await.unwrap(), 0);
}

#[tokio::test]
async fn the_first_backend_gets_every_device_while_it_works() {
    let authority = Authority::new("ca");
    let (first, second) = (Backend::echo().await, Backend::echo().await);
    let backends = [first.address, second.address];
    let proxy = Proxy::with(several(&backends, BalancePolicy::First, &authority));
    for _ in 0..4 {
        Device::new(&authority).echo(proxy.address).await.unwrap();
    }
    assert_eq!((first.connections(), second.connections()), (4, 0));
}

#[tokio::test]
async fn round_robin_gives_devices_to_one_backend_after_the_other() {
    let authority = Authority::new("ca");
    let all = [Backend::echo().await, Backend::echo().await, Backend::echo().await];
    let backends = [&all[0], &all[1], &all[2]].map(|backend| backend.address);
    let proxy = Proxy::with(several(&backends, BalancePolicy::RoundRobin, &authority));
    for round in 1..=3 {
        for _ in 0..3 {
            Device::new(&authority).echo(proxy.address).await.unwrap();
        }
        assert_eq!([&all[0], &all[1], &all[2]].map(Backend::connections), [round; 3]);
    }
}

#[tokio::test]
async fn least_sessions_gives_a_device_to_the_backend_with_the_fewest() {
    let authority = Authority::new("ca");
    let (a, b) = (Backend::echo().await, Backend::echo().await);
    let backends = [a.address, b.address];
    let proxy = Proxy::with(several(&backends, BalancePolicy::LeastSessions, &authority));
    let device = Device::new(&authority);
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(device.echo(proxy.address).await.unwrap());
    }
    let held = || backends.map(|backend| gauge(&proxy, "sessions", backend).unwrap());
    assert_eq!(held(), [2, 2]);
    // The first and the third are at one backend: whichever was first.
    sessions.remove(2);
    sessions.remove(0);
    eventually("two sessions end", || held().iter().sum::<u64>() == 2).await;
    for _ in 0..2 {
        sessions.push(device.echo(proxy.address).await.unwrap());
    }
    assert_eq!(held(), [2, 2]);
    assert_eq!(a.connections() + b.connections(), 6);
}

#[tokio::test]
async fn a_device_of_a_backend_that_fails_gets_the_next_one_and_others_do_not_try_it() {
    let authority = Authority::new("ca");
    let second = Backend::echo().await;
    let down = nobody();
    let proxy = Proxy::with(several(&[down, second.address], BalancePolicy::First, &authority));
    let device = Device::new(&authority);
    let begun = Instant::now();
    for _ in 0..3 {
        device.echo(proxy.address).await.unwrap();
    }
    // A pause has at least three quarters of a second.
    if begun.elapsed() < Duration::from_millis(700) {
        assert_eq!(connects(&proxy, down, "refused"), 1);
    }
    assert_eq!(connects(&proxy, second.address, "ok"), 3);
    let state = |name| [down, second.address].map(|backend| gauge(&proxy, name, backend));
    assert_eq!(state("up"), [Some(0), Some(1)]);
    assert_eq!(state("has_replacement"), [Some(1), Some(0)]);
    assert_eq!(proxy.closed(Reason::BackendRefused), 0);
}

#[tokio::test]
async fn a_backend_that_has_returned_gets_devices_again_after_its_pause() {
    let authority = Authority::new("ca");
    let (socket, second) = (silent_port(), Backend::echo().await);
    let place = socket.local_addr().unwrap();
    let proxy = Proxy::with(several(&[place, second.address], BalancePolicy::First, &authority));
    let device = Device::new(&authority);
    device.echo(proxy.address).await.unwrap();
    assert_eq!((connects(&proxy, place, "refused"), second.connections()), (1, 1));
    let first = Backend::on(socket.listen(16).unwrap(), echo);
    let returned = async {
        while first.connections() == 0 {
            device.echo(proxy.address).await.unwrap();
        }
    };
    within("the first backend gets a device", returned).await;
    let before = second.connections();
    for _ in 0..3 {
        device.echo(proxy.address).await.unwrap();
    }
    assert_eq!((first.connections(), second.connections()), (4, before));
}

#[tokio::test]
async fn if_all_backends_are_down_devices_are_closed_at_once_and_the_first_one_after_a_return_is_served()
 {
    let authority = Authority::new("ca");
    let (down, socket) = (nobody(), silent_port());
    let place = socket.local_addr().unwrap();
    let proxy = Proxy::with(several(&[down, place], BalancePolicy::First, &authority));
    let device = Device::new(&authority);
    for _ in 0..5 {
        is_closed(&mut device.connect(proxy.address).await.unwrap()).await;
    }
    proxy.end_with(Reason::BackendRefused, 5).await;
    assert_eq!(connects(&proxy, place, "refused"), 5, "each device tries each address");
    let _back = Backend::on(socket.listen(16).unwrap(), echo);
    device.echo(proxy.address).await.unwrap();
}

#[tokio::test]
async fn a_backend_that_does_not_answer_leaves_time_for_the_next_one() {
    let authority = Authority::new("ca");
    let (full, good) = (FullBacklog::new().await, Backend::echo().await);
    let mut listener = several(&[full.address, good.address], BalancePolicy::First, &authority);
    listener.timeouts = Timeouts { connect: Duration::from_secs(1), ..Timeouts::default() };
    let proxy = Proxy::with(listener);
    Device::new(&authority).echo(proxy.address).await.unwrap();
    assert_eq!(connects(&proxy, full.address, "timeout"), 1);
}

#[tokio::test]
async fn checks_show_the_state_of_backends_without_a_device_and_end_a_pause() {
    let authority = Authority::new("ca");
    let (socket, second) = (silent_port(), Backend::echo().await);
    let place = socket.local_addr().unwrap();
    let mut listener = several(&[place, second.address], BalancePolicy::First, &authority);
    listener.balance.check_interval = Some(Duration::from_millis(50));
    let proxy = Proxy::with(listener);
    let up = |backend| gauge(&proxy, "up", backend);
    let known = || (up(place), up(second.address)) == (Some(0), Some(1));
    eventually("both were checked", known).await;
    assert_eq!(connects(&proxy, second.address, "ok"), 0, "checks are not counted");
    let first = Backend::on(socket.listen(16).unwrap(), echo);
    eventually("its return is noticed", || up(place) == Some(1)).await;
    Device::new(&authority).echo(proxy.address).await.unwrap();
    assert_eq!(connects(&proxy, place, "ok"), 1);
    assert!(first.connections() >= 2, "a check and a device");
}

#[tokio::test]
async fn a_device_whose_backend_is_down_gets_an_alert_before_any_cryptography() {
    let authority = Authority::new("ca");
    let proxy = Proxy::with(before_handshake(nobody(), &authority));
    let answer = answer_to(proxy.address, &client_hello()).await;
    assert_eq!(answer, alert(INTERNAL_ERROR), "no ServerHello");
    proxy.ends_with(Reason::BackendRefused).await;
}

#[tokio::test]
async fn a_device_that_fails_its_handshake_closes_the_backend_that_was_connected_before() {
    let authority = Authority::new("ca");
    let (ended, mut ends) = mpsc::unbounded_channel();
    let backend = Backend::serving(move |mut tcp: TcpStream| {
        let ended = ended.clone();
        async move { ended.send(read_all(&mut tcp).await.unwrap()).unwrap() }
    })
    .await;
    let mut listener = before_handshake(backend.address, &authority);
    listener.tls.client_auth = ClientAuth::Required(ClientTrust::new(authority.ca()));
    let proxy = Proxy::with(listener);
    Device::new(&authority).refused_with(proxy.address).await;
    proxy.ends_with(Reason::ClientCertMissing).await;
    let got = within("the backend's connection ends", ends.recv()).await;
    assert_eq!(got, Some(Vec::new()), "and no byte was sent");
}

#[tokio::test]
async fn a_device_whose_server_name_is_refused_does_not_reach_the_backend() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = before_handshake(backend.address, &authority);
    listener.unknown_name = UnknownName::Refuse;
    let proxy = Proxy::with(listener);
    let device = Device::new(&authority).asking_for("elsewhere.example");
    device.connect(proxy.address).await.unwrap_err();
    proxy.ends_with(Reason::ClientNameUnknown).await;
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_whenever_it_is_connected() {
    let authority = Authority::new("ca");
    let backend = Backend::serving(|mut tcp| async move {
        tcp.write_all(GREETING).await.unwrap();
        echo(tcp).await;
    })
    .await;
    for connect in [ConnectTime::BeforeHandshake, ConnectTime::AfterHandshake] {
        let mut listener = before_handshake(backend.address, &authority);
        listener.balance.connect = connect;
        let proxy = Proxy::with(listener);
        let mut session = Device::new(&authority).connect(proxy.address).await.unwrap();
        let mut heard = vec![0; GREETING.len()];
        within("the greeting", session.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard, GREETING, "{connect:?}");
        crate::support::client::say_and_hear(&mut session, b"ping").await.unwrap();
    }
}

#[tokio::test]
async fn a_backend_that_was_connected_before_gets_its_header_first() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = before_handshake(backend.address, &authority);
    listener.proxy_protocol.send = SendHeader::V1;
    let proxy = Proxy::with(listener);
    let mut session = Device::new(&authority).connect(proxy.address).await.unwrap();
    session.write_all(b"ping").await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"ping") {
        heard.push(within("the echo", session.read_u8()).await.unwrap());
    }
    assert!(heard.starts_with(b"PROXY TCP4 127.0.0.1 127.0.0.1 "), "{heard:?}");
}

/// Returns a backend that never answers, a proxy that makes one connect at a time to it, and a device.
async fn one_connect_at_a_time(connect: Duration) -> (FullBacklog, Proxy, Device) {
    let authority = Authority::new("ca");
    let full = FullBacklog::new().await;
    let mut listener = listener(address(full.address), &authority.server());
    listener.balance.max_connects_in_progress = Some(1);
    listener.timeouts = Timeouts { connect, ..Timeouts::default() };
    (full, Proxy::with(listener), Device::new(&authority))
}

#[tokio::test]
async fn more_connects_than_may_be_in_progress_wait_and_end_within_the_timeout() {
    let (full, proxy, device) = one_connect_at_a_time(Duration::from_secs(1)).await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(device.connect(proxy.address).await.unwrap());
    }
    let waiting = || gauge(&proxy, "connects_waiting", full.address).unwrap();
    eventually("two of them wait", || waiting() == 2).await;
    for session in &mut sessions {
        is_closed(session).await;
    }
    proxy.end_with(Reason::BackendTimeout, 3).await;
    assert_eq!(waiting(), 0);
}

#[tokio::test]
async fn a_device_that_left_while_it_waited_for_its_connect_does_not_reach_the_backend() {
    // Long enough for the second device to leave before the first one's connect ends.
    let (full, proxy, device) = one_connect_at_a_time(Duration::from_secs(5)).await;
    let mut first = device.connect(proxy.address).await.unwrap();
    let second = device.connect(proxy.address).await.unwrap();
    let waiting = || gauge(&proxy, "connects_waiting", full.address).unwrap();
    eventually("it waits", || waiting() == 1).await;
    second.get_ref().0.set_zero_linger().unwrap();
    drop(second);
    is_closed(&mut first).await;
    eventually("both end", || proxy.active() == 0).await;
    assert_eq!(proxy.closed(Reason::ClientReset), 1);
    assert_eq!(connects(&proxy, full.address, "timeout"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_the_state_of_an_address_that_stays() {
    let authority = Authority::new("ca");
    let (first, second) = (Backend::echo().await, Backend::echo().await);
    let text = file::text(first.address, &authority.server(), "");
    let one = format!("backend = \"{}\"", first.address);
    let list = format!("backend = [\"{}\", \"{}\"]", second.address, first.address);
    let policy = "balance.policy = \"round_robin\"";
    let sidecar = Sidecar::start(authority.dir(), &text);
    let device = Device::new(&authority);
    let _kept = device.echo(sidecar.address).await.unwrap();
    file::write(authority.dir(), &text.replace(&one, &format!("{list}\n{policy}")));
    assert_eq!(ask(sidecar.admin, "POST", "/reload", "").unwrap().0, 200);
    let gauge = |name: &str, backend| {
        format!("tlsidecar_backend_{name}{{backend=\"{backend}\",listener=\"test\"}}")
    };
    let ok = |backend| {
        let labels = format!("backend=\"{backend}\",listener=\"test\",result=\"ok\"");
        sidecar.count(&format!("tlsidecar_backend_connects_total{{{labels}}}"))
    };
    assert_eq!((ok(first.address), ok(second.address)), (1, 0));
    assert_eq!(sidecar.count(&gauge("sessions", first.address)), 1, "the session is still counted");
    // It was chosen before, and the other one never.
    let _second = device.echo(sidecar.address).await.unwrap();
    assert_eq!((ok(first.address), ok(second.address)), (1, 1));
    assert_eq!(sidecar.count(&closed_series(Reason::BackendRefused)), 0);
}

#[tokio::test]
async fn status_shows_each_address_of_a_list() {
    let authority = Authority::new("ca");
    let (good, down) = (Backend::echo().await, nobody());
    let proxy = Proxy::with(several(&[down, good.address], BalancePolicy::First, &authority));
    let _session = Device::new(&authority).echo(proxy.address).await.unwrap();
    let admin = proxy.app.admin.unwrap();
    let asking = tokio::task::spawn_blocking(move || ask(admin, "GET", "/status", "").unwrap());
    let (_, status) = within("the status", asking).await.unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let of = |backend: SocketAddr| {
        let all = status["backends"].as_array().unwrap();
        all.iter().find(|one| one["backend"] == backend.to_string()).unwrap().clone()
    };
    let (down, good) = (of(down), of(good.address));
    assert_eq!((&down["up"], &down["has_replacement"]), (&false.into(), &true.into()));
    assert_eq!((&good["up"], &good["has_replacement"]), (&true.into(), &false.into()));
    assert_eq!((&down["sessions"], &good["sessions"]), (&0.into(), &1.into()));
}

#[tokio::test]
async fn a_backend_that_returns_on_another_listening_socket_is_found_without_a_pause() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let place = backend.address;
    let mut listener = listener(address(place), &authority.server());
    listener.balance.connect = ConnectTime::BeforeHandshake;
    let proxy = Proxy::with(listener);
    let device = Device::new(&authority);
    device.echo(proxy.address).await.unwrap();
    backend.end().await;
    for _ in 0..5 {
        device.connect(proxy.address).await.unwrap_err();
    }
    eventually("they were refused", || proxy.closed(Reason::BackendRefused) == 5).await;
    let _back = Backend::on(TcpListener::bind(place).await.unwrap(), echo);
    device.echo(proxy.address).await.unwrap();
}

#[test]
fn a_process_with_checks_ends_as_one_without() {
    let authority = Authority::new("ca");
    let text = file::text(nobody(), &authority.server(), "balance.check_interval = \"1s\"\n");
    let mut sidecar = Sidecar::start(authority.dir(), &text);
    sidecar.until("a check has failed", |log| log.contains("backend failed, paused"));
    sidecar.signal("TERM");
    assert!(sidecar.ended().success());
}
