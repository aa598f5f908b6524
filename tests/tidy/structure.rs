//! Dependencies, lengths and names of files, the walk of a connection.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::imports::{Imports, is_test, module};
use super::{all_files, pages, read, root, rust_files};

/// The modules that may name a dependency, by prefix. All modules may name those that are not listed: tokio, tracing and
/// thiserror.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("aes", &["trust::provider::aes_ccm"]),
    ("aws_lc_rs", &["trust::digest", "trust::provider::p521", "trust::tickets"]),
    ("ccm", &["trust::provider::aes_ccm"]),
    ("clap", &["commands::flags", "commands::pages"]),
    ("clap_complete", &["commands::flags", "commands::pages"]),
    ("clap_mangen", &["commands::pages"]),
    (
        "data_encoding",
        &[
            "commands::trace",
            "config::allow",
            "control::admin::page",
            "sessions::trace",
            "trust::certs::pem",
            "trust::facts",
            "trust::tickets",
        ],
    ),
    ("etherparse", &["commands::trace"]),
    ("form_urlencoded", &["commands::admin_client", "control::admin::query"]),
    ("http_body_util", &["control::admin", "commands::admin_client"]),
    ("humantime", &["config::values"]),
    ("hyper", &["control::admin", "commands"]),
    ("hyper_util", &["control::admin", "commands::admin_client"]),
    ("ipnet", &["config::proxy_protocol"]),
    ("landlock", &["control::confine"]),
    ("listenfd", &["control::sockets"]),
    ("notify", &["reload::watch"]),
    ("prometheus", &["metrics"]),
    ("rcgen", &["commands::demo"]),
    (
        "rustix",
        &[
            "control::confine",
            "control::core_dumps",
            "lifecycle::signals",
            "proxy::socket",
            "regular_file",
        ],
    ),
    // `tokio_rustls::rustls`, which is not a direct dependency.
    ("rustls", &["commands::probe", "proxy", "trust"]),
    ("rustls_pemfile", &["trust::certs::pem"]),
    ("sd_notify", &["control::sockets", "control::systemd"]),
    (
        "serde",
        &[
            "commands",
            "config::file",
            "control::admin",
            "events",
            "metrics",
            "sessions::facts",
            "sessions::offer_facts",
            "sessions::trace",
            "trust::facts",
        ],
    ),
    ("serde_json", &["commands", "control::admin"]),
    ("socket2", &["proxy::backend::dial", "proxy::socket", "transparent"]),
    ("tikv_jemallocator", &["main"]),
    ("tokio_rustls", &["commands::probe", "proxy", "trust"]),
    ("tokio_util", &["lifecycle"]),
    ("toml", &["config::file"]),
    ("tracing_appender", &["logging"]),
    ("tracing_subscriber", &["logging"]),
    ("x509_parser", &["trust::x509"]),
    ("zeroize", &["proxy::tls::keys", "sessions::trace", "trust"]),
];

const EVERYWHERE: &[&str] = &["thiserror", "tokio", "tracing"];

/// Maximum lines of code of a file, without tests and comments.
const LONGEST_FILE: usize = 400;

#[test]
fn each_dependency_is_named_where_it_may_be() {
    let mut named = BTreeSet::new();
    for file in rust_files("src") {
        let file = file.strip_prefix("src").unwrap();
        let from = module(file);
        if is_test(&from) {
            continue;
        }
        for path in Imports::of(&root().join("src"), file).found {
            let first = path.split("::").next().unwrap().to_owned();
            if let Some((_, may)) = MAY_NAME.iter().find(|(name, _)| *name == first) {
                let fine = may.iter().any(|m| from == *m || from.starts_with(&format!("{m}::")));
                assert!(fine, "{from} may not name {first} ({path}): see docs/dependencies.md");
                named.insert(first);
            }
        }
    }
    let unused: Vec<_> = MAY_NAME.iter().filter(|(name, _)| !named.contains(*name)).collect();
    assert!(unused.is_empty(), "nobody names {unused:?}");
}

