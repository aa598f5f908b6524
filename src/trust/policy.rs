//! A TLS policy: the certificates that we send, and the client certificates that we accept.
//!
//! **Promises.** A policy is built whole from its files, or not at all. Building reads no disk. A file
//! with a problem keeps its earlier content and delays no other file; at start there is nothing to keep,
//! and every such file is an error. Digests, the list of files and the policy of resumption are all made from
//! the loaded files.
//!
//! **Not here.** Reading the files (`material.rs`), checking each of them (`certs/`), the time to load
//! (`reload.rs`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_rustls::rustls;

use super::certs::chain::{self, ActiveChains, Chain, ServerCertificate};
use super::certs::clients::{self, ActiveTrust, LoadedTrust, TrustMaterial, TrustSummary};
use super::certs::crl_files::CrlFiles;
use super::certs::loaded::{LoadedFile, LoadedFiles};
use super::certs::suites;
use super::certs::summary::FileSummary;
use super::certs::verifier::ClientVerifier;
use super::changes::{self, TrustChange};
use super::digest::Digest;
use super::findings::{Cause, Findings, Warning};
use super::material::Material;
use super::resolver::Resolver;
use super::rollout::{self, ActiveCertificates, PlannedRollout, Rollout};
use super::server_configs::ServerConfigs;
use super::tickets::keys::MasterKey;
use super::tickets::{Resumption, ResumptionPolicy, key_file};
use crate::config::{self, AcceptedVersions, ClientAuth, CrlCheck, ExpiredCrl, UnknownStatus};
use crate::terms::labels::{MaterialKind, ReloadObject};

/// The TLS of a listener or of a route, immutable.
pub(crate) struct Policy {
    pub(crate) versions: AcceptedVersions,
    pub(crate) server_configs: ServerConfigs,
    /// The longest plaintext of a record that is sent.
    pub(crate) max_record_bytes: u16,
    /// The records of a burst start small.
    pub(crate) small_first_records: bool,
    /// Chooses the certificate for a device; part of `server_configs`.
    pub(crate) resolver: Arc<Resolver>,
    /// Verifies client certificates; none where they are not requested.
    pub(crate) client_verifier: Option<Arc<ClientVerifier>>,
    pub(crate) certificates: Vec<ServerCertificate>,
    /// The rollout of these certificates; none if all clients get them.
    pub(crate) rollout: Option<Rollout>,
    /// The CAs and CRLs that client certificates are verified with.
    pub(crate) trust: TrustSummary,
    pub(crate) resumption: Resumption,
    /// Live sessions whose clients would be refused now are stopped.
    pub(crate) recheck: bool,
    /// The time over which they are stopped.
    pub(crate) recheck_spread: Duration,
    /// Identifies the clients that are accepted.
    pub(crate) client_trust: Digest,
    /// The content of each file when it was last valid.
    loaded: LoadedFiles,
}

/// The parts that a policy is built from.
#[derive(Clone, Copy)]
pub(crate) struct PolicyPlan<'a> {
    pub(crate) tls: &'a config::TlsConfig,
    /// Identifies its route; none for the listener's own policy.
    pub(crate) route: Option<Digest>,
    /// Its files, as read.
    pub(crate) material: &'a [Material],
    /// The CRLs of the listener's files. Policies share them.
    pub(crate) crls: &'a CrlFiles,
    /// The policy that it replaces.
    pub(crate) active: Option<&'a Policy>,
    /// All current policies of the listener. They have the earlier content of a file by its path, also for a route
    /// whose conditions change at the same time.
    pub(crate) earlier: &'a [Policy],
}

impl<'a> PolicyPlan<'a> {
    /// Returns the policy that it replaces or, for a route with new conditions, one with the same file of CAs.
    fn trusted_before(&self) -> Option<&'a Policy> {
        let wanted = self.tls.client_auth.trust().map(|trust| trust.ca.as_path());
        let has_ca =
            |policy: &&Policy| wanted.is_some_and(|wanted| policy.loaded.ca_file(wanted).is_some());
        self.active.or_else(|| self.earlier.iter().find(has_ca))
    }
}

