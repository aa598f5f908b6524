//! Certificates for tests, generated on demand.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationList,
    CertificateRevocationListParams, CrlDistributionPoint, CrlIssuingDistributionPoint, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;
use tlsidecar::config::CertificateFiles;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A CA, with a directory for the files that it issues.
pub(crate) struct Authority {
    name: String,
    key: KeyPair,
    /// The certificates above and including this CA's, without the root.
    parents: Vec<String>,
    pem: String,
    dir: Arc<TempDir>,
}

/// A certificate with its key, in files.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) files: CertificateFiles,
}

/// The properties of a certificate to issue.
pub(crate) struct Wish<'a> {
    pub(crate) names: &'a [&'a str],
    pub(crate) rsa: bool,
    pub(crate) years: (i32, i32),
    pub(crate) purpose: ExtendedKeyUsagePurpose,
    pub(crate) serial: u64,
}

impl Default for Wish<'_> {
    fn default() -> Self {
        Self {
            names: &["localhost", "127.0.0.1"],
            rsa: false,
            years: (2020, 2060),
            purpose: ExtendedKeyUsagePurpose::ServerAuth,
            serial: 1,
        }
    }
}

impl<'a> Wish<'a> {
    /// The certificate of a device with these names.
    pub(crate) fn of_device(names: &'a [&'a str]) -> Self {
        Self { names, purpose: ExtendedKeyUsagePurpose::ClientAuth, ..Self::default() }
    }
}

impl Authority {
    /// Makes a root.
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let pem = ca_params(name).self_signed(&key).unwrap().pem();
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let authority = Self { name: name.to_owned(), key, parents: Vec::new(), pem, dir };
        fs::write(authority.ca(), &authority.pem).unwrap();
        authority
    }

    /// Makes an intermediate CA below this one.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = ca_params(name);
        params.serial_number = Some(SerialNumber::from(serial_of(name)));
        let pem = params.signed_by(&key, &self.issuer()).unwrap().pem();
        // Roots are not sent.
        let parents = [vec![pem.clone()], self.parents.clone()].concat();
        Self { name: name.to_owned(), key, parents, pem, dir: Arc::clone(&self.dir) }
    }

    /// Issues a certificate for another CA, and discards its key.
    pub(crate) fn certify_ca(&self, name: &str) -> CertificateDer<'static> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        ca_params(name).signed_by(&key, &self.issuer()).unwrap().der().clone()
    }

    /// Returns the directory for the files of this test.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the CA's certificate in PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// Returns the CA's key in PEM.
    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Returns the file of the CA's certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir().join(format!("{}.ca.crt", self.name))
    }

    /// Makes another certificate of this CA with the same key, valid for these years, and returns its file.
    pub(crate) fn ca_of(&self, years: (i32, i32)) -> PathBuf {
        let mut params = ca_params(&self.name);
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let path = self.dir().join(format!("{}.{}-{}.ca.crt", self.name, years.0, years.1));
        fs::write(&path, params.self_signed(&self.key).unwrap().pem()).unwrap();
        path
    }

    /// Returns a root store with this CA, for a client.
    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        roots
    }

    /// Issues a server certificate for localhost, in the files `server.crt` and `server.key`.
    pub(crate) fn server(&self) -> Pair {
        self.issue("server", &Wish::default())
    }

    /// Issues a certificate for a device with this name, into files of that name.
    pub(crate) fn device(&self, name: &str) -> Pair {
        self.issue(name, &Wish::of_device(&[name]))
    }

    /// Issues a certificate for a device that has its name as the common name only.
    pub(crate) fn named(&self, file: &str, name: &str) -> Pair {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_after = date_time_ymd(2060, 1, 1);
        self.sign(file, &params)
    }

    /// Issues a certificate into `file.crt` and `file.key`, each replaced atomically.
    pub(crate) fn issue(&self, file: &str, wish: &Wish<'_>) -> Pair {
        let (chain, key) = self.issue_pem(wish);
        self.write(file, &chain, &key)
    }

    fn write(&self, file: &str, chain: &str, key: &str) -> Pair {
        let files = CertificateFiles {
            cert: self.dir().join(format!("{file}.crt")),
            key: self.dir().join(format!("{file}.key")),
        };
        replace(&files.key, key);
        replace(&files.cert, chain);
        Pair { files }
    }

    /// Issues a certificate with these parameters.
    pub(crate) fn sign(&self, file: &str, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer()).unwrap().pem();
        self.write(file, &leaf, &key.serialize_pem())
    }

    /// Issues a certificate and returns its chain and its key in PEM.
    pub(crate) fn issue_pem(&self, wish: &Wish<'_>) -> (String, String) {
        let key = if wish.rsa { rsa_key() } else { KeyPair::generate().unwrap() };
        let names: Vec<_> = wish.names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name.push(DnType::CommonName, &names[0]);
        params.extended_key_usages = vec![wish.purpose.clone()];
        params.not_before = date_time_ymd(wish.years.0, 1, 1);
        params.not_after = date_time_ymd(wish.years.1, 1, 1);
        params.serial_number = Some(SerialNumber::from(wish.serial));
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &self.issuer()).unwrap().pem();
        (leaf + &self.parents.concat(), key.serialize_pem())
    }

    /// Issues a CRL into the file `name`.
    pub(crate) fn crl(&self, name: &str, revoked: &[u64]) -> PathBuf {
        let path = self.dir().join(name);
        replace(&path, &self.crl_pem(1, revoked));
        path
    }

    /// Returns a CRL of this CA with this number, in PEM.
    pub(crate) fn crl_pem(&self, number: u64, revoked: &[u64]) -> String {
        self.crl_until(2060, number, revoked).pem().unwrap()
    }

    /// Returns a CRL of this CA that is due for an update in this year.
    pub(crate) fn crl_until(
        &self,
        year: i32,
        number: u64,
        revoked: &[u64],
    ) -> CertificateRevocationList {
        crl_params(year, number, revoked).signed_by(&self.issuer()).unwrap()
    }

    /// Returns a CRL of this CA for the certificates that name this distribution point, in PEM.
    pub(crate) fn crl_of_point(&self, point: &str, number: u64, revoked: &[u64]) -> String {
        let distribution_point = CrlDistributionPoint { uris: vec![point.to_owned()] };
        let scope = CrlIssuingDistributionPoint { distribution_point, scope: None };
        let params = CertificateRevocationListParams {
            issuing_distribution_point: Some(scope),
            ..crl_params(2060, number, revoked)
        };
        params.signed_by(&self.issuer()).unwrap().pem().unwrap()
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::new(ca_params(&self.name), &self.key)
    }
}

