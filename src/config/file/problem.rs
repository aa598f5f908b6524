//! Collects all problems of a file, so that an operator can fix them together.
//!
//! serde stops at the first invalid value. [`Problems::collect`] deserializes an invalid document again, entry
//! by entry, each alone in its section, and does the same within invalid entries. Invalid values are removed
//! and remembered, so that they are not reported as missing too.
//!
//! **Promises.** The time grows with the size of the file, and not with its size times the number of problems:
//! it can be a file of another program, with a problem in every line. [`MAX_SHOWN`] problems are listed, and
//! the others are counted.
//!
//! **Not here.** The allowed values (`config/values.rs`, `file.rs`).

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Deserializer, Error};

use super::root::below;
use super::text::PathText;
use crate::regular_file;
use crate::text::{Shown, one_line};

/// The limit of problems that are listed.
pub(super) const MAX_SHOWN: usize = 100;

/// An invalid configuration, with all of its problems.
#[derive(Debug)]
pub struct ConfigError {
    /// The path of the file, as in the flag.
    pub file: PathBuf,
    /// The problems, sorted by place: 1 to 100.
    pub problems: Vec<ConfigProblem>,
    /// The number of problems that are not listed.
    pub more: usize,
}

/// A problem in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Line and column, both from 1. None: the whole file.
    pub place: Option<(usize, usize)>,
    /// The key, such as `listener[0].timeouts.idle`. Empty: the whole file.
    pub key: String,
    /// The value found and the allowed values.
    pub message: String,
}

impl ConfigError {
    pub(super) fn unreadable(file: &Path, error: &std::io::Error) -> Self {
        let message = format!("cannot read the configuration: {error}");
        let problem = ConfigProblem { place: None, key: String::new(), message };
        Self { file: file.to_owned(), problems: vec![problem], more: 0 }
    }

    /// Returns a line for each problem: `file:line:column: key: message`. The last line counts the problems that
    /// are not listed.
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

impl ConfigProblem {
    /// Returns the value found and the allowed values, where the message has them: "found …, expected …", or serde's
    /// "invalid value: …, expected …". A description of what was found is no value.
    #[must_use]
    pub fn found_and_expected(&self) -> (Option<&str>, Option<&str>) {
        let forms = ["found ", "invalid value: ", "invalid type: ", "unknown field "];
        let stated = forms.iter().find_map(|form| self.message.strip_prefix(form));
        let (found, rest) = match stated.and_then(split_after_value) {
            Some((value, rest)) => (Some(value), rest),
            None => (None, &*self.message),
        };
        (found, rest.rsplit_once(", expected ").map(|(_, expected)| expected))
    }
}

/// Splits a text after the value that it begins with, with its type in serde's words; none if it begins with prose.
fn split_after_value(text: &str) -> Option<(&str, &str)> {
    let types = ["string ", "integer ", "floating point ", "boolean "];
    let start = types.iter().find(|prefix| text.starts_with(**prefix)).map_or(0, |p| p.len());
    let value = &text[start..];
    let end = match value.chars().next()? {
        '"' => {
            let mut is_escaped = false;
            let is_end = |(_, c): &(usize, char)| {
                let is_end = *c == '"' && !is_escaped;
                is_escaped = *c == '\\' && !is_escaped;
                is_end
            };
            value.char_indices().skip(1).find(is_end)?.0 + 1
        }
        '`' => value[1..].find('`')? + 2,
        _ => {
            let end = value.find([' ', ','])?;
            let follows = |form: &str| value[end..].starts_with(form);
            let forms = [", expected ", " without quotation marks", " twice"];
            forms.into_iter().any(follows).then_some(end)?
        }
    };
    Some(text.split_at(start + end))
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().collect::<Vec<_>>().join("\n"))
    }
}

/// The problems found in a text.
pub(super) struct Problems<'a> {
    text: &'a str,
    file: &'a Path,
    /// The directory below which absolute paths are looked up.
    pub(super) root: Option<&'a Path>,
    found: Vec<FoundProblem>,
    /// Keys whose values are invalid and were removed from the document.
    invalid: BTreeSet<String>,
    /// The files that the configuration names, with the place and the key of the name.
    named_files: Vec<(Range<usize>, String, PathBuf)>,
}

