//! Runs the commands of the pages for operators and compares their output with the pages.
//!
//! `support/page.rs` describes the format of a page.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::command::skipped;
use crate::support::page::{How, blocks};
use crate::support::terminal::Terminal;

/// A page whose commands are run.
struct Page {
    name: &'static str,
    needs: &'static [&'static str],
    /// Steps of the first hour that run before the page.
    begins_with: &'static [&'static str],
}

/// Pages that a reader follows in this order. Each builds on the state that the previous ones have left.
const IN_ORDER: [&str; 6] = [
    FIRST_HOUR,
    "docs/certificates.md",
    "docs/acme.md",
    "docs/devices.md",
    "docs/device-failures.md",
    "docs/probe.md",
];

/// Steps of the first hour that start the broker and the sidecar, which its last step stops.
const STARTS: [&str; 2] = ["2.", "4."];

const FIRST_HOUR: &str = "docs/first-hour.md";

/// Pages whose commands are not run here, each with the reason.
const RUN_ELSEWHERE: &[(&str, &str)] = &[
    (
        "README.md",
        "the demo is a step of .ci/run, and tests/demo.rs runs the commands that it prints",
    ),
    ("CONTRIBUTING.md", "the steps of .ci/run"),
    ("docs/configuration.md", "tests/process.rs runs both commands with other paths"),
    ("docs/performance-method.md", "they take an hour; .ci/run measures a part"),
    (
        "docs/reliability.md",
        "it takes minutes; tests/drain.rs and tests/dead_peers.rs hold the promises",
    ),
    (
        "docs/image.md",
        "tests/deploy/image.sh builds and runs it; Docker and the scanners are not run",
    ),
    ("docs/release.md", "deploy/release/build.sh, at a tag"),
    ("docs/migrate/ghostunnel.md", "tests/migrate.rs"),
    ("docs/migrate/haproxy.md", "tests/migrate.rs"),
    ("docs/migrate/nginx.md", "tests/migrate.rs"),
    ("docs/migrate/stunnel.md", "tests/migrate.rs"),
    ("docs/kubernetes.md", "tests/deploy/kubernetes.py; there is no cluster"),
    ("docs/kubernetes-reference.md", "tests/deploy/helm.py; there is no cluster"),
    ("deploy/helm/example/README.md", "tests/deploy/helm.py; there is no cluster"),
    ("deploy/helm/tlsidecar-gateway/README.md", "tests/deploy/gateway.py; there is no cluster"),
    ("docs/transparent-source.md", "tests/transparent.rs, in namespaces"),
    ("docs/systemd.md", "tests/deploy/package.sh, in a separate Debian; certbot is not run"),
    ("examples/modbus/README.md", "tests/examples.rs"),
    ("examples/mqtt/README.md", "tests/examples.rs"),
];

fn open(needs: &[&str]) -> Option<Terminal> {
    let terminal = Terminal::open(needs, &["examples"])?;
    // Replaces `cargo run` in a clone of the repository: the program is already built.
    let cargo = "[ \"$1 $2 $3\" = 'run --release --' ] && shift 3 && exec tlsidecar \"$@\"";
    terminal.command("cargo", cargo);
    Some(terminal)
}

fn follow(page: &Page) {
    assert!(is_followed(page.name), "{} is in no table", page.name);
    let Some(mut terminal) = open(page.needs) else { return };
    for step in page.begins_with {
        let mut blocks = blocks(FIRST_HOUR);
        blocks.retain(|block| block.section.starts_with(step));
        assert!(terminal.follow(FIRST_HOUR, &blocks) > 0, "{FIRST_HOUR} has no step {step}");
    }
    assert!(terminal.follow(page.name, &blocks(page.name)) > 0, "{} runs nothing", page.name);
}

/// Pages whose commands are run by the tests of this file, each from its own state.
const ALONE: [&str; 5] = [
    "certs/README.md",
    "docs/backends.md",
    "docs/fleet-life.md",
    "docs/rolling-restart.md",
    "examples/README.md",
];

