//! The checks before a start: of a configuration and of its files.
//!
//! **Promises.** No socket is bound. Everything that would fail the start before the first socket is found.
//!
//! **Not here.** The report for the operator (`commands/check.rs`).

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::finding::Finding;
use super::start_error::{StartError, shown};
use crate::config::{self, AdminConfig, BackendList, Config, ListenerConfig, SourceAddress};
use crate::proxy::{admission, socket};
use crate::terms::labels::MaterialKind;
use crate::transparent;
use crate::trust::certs::summary::FileSummary;
use crate::trust::snapshot::{Loaded, Snapshot};
use crate::trust::token::TokenFile;

/// The warnings and the files of a valid configuration.
pub struct Checked {
    /// Warnings: a certificate that expires soon, a limit that cannot be reached, and the like.
    pub warnings: Vec<Finding>,
    /// Notices: what is right in most plants, and wrong in some.
    pub notices: Vec<Finding>,
    /// The contents of each file, one line each.
    pub files: Vec<String>,
    /// The state of each listener with these files.
    pub(crate) candidate: Vec<Snapshot>,
}

impl Checked {
    /// Returns a line for each warning.
    #[must_use]
    pub fn warning_lines(&self) -> Vec<String> {
        self.warnings.iter().map(ToString::to_string).collect()
    }
}

/// Loads the files of a configuration, and returns its warnings, without binding a socket. Blocks on the disk.
///
/// # Errors
/// All problems of all listeners.
pub fn check(config: &Config) -> Result<Checked, StartError> {
    let loaded = load(config)?;
    let (_, admin_warnings) = load_token(&config.admin)?;
    let files = loaded.iter().flat_map(|(snapshot, _)| contents(snapshot)).collect();
    let capacity = socket::capacity(listening_sockets(config));
    let warnings = loaded.iter().flat_map(|(snapshot, warnings)| {
        let ListenerConfig { name, limits, .. } = &snapshot.listener;
        let wanted = limits.max_connections;
        let excess = admission::excess("max_connections", wanted, capacity.connections);
        let excess = excess.map(|excess| Finding::of_listener(name, excess));
        let warnings = warnings.iter().filter(|warning| !warning.is_notice());
        warnings.map(|warning| Finding::of_warning(name, warning)).chain(excess)
    });
    let notices = loaded.iter().flat_map(|(snapshot, warnings)| {
        let notices = warnings.iter().filter(|warning| warning.is_notice());
        notices.map(|notice| Finding::of_warning(&snapshot.listener.name, notice))
    });
    let notices = notices.collect();
    // The process that is started may have the capability.
    let of_source = check_sources(config).err().map(|error| error.to_string());
    let of_process = excess(config, capacity.connections).into_iter().chain(of_source);
    let of_process = of_process.chain(admin_warnings).map(Finding::of_process);
    let warnings = warnings.chain(of_process).collect();
    let candidate = loaded.into_iter().map(|(snapshot, _)| snapshot).collect();
    Ok(Checked { warnings, notices, files, candidate })
}

/// Returns a warning if the process's limit of connections cannot be reached.
pub(super) fn excess(config: &Config, capacity: usize) -> Option<String> {
    admission::excess("process.max_connections", config.process.max_connections, capacity)
}

/// Tries whether listeners can connect from the addresses of devices, if one has to.
pub(super) fn check_sources(config: &Config) -> Result<(), StartError> {
    let from_clients =
        config.listeners.iter().find(|one| one.balance.source == SourceAddress::Client);
    let Some(listener) = from_clients else { return Ok(()) };
    let listener = listener.name.clone();
    transparent::check().map_err(|cause| StartError::Source { listener, cause })
}

