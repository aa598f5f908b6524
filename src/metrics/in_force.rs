//! Which certificates, CAs and CRLs a listener has in force, and until when.
//!
//! **Promises.** What a reload has replaced is not told any more. However many CAs a bundle holds, no
//! more than [`MAX_CAS`] of them are told: those that expire first.
//!
//! **Not here.** Where the facts come from (`trust/x509.rs`).

use prometheus::GaugeVec;
use prometheus::core::Collector;

use super::family::Maker;
use crate::lock::Lock;
use crate::terms::labels::MaterialKind;

/// CAs of a listener that are told.
const MAX_CAS: usize = 8;

/// One of the certificates that devices are shown.
#[derive(Clone)]
pub(crate) struct CertificateInForce {
    /// Its file.
    pub(crate) cert: String,
    /// In hexadecimal.
    pub(crate) serial: String,
    /// Of the whole certificate, in hexadecimal: its fingerprint.
    pub(crate) sha256: String,
    pub(crate) issuer: String,
    pub(crate) key: &'static str,
    /// In Unix time.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

/// One of the CAs of client certificates.
#[derive(Clone)]
pub(crate) struct CaInForce {
    /// Its subject.
    pub(crate) ca: String,
    /// In Unix time.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

/// One file of CRLs.
#[derive(Clone)]
pub(crate) struct CrlInForce {
    pub(crate) crl: String,
    /// The earliest of the file, in Unix time.
    pub(crate) next_update: i64,
}

/// What one file holds.
#[derive(Clone)]
pub(crate) struct MaterialInForce {
    pub(crate) file: String,
    pub(crate) kind: MaterialKind,
    pub(crate) count: usize,
}

#[derive(Clone)]
pub(super) struct InForceFamilies {
    not_before: GaugeVec,
    not_after: GaugeVec,
    info: GaugeVec,
    ca_not_before: GaugeVec,
    ca_not_after: GaugeVec,
    crl_next_update: GaugeVec,
    material: GaugeVec,
}

/// Of one listener.
pub(crate) struct InForce {
    listener: String,
    families: InForceFamilies,
    told: Lock<Told>,
}

/// What is told of a listener.
#[derive(Clone, Default)]
pub(crate) struct Told {
    pub(crate) certificates: Vec<CertificateInForce>,
    pub(crate) cas: Vec<CaInForce>,
    pub(crate) crls: Vec<CrlInForce>,
    pub(crate) material: Vec<MaterialInForce>,
}

const CERT: &[&str] = &["listener", "cert"];
const INFO: &[&str] = &["listener", "cert", "serial", "sha256", "issuer", "key"];
const CA: &[&str] = &["listener", "ca"];
const CRL: &[&str] = &["listener", "crl"];
const MATERIAL: &[&str] = &["listener", "file", "kind"];

impl InForceFamilies {
    pub(super) fn register(make: &Maker<'_>) -> Self {
        Self {
            not_before: make.instants(
                "tlsidecar_certificate_not_before_timestamp_seconds",
                "When the certificate in force began to be valid, in Unix time.",
                CERT,
            ),
            not_after: make.instants(
                "tlsidecar_certificate_not_after_timestamp_seconds",
                "When the certificate in force expires, in Unix time.",
                CERT,
            ),
            info: make.instants(
                "tlsidecar_certificate_info",
                "Always 1; the labels tell which certificate is in force.",
                INFO,
            ),
            ca_not_before: make.instants(
                "tlsidecar_client_ca_not_before_timestamp_seconds",
                "When a CA of client certificates began to be valid, in Unix time.",
                CA,
            ),
            ca_not_after: make.instants(
                "tlsidecar_client_ca_not_after_timestamp_seconds",
                "When a CA of client certificates expires, in Unix time.",
                CA,
            ),
            crl_next_update: make.instants(
                "tlsidecar_crl_next_update_timestamp_seconds",
                "When the next CRL is due, in Unix time.",
                CRL,
            ),
            material: make.instants(
                "tlsidecar_material_objects",
                "Certificates, keys or CRLs that were loaded from a file and are active.",
                MATERIAL,
            ),
        }
    }

