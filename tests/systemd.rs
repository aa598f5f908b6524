//! Notifications to systemd, and sockets from it.
//!
//! The real binary runs with a socket of the test in place of systemd's. `tests/deploy/package.sh` uses the real systemd.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tlsidecar::config::{self, ClientAuth};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::certs::replace;
use crate::support::client::say_and_hear;
use crate::support::file;
use crate::support::process::{binary, by_shell};
use crate::support::wait::{PATIENCE, within};
use crate::support::{Authority, Backend, Device, Sidecar};

/// Everything that is needed to run a sidecar under a service manager.
struct Scene {
    authority: Authority,
    backend: Backend,
    manager: Manager,
}

impl Scene {
    async fn new() -> Self {
        let authority = Authority::new("ca");
        Self { authority, backend: Backend::echo().await, manager: Manager::new() }
    }

    /// Returns a command that runs it as a service, with `more` in the configuration.
    fn service(&self, more: &str) -> Command {
        let mut command = binary();
        self.serve(&mut command, more);
        command
    }

    fn serve(&self, command: &mut Command, more: &str) {
        let text = file::text(self.backend.address, &self.authority.server(), more);
        command.arg("--config").arg(file::write(self.authority.dir(), &text));
        command.env("NOTIFY_SOCKET", self.manager.path());
    }

    /// Returns a command that also passes a socket, as systemd does for a socket unit with `FileDescriptorName=`.
    fn activated(&self, socket: impl Into<OwnedFd>, name: &str) -> Command {
        // LISTEN_PID has to be the id of the process itself.
        let mut command = by_shell("LISTEN_PID=$$ exec \"$@\" 3<&0 </dev/null");
        self.serve(&mut command, "[shutdown]\ndrain_timeout = \"0s\"\n");
        command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
        command.stdin(Stdio::from(socket.into()));
        command
    }

    fn device(&self) -> Device {
        Device::new(&self.authority)
    }
}

/// The socket of a service manager.
struct Manager {
    dir: TempDir,
    socket: UnixDatagram,
}

/// The assignments in a message.
type Message = BTreeMap<String, String>;

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        Self { dir, socket }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("notify")
    }

    /// Returns the next message, or none after the timeout.
    fn next_within(&self, time: Duration) -> Option<Message> {
        let deadline = Instant::now() + time;
        let mut bytes = [0; 4096];
        let length = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            match self.socket.recv(&mut bytes) {
                Ok(length) => break length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                // With a timeout, recv is not restarted after a signal (SIGCHLD): signal(7).
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        };
        let text = std::str::from_utf8(&bytes[..length]).unwrap();
        let assigned = |line: &str| {
            let (key, value) = line.split_once('=').unwrap();
            (key.to_owned(), value.to_owned())
        };
        Some(text.lines().map(assigned).collect())
    }

    /// Returns the next message that assigns `key`.
    fn until(&self, key: &str) -> Message {
        self.until_it(key, |message| message.contains_key(key))
    }

    /// Returns the next message for which `wanted` holds.
    fn until_it(&self, what: &str, wanted: impl Fn(&Message) -> bool) -> Message {
        let deadline = Instant::now() + PATIENCE;
        let mut others = Vec::new();
        let left = || deadline.saturating_duration_since(Instant::now());
        while let Some(message) = self.next_within(left()) {
            if wanted(&message) {
                return message;
            }
            others.push(message);
        }
        panic!("no {what} among {others:?}");
    }

    /// Returns all messages that have arrived.
    fn so_far(&self) -> Vec<Message> {
        std::iter::from_fn(|| self.next_within(Duration::from_millis(1))).collect()
    }
}

/// Runs a shell script.
fn by_hand(script: &str) {
    assert!(Command::new("sh").args(["-c", script]).status().unwrap().success());
}

