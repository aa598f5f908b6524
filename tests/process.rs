//! Tests of the process: flags, signals, exit codes.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use clap::CommandFactory;
use tlsidecar::app::{self, StartError};
use tlsidecar::commands::flags::Cli;
use tlsidecar::config::{AdminListen, Config};
use tlsidecar::terms::reason::Reason;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::support::backend::free;
use crate::support::certs::{Wish, replace};
use crate::support::client::say_and_hear;
use crate::support::command;
use crate::support::file;
use crate::support::process::{binary, by_shell};
use crate::support::raw::answer_to;
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Sidecar, eventually};

/// The parts of a test: a CA, a backend and the text of a configuration.
struct Scene {
    authority: Authority,
    backend: Backend,
    text: String,
}

impl Scene {
    async fn new(more: &str) -> Self {
        let authority = Authority::new("ca");
        let backend = Backend::echo().await;
        let text = file::text(backend.address, &authority.server(), more);
        Self { authority, backend, text }
    }

    fn start(&self) -> Sidecar {
        Sidecar::start(self.authority.dir(), &self.text)
    }

    fn path(&self) -> PathBuf {
        file::write(self.authority.dir(), &self.text)
    }

    fn device(&self) -> Device {
        Device::new(&self.authority)
    }
}

/// Runs the binary to its end. Returns its exit code, and its standard output and standard error together.
fn output(command: &mut Command) -> (i32, String) {
    let (code, stdout, stderr) = command::output(command);
    (code, stdout + &stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_stops_an_idle_process_with_0() {
    let scene = Scene::new("").await;
    let mut sidecar = scene.start();
    drop(scene.device().echo(sidecar.address).await.unwrap());
    sidecar.signal("TERM");
    assert_eq!(sidecar.ended().code(), Some(0));
    let log = sidecar.log();
    assert!(log.contains("drained forced=0") && log.contains("stopped"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_stops_like_sigterm() {
    let mut sidecar = Scene::new("").await.start();
    sidecar.signal("INT");
    assert_eq!(sidecar.ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_drain_exits_with_1_and_sends_close_notify() {
    let scene = Scene::new("[shutdown]\ndrain_timeout = \"300ms\"\n").await;
    let mut sidecar = scene.start();
    let mut open = scene.device().echo(sidecar.address).await.unwrap();
    sidecar.signal("TERM");
    assert_eq!(within("the end", open.read(&mut [0; 1])).await.unwrap(), 0);
    drop(open);
    assert_eq!(sidecar.ended().code(), Some(1));
    let log = sidecar.log();
    let lines =
        ["drain_deadline", "delay=0s", "drained forced=1", "not_after=2060-01-01T00:00:00Z"];
    for line in lines {
        assert!(log.contains(line), "{line} in {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_served_during_a_drain() {
    let scene = Scene::new("[shutdown]\ndrain_timeout = \"1h\"\n").await;
    let mut sidecar = scene.start();
    let open = scene.device().echo(sidecar.address).await.unwrap();
    sidecar.signal("TERM");
    eventually("it closes", || {
        sidecar.ask("GET", "/readyz") == Some((503, "closing\n".to_owned()))
    })
    .await;
    assert!(sidecar.count("tlsidecar_connections_active{listener=\"test\"}") > 0);
    drop(open);
    assert_eq!(sidecar.ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_forces_at_once() {
    let scene = Scene::new("[shutdown]\ndrain_timeout = \"1h\"\n").await;
    let mut sidecar = scene.start();
    let open = scene.device().echo(sidecar.address).await.unwrap();
    sidecar.signal("TERM");
    sidecar.until("it drains", |log| log.contains("draining"));
    sidecar.signal("TERM");
    assert_eq!(sidecar.ended().code(), Some(1));
    drop(open);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_drain_by_request_the_process_stays_and_sigterm_stops_it_at_once() {
    let scene = Scene::new("[shutdown]\ndelay = \"100ms\"\n").await;
    let mut sidecar = scene.start();
    // The second request has no effect.
    for _ in 0..2 {
        let admin = sidecar.admin.to_string();
        let (code, text) = output(binary().args(["drain", "--admin", &admin]));
        assert_eq!((code, text.as_str()), (0, ""));
    }
    eventually("it is drained", || {
        sidecar.ask("GET", "/readyz") == Some((503, "drained\n".to_owned()))
    })
    .await;
    assert_eq!(sidecar.ask("GET", "/livez").unwrap().0, 200);
    sidecar.signal("TERM");
    assert_eq!(sidecar.ended().code(), Some(0));
}

#[test]
fn a_drain_without_a_sidecar_exits_with_1_and_names_the_address() {
    let (code, text) = output(binary().args(["drain", "--admin", "127.0.0.1:1"]));
    assert_eq!(code, 1);
    assert!(text.contains("127.0.0.1:1"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_also_twice_in_a_row() {
    let scene = Scene::new("").await;
    let sidecar = scene.start();
    let mut open = scene.device().echo(sidecar.address).await.unwrap();
    sidecar.signal("HUP");
    sidecar.signal("HUP");
    let unchanged = || sidecar.count("tlsidecar_reloads_total{outcome=\"unchanged\"}") > 0;
    eventually("it has reloaded", unchanged).await;
    say_and_hear(&mut open, b"still here").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_of_the_file_does_not_report_a_flag_as_a_change() {
    let scene = Scene::new("").await;
    let mut command = binary();
    command.arg("--config").arg(scene.path()).args(["--admin", "127.0.0.1:0"]);
    command.args(["--log-filter", "debug"]);
    let sidecar = Sidecar::run(command);
    sidecar.signal("HUP");
    let unchanged = || sidecar.count("tlsidecar_reloads_total{outcome=\"unchanged\"}") > 0;
    eventually("it has reloaded", unchanged).await;
    assert!(!sidecar.log().contains("restart"), "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reload_warns_of_changes_that_need_a_restart() {
    let scene = Scene::new("").await;
    let mut sidecar = scene.start();
    let text = scene.text.replace("name = \"test\"", "name = \"other\"");
    file::write(scene.authority.dir(), &text);
    let warned = |log: &str, what: &str| {
        log.lines().filter(|l| l.contains("WARN") && l.contains(what)).count()
    };
    sidecar
        .until("the line is logged", |log| warned(log, "listener \"other\" is new; a restart") > 0);
    sidecar.until("both are logged", |log| {
        warned(log, "listener \"test\" was removed; a restart") > 0
    });
    scene.device().echo(sidecar.address).await.unwrap();
    let before = warned(&sidecar.log(), "is new");
    let (status, answer) = sidecar.ask("POST", "/reload").unwrap();
    assert_eq!((status, answer.lines().next()), (200, Some("unchanged")));
    assert!(
        answer.contains("\"other\" is new") && answer.contains("\"test\" was removed"),
        "{answer}"
    );
    sidecar.until("the warning is logged again", |log| warned(log, "is new") > before);
    assert!(!sidecar.log().contains("the files have not changed"), "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_times_of_a_drain_take_effect_without_a_restart() {
    let scene = Scene::new("[shutdown]\ndrain_timeout = \"1h\"\n").await;
    let mut sidecar = scene.start();
    let _open = scene.device().echo(sidecar.address).await.unwrap();
    file::write(scene.authority.dir(), &scene.text.replace("1h", "100ms"));
    sidecar.until("the reload is logged", |log| log.contains("configuration in force"));
    sidecar.signal("TERM");
    assert_eq!(sidecar.ended().code(), Some(1));
    assert!(!sidecar.log().contains("a restart"), "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_log_filter_takes_effect_without_a_restart() {
    let scene = Scene::new("[log]\nfilter = \"info\"\n").await;
    let mut sidecar = scene.start();
    file::write(scene.authority.dir(), &scene.text.replace("\"info\"", "\"info,access=debug\""));
    sidecar.until("the reload is logged", |log| log.contains("log.filter"));
    // A client_probe is logged only at this level.
    drop(TcpStream::connect(sidecar.address).unwrap());
    sidecar.until("the probe is logged", |log| log.contains("client_probe"));
    assert!(!sidecar.log().contains("a restart"), "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_configuration_of_a_listener_is_logged_with_the_changed_sections() {
    let scene = Scene::new("").await;
    let mut sidecar = scene.start();
    let more = "limits.max_connections = 17\ntimeouts.idle = \"5m\"\n";
    file::write(scene.authority.dir(), &format!("{}{more}", scene.text));
    sidecar.until("the line is logged", |log| log.contains("configuration in force"));
    let log = sidecar.log();
    let line = log.lines().find(|line| line.contains("configuration in force")).unwrap();
    assert!(line.contains("\"test\"") && line.contains("\"timeouts, limits\""), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_during_a_drain_does_not_end_it() {
    let scene = Scene::new("[shutdown]\ndrain_timeout = \"1h\"\n").await;
    let mut sidecar = scene.start();
    let mut open = scene.device().echo(sidecar.address).await.unwrap();
    sidecar.signal("TERM");
    sidecar.until("it drains", |log| log.contains("draining"));
    sidecar.signal("HUP");
    let unchanged = || sidecar.count("tlsidecar_reloads_total{outcome=\"unchanged\"}") > 0;
    eventually("it has reloaded", unchanged).await;
    say_and_hear(&mut open, b"still here").await.unwrap();
    drop(open);
    assert_eq!(sidecar.ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_reload_is_one_error_line_with_file_and_cause() {
    let scene = Scene::new("").await;
    let mut sidecar = scene.start();
    replace(&scene.authority.dir().join("server.key"), "rubbish");
    sidecar.until("it fails", |log| log.contains("ERROR"));
    sidecar.signal("HUP");
    let failed = || sidecar.count("tlsidecar_reloads_total{outcome=\"failed\"}") > 1;
    eventually("it fails again", failed).await;
    scene.authority.issue("server", &Wish { serial: 2, ..Wish::default() });
    sidecar
        .until("the reload succeeds again", |log| log.matches("certificate in force").count() == 2);
    let log = sidecar.log();
    let errors = errors(&log);
    assert_eq!(errors.len(), 2, "one for each attempt: {errors:#?}");
    assert!(errors[0].contains("server.key") && errors[0].contains("private key"), "{errors:?}");
}

/// The lines of a log at level `ERROR`.
fn errors(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains("ERROR")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_is_one_error_line_with_file_and_cause() {
    let scene = Scene::new("").await;
    let sidecar = scene.start();
    std::fs::remove_file(scene.authority.dir().join("server.key")).unwrap();
    let failed = || sidecar.count("tlsidecar_reloads_total{outcome=\"failed\"}");
    eventually("it fails", || failed() > 0).await;
    let before = failed();
    sidecar.signal("HUP");
    eventually("it fails again", || failed() > before).await;
    let one_each = || u64::try_from(errors(&sidecar.log()).len()).unwrap() == failed();
    eventually("each attempt is one line", one_each).await;
    let log = sidecar.log();
    let names_it = |line: &&str| line.contains("server.key") && line.contains("No such file");
    assert!(errors(&log).iter().all(names_it), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_problem_of_a_reloaded_file_is_a_log_line() {
    let scene = Scene::new("").await;
    let mut sidecar = scene.start();
    let text = format!("{}colour = 1\n[shutdown]\ndelay = 5\n", scene.text);
    file::write(scene.authority.dir(), &text);
    sidecar.until("the line is logged", |log| errors(log).len() >= 2);
    for (line, key) in errors(&sidecar.log()).iter().zip(["colour", "shutdown.delay"]) {
        assert!(line.contains("tlsidecar.toml:") && line.contains(key), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_exits_with_1_and_names_the_port() {
    let scene = Scene::new("").await;
    let bound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = bound.local_addr().unwrap().to_string();
    let text = scene
        .text
        .replace("listen = \"127.0.0.1:0\"\nbackend", &format!("listen = {taken:?}\nbackend"));
    let path = file::write(scene.authority.dir(), &text);
    let (code, text) = output(binary().arg("--config").arg(path));
    assert_eq!(code, 1);
    assert!(text.contains(&taken) && text.contains("in use"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_port_in_use_exits_with_1() {
    let scene = Scene::new("").await;
    let taken = scene.backend.address.to_string();
    let (code, text) = output(binary().arg("--config").arg(scene.path()).args(["--admin", &taken]));
    assert_eq!(code, 1);
    assert!(text.contains("admin port") && text.contains(&taken), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_configuration_exits_with_78_and_lists_every_problem() {
    let mut scene = Scene::new("").await;
    scene.text += "colour = 1\n[shutdown]\ndelay = 5\n";
    let (code, text) = output(binary().arg("--config").arg(scene.path()));
    assert_eq!(code, 78);
    assert!(text.contains("colour") && text.contains("shutdown.delay"), "{text}");
}

#[test]
fn a_missing_configuration_exits_with_78() {
    let (code, text) = output(binary().args(["--config", "/nonexistent.toml"]));
    assert_eq!(code, 78);
    assert!(text.contains("/nonexistent.toml"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_with_the_wrong_key_exits_with_78_and_names_both() {
    let scene = Scene::new("").await;
    let (_, key) = scene.authority.issue_pem(&Wish::default());
    replace(&scene.authority.dir().join("server.key"), &key);
    let (code, text) = output(binary().arg("--config").arg(scene.path()));
    assert_eq!(code, 78);
    assert!(text.contains("server.crt") && text.contains("does not belong"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_invalid_pair_and_client_ca_is_a_line_of_one_report() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let dir = authority.dir();
    let bad = [("rubbish.crt", "rubbish"), ("rubbish.key", "rubbish"), ("devices.crt", "rubbish")];
    for (name, text) in bad {
        replace(&dir.join(name), text);
    }
    let (good, other) = (authority.server(), authority.issue("other", &Wish::default()));
    let pairs = format!(
        "{{ cert = \"rubbish.crt\", key = \"rubbish.key\" }}, {{ cert = {:?}, key = {:?} }}",
        other.files.cert, good.files.key
    );
    let more = "tls.client_auth = \"required\"\ntls.client_ca = \"devices.crt\"\n";
    let text = file::text(backend.address, &good, more);
    let text = text.replace("tls.certificates = [", &format!("tls.certificates = [{pairs}, "));
    let path = file::write(dir, &text);
    for arguments in [&["check", "--config"][..], &["--config"]] {
        let (code, text) = output(binary().args(arguments).arg(&path));
        assert_eq!(code, 78);
        let text = text.replace(&format!("{}: 4 problems\n", path.display()), "");
        let of = |file: &str| text.lines().filter(|line| line.contains(file)).count();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert_eq!(["rubbish.crt", "rubbish.key", "other.crt", "devices.crt"].map(of), [1; 4]);
        let lines = text.lines().all(|line| line.contains("listener \"test\": "));
        assert!(lines, "{text}");
        // `check` prints to the terminal; a start writes to the log.
        assert_eq!(errors(&text).len(), if arguments.len() == 1 { 4 } else { 0 }, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_key_is_reported_as_encrypted() {
    let scene = Scene::new("").await;
    let key = scene.authority.dir().join("server.key");
    let arguments = ["pkcs8", "-topk8", "-passout", "pass:secret", "-in"];
    let encrypted = Command::new("openssl").args(arguments).arg(&key).output().unwrap();
    assert!(encrypted.status.success());
    replace(&key, &String::from_utf8(encrypted.stdout).unwrap());
    let (code, text) = output(binary().arg("--config").arg(scene.path()));
    assert_eq!(code, 78);
    assert!(text.contains("encrypted private key"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_world_readable_key_is_a_warning() {
    let scene = Scene::new("").await;
    let key = scene.authority.dir().join("server.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let sidecar = scene.start();
    let log = sidecar.log();
    assert!(log.lines().any(|l| l.contains("WARN") && l.contains("server.key")), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_becomes_world_readable_is_one_warning() {
    let scene = Scene::new("").await;
    let mut sidecar = scene.start();
    let key = scene.authority.dir().join("server.key");
    let warned =
        |log: &str| log.lines().filter(|l| l.contains("WARN") && l.contains("server.key")).count();
    assert_eq!(warned(&sidecar.log()), 0);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    sidecar.until("the line is logged", |log| warned(log) > 0);
    assert_eq!(sidecar.ask("POST", "/reload"), Some((200, "unchanged\n".to_owned())));
    sidecar.until("the reload is logged", |log| log.contains("the files have not changed"));
    assert_eq!(warned(&sidecar.log()), 1, "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn at_start_an_expired_certificate_is_a_warning_and_is_used() {
    let scene = Scene::new("").await;
    scene.authority.issue("server", &Wish { years: (2020, 2021), ..Wish::default() });
    let sidecar = scene.start();
    let log = sidecar.log();
    assert!(log.lines().any(|l| l.contains("WARN") && l.contains("expired")), "{log}");
    // Devices without a clock continue to work.
    let refused = scene.device().connect(sidecar.address).await.unwrap_err();
    assert!(refused.to_string().contains("expired"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_accepts_a_valid_configuration_and_binds_no_socket() {
    let scene = Scene::new("").await;
    let bound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = bound.local_addr().unwrap().to_string();
    let text = scene.text.replace("listen = \"127.0.0.1:0\"", &format!("listen = {taken:?}"));
    // Both have the same port, which is a problem of the file.
    let path = file::write(scene.authority.dir(), &text);
    let (code, text) = output(binary().args(["check", "--config"]).arg(path));
    assert_eq!(code, 78, "{text}");
    let text = scene
        .text
        .replace("listen = \"127.0.0.1:0\"\nbackend", &format!("listen = {taken:?}\nbackend"));
    let path = file::write(scene.authority.dir(), &text);
    let (code, text) = output(binary().args(["check", "--config"]).arg(path));
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("good, 1 listener"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_and_reload_warn_of_a_limit_above_the_file_descriptors() {
    let scene = Scene::new("").await;
    let with_limit = format!("{}limits.max_connections = 1000\n", scene.text);
    let mut command = Command::new("sh");
    let run = format!("ulimit -n 400; exec {:?} \"$@\"", binary().get_program());
    command.args(["-c", &run, "sh", "check", "--config"]);
    command.arg(file::write(scene.authority.dir(), &with_limit));
    let (code, text) = output(&mut command);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("warning: ") && text.contains("max_connections is 1000"), "{text}");

    let mut command = Command::new("sh");
    command.args(["-c", &run, "sh", "--config"]).arg(scene.path());
    let mut sidecar = Sidecar::run(command);
    file::write(scene.authority.dir(), &with_limit);
    let warned = |line: &str| line.contains("WARN") && line.contains("max_connections is 1000");
    sidecar.until("the reload warns", |log| log.lines().any(warned));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reads_the_certificates() {
    let scene = Scene::new("").await;
    replace(&scene.authority.dir().join("server.crt"), "rubbish");
    let (code, text) = output(binary().args(["check", "--config"]).arg(scene.path()));
    assert_eq!(code, 78);
    assert!(text.contains("server.crt"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_can_define_one_listener() {
    let scene = Scene::new("").await;
    let dir = scene.authority.dir();
    let mut command = binary();
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--backend"]);
    command.arg(scene.backend.address.to_string());
    command.arg("--cert").arg(dir.join("server.crt")).arg("--key").arg(dir.join("server.key"));
    let sidecar = Sidecar::run(command);
    scene.device().echo(sidecar.address).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_on_the_admin_port_exits_with_78_and_names_both() {
    let scene = Scene::new("").await;
    let dir = scene.authority.dir();
    // No socket is bound: the addresses are checked before.
    let mut command = binary();
    command.args(["--listen", "0.0.0.0:28890", "--admin", "127.0.0.1:28890", "--backend"]);
    command.arg(scene.backend.address.to_string());
    command.arg("--cert").arg(dir.join("server.crt")).arg("--key").arg(dir.join("server.key"));
    let (code, text) = output(&mut command);
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("0.0.0.0:28890") && text.contains("127.0.0.1:28890"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_flag_replaces_the_address_in_the_file() {
    let scene = Scene::new("").await;
    let path = file::write(
        scene.authority.dir(),
        &scene
            .text
            .replace("listen = \"127.0.0.1:0\"\nbackend", "listen = \"127.0.0.1:28891\"\nbackend"),
    );
    let mut command = binary();
    command.arg("--config").arg(path).args(["--admin", "127.0.0.1:28891"]);
    let (code, text) = output(&mut command);
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("listener[0].listen") && text.contains("--admin"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flag_has_an_environment_variable() {
    let scene = Scene::new("").await;
    let dir = scene.authority.dir();
    let mut command = binary();
    command.env("TLSIDECAR_LISTEN", "127.0.0.1:0").env("TLSIDECAR_ADMIN", "127.0.0.1:0");
    command.env("TLSIDECAR_BACKEND", format!("tcp://{}", scene.backend.address));
    command.env("TLSIDECAR_CERT", dir.join("server.crt"));
    command.env("TLSIDECAR_KEY", dir.join("server.key"));
    command.env("TLSIDECAR_CLIENT_CA", scene.authority.ca());
    command.env("TLSIDECAR_LOG_FILTER", "debug");
    let sidecar = Sidecar::run(command);
    assert!(scene.device().echo(sidecar.address).await.is_err(), "a certificate is required");
    eventually("the device is rejected", || sidecar.log().contains("client_cert_missing")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_command_works_with_a_configuration_file_in_the_environment() {
    let scene = Scene::new("").await;
    let sidecar = scene.start();
    let mut command = binary();
    command.env("TLSIDECAR_CONFIG", scene.path());
    command.env("TLSIDECAR_ADMIN", sidecar.admin.to_string()).arg("drain");
    assert_eq!(output(&mut command), (0, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_number_of_workers_is_an_error_and_an_empty_one_is_the_default() {
    let scene = Scene::new("").await;
    let run = |value: &str| {
        let mut command = binary();
        command.arg("--config").arg(scene.path()).env("TOKIO_WORKER_THREADS", value);
        command
    };
    for wrong in ["0", "auto", "2000m"] {
        let (code, text) = output(&mut run(wrong));
        assert_eq!(code, 2, "{text}");
        assert!(text.contains("TOKIO_WORKER_THREADS") && text.contains(wrong), "{text}");
    }
    let sidecar = Sidecar::run(run(""));
    drop(scene.device().echo(sidecar.address).await.unwrap());
    let sidecar = Sidecar::run(run("3"));
    assert_eq!(sidecar.count("tlsidecar_runtime_workers"), 3);
    // A command for a running sidecar needs no worker.
    let mut drain = binary();
    drain.args(["drain", "--admin", &sidecar.admin.to_string()]);
    assert_eq!(output(drain.env("TOKIO_WORKER_THREADS", "0")), (0, String::new()));
}

#[test]
fn too_few_threads_exit_with_1_and_name_the_limit() {
    if !command::has("setpriv") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let id = Command::new("id").arg("-u").output().unwrap().stdout;
    // The limit does not apply to root.
    let another = "setpriv --reuid 65533 --regid 65533 --clear-groups --";
    let by = if id == b"0\n" { another } else { "" };
    let mut command = by_shell(&format!("exec prlimit --nproc=3:3 {by} \"$@\""));
    command.args(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--dir"]);
    let (code, text) = output(command.arg(dir.path()));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("threads") && text.contains("ulimit -u"), "{text}");
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_name_as_an_address_is_an_error_with_the_allowed_values() {
    for flag in ["--listen", "--admin"] {
        let (code, text) = output(binary().args([flag, "broker:28890"]));
        assert_eq!(code, 2);
        assert!(
            text.contains("broker:28890") && text.contains("an IP address and a port"),
            "{text}"
        );
    }
}

#[test]
fn invalid_flags_exit_with_2() {
    for arguments in [
        &["--listen", "127.0.0.1:0"][..],
        &["--colour", "red"],
        &["--config", "a", "--listen", "127.0.0.1:0"],
        &["--config", "a", "--log-filter", "a=b=c"],
        &[],
    ] {
        let (code, text) = output(binary().args(arguments));
        assert_eq!(code, 2, "{arguments:?}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_client_ca_exits_with_78_and_is_named() {
    let scene = Scene::new("").await;
    let dir = scene.authority.dir();
    let rubbish = dir.join("devices.crt");
    replace(&rubbish, "rubbish");
    let mut command = binary();
    command.args(["--listen", "127.0.0.1:0", "--backend", &scene.backend.address.to_string()]);
    command.arg("--cert").arg(dir.join("server.crt")).arg("--key").arg(dir.join("server.key"));
    let (code, text) = output(command.arg("--client-ca").arg(&rubbish));
    assert_eq!(code, 78, "{text}");
    assert!(text.contains(&rubbish.display().to_string()), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_crl_exits_with_78_and_is_named() {
    let mut scene = Scene::new("").await;
    let rubbish = scene.authority.dir().join("devices.crl");
    replace(&rubbish, "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    let ca = scene.authority.ca();
    scene.text += &format!(
        "tls.client_auth = \"required\"\ntls.client_ca = {ca:?}\ntls.crls = [{rubbish:?}]\n"
    );
    let (code, text) = output(binary().arg("--config").arg(scene.path()));
    assert_eq!(code, 78, "{text}");
    assert!(text.contains(&rubbish.display().to_string()), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_filter_that_silences_devices_keeps_the_start_and_faults_of_backends() {
    let scene = Scene::new("[log]\nfilter = \"info,access=warn\"\n").await;
    let mut sidecar = scene.start();
    let refuses = crate::support::proxy::closed_series(Reason::ClientTlsNotTls);
    answer_to(sidecar.address, b"GET / HTTP/1.1\r\n\r\n").await;
    drop(scene.device().echo(sidecar.address).await.unwrap());
    eventually("the device is counted", || sidecar.count(&refuses) == 1).await;
    let (device, address) = (scene.device(), sidecar.address);
    scene.backend.end().await;
    let _dismissed = device.connect(address).await.unwrap().read(&mut [0; 1]).await;
    sidecar.until("the backend's fault is logged", |log| log.contains("backend_refused"));
    let log = sidecar.log();
    assert!(log.contains("listening") && log.contains("certificate in force"), "{log}");
    let access: Vec<_> = log.lines().filter(|line| line.contains(" access:")).collect();
    assert_eq!(access.len(), 1, "{access:#?}");
    assert!(access[0].contains("WARN") && access[0].contains("backend_refused"), "{access:?}");
}

#[tokio::test]
async fn an_admin_port_in_use_frees_the_port_of_the_listener() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let place = free();
    let mut listener = crate::support::proxy::listener(backend.config(), &authority.server());
    listener.listen = place;
    let mut config = Config::of(listener);
    config.admin.listen = AdminListen::At(backend.address);
    let Err(StartError::Bind { address, .. }) = app::start(config, None) else {
        panic!("the proxy has started");
    };
    assert_eq!(address, backend.address);
    TcpListener::bind(place).await.unwrap();
}

/// Returns the names of all commands.
fn commands() -> Vec<String> {
    let commands = Cli::command();
    commands.get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

#[test]
fn completions_list_every_command_and_bash_can_read_them() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, text) = output(binary().args(["completions", shell]));
        assert_eq!(code, 0, "{shell}");
        for command in commands() {
            assert!(text.contains(&command), "{command} is not in {shell}'s");
        }
        assert!(text.contains("min-days"), "{shell}");
    }
    // The completions of bash, requested as bash does.
    for (words, last, before, text) in
        [("--min", "--min", "probe", "--min-days\n"), ("--tls ''", "''", "--tls", "1.2 1.3\n")]
    {
        let script = format!(
            "source <({} completions bash); COMP_WORDS=(tlsidecar probe {words}); \
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _tlsidecar tlsidecar {last} {before}; echo \"${{COMPREPLY[@]}}\"",
            env!("CARGO_BIN_EXE_tlsidecar")
        );
        let completed = Command::new("bash").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&completed.stdout), text, "{completed:?}");
    }
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    let (code, text) = output(binary().arg("man").arg("--dir").arg(&pages));
    assert_eq!((code, text.as_str()), (0, ""));
    let all = commands();
    // And those of the program and of its file.
    assert_eq!(std::fs::read_dir(&pages).unwrap().count(), all.len() + 2);
    for command in &all {
        let page = std::fs::read_to_string(pages.join(format!("tlsidecar-{command}.1"))).unwrap();
        assert!(page.contains(&format!(".TH tlsidecar-{command} 1")), "{page}");
    }
    let (code, text) = output(binary().arg("man"));
    assert_eq!(code, 0);
    assert_eq!(text, std::fs::read_to_string(pages.join("tlsidecar.1")).unwrap());
}

#[test]
fn each_page_of_the_manual_has_the_exit_codes_and_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(output(binary().arg("man").arg("--dir").arg(dir.path())).0, 0);
    let page = |name: String| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let mut main = Cli::command();
    main.build();
    let mut twins = 0;
    for (command, name) in [(&main, "tlsidecar.1".to_owned())].into_iter().chain(
        main.get_subcommands().filter_map(|command| {
            let name = format!("tlsidecar-{}.1", command.get_name());
            (command.get_name() != "help").then_some((command, name))
        }),
    ) {
        let page = page(name);
        let section = page.split(".SH \"EXIT STATUS\"\n").nth(1);
        let section = section.unwrap_or_else(|| panic!("no exit status in {page}"));
        let section = section.split(".SH").next().unwrap();
        assert!(section.contains("\n0\n") && section.contains("\n2\n"), "{section}");
        for twin in command.get_arguments().filter_map(clap::Arg::get_env) {
            assert!(page.contains(twin.to_str().unwrap()), "{twin:?} is not in {page}");
            twins += 1;
        }
    }
    assert!(twins > 8, "{twins}");
    for code in ["3", "78"] {
        assert!(page("tlsidecar-probe.1".to_owned()).contains(&format!("\n{code}\n")), "{code}");
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    for dir in ["/proc/no-such-place", "/dev/null"] {
        let (code, text) = output(binary().args(["man", "--dir", dir]));
        assert!(code == 1 && text.contains(dir), "{code} {text}");
    }
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_failure() {
    for command in ["completions bash", "man", "probe 127.0.0.1:1"] {
        // `true` reads nothing; the status is that of the first command.
        let script = format!(
            "{} {command} | true; test ${{PIPESTATUS[0]}} -le 1",
            env!("CARGO_BIN_EXE_tlsidecar")
        );
        let ended = Command::new("bash").args(["-c", &script]).output().unwrap();
        assert!(ended.status.success() && ended.stderr.is_empty(), "{command}: {ended:?}");
    }
}
