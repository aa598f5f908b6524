//! Checks the configurations of the migration pages: tlsidecar's by `tlsidecar check`, and the other ones by their own
//! programs.
//!
//! A fence whose first line is `# NAME` is the file NAME, beside the files that the configurations name.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::certs::{Authority, Wish};
use crate::support::command::output;
use crate::support::page::blocks;
use crate::support::terminal::Terminal;

/// Returns the files of a page: their names and their content.
fn files(page: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let fences = text.split("\n```").skip(1).step_by(2);
    let named = fences.filter_map(|fence| {
        let (_kind, content) = fence.split_once('\n')?;
        let name = content.lines().next()?.strip_prefix("# ")?;
        name.contains('.').then(|| (name.to_owned(), format!("{content}\n")))
    });
    named.collect()
}

/// Runs the commands of a page in a directory with its files, and returns the terminal.
fn follow(page: &str, programs: &[&str]) -> Option<Terminal> {
    let mut terminal = Terminal::open(programs, &[])?;
    let home = terminal.home();
    let ca = Authority::new("devices");
    let (cert, key) = ca.issue_pem(&Wish::default());
    fs::write(home.join("site.pem"), format!("{cert}{key}")).unwrap();
    fs::write(home.join("tls.crt"), cert).unwrap();
    fs::write(home.join("tls.key"), key).unwrap();
    fs::copy(ca.ca(), home.join("devices-ca.crt")).unwrap();
    fs::copy(ca.crl("devices.crl", &[]), home.join("devices.crl")).unwrap();
    let files = files(page);
    assert!(files.iter().any(|(name, _)| name == "tlsidecar.toml"), "{page}: {files:?}");
    for (name, content) in files {
        fs::write(home.join(name), content).unwrap();
    }
    assert!(terminal.follow(page, &blocks(page)) > 0, "{page} runs nothing");
    Some(terminal)
}

#[test]
fn both_configurations_of_the_page_for_haproxy_are_accepted() {
    follow("docs/migrate/haproxy.md", &["haproxy"]);
}

#[test]
fn both_configurations_of_the_page_for_nginx_are_accepted() {
    follow("docs/migrate/nginx.md", &["nginx"]);
}

#[test]
fn the_configuration_of_the_page_for_ghostunnel_is_accepted() {
    follow("docs/migrate/ghostunnel.md", &[]);
}

/// stunnel has no check: it is started, and runs until it is ended.
#[test]
fn both_configurations_of_the_page_for_stunnel_are_accepted() {
    let Some(terminal) = follow("docs/migrate/stunnel.md", &["stunnel"]) else { return };
    let mut started = Command::new("unshare");
    started.args(["--net", "timeout", "1", "stunnel", "stunnel.conf"]);
    let (code, stdout, stderr) = output(started.current_dir(terminal.home()));
    assert_eq!(code, 124, "{stdout}{stderr}");
}
