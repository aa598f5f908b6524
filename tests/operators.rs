//! The endpoints of the admin port, its token, and the commands that are its clients.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use serde_json::{Value, json};
use tlsidecar::config::{AdminListen, Config};
use tlsidecar::terms::labels::ReloadOutcome;
use tlsidecar::terms::reason::Reason;
use tokio::io::AsyncReadExt;

use crate::support::client::say_and_hear;
use crate::support::command::output;
use crate::support::process::{ask, binary};
use crate::support::proxy::{config, listener};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Pair, Proxy, eventually, file};

const TOKEN: &str = "0123456789abcdef-of-the-test";

/// A proxy with every endpoint of the admin port.
struct Scene {
    device: Device,
    proxy: Proxy,
    dir: tempfile::TempDir,
    authority: Authority,
    backend: Backend,
}

impl Scene {
    async fn new(change: impl FnOnce(&Path, &mut Config)) -> Self {
        let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
        let dir = tempfile::tempdir().unwrap();
        let pair: Pair = authority.server();
        let mut config = config(listener(backend.config(), &pair));
        config.admin.metrics_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.admin.socket = Some(dir.path().join("admin.sock"));
        change(dir.path(), &mut config);
        let proxy = Proxy::on(config, None);
        Self { device: Device::new(&authority), proxy, dir, authority, backend }
    }

    async fn with_token() -> Self {
        Self::new(|dir, config| {
            let path = dir.join("token");
            std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
            config.admin.token_file = Some(path);
        })
        .await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Sends a request to the whole admin port, and returns the status.
    fn status(&self, method: &str, path: &str, header: &str) -> u16 {
        ask(self.proxy.app.admin.unwrap(), method, path, header).unwrap().0
    }

    /// Runs a command on the Unix socket. Returns the exit code and both outputs.
    async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = binary();
        command
            .args(arguments)
            .args(["--admin", &format!("unix:{}", self.path("admin.sock").display())]);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = within("the command", output).await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }
}