#[test]
fn each_dependency_has_a_reason() {
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let reasons = read("docs/dependencies.md");
    let dependencies = manifest["dependencies"].as_table().unwrap();
    assert!(dependencies.len() > 10);
    for name in dependencies.keys() {
        assert!(
            reasons.contains(&format!("{name} |")) || reasons.contains(&format!("{name}, ")),
            "{name}"
        );
        let name = name.replace('-', "_");
        let held = MAY_NAME.iter().any(|(n, _)| *n == name) || EVERYWHERE.contains(&name.as_str());
        assert!(held, "{name} is in no table of tests/tidy/structure.rs");
    }
    for name in manifest["dev-dependencies"].as_table().unwrap().keys() {
        assert!(reasons.contains(name.as_str()), "{name}");
    }
}

#[test]
fn files_say_what_they_are_and_are_not_too_long() {
    for file in ["src", "tests", "benches", "fuzz"].into_iter().flat_map(rust_files) {
        let text = read(&file);
        let name = file.display();
        assert!(text.starts_with("//! "), "{name} does not say what it is");
        let mut header = text.lines().take_while(|line| line.starts_with("//!"));
        let bounded = header.any(|line| line.starts_with("//! **Not here.** "));
        assert!(bounded || !file.starts_with("src"), "{name} does not say what is not here");
        let stem = file.file_stem().unwrap().to_str().unwrap();
        assert!(
            !["mod", "util", "utils", "common", "helpers", "manager"].contains(&stem),
            "{name}"
        );
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let is_code = |line: &&str| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with("//")
        };
        let lines = code.lines().filter(is_code).count();
        let tests = file.starts_with("tests");
        assert!(tests || lines <= LONGEST_FILE, "{name} has {lines} lines of code: split by noun");
    }
}

#[test]
fn directions_are_named_by_where_they_lead() {
    let top = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(PathBuf::from);
    // Pages about a migration have the keys of other programs.
    let own = pages("docs").into_iter().filter(|page| !page.starts_with("docs/migrate"));
    for file in rust_files("src").into_iter().chain(own).chain(top) {
        let text = read(&file).to_lowercase();
        let name = file.display();
        for word in text.split(|c: char| !c.is_alphanumeric() && c != '_') {
            let parts: Vec<_> = word.split('_').collect();
            let has = |these: &[&str]| these.iter().any(|this| parts.contains(this));
            // nginx calls the backend upstream; device makers call the cloud so.
            let two_ways = has(&["upstream", "downstream"]);
            // Every relayed byte is both received and sent.
            let both = has(&["sent", "received"]) && has(&["bytes", "records", "total"]);
            assert!(!two_ways && !both, "{name}: {word}: it is to_backend or to_client");
        }
        for label in ["\"sent\"", "\"received\""] {
            assert!(!text.contains(label), "{name}: {label}: it is to_backend or to_client");
        }
    }
}

#[test]
fn the_walk_fits_on_a_screen() {
    let file = syn::parse_file(&read("src/proxy/connection.rs")).unwrap();
    let names: Vec<_> = file
        .items
        .iter()
        .filter_map(|item| {
            let syn::Item::Fn(function) = item else { return None };
            Some(function.sig.ident.to_string())
        })
        .collect();
    assert_eq!(names, ["serve", "walk", "open", "connect_backend"]);
    let text = read("src/proxy/connection.rs");
    let walk =
        text.split("async fn walk").nth(1).unwrap().split("\n/// An abnormal end of a walk").next();
    let lines = walk.unwrap().lines().filter(|l| !l.trim().is_empty()).count();
    assert!(lines <= 80, "{lines} lines");
}

/// The largest files are pictures and the dashboard. A larger file is probably a mistake, and would stay in every clone.
#[test]
fn no_file_is_larger_than_512_kib() {
    let files = all_files("");
    for file in &files {
        // The size of a link itself: its target is checked separately.
        let bytes = fs::symlink_metadata(root().join(file)).unwrap().len();
        assert!(bytes <= 512 << 10, "{}: {bytes} bytes", file.display());
    }
    assert!(files.len() > 200, "{} files", files.len());
}
