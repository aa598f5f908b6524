//! Is the house in order: imports, dependencies, lengths, documents?
//!
//! These are the rules of ARCHITECTURE.md and CONTRIBUTING.md that a program can check. Each check
//! asserts that it has found something to look at.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use syn::visit::Visit;
use tlsidecar::cli::Cli;
use tlsidecar::config::file;
use tlsidecar::ops::metrics::Metrics;
use tlsidecar::probe::problem::Kind;
use tlsidecar::proxy::reason::Reason;

/// Which modules of ours a module may import. Down, and nowhere else; the sideways edges are
/// `ops::admin` and `ops::systemd` → `trust::reload`, `ops::admin::page` → `trust::digest`.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    (
        "main",
        &[
            "app",
            "cli",
            "cli::pages",
            "cli::probe",
            "config",
            "config::file",
            "demo",
            "logging",
            "ops::ask",
            "ops::core_dumps",
            "ops::shutdown",
            "ops::signals",
            "ops::systemd",
            "ops::systemd::sockets",
            "probe",
            "runtime",
            "text",
        ],
    ),
    ("runtime", &[]),
    ("cli", &["cli::probe", "config", "config::file", "logging"]),
    ("cli::pages", &["cli", "text"]),
    ("cli::probe", &["cli", "config"]),
    ("demo", &["app", "cli", "config", "regular_file", "text"]),
    (
        "probe",
        &[
            "cli",
            "cli::probe",
            "config",
            "ops::ask",
            "probe::attempt",
            "probe::dial",
            "probe::failure",
            "probe::json",
            "probe::offer",
            "probe::printable",
            "probe::problem",
            "probe::report",
            "probe::verdict",
        ],
    ),
    ("probe::attempt", &["config", "probe::failure", "probe::tap", "probe::witness"]),
    ("probe::dial", &["cli::probe", "probe::printable", "probe::problem"]),
    ("probe::failure", &["probe::printable", "probe::problem", "proxy::handshake::words"]),
    ("probe::json", &["probe", "probe::dial", "probe::problem", "probe::report"]),
    (
        "probe::offer",
        &[
            "cli::probe",
            "config",
            "probe::witness",
            "trust::certs",
            "trust::certs::pem",
            "trust::files",
        ],
    ),
    ("probe::printable", &[]),
    ("probe::problem", &[]),
    (
        "probe::report",
        &[
            "cli::probe",
            "config",
            "probe",
            "probe::attempt",
            "probe::dial",
            "probe::failure",
            "probe::offer",
            "probe::printable",
            "probe::problem",
            "probe::verdict",
            "trust::x509::details",
        ],
    ),
    ("probe::tap", &[]),
    (
        "probe::verdict",
        &[
            "probe::offer",
            "probe::printable",
            "probe::problem",
            "trust::x509",
            "trust::x509::certificate",
            "trust::x509::details",
            "trust::x509::path",
        ],
    ),
    ("probe::witness", &[]),
    (
        "app",
        &[
            "config",
            "config::file",
            "logging",
            "ops::admin",
            "ops::admin::aside",
            "ops::admin::status",
            "ops::metrics",
            "ops::sessions",
            "ops::shutdown",
            "ops::systemd::sockets",
            "proxy::admission",
            "proxy::listener",
            "proxy::lookup",
            "proxy::socket",
            "text",
            "trust::certs",
            "trust::certs::parts",
            "trust::reload",
            "trust::snapshot",
        ],
    ),
    (
        "ops::admin",
        &[
            "ops::admin::aside",
            "ops::admin::clients",
            "ops::admin::page",
            "ops::admin::query",
            "ops::admin::status",
            "ops::admin::views",
            "ops::metrics",
            "ops::sessions",
            "ops::shutdown",
            "trust::reload",
        ],
    ),
    ("ops::admin::aside", &[]),
    ("ops::admin::clients", &[]),
    ("ops::admin::page", &["proxy::reason", "trust::digest"]),
    (
        "ops::admin::status",
        &["ops::history", "ops::metrics", "ops::shutdown", "proxy::reason", "trust::reload"],
    ),
    ("ops::history", &["ops::metrics", "proxy::reason"]),
    ("ops::admin::query", &["ops::sessions", "ops::top", "proxy::reason"]),
    ("ops::admin::views", &["ops::admin::query", "ops::metrics", "ops::sessions", "ops::top"]),
    ("ops::ask", &[]),
    ("ops::core_dumps", &[]),
    ("ops::signals", &[]),
    ("ops::systemd", &["ops::shutdown", "trust::reload"]),
    ("ops::systemd::sockets", &[]),
    (
        "trust::reload",
        &[
            "config",
            "config::file",
            "ops::metrics",
            "text",
            "trust::certs",
            "trust::reload::announce",
            "trust::reload::watch",
            "trust::snapshot",
        ],
    ),
    (
        "trust::reload::announce",
        &[
            "config",
            "ops::metrics",
            "text",
            "trust::certs",
            "trust::certs::parts",
            "trust::snapshot",
            "trust::x509",
        ],
    ),
    ("trust::reload::watch", &["text"]),
    (
        "proxy::listener",
        &[
            "config",
            "ops::metrics",
            "ops::sessions",
            "ops::shutdown",
            "proxy::admission",
            "proxy::connection",
            "proxy::lookup",
            "proxy::record",
            "proxy::socket",
            "trust::snapshot",
        ],
    ),
    (
        "proxy::connection",
        &[
            "config",
            "ops::shutdown",
            "proxy::admission",
            "proxy::backend",
            "proxy::handshake",
            "proxy::reason",
            "proxy::record",
            "proxy::relay",
            "proxy::route",
            "proxy::socket",
            "proxy::tls",
            "trust::snapshot",
        ],
    ),
    // The phases, which do not import each other.
    ("proxy::admission", &["config", "proxy::admission::pending", "proxy::handshake_memory"]),
    ("proxy::admission::pending", &[]),
    (
        "proxy::handshake",
        &[
            "config",
            "ops::metrics",
            "ops::sessions",
            "proxy::close",
            "proxy::handshake::faults",
            "proxy::handshake::negotiated",
            "proxy::handshake_memory",
            "proxy::hello",
            "proxy::hello::message",
            "proxy::handshake::words",
            "proxy::reason",
            "proxy::record",
            "proxy::socket",
            "proxy::tls",
            "trust::certs::verifier",
            "trust::provider::transcript",
            "trust::snapshot",
        ],
    ),
    ("proxy::handshake::faults", &["ops::metrics"]),
    (
        "proxy::handshake::negotiated",
        &["ops::metrics", "proxy::record", "proxy::tls", "trust::identity"],
    ),
    ("proxy::handshake_memory", &[]),
    ("proxy::handshake::words", &["trust::x509", "trust::x509::signature"]),
    ("proxy::route", &["config", "proxy::reason"]),
    ("proxy::backend", &["config", "proxy::lookup", "proxy::reason", "proxy::socket", "text"]),
    ("proxy::lookup", &["config", "ops::metrics", "proxy::lookup::table"]),
    ("proxy::lookup::table", &["ops::metrics"]),
    (
        "proxy::relay",
        &[
            "config",
            "ops::metrics",
            "ops::sessions",
            "ops::shutdown",
            "proxy::relay::bounds",
            "proxy::relay::error",
            "proxy::relay::flow",
            "proxy::relay::read_size",
            "proxy::socket",
            "proxy::tls",
            "proxy::tls::scratch",
            "proxy::unsent",
        ],
    ),
    ("proxy::relay::bounds", &["config"]),
    ("proxy::relay::flow", &[]),
    ("proxy::relay::error", &["proxy::reason", "proxy::socket", "proxy::tls"]),
    ("proxy::relay::read_size", &["proxy::tls::scratch"]),
    // For the micro-benchmarks alone: it reaches for what they measure.
    (
        "proxy::bench",
        &[
            "config",
            "ops::metrics",
            "ops::sessions",
            "ops::shutdown",
            "proxy::handshake",
            "proxy::handshake_memory",
            "proxy::hello",
            "proxy::relay",
            "proxy::tls",
            "proxy::tls::scratch",
            "trust::certs",
            "trust::snapshot",
        ],
    ),
    // For the fuzz targets alone, likewise.
    (
        "proxy::fuzz",
        &[
            "config",
            "ops::metrics",
            "ops::sessions",
            "ops::shutdown",
            "proxy::handshake",
            "proxy::handshake_memory",
            "proxy::hello",
            "proxy::relay",
            "trust::certs",
            "trust::snapshot",
        ],
    ),
    ("ops::admin::fuzz", &["ops::admin::query"]),
    // What they stand on.
    (
        "proxy::hello",
        &[
            "ops::metrics",
            "proxy::handshake::words",
            "proxy::handshake_memory",
            "proxy::hello::client_hello",
            "proxy::hello::message",
            "proxy::hello::offer",
            "proxy::hello::rules",
            "proxy::tls::scratch",
        ],
    ),
    ("proxy::hello::client_hello", &["proxy::hello"]),
    ("proxy::hello::message", &["proxy::hello", "proxy::tls"]),
    ("proxy::hello::offer", &["ops::metrics", "proxy::hello::client_hello"]),
    ("proxy::hello::rules", &["proxy::hello", "proxy::hello::client_hello"]),
    (
        "proxy::tls",
        &[
            "proxy::tls::alert",
            "proxy::tls::negotiation",
            "proxy::tls::session",
            "proxy::tls::stream",
        ],
    ),
    (
        "proxy::tls::negotiation",
        &[
            "proxy::close",
            "proxy::socket",
            "proxy::tls",
            "proxy::tls::alert",
            "proxy::tls::negotiation::early_data",
            "proxy::tls::negotiation::record",
            "proxy::tls::scratch",
            "proxy::tls::session",
            "proxy::tls::stream",
            "proxy::unsent",
            "trust::provider",
            "trust::provider::transcript",
        ],
    ),
    (
        "proxy::tls::negotiation::early_data",
        &["proxy::tls::negotiation::record", "trust::provider"],
    ),
    ("proxy::tls::negotiation::record", &[]),
    (
        "proxy::tls::stream",
        &[
            "proxy::close",
            "proxy::socket",
            "proxy::tls::scratch",
            "proxy::tls::session",
            "proxy::unsent",
        ],
    ),
    (
        "proxy::tls::session",
        &["proxy::tls", "proxy::tls::alert", "proxy::tls::keys", "trust::provider"],
    ),
    ("proxy::tls::keys", &["trust::provider"]),
    ("proxy::tls::alert", &[]),
    ("proxy::tls::scratch", &["proxy::tls"]),
    ("proxy::close", &["proxy::tls::scratch"]),
    (
        "proxy::record",
        &[
            "config",
            "ops::metrics",
            "ops::sessions",
            "ops::top",
            "proxy::admission",
            "proxy::reason",
        ],
    ),
    ("proxy::socket", &["config", "ops::metrics", "proxy::reason"]),
    ("proxy::unsent", &[]),
    ("proxy::reason", &[]),
    (
        "trust::certs",
        &[
            "config",
            "ops::metrics",
            "text",
            "trust::certs::chain",
            "trust::certs::clients",
            "trust::certs::parts",
            "trust::certs::pem",
            "trust::certs::verifier",
            "trust::digest",
            "trust::files",
            "trust::provider",
            "trust::provider::transcript",
            "trust::resolver",
            "trust::revocation",
            "trust::snapshot",
            "trust::tickets",
            "trust::x509",
        ],
    ),
    (
        "trust::certs::clients",
        &[
            "config",
            "trust::certs",
            "trust::certs::parts",
            "trust::certs::pem",
            "trust::certs::verifier",
            "trust::files",
            "trust::provider",
            "trust::revocation",
            "trust::snapshot",
            "trust::x509",
            "trust::x509::path",
        ],
    ),
    (
        "trust::certs::verifier",
        &["trust::revocation", "trust::x509::certificate", "trust::x509::path"],
    ),
    (
        "trust::certs::chain",
        &[
            "config",
            "text",
            "trust::certs",
            "trust::certs::pem",
            "trust::digest",
            "trust::files",
            "trust::snapshot",
            "trust::x509",
            "trust::x509::link",
        ],
    ),
    (
        "trust::certs::parts",
        &[
            "config",
            "ops::metrics",
            "trust::certs",
            "trust::certs::chain",
            "trust::certs::pem",
            "trust::digest",
            "trust::files",
            "trust::revocation",
            "trust::snapshot",
        ],
    ),
    ("trust::certs::pem::sections", &[]),
    ("trust::certs::pem", &["text", "trust::certs::pem::sections", "trust::files"]),
    ("trust::identity", &["ops::sessions", "trust::x509"]),
    (
        "trust::snapshot",
        &[
            "config",
            "trust::certs::parts",
            "trust::certs::verifier",
            "trust::digest",
            "trust::resolver",
            "trust::tickets",
            "trust::x509",
        ],
    ),
    (
        "trust::revocation",
        &[
            "text",
            "trust::digest",
            "trust::revocation::serials",
            "trust::x509",
            "trust::x509::crl",
            "trust::x509::link",
            "trust::x509::names",
        ],
    ),
    ("trust::revocation::serials", &[]),
    (
        "trust::tickets",
        &[
            "trust::certs::verifier",
            "trust::digest",
            "trust::tickets::remembered",
            "trust::tickets::state",
        ],
    ),
    ("trust::tickets::remembered", &[]),
    ("trust::tickets::state", &[]),
    ("trust::provider", &["trust::provider::transcript"]),
    ("trust::provider::transcript", &["trust::provider"]),
    ("trust::resolver", &["ops::metrics", "trust::provider"]),
    ("trust::files", &["regular_file", "text"]),
    ("trust::x509", &["ops::metrics", "text", "trust::digest", "trust::x509::names"]),
    ("trust::x509::crl", &["text", "trust::x509", "trust::x509::names"]),
    ("trust::x509::details", &["trust::x509"]),
    ("trust::x509::link", &["trust::x509", "trust::x509::crl", "trust::x509::names"]),
    (
        "trust::x509::path",
        &[
            "trust::x509",
            "trust::x509::certificate",
            "trust::x509::constraints",
            "trust::x509::names",
            "trust::x509::signature",
        ],
    ),
    (
        "trust::x509::constraints",
        &["trust::x509", "trust::x509::certificate", "trust::x509::names"],
    ),
    ("trust::x509::certificate", &["trust::x509", "trust::x509::names", "trust::x509::signature"]),
    ("trust::x509::signature", &["trust::x509"]),
    ("trust::x509::names", &[]),
    ("trust::digest", &[]),
    (
        "ops::metrics",
        &[
            "ops::metrics::backends",
            "ops::metrics::families",
            "ops::metrics::family",
            "ops::metrics::in_force",
            "ops::metrics::labels",
            "ops::metrics::listener",
            "ops::metrics::names",
            "ops::metrics::process",
            "ops::shutdown",
        ],
    ),
    (
        "ops::metrics::listener",
        &[
            "ops::metrics::backends",
            "ops::metrics::families",
            "ops::metrics::family",
            "ops::metrics::in_force",
            "ops::metrics::labels",
            "proxy::reason",
        ],
    ),
    ("ops::metrics::backends", &["ops::metrics::labels", "proxy::reason"]),
    ("ops::metrics::families", &["ops::metrics::family", "ops::metrics::in_force"]),
    ("ops::metrics::in_force", &["ops::metrics::family", "ops::metrics::labels"]),
    ("ops::metrics::process", &["ops::metrics::family", "ops::metrics::labels", "ops::shutdown"]),
    ("ops::metrics::names", &["ops::metrics::family"]),
    ("ops::metrics::family", &["proxy::reason"]),
    ("ops::metrics::labels", &["proxy::reason"]),
    ("ops::sessions", &["ops::metrics", "ops::top"]),
    ("ops::top", &["ops::metrics", "ops::sessions", "proxy::reason"]),
    ("ops::shutdown", &["config", "proxy::reason"]),
    ("config", &["logging", "text"]),
    (
        "config::file",
        &[
            "config",
            "config::file::problem",
            "config::file::sections",
            "config::file::text",
            "logging",
            "regular_file",
        ],
    ),
    ("config::file::problem", &["regular_file", "text"]),
    ("config::file::sections", &["config", "config::file::text", "logging"]),
    ("config::file::text", &["config", "logging"]),
    ("logging", &["logging::one_line"]),
    ("logging::one_line", &["logging", "text"]),
    ("regular_file", &[]),
    ("text", &[]),
];

