//! The environment of the process: foreign signals, outputs that are not read, empty variables, SIGSTOP, and a user who
//! tries to read its memory.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::backend::free;
use crate::support::certs::Wish;
use crate::support::client::say_and_hear;
use crate::support::command::{Running, skipped};
use crate::support::file;
use crate::support::process::{ask, binary, by_shell};
use crate::support::proxy::metric;
use crate::support::raw::answer_to;
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Sidecar, eventually};

/// Returns a backend, and a configuration for it.
struct Scene {
    authority: Authority,
    _backend: Backend,
    path: PathBuf,
}

impl Scene {
    async fn new(more: &str) -> Self {
        let authority = Authority::new("ca");
        let backend = Backend::echo().await;
        let path =
            file::write(authority.dir(), &file::text(backend.address, &authority.server(), more));
        Self { authority, _backend: backend, path }
    }

    fn start(&self) -> Sidecar {
        let mut command = binary();
        command.arg("--config").arg(&self.path);
        Sidecar::run(command)
    }

    fn device(&self) -> Device {
        Device::new(&self.authority)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_for_another_proxy_ends_no_session() {
    let scene = Scene::new("").await;
    let mut sidecar = scene.start();
    let mut session = scene.device().echo(sidecar.address).await.unwrap();
    let names = "USR1 USR2 QUIT ALRM VTALRM PROF IO XCPU XFSZ PWR PIPE WINCH URG CHLD";
    // SIGSTKFLT, SIGRTMIN+3 (systemd's halt), and the last one.
    for name in names.split(' ').chain(["16", "37", "64"]) {
        sidecar.signal(name);
        say_and_hear(&mut session, name.as_bytes()).await.unwrap();
    }
    sidecar.until("they are logged", |log| {
        let names = ["SIGUSR1", "SIGRTMIN+3"].iter().all(|name| log.contains(name));
        names && log.matches("signal ignored").count() >= 13
    });
    drop(session);
    sidecar.signal("TERM");
    assert_eq!(sidecar.ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_arrived_during_sigstop_are_read_before_connections_are_closed_as_idle() {
    // Long enough for the first session to wait for the last one.
    let scene = Scene::new("timeouts.idle = \"4s\"\ntimeouts.half_close = \"4s\"\n").await;
    let sidecar = scene.start();
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(scene.device().echo(sidecar.address).await.unwrap());
    }
    sidecar.signal("STOP");
    let stopped = Instant::now();
    for session in &mut sessions {
        session.write_all(b"report").await.unwrap();
        session.flush().await.unwrap();
    }
    eventually("all are due", || stopped.elapsed() > Duration::from_millis(4500)).await;
    sidecar.signal("CONT");
    for session in &mut sessions {
        let mut echo = [0; 6];
        within("the report is answered", session.read_exact(&mut echo)).await.unwrap();
        assert_eq!(&echo, b"report");
    }
}

/// Returns the owner of the files below `/proc/PID`, and the limit of core files.
fn exposed(sidecar: &Sidecar) -> (u32, String) {
    let proc = PathBuf::from(format!("/proc/{}", sidecar.pid()));
    let limits = fs::read_to_string(proc.join("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let core = core.split_whitespace().nth(4).unwrap().to_owned();
    (fs::metadata(proc.join("mem")).unwrap().uid(), core)
}

/// Returns a user other than root, because root owns protected files and can read everything.
fn user() -> u32 {
    match fs::metadata("/proc/self").unwrap().uid() {
        0 => 65_534,
        own => own,
    }
}

/// Runs the binary as that user, who owns the files.
fn as_user(scene: &Scene, more: &[&str]) -> Sidecar {
    let (user, dir) = (user(), scene.authority.dir());
    let own = |path: PathBuf| chown(path, Some(user), Some(user)).unwrap();
    // The user must be able to run the binary.
    let program = dir.join("tlsidecar");
    if !program.exists() {
        fs::copy(env!("CARGO_BIN_EXE_tlsidecar"), &program).unwrap();
    }
    fs::read_dir(dir).unwrap().for_each(|entry| own(entry.unwrap().path()));
    own(dir.to_owned());
    let mut command = by_shell("ulimit -c \"$(ulimit -H -c)\"; shift; exec \"$@\"");
    command.arg(&program).arg("--config").arg(&scene.path).args(more);
    command.uid(user).gid(user);
    Sidecar::run(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_lose_their_permissions_keep_their_content_active_until_they_are_back() {
    let scene = Scene::new("").await;
    let sidecar = as_user(&scene, &[]);
    let key = scene.authority.dir().join("server.key");
    let mode = |mode| fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o000);
    let (_, report) = sidecar.ask("POST", "/reload").unwrap();
    assert!(report.contains("server.key"), "{report}");
    assert!(!report.contains("process.landlock"), "{report}");
    assert_eq!(sidecar.count("tlsidecar_reload_failing"), 1);
    scene.device().echo(sidecar.address).await.unwrap();
    mode(0o600);
    sidecar.ask("POST", "/reload").unwrap();
    assert_eq!(sidecar.count("tlsidecar_reload_failing"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_is_unreadable_unless_the_configuration_allows_it() {
    let scene = Scene::new("").await;
    let closed = as_user(&scene, &[]);
    scene.device().echo(closed.address).await.unwrap();
    assert_eq!(exposed(&closed), (0, "0".to_owned()));
    let open = as_user(&scene, &["--dumpable"]);
    assert_eq!(exposed(&open).0, user());
    assert!(open.log().contains("process.dumpable"), "{}", open.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_thread_of_the_process_can_get_new_privileges() {
    let scene = Scene::new("").await;
    let sidecar = scene.start();
    scene.device().echo(sidecar.address).await.unwrap();
    let threads = fs::read_dir(format!("/proc/{}/task", sidecar.pid())).unwrap();
    let states = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("status")));
    // jemalloc starts its threads before `main`.
    let ours = |state: &String| !state.starts_with("Name:\tjemalloc");
    let states: Vec<_> = states.filter_map(Result::ok).filter(ours).collect();
    assert!(states.len() > 3);
    assert!(states.iter().all(|state| state.contains("NoNewPrivs:\t1")), "{states:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_outside_of_the_confinement_is_reported_and_served_after_a_restart() {
    let scene = Scene::new("").await;
    let mut sidecar = scene.start();
    // The last line of the start.
    sidecar.until("it says how it is confined", |log| log.contains("access to files"));
    if !sidecar.log().contains("access to files is confined") {
        skipped("the kernel has no Landlock, or the files of the tests are beside the program's");
        return;
    }
    // This repository is not below the directory for temporary files.
    let elsewhere = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let text = fs::read_to_string(&scene.path).unwrap();
    let pair = scene.authority.issue("next", &Wish { serial: 77, ..Wish::default() });
    let mut moved = text.clone();
    for file in [&pair.files.cert, &pair.files.key] {
        let new = elsewhere.path().join(file.file_name().unwrap());
        fs::copy(file, &new).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap().replace("next", "server");
        let old = scene.authority.dir().join(name);
        assert!(moved.contains(old.to_str().unwrap()), "{moved}");
        moved = moved.replace(old.to_str().unwrap(), new.to_str().unwrap());
    }
    file::write(scene.authority.dir(), &moved);
    let (_, report) = sidecar.ask("POST", "/reload").unwrap();
    assert!(report.contains("process.landlock") && report.contains("restart"), "{report}");
    // The current certificate stays.
    scene.device().echo(sidecar.address).await.unwrap();
    scene.device().echo(scene.start().address).await.unwrap();
    file::write(scene.authority.dir(), &text);
    let (_, report) = sidecar.ask("POST", "/reload").unwrap();
    assert!(!report.contains("process.landlock"), "{report}");
}

/// Runs a command of the binary in bash, with redirections. Returns its exit code and its standard error.
fn code(arguments: &str, redirections: &str) -> (i32, String) {
    let program = env!("CARGO_BIN_EXE_tlsidecar");
    // The reader of the pipe exits before anything is written.
    let script = format!("exec 3> >(:); wait $!; {program} {arguments} {redirections}");
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_output_is_not_read_has_the_same_exit_code() {
    let scene = Scene::new("").await;
    let good = format!("check --config {}", scene.path.display());
    let bad = scene.authority.dir().join("bad.toml");
    fs::write(&bad, "[listener").unwrap();
    let bad = format!("check --config {}", bad.display());
    for (command, expected) in [
        // 1 if the report could not be written.
        (good.as_str(), &[0, 1][..]),
        (&bad, &[78]),
        ("--config /nonexistent", &[78]),
        ("--nonsense", &[2]),
        ("--help", &[0]),
        ("--version", &[0]),
        ("drain --admin 127.0.0.1:1", &[1]),
        ("probe 127.0.0.1:1", &[1]),
        ("probe 127.0.0.1:1 --format json", &[1]),
        ("probe --live --admin 127.0.0.1:1", &[1]),
        ("demo --renew --dir /nonexistent", &[1]),
        // Output is their purpose: 1 if it could not be written.
        ("man", &[0, 1]),
        ("completions bash", &[0, 1]),
    ] {
        for redirections in [
            "> /dev/full",
            "2> /dev/full",
            "> /dev/full 2>&1",
            ">&3",
            "2>&3",
            ">&3 2>&3",
            ">&-",
            "2>&-",
            ">&- 2>&-",
        ] {
            let (code, stderr) = code(command, redirections);
            assert!(expected.contains(&code), "{command} {redirections}: {code} {stderr}");
            assert!(!stderr.contains("panicked"), "{command} {redirections}: {stderr}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_continues_when_its_output_is_not_read() {
    for output in ["> /dev/full", ">&-", "> >(:)"] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("bash");
        let script = format!("exec \"$@\" {output}");
        command.args(["-c", &script, "bash", env!("CARGO_BIN_EXE_tlsidecar"), "demo"]);
        command
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--dir"])
            .arg(dir.path());
        let mut demo = Sidecar::run(command);
        assert_eq!(demo.ask("GET", "/livez").unwrap().0, 200, "{output}");
        demo.signal("TERM");
        assert_eq!(demo.ended().code(), Some(0), "{output}: {}", demo.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_would_log_nothing_is_refused_with_the_allowed_values() {
    let scene = Scene::new("").await;
    let text = fs::read_to_string(&scene.path).unwrap();
    for filter in ["warning", "verbose", "debgu", "", "info,acces", "hyper=info"] {
        let mut command = by_shell("exec timeout 20 \"$@\"");
        command.arg("--config").arg(&scene.path).arg(format!("--log-filter={filter}"));
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{filter}: {stderr}");
        assert!(stderr.contains("off, error, warn, info, debug or trace"), "{filter}: {stderr}");
        let path = file::write(scene.authority.dir(), &format!("log.filter = {filter:?}\n{text}"));
        let output = binary().arg("check").arg("--config").arg(path).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{filter}: {stderr}");
        assert!(stderr.contains("off, error, warn, info, debug or trace"), "{filter}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_reports_its_cause_whatever_the_filter_is() {
    let scene = Scene::new("").await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = taken.local_addr().unwrap().to_string();
    for filter in ["off", "access=warn", "tlsidecar=off,info", "error"] {
        let mut command = binary();
        command.arg("--config").arg(&scene.path).args(["--admin", &admin, "--log-filter", filter]);
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{filter}");
        assert_eq!(stderr.matches(&admin).count(), 1, "{filter}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_without_a_value_counts_as_unset() {
    let scene = Scene::new("").await;
    let mut command = binary();
    for name in "LISTEN BACKEND CERT KEY CLIENT_CA ADMIN LOG_FILTER DUMPABLE".split(' ') {
        command.env(format!("TLSIDECAR_{name}"), "");
    }
    command.env("NOTIFY_SOCKET", "").env("WATCHDOG_USEC", "").env("LISTEN_FDS", "");
    command.env("LISTEN_PID", "").env("LISTEN_FDNAMES", "");
    command.arg("--config").arg(&scene.path);
    let sidecar = Sidecar::run(command);
    scene.device().echo(sidecar.address).await.unwrap();
    assert!(!sidecar.log().contains("WARN"), "{}", sidecar.log());

    // One listener from flags, with an empty file name.
    let mut command = binary();
    command.env("TLSIDECAR_CONFIG", "");
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--backend", "127.0.0.1:1"]);
    command.arg("--cert").arg(scene.authority.dir().join("server.crt"));
    command.arg("--key").arg(scene.authority.dir().join("server.key"));
    drop(Sidecar::run(command));
    let mut command = binary();
    command.env("TLSIDECAR_ADMIN", "").args(["probe", "--live", "--timeout", "100ms"]);
    assert!(matches!(command.output().unwrap().status.code(), Some(0 | 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_read_twice_is_refused_at_the_start() {
    let scene = Scene::new("").await;
    let (program, path) = (env!("CARGO_BIN_EXE_tlsidecar"), scene.path.display());
    for script in [
        format!("timeout 20 {program} --config <(cat {path})"),
        format!("cat {path} | timeout 20 {program} --config /dev/stdin"),
        format!("{program} --config {}", scene.authority.dir().display()),
        format!("cat {path} | {program} check --config /dev/stdin"),
    ] {
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{script}: {stderr}");
        assert!(stderr.contains("regular file"), "{script}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_that_are_not_read_are_counted() {
    for output in ["2> /dev/full", "2> >(head -1 >/dev/null)"] {
        let scene = Scene::new("").await;
        let (devices, admin) = (free(), free());
        let text = fs::read_to_string(&scene.path).unwrap();
        let text = text.replacen("127.0.0.1:0", &admin.to_string(), 1);
        let text = text.replacen("127.0.0.1:0", &devices.to_string(), 1);
        let path = file::write(scene.authority.dir(), &text);
        let mut command = Command::new("bash");
        command.args(["-c", &format!("exec \"$@\" {output}"), "bash"]);
        command.arg(env!("CARGO_BIN_EXE_tlsidecar")).arg("--config").arg(path);
        let _running = Running(command.stdout(Stdio::null()).spawn().unwrap());
        let metrics = || ask(admin, "GET", "/metrics", "").map(|(_, text)| text);
        eventually("it is up", || metrics().is_some()).await;
        for _ in 0..20 {
            answer_to(devices, b"GET / HTTP/1.1\r\n\r\n").await;
        }
        let lost = || metric::<u64>(&metrics().unwrap(), "tlsidecar_log_lines_dropped_total");
        eventually("the lines are counted", || lost().is_some_and(|lost| lost >= 20)).await;
    }
}
