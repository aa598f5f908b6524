//! Integration tests, in one binary that links once and shares one harness.
//!
//! Each module tests one area of behaviour with real sockets and real TLS clients. Tests of processes, signals and limits
//! run the real binary.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests fail by panicking, and say so"
)]

mod support;

/// Delivery of every byte, in order, to both sides, however they end.
mod relay;

/// The certificate, version, suite and protocol for each device.
mod tls;

/// The group of the key exchange.
mod groups;

/// The suites and groups of the configuration.
mod suites;

/// Suites and groups that a configuration has to name.
mod legacy;

/// Server names that are not DNS names.
mod server_names;

/// Client authentication.
mod client_auth;

/// Rules on verified devices.
mod allow;

/// Refused certificates: their reasons and their names.
mod refused;

/// Chains, bundles and CRLs, beside HAProxy and nginx.
mod matrix;

/// Resumption: shared ticket keys, policies, the age of a session.
mod resumption;

/// The bytes and the renewal of tickets.
mod tickets;

/// Invalid bytes from a peer: one connection ends, with a specific reason.
mod wire;

/// Sizes of the records that devices get.
mod record_sizes;

/// Deadlines of every wait.
mod deadlines;

/// Peers that vanish without a packet.
mod dead_peers;

/// Chains and bundles that devices and operators have.
mod chains;

/// Limits on connections and on memory.
mod limits;
mod material;

/// More handshakes than can be done at a time.
mod storms;

/// The system calls of a connection.
mod system_calls;

/// Causes of devices that cannot connect, as metrics and log name them.
mod causes;

/// The PROXY protocol, in both directions.
mod proxy_protocol;

/// Routes, and failures to connect to backends.
mod backends;

/// Several backends, and how they are connected.
mod balance;

/// Routes with certificates and rules of their own.
mod routes;

/// Predictions of the effects of a reload on connected devices.
mod live;

/// Reloads: every change on disk takes effect, and nothing else changes.
mod reload;

/// Guards of server certificates.
mod guards;

/// Rollouts of server certificates, with roll-backs.
mod rollout;

/// Live sessions after a change of the trust in their clients.
mod recheck;

/// Drain and stop.
mod drain;

/// Connections to the backend from the device's address.
mod trace;
mod transparent;

/// Rolling restarts.
mod restart;

/// Faults around the proxy.
mod faults;

/// Everything at once, for a long time.
mod soak;

/// Machines without IPv6.
mod no_ipv6;

/// Notifications to systemd, and sockets from it.
mod systemd;

/// Metrics, probes and the log.
mod observe;

/// Metrics of devices that cannot connect, and of those that can.
mod metrics;

/// The log on a terminal.
mod terminal;

/// Live sessions, and devices that stand out.
mod sessions;

/// Availability of the admin port, whatever its other clients do.
mod admin;

/// Endpoints of the admin port, its token, and its clients on the command line.
mod operators;

/// Configuration files, and the report of all problems together.
mod config;
mod crls;

/// Large revocation lists: memory and the relay while they load.
mod large_crls;

/// The command line of a run and of `check`.
mod command_line;

/// The process: flags, signals, exit codes.
mod process;

/// The environment of the process: foreign signals, outputs that are not read.
mod surroundings;

/// Real devices: Python, openssl.
mod devices;

/// An unchanged broker behind the sidecar.
mod mosquitto;

/// The demo, as the README describes it.
mod demo;

/// The commands in the pages for operators, and their output.
mod docs;

/// The configurations of the pages for migration.
mod migrate;

/// The examples, with unchanged legacy servers.
mod events;
mod examples;

/// Certificates from an ACME server, and their renewal without operator action.
mod acme;

/// The comparison of instruction counts with the baseline.
mod instructions;

/// The report of `tlsidecar probe`, and its health checks.
mod probe;

/// The commands at an address where another program answers.
mod wrong_port;

/// The status page in a real browser.
mod page;

/// The rules of the repository: imports, lengths, documents.
mod tidy;