    pub(super) fn of(&self, listener: &str) -> InForce {
        InForce { listener: listener.to_owned(), families: self.clone(), told: Lock::default() }
    }
}

impl InForce {
    /// What was last told.
    pub(crate) fn told(&self) -> Told {
        self.told.lock().clone()
    }

    /// Replaces what is told; of the CAs those stay that expire first.
    pub(crate) fn tell(&self, mut told: Told) {
        told.cas.sort_by_key(|ca| ca.not_after);
        told.cas.truncate(MAX_CAS);
        self.tell_certificates(&told.certificates);
        self.tell_cas(&told.cas);
        self.tell_crls(&told.crls);
        self.set_material(&told.material);
        *self.told.lock() = told;
    }

    fn tell_certificates(&self, certificates: &[CertificateInForce]) {
        let listener = self.listener.as_str();
        let Self { families: InForceFamilies { not_before, not_after, info, .. }, .. } = self;
        for c in certificates {
            let labels = &[listener, &c.cert];
            not_before.with_label_values(labels).set(exact(c.not_before));
            not_after.with_label_values(labels).set(exact(c.not_after));
            let labels = &[listener, &c.cert, &c.serial, &c.sha256, &c.issuer, c.key];
            info.with_label_values(labels).set(1.0);
        }
        let other = |values: &[&str]| values[0] != listener;
        let stays =
            |values: &[&str]| other(values) || certificates.iter().any(|c| c.cert == values[1]);
        retain(not_before, CERT, stays);
        retain(not_after, CERT, stays);
        retain(info, INFO, |values| {
            other(values)
                || certificates.iter().any(|c| c.cert == values[1] && c.sha256 == values[3])
        });
    }

    fn tell_cas(&self, cas: &[CaInForce]) {
        let listener = self.listener.as_str();
        let Self { families: InForceFamilies { ca_not_before, ca_not_after, .. }, .. } = self;
        // Of two that go by one name the first to expire is told: it comes last here.
        for CaInForce { ca, not_before, not_after } in cas.iter().rev() {
            ca_not_before.with_label_values(&[listener, ca]).set(exact(*not_before));
            ca_not_after.with_label_values(&[listener, ca]).set(exact(*not_after));
        }
        let stays =
            |values: &[&str]| values[0] != listener || cas.iter().any(|ca| ca.ca == values[1]);
        retain(ca_not_before, CA, stays);
        retain(ca_not_after, CA, stays);
    }

    fn set_material(&self, files: &[MaterialInForce]) {
        let listener = self.listener.as_str();
        let material = &self.families.material;
        for MaterialInForce { file, kind, count } in files {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            material.with_label_values(&[listener, file, kind.as_str()]).set(exact(count));
        }
        retain(material, MATERIAL, |values| {
            let is = |m: &MaterialInForce| m.file == values[1] && m.kind.as_str() == values[2];
            values[0] != listener || files.iter().any(is)
        });
    }

    fn tell_crls(&self, crls: &[CrlInForce]) {
        let listener = self.listener.as_str();
        let next_update = &self.families.crl_next_update;
        for CrlInForce { crl, next_update: at } in crls {
            next_update.with_label_values(&[listener, crl]).set(exact(*at));
        }
        retain(next_update, CRL, |values| {
            values[0] != listener || crls.iter().any(|c| c.crl == values[1])
        });
    }
}

/// Removes the children of `family` whose labels' values, in the order of their `names`, are not to stay.
fn retain(family: &GaugeVec, names: &[&str], keep: impl Fn(&[&str]) -> bool) {
    for collected in family.collect() {
        for metric in collected.get_metric() {
            let value = |name: &&str| {
                metric.get_label().iter().find(|l| l.name() == *name).map_or("", |l| l.value())
            };
            let values: Vec<_> = names.iter().map(value).collect();
            if !keep(&values) {
                // It fails only if another thread was faster.
                let _gone = family.remove_label_values(&values);
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact until the year 285 million")]
const fn exact(timestamp: i64) -> f64 {
    timestamp as f64
}