/// Issues a certificate with this serial number for a device, in files that are named by it.
pub(crate) fn device(ca: &Authority, serial: u64) -> Pair {
    let wish = Wish { serial, ..Wish::of_device(&["device"]) };
    ca.issue(&format!("device-{serial}"), &wish)
}

/// As [`device`], with a certificate that names this CRL distribution point.
pub(crate) fn device_of_point(ca: &Authority, point: &str, serial: u64) -> Pair {
    let mut params = CertificateParams::new(vec!["device".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(SerialNumber::from(serial));
    params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![point.to_owned()] }];
    ca.sign(&format!("device-{serial}"), &params)
}

fn crl_params(year: i32, number: u64, revoked: &[u64]) -> CertificateRevocationListParams {
    CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(year, 1, 1),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: entries(revoked),
        key_identifier_method: KeyIdMethod::Sha256,
    }
}

/// Returns the entries of a CRL that revokes these serial numbers.
pub(crate) fn entries(revoked: &[u64]) -> Vec<RevokedCertParams> {
    let entry = |&serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    revoked.iter().map(entry).collect()
}

/// Returns the serial number of an intermediate with this name.
pub(crate) fn serial_of(name: &str) -> u64 {
    name.bytes().fold(1, |serial, byte| serial * 31 % 1_000_003 + u64::from(byte))
}

impl Pair {
    /// Loads the chain and the key, for a client that sends them.
    pub(crate) fn load(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_file_iter(&self.files.cert).unwrap();
        let key = PrivateKeyDer::from_pem_file(&self.files.key).unwrap();
        (chain.collect::<Result<_, _>>().unwrap(), key)
    }
}

/// Replaces a file by a rename, as editors do. Only the owner can read it.
pub(crate) fn replace(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, text).unwrap();
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(temporary, path).unwrap();
}

/// Returns the RSA key of all tests: generating one takes long.
fn rsa_key() -> KeyPair {
    static KEY: OnceLock<String> = OnceLock::new();
    let pem = KEY.get_or_init(|| KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap().serialize_pem());
    KeyPair::from_pem(pem).unwrap()
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2060, 1, 1);
    params
}
