//! Collects every problem of a file, so that an operator mends them all in one go.
//!
//! serde stops at the first value that it refuses. [`Problems::collect`] therefore tries a document that
//! is refused entry by entry, each as if it stood there alone, and those that are refused by their own
//! entries. What is refused is taken out and remembered, so that it is not reported as missing as well.
//!
//! **Promises.** The time for a file grows with its size and not with its size times its mistakes: it
//! can be a file of another program, wrong in every line. [`MAX_SHOWN`] problems are listed, and the
//! others counted.
//!
//! **Not here.** Which values are allowed (`text.rs`, `file.rs`).

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Deserializer, Error};

use crate::regular_file;
use crate::text::{Shown, one_line};

/// Problems of a file that are listed.
pub(super) const MAX_SHOWN: usize = 100;

/// Why a configuration is not usable: all of its problems.
#[derive(Debug)]
pub struct ConfigError {
    /// The file, as it was given.
    pub file: PathBuf,
    /// At least one and at most a hundred, sorted by place.
    pub problems: Vec<ConfigProblem>,
    /// How many there are beside those that are listed.
    pub more: usize,
}

/// One thing that is wrong with a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Line and column, both from 1. None: the file as a whole.
    pub place: Option<(usize, usize)>,
    /// The key, such as `listener[0].timeouts.idle`. Empty: the file as a whole.
    pub key: String,
    /// What was found and what is allowed.
    pub message: String,
}

impl ConfigError {
    pub(super) fn unreadable(file: &Path, error: &std::io::Error) -> Self {
        let message = format!("cannot read the configuration: {error}");
        let problem = ConfigProblem { place: None, key: String::new(), message };
        Self { file: file.to_owned(), problems: vec![problem], more: 0 }
    }

    /// One line a problem: `file:line:column: key: message`; the last one counts those that are not
    /// listed.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let file = Shown(&self.file);
        let more = (self.more > 0).then(|| format!("{file}: and {} more", self.more));
        let line = |problem: &ConfigProblem| {
            let file = Shown(&self.file);
            let place = problem.place.map(|(line, column)| format!("{line}:{column}:"));
            let key = Some(&problem.key).filter(|key| !key.is_empty());
            let key = key.map(|key| format!(" {key}:"));
            let (place, key) = (place.unwrap_or_default(), key.unwrap_or_default());
            one_line(&format!("{file}:{place}{key} {}", problem.message)).into_owned()
        };
        self.problems.iter().map(line).chain(more)
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().collect::<Vec<_>>().join("\n"))
    }
}

/// The problems found so far in one text.
pub(super) struct Problems<'a> {
    text: &'a str,
    file: &'a Path,
    found: Vec<FoundProblem>,
    /// Keys whose values were refused and taken out of the document.
    refused: BTreeSet<String>,
    /// The files that are named, each with the place and the key of its name.
    named_files: Vec<(Range<usize>, String, PathBuf)>,
}

/// A problem whose line has not been counted yet.
struct FoundProblem {
    /// None: the file as a whole.
    offset: Option<usize>,
    key: String,
    message: String,
}

impl<'a> Problems<'a> {
    pub(super) const fn new(text: &'a str, file: &'a Path) -> Self {
        Self { text, file, found: Vec::new(), refused: BTreeSet::new(), named_files: Vec::new() }
    }

    /// Resolves a path, the value of `key`, against the file's directory.
    pub(super) fn named_file(&mut self, path: &Spanned<PathBuf>, key: &str) -> PathBuf {
        let directory = self.file.parent().unwrap_or_else(|| Path::new(""));
        let full = directory.join(path.as_ref());
        self.named_files.push((path.span(), key.to_owned(), full.clone()));
        full
    }

    /// Notes which of the named files cannot be read.
    pub(super) fn try_named_files(&mut self) {
        for (span, key, path) in std::mem::take(&mut self.named_files) {
            if let Err(error) = regular_file::open(&path) {
                let path = path.display().to_string();
                self.at(span, &key, &format!("found {path:?}, which cannot be read: {error}"));
            }
        }
    }

    /// Notes a problem of the file as a whole.
    pub(super) fn file(&mut self, message: &str) {
        let (key, message) = (String::new(), message.to_owned());
        self.found.push(FoundProblem { offset: None, key, message });
    }

    /// Notes a problem with the value of `key`, which stands at `span`.
    pub(super) fn at(&mut self, span: Range<usize>, key: &str, message: &str) {
        let (key, message) = (key.to_owned(), message.to_owned());
        self.found.push(FoundProblem { offset: Some(span.start), key, message });
    }

    /// Whether the value of `key` was refused, and so does not count as missing.
    pub(super) fn refused(&self, key: &str) -> bool {
        self.refused.contains(key) || self.refused_below(&format!("{key}[")).next().is_some()
    }

    /// Whether a key of `section` was refused that is none of those that it can have.
    pub(super) fn has_unknown(&self, section: &str, known: &[&str]) -> bool {
        let prefix = format!("{section}.");
        let mut keys = self.refused_below(&prefix);
        keys.any(|key| !known.contains(&&key[prefix.len()..]))
    }

    fn refused_below<'s>(&'s self, prefix: &'s str) -> impl Iterator<Item = &'s String> {
        let from = self.refused.range(prefix.to_owned()..);
        from.take_while(move |key| key.starts_with(prefix))
    }