/// Returns the time by the clock of MONOTONIC_USEC.
fn monotonic_usec() -> u128 {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    Duration::from_secs_f64(seconds).as_micros()
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_is_sent_once_devices_are_served_with_the_number_of_listeners() {
    let scene = Scene::new().await;
    let sidecar = Sidecar::run(scene.service(""));
    let message = scene.manager.next_within(PATIENCE).unwrap();
    assert_eq!(message["READY"], "1");
    assert_eq!(message["STATUS"], "listening on 1 listener");
    drop(scene.device().echo(sidecar.address).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_is_not_sent_by_a_process_that_cannot_start() {
    let scene = Scene::new().await;
    let mut command = scene.service("");
    replace(&scene.authority.dir().join("server.key"), "rubbish");
    assert_eq!(command.output().unwrap().status.code(), Some(78));
    assert_eq!(scene.manager.so_far(), Vec::<Message>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_notify_socket_does_not_stop_the_process() {
    let scene = Scene::new().await;
    let mut command = scene.service("");
    command.env("NOTIFY_SOCKET", "/nonexistent/notify").env("WATCHDOG_USEC", "100000");
    let sidecar = Sidecar::run(command);
    drop(scene.device().echo(sidecar.address).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_by_signal_is_reported_at_its_start_and_its_end() {
    let scene = Scene::new().await;
    let sidecar = Sidecar::run(scene.service(""));
    scene.manager.until("READY");
    // The clock was read with a resolution of 10 ms.
    let before = monotonic_usec();
    sidecar.signal("HUP");
    let reloading = scene.manager.next_within(PATIENCE).unwrap();
    assert_eq!(reloading["RELOADING"], "1");
    let at: u128 = reloading["MONOTONIC_USEC"].parse().unwrap();
    assert!((before..=monotonic_usec() + 10_000).contains(&at), "{at} is not after {before}");
    let ready = scene.manager.next_within(PATIENCE).unwrap();
    assert_eq!(ready["READY"], "1");
    assert!(ready["STATUS"].ends_with("reload by signal: unchanged"), "{ready:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_reload_that_failed_has_its_cause_in_one_line() {
    let scene = Scene::new().await;
    let sidecar = Sidecar::run(scene.service(""));
    replace(&scene.authority.dir().join("tlsidecar.toml"), "[admin\nREADY=0\n");
    replace(&scene.authority.dir().join("server.key"), "rubbish");
    scene.manager.until("READY");
    sidecar.signal("HUP");
    scene.manager.until("RELOADING");
    // It is still ready, with the current configuration. A line break would have added an assignment.
    let ready = scene.manager.next_within(PATIENCE).unwrap();
    assert_eq!(ready.keys().collect::<Vec<_>>(), ["READY", "STATUS"]);
    assert_eq!(ready["READY"], "1");
    let status = &ready["STATUS"];
    assert!(status.contains("signal: failed") && status.contains("tlsidecar.toml"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn consecutive_reloads_are_reported_one_after_another() {
    let scene = Scene::new().await;
    let sidecar = Sidecar::run(scene.service(""));
    scene.manager.until("READY");
    for _ in 0..20 {
        sidecar.signal("HUP");
    }
    // Signals in quick succession are merged. Each reported reload has both messages.
    let mut reloading = false;
    let mut pairs = 0;
    let until_it_ends = || scene.manager.next_within(PATIENCE).unwrap();
    for message in std::iter::repeat_with(until_it_ends) {
        if message.contains_key("STOPPING") {
            break;
        }
        assert_eq!(message.contains_key("RELOADING"), !reloading, "{message:?}");
        assert_eq!(message.contains_key("READY"), reloading, "{message:?}");
        if reloading {
            pairs += 1;
            if pairs == 1 {
                sidecar.signal("TERM");
            }
        }
        reloading = !reloading;
    }
    assert!(pairs > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_reports_nothing_after_a_stop() {
    for _ in 0..10 {
        let scene = Scene::new().await;
        let mut sidecar = Sidecar::run(scene.service(""));
        scene.manager.until("READY");
        // Both at once, so that their reports overlap.
        let pid = sidecar.pid();
        by_hand(&format!("for _ in 1 2 3; do kill -HUP {pid}; done; kill -TERM {pid}"));
        scene.manager.until("STOPPING");
        sidecar.ended();
        let of_reload =
            |message: &Message| ["RELOADING", "READY"].map(|key| message.contains_key(key));
        let after = scene.manager.so_far();
        assert!(!after.iter().any(|message| of_reload(message).contains(&true)), "{after:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_ends_after_its_last_message_is_read() {
    let scene = Scene::new().await;
    let mut sidecar = Sidecar::run(scene.service(""));
    scene.manager.until("READY");
    // A busy service manager: its socket buffer is full.
    let other = UnixDatagram::unbound().unwrap();
    other.connect(scene.manager.path()).unwrap();
    other.set_nonblocking(true).unwrap();
    while other.send(b"STATUS=of another service").is_ok() {}
    sidecar.signal("TERM");
    sidecar.until("it has stopped", |log| log.contains("stopped"));
    scene.manager.until("STOPPING");
    assert_eq!(sidecar.ended().code(), Some(0));
    assert!(!scene.manager.so_far().iter().any(|message| message.contains_key("STOPPING")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notify_socket_may_have_an_abstract_name() {
    let mut scene = Scene::new().await;
    let name = format!("tlsidecar-test-{}-notify", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    scene.manager.socket = UnixDatagram::bind_addr(&address).unwrap();
    let mut command = scene.service("");
    command.env("NOTIFY_SOCKET", format!("@{name}"));
    let _sidecar = Sidecar::run(command);
    assert_eq!(scene.manager.next_within(PATIENCE).unwrap()["READY"], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_reports_the_open_connections_and_extends_its_timeout() {
    let scene = Scene::new().await;
    let mut sidecar = Sidecar::run(scene.service("[shutdown]\ndrain_timeout = \"1h\"\n"));
    let open = scene.device().echo(sidecar.address).await.unwrap();
    sidecar.signal("TERM");
    scene.manager.until("STOPPING");
    for _ in 0..3 {
        let messages = scene.manager.until("STATUS");
        assert_eq!(messages["STATUS"], "draining: 1 connection left");
        let extension: u64 = messages["EXTEND_TIMEOUT_USEC"].parse().unwrap();
        assert!(extension > 5_000_000, "systemd must not lose patience between two of them");
    }
    drop(open);
    assert_eq!(sidecar.ended().code(), Some(0));
    assert!(!scene.manager.so_far().iter().any(|message| message.contains_key("READY")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_by_request_is_no_stop() {
    let scene = Scene::new().await;
    let sidecar = Sidecar::run(scene.service("[shutdown]\ndelay = \"100ms\"\n"));
    scene.manager.until("READY");
    assert_eq!(sidecar.ask("POST", "/drain").unwrap().0, 202);
    // systemd kills a service that sends STOPPING and does not end.
    let mut messages = Vec::new();
    while messages.last().is_none_or(|message: &Message| message["STATUS"] != "drained") {
        messages.push(scene.manager.next_within(PATIENCE).unwrap());
    }
    let sends_more = |message: &Message| message.keys().any(|key| key != "STATUS");
    assert!(!messages.iter().any(sends_more), "{messages:?}");
    // A reload does not make it ready again.
    sidecar.signal("HUP");
    let ready = scene.manager.until("READY");
    assert!(ready["STATUS"].starts_with("drained; "), "{ready:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_is_pinged_twice_in_its_timeout_and_not_by_a_stalled_process() {
    let scene = Scene::new().await;
    let mut command = scene.service("");
    command.env("WATCHDOG_USEC", "400000");
    let sidecar = Sidecar::run(command);
    scene.manager.until("WATCHDOG");
    let start = Instant::now();
    for _ in 0..10 {
        scene.manager.until("WATCHDOG");
    }
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1900), "{took:?} for ten");
    sidecar.signal("STOP");
    scene.manager.so_far();
    assert_eq!(scene.manager.next_within(Duration::from_secs(1)), None);
    sidecar.signal("CONT");
    scene.manager.until("WATCHDOG");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_s_watchdog_is_not_pinged() {
    let scene = Scene::new().await;
    let mut command = scene.service("");
    command.env("WATCHDOG_USEC", "20000").env("WATCHDOG_PID", "1");
    let _sidecar = Sidecar::run(command);
    scene.manager.until("READY");
    assert_eq!(scene.manager.next_within(Duration::from_millis(300)), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_that_does_not_read_blocks_nothing() {
    let scene = Scene::new().await;
    let mut command = scene.service("[shutdown]\ndrain_timeout = \"0s\"\n");
    command.env("WATCHDOG_USEC", "2000");
    let mut sidecar = Sidecar::run(command);
    let start = Instant::now();
    // More pings than its socket buffer and our queue hold.
    while start.elapsed() < Duration::from_secs(1) {
        let mut session = scene.device().echo(sidecar.address).await.unwrap();
        session.shutdown().await.unwrap();
        assert_eq!(within("the end", session.read(&mut [0; 1])).await.unwrap(), 0);
    }
    sidecar.signal("TERM");
    assert_eq!(sidecar.ended().code(), Some(0));
}

fn listening() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_the_listener_s_name_is_used() {
    let scene = Scene::new().await;
    let (socket, address) = listening();
    let sidecar = Sidecar::run(scene.activated(socket, "test"));
    assert_eq!(sidecar.address, address);
    drop(scene.device().echo(address).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_the_listener_s_address_is_used_whatever_its_name() {
    let scene = Scene::new().await;
    let (socket, address) = listening();
    // The address of the configuration. A second socket cannot be bound to it.
    let mut command = scene.activated(socket, "tlsidecar.socket");
    let path = scene.authority.dir().join("tlsidecar.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let listen = "name = \"test\"\nlisten = \"";
    let text = text.replace(&format!("{listen}127.0.0.1:0"), &format!("{listen}{address}"));
    assert!(text.contains(&address.to_string()));
    replace(&path, &text);
    command.env("LISTEN_FDNAMES", "");
    let sidecar = Sidecar::run(command);
    assert_eq!(sidecar.address, address);
    drop(scene.device().echo(address).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_s_socket_is_used() {
    let scene = Scene::new().await;
    let (socket, address) = listening();
    let sidecar = Sidecar::run(scene.activated(socket, "admin"));
    assert_eq!(sidecar.admin, address);
    assert_eq!(sidecar.ask("GET", "/readyz").unwrap().0, 200);
}

/// Runs a command that cannot start, and returns its exit code.
fn code_of(mut command: Command) -> i32 {
    command.stderr(Stdio::null()).status().unwrap().code().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_no_listener_uses_is_a_bad_configuration() {
    let scene = Scene::new().await;
    assert_eq!(code_of(scene.activated(listening().0, "other")), 78);
    assert_eq!(scene.manager.so_far(), Vec::<Message>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_descriptor_that_is_no_listening_tcp_socket_is_refused() {
    let scene = Scene::new().await;
    let unix = UnixListener::bind(scene.authority.dir().join("unix")).unwrap();
    assert_eq!(code_of(scene.activated(unix, "test")), 78);
    // As from a socket unit with Accept=yes.
    let (listener, address) = listening();
    let connected = std::net::TcpStream::connect(address).unwrap();
    assert_eq!(code_of(scene.activated(connected, "test")), 1);
    drop(listener);
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_eq!(code_of(scene.activated(udp, "test")), 78);
    let file = std::fs::File::open("/dev/null").unwrap();
    assert_eq!(code_of(scene.activated(file, "test")), 78);
}

#[tokio::test(flavor = "multi_thread")]
async fn contradictory_socket_variables_are_a_bad_configuration() {
    let scene = Scene::new().await;
    for (name, value) in [
        // More sockets than there are; not a number; more sockets than names; not a process id.
        ("LISTEN_FDS", "4000"),
        ("LISTEN_FDS", "4294967295"),
        ("LISTEN_FDS", "one"),
        ("LISTEN_FDNAMES", "test:test"),
    ] {
        let mut command = scene.activated(listening().0, "test");
        command.env(name, value);
        assert_eq!(code_of(command), 78, "{name}={value}");
    }
    let mut command = by_shell("LISTEN_PID=me exec \"$@\" 3<&0 </dev/null");
    scene.serve(&mut command, "");
    command.env("LISTEN_FDS", "1").stdin(OwnedFd::from(listening().0));
    assert_eq!(code_of(command), 78);
    assert_eq!(scene.manager.so_far(), Vec::<Message>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_for_another_process_are_not_touched() {
    let scene = Scene::new().await;
    let (socket, address) = listening();
    let mut command = by_shell("LISTEN_PID=1 exec \"$@\" 3<&0 </dev/null");
    scene.serve(&mut command, "");
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "test").stdin(OwnedFd::from(socket));
    let sidecar = Sidecar::run(command);
    assert_ne!(sidecar.address, address);
}

#[test]
fn the_example_of_the_package_is_valid_with_its_lines_uncommented() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = std::fs::read_to_string(root.join("deploy/debian/tlsidecar.toml")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for name in ["tls.crt", "tls.key", "devices-ca.crt"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    let path = dir.path().join("tlsidecar.toml");
    assert!(config::file::parse(&example, &path).is_err(), "as it is shipped, it is none");
    // "#key" is a setting, "##key" an optional one, and "# A word" is a comment.
    let used = |signs: &str, text: &str| {
        let line = |line: &str| match line.strip_prefix(signs) {
            Some(rest) if !rest.starts_with([' ', '#']) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        };
        text.lines().map(line).collect::<String>()
    };
    let plain = used("#", &example);
    assert_eq!(config::file::parse(&plain, &path).unwrap().listeners.len(), 1);
    let with_clients = config::file::parse(&used("##", &plain), &path).unwrap();
    assert!(matches!(with_clients.listeners[0].tls.client_auth, ClientAuth::Required(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_on_a_passed_socket_refuses_no_device() {
    let scene = Scene::new().await;
    let (socket, address) = listening();
    let mut first = Sidecar::run(scene.activated(socket.try_clone().unwrap(), "test"));
    drop(scene.device().echo(address).await.unwrap());
    first.signal("TERM");
    first.ended();
    // No process runs. Devices connect and wait.
    let waiting: Vec<_> = [(); 5].map(|()| TcpStream::connect(address)).into();
    let mut connected = Vec::new();
    for waiting in waiting {
        connected.push(within("a connect", waiting).await.unwrap());
    }
    let _second = Sidecar::run(scene.activated(socket, "test"));
    for tcp in connected {
        let mut session = within("TLS", scene.device().connect_over(tcp)).await.unwrap();
        say_and_hear(&mut session, b"I have waited").await.unwrap();
    }
}
