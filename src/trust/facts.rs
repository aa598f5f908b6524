//! The facts about the client of a live session as text, so that another process can check it with other rules.
//!
//! **Promises.** An identity that is made of its facts is judged by every policy as the original is. Facts are names,
//! digests and the certificates of issuers, which are public.
//!
//! **Not here.** The facts about the session (`sessions/facts.rs`), the check (`recheck.rs`).

use std::collections::HashMap;
use std::sync::Arc;

use data_encoding::{BASE64, DecodeError, HEXLOWER};
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::digest::Digest;
use super::identity::{Identity, Kinds, SerialNumber};
use super::issuers::Issuers;
use super::verified_path::{PathSource, VerifiedPath};

/// The facts that an [`Identity`] has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClientFacts {
    pub(crate) names: Box<[Box<str>]>,
    units: Box<[Box<str>]>,
    /// The kinds of the names, two bits each.
    kinds: u16,
    /// In hexadecimal.
    key: String,
    /// In hexadecimal.
    serial: String,
    not_after: i64,
    /// The place of its path in the list of paths.
    path: Option<usize>,
}

/// The facts of a [`VerifiedPath`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PathFacts {
    trusted_by: TrustedBy,
    /// In base64.
    crl_points: Vec<String>,
    valid_until: i64,
}

/// The reason for which a client's certificate was trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TrustedBy {
    /// A CA and the intermediates below it, in base64.
    Ca { certificate: String, issuers: Vec<String> },
    /// The client's own certificate is in the list of CAs: its digest in hexadecimal.
    Pinned(String),
}

/// The facts are not those of a client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadFacts {
    #[error(transparent)]
    Encoding(#[from] DecodeError),
    #[error("a digest has another length")]
    Length,
    #[error("there is no path {0}")]
    Path(usize),
}

/// Paths that clients share, each once.
#[derive(Debug, Default)]
pub(crate) struct SharedPaths {
    places: HashMap<*const VerifiedPath, usize>,
    paths: Vec<PathFacts>,
    /// The bytes of the names of all clients and of the paths.
    bytes: usize,
}

impl SharedPaths {
    /// Returns the facts about a client, and adds its path.
    pub(crate) fn facts(&mut self, client: &Identity) -> ClientFacts {
        let texts = client.names.iter().chain(&client.units);
        self.bytes += texts.map(|text| text.len()).sum::<usize>();
        ClientFacts {
            names: client.names.clone(),
            units: client.units.clone(),
            kinds: client.kinds.0,
            key: HEXLOWER.encode(&client.key),
            serial: HEXLOWER.encode(client.serial.as_bytes()),
            not_after: client.not_after,
            path: client.path.as_ref().map(|path| self.place(path)),
        }
    }

    /// Returns the bytes of all names and paths.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the paths.
    pub(crate) fn into_paths(self) -> Vec<PathFacts> {
        self.paths
    }

    fn place(&mut self, path: &Arc<VerifiedPath>) -> usize {
        *self.places.entry(Arc::as_ptr(path)).or_insert_with(|| {
            let facts = PathFacts::of(path);
            self.bytes += facts.bytes();
            self.paths.push(facts);
            self.paths.len() - 1
        })
    }
}

impl PathFacts {
    fn of(path: &VerifiedPath) -> Self {
        let base64 = |bytes: &[u8]| BASE64.encode(bytes);
        let trusted_by = match &path.source {
            PathSource::Ca { anchor, issuers } => {
                let issuers = issuers.iter().flat_map(|issuers| &issuers.ders);
                let issuers = issuers.map(|der| base64(der)).collect();
                TrustedBy::Ca { certificate: base64(anchor), issuers }
            }
            PathSource::Pinned(own) => TrustedBy::Pinned(HEXLOWER.encode(own.as_bytes())),
        };
        let crl_points = path.crl_points.iter().map(|point| base64(point)).collect();
        Self { trusted_by, crl_points, valid_until: path.until }
    }

    fn bytes(&self) -> usize {
        let texts = match &self.trusted_by {
            TrustedBy::Ca { certificate, issuers } => {
                certificate.len() + issuers.iter().map(String::len).sum::<usize>()
            }
            TrustedBy::Pinned(own) => own.len(),
        };
        texts + self.crl_points.iter().map(String::len).sum::<usize>()
    }