/// Which modules may name a dependency, by the start of their names. Those that are not listed,
/// tokio, tracing and thiserror, may be named everywhere.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("aws_lc_rs", &["trust::digest"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli::pages"]),
    ("data_encoding", &["ops::admin::page"]),
    ("form_urlencoded", &["ops::admin::query"]),
    ("http_body_util", &["ops::admin", "ops::ask"]),
    ("humantime", &["cli", "config::file::text"]),
    ("hyper", &["ops::admin", "ops::ask"]),
    ("hyper_util", &["ops::admin", "ops::ask"]),
    ("listenfd", &["ops::systemd::sockets"]),
    ("notify", &["trust::reload::watch"]),
    ("prometheus", &["ops::metrics"]),
    ("rcgen", &["demo"]),
    ("rustix", &["ops::core_dumps", "ops::signals", "proxy::socket", "regular_file"]),
    // A name for what `tokio_rustls::rustls` is: it is no dependency of ours.
    ("rustls", &["probe", "proxy", "trust"]),
    ("rustls_pemfile", &["trust::certs::pem"]),
    ("sd_notify", &["ops::systemd"]),
    ("serde", &["config::file"]),
    ("serde_json", &["ops::admin", "probe::json"]),
    ("socket2", &["proxy::socket"]),
    ("tikv_jemallocator", &["main"]),
    ("tokio_rustls", &["probe", "proxy", "trust"]),
    ("tokio_util", &["ops::shutdown"]),
    ("toml", &["config::file"]),
    ("tracing_appender", &["logging"]),
    ("tracing_subscriber", &["logging"]),
    ("x509_parser", &["trust::x509"]),
    ("zeroize", &["trust"]),
];

