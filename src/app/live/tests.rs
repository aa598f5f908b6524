//! Random fleets and candidates: the judgement against the re-check of the same sessions, and against the verification of
//! a handshake.
//!
//! **Not here.** The same over sockets: tests/live.rs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};

use super::*;
use crate::config::file::parse_allow_file;
use crate::config::{
    Allow, ClientAuth, ClientTrust, CrlCheck, CrlRules, ExpiredCrl, ListenerConfig, Route,
    UnknownStatus,
};
use crate::metrics::{ListenerMetrics, Metrics};
use crate::sessions::facts::FactsPage;
use crate::sessions::recheck::refused_now;
use crate::sessions::{CompletedHandshake, Session, Sessions};
use crate::terms::labels::{Cipher, ClientCertificate, Group, HandshakeKind, KeyKind};
use crate::terms::name_pattern::NamePattern;
use crate::terms::negotiated::Negotiated;
use crate::terms::offer_class::{OfferClass, OfferList};
use crate::trust::testing;

/// Candidates, which take longest, and random fleets for each of them.
const CANDIDATES: u64 = 250;
const FLEETS: usize = 4;
const CAS: [&str; 3] = ["plant a", "plant b", "plant c"];
const DEVICES_OF_CA: u64 = 8;
/// The revoked serial numbers of each CRL of a CA, and the year in which it is overdue.
const CRLS: [(&[u64], i32); 4] = [(&[], 2060), (&[1, 4], 2060), (&[2], 2024), (&[3, 5, 8], 2060)];
const SERVER_NAMES: [Option<&str>; 3] = [None, Some("a.example"), Some("b.example")];

/// A sequence of numbers that looks random.
struct Numbers(u64);

impl Numbers {
    /// Returns a number below `end`.
    fn below(&mut self, end: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ mixed >> 31) % u64::try_from(end).unwrap()).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A device with the certificates that it sends.
struct FleetDevice {
    chain: Vec<CertificateDer<'static>>,
    name: String,
}