/// Returns whether a test of this file runs the commands of a page.
fn is_followed(page: &str) -> bool {
    IN_ORDER.contains(&page) || ALONE.contains(&page)
}

#[test]
fn every_page_with_commands_is_run_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut ahead: Vec<_> = ["docs", "certs", "deploy", "examples"].map(|d| root.join(d)).into();
    ahead.extend(["README.md", "CONTRIBUTING.md"].map(|page| root.join(page)));
    let mut pages = 0;
    while let Some(path) = ahead.pop() {
        if path.is_dir() && !path.ends_with("venv") {
            ahead.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        }
        let is_page = path.extension().is_some_and(|extension| extension == "md");
        if !is_page || !std::fs::read_to_string(&path).unwrap().contains("\n```sh\n") {
            continue;
        }
        let name = path.strip_prefix(root).unwrap().to_str().unwrap();
        let run = is_followed(name) || RUN_ELSEWHERE.iter().any(|(page, _)| *page == name);
        assert!(run, "{name} has commands that no test runs: see tests/docs.rs");
        pages += 1;
    }
    assert!(pages >= IN_ORDER.len() + ALONE.len());
}

#[test]
fn the_first_hour_goes_as_it_says() {
    let needs = &["openssl", "curl", "/usr/sbin/mosquitto", "mosquitto_pub", "mosquitto_sub"];
    follow(&Page { name: FIRST_HOUR, needs, begins_with: &[] });
}

#[test]
fn the_pages_go_on_from_one_another_as_a_reader_follows_them() {
    let needs = &[
        "openssl",
        "curl",
        "lego",
        "pebble",
        "pebble-challtestsrv",
        "/usr/sbin/mosquitto",
        "mosquitto_pub",
        "mosquitto_sub",
        "python3",
        "cc",
    ];
    let mut header = Command::new("cc");
    header.args(["-fsyntax-only", "-include", "mbedtls/ssl.h", "-xc"]);
    let found = header.arg("/dev/null").stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        skipped("libmbedtls-dev is not installed on this machine");
        return;
    }
    let Some(mut terminal) = open(needs) else { return };
    for page in IN_ORDER {
        assert!(terminal.follow(page, &blocks(page)) > 0, "{page} runs nothing");
        if page == FIRST_HOUR {
            terminal.end_beside();
            let mut starts = blocks(page);
            starts.retain(|block| {
                block.how == How::Beside
                    && STARTS.iter().any(|step| block.section.starts_with(step))
            });
            assert_eq!(terminal.follow(page, &starts), STARTS.len());
        }
    }
}

#[test]
fn the_health_command_answers_as_the_page_says() {
    let needs = &["openssl", "curl", "/usr/sbin/mosquitto"];
    follow(&Page { name: "docs/probe.md", needs, begins_with: &["2.", "3.", "4."] });
}

#[test]
fn development_certificates_are_made_as_the_page_says() {
    let needs = &["openssl", "curl"];
    follow(&Page { name: "certs/README.md", needs, begins_with: &[] });
}

#[test]
fn the_life_of_a_fleet_goes_as_it_says() {
    let needs = &["openssl", "curl", "python3", "pkill"];
    follow(&Page { name: "docs/fleet-life.md", needs, begins_with: &[] });
}

#[test]
fn a_process_is_replaced_without_loss_as_the_page_says() {
    let needs = &["openssl", "python3"];
    follow(&Page { name: "docs/rolling-restart.md", needs, begins_with: &[] });
}

#[test]
fn a_backend_of_two_fails_and_returns_as_the_page_says() {
    let needs = &["openssl", "python3", "pkill"];
    follow(&Page { name: "docs/backends.md", needs, begins_with: &[] });
}

#[test]
fn the_devices_of_the_demo_connect_as_the_page_says() {
    follow(&Page { name: "examples/README.md", needs: &["python3"], begins_with: &[] });
}
