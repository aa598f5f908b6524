//! The demo, as the README describes it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::command::run;
use crate::support::process::binary;
use crate::support::{Sidecar, eventually};

/// Returns a command for a demo on free ports, with its certificates in `dir`.
fn command(dir: &Path) -> Command {
    let mut command = binary();
    command.args(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--dir"]).arg(dir);
    command
}

fn demo(dir: &Path) -> Sidecar {
    Sidecar::run(command(dir))
}

/// Starts a demo from `here`, not through cargo, and returns its instructions.
async fn demo_from(here: &Path, dir: &Path) -> (Sidecar, String) {
    let output = tempfile::NamedTempFile::new().unwrap();
    let mut command = command(dir);
    command.current_dir(here).env_remove("CARGO").env_remove("CARGO_MANIFEST_DIR");
    command.stdout(output.reopen().unwrap());
    let demo = Sidecar::run(command);
    let text = || fs::read_to_string(output.path()).unwrap();
    eventually("it prints its instructions", || text().contains("Ctrl-C ends it.")).await;
    let text = text();
    (demo, text)
}

/// Runs the line of `text` that contains `what`, in the directory `here`.
async fn typed(text: &str, what: &str, here: &Path) -> (bool, String) {
    let line = text.lines().find(|line| line.starts_with("    ") && line.contains(what)).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).current_dir(here);
    run(shell).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_serves_the_python_device_and_loads_a_renewed_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let mut demo = demo(dir.path());
    let device = |ca: &str| {
        let mut command = Command::new("python3");
        command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("examples/device.py");
        command.args(["--port", &demo.address.port().to_string(), "--ca", ca]);
        command
    };
    let ca = dir.path().join("ca.crt").display().to_string();
    let (good, text) = run(device(&ca)).await;
    assert!(good && text.contains("Hello, server!"), "{text}");
    let mut renew = binary();
    renew.args(["demo", "--renew", "--dir"]).arg(dir.path());
    assert!(run(renew).await.0);
    let swapped = || demo.count("tlsidecar_reloads_total{outcome=\"swapped\"}") > 0;
    eventually("the new certificate is active", swapped).await;
    let (good, text) = run(device(&ca)).await;
    assert!(good, "{text}");
    demo.signal("INT");
    assert_eq!(demo.ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_demo_keeps_the_certificates_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    drop(demo(dir.path()));
    let before = fs::read(dir.path().join("server.crt")).unwrap();
    drop(demo(dir.path()));
    assert_eq!(fs::read(dir.path().join("server.crt")).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_can_read_the_keys_of_the_demo() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let demo = demo(dir.path());
    for key in ["ca.key", "server.key", "device.key"] {
        let mode = fs::metadata(dir.path().join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    assert!(!demo.log().contains("WARN"), "{}", demo.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn its_instructions_work_from_any_directory() {
    let scene = tempfile::tempdir().unwrap();
    // A name that a shell would split.
    let dir = scene.path().join("it's mine");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (demo, text) = demo_from(repository, &dir).await;
    for what in ["device.py", "device_old.py"] {
        let (good, answer) = typed(&text, what, Path::new("/")).await;
        assert!(good && answer.contains("Hello, server!"), "{what}: {answer}");
    }
    let (good, answer) = typed(&text, "openssl", Path::new("/")).await;
    assert!(good && answer.contains("Verify return code: 0 (ok)"), "{answer}");
    let (good, answer) = typed(&text, " probe ", Path::new("/")).await;
    assert!(good && answer.contains("TLS 1.3"), "{answer}");
    let (good, answer) = typed(&text, "--renew", Path::new("/")).await;
    assert!(good, "{answer}");
    let swapped = || demo.count("tlsidecar_reloads_total{outcome=\"swapped\"}") > 0;
    eventually("the new certificate is active", swapped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_the_repository_its_instructions_contain_the_path_of_the_examples() {
    let here = tempfile::tempdir().unwrap();
    let (demo, text) = demo_from(here.path(), Path::new("dev")).await;
    assert_eq!(text.matches("in the repository of tlsidecar").count(), 2, "{text}");
    // Its files are where it was started, and its instructions contain that path.
    assert!(here.path().join("dev/ca.key").exists());
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (good, answer) = typed(&text, "device.py", repository).await;
    assert!(good, "{answer}");
    let (good, answer) = typed(&text, "--renew", repository).await;
    assert!(good, "{answer}");
    let swapped = || demo.count("tlsidecar_reloads_total{outcome=\"swapped\"}") > 0;
    eventually("the new certificate is active", swapped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_instructions_use_cargo_if_cargo_started_it() {
    let dir = tempfile::tempdir().unwrap();
    let output = tempfile::NamedTempFile::new().unwrap();
    let mut command = command(dir.path());
    command.env("CARGO", "cargo").stdout(output.reopen().unwrap());
    let _demo = Sidecar::run(command);
    let renew = format!("    cargo run --release -- demo --renew --dir {}\n", dir.path().display());
    let text = || fs::read_to_string(output.path()).unwrap();
    eventually("it prints that", || text().contains(&renew)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_certificates_are_made_and_the_others_kept() {
    let dir = tempfile::tempdir().unwrap();
    drop(demo(dir.path()));
    let read = |file: &str| fs::read(dir.path().join(file)).unwrap();
    let (ca, server, device) = (read("ca.crt"), read("server.crt"), read("device.crt"));
    fs::remove_file(dir.path().join("server.key")).unwrap();
    drop(demo(dir.path()));
    assert_eq!((read("ca.crt"), read("device.crt")), (ca, device));
    // Without its key, a certificate is made again.
    assert!(read("server.crt") != server);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_ca_is_reported_with_the_missing_file_and_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    drop(demo(dir.path()));
    for file in ["ca.key", "device.crt"] {
        fs::remove_file(dir.path().join(file)).unwrap();
    }
    let (good, text) = run(command(dir.path())).await;
    assert!(!good && text.contains("lacks ca.key, device.crt: delete the directory"), "{text}");
    assert!(text.contains(&dir.path().display().to_string()), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_without_a_ca_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(dir.path());
    command.arg("--renew");
    let (good, text) = run(command).await;
    assert!(!good && text.contains("run the demo first"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_created_is_reported_with_its_path() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let dir = file.path().join("dev");
    let (good, text) = run(command(&dir)).await;
    let tried = format!("cannot create the directory {}: ", dir.display());
    assert!(!good && text.contains(&tried), "{text}");
}