/// A problem before its line is counted.
struct FoundProblem {
    /// None: the whole file.
    offset: Option<usize>,
    key: String,
    message: String,
}

impl<'a> Problems<'a> {
    pub(super) const fn new(text: &'a str, file: &'a Path) -> Self {
        Self {
            text,
            file,
            root: None,
            found: Vec::new(),
            invalid: BTreeSet::new(),
            named_files: Vec::new(),
        }
    }

    /// As [`Self::path`], for a file in `key` that must be readable.
    pub(super) fn named_file(&mut self, path: &Spanned<PathText>, key: &str) -> PathBuf {
        let full = self.path(path);
        self.named_files.push((path.span(), key.to_owned(), full.clone()));
        full
    }

    /// Returns a path relative to the directory of the file.
    pub(super) fn path(&self, path: &Spanned<PathText>) -> PathBuf {
        let directory = self.file.parent().unwrap_or_else(|| Path::new(""));
        directory.join(below(self.root, &path.as_ref().0))
    }

    /// Adds a problem for each named file that cannot be read.
    pub(super) fn check_named_files(&mut self) {
        for (span, key, path) in std::mem::take(&mut self.named_files) {
            if let Err(error) = regular_file::open(&path) {
                let path = path.display().to_string();
                self.at(span, &key, &format!("found {path:?}, which cannot be read: {error}"));
            }
        }
    }

    /// Returns whether no problem was found yet.
    pub(super) const fn is_clean(&self) -> bool {
        self.found.is_empty()
    }

    /// Adds a problem of the whole file.
    pub(super) fn file(&mut self, message: &str) {
        let (key, message) = (String::new(), message.to_owned());
        self.found.push(FoundProblem { offset: None, key, message });
    }

    /// Adds a problem with the value of `key` at `span`.
    pub(super) fn at(&mut self, span: Range<usize>, key: &str, message: &str) {
        let (key, message) = (key.to_owned(), message.to_owned());
        self.found.push(FoundProblem { offset: Some(span.start), key, message });
    }

    /// Returns true if the value of `key` is invalid, and not missing.
    pub(super) fn is_invalid(&self, key: &str) -> bool {
        self.invalid.contains(key) || self.invalid_below(&format!("{key}[")).next().is_some()
    }

    /// Returns true if `section` has a key that is not in `known`.
    pub(super) fn has_unknown(&self, section: &str, known: &[&str]) -> bool {
        let prefix = format!("{section}.");
        let mut keys = self.invalid_below(&prefix);
        keys.any(|key| !known.contains(&&key[prefix.len()..]))
    }

    fn invalid_below<'s>(&'s self, prefix: &'s str) -> impl Iterator<Item = &'s String> {
        let from = self.invalid.range(prefix.to_owned()..);
        from.take_while(move |key| key.starts_with(prefix))
    }

    /// Adds a problem for the missing `key` of `section`, unless its value is invalid.
    pub(super) fn missing(&mut self, section: &Range<usize>, path: &str, key: &str, allowed: &str) {
        let key = format!("{path}.{key}");
        if !self.is_invalid(&key) {
            self.at(section.clone(), &key, &format!("missing, expected {allowed}"));
        }
    }

    /// Returns the value, after adding a problem if it is missing.
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

