//! The addresses that the process binds: those of the admin port, and those of the listeners.
//!
//! **Promises.** No two of them overlap.
//!
//! **Not here.** All other checks of several values (`file.rs`).

use std::collections::HashMap;
use std::net::SocketAddr;

use toml::Spanned;

use super::problem::Problems;
use super::sections::{AdminSection, ListenerSection};
use super::text::Expanded;
use crate::config::values::ListenAddress;
use crate::config::{AdminConfig, AdminListen, overlap};

/// The longest path of a Unix socket: `sun_path` holds 108 bytes with its NUL (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

pub(super) fn into_admin(section: AdminSection, problems: &mut Problems<'_>) -> AdminConfig {
    let socket = section.socket.map(|socket| {
        let path = problems.path(&socket);
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            let message =
                format!("found {path:?}, expected a path of at most {MAX_SOCKET_PATH} bytes");
            problems.at(socket.span(), "admin.socket", &message);
        }
        path
    });
    let token_file = section.token_file.map(|f| problems.named_file(&f, "admin.token_file"));
    AdminConfig {
        listen: section.listen.map_or_else(|| AdminConfig::default().listen, |l| l.into_inner().0),
        socket,
        metrics_listen: section.metrics_listen.map(|listen| listen.into_inner().0.0),
        token_file,
    }
}

/// Reports every listener whose address overlaps with one of the admin port or of an earlier listener, and
/// `metrics_listen` if it overlaps with `listen`. The flags replace the values of the file.
pub(super) fn distinct_addresses(
    admin: &AdminSection,
    listeners: &[Spanned<ListenerSection>],
    (admin_flag, metrics_flag): (Option<AdminListen>, Option<SocketAddr>),
    problems: &mut Problems<'_>,
) {
    let mut taken = Taken::default();
    let in_file = admin.listen.as_ref().map(|listen| listen.as_ref().0);
    let (key, listen) = match admin_flag {
        Some(listen) => ("--admin", listen),
        None => ("admin.listen", in_file.unwrap_or_else(|| AdminConfig::default().listen)),
    };
    if let Some(address) = listen.address() {
        taken.add(key.to_owned(), address);
    }
    let key = "admin.metrics_listen";
    match (metrics_flag, &admin.metrics_listen) {
        (Some(address), _) => taken.add("--metrics-listen".to_owned(), address),
        (None, Some(listen)) => taken.claim(key.to_owned(), listen, problems),
        (None, None) => {}
    }
    for (i, section) in listeners.iter().enumerate() {
        let Some(listen) = &section.as_ref().listen else { continue };
        taken.claim(format!("listener[{i}].listen"), listen, problems);
    }
}

/// Addresses in use, with their keys.
#[derive(Default)]
struct Taken {
    keys: HashMap<SocketAddr, String>,
    on_port: HashMap<u16, Vec<SocketAddr>>,
    /// Wildcard addresses: at most two for each port.
    wildcards: HashMap<u16, Vec<SocketAddr>>,
}

impl Taken {
    /// Adds an address of the file, or reports the one that it overlaps with.
    fn claim(
        &mut self,
        key: String,
        listen: &Spanned<Expanded<ListenAddress>>,
        problems: &mut Problems<'_>,
    ) {
        let address = listen.as_ref().0.0;
        match self.overlapping(address) {
            Some((first, other)) => {
                let message = format!("found \"{address}\", but {first} has \"{other}\"");
                problems.at(listen.span(), &key, &message);
            }
            None => self.add(key, address),
        }
    }

    fn add(&mut self, key: String, address: SocketAddr) {
        self.on_port.entry(address.port()).or_default().push(address);
        if address.ip().is_unspecified() {
            self.wildcards.entry(address.port()).or_default().push(address);
        }
        self.keys.insert(address, key);
    }

    /// Returns an address that overlaps with `address`, and its key.
    fn overlapping(&self, address: SocketAddr) -> Option<(&str, SocketAddr)> {
        // Only a wildcard is compared with all addresses on its port: there can be thousands.
        let candidates = match address.ip().is_unspecified() {
            true => self.on_port.get(&address.port()),
            false => self.wildcards.get(&address.port()),
        };
        let same = self.keys.get_key_value(&address).map(|(same, _)| same);
        let mut candidates = same.into_iter().chain(candidates.into_iter().flatten());
        let other = *candidates.find(|other| overlap(**other, address))?;
        Some((self.keys.get(&other)?, other))
    }
}