/// Loads the files of all listeners.
pub(super) fn load(config: &Config) -> Result<Vec<Loaded>, StartError> {
    let mut loaded = Vec::new();
    let mut problems = Vec::new();
    for listener in &config.listeners {
        // A file is checked for this when it is parsed. Flags are checked here.
        let AdminConfig { listen: admin, metrics_listen, .. } = config.admin;
        for admin in [admin.address(), metrics_listen].into_iter().flatten() {
            if config::overlap(listener.listen, admin) {
                let message = format!("{} overlaps the admin port's {admin}", listener.listen);
                problems.push(Finding::of_listener(&listener.name, message));
            }
        }
        let backends = listener.backends().flat_map(BackendList::addresses);
        let own = backends.filter(|backend| config::is_own(listener.listen, backend));
        problems.extend(own.map(|backend| {
            let message = format!("the backend {backend} is the listener's own address");
            Finding::of_listener(&listener.name, message)
        }));
        match Snapshot::load(listener, SystemTime::now()) {
            Ok(first) => loaded.push(first),
            Err(errors) => {
                problems.extend(errors.iter().map(|error| Finding::of_file(&listener.name, error)));
            }
        }
    }
    if problems.is_empty() { Ok(loaded) } else { Err(StartError::Material(problems)) }
}

/// Returns the number of listening sockets, without the first of the admin port, which every process has.
pub(super) fn listening_sockets(config: &Config) -> usize {
    let AdminConfig { listen, socket, metrics_listen, token_file: _ } = &config.admin;
    let admin = [listen.address().is_some(), socket.is_some(), metrics_listen.is_some()];
    let admin = admin.into_iter().filter(|is_open| *is_open).count();
    config.listeners.len() + admin.saturating_sub(1)
}

/// Loads the token of the admin port, if there is one, and returns warnings about its protection.
pub(super) fn load_token(
    admin: &AdminConfig,
) -> Result<(Option<Arc<TokenFile>>, Vec<String>), StartError> {
    let loaded = admin.token_file.as_deref().map(TokenFile::load).transpose();
    let loaded = loaded
        .map_err(|error| StartError::Material(vec![Finding::of_process(error.to_string())]))?;
    let (token, readable) = loaded.unzip();
    let is_open = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
    let open = admin.listen.address().filter(|address| token.is_none() && is_open(address));
    let open = open.map(|address| {
        format!(
            "admin.listen {address} is not a loopback address and needs no token: every client that reaches it can \
             drain the process and end sessions; metrics_listen is for metrics and probes"
        )
    });
    Ok((token.map(Arc::new), readable.flatten().into_iter().chain(open).collect()))
}

/// Describes each file of a listener, once.
fn contents(snapshot: &Snapshot) -> Vec<String> {
    let name = &snapshot.listener.name;
    let (mut known, mut lines) = (HashSet::new(), Vec::new());
    for (route, policy) in snapshot.by_route() {
        let mut crls = 0..;
        for FileSummary { role, path, count, .. } in policy.files() {
            let file = match role {
                // By its index: a message with the file name of a CRL reports a fault of the CRL.
                MaterialKind::Crl => {
                    let route = route.map_or_else(String::new, |route| format!("route[{route}]."));
                    format!("{route}crls[{}]", crls.next().unwrap_or(0))
                }
                MaterialKind::Certificate
                | MaterialKind::Key
                | MaterialKind::ClientCa
                | MaterialKind::Allow
                | MaterialKind::TicketKeys => path.display().to_string(),
            };
            if known.insert((role, path.to_owned())) {
                lines.push(shown(&format!("listener {name:?}: {file}: {}", counted(role, count))));
            }
        }
    }
    lines
}

/// Describes the contents of a file.
fn counted(kind: MaterialKind, count: usize) -> String {
    let what = match kind {
        MaterialKind::Certificate | MaterialKind::ClientCa => "certificate",
        MaterialKind::Key => "private key",
        MaterialKind::Crl => "CRL",
        MaterialKind::Allow => "allow rule",
        MaterialKind::TicketKeys => "ticket key",
    };
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
