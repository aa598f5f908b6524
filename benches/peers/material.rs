//! Certificates and keys of one run: a CA, servers with an ECDSA and an RSA key, a device.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RevokedCertParams, RsaKeySize, SerialNumber,
    date_time_ymd,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::device::Identity;

/// Key type of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// P-256.
    Ecdsa,
    /// 2048 bits.
    Rsa,
    /// RSA with 4096 bits.
    Rsa4096,
}

/// Certificates of one run, with their files.
pub struct Material {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// The CA that devices trust.
    pub ca: CertificateDer<'static>,
    /// Certificate and key of a device.
    pub device: (CertificateDer<'static>, PrivatePkcs8KeyDer<'static>),
    stranger: (CertificateDer<'static>, PrivatePkcs8KeyDer<'static>),
}

impl Material {
    /// Creates the files in `dir`.
    pub fn make(dir: &Path) -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "bench CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let ca = params.self_signed(&key)?;
        write(&dir.join("ca.crt"), &ca.pem());
        let issuer = Issuer::new(params, key);
        let stranger = stranger()?;
        let device_key = KeyPair::generate()?;
        let device = params_of("device-1", ExtendedKeyUsagePurpose::ClientAuth)?;
        let device = device.signed_by(&device_key, &issuer)?;
        let made = Self {
            dir: dir.to_owned(),
            issuer,
            ca: ca.der().clone(),
            device: (device.der().clone(), PrivatePkcs8KeyDer::from(device_key.serialize_der())),
            stranger,
        };
        made.renew(Key::Ecdsa)?;
        made.renew(Key::Rsa)?;
        made.renew(Key::Rsa4096)?;
        write(&made.crl_file(), &made.crl([]));
        Ok(made)
    }

    /// Issues a new server certificate and replaces the old files by rename, the key first, as certbot does.
    pub fn renew(&self, kind: Key) -> Result<(), rcgen::Error> {
        let key = key_pair(kind)?;
        let server = params_of("localhost", ExtendedKeyUsagePurpose::ServerAuth)?;
        let (chain, key) = (server.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem());
        write(&self.key(kind), &key);
        write(&self.cert(kind), &chain);
        write(&self.pem(kind), &format!("{chain}{key}"));
        Ok(())
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    pub fn cert(&self, kind: Key) -> PathBuf {
        self.file(kind, "crt")
    }

    pub fn key(&self, kind: Key) -> PathBuf {
        self.file(kind, "key")
    }

    /// Returns the file with certificate and key, for HAProxy, hitch and stunnel.
    pub fn pem(&self, kind: Key) -> PathBuf {
        self.file(kind, "pem")
    }

    fn file(&self, kind: Key, extension: &str) -> PathBuf {
        let name = match kind {
            Key::Ecdsa => "ecdsa",
            Key::Rsa => "rsa",
            Key::Rsa4096 => "rsa4096",
        };
        self.dir.join(name).with_extension(extension)
    }

    pub fn crl_file(&self) -> PathBuf {
        self.dir.join("devices.crl")
    }

    /// Returns a CRL with these serial numbers, in PEM.
    pub fn crl(&self, revoked: impl IntoIterator<Item = u64>) -> String {
        let revoked = revoked.into_iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2096, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = params.signed_by(&self.issuer).expect("signing works");
        signed.pem().expect("encoding works")
    }

    /// Returns the chain and key of a device with this serial number.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn device_of(&self, serial: u64) -> Result<Identity, rcgen::Error> {
        let key = KeyPair::try_from(self.device.1.secret_pkcs8_der())?;
        let mut params = params_of("device", ExtendedKeyUsagePurpose::ClientAuth)?;
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((vec![certificate.der().clone()], self.device_key()))
    }

    /// Writes certificate and key of a device with this kind of key, and returns their files.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn device_files(&self, kind: Key) -> Result<(PathBuf, PathBuf), rcgen::Error> {
        let key = key_pair(kind)?;
        let device = params_of("device-1", ExtendedKeyUsagePurpose::ClientAuth)?;
        let files =
            ["crt", "key"].map(|extension| self.dir.join("device").with_extension(extension));
        let [cert_file, key_file] = files;
        write(&cert_file, &device.signed_by(&key, &self.issuer)?.pem());
        write(&key_file, &key.serialize_pem());
        Ok((cert_file, key_file))
    }

    /// Returns a certificate and key of an unknown CA.
    pub fn stranger(&self) -> &(CertificateDer<'static>, PrivatePkcs8KeyDer<'static>) {
        &self.stranger
    }

    /// Returns the device's key, for a TLS client.
    pub fn device_key(&self) -> PrivateKeyDer<'static> {
        self.device.1.clone_key().into()
    }
}

fn key_pair(kind: Key) -> Result<KeyPair, rcgen::Error> {
    match kind {
        Key::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        Key::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        Key::Rsa4096 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096),
    }
}

/// Returns a device's certificate of a CA named `X`.
fn stranger() -> Result<(CertificateDer<'static>, PrivatePkcs8KeyDer<'static>), rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "X");
    let issuer = Issuer::new(params, KeyPair::generate()?);
    let key = KeyPair::generate()?;
    let device = params_of("device-2", ExtendedKeyUsagePurpose::ClientAuth)?;
    let device = device.signed_by(&key, &issuer)?;
    Ok((device.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der())))
}

fn params_of(
    name: &str,
    purpose: ExtendedKeyUsagePurpose,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![purpose];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn write(path: &Path, text: &str) {
    let temporary = path.with_extension("new");
    fs::write(&temporary, text).expect("the directory of the run is writable");
    fs::rename(&temporary, path).expect("both are in the same directory");
}
