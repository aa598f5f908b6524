//! The active certificates, CAs, CRLs and files of a listener, and their dates.
//!
//! **Promises.** A reload ends the series of everything that it replaced. However many CAs a bundle holds, at most
//! [`MAX_CAS`] of them are exported: those that expire first.
//!
//! **Not here.** The source of the values (`trust/x509.rs`), the names of the metrics (`listener.rs`).

use prometheus::Gauge;
use serde::Serialize;

use super::declare::{LabelValues, Named, declare_metrics};
use crate::lock::Lock;
use crate::terms::labels::MaterialKind;

/// The largest number of exported CAs of a listener.
const MAX_CAS: usize = 8;

/// A server certificate. Its fields are the keys of `certificates` in `GET /status`.
#[derive(Clone, Serialize)]
pub(crate) struct ActiveCertificate {
    /// The certificate's file.
    pub(crate) cert: String,
    /// The file of its key.
    pub(crate) key_file: String,
    /// In hexadecimal.
    pub(crate) serial: String,
    /// The fingerprint, over the whole certificate, in hexadecimal.
    pub(crate) sha256: String,
    pub(crate) issuer: String,
    pub(crate) key: &'static str,
    /// In Unix time.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    /// The number of certificates that are sent: this one and its issuers.
    pub(crate) chain_length: usize,
}

/// A CA of client certificates. Its fields are the keys of `client_cas` in `GET /status`.
#[derive(Clone, Serialize)]
pub(crate) struct ActiveCa {
    /// The CA's subject.
    pub(crate) ca: String,
    /// In Unix time.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

/// A file of CRLs. Its fields are the keys of `crls` in `GET /status`.
#[derive(Clone, Serialize)]
pub(crate) struct ActiveCrl {
    pub(crate) crl: String,
    /// The earliest date in the file, in Unix time.
    pub(crate) next_update: i64,
}

/// A file, and the number of objects in it.
#[derive(Clone)]
pub(crate) struct ActiveFile {
    pub(crate) file: String,
    pub(crate) kind: MaterialKind,
    pub(crate) count: usize,
}

/// Everything that is reported of a listener's TLS material.
#[derive(Clone, Default)]
pub(crate) struct Reported {
    pub(crate) certificates: Vec<ActiveCertificate>,
    pub(crate) cas: Vec<ActiveCa>,
    pub(crate) crls: Vec<ActiveCrl>,
    pub(crate) files: Vec<ActiveFile>,
}

declare_metrics! {
    struct ActiveHandles of ActiveFamilies {
        not_before: Named<Gauge>
            = "tlsidecar_certificate_not_before_timestamp_seconds" ["listener", "cert"]
            "When the active certificate began to be valid, in Unix time.";
        not_after: Named<Gauge>
            = "tlsidecar_certificate_not_after_timestamp_seconds" ["listener", "cert"]
            "When the active certificate expires, in Unix time.";
        info: Named<Gauge>
            = "tlsidecar_certificate_info" ["listener", "cert", "serial", "sha256", "issuer", "key"]
            "Always 1; the labels identify the active certificate.";
        ca_not_before: Named<Gauge>
            = "tlsidecar_client_ca_not_before_timestamp_seconds" ["listener", "ca"]
            "When a CA of client certificates began to be valid, in Unix time.";
        ca_not_after: Named<Gauge>
            = "tlsidecar_client_ca_not_after_timestamp_seconds" ["listener", "ca"]
            "When a CA of client certificates expires, in Unix time.";
        crl_next_update: Named<Gauge>
            = "tlsidecar_crl_next_update_timestamp_seconds" ["listener", "crl"]
            "When the next CRL is due, in Unix time.";
        objects: Named<Gauge>
            = "tlsidecar_material_objects" ["listener", "file", "kind"]
            "Certificates, keys or CRLs that were loaded from a file and are active.";
    }
}

/// The metrics of one listener's TLS material.
pub(crate) struct Active {
    handles: ActiveHandles,
    reported: Lock<Reported>,
}

impl ActiveFamilies {
    /// Returns the metrics of a listener, which has no material yet.
    pub(super) fn listener(&self, name: &str) -> Active {
        Active { handles: self.children(&[name]), reported: Lock::default() }
    }
}

impl Active {
    /// Returns the material that was last published.
    pub(crate) fn reported(&self) -> Reported {
        self.reported.lock().clone()
    }

    /// Replaces the exported material. Of the CAs, those that expire first are kept.
    pub(crate) fn publish(&self, mut new: Reported) {
        new.cas.sort_by_key(|ca| ca.not_after);
        new.cas.truncate(MAX_CAS);
        let Reported { certificates, cas, crls, files } = &new;
        let ActiveHandles {
            not_before,
            not_after,
            info,
            ca_not_before,
            ca_not_after,
            crl_next_update,
            objects,
        } = &self.handles;
        let each = |c: &ActiveCertificate, at| (names([&c.cert]), exact(at));
        not_before.publish(certificates.iter().map(|c| each(c, c.not_before)));
        not_after.publish(certificates.iter().map(|c| each(c, c.not_after)));
        let identity =
            |c: &ActiveCertificate| names([&c.cert, &c.serial, &c.sha256, &c.issuer, c.key]);
        info.publish(certificates.iter().map(|c| (identity(c), 1.0)));
        // Of two CAs with one name, the first to expire is exported: it comes last here.
        let each = |ca: &ActiveCa, at| (names([&ca.ca]), exact(at));
        ca_not_before.publish(cas.iter().rev().map(|ca| each(ca, ca.not_before)));
        ca_not_after.publish(cas.iter().rev().map(|ca| each(ca, ca.not_after)));
        crl_next_update.publish(crls.iter().map(|c| (names([&c.crl]), exact(c.next_update))));
        let count = |file: &ActiveFile| exact(i64::try_from(file.count).unwrap_or(i64::MAX));
        objects.publish(files.iter().map(|f| (names([&f.file, f.kind.as_str()]), count(f))));
        *self.reported.lock() = new;
    }
}

fn names<const N: usize>(names: [&str; N]) -> LabelValues {
    names.map(str::to_owned).into()
}

#[expect(clippy::cast_precision_loss, reason = "exact until the year 285 million")]
const fn exact(timestamp: i64) -> f64 {
    timestamp as f64
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, Registry, TextEncoder};

    use super::*;

    #[test]
    fn a_replaced_certificate_leaves_no_series_and_another_listener_keeps_its_own() {
        let registry = Registry::new();
        let families = ActiveFamilies::register(&registry);
        let (a, b) = (families.listener("a"), families.listener("b"));
        let certificate = |sha256: &str| ActiveCertificate {
            cert: "tls.crt".to_owned(),
            key_file: "tls.key".to_owned(),
            serial: "01".to_owned(),
            sha256: sha256.to_owned(),
            issuer: "CN=ca".to_owned(),
            key: "ecdsa",
            not_before: 1,
            not_after: 2,
            chain_length: 1,
        };
        let reported = |sha256: &str| Reported {
            certificates: vec![certificate(sha256)],
            ..Reported::default()
        };
        a.publish(reported("old"));
        b.publish(reported("old"));
        a.publish(reported("new"));
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let series = |listener: &str, sha256: &str| {
            let labels = [format!("listener=\"{listener}\""), format!("sha256=\"{sha256}\"")];
            text.lines().filter(|line| labels.iter().all(|label| line.contains(label))).count()
        };
        assert_eq!([series("a", "old"), series("a", "new"), series("b", "old")], [0, 1, 1]);
        assert_eq!(text.matches("not_after_timestamp_seconds{").count(), 2, "{text}");
    }
}