impl Policy {
    /// Builds a policy. Returns none if a file has a problem and no earlier content; each problem is in
    /// `findings`.
    pub(crate) fn build(
        plan: PolicyPlan<'_>,
        now: SystemTime,
        findings: &mut Findings,
    ) -> Option<Self> {
        let PolicyPlan { tls, material, active, .. } = plan;
        let first = material.first()?;
        let of = |role| material.iter().filter(move |file| file.role == role);
        let earlier: Vec<_> = active.into_iter().chain(plan.earlier).collect();
        let files: Vec<_> = earlier.iter().map(|earlier| &earlier.loaded).collect();
        let loaded: Vec<_> = files.iter().flat_map(|files| &files.chains).collect();
        let served: Vec<_> =
            earlier.iter().flat_map(|earlier| earlier.active_certificates().served()).collect();
        let active_chains =
            (!files.is_empty()).then_some(ActiveChains { loaded: &loaded, served: &served });
        let pairs = of(MaterialKind::Certificate).zip(of(MaterialKind::Key));
        let chains: Vec<_> = pairs
            .filter_map(|pair| chain::load(pair, active_chains, &tls.guards, now, findings))
            .collect();
        let verifier = plan.trusted_before().and_then(|before| before.client_verifier.as_deref());
        let active_trust = ActiveTrust {
            files: &files,
            revocation: verifier.and_then(|verifier| verifier.revocation.as_ref()),
            issuers: verifier.map(|verifier| &verifier.issuers),
        };
        let trust = of(MaterialKind::ClientCa).next().and_then(|ca| {
            let allow = of(MaterialKind::Allow).next();
            let files = TrustMaterial { ca, crls: plan.crls, allow };
            clients::load(tls, &files, active_trust, now, findings)
        });
        let ticket_keys = of(MaterialKind::TicketKeys)
            .next()
            .and_then(|file| load_ticket_keys(file, &files, findings));
        if findings.is_fatal {
            return None;
        }
        let certificates = active.map(Self::active_certificates);
        let planned = certificates.map(|active| active.plan(&chains, tls.rollout, now));
        let (planned, warning) = planned.unwrap_or_default();
        findings.warnings.extend(warning);
        // A rollout shows the earlier certificates with the new suites.
        let earlier = planned.as_ref().map_or(&[][..], |planned| &planned.earlier[..]);
        for chains in [&chains[..], earlier] {
            let unfit = suites::check(tls, chains).map_err(|cause| first.error(None, cause));
            let warnings = findings.take(unfit)?;
            findings.warnings.extend(warnings);
        }
        let policy = Self::join(plan, (chains, planned, trust, ticket_keys));
        findings.take(policy.map_err(|error| first.error(None, Cause::Tls(error))))
    }

    /// Joins the parts of a policy, each of which is valid.
    fn join(
        plan: PolicyPlan<'_>,
        (chains, planned, trust, ticket_keys): Parts,
    ) -> Result<Self, rustls::Error> {
        let tls = plan.tls;
        let mut loaded = LoadedFiles { chains, ticket_keys, ..LoadedFiles::default() };
        let (mut client_verifier, mut summary) = (None, TrustSummary::default());
        if let Some(trust) = trust {
            client_verifier = Some(Arc::new(trust.verifier));
            summary = trust.summary;
            (loaded.client_ca, loaded.crls) = (Some(trust.client_ca), trust.crls);
            loaded.allow = trust.allow;
        }
        let earlier = planned.as_ref().map_or(&[][..], |planned| &planned.earlier[..]);
        let resolver = Arc::new(rollout::resolver(tls, &loaded.chains, earlier));
        let client_trust = client_trust(tls, &loaded, client_verifier.as_deref());
        let names = names(if earlier.is_empty() { &loaded.chains[..] } else { earlier });
        let digest = resumption_policy(client_trust, plan.route, &names);
        let resumption = resumption(plan, &loaded, digest, client_verifier.as_deref())?;
        let verifier = || client_verifier.clone();
        let rollout = planned
            .map(|planned| planned.build(&loaded.chains, tls, verifier(), &resumption))
            .transpose()?;
        Ok(Self {
            versions: tls.versions(),
            max_record_bytes: tls.max_record_bytes,
            small_first_records: tls.small_first_records,
            server_configs: ServerConfigs::new(
                tls,
                &resolver,
                client_verifier.clone(),
                &resumption,
            )?,
            resolver,
            client_verifier,
            certificates: loaded.chains.iter().map(Chain::server_certificate).collect(),
            rollout,
            trust: summary,
            resumption,
            recheck: tls.recheck,
            recheck_spread: tls.recheck_spread,
            client_trust,
            loaded,
        })
    }

