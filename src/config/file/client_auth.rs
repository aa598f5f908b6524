//! The keys about client certificates, which are checked together.
//!
//! **Not here.** The rules themselves (`allow.rs`), their types (`config.rs`).

use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;

use super::allow::AllowSection;
use super::problem::Problems;
use super::text::{AuthChoice, PathText, Text};
use crate::config::{
    Allow, ClientAuth, ClientTrust, CrlCheck, CrlRules, ExpiredCrl, UnknownStatus,
};

/// The keys about client certificates that a listener or a route has in the file.
pub(super) struct WrittenClientKeys {
    pub(super) choice: Option<Spanned<Text<AuthChoice>>>,
    pub(super) ca: Option<Spanned<PathText>>,
    pub(super) crls: Option<Vec<Spanned<PathText>>>,
    pub(super) crl_check: Option<CrlCheck>,
    pub(super) crl_unknown: Option<UnknownStatus>,
    pub(super) crl_expired: Option<ExpiredCrl>,
    pub(super) accept_expired: Option<bool>,
    pub(super) send_ca_names: Option<bool>,
    pub(super) allow: Option<Spanned<AllowSection>>,
}

/// The values of these keys. A route inherits them also where its listener has no use for them.
#[derive(Clone, Default)]
pub(super) struct ClientKeys {
    pub(super) choice: AuthChoice,
    ca: Option<PathBuf>,
    crls: Vec<PathBuf>,
    pub(super) crl_rules: CrlRules,
    pub(super) accept_expired: bool,
    pub(super) send_ca_names: bool,
    allow: Allow,
}

/// The places of the keys that need other keys; none for those that are not in the file.
struct Places {
    choice: Option<Range<usize>>,
    ca: Option<Range<usize>>,
    allow: Option<Range<usize>>,
}

impl WrittenClientKeys {
    /// Converts the keys of the listener or route with the key `owner`. Those that are not in the file are taken from
    /// `base`.
    pub(super) fn resolve(
        self,
        base: Option<&ClientKeys>,
        owner: &str,
        problems: &mut Problems<'_>,
    ) -> (ClientKeys, ClientAuth) {
        let places = Places {
            choice: self.choice.as_ref().map(Spanned::span),
            ca: self.ca.as_ref().map(Spanned::span),
            allow: self.allow.as_ref().map(Spanned::span),
        };
        let keys = self.over(base.cloned().unwrap_or_default(), owner, problems);
        let client_auth = keys.to_client_auth(&places, owner, problems);
        (keys, client_auth)
    }

    fn over(self, base: ClientKeys, owner: &str, problems: &mut Problems<'_>) -> ClientKeys {
        let key = format!("{owner}.tls");
        let ca = self.ca.map(|ca| problems.named_file(&ca, &format!("{key}.client_ca")));
        let crls = self.crls.map(|crls| {
            let named = |(i, crl): (usize, &Spanned<PathText>)| {
                problems.named_file(crl, &format!("{key}.crls[{i}]"))
            };
            crls.iter().enumerate().map(named).collect()
        });
        let allow = self
            .allow
            .map(|allow| allow.into_inner().into_allow(&format!("{owner}.allow"), problems));
        ClientKeys {
            choice: self.choice.map_or(base.choice, |choice| choice.into_inner().0),
            ca: ca.or(base.ca),
            crls: crls.unwrap_or(base.crls),
            crl_rules: CrlRules {
                check: self.crl_check.unwrap_or(base.crl_rules.check),
                unknown: self.crl_unknown.unwrap_or(base.crl_rules.unknown),
                expired: self.crl_expired.unwrap_or(base.crl_rules.expired),
            },
            accept_expired: self.accept_expired.unwrap_or(base.accept_expired),
            send_ca_names: self.send_ca_names.unwrap_or(base.send_ca_names),
            allow: allow.unwrap_or(base.allow),
        }
    }
}

impl ClientKeys {
    /// Returns what the keys mean together.
    fn to_client_auth(
        &self,
        places: &Places,
        owner: &str,
        problems: &mut Problems<'_>,
    ) -> ClientAuth {
        let key = format!("{owner}.tls");
        match self.choice {
            AuthChoice::None => {
                if let Some(span) = places.ca.clone() {
                    without_client_auth(&format!("{key}.client_ca"), "a client CA", span, problems);
                }
                let rules = places.allow.clone().filter(|_| !self.allow.is_empty());
                if let Some(span) = rules {
                    without_client_auth(&format!("{owner}.allow"), "allow rules", span, problems);
                }
                return ClientAuth::None;
            }
            AuthChoice::Optional | AuthChoice::Required => {}
        }
        let Some(ca) = self.ca.clone() else {
            // If the choice is the listener's, so is the problem.
            if let Some(choice) = &places.choice {
                let allowed = "a PEM bundle with the CAs of the devices";
                problems.missing(choice, &key, "client_ca", allowed);
            }
            return ClientAuth::None;
        };
        let trust = ClientTrust {
            ca,
            crls: self.crls.clone(),
            crl_rules: self.crl_rules,
            accept_expired: self.accept_expired,
            send_ca_names: self.send_ca_names,
            allow: self.allow.clone(),
        };
        match self.choice {
            AuthChoice::Required => ClientAuth::Required(trust),
            AuthChoice::None | AuthChoice::Optional => ClientAuth::Optional(trust),
        }
    }
}

/// Adds a problem for a setting without client_auth: it would look like protection, or a choice, and be none.
pub(super) fn without_client_auth(
    key: &str,
    what: &str,
    span: Range<usize>,
    problems: &mut Problems<'_>,
) {
    let name = key.rsplit('.').next().unwrap_or(key);
    let message = format!(
        "found {what} without client_auth: set client_auth = \"required\" or \"optional\", or remove \
         {name}"
    );
    problems.at(span, key, &message);
}
