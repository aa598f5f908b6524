//! The signature scheme with which an RSA key signs a handshake.
//!
//! rustls prefers SHA-512 whatever the client prefers. A small device lists first what it has hardware for, mostly
//! SHA-256, and SHA-512 costs it several times as much without 64-bit arithmetic.
//!
//! **Promises.** The scheme is the first of the client's list that the key can use. The signatures are rustls's.
//!
//! **Not here.** The first scheme, and the choice of the certificate (`trust/resolver.rs`).

use std::slice;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::SubjectPublicKeyInfoDer;
use tokio_rustls::rustls::sign::{Signer, SigningKey};
use tokio_rustls::rustls::{SignatureAlgorithm, SignatureScheme};

use crate::trust::provider::HandshakeScope;

/// Returns the key with the client's choice of the scheme. Keys with one scheme stay as they are.
pub(super) fn by_clients_order(key: Arc<dyn SigningKey>) -> Arc<dyn SigningKey> {
    if key.algorithm() == SignatureAlgorithm::RSA { Arc::new(ByClientsOrder(key)) } else { key }
}

#[derive(Debug)]
struct ByClientsOrder(Arc<dyn SigningKey>);

impl SigningKey for ByClientsOrder {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        // In TLS 1.2 rustls passes the schemes in an order of its own.
        let first = HandshakeScope::with_entered(|scope| scope.first_scheme).flatten();
        match first.filter(|first| offered.contains(first)) {
            Some(first) => self.0.choose_scheme(slice::from_ref(&first)),
            None => self.0.choose_scheme(offered),
        }
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.0.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}
