//! The keys about client certificates, which are checked together.
//!
//! **Not here.** The rules themselves (`allow.rs`), their types (`config.rs`).

use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;

use super::allow::AllowSection;
use super::problem::Problems;
use super::text::{AuthChoice, Text};
use crate::config::{Allow, ClientAuth, ClientTrust, CrlRules};

/// The keys of a listener about client certificates.
pub(super) struct ClientAuthKeys {
    pub(super) choice: Option<Spanned<Text<AuthChoice>>>,
    pub(super) ca: Option<Spanned<PathBuf>>,
    pub(super) crls: Vec<Spanned<PathBuf>>,
    pub(super) crl_rules: CrlRules,
    pub(super) accept_expired: bool,
    pub(super) send_ca_names: bool,
    pub(super) allow: Option<Spanned<AllowSection>>,
}

impl ClientAuthKeys {
    /// Converts the keys of the listener with this key.
    pub(super) fn into_client_auth(
        self,
        listener: &str,
        problems: &mut Problems<'_>,
    ) -> ClientAuth {
        let key = format!("{listener}.tls");
        let wanted = self.choice.as_ref().map_or(AuthChoice::None, |choice| choice.as_ref().0);
        let choice = self.choice.map_or(0..0, |choice| choice.span());
        let ca_span = self.ca.as_ref().map(Spanned::span);
        let ca = self.ca.map(|ca| problems.named_file(&ca, &format!("{key}.client_ca")));
        let named = |(i, crl): (usize, &Spanned<PathBuf>)| {
            problems.named_file(crl, &format!("{key}.crls[{i}]"))
        };
        let crls = self.crls.iter().enumerate().map(named).collect();
        let allow_span = self.allow.as_ref().map(Spanned::span);
        let allow = self.allow.map_or_else(Allow::default, |allow| {
            allow.into_inner().into_allow(&format!("{listener}.allow"), problems)
        });
        match wanted {
            AuthChoice::None => {
                if let Some(span) = ca_span {
                    no_protection(&format!("{key}.client_ca"), "a client CA", span, problems);
                }
                if let Some(span) = allow_span.filter(|_| !allow.is_empty()) {
                    no_protection(&format!("{listener}.allow"), "allow rules", span, problems);
                }
                return ClientAuth::None;
            }
            AuthChoice::Optional | AuthChoice::Required => {}
        }
        let Some(ca) = ca else {
            problems.missing(
                &choice,
                &key,
                "client_ca",
                "a PEM bundle with the CAs of the devices",
            );
            return ClientAuth::None;
        };
        let trust = ClientTrust {
            ca,
            crls,
            crl_rules: self.crl_rules,
            accept_expired: self.accept_expired,
            send_ca_names: self.send_ca_names,
            allow,
        };
        match wanted {
            AuthChoice::Required => ClientAuth::Required(trust),
            AuthChoice::None | AuthChoice::Optional => ClientAuth::Optional(trust),
        }
    }
}

/// Adds a problem for a setting without client_auth: it would look like protection and be none.
fn no_protection(key: &str, what: &str, span: Range<usize>, problems: &mut Problems<'_>) {
    let name = key.rsplit('.').next().unwrap_or(key);
    let message = format!(
        "found {what} without client_auth: set client_auth = \"required\" or \"optional\", or remove \
         {name}"
    );
    problems.at(span, key, &message);
}
