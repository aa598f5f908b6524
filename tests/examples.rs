//! The examples, with unchanged legacy servers.
//!
//! Their pages contain the commands and the expected output.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::support::command::skipped;
use crate::support::page::blocks;
use crate::support::terminal::Terminal;

/// The directory in which CI installs examples/requirements.txt.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv");

/// Returns whether Python has a module there, and reports the test as skipped if not.
fn has_module(name: &str) -> bool {
    let mut command = Command::new(Path::new(PYTHON).join("bin/python"));
    let found = command.args(["-c", &format!("import {name}")]).output();
    found.is_ok_and(|output| output.status.success())
        || skipped(&format!("{PYTHON} has no {name}: see examples/requirements.txt"))
}

/// Types the commands of an example's page, in its directory.
fn follow(example: &str, programs: &[&str]) {
    let page = format!("examples/{example}/README.md");
    let Some(mut terminal) = Terminal::open(programs, &["examples"]) else { return };
    let here = terminal.home().join("examples").join(example);
    symlink(PYTHON, here.join("venv")).unwrap();
    terminal.enter(&here);
    assert!(terminal.follow(&page, &blocks(&page)) > 3);
}

#[test]
fn a_modbus_master_with_tls_reads_and_writes_a_plc_without() {
    if has_module("pymodbus") {
        follow("modbus", &["openssl"]);
    }
}

#[test]
fn an_mqtt_device_with_tls_talks_to_a_broker_without() {
    if has_module("paho.mqtt") {
        follow("mqtt", &["openssl", "/usr/sbin/mosquitto", "mosquitto_sub"]);
    }
}
