//! CAs, certificates and CRLs of every kind, for the inputs of the matrix.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams,
    CrlIssuingDistributionPoint, CrlScope, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::support::certs::entries;

pub(super) type Der = CertificateDer<'static>;

/// The distribution point of CRLs that have a scope.
pub(super) const POINT: &str = "http://crl.example/devices.crl";

/// A CA, or a forger with the name of one.
pub(super) struct Ca {
    pub(super) params: CertificateParams,
    pub(super) key: KeyPair,
}

/// Returns the parameters of a device's certificate with this serial number, for TLS clients.
pub(super) fn device(serial: u64) -> CertificateParams {
    let mut params = named("device");
    params.serial_number = Some(SerialNumber::from(serial));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

/// Returns parameters with a common name, valid from 2020 to 2060.
pub(super) fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    years(params, 2020, 2060)
}

/// Returns the parameters of a CA.
pub(super) fn ca(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

/// Returns the parameters with another validity.
pub(super) fn years(mut params: CertificateParams, from: i32, to: i32) -> CertificateParams {
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
    params
}

impl Ca {
    pub(super) fn new(params: CertificateParams) -> Self {
        Self { params, key: KeyPair::generate().unwrap() }
    }

    pub(super) fn named(name: &str) -> Self {
        Self::new(ca(name))
    }

    /// Returns its self-signed certificate.
    pub(super) fn root(&self) -> Der {
        self.params.clone().self_signed(&self.key).unwrap().der().clone()
    }

    /// Issues a certificate.
    pub(super) fn issue(&self, params: &CertificateParams, key: &KeyPair) -> Der {
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(key, &issuer).unwrap().der().clone()
    }

    /// Issues the certificate of a CA below this one.
    pub(super) fn below(&self, ca: &Self) -> Der {
        self.issue(&ca.params, &ca.key)
    }

    /// Returns a usual CRL that revokes these serial numbers.
    pub(super) fn crl(&self, number: u64, revoked: &[u64]) -> Vec<u8> {
        self.crl_of((2024, 2060), number, revoked, None)
    }

    /// Returns a CRL with these years of its thisUpdate and nextUpdate, and this scope, in DER.
    pub(super) fn crl_of(
        &self,
        (this, next): (i32, i32),
        number: u64,
        revoked: &[u64],
        scope: Option<CrlScope>,
    ) -> Vec<u8> {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(this, 1, 1),
            next_update: date_time_ymd(next, 1, 1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: scope.map(|scope| CrlIssuingDistributionPoint {
                distribution_point: rcgen::CrlDistributionPoint { uris: vec![POINT.to_owned()] },
                scope: Some(scope),
            }),
            revoked_certs: entries(revoked),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(&issuer).unwrap().der().to_vec()
    }
}

/// Returns a section of PEM.
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let base64 = data_encoding::BASE64.encode(der);
    let lines: Vec<_> =
        base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