    /// Notes that `section` lacks `key`, unless its value was refused already.
    pub(super) fn missing(&mut self, section: &Range<usize>, path: &str, key: &str, allowed: &str) {
        let key = format!("{path}.{key}");
        if !self.refused(&key) {
            self.at(section.clone(), &key, &format!("missing, expected {allowed}"));
        }
    }

    /// Passes a value on, or notes that `section` lacks it.
    pub(super) fn required<T>(
        &mut self,
        value: Option<T>,
        section: &Range<usize>,
        path: &str,
        key: &str,
        allowed: &str,
    ) -> Option<T> {
        if value.is_none() {
            self.missing(section, path, key, allowed);
        }
        value
    }

    /// Reads the text as a `T`, noting every syntax error, or else every value that is refused.
    pub(super) fn collect<T: for<'de> Deserialize<'de>>(&mut self) -> Option<T> {
        let (document, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            self.at(error.span().unwrap_or(0..0), "", error.message());
        }
        if !errors.is_empty() {
            return None;
        }
        let span = document.span();
        let whole = Spanned::new(span.clone(), document.get_ref().clone());
        if let Ok(value) = T::deserialize(Deserializer::from(whole)) {
            return Some(value);
        }
        let alone = |table| T::deserialize(Deserializer::from(Spanned::new(0..0, table))).err();
        let rest = self.sift_table(document.into_inner(), "", &alone);
        // What is refused though every entry of it would be accepted, nothing can be taken out of.
        let rest = T::deserialize(Deserializer::from(Spanned::new(span, rest)));
        rest.map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            self.at(span, "", error.message());
        })
        .ok()
    }

    /// Takes out of a table what is refused. `refusal` returns why a table is refused that stands in
    /// its place in an otherwise empty document.
    fn sift_table<'i>(
        &mut self,
        table: DeTable<'i>,
        path: &str,
        refusal: &dyn Fn(DeTable<'i>) -> Option<Error>,
    ) -> DeTable<'i> {
        let dot = if path.is_empty() { "" } else { "." };
        let sifted = table.into_iter().filter_map(|(key, value)| {
            let path = format!("{path}{dot}{}", key.get_ref());
            let refusal = |value| refusal(DeTable::from_iter([(key.clone(), value)]));
            let value = self.sift(value, Some(&key.span()), &path, &refusal)?;
            Some((key, value))
        });
        sifted.collect()
    }

    fn sift_array<'i>(
        &mut self,
        array: DeArray<'i>,
        path: &str,
        refusal: &dyn Fn(DeArray<'i>) -> Option<Error>,
    ) -> DeArray<'i> {
        let sifted = array.into_iter().enumerate().filter_map(|(index, item)| {
            let refusal = |item| refusal(DeArray::from_iter([item]));
            self.sift(item, None, &format!("{path}[{index}]"), &refusal)
        });
        sifted.collect()
    }

    /// Returns a value without what is refused of it; none if it or its key is refused itself, and
    /// notes why.
    fn sift<'i>(
        &mut self,
        value: Spanned<DeValue<'i>>,
        key: Option<&Range<usize>>,
        path: &str,
        refusal: &dyn Fn(Spanned<DeValue<'i>>) -> Option<Error>,
    ) -> Option<Spanned<DeValue<'i>>> {
        let Some(error) = refusal(value.clone()) else { return Some(value) };
        let span = value.span();
        let before = self.found.len();
        let place = error.span();
        let below = place.is_some_and(|place| place != span && Some(&place) != key);
        let sifted = match value.into_inner() {
            DeValue::Table(table) if below => {
                let refusal = |table| refusal(Spanned::new(span.clone(), DeValue::Table(table)));
                DeValue::Table(self.sift_table(table, path, &refusal))
            }
            DeValue::Array(array) if below => {
                let refusal = |array| refusal(Spanned::new(span.clone(), DeValue::Array(array)));
                DeValue::Array(self.sift_array(array, path, &refusal))
            }
            other => other,
        };
        if self.found.len() > before {
            return Some(Spanned::new(span, sifted));
        }
        self.at(error.span().unwrap_or(span), path, error.message());
        self.refused.insert(path.to_owned());
        None
    }

    /// The value, if there was no problem.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<T, ConfigError> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => {
                self.found.sort_by_key(|found| found.offset);
                let more = self.found.len().saturating_sub(MAX_SHOWN);
                self.found.truncate(MAX_SHOWN);
                let problems = placed(self.text, self.found);
                Err(ConfigError { file: self.file.to_owned(), problems, more })
            }
        }
    }
}

/// Counts the lines and columns of problems that are sorted by place, in one pass.
fn placed(text: &str, found: Vec<FoundProblem>) -> Vec<ConfigProblem> {
    let (mut at, mut line, mut column) = (0, 1, 1);
    let place = |FoundProblem { offset, key, message }| {
        let place = offset.map(|offset| {
            let offset = text.floor_char_boundary(offset).max(at);
            for c in text[at..offset].chars() {
                (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
            }
            at = offset;
            (line, column)
        });
        ConfigProblem { place, key, message }
    };
    found.into_iter().map(place).collect()
}
