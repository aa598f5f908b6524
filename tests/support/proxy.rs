//! The whole proxy in the test's process, on free ports.

use std::net::SocketAddr;
use std::str::FromStr;

use tlsidecar::app::{self, App};
use tlsidecar::config::file::ConfigSource;
use tlsidecar::config::{
    AdminConfig, AdminListen, BackendAddress, ClientAuth, Config, ListenerConfig, TlsConfig,
};
use tlsidecar::terms::labels::ReloadOutcome;
use tlsidecar::terms::reason::Reason;

use super::certs::Pair;
use super::{Authority, Backend, eventually};

/// A running proxy with one listener. On drop, its metrics are checked for balance.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) app: App,
}

impl Proxy {
    /// Starts a proxy in front of `backend`.
    pub(crate) fn start(backend: BackendAddress, pair: &Pair) -> Self {
        Self::with(listener(backend, pair))
    }

    /// Starts a proxy with this listener.
    pub(crate) fn with(listener: ListenerConfig) -> Self {
        Self::on(config(listener), None)
    }

    /// Starts a proxy with this configuration, which can come from a file.
    pub(crate) fn on(config: Config, source: Option<ConfigSource>) -> Self {
        let app = app::start(config, source).unwrap();
        Self { address: app.listeners[0].1, app }
    }

    /// Returns the value of a counter or gauge of whole numbers, by its name and labels.
    pub(crate) fn count(&self, series: &str) -> u64 {
        let text = self.text();
        metric(&text, series).unwrap_or_else(|| panic!("no {series} in\n{text}"))
    }

    /// Returns the value of a metric in seconds.
    pub(crate) fn seconds(&self, series: &str) -> f64 {
        let text = self.text();
        metric(&text, series).unwrap_or_else(|| panic!("no {series} in\n{text}"))
    }

    /// Returns all metrics as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.app.metrics.render().unwrap().0).unwrap()
    }

    /// Returns the number of connections that ended for `reason`.
    pub(crate) fn closed(&self, reason: Reason) -> u64 {
        self.count(&closed_series(reason))
    }

    /// Waits until exactly one connection has ended, for this reason.
    pub(crate) async fn ends_with(&self, reason: Reason) {
        self.end_with(reason, 1).await;
    }

    /// Waits until so many connections have ended, all for this reason.
    pub(crate) async fn end_with(&self, reason: Reason, count: u64) {
        let all = || Reason::ALL.iter().map(|&r| self.closed(r)).sum::<u64>();
        eventually(&format!("{count} connections end"), || all() >= count).await;
        let found: Vec<_> = Reason::ALL.iter().filter(|&&r| self.closed(r) > 0).collect();
        assert_eq!((self.closed(reason), all()), (count, count), "they ended with {found:?}");
    }

    /// Returns the number of open connections.
    pub(crate) fn active(&self) -> u64 {
        self.count("tlsidecar_connections_active{listener=\"test\"}")
    }

    /// Returns the number of reloads with this outcome.
    pub(crate) fn reloads(&self, outcome: ReloadOutcome) -> u64 {
        self.count(&format!("tlsidecar_reloads_total{{outcome=\"{outcome}\"}}"))
    }

    /// Returns the number of reloads with this outcome for one kind of object.
    pub(crate) fn reloads_of(&self, object: &str, outcome: ReloadOutcome) -> u64 {
        self.count(&format!(
            "tlsidecar_reload_objects_total{{object=\"{object}\",outcome=\"{outcome}\"}}"
        ))
    }

    /// Returns whether the last reload failed.
    pub(crate) fn reload_fails(&self) -> bool {
        self.count("tlsidecar_reload_failing") == 1
    }
}

impl Drop for Proxy {
    /// Checks that accepted = active + Σ closed, and that no connection ended for `internal`.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // A connection can be between two of the counters for a moment.
        let balanced = (0..1000).any(|_| {
            std::thread::yield_now();
            balances(&self.text())
        });
        assert!(balanced, "accepted is not active + closed:\n{}", self.text());
        let empty = (0..1000).any(|_| {
            std::thread::yield_now();
            is_empty(&self.text())
        });
        assert!(empty, "ended connections are still counted:\n{}", self.text());
        for (name, _) in &self.app.listeners {
            let internal = format!(
                "tlsidecar_connections_closed_total{{listener=\"{name}\",reason=\"internal\"}}"
            );
            assert_eq!(metric(&self.text(), &internal), Some(0));
        }
    }
}

/// Returns whether accepted = active + Σ closed, over all listeners.
pub(crate) fn balances(text: &str) -> bool {
    sum(text, "tlsidecar_connections_accepted_total{")
        == sum(text, "tlsidecar_connections_active{")
            + sum(text, "tlsidecar_connections_closed_total{")
}

/// Returns whether a proxy without active connections has no handshakes in progress and no sessions.
fn is_empty(text: &str) -> bool {
    sum(text, "tlsidecar_connections_active{") > 0
        || sum(text, "tlsidecar_handshakes_in_progress{") + sum(text, "tlsidecar_sessions_by_age{")
            == 0
}

/// Returns the sum of the series whose lines have this prefix.
fn sum(text: &str, start: &str) -> u64 {
    let lines = text.lines().filter(|line| line.starts_with(start));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

/// Returns the value of a metric, by its name and labels.
pub(crate) fn metric<T: FromStr>(text: &str, series: &str) -> Option<T> {
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

/// Returns the series that counts connections closed for `reason`.
pub(crate) fn closed_series(reason: Reason) -> String {
    format!("tlsidecar_connections_closed_total{{listener=\"test\",reason=\"{reason}\"}}")
}

/// Returns a listener on a free port.
pub(crate) fn listener(backend: BackendAddress, pair: &Pair) -> ListenerConfig {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    ListenerConfig::new("test", listen, backend, pair.files.clone(), ClientAuth::None)
}

/// Returns a proxy in front of an echo, with these settings of TLS, and the CA of its certificate.
pub(crate) async fn with_tls(
    set: impl FnOnce(&mut TlsConfig, &Authority),
) -> (Authority, Backend, Proxy) {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let mut listener = listener(backend.config(), &authority.server());
    set(&mut listener.tls, &authority);
    let proxy = Proxy::with(listener);
    (authority, backend, proxy)
}

/// Returns a configuration with this listener, and otherwise with free ports and defaults.
pub(crate) fn config(listener: ListenerConfig) -> Config {
    let listen = AdminListen::At(SocketAddr::from(([127, 0, 0, 1], 0)));
    let admin = AdminConfig { listen, ..AdminConfig::default() };
    Config { admin, ..Config::of(listener) }
}
