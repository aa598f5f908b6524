//! Do the pages for operators say what happens, command by command?
//!
//! What is typed and what is expected stands in the pages themselves: `support/page.rs` says how.

use std::process::{Command, Stdio};

use crate::support::command::skipped;
use crate::support::page::blocks;
use crate::support::terminal::Terminal;

/// A page whose commands are run.
struct Page {
    name: &'static str,
    needs: &'static [&'static str],
    /// The steps of the first hour from which it goes on.
    begins_with: &'static [&'static str],
}

const FIRST_HOUR: &str = "docs/first-hour.md";

fn follow(page: &Page) {
    let Some(mut terminal) = Terminal::open(page.needs, &["examples"]) else { return };
    // `cargo run` in a clone of the repository, which is built already.
    let cargo = "[ \"$1 $2 $3\" = 'run --release --' ] && shift 3 && exec tlsidecar \"$@\"";
    terminal.command("cargo", cargo);
    for step in page.begins_with {
        let mut blocks = blocks(FIRST_HOUR);
        blocks.retain(|block| block.section.starts_with(step));
        assert!(terminal.follow(FIRST_HOUR, &blocks) > 0, "{FIRST_HOUR} has no step {step}");
    }
    assert!(terminal.follow(page.name, &blocks(page.name)) > 0, "{} runs nothing", page.name);
}

#[test]
fn the_first_hour_goes_as_it_says() {
    let needs = &["openssl", "curl", "mosquitto", "mosquitto_pub", "mosquitto_sub"];
    follow(&Page { name: FIRST_HOUR, needs, begins_with: &[] });
}

#[test]
fn certificates_are_made_as_the_page_says() {
    let needs = &["openssl", "curl", "mosquitto", "lego", "pebble", "pebble-challtestsrv"];
    follow(&Page { name: "docs/certificates.md", needs, begins_with: &["2.", "3.", "4."] });
}

#[test]
fn devices_connect_and_fail_as_the_page_says() {
    let needs =
        &["openssl", "curl", "mosquitto", "mosquitto_pub", "mosquitto_sub", "python3", "cc"];
    let mut header = Command::new("cc");
    header.args(["-fsyntax-only", "-include", "mbedtls/ssl.h", "-xc"]);
    let found = header.arg("/dev/null").stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        skipped("libmbedtls-dev is not installed on this machine");
        return;
    }
    follow(&Page { name: "docs/devices.md", needs, begins_with: &["2.", "3.", "4."] });
}

#[test]
fn development_certificates_are_made_as_the_page_says() {
    let needs = &["openssl", "curl"];
    follow(&Page { name: "certs/README.md", needs, begins_with: &[] });
}

#[test]
fn the_devices_of_the_demo_connect_as_the_page_says() {
    follow(&Page { name: "examples/README.md", needs: &["python3"], begins_with: &[] });
}
