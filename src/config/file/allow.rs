//! Allow rules as they are written: the section `[listener.allow]`, and the file that it names.
//!
//! **Promises.** The file has the keys of the section, and the same messages for invalid values.
//!
//! **Not here.** The types of the rules (`config/allow.rs`), reading the file again (`reload.rs`).

use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::problem::{ConfigError, Problems};
use super::text::{PathText, Text};
use crate::config::{Allow, AllowRules, SpkiSha256};
use crate::terms::name_pattern::NamePattern;
use crate::terms::rule_pattern::{TextPattern, UriPattern};

/// The rules of a section or of a file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section [listener.allow]")]
pub(super) struct AllowSection {
    cn: Option<Vec<Text<TextPattern>>>,
    dns: Option<Vec<Text<NamePattern>>>,
    uri: Option<Vec<Text<UriPattern>>>,
    ou: Option<Vec<Text<TextPattern>>>,
    spki_sha256: Option<Vec<Text<SpkiSha256>>>,
    file: Option<Spanned<PathText>>,
}

impl AllowSection {
    /// Converts the section with this key.
    pub(super) fn into_allow(mut self, key: &str, problems: &mut Problems<'_>) -> Allow {
        let file = self.file.take();
        let file = file.map(|file| problems.named_file(&file, &format!("{key}.file")));
        Allow { rules: self.into_rules(), file }
    }

    const fn has_lists(&self) -> bool {
        let Self { cn, dns, uri, ou, spki_sha256, file: _ } = self;
        cn.is_some() || dns.is_some() || uri.is_some() || ou.is_some() || spki_sha256.is_some()
    }

    fn into_rules(self) -> AllowRules {
        AllowRules {
            cn: values(self.cn),
            dns: values(self.dns),
            uri: values(self.uri),
            ou: values(self.ou),
            spki_sha256: values(self.spki_sha256),
        }
    }
}

fn values<T>(list: Option<Vec<Text<T>>>) -> Vec<T> {
    list.into_iter().flatten().map(|value| value.0).collect()
}

/// Parses the content of an `allow.file`.
///
/// # Errors
/// Every problem found. A file without any key is one: it was probably cut, and would admit nobody.
pub(crate) fn parse_allow_file(text: &str, path: &Path) -> Result<AllowRules, ConfigError> {
    let mut problems = Problems::new(text, path);
    let section = problems.collect::<AllowSection>();
    if let Some(section) = &section {
        if let Some(file) = &section.file {
            problems.at(
                file.span(),
                "file",
                "found another file, expected only lists of rules here",
            );
        } else if !section.has_lists() && problems.is_clean() {
            problems
                .file("no rules, expected a key such as cn = [\"pump-7\"]; cn = [] admits nobody");
        }
    }
    problems.finish(section.map(AllowSection::into_rules))
}