    /// Deserializes the text as a `T`. Adds a problem for each syntax error or, without one, each invalid value.
    pub(super) fn collect<T: for<'de> Deserialize<'de>>(&mut self) -> Option<T> {
        let (document, errors) = DeTable::parse_recoverable(self.text);
        let mut explained = 0;
        for error in &errors {
            let place = error.span().unwrap_or(0..0);
            match unquoted(self.text, place.start) {
                // A text without quotation marks is several errors.
                Some(Unquoted { place, .. }) if place.end == explained => {}
                Some(Unquoted { key, value, place }) => {
                    explained = place.end;
                    let message = format!(
                        "found {value} without quotation marks, expected {value:?}: text needs them"
                    );
                    self.at(place, key, &message);
                }
                None => self.at(place, "", error.message()),
            }
        }
        // After a syntax error, the values that follow may be in the wrong section.
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
        // A document can be invalid although each of its entries is valid.
        let rest = T::deserialize(Deserializer::from(Spanned::new(span, rest)));
        rest.map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            self.at(span, "", error.message());
        })
        .ok()
    }

    /// Removes the invalid entries of a table. `error_of` returns the error for a table in the same place of an
    /// otherwise empty document.
    fn sift_table<'i>(
        &mut self,
        table: DeTable<'i>,
        path: &str,
        error_of: &dyn Fn(DeTable<'i>) -> Option<Error>,
    ) -> DeTable<'i> {
        let dot = if path.is_empty() { "" } else { "." };
        let sifted = table.into_iter().filter_map(|(key, value)| {
            let path = format!("{path}{dot}{}", key.get_ref());
            let error_of = |value| error_of(DeTable::from_iter([(key.clone(), value)]));
            let value = self.sift(value, Some(&key.span()), &path, &error_of)?;
            Some((key, value))
        });
        sifted.collect()
    }

    fn sift_array<'i>(
        &mut self,
        array: DeArray<'i>,
        path: &str,
        error_of: &dyn Fn(DeArray<'i>) -> Option<Error>,
    ) -> DeArray<'i> {
        let sifted = array.into_iter().enumerate().filter_map(|(index, item)| {
            let error_of = |item| error_of(DeArray::from_iter([item]));
            self.sift(item, None, &format!("{path}[{index}]"), &error_of)
        });
        sifted.collect()
    }

    /// Returns a value without its invalid entries, or none if the value itself or its key is invalid. Adds a
    /// problem for everything that is removed.
    fn sift<'i>(
        &mut self,
        value: Spanned<DeValue<'i>>,
        key: Option<&Range<usize>>,
        path: &str,
        error_of: &dyn Fn(Spanned<DeValue<'i>>) -> Option<Error>,
    ) -> Option<Spanned<DeValue<'i>>> {
        let Some(error) = error_of(value.clone()) else { return Some(value) };
        let span = value.span();
        let before = self.found.len();
        let place = error.span();
        let below = place.is_some_and(|place| place != span && Some(&place) != key);
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "of TOML's types, only tables and arrays contain values"
        )]
        let sifted = match value.into_inner() {
            DeValue::Table(table) if below => {
                let error_of = |table| error_of(Spanned::new(span.clone(), DeValue::Table(table)));
                DeValue::Table(self.sift_table(table, path, &error_of))
            }
            DeValue::Array(array) if below => {
                let error_of = |array| error_of(Spanned::new(span.clone(), DeValue::Array(array)));
                DeValue::Array(self.sift_array(array, path, &error_of))
            }
            other => other,
        };
        if self.found.len() > before {
            return Some(Spanned::new(span, sifted));
        }
        self.at(error.span().unwrap_or(span), path, error.message());
        self.invalid.insert(path.to_owned());
        None
    }

    /// Returns the value, or the problems if there are any.
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

/// A text that is written without quotation marks.
struct Unquoted<'a> {
    key: &'a str,
    value: &'a str,
    place: Range<usize>,
}

/// Returns the text without quotation marks in the line with a syntax error at `offset`, such as an address.
fn unquoted(text: &str, offset: usize) -> Option<Unquoted<'_>> {
    let offset = text.floor_char_boundary(offset);
    let start = text[..offset].rfind('\n').map_or(0, |end| end + 1);
    let line = text[start..].lines().next()?;
    let (key, written) = line.split_once('=')?;
    let value = written.split(" #").next()?.trim();
    // "[::]:8883" is one too, and a list is not.
    let is_text = value.starts_with(|c: char| c.is_alphanumeric() || "/.:$*[".contains(c))
        && !value.contains(|c: char| c.is_whitespace() || "\"'=,".contains(c))
        && !value.ends_with(']');
    let at = start + line.len() - written.len() + written.find(value)?;
    is_text.then(|| Unquoted { key: key.trim(), value, place: at..at + value.len() })
}

/// Counts the lines and columns of sorted problems in one pass.
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
