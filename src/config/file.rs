//! The file format: TOML, and its conversion to the types of the configuration.
//!
//! **Promises.** All problems of a file are reported together, each with its place in the file, its key, the
//! value found and the allowed values. Relative paths are relative to the file. Only the file is opened and,
//! at start, the files that it names, to check that they can be read.
//!
//! **Not here.** The meaning of the values ([`super`]), the contents of the named files (`trust/certs.rs`). The
//! keys are documented in docs/configuration.md.

mod addresses;
mod allow;
mod backend;
mod client_auth;
mod client_key_places;
mod problem;
mod proxy_protocol;
mod rollout;
mod root;
mod sections;
mod source;
mod suites;
mod text;
mod tls;
mod variables;

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::Spanned;

use self::addresses::{distinct_addresses, into_admin};
pub(crate) use self::allow::parse_allow_file;
use self::backend::{check_own, check_policy, into_list};
use self::client_key_places::{a_route_requests, check_identity_limit};
use self::problem::Problems;
pub use self::problem::{ConfigError, ConfigProblem};
pub use self::root::below;
use self::sections::{Document, ListenerSection, RouteSection, ShutdownSection, TlsSection};
use self::source::check_source;
use self::tls::{TlsKeys, TlsPlace};
use super::{AdminListen, Config, ListenerConfig, Route, ShutdownConfig};
use crate::logging::{Filter, Format};
use crate::regular_file;

/// The largest configuration file. A thousand listeners take a megabyte.
const MAX_BYTES: u64 = 16 << 20;

/// The source of a configuration, read at the start and at each reload.
#[derive(Clone, Debug)]
pub struct ConfigSource {
    /// The file. "-": standard input, which cannot be read again.
    pub path: PathBuf,
    /// The values of the command line, which replace those of the file.
    pub overrides: Overrides,
}

/// The values of the command line, which replace those of the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The address of the admin port.
    pub admin: Option<AdminListen>,
    /// The address for metrics and probes.
    pub metrics_listen: Option<SocketAddr>,
    /// The log filter.
    pub log_filter: Option<Filter>,
    /// The format of log lines.
    pub log_format: Option<Format>,
    /// Allows core dumps.
    pub dumpable: bool,
    /// The directory below which absolute paths of the file are looked up: the root of another machine or container.
    pub root: Option<PathBuf>,
}

impl ConfigSource {
    /// Reads and checks the file, and checks that the files that it names can be read.
    ///
    /// # Errors
    /// Every problem found, sorted by its place in the file.
    pub fn load(&self) -> Result<Config, ConfigError> {
        self.parse(&self.read()?, NamedFiles::Checked)
    }

    /// Reads and checks the file, and does not check the files that it names: the reload loads them next, listener
    /// by listener, and an unreadable file does not invalidate the rest of the configuration.
    ///
    /// # Errors
    /// Every problem found, sorted by its place in the file.
    pub(crate) fn reload(&self) -> Result<Config, ConfigError> {
        self.parse(&self.read()?, NamedFiles::Unchecked)
    }

    /// Returns whether the configuration is read from standard input, once.
    #[must_use]
    pub fn is_standard_input(&self) -> bool {
        is_standard_input(&self.path)
    }

    fn read(&self) -> Result<String, ConfigError> {
        if self.is_standard_input() {
            let text = read_whole(io::stdin().lock());
            return text.map_err(|error| ConfigError::unreadable(&self.name(), &error));
        }
        let is_file = |metadata: std::fs::Metadata| {
            if metadata.is_file() { Ok(()) } else { Err(not_readable_twice()) }
        };
        let read = std::fs::metadata(&self.path)
            .and_then(is_file)
            .and_then(|()| regular_file::read(&self.path, MAX_BYTES));
        let text = read.and_then(|(bytes, _)| {
            String::from_utf8(bytes)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))
        });
        text.map_err(|error| ConfigError::unreadable(&self.path, &error))
    }

    /// Returns the name of the file in messages. Its directory is the base of relative paths.
    fn name(&self) -> Cow<'_, Path> {
        if self.is_standard_input() { Path::new("<stdin>").into() } else { (&*self.path).into() }
    }

    fn parse(&self, text: &str, named_files: NamedFiles) -> Result<Config, ConfigError> {
        let name = self.name();
        let mut problems = Problems::new(text, &name);
        problems.root = self.overrides.root.as_deref();
        let document = problems.collect::<Document>();
        let config = document.and_then(|document| document.into_config(self, &mut problems));
        if named_files == NamedFiles::Checked {
            problems.check_named_files();
        }
        let mut config = problems.finish(config)?;
        self.overrides.apply(&mut config);
        Ok(config)
    }
}

