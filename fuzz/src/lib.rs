//! Shared parts of the fuzz targets: certificates, a server, a client, and a socket with scripted input.

use std::cell::OnceCell;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use tlsidecar::proxy::fuzz::FuzzServer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

/// Files of one process: `ca.crt`, `server.crt`, `server.key`, `devices.crl`.
pub struct Material(tempfile::TempDir);

impl Material {
    /// Returns the files of this process.
    pub fn get() -> &'static Self {
        static MATERIAL: OnceLock<Material> = OnceLock::new();
        MATERIAL.get_or_init(Self::make)
    }

    fn make() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be created");
        let mut ca = CertificateParams::new(Vec::new()).expect("no names are valid names");
        ca.distinguished_name.push(DnType::CommonName, "fuzz CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_key = KeyPair::generate().expect("a key can be generated");
        let ca_cert = ca.self_signed(&ca_key).expect("signing works");
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().expect("a key can be generated");
        let server = CertificateParams::new(vec!["localhost".to_owned()]).expect("the name is valid");
        let server = server.signed_by(&key, &issuer).expect("signing works");
        let crl = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2096, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let crl = crl.signed_by(&issuer).expect("signing works");
        let crl = crl.pem().expect("encoding works");
        for (name, text) in [
            ("ca.crt", ca_cert.pem()),
            ("server.crt", server.pem()),
            ("server.key", key.serialize_pem()),
            ("devices.crl", crl),
        ] {
            std::fs::write(dir.path().join(name), text).expect("the directory is writable");
        }
        Self(dir)
    }

    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }
}

/// Runs `work` on this thread with a server that requests client certificates and also accepts devices without one.
pub fn with_server<T>(work: impl AsyncFnOnce(&FuzzServer) -> T) -> T {
    thread_local! {
        static RUNTIME: OnceCell<(Runtime, FuzzServer)> = const { OnceCell::new() };
    }
    RUNTIME.with(|cell| {
        let (runtime, server) = cell.get_or_init(|| {
            let runtime = Builder::new_current_thread().enable_time().build();
            let runtime = runtime.expect("a runtime can be built");
            let server = {
                let _entered = runtime.enter();
                FuzzServer::new(Material::get().dir())
            };
            (runtime, server)
        });
        runtime.block_on(work(server))
    })
}

/// A peer that sends these bytes in segments, accepts all writes, and ends its stream.
pub struct Script {
    bytes: Vec<u8>,
    at: usize,
    segments: Arc<[u8]>,
    segment: usize,
}

impl Script {
    /// Each segment has one byte more than the next value of `segments`, which repeats. Without values there is one
    /// segment.
    pub fn new(bytes: Vec<u8>, segments: &[u8]) -> Self {
        Self { bytes, at: 0, segments: segments.into(), segment: 0 }
    }
}

impl AsyncRead for Script {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let rest = &this.bytes[this.at..];
        let size = match this.segments.len() {
            0 => rest.len(),
            count => usize::from(this.segments[this.segment % count]) + 1,
        };
        let size = size.min(rest.len()).min(buffer.remaining());
        buffer.put_slice(&rest[..size]);
        this.at += size;
        this.segment += 1;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Splits an input into the bytes for segments, whose number is its first byte (0 to 7), and the rest.
pub fn segmented(data: &[u8]) -> (&[u8], &[u8]) {
    let Some((first, rest)) = data.split_first() else { return (&[], data) };
    rest.split_at(usize::from(first % 8).min(rest.len()))
}