/// CAs with their CRLs in files, and devices.
struct Plant {
    dir: tempfile::TempDir,
    /// The certificates in PEM that a bundle can have: of the CAs, and of pinned devices.
    trusted: Vec<String>,
    devices: Vec<FleetDevice>,
    listener: ListenerConfig,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn device_params(name: &str, serial: u64) -> CertificateParams {
    let mut params =
        CertificateParams::new(vec![format!("{}.example", name.replace(' ', "-"))]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationalUnitName, format!("line {}", serial % 3));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(if serial == 6 { 2021 } else { 2060 }, 1, 1);
    params
}

fn crl(issuer: &Issuer<'_, &KeyPair>, revoked: &[u64], year: i32) -> String {
    let entry = |&serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: date_time_ymd(2023, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2023, 1, 1),
        next_update: date_time_ymd(year, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().pem().unwrap()
}

impl Plant {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = testing::listener(dir.path());
        let mut plant = Self { dir, trusted: Vec::new(), devices: Vec::new(), listener };
        for (place, name) in CAS.iter().enumerate() {
            plant.add_ca(place, name);
        }
        for pinned in ["pinned 1", "pinned 2"] {
            let key = KeyPair::generate().unwrap();
            let certificate = device_params(pinned, 70).self_signed(&key).unwrap();
            plant.trusted.push(certificate.pem());
            plant.add_device(pinned, vec![certificate.der().clone()]);
        }
        plant
    }

    /// Adds a CA with an intermediate, the CRLs of both, and the devices of both.
    fn add_ca(&mut self, place: usize, name: &str) {
        let [root_key, below_key] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let root = ca_params(name).self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(ca_params(name), &root_key);
        let below_name = format!("{name}, devices");
        let mut below_params = ca_params(&below_name);
        below_params.serial_number = Some(SerialNumber::from(5_u64));
        let below = below_params.signed_by(&below_key, &root_issuer).unwrap();
        let below_issuer = Issuer::new(ca_params(&below_name), &below_key);
        for (number, (revoked, year)) in CRLS.iter().enumerate() {
            let both = [&root_issuer, &below_issuer].map(|issuer| crl(issuer, revoked, *year));
            std::fs::write(self.crl(place, number), both.concat()).unwrap();
        }
        for serial in 1..=DEVICES_OF_CA {
            let device = format!("{name} {serial}");
            let key = KeyPair::generate().unwrap();
            let params = device_params(&device, serial);
            let chain = if serial % 2 == 0 {
                let leaf = params.signed_by(&key, &below_issuer).unwrap();
                vec![leaf.der().clone(), below.der().clone()]
            } else {
                vec![params.signed_by(&key, &root_issuer).unwrap().der().clone()]
            };
            self.add_device(&device, chain);
        }
        self.trusted.push(root.pem());
    }

    fn add_device(&mut self, name: &str, chain: Vec<CertificateDer<'static>>) {
        self.devices.push(FleetDevice { chain, name: name.to_owned() });
    }

    fn crl(&self, ca: usize, number: usize) -> PathBuf {
        self.dir.path().join(format!("{ca}.{number}.crl"))
    }

    /// Writes a bundle of these certificates.
    fn bundle(&self, trusted: &[bool]) -> PathBuf {
        let name: String = trusted.iter().map(|is| if *is { '1' } else { '0' }).collect();
        let path = self.dir.path().join(format!("{name}.crt"));
        let wanted = self.trusted.iter().zip(trusted).filter(|(_, is)| **is);
        std::fs::write(&path, wanted.map(|(pem, _)| pem.as_str()).collect::<String>()).unwrap();
        path
    }

    /// Returns a listener that accepts every device, and devices without a certificate.
    fn open(&self) -> ListenerConfig {
        let trust = ClientTrust {
            accept_expired: true,
            ..ClientTrust::new(self.bundle(&vec![true; self.trusted.len()]))
        };
        let mut listener = self.listener.clone();
        listener.tls.client_auth = ClientAuth::Optional(trust);
        listener
    }

    fn random_auth(&self, numbers: &mut Numbers) -> ClientAuth {
        let mut trusted: Vec<_> = self.trusted.iter().map(|_| !numbers.one_in(4)).collect();
        trusted[numbers.below(CAS.len())] = true;
        let mut trust = ClientTrust::new(self.bundle(&trusted));
        if numbers.one_in(2) {
            let with = (0..CAS.len()).filter(|ca| trusted[*ca] && !numbers.one_in(4));
            let crls: Vec<_> = with.collect();
            let mut number = || numbers.below(CRLS.len());
            trust.crls = crls.into_iter().map(|ca| self.crl(ca, number())).collect();
        }
        let choice = numbers.below(8);
        trust.crl_rules = CrlRules {
            check: if choice & 1 == 0 { CrlCheck::Chain } else { CrlCheck::Leaf },
            unknown: if choice & 2 == 0 { UnknownStatus::Deny } else { UnknownStatus::Allow },
            expired: if choice & 4 == 0 { ExpiredCrl::Warn } else { ExpiredCrl::Deny },
        };
        trust.accept_expired = numbers.one_in(3);
        let rules = [
            "cn = [\"plant *\"]",
            "cn = [\"plant a *\", \"plant b 2\"]",
            "dns = [\"plant-c-1.example\"]\nou = [\"line 1\"]",
            "cn = [\"pinned *\"]\nou = [\"line 0\", \"line 2\"]",
        ];
        let rules = rules[numbers.below(rules.len())];
        let rules = parse_allow_file(rules, Path::new("")).unwrap();
        if numbers.one_in(2) {
            trust.allow = Allow { rules, file: None };
        }
        match numbers.below(7) {
            0 => ClientAuth::None,
            1 | 2 => ClientAuth::Optional(trust),
            _ => ClientAuth::Required(trust),
        }
    }

    fn random_candidate(&self, numbers: &mut Numbers) -> ListenerConfig {
        let mut listener = self.listener.clone();
        listener.tls.client_auth = self.random_auth(numbers);
        listener.tls.recheck = !numbers.one_in(5);
        if numbers.one_in(2) {
            let mut tls = listener.tls.clone();
            tls.client_auth = self.random_auth(numbers);
            tls.recheck = !numbers.one_in(5);
            let backend = listener.backend.clone().unwrap();
            let sni = vec!["a.example".parse::<NamePattern>().unwrap()];
            listener.routes.push(Route { sni, alpn: Vec::new(), backend, tls: Some(tls) });
            if numbers.one_in(3) {
                listener.backend = None;
            }
        }
        listener
    }
}

/// A fleet of connected devices. The place of a session's device is in `devices`, at the place of its id.
struct ConnectedFleet {
    sessions: Sessions,
    metrics: Arc<ListenerMetrics>,
    devices: Vec<Option<usize>>,
}

impl ConnectedFleet {
    fn random(plant: &Plant, open: &Snapshot, numbers: &mut Numbers) -> Self {
        let metrics = Metrics::new().listener("test");
        let (sessions, mut devices) = (Sessions::default(), Vec::new());
        for id in 0..numbers.below(40) {
            let device = (!numbers.one_in(6)).then(|| numbers.below(plant.devices.len()));
            let name = SERVER_NAMES[numbers.below(SERVER_NAMES.len())];
            let chain = device.map(|device| &plant.devices[device].chain);
            let session = connected(&metrics, u64::try_from(id + 1).unwrap(), open, name, chain);
            sessions.add(Arc::new(session));
            devices.push(device);
        }
        Self { sessions, metrics, devices }
    }
}

/// Returns a session whose client was verified in a handshake with `open`.
fn connected(
    metrics: &Arc<ListenerMetrics>,
    id: u64,
    open: &Snapshot,
    server_name: Option<&str>,
    chain: Option<&Vec<CertificateDer<'static>>>,
) -> Session {
    let session = Session::new(Arc::clone(metrics), id, ([192, 0, 2, 1], 1).into());
    if let Some(name) = server_name {
        session.server_name.set(name.into()).unwrap();
    }
    if let Some(chain) = chain {
        let verifier = open.policy().client_verifier.as_ref().unwrap();
        let client = verifier.verify(&chain[0], &chain[1..], UnixTime::now()).unwrap();
        session.identity.set(client.identity.into()).unwrap();
    }
    let negotiated = Negotiated {
        offer: class(),
        cipher: Cipher::Tls13Aes128,
        kind: HandshakeKind::Full,
        group: Group::X25519,
        key: KeyKind::Ecdsa,
        client: ClientCertificate::None,
        resumption: None,
        alpn: None,
    };
    let handshake = CompletedHandshake { negotiated, took: Duration::ZERO };
    assert!(session.handshake.set(handshake).is_ok());
    session
}

/// Returns the class of an ordinary client.
fn class() -> OfferClass {
    let mut class = OfferClass::default();
    class.add(OfferList::Versions, [0x0304, 0x0303]);
    class.add(OfferList::Suites, [0x1301, 0xc02b, 0xc02f]);
    class.add(OfferList::Groups, [0x001d, 0x0017]);
    class.add(OfferList::Schemes, [0x0403, 0x0804]);
    class
}

/// Returns the sessions as another process gets them: page by page, as text.
fn transferred(sessions: &Sessions) -> Vec<RemoteSession> {
    let (mut all, mut after) = (Vec::new(), Some(0));
    while let Some(last) = after {
        let text = serde_json::to_string(&FactsPage::of(sessions, last, 7)).unwrap();
        let page: FactsPage = serde_json::from_str(&text).unwrap();
        after = page.next;
        all.extend(page.into_sessions().unwrap());
    }
    all
}

/// Returns whether a handshake with a snapshot accepts a device with this server name.
fn accepts(snapshot: &Snapshot, name: Option<&str>, device: Option<&FleetDevice>) -> bool {
    let route = snapshot.route(name, None);
    let verifier = snapshot.policy_of(route).client_verifier.as_ref();
    let is_verified = match (verifier, device) {
        (None, _) => true,
        (Some(verifier), None) => !verifier.is_mandatory(),
        (Some(verifier), Some(FleetDevice { chain, .. })) => {
            verifier.verify(&chain[0], &chain[1..], UnixTime::now()).is_ok()
        }
    };
    is_verified && (route.is_some() || snapshot.listener.backend.is_some())
}

#[tokio::test]
async fn a_judgement_names_exactly_the_sessions_that_a_reload_ends_and_a_handshake_refuses() {
    let plant = Plant::new();
    let now = SystemTime::now();
    let (open, _) = Snapshot::load(&plant.open(), now).unwrap();
    let (mut ended, mut refused, mut kept) = (0, 0, 0);
    for seed in 0..CANDIDATES {
        let numbers = &mut Numbers(seed);
        let wanted = plant.random_candidate(numbers);
        let candidate = [Snapshot::load(&wanted, now).unwrap().0];
        let reloaded = open.reload(&wanted, now);
        assert!(reloaded.errors.is_empty(), "seed {seed}: {:?}", reloaded.errors);
        // A candidate can be the current configuration.
        let applied = reloaded.loaded.as_ref().map_or(&open, |(applied, _)| applied);
        for _ in 0..FLEETS {
            let fleet = ConnectedFleet::random(&plant, &open, numbers);
            let counts = judged(&plant, &fleet, &candidate, applied).await;
            let counts = counts.map_err(|what| format!("seed {seed}: {what}: {wanted:?}"));
            let [more_ended, more_refused, more_kept] = counts.unwrap();
            ended += more_ended;
            refused += more_refused;
            kept += more_kept;
        }
    }
    assert!(ended > 1000 && refused > 1000 && kept > 1000, "{ended}, {refused}, {kept}");
}

/// Compares the judgement of a fleet with the re-check and with handshakes, after the candidate was `applied`. Returns the
/// numbers of sessions that are ended, refused and kept.
async fn judged(
    plant: &Plant,
    fleet: &ConnectedFleet,
    candidate: &[Snapshot],
    applied: &Snapshot,
) -> Result<[usize; 3], String> {
    let remote = transferred(&fleet.sessions);
    let judgement = judge(candidate, &remote, SystemTime::now()).await;
    let with = |effect| {
        let affected = judgement.affected.iter().filter(move |one| one.effect == effect);
        affected.map(|one| (remote[one.place].facts.id, one.reason)).collect::<BTreeSet<_>>()
    };
    let [ended, refused] = [Effect::Ended, Effect::Refused].map(with);
    let really = refused_now(&fleet.sessions, &fleet.metrics, applied);
    if ended != really {
        return Err(format!("{ended:?} were predicted, {really:?} are ended"));
    }
    let affected: BTreeSet<_> = ended.iter().chain(&refused).map(|(id, _)| *id).collect();
    if affected.len() != judgement.affected.len() {
        return Err("a session is named twice".to_owned());
    }
    for session in &remote {
        let device = fleet.devices[usize::try_from(session.facts.id).unwrap() - 1];
        let device = device.map(|device| &plant.devices[device]);
        let is_accepted = accepts(applied, session.facts.sni.as_deref(), device);
        if affected.contains(&session.facts.id) == is_accepted {
            let name = device.map(|device| &device.name);
            return Err(format!("{name:?} is accepted by a handshake: {is_accepted}"));
        }
    }
    Ok([ended.len(), refused.len(), remote.len() - affected.len()])
}

#[tokio::test]
async fn sessions_of_a_listener_that_the_candidate_has_not_are_counted_and_not_judged() {
    let plant = Plant::new();
    let (open, _) = Snapshot::load(&plant.open(), SystemTime::now()).unwrap();
    let sessions = Sessions::default();
    let metrics = Metrics::new().listener("elsewhere");
    sessions.add(Arc::new(connected(&metrics, 1, &open, None, None)));
    let judgement = judge(&[open], &transferred(&sessions), SystemTime::now()).await;
    assert!(judgement.affected.is_empty());
    assert_eq!(judgement.unjudged, BTreeMap::from([("elsewhere".to_owned(), 1)]));
}
