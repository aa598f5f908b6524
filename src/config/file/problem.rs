//! Collects every problem of a file, so that an operator mends them all in one go.
//!
//! serde stops at the first value that it refuses. [`Problems::collect`] therefore notes the
//! refusal, takes the refused entry out of the parsed document, and tries again until the rest is
//! accepted. What was taken out is remembered, so that it is not reported as missing as well.
//!
//! **Not here.** Which values are allowed (`text.rs`, `file.rs`).

use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Deserializer};

/// Why a configuration is not usable: all of its problems.
#[derive(Debug)]
pub struct ConfigError {
    /// The file, as it was given.
    pub file: PathBuf,
    /// At least one, sorted by place.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong with a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
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
        let problem = Problem { place: None, key: String::new(), message };
        Self { file: file.to_owned(), problems: vec![problem] }
    }

    /// One line a problem: `file:line:column: key: message`.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let line = |problem: &Problem| {
            let file = self.file.display();
            let place = problem.place.map(|(line, column)| format!("{line}:{column}:"));
            let key = Some(&problem.key).filter(|key| !key.is_empty());
            let key = key.map(|key| format!(" {key}:"));
            let (place, key) = (place.unwrap_or_default(), key.unwrap_or_default());
            format!("{file}:{place}{key} {}", problem.message)
        };
        self.problems.iter().map(line)
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
    /// Each with the offset of its place, to sort by.
    found: Vec<(usize, Problem)>,
    /// Keys whose values were refused and taken out of the document.
    refused: Vec<String>,
    /// The files that are named, each with the place and the key of its name.
    named_files: Vec<(Range<usize>, String, PathBuf)>,
}

impl<'a> Problems<'a> {
    pub(super) const fn new(text: &'a str, file: &'a Path) -> Self {
        Self { text, file, found: Vec::new(), refused: Vec::new(), named_files: Vec::new() }
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
            let readable =
                File::open(&path).and_then(|file| file.metadata()).and_then(|metadata| {
                    if metadata.is_file() { Ok(()) } else { Err(ErrorKind::IsADirectory.into()) }
                });
            if let Err(error) = readable {
                let path = path.display().to_string();
                self.at(span, &key, &format!("found {path:?}, which cannot be read: {error}"));
            }
        }
    }

    /// Notes a problem of the file as a whole.
    pub(super) fn file(&mut self, message: &str) {
        let problem = Problem { place: None, key: String::new(), message: message.to_owned() };
        self.found.push((0, problem));
    }

    /// Notes a problem with the value of `key`, which stands at `span`.
    pub(super) fn at(&mut self, span: Range<usize>, key: &str, message: &str) {
        let place = Some(line_and_column(self.text, span.start));
        let problem = Problem { place, key: key.to_owned(), message: message.to_owned() };
        self.found.push((span.start, problem));
    }

    /// Whether the value of `key` was refused, and so does not count as missing.
    pub(super) fn refused(&self, key: &str) -> bool {
        let below = |refused: &String| {
            refused.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
        };
        self.refused.iter().any(below)
    }

    /// Whether a key of `section` was refused that is none of those that it can have.
    pub(super) fn has_unknown(&self, section: &str, known: &[&str]) -> bool {
        let mut keys =
            self.refused.iter().filter_map(|key| key.strip_prefix(section)?.strip_prefix('.'));
        keys.any(|key| !known.contains(&key))
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
        let mut rest = document.get_ref().clone();
        loop {
            let candidate = Spanned::new(document.span(), rest.clone());
            let error = match T::deserialize(Deserializer::from(candidate)) {
                Ok(value) => return Some(value),
                Err(error) => error,
            };
            let span = error.span().unwrap_or(0..0);
            let key = path_in_table(document.get_ref(), &span);
            self.at(span.clone(), key.as_deref().unwrap_or_default(), error.message());
            // Without a place it cannot be taken out, and would be refused for ever.
            self.refused.push(key?);
            rest = without(rest, &span);
        }
    }

    /// The value, if there was no problem.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<T, ConfigError> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => {
                self.found.sort_by_key(|(offset, _)| *offset);
                let problems = self.found.into_iter().map(|(_, problem)| problem).collect();
                Err(ConfigError { file: self.file.to_owned(), problems })
            }
        }
    }
}

/// The path of the entry whose key or value stands at `span`.
fn path_in_table(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let name = key.get_ref();
        if key.span() == *span || value.span() == *span {
            return Some(name.to_string());
        }
        match value.get_ref() {
            DeValue::Table(table) => {
                path_in_table(table, span).map(|below| format!("{name}.{below}"))
            }
            DeValue::Array(array) => {
                path_in_array(array, span).map(|below| format!("{name}{below}"))
            }
            _ => None,
        }
    })
}

fn path_in_array(array: &DeArray<'_>, span: &Range<usize>) -> Option<String> {
    array.iter().enumerate().find_map(|(index, item)| match item.get_ref() {
        _ if item.span() == *span => Some(format!("[{index}]")),
        DeValue::Table(table) => {
            path_in_table(table, span).map(|below| format!("[{index}].{below}"))
        }
        DeValue::Array(array) => {
            path_in_array(array, span).map(|below| format!("[{index}]{below}"))
        }
        _ => None,
    })
}

/// The table without whatever stands at `span`.
fn without<'i>(table: DeTable<'i>, span: &Range<usize>) -> DeTable<'i> {
    let kept = table.into_iter().filter(|(k, v)| k.span() != *span && v.span() != *span);
    kept.map(|(key, value)| (key, value_without(value, span))).collect()
}

fn value_without<'i>(value: Spanned<DeValue<'i>>, span: &Range<usize>) -> Spanned<DeValue<'i>> {
    let place = value.span();
    let value = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(without(table, span)),
        DeValue::Array(array) => {
            let kept = array.into_iter().filter(|item| item.span() != *span);
            DeValue::Array(kept.map(|item| value_without(item, span)).collect())
        }
        leaf => leaf,
    };
    Spanned::new(place, value)
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
