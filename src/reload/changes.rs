//! The differences between two configurations.
//!
//! **Not here.** Applying them (`reload.rs`).

use crate::config::{self, Config};

/// Returns the changed settings that belong to no listener and that a running process can apply.
pub(super) fn of_process(old: &Config, new: &Config) -> Vec<&'static str> {
    let connections = |config: &Config| config.process.max_connections;
    let handshake_bytes = |config: &Config| config.process.max_handshake_bytes;
    let buffered_bytes = |config: &Config| config.process.max_buffered_bytes;
    let settings = [
        ("process.max_connections", connections(old) != connections(new)),
        ("process.max_handshake_bytes", handshake_bytes(old) != handshake_bytes(new)),
        ("process.max_buffered_bytes", buffered_bytes(old) != buffered_bytes(new)),
        ("[shutdown]", old.shutdown != new.shutdown),
        ("log.filter", old.log.filter != new.log.filter),
    ];
    settings.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

/// Returns the parts of a listener's configuration that differ, by their names in the file.
pub(super) fn of_listener(
    old: &config::ListenerConfig,
    new: &config::ListenerConfig,
) -> Vec<&'static str> {
    // The name and the socket cannot differ: they identify the listener.
    let config::ListenerConfig {
        name: _,
        listen: _,
        reuse_port: _,
        backend,
        balance,
        tls,
        routes,
        unknown_name,
        timeouts,
        limits,
        tcp,
        proxy_protocol,
    } = old;
    let parts = [
        ("backend", *backend != new.backend),
        ("balance", *balance != new.balance),
        ("tls", *tls != new.tls),
        ("route", *routes != new.routes),
        ("unknown_name", *unknown_name != new.unknown_name),
        ("timeouts", *timeouts != new.timeouts),
        ("limits", *limits != new.limits),
        ("tcp", *tcp != new.tcp),
        ("proxy_protocol", *proxy_protocol != new.proxy_protocol),
    ];
    parts.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

/// Returns the differences that a process started with `started` cannot apply.
pub(super) fn that_need_a_restart(started: &Config, wanted: &Config) -> Vec<String> {
    let mut what = Vec::new();
    let config::AdminConfig { listen, socket, metrics_listen, token_file } = &started.admin;
    let admin = [
        ("listen", *listen != wanted.admin.listen),
        ("socket", *socket != wanted.admin.socket),
        ("metrics_listen", *metrics_listen != wanted.admin.metrics_listen),
        ("token_file", *token_file != wanted.admin.token_file),
    ];
    let changed = admin.iter().filter(|(_, differs)| *differs);
    what.extend(changed.map(|(key, _)| format!("admin.{key} has changed")));
    if started.log.format != wanted.log.format {
        what.push("log.format has changed".to_owned());
    }
    if started.process.dumpable != wanted.process.dumpable {
        what.push("process.dumpable has changed".to_owned());
    }
    if started.process.landlock != wanted.process.landlock {
        what.push("process.landlock has changed".to_owned());
    }
    for listener in &started.listeners {
        let name = &listener.name;
        match wanted.listeners.iter().find(|wanted| wanted.name == *name) {
            None => what.push(format!("listener {name:?} was removed")),
            Some(wanted) if wanted.listen != listener.listen => {
                what.push(format!("listener {name:?} has another address"));
            }
            Some(wanted) if wanted.reuse_port != listener.reuse_port => {
                what.push(format!("reuse_port of listener {name:?} has changed"));
            }
            Some(_) => {}
        }
    }
    for listener in &wanted.listeners {
        let name = &listener.name;
        if started.listeners.iter().all(|started| started.name != *name) {
            what.push(format!("listener {name:?} is new"));
        }
    }
    what
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::trust::testing::listener;

    #[test]
    fn only_changes_that_need_a_restart_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let listeners = ["stays", "moves", "goes"]
            .map(|name| config::ListenerConfig { name: name.to_owned(), ..listener(dir.path()) });
        let started = Config { listeners: listeners.to_vec(), ..Config::of(listener(dir.path())) };
        let mut wanted = started.clone();
        wanted.shutdown.delay = Duration::from_secs(1);
        wanted.log.filter = "debug".parse::<crate::logging::Filter>().unwrap();
        wanted.listeners[0].limits.max_connections = Some(17);
        assert_eq!(that_need_a_restart(&started, &wanted), Vec::<String>::new());
        wanted.admin.listen = config::AdminListen::Off;
        wanted.admin.token_file = Some("token".into());
        wanted.log.format = crate::logging::Format::Json;
        wanted.process.dumpable = true;
        wanted.process.landlock = false;
        wanted.listeners[1].listen.set_port(1);
        "comes".clone_into(&mut wanted.listeners[2].name);
        let expected = [
            "admin.listen has changed",
            "admin.token_file has changed",
            "log.format has changed",
            "process.dumpable has changed",
            "process.landlock has changed",
            "listener \"moves\" has another address",
            "listener \"goes\" was removed",
            "listener \"comes\" is new",
        ];
        assert_eq!(that_need_a_restart(&started, &wanted), expected);
    }
}