    /// Returns a summary of each file that the policy was built from, in the order of the configuration.
    pub(crate) fn files(&self) -> impl Iterator<Item = FileSummary<'_>> {
        self.loaded.files()
    }

    /// Returns the changes of the trust in clients since `old`.
    pub(crate) fn trust_changes(&self, old: &Self) -> Vec<TrustChange> {
        let rules = |policy: &Self| policy.client_verifier.clone();
        let of_rules = rules(old).zip(rules(self)).and_then(|(old, new)| {
            let (added, removed) = (new.allow.without(&old.allow), old.allow.without(&new.allow));
            let all = new.allow.count();
            (added + removed > 0).then_some(TrustChange::Rules { all, added, removed })
        });
        changes::between(&old.loaded, &self.loaded).into_iter().chain(of_rules).collect()
    }

    fn active_certificates(&self) -> ActiveCertificates<'_> {
        ActiveCertificates { loaded: &self.loaded.chains, rollout: self.rollout.as_ref() }
    }

    /// Returns the certificates that most clients get.
    pub(crate) fn served_certificates(&self) -> &[ServerCertificate] {
        self.rollout.as_ref().map_or(&self.certificates, |rollout| &rollout.earlier.certificates)
    }

    /// Returns whether a certificate that a client can get has this name.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        let earlier = self.rollout.as_ref().map(|rollout| &rollout.earlier.resolver);
        self.resolver.has_name(name) || earlier.is_some_and(|earlier| earlier.has_name(name))
    }

    /// Returns whether the certificates are those that a rollout was to replace.
    pub(crate) fn withdraws(&self, rollout: &Rollout) -> bool {
        rollout.replaces(&self.loaded.chains)
    }

    /// Returns the content of its files.
    pub(super) const fn loaded(&self) -> &LoadedFiles {
        &self.loaded
    }

    /// Returns whether both policies are in the same state of the same rollout.
    pub(crate) fn has_same_rollout(&self, other: &Self) -> bool {
        match (&self.rollout, &other.rollout) {
            (Some(rollout), Some(other)) => rollout.is_same(other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// Returns the digest of all files of one kind of object.
    pub(crate) fn digest(&self, object: ReloadObject) -> Digest {
        self.loaded.digest(object)
    }
}

/// The parts of a policy, each of which is valid.
type Parts =
    (Vec<Chain>, Option<PlannedRollout>, Option<LoadedTrust>, Option<LoadedFile<MasterKey>>);

/// Reads a file of ticket keys, or keeps the current ones.
fn load_ticket_keys(
    file: &Material,
    active: &[&LoadedFiles],
    findings: &mut Findings,
) -> Option<LoadedFile<MasterKey>> {
    let mut own = Findings::default();
    let bytes = own.take(file.bytes());
    let keys = bytes.map(key_file::parse).and_then(|parsed| {
        let faults = parsed.as_ref().err().into_iter().flatten();
        faults.for_each(|(line, fault)| own.note(file.error(*line, Cause::TicketKeys(*fault))));
        parsed.ok()
    });
    if file.is_open_to_all() {
        own.warnings.push(Warning::KeyOpenToAll(file.path.clone()));
    }
    let loaded = keys.zip(file.digest().ok()).map(|(items, digest)| LoadedFile {
        path: file.path.clone(),
        digest,
        items,
        ignored: Vec::new(),
    });
    let mut known = active.iter().filter_map(|active| active.ticket_keys.as_ref());
    findings.choose(loaded, known.find(|known| known.path == file.path), own)
}

fn resumption(
    PolicyPlan { tls, active, .. }: PolicyPlan<'_>,
    loaded: &LoadedFiles,
    digest: Digest,
    verifier: Option<&ClientVerifier>,
) -> Result<Resumption, rustls::Error> {
    let file = loaded.ticket_keys.as_ref();
    let keys: Vec<_> =
        file.iter().flat_map(|file| &file.items).map(|(_, key)| key.clone()).collect();
    let issuers = verifier.map(|verifier| Arc::clone(&verifier.issuers)).unwrap_or_default();
    let policy = ResumptionPolicy {
        digest,
        tickets: tls.tickets,
        max_age: tls.max_session_age,
        keys: file.map(|file| (file.digest, &keys[..])),
        issuers: &issuers,
    };
    Resumption::new(&policy, active.map(|active| &active.resumption))
}

/// Returns the digest of everything that decides which clients are accepted. It depends on the content of the
/// files, not on their paths.
fn client_trust(
    tls: &config::TlsConfig,
    loaded: &LoadedFiles,
    verifier: Option<&ClientVerifier>,
) -> Digest {
    // Every key is listed: a new one that decides which clients are accepted must not be forgotten here.
    let config::TlsConfig {
        certificates: _,
        guards: _,
        rollout: _,
        min_version: _,
        // A ticket is for one suite, and resumed with it only.
        suites: _,
        legacy_suites: _,
        groups: _,
        client_auth,
        alpn: _,
        max_record_bytes: _,
        small_first_records: _,
        tickets: _,
        ticket_keys: _,
        max_session_age: _,
        // A resumed client's chain is checked against them again.
        max_chain_certificates: _,
        max_chain_bytes: _,
        allow_v1,
        recheck: _,
        recheck_spread: _,
    } = tls;
    let mut choices = [false; 4];
    if let Some(trust) = client_auth.trust() {
        // Part of the policy by the content of the files, and by the rules of the verifier.
        let config::ClientTrust {
            ca: _,
            crls: _,
            crl_rules,
            accept_expired,
            // Changes no decision.
            send_ca_names: _,
            allow: _,
        } = trust;
        let config::CrlRules { check, unknown, expired } = crl_rules;
        choices = [
            *check == CrlCheck::Leaf,
            *unknown == UnknownStatus::Allow,
            *expired == ExpiredCrl::Deny,
            *accept_expired,
        ];
    }
    let mode: &[u8] = match client_auth {
        ClientAuth::None => b"none",
        ClientAuth::Optional(_) => b"optional",
        ClientAuth::Required(_) => b"required",
    };
    let trust = [ReloadObject::ClientCa, ReloadObject::Crl].map(|object| loaded.digest(object));
    let rules = verifier.and_then(|verifier| verifier.allow.digest());
    let mut policy = vec![mode, if *allow_v1 { b"v1" } else { b"" }];
    policy.extend(trust.iter().map(Digest::as_bytes));
    policy.push(rules.map_or(b"", Digest::as_bytes));
    let choices = choices.map(u8::from);
    policy.push(&choices);
    Digest::of(policy)
}

/// Returns the names in certificates, each once.
fn names(chains: &[Chain]) -> Vec<String> {
    let mut names: Vec<_> = chains.iter().flat_map(|chain| chain.info.names.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Returns the policy that a ticket must not outlive: the clients that are accepted, the route, and the names
/// that most clients see. Replicas with the same content resume each other's sessions.
fn resumption_policy(client_trust: Digest, route: Option<Digest>, names: &[String]) -> Digest {
    let names = names.iter().map(String::as_bytes);
    let route = route.as_ref().map(Digest::as_bytes);
    Digest::of([client_trust.as_bytes()].into_iter().chain(names).chain(route))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::{material, testing};

    #[test]
    fn a_policy_is_built_from_its_material_without_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let tls = testing::listener(dir.path()).tls;
        let material = material::read(&material::named(&tls).collect::<Vec<_>>()).unwrap();
        drop(dir);
        let mut findings = Findings::default();
        let (tls, material, crls) = (&tls, &material[..], &CrlFiles::default());
        let plan = PolicyPlan { tls, route: None, material, crls, active: None, earlier: &[] };
        let policy = Policy::build(plan, SystemTime::now(), &mut findings).unwrap();
        assert!(findings.errors.is_empty());
        let named = material::named(tls);
        assert!(policy.files().map(|file| (file.role, file.path)).eq(named), "the watched files");
    }

    #[test]
    fn each_setting_that_decides_about_clients_is_part_of_the_trust_in_them() {
        use config::{ClientTrust, CrlRules};

        let dir = tempfile::tempdir().unwrap();
        let digest = |trust: ClientTrust| {
            let mut tls = testing::listener(dir.path()).tls;
            tls.client_auth = ClientAuth::Required(trust);
            client_trust(&tls, &LoadedFiles::default(), None)
        };
        let usual = || ClientTrust::new("ca".into());
        let by = |crl_rules| ClientTrust { crl_rules, ..usual() };
        let all = [
            usual(),
            by(CrlRules { check: CrlCheck::Leaf, ..CrlRules::default() }),
            by(CrlRules { unknown: UnknownStatus::Allow, ..CrlRules::default() }),
            by(CrlRules { expired: ExpiredCrl::Deny, ..CrlRules::default() }),
            ClientTrust { accept_expired: true, ..usual() },
        ];
        let digests: std::collections::BTreeSet<_> = all.map(digest).into_iter().collect();
        assert_eq!(digests.len(), 5);
        assert!(digests.contains(&digest(ClientTrust { send_ca_names: true, ..usual() })));
    }
}