/// Returns whether the path of a configuration file stands for standard input.
#[must_use]
pub fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-")
}

/// Reads a configuration that is no file.
fn read_whole(input: impl Read) -> io::Result<String> {
    let mut text = String::new();
    input.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("longer than {} MiB", MAX_BYTES >> 20)));
    }
    Ok(text)
}

/// The error for a pipe (`--config <(…)`): a reload would read nothing.
fn not_readable_twice() -> io::Error {
    io::Error::other(
        "not a regular file; a reload could not read it again (--config - reads standard input once)",
    )
}

/// The treatment of the files that a configuration names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NamedFiles {
    /// Checked for being readable.
    Checked,
    Unchecked,
}

impl Overrides {
    /// Replaces values of a configuration.
    pub fn apply(&self, config: &mut Config) {
        if let Some(listen) = self.admin {
            config.admin.listen = listen;
        }
        if self.metrics_listen.is_some() {
            config.admin.metrics_listen = self.metrics_listen;
        }
        if let Some(filter) = &self.log_filter {
            config.log.filter.clone_from(filter);
        }
        config.log.format = self.log_format.unwrap_or(config.log.format);
        config.process.dumpable |= self.dumpable;
    }
}

/// Reads and checks a configuration file.
///
/// # Errors
/// Every problem found, sorted by its place in the file.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    ConfigSource { path: path.to_owned(), overrides: Overrides::default() }.load()
}

/// Checks the text of a configuration file. Relative paths are relative to `path`.
///
/// # Errors
/// Every problem found, sorted by its place in the file.
pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    ConfigSource { path: path.to_owned(), overrides: Overrides::default() }
        .parse(text, NamedFiles::Checked)
}

impl Document {
    fn into_config(self, source: &ConfigSource, problems: &mut Problems<'_>) -> Option<Config> {
        if self.listener.is_empty() && !problems.is_invalid("listener") {
            problems.file("no listener, expected at least one [[listener]]");
        }
        let Overrides { admin, metrics_listen, .. } = source.overrides;
        distinct_addresses(&self.admin, &self.listener, (admin, metrics_listen), problems);
        let admin = into_admin(self.admin, problems);
        distinct_names(&self.listener, problems);
        let listeners: Vec<_> = self
            .listener
            .into_iter()
            .enumerate()
            .filter_map(|(i, section)| into_listener(section, &format!("listener[{i}]"), problems))
            .collect();
        let shutdown = into_shutdown(self.shutdown, problems);
        let (log, process) = (self.log.into(), self.process.into());
        Some(Config { admin, log, process, shutdown, listeners })
    }
}

/// Converts the times of a drain, and reports a spread that the drain would cut.
fn into_shutdown(section: ShutdownSection, problems: &mut Problems<'_>) -> ShutdownConfig {
    let place = section.drain_spread.as_ref().map(Spanned::span);
    let shutdown = ShutdownConfig::from(section);
    let ShutdownConfig { drain_spread, drain_timeout, .. } = shutdown;
    if let Some(place) = place
        && drain_spread > drain_timeout
        && !problems.is_invalid("shutdown.drain_timeout")
    {
        let message = format!(
            "found {drain_spread:?}, expected at most shutdown.drain_timeout, {drain_timeout:?}"
        );
        problems.at(place, "shutdown.drain_spread", &message);
    }
    shutdown
}

