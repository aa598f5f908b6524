//! The integration tests: one binary, so that it links once and shares one harness.
//!
//! Each module tests one behaviour area against real sockets and real TLS clients; those that need
//! processes, signals or limits run the real binary.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests fail by panicking, and say so"
)]

mod support;

/// Is every byte delivered, in order, to both ends, however they end?
mod relay;

/// Which certificate, version, suite and protocol does a device get?
mod tls;

/// Which client certificates are believed?
mod client_auth;

/// Does what a peer sends wrongly end that connection alone, with its own reason?
mod wire;

/// Does every wait have an end?
mod deadlines;

/// Which of the certificates that devices have are taken, and which bundles?
mod chains;

/// How many connections are let in, and what happens to the others?
mod limits;
mod material;

/// Where do connections go, and what if nobody is there?
mod backends;

/// Is what changes on disk put in force, and nothing else?
mod reload;

/// Does it stop as it promises?
mod drain;

/// Is systemd told the truth, and are its sockets used?
mod systemd;

/// Do metrics, probes and log say how it is?
mod observe;

/// Do the metrics say why devices cannot connect?
mod metrics;

/// Does the operator see who is connected, and who stands out?
mod sessions;

/// Does the admin port answer, whatever its other clients do?
mod admin;

/// Are all problems of a configuration reported at once?
mod config;
mod crls;

/// What does the binary do with flags, signals and exit codes?
mod process;

/// Does the process bear what surrounds it: foreign signals, outputs that nobody reads?
mod surroundings;

/// Do real devices work: Python, openssl?
mod devices;

/// Does an unchanged broker work behind it?
mod mosquitto;

/// Does the demo do what the README says?
mod demo;

/// Do the pages for operators say what happens, command by command?
mod docs;

/// Do the examples work, with legacy servers that are not changed?
mod examples;

/// Does a certificate from an ACME server come, and its successor, without anybody's help?
mod acme;

/// Does the count of instructions refuse what has grown?
mod instructions;

/// Does a probe say what a device would see, and what a health command has to say?
mod probe;

/// Does a page in a real browser say how it is?
mod page;

/// Is the house in order: imports, lengths, documents?
mod tidy;