const EVERYWHERE: &[&str] = &["thiserror", "tokio", "tracing"];

/// Lines of code of a file, tests and comments aside.
const LONGEST_FILE: usize = 400;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file below `dir`, relative to the root.
fn rust_files(dir: &str) -> Vec<PathBuf> {
    files(dir, "rs")
}

/// Every page below `dir`, relative to the root.
fn pages(dir: &str) -> Vec<PathBuf> {
    files(dir, "md")
}

fn files(dir: &str, kind: &str) -> Vec<PathBuf> {
    let is_of_kind = |path: &PathBuf| path.extension().is_some_and(|extension| extension == kind);
    let found: Vec<_> = all_files(dir).into_iter().filter(is_of_kind).collect();
    assert!(!found.is_empty());
    found
}

/// Every file below `dir`, relative to the root, but for what git does not see.
fn all_files(dir: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut ahead = vec![root().join(dir)];
    while let Some(dir) = ahead.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if [".git", "target", "venv"].iter().any(|unseen| path.ends_with(unseen)) {
                continue;
            }
            if path.is_dir() {
                ahead.push(path);
            } else {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The module of a file: `src/proxy/tls/stream.rs` is `proxy::tls::stream`.
fn module(file: &Path) -> String {
    let path = file.strip_prefix("src").unwrap().with_extension("");
    path.components().map(|c| c.as_os_str().to_str().unwrap()).collect::<Vec<_>>().join("::")
}

/// Whether a module is for tests alone.
fn is_test(module: &str) -> bool {
    module.ends_with("::tests") || module.contains("::tests::") || module == "trust::testing"
}

/// The paths that a file names outside its tests, each from its root: `crate::…`, or a crate's name.
#[derive(Default)]
struct Paths {
    module: String,
    found: BTreeSet<String>,
}

impl Paths {
    fn of(file: &Path) -> Self {
        let mut paths = Self { module: module(file), found: BTreeSet::new() };
        paths.visit_file(&syn::parse_file(&read(file)).unwrap());
        paths
    }

    fn add(&mut self, segments: &[String]) {
        let (Some(first), rest) = (segments.first(), segments.get(1..).unwrap_or_default()) else {
            return;
        };
        let mut base: Vec<_> = self.module.split("::").map(str::to_owned).collect();
        let absolute = match first.as_str() {
            "crate" | "tlsidecar" => rest.to_vec(),
            "self" => [base, rest.to_vec()].concat(),
            "super" => {
                let ups = segments.iter().take_while(|s| *s == "super").count();
                base.truncate(base.len().saturating_sub(ups));
                [base, segments[ups..].to_vec()].concat()
            }
            _ => {
                self.found.insert(segments.join("::"));
                return;
            }
        };
        self.found.insert(format!("crate::{}", absolute.join("::")));
    }

    fn add_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => {
                self.add_tree(&[before, &[path.ident.to_string()]].concat(), &path.tree);
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|item| self.add_tree(before, item));
            }
            syn::UseTree::Name(name) if name.ident == "self" => self.add(before),
            syn::UseTree::Name(name) => {
                self.add(&[before, &[name.ident.to_string()]].concat());
            }
            syn::UseTree::Rename(rename) => {
                self.add(&[before, &[rename.ident.to_string()]].concat());
            }
            _ => self.add(before),
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let for_tests = item.attrs.iter().any(|attribute| attribute.path().is_ident("cfg"));
        if !for_tests {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if segments.len() > 1 {
            self.add(&segments);
        }
        syn::visit::visit_path(self, path);
    }
}

/// The longest module that a path leads to.
fn led_to<'a>(path: &str, modules: &'a BTreeSet<String>) -> Option<&'a String> {
    let path = path.strip_prefix("crate::")?;
    let mut names: Vec<_> = path.split("::").collect();
    while !names.is_empty() {
        if let Some(module) = modules.get(&names.join("::")) {
            return Some(module);
        }
        names.pop();
    }
    None
}

