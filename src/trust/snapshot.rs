//! What a listener runs on now: its configuration and its TLS material, immutable.
//!
//! **Promises.** A snapshot is built whole, checked whole, and put in force by one pointer store,
//! so no connection ever sees a new certificate with an old CA or an old timeout. A connection
//! holds one only until its relay starts: what was replaced is freed, however long connections
//! live.
//!
//! **Not here.** How one is built (`certs.rs`) and when (`reload.rs`).

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::certs::parts::Parts;
use super::certs::verifier::ClientVerifier;
use super::digest::Digest;
use super::resolver::Resolver;
use super::tickets::Resumption;
use super::x509::{CertInfo, Timestamp};
use crate::config;

/// What a listener runs on.
pub(crate) struct Snapshot {
    /// The configuration that it was built from.
    pub(crate) listener: config::ListenerConfig,
    /// Of every file that it was built from.
    pub(crate) files: FileDigests,
    pub(crate) server_configs: ServerConfigs,
    /// Which certificate a device gets; part of `server_configs`.
    pub(crate) resolver: Arc<Resolver>,
    /// Checks client certificates; none where they are not asked for.
    pub(crate) client_verifier: Option<Arc<ClientVerifier>>,
    pub(crate) certificates: Vec<ServerCertificate>,
    /// The CAs and CRLs that client certificates are checked against.
    pub(crate) trusted: Trusted,
    pub(crate) resumption: Resumption,
    /// What each file held when it was last good.
    pub(crate) parts: Parts,
}

/// What the files hold, one digest for each kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileDigests {
    /// Certificates and keys, and who may read these.
    pub(crate) certificates: Digest,
    pub(crate) client_ca: Digest,
    pub(crate) crls: Digest,
}

/// What is known of the CAs and CRLs of a listener.
#[derive(Default)]
pub(crate) struct Trusted {
    /// Of pinned devices as well.
    pub(crate) cas: Vec<CertInfo>,
    /// How many of these are pinned devices.
    pub(crate) pinned: usize,
    /// Each file, and the earliest date in it on which a new CRL is due.
    pub(crate) crls: Vec<(PathBuf, Timestamp)>,
}

/// rustls's configuration, in two orders of preference among cipher suites.
pub(crate) struct ServerConfigs {
    /// Ours: AES-128 first.
    pub(crate) server_order: Arc<ServerConfig>,
    /// The client's, for one that has no hardware for AES.
    pub(crate) client_order: Arc<ServerConfig>,
}

/// A certificate that devices are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerCertificate {
    /// The file that it came from: its metric label.
    pub(crate) label: String,
    pub(crate) leaf: CertificateDer<'static>,
    pub(crate) info: CertInfo,
    /// Certificates that are sent: this one and those of its issuers.
    pub(crate) chain_length: usize,
}

/// The snapshot in force of one listener.
pub(crate) struct Current(watch::Sender<Arc<Snapshot>>);

impl Current {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Self(watch::Sender::new(Arc::new(snapshot)))
    }

    /// The snapshot in force.
    pub(crate) fn load(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.borrow())
    }

    /// Puts `snapshot` in force for every connection that starts from now on.
    pub(crate) fn store(&self, snapshot: Snapshot) {
        self.0.send_replace(Arc::new(snapshot));
    }

    /// Tells of every snapshot that is put in force from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.0.subscribe()
    }
}