/// Reports every listener that has the name of an earlier one.
fn distinct_names(listeners: &[Spanned<ListenerSection>], problems: &mut Problems<'_>) {
    let mut taken: HashMap<String, String> = HashMap::new();
    for (i, section) in listeners.iter().enumerate() {
        let Some(name) = &section.as_ref().name else { continue };
        let (key, text) = (format!("listener[{i}].name"), name.as_ref().0.to_string());
        match taken.get(&text) {
            Some(first) => {
                let message = format!("found {text:?}, but {first} has the same name");
                problems.at(name.span(), &key, &message);
            }
            None => {
                taken.insert(text, key);
            }
        }
    }
}

fn into_listener(
    section: Spanned<ListenerSection>,
    key: &str,
    problems: &mut Problems<'_>,
) -> Option<ListenerConfig> {
    let span = section.span();
    let section = section.into_inner();
    let has_routes = !section.route.is_empty();
    check_identity_limit(&section, key, problems);
    check_policy(&section, key, problems);
    check_own(&section, key, problems);
    let is_inherited = a_route_requests(&section, key, problems);
    let name = problems.required(section.name, &span, key, "name", "a name such as \"mqtt\"");
    let listen = problems.required(
        section.listen,
        &span,
        key,
        "listen",
        "an address such as \"0.0.0.0:8883\"",
    );
    let tls = problems.required(section.tls, &span, key, "tls", "a section [listener.tls]");
    if section.backend.is_none() && !has_routes {
        let allowed = "an address such as \"127.0.0.1:1883\" or \"unix:/run/server.sock\"";
        problems.missing(&span, key, "backend", allowed);
    }
    let backend = section.backend;
    let backend = backend.and_then(|b| into_list(b, &format!("{key}.backend"), problems));
    let tls = tls.map(|tls| {
        let place = TlsPlace { key, base: None, is_inherited };
        place.read(tls, section.allow, problems)
    });
    let routes: Vec<_> = section
        .route
        .into_iter()
        .enumerate()
        .filter_map(|(i, route)| {
            into_route(route, &format!("{key}.route[{i}]"), tls.as_ref(), problems)
        })
        .collect();
    let proxy_protocol = section.proxy_protocol.into_proxy_protocol(key, problems);
    let source_place = section.balance.source.as_ref().map(Spanned::span);
    let listener = ListenerConfig {
        name: name?.into_inner().0.into(),
        listen: listen?.into_inner().0.0,
        reuse_port: section.reuse_port.unwrap_or(false),
        backend,
        balance: section.balance.into(),
        tls: tls?.tls,
        routes,
        unknown_name: section.unknown_name.map_or_else(Default::default, |unknown| unknown.0),
        timeouts: section.timeouts.into(),
        limits: section.limits.into(),
        tcp: section.tcp.into(),
        proxy_protocol,
    };
    check_source(&listener, source_place, key, problems);
    Some(listener)
}

/// Converts a route of a listener with this TLS, which the keys of the route override.
fn into_route(
    section: Spanned<RouteSection>,
    key: &str,
    listener: Option<&TlsKeys>,
    problems: &mut Problems<'_>,
) -> Option<Route> {
    let span = section.span();
    let section = section.into_inner();
    let allowed = "an address such as \"127.0.0.1:1883\" or \"unix:/run/server.sock\"";
    let backend = problems.required(section.backend, &span, key, "backend", allowed);
    let backend = backend.and_then(|b| into_list(b, &format!("{key}.backend"), problems));
    let tls = match (section.tls, section.allow, listener) {
        // Without the listener's, most problems of the route's would be wrong.
        (None, None, _) | (_, _, None) => None,
        (tls, allow, Some(_)) => {
            let tls = tls.unwrap_or_else(|| Spanned::new(span, TlsSection::default()));
            let place = TlsPlace { key, base: listener, is_inherited: false };
            Some(place.read(tls, allow, problems).tls)
        }
    };
    Some(Route {
        sni: section.sni.into_iter().map(|s| s.0).collect(),
        alpn: section.alpn.into_iter().map(|a| a.0.into()).collect(),
        backend: backend?,
        tls,
    })
}