#[test]
fn imports_point_down() {
    let files = rust_files("src");
    let modules: BTreeSet<_> = files.iter().map(|file| module(file)).collect();
    let allowed: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    for file in &files {
        let from = module(file);
        if is_test(&from) || ["lib", "proxy", "trust", "ops"].contains(&from.as_str()) {
            continue;
        }
        let may = allowed.get(from.as_str()).unwrap_or_else(|| panic!("{from} is in no table"));
        for path in &Paths::of(file).found {
            let Some(to) = led_to(path, &modules) else { continue };
            let fine = *to == from || may.contains(&to.as_str());
            assert!(fine, "{from} may not import {to} ({path}): see ARCHITECTURE.md");
        }
    }
    for (from, to) in MAY_IMPORT {
        assert!(
            *from == "main" || modules.contains(*from),
            "{from} is in the table and not in src"
        );
        assert!(to.iter().all(|to| modules.contains(*to)), "{from} imports what is not in src");
    }
}

#[test]
fn each_dependency_is_named_where_it_may_be() {
    let mut named = BTreeSet::new();
    for file in rust_files("src") {
        let from = module(&file);
        if is_test(&from) {
            continue;
        }
        for path in Paths::of(&file).found {
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
        assert!(held, "{name} is in no table of tests/tidy.rs");
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
    for file in rust_files("src").into_iter().chain(pages("docs")).chain(top) {
        let text = read(&file).to_lowercase();
        let name = file.display();
        for word in text.split(|c: char| !c.is_alphanumeric() && c != '_') {
            let parts: Vec<_> = word.split('_').collect();
            let has = |these: &[&str]| these.iter().any(|this| parts.contains(this));
            // To nginx the upstream is the backend, to a device's maker it is the cloud.
            let two_ways = has(&["upstream", "downstream"]);
            // Everything that is relayed is received first and then sent.
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
        .filter_map(|item| match item {
            syn::Item::Fn(function) => Some(function.sig.ident.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(names, ["serve", "walk", "open", "reach"]);
    let text = read("src/proxy/connection.rs");
    let walk = text.split("async fn walk").nth(1).unwrap().split("\n/// Why a walk ended").next();
    let lines = walk.unwrap().lines().filter(|l| !l.trim().is_empty()).count();
    assert!(lines <= 75, "{lines} lines");
}

#[test]
fn architecture_is_short_and_names_every_file() {
    let text = read("ARCHITECTURE.md");
    assert!(text.lines().count() < 150);
    for file in rust_files("src") {
        let short = file.strip_prefix("src").unwrap().display().to_string();
        let within = short.split_once('/').map_or(short.as_str(), |(room, rest)| {
            if ["cli", "config", "logging"].contains(&room) { short.as_str() } else { rest }
        });
        let skipped =
            is_test(&module(&file)) || ["proxy.rs", "trust.rs", "ops.rs"].contains(&within);
        assert!(skipped || text.contains(&format!("`{within}`")), "{short} is not in the map");
    }
}

/// The words in the first column of a page's tables: ``| `word` |``.
fn first_column(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned())).collect()
}

#[test]
fn every_reason_is_documented_and_nothing_else() {
    let documented = first_column(&read("docs/reasons.md"));
    let reasons: BTreeSet<_> = Reason::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(documented, reasons);
}

#[test]
fn every_problem_of_the_probe_is_documented_and_nothing_else() {
    let page = read("docs/probe.md");
    let table = page.split("## Problems").nth(1).unwrap().split("\n## ").next().unwrap();
    let problems: BTreeSet<_> = Kind::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(first_column(table), problems);
}

#[test]
fn every_metric_is_documented_and_nothing_else() {
    let mut names = BTreeSet::new();
    for file in rust_files("src/ops/metrics") {
        let text = read(&file);
        let constants = text.split('"').skip(1).step_by(2);
        names.extend(constants.filter(|s| s.starts_with("tlsidecar_")).map(str::to_owned));
    }
    assert!(names.len() > 40);
    // What the system gives the process, by the names of the library.
    let metrics = Metrics::new();
    let text = String::from_utf8(metrics.render().unwrap().0).unwrap();
    let given = text.lines().filter_map(|line| line.strip_prefix("# TYPE process_"));
    names.extend(given.map(|line| format!("process_{}", line.split(' ').next().unwrap())));
    assert_eq!(first_column(&read("docs/metrics.md")), names);
}

#[test]
fn every_metric_says_what_to_do_and_names_its_labels_values() {
    let page = read("docs/metrics.md");
    let rows: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>())
        .collect();
    for row in &rows {
        assert_eq!(row.len(), 5, "name, type, labels, meaning, what to do: {row:?}");
        assert!(["counter", "gauge", "histogram"].contains(&row[1]), "{row:?}");
        assert!(row[3].len() > 10 && row[4].len() > 2, "{row:?}");
    }
    assert!(rows.len() > 40);
}

#[test]
fn every_flag_is_documented_with_its_environment_twin() {
    let page = read("docs/configuration.md");
    let command = Cli::command();
    let flags: Vec<_> =
        command.get_arguments().filter_map(|a| a.get_long().zip(a.get_env())).collect();
    assert!(flags.len() > 5);
    for (flag, twin) in flags {
        let rows = [format!("| `--{flag} "), format!("| `--{flag}`")];
        let line = page.lines().find(|line| rows.iter().any(|row| line.starts_with(row)));
        let line = line.unwrap_or_else(|| panic!("--{flag} is not documented"));
        assert!(line.contains(&format!("`{}`", twin.to_str().unwrap())), "{line}");
        assert_eq!(
            twin.to_str().unwrap(),
            format!("TLSIDECAR_{}", flag.to_uppercase().replace('-', "_"))
        );
    }
}

#[test]
fn every_flag_of_a_command_is_documented() {
    let page = read("docs/configuration.md");
    let mut checked = 0;
    for command in Cli::command().get_subcommands() {
        let usage = format!("\n- `tlsidecar {}", command.get_name());
        let line = page.split(&usage).nth(1).unwrap_or_else(|| panic!("{usage}"));
        let line = line.lines().next().unwrap();
        for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(line.contains(&format!("--{flag}")), "--{flag} is not in {usage}{line}");
            checked += 1;
        }
    }
    assert!(checked > 5);
    for (page, section, command) in
        [("docs/configuration.md", "## The demo", "demo"), ("docs/probe.md", "## Flags", "probe")]
    {
        let page = read(page);
        let section = page.split(section).nth(1).unwrap().split("\n## ").next().unwrap();
        let all = Cli::command();
        let flags = all.find_subcommand(command).unwrap().get_arguments();
        let flags: BTreeSet<_> = flags.filter_map(clap::Arg::get_long).collect();
        let documented = first_column(section);
        let documented = documented.iter().map(|flag| flag[2..].split(' ').next().unwrap());
        assert_eq!(documented.collect::<BTreeSet<_>>(), flags, "{command}");
    }
}

/// The keys of the sections in `config/file/sections.rs`, by the names of their types.
fn sections() -> BTreeMap<String, Vec<String>> {
    let file = syn::parse_file(&read("src/config/file/sections.rs")).unwrap();
    let structs = file.items.iter().filter_map(|item| match item {
        syn::Item::Struct(item) => Some(item),
        _ => None,
    });
    let keys = |item: &syn::ItemStruct| {
        item.fields.iter().map(|field| field.ident.as_ref().unwrap().to_string()).collect()
    };
    structs.map(|item| (item.ident.to_string(), keys(item))).collect()
}

#[test]
fn every_key_of_the_configuration_is_documented() {
    let page = read("docs/configuration.md");
    let sections = sections();
    assert!(sections.len() > 8);
    for (section, keys) in sections {
        for key in keys {
            let said = [
                format!("\n{key} ="),
                format!("\n# {key} ="),
                format!("[{key}]"),
                format!(".{key}]"),
                format!("{{ {key} ="),
                format!(", {key} ="),
            ];
            let said = said.iter().any(|form| page.contains(form));
            assert!(said, "{section}.{key} is not in docs/configuration.md");
        }
    }
}

#[test]
fn every_key_of_the_access_log_is_documented_and_nothing_else() {
    let source = read("src/proxy/record.rs");
    let event =
        source.split("tracing::event!(").nth(1).unwrap().split(")\n    }};").next().unwrap();
    let keys: BTreeSet<_> = event
        .lines()
        .filter_map(|line| line.trim().split_once(" = "))
        .map(|(key, _)| key.to_owned())
        .collect();
    assert!(keys.len() > 10);
    let page = read("docs/log.md");
    let log = page.split("## Access log").nth(1).unwrap().split("\n## ").next().unwrap();
    assert_eq!(first_column(log), keys);
}

/// The TOML in a page.
fn toml_blocks(page: &str) -> Vec<String> {
    page.split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

#[test]
fn the_configurations_in_the_documents_are_good() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tls.crt", "tls.key", "ca.crt", "devices-ca.crt"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    let mut checked = 0;
    for page in ["README.md", "docs/configuration.md"] {
        for text in toml_blocks(&read(page)) {
            let parsed = file::parse(&text, &dir.path().join("tlsidecar.toml"));
            assert!(parsed.is_ok(), "{page}: {}", parsed.unwrap_err());
            checked += 1;
        }
    }
    assert_eq!(checked, 3);
}

/// The headings of a page, as links name them.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let named = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        heading.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
    };
    headings.map(named).collect()
}

/// The largest files are pictures and the dashboard. What is larger was not meant to be here, and would stay in
/// every clone for ever.
#[test]
fn no_file_is_larger_than_512_kib() {
    let files = all_files("");
    for file in &files {
        // Of a link, its own: what it leads to has been looked at by itself.
        let bytes = fs::symlink_metadata(root().join(file)).unwrap().len();
        assert!(bytes <= 512 << 10, "{}: {bytes} bytes", file.display());
    }
    assert!(files.len() > 200, "{} files", files.len());
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let (mut checked, mut places) = (0, 0);
    let top = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "certs/README.md",
        "deploy/README.md",
        "examples/README.md",
        "examples/modbus/README.md",
        "examples/mqtt/README.md",
    ];
    for page in pages("docs").into_iter().chain(top.map(PathBuf::from)) {
        let page = root().join(page);
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let outside = link.starts_with("http");
            assert!(outside || target.exists(), "{}: {link}", page.display());
            if !outside && !place.is_empty() {
                let there = anchors(&fs::read_to_string(&target).unwrap()).contains(place);
                assert!(there, "{}: {link}: there is no such heading", page.display());
                places += 1;
            }
            checked += 1;
        }
    }
    assert!(checked > 40 && places > 8, "{checked} links, {places} of them to a heading");
}

/// The address that the README clones is a placeholder: a publisher replaces it in one place.
#[test]
fn the_placeholder_of_the_clone_address_stands_once() {
    // In two parts, because this file is searched too.
    let placeholder = ["https://git.", "invalid/"].concat();
    let times = |file: &PathBuf| {
        let bytes = fs::read(root().join(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).matches(&placeholder).count()
    };
    let found: Vec<_> =
        all_files("").into_iter().map(|f| (times(&f), f)).filter(|(n, _)| *n > 0).collect();
    assert_eq!(found, [(1, PathBuf::from("README.md"))]);
}