    /// Makes the path of its facts, or returns the equal one that there is.
    ///
    /// # Errors
    /// If a text is not what it should be.
    pub(crate) fn path(&self) -> Result<Arc<VerifiedPath>, BadFacts> {
        let der = |text: &String| Ok::<_, BadFacts>(CertificateDer::from(base64(text)?));
        let source = match &self.trusted_by {
            TrustedBy::Ca { certificate, issuers } => {
                let issuers = issuers.iter().map(der).collect::<Result<Box<[_]>, _>>()?;
                let issuers = (!issuers.is_empty()).then(|| Arc::new(Issuers::new(issuers)));
                PathSource::Ca { anchor: der(certificate)?, issuers }
            }
            TrustedBy::Pinned(own) => PathSource::Pinned(Digest::from_bytes(exact(own)?)),
        };
        let crl_points = self.crl_points.iter().map(|point| base64(point));
        let crl_points = crl_points.collect::<Result<_, _>>()?;
        Ok(VerifiedPath { source, crl_points, until: self.valid_until }.shared())
    }
}

impl ClientFacts {
    /// Makes the identity of its facts, with the paths of the same list.
    ///
    /// # Errors
    /// If a text is not what it should be.
    pub(crate) fn identity(&self, paths: &[Arc<VerifiedPath>]) -> Result<Identity, BadFacts> {
        let path = |place| paths.get(place).cloned().ok_or(BadFacts::Path(place));
        Ok(Identity {
            names: self.names.clone(),
            units: self.units.clone(),
            not_after: self.not_after,
            key: exact(&self.key)?,
            serial: SerialNumber::of(&HEXLOWER.decode(self.serial.as_bytes())?),
            path: self.path.map(path).transpose()?,
            kinds: Kinds(self.kinds),
        })
    }
}

fn base64(text: &str) -> Result<Vec<u8>, DecodeError> {
    BASE64.decode(text.as_bytes())
}

fn exact<const N: usize>(hexadecimal: &str) -> Result<[u8; N], BadFacts> {
    let bytes = HEXLOWER.decode(hexadecimal.as_bytes())?;
    bytes.try_into().map_err(|_| BadFacts::Length)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SerialNumber as Serial};

    use super::*;
    use crate::trust::x509::certificate::Certificate;

    /// Returns a client with a long serial number, whose path has CRL distribution points.
    fn client(source: PathSource) -> Identity {
        let mut params = CertificateParams::new(vec!["pump-7.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "Pump \"7\"");
        params.distinguished_name.push(DnType::OrganizationalUnitName, "Line 2");
        params.serial_number = Some(Serial::from_slice(&[1; 40]));
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let crl_points = vec![b"http://crl.example/1".to_vec(), Vec::new()];
        let path = VerifiedPath { source, crl_points, until: 7 }.shared();
        Identity::verified(&Certificate::parse(certificate.der()).unwrap(), path)
    }

    /// Returns the facts about clients as text and back.
    fn transferred(clients: &[&Identity]) -> (Vec<ClientFacts>, Vec<PathFacts>) {
        let mut paths = SharedPaths::default();
        let facts: Vec<_> = clients.iter().map(|client| paths.facts(client)).collect();
        let text = serde_json::to_string(&(facts, paths.into_paths())).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn an_identity_is_the_same_after_the_way_through_text() {
        let der = |byte: u8| CertificateDer::from(vec![byte; 100]);
        let issuers = Issuers::new([der(1), der(2)].into());
        let of_ca = |issuers| PathSource::Ca { anchor: der(3), issuers };
        let sources = [
            of_ca(None),
            of_ca(Some(Arc::new(issuers))),
            PathSource::Pinned(Digest::of([&b"own"[..]])),
        ];
        let clients = sources.map(client);
        let all: Vec<_> = clients.iter().chain(&clients[..1]).collect();
        let (facts, paths) = transferred(&all);
        assert_eq!((facts.len(), paths.len()), (4, 3), "a path is sent once");
        let paths: Vec<_> = paths.iter().map(|path| path.path().unwrap()).collect();
        for (client, facts) in all.into_iter().zip(facts) {
            let made = facts.identity(&paths).unwrap();
            assert_eq!(format!("{made:?}"), format!("{client:?}"));
            // Equal paths are one value, so that a re-check looks for their issuers once.
            assert!(Arc::ptr_eq(made.path.as_ref().unwrap(), client.path.as_ref().unwrap()));
        }
    }

    #[test]
    fn facts_that_cannot_be_are_errors() {
        let client = client(PathSource::Pinned(Digest::of([&b"own"[..]])));
        let (facts, paths) = transferred(&[&client]);
        let paths: Vec<_> = paths.iter().map(|path| path.path().unwrap()).collect();
        let wrong = |change: fn(&mut ClientFacts)| {
            let mut facts = facts[0].clone();
            change(&mut facts);
            facts.identity(&paths).unwrap_err()
        };
        assert!(matches!(wrong(|facts| facts.path = Some(1)), BadFacts::Path(1)));
        assert!(matches!(wrong(|facts| facts.key = "00".to_owned()), BadFacts::Length));
        assert!(matches!(wrong(|facts| facts.serial = "0".to_owned()), BadFacts::Encoding(_)));
    }
}