/// Sends one request to a Unix socket, and returns the status.
fn ask_socket(path: &Path, method: &str, target: &str) -> u16 {
    let mut stream = UnixStream::connect(path).unwrap();
    // A name that no TCP endpoint on loopback accepts.
    let request =
        format!("{method} {target} HTTP/1.1\r\nHost: plant.example\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_for_metrics_answers_metrics_and_probes_and_nothing_else() {
    let scene = Scene::new(|_, _| {}).await;
    let metrics = scene.proxy.app.admin_metrics.unwrap();
    for path in ["/metrics", "/livez", "/startupz", "/readyz"] {
        assert_eq!(ask(metrics, "GET", path, "").unwrap().0, 200, "{path}");
        assert_eq!(ask(metrics, "POST", path, "").unwrap().0, 405, "{path}");
    }
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/status"),
        ("GET", "/sessions"),
        ("GET", "/sessions/facts"),
        ("GET", "/offers"),
        ("GET", "/top"),
        ("POST", "/reload"),
        ("POST", "/drain"),
        ("DELETE", "/sessions?listener=test"),
        ("DELETE", "/sessions/1"),
    ] {
        let answer = ask(metrics, method, path, "").unwrap();
        assert_eq!(answer, (404, "GET /metrics /livez /startupz /readyz\n".to_owned()), "{path}");
    }
    assert_eq!(ask(metrics, "GET", "/readyz", "").unwrap(), (200, "running\n".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unix_socket_answers_everything_to_its_owner_and_its_group() {
    let scene = Scene::new(|_, _| {}).await;
    let path = scene.path("admin.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    for (method, target, status) in [
        ("GET", "/livez", 200),
        ("GET", "/status", 200),
        ("DELETE", "/sessions?listener=test", 200),
        ("POST", "/reload", 200),
        ("POST", "/drain", 202),
    ] {
        assert_eq!(ask_socket(&path, method, target), status, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_can_be_off_and_metrics_and_the_socket_still_answer() {
    let scene = Scene::new(|_, config| config.admin.listen = AdminListen::Off).await;
    assert_eq!(scene.proxy.app.admin, None);
    assert_eq!(ask(scene.proxy.app.admin_metrics.unwrap(), "GET", "/livez", "").unwrap().0, 200);
    assert_eq!(ask_socket(&scene.path("admin.sock"), "GET", "/status"), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_file_only_metrics_probes_and_the_page_need_no_token() {
    let scene = Scene::with_token().await;
    for path in ["/metrics", "/livez", "/startupz", "/readyz", "/"] {
        assert_eq!(scene.status("GET", path, ""), 200, "{path}");
    }
    let wrong = [
        String::new(),
        format!("Authorization: {TOKEN}\r\n"),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: Bearer {TOKEN}x\r\n"),
        format!("Authorization: Bearer {}\r\n", &TOKEN[1..]),
        "Authorization: Bearer \r\n".to_owned(),
    ];
    let right = format!("Authorization: bearer {TOKEN}\r\n");
    for (method, path) in [
        ("GET", "/status"),
        ("GET", "/sessions"),
        ("GET", "/sessions/facts"),
        ("GET", "/offers"),
        ("GET", "/top"),
        ("DELETE", "/sessions?listener=test"),
        ("DELETE", "/sessions/1"),
        ("POST", "/reload"),
        ("POST", "/drain"),
    ] {
        for header in &wrong {
            assert_eq!(scene.status(method, path, header), 401, "{path}: {header}");
        }
        assert!([200, 202, 404].contains(&scene.status(method, path, &right)), "{path}");
    }
    assert_eq!(ask_socket(&scene.path("admin.sock"), "GET", "/status"), 401, "also on the socket");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_compares_with_a_live_sidecar_with_its_token_from_a_flag_or_a_variable() {
    let scene = Scene::with_token().await;
    let _session = scene.device.echo(scene.proxy.address).await.unwrap();
    let text = file::text(scene.backend.address, &scene.authority.server(), "");
    let candidate = file::write(scene.dir.path(), &text);
    let check = || {
        let mut command = binary();
        let socket = format!("unix:{}", scene.path("admin.sock").display());
        command.arg("check").arg(&candidate).args(["--live", &socket]);
        command
    };
    let (code, _, errors) = output(&mut check());
    assert!(code == 1 && errors.contains("401"), "{code}: {errors}");
    for command in [
        check().arg("--token-file").arg(scene.path("token")),
        check().env("TLSIDECAR_TOKEN_FILE", scene.path("token")),
    ] {
        let (code, text, errors) = output(command);
        assert!(code == 0 && text.contains("live: 1 session(s): 0 would"), "{text}{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_is_active_without_a_restart_and_an_invalid_one_changes_nothing() {
    let scene = Scene::with_token().await;
    let status =
        |token: &str| scene.status("GET", "/top", &format!("Authorization: Bearer {token}\r\n"));
    let new = "fedcba9876543210-of-the-test";
    // As Kubernetes does: the name is a link that is replaced.
    std::fs::write(scene.path("next"), new).unwrap();
    symlink(scene.path("next"), scene.path("link")).unwrap();
    std::fs::rename(scene.path("link"), scene.path("token")).unwrap();
    eventually("the new token is accepted", || status(new) == 200).await;
    assert_eq!(status(TOKEN), 401);
    std::fs::write(scene.path("next"), "short").unwrap();
    eventually("the reload fails", || scene.proxy.reload_fails()).await;
    assert_eq!((status(new), status("short")), (200, 401));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_changes_only_the_token_is_a_change() {
    let scene = Scene::with_token().await;
    let new = "fedcba9876543210-of-the-test";
    crate::support::certs::replace(&scene.path("token"), new);
    let swapped = || scene.proxy.reloads_of("admin_token", ReloadOutcome::Swapped);
    eventually("it is counted", || swapped() == 1).await;
    assert_eq!(scene.proxy.reloads(ReloadOutcome::Swapped), 1);
    let header = format!("Authorization: Bearer {new}\r\n");
    let status = ask(scene.proxy.app.admin.unwrap(), "GET", "/status", &header).unwrap().1;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert!(status["reload"]["last_swap"].is_number(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_that_start_with_one_abandoned_socket_one_gets_it() {
    let (authority, backend) = (Authority::new("ca"), SocketAddr::from(([127, 0, 0, 1], 1883)));
    let text = file::text(backend, &authority.server(), "");
    let text = text.replacen("[admin]", "[admin]\nsocket = \"admin.sock\"", 1);
    let config = file::write(authority.dir(), &text);
    let socket = authority.dir().join("admin.sock");
    drop(UnixListener::bind(&socket).unwrap());
    for _ in 0..5 {
        let start = || {
            let mut command = binary();
            command.arg("--config").arg(&config).stderr(Stdio::null()).spawn().unwrap()
        };
        let mut both = [start(), start()];
        let mut ended = Vec::new();
        eventually("one of them ends", || {
            ended = both.iter_mut().filter_map(|child| child.try_wait().unwrap()).collect();
            !ended.is_empty()
        })
        .await;
        assert_eq!(ask_socket(&socket, "GET", "/livez"), 200);
        assert_eq!(ended.iter().map(ExitStatus::code).collect::<Vec<_>>(), [Some(1)]);
        for mut child in both {
            // It fails for the one that has ended.
            let _ended = child.kill();
            child.wait().unwrap();
        }
        assert!(socket.exists(), "the next two find an abandoned one");
    }
}

#[test]
fn an_invalid_token_file_is_found_by_the_check() {
    let authority = Authority::new("ca");
    let path = authority.dir().join("token");
    std::fs::write(&path, "short").unwrap();
    let backend = SocketAddr::from(([127, 0, 0, 1], 1883));
    let text = file::text(backend, &authority.server(), "");
    let text = text.replacen("[admin]", "[admin]\ntoken_file = \"token\"", 1);
    let config = file::write(authority.dir(), &text);
    let check = || binary().args(["check", "--config"]).arg(&config).output().unwrap();
    assert_eq!(check().status.code(), Some(78));
    std::fs::write(&path, TOKEN).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let checked = check();
    assert_eq!(checked.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&checked.stderr).contains("readable by every user"));
}

#[test]
fn an_admin_port_that_other_machines_reach_without_a_token_causes_a_warning() {
    let authority = Authority::new("ca");
    let backend = SocketAddr::from(([127, 0, 0, 1], 1883));
    let text = file::text(backend, &authority.server(), "");
    for (admin, warned) in [
        ("listen = \"127.0.0.1:0\"", false),
        ("listen = \"[::1]:0\"", false),
        ("listen = \"0.0.0.0:0\"", true),
        ("listen = \"0.0.0.0:0\"\ntoken_file = \"token\"", false),
        ("listen = \"off\"\nmetrics_listen = \"0.0.0.0:0\"", false),
    ] {
        let token = authority.dir().join("token");
        std::fs::write(&token, TOKEN).unwrap();
        std::fs::set_permissions(&token, PermissionsExt::from_mode(0o600)).unwrap();
        let text = text.replacen("listen = \"127.0.0.1:0\"", admin, 1);
        let config = file::write(authority.dir(), &text);
        let checked = binary().args(["check", "--config"]).arg(&config).output().unwrap();
        let output = String::from_utf8_lossy(&checked.stderr);
        assert_eq!(output.contains("warning: admin.listen"), warned, "{admin}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_reach_the_socket_and_send_the_token() {
    let scene = Scene::with_token().await;
    let token = scene.path("token");
    let token = ["--token-file", token.to_str().unwrap()];
    for command in ["status", "sessions", "top", "reload", "drain"] {
        let (code, _, error) = scene.run(&[command]).await;
        assert!(code == 1 && error.contains("401"), "{command}: {error}");
        let (code, text, error) = scene.run(&[&[command][..], &token].concat()).await;
        assert_eq!(code, 0, "{command}: {text}{error}");
    }
    let (code, _, error) = scene.run(&["status", "--token-file", "/nonexistent"]).await;
    assert!(code == 1 && error.contains("/nonexistent"), "{error}");
    let (code, text, error) = scene.run(&["probe", "--live"]).await;
    assert_eq!((code, text.as_str()), (0, "ok\n"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_sessions_sorts_and_limits_for_people_and_programs() {
    let scene = Scene::new(|_, _| {}).await;
    let mut sessions = Vec::new();
    for bytes in [10, 3000, 20] {
        let mut session = scene.device.echo(scene.proxy.address).await.unwrap();
        say_and_hear(&mut session, &vec![7; bytes]).await.unwrap();
        sessions.push(session);
    }
    let found = scene.run(&["sessions", "--json", "--sort", "bytes", "--limit", "2"]).await.1;
    let found: Value = serde_json::from_str(&found).unwrap();
    let bytes = |place: usize| found["sessions"][place]["bytes_to_backend"].clone();
    assert_eq!((bytes(0), bytes(1), bytes(2)), (json!(3004), json!(24), Value::Null));
    assert_eq!(found["matching"], json!(3));
    let (code, table, _) = scene.run(&["sessions", "--peer", "127.0.0.1", "--limit", "1"]).await;
    assert_eq!(code, 0);
    assert!(table.starts_with("ID  ") && table.ends_with("1 of 3 session(s)\n"), "{table}");
    assert_eq!(scene.run(&["sessions", "--peer", "192.0.2.1"]).await.1.lines().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_sessions_ends_what_was_selected_and_confirmed() {
    let scene = Scene::new(|_, _| {}).await;
    let mut ended = scene.device.echo(scene.proxy.address).await.unwrap();
    let mut other = scene.device.echo(scene.proxy.address).await.unwrap();
    assert_eq!(scene.run(&["sessions", "--end", "--yes"]).await.0, 2, "no filter");
    let (code, _, error) = scene.run(&["sessions", "--end", "--listener", "test"]).await;
    assert!(code == 1 && error.contains("--yes"), "{error}");
    assert_eq!(scene.proxy.active(), 2, "no terminal, no confirmation");
    let peer = ended.get_ref().0.local_addr().unwrap().to_string();
    let (code, text, _) = scene.run(&["sessions", "--end", "--peer", &peer, "--yes"]).await;
    assert_eq!((code, text.as_str()), (0, "1 session(s) ended\n"));
    assert_eq!(within("the end", ended.read(&mut [0; 1])).await.unwrap(), 0);
    scene.proxy.ends_with(Reason::Killed).await;
    say_and_hear(&mut other, b"still there").await.unwrap();
    let found: Value = serde_json::from_str(&scene.run(&["sessions", "--json"]).await.1).unwrap();
    let id = found["sessions"][0]["id"].to_string();
    assert_eq!(scene.run(&["sessions", "--end", "--id", "999999", "--yes"]).await.0, 1);
    let (code, text, _) = scene.run(&["sessions", "--end", "--id", &id, "--yes", "--json"]).await;
    assert_eq!((code, text.as_str()), (0, "{\"stopped\":1}\n"));
    assert_eq!(within("the end", other.read(&mut [0; 1])).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_reload_fails_with_the_cause_of_the_failure() {
    let scene = Scene::new(|_, _| {}).await;
    assert_eq!(scene.run(&["reload"]).await, (0, "unchanged\n".to_owned(), String::new()));
    let pair = scene.authority.server();
    assert_ne!(pair.files.cert.as_os_str(), "");
    let json: Value = serde_json::from_str(&scene.run(&["status", "--json"]).await.1).unwrap();
    let cert = json["certificates"][0]["cert"].as_str().unwrap().to_owned();
    crate::support::certs::replace(Path::new(&cert), "rubbish");
    let (code, text, _) = scene.run(&["reload"]).await;
    assert_eq!(code, 1);
    assert!(text.starts_with("failed\n") && text.contains(&cert), "{text}");
    let (code, text, _) = scene.run(&["reload", "--json"]).await;
    let failed: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &failed["outcome"]), (1, &json!("failed")));
    assert!(failed["messages"][0].as_str().unwrap().contains(&cert), "{failed}");
    let (code, text, _) = scene.run(&["status"]).await;
    assert!(code == 0 && text.contains("Reload: failing") && text.contains(&cert), "{text}");
}
