//! The report of a check: text for people, and JSON for programs.
//!
//! **Promises.** Both have every problem, warning and notice, and the numbers of the first two. The names in the JSON are
//! public: added to, never changed. In text, these go to standard error, and all else to standard output.
//!
//! **Not here.** The checks (`commands/check.rs`).

use std::io;
use std::path::Path;

use serde::Serialize;

use super::live::LiveReport;
use crate::app::{Checked, Finding};
use crate::commands::output::{complain, print};
use crate::config::file::{ConfigError, ConfigProblem};
use crate::text::Shown;
use crate::trust::snapshot::Snapshot;

/// The report of a check.
#[derive(Serialize)]
pub(super) struct Report {
    /// The name of the configuration.
    configuration: String,
    problems: Vec<Item>,
    /// The number of problems that are not listed.
    more_problems: usize,
    warnings: Vec<Item>,
    notices: Vec<Item>,
    /// The number of listeners. None: the configuration is invalid.
    listeners: Option<usize>,
    /// The contents of each file.
    files: Vec<String>,
    /// The effects on the devices of a running sidecar. None without `--live`.
    pub(super) live: Option<LiveReport>,
    /// The error for which there are none.
    pub(super) live_error: Option<String>,
    #[serde(skip)]
    pub(super) is_strict: bool,
}

/// The report with its result.
#[derive(Serialize)]
struct Json<'a> {
    valid: bool,
    #[serde(flatten)]
    report: &'a Report,
}

/// A problem or a warning.
#[derive(Default, Serialize)]
struct Item {
    /// The file that it is in.
    file: Option<String>,
    /// The line in this file, from 1.
    line: Option<usize>,
    /// The column, from 1.
    column: Option<usize>,
    /// The key of the configuration, such as `listener[0].timeouts.idle`.
    key: Option<String>,
    listener: Option<String>,
    /// The value found.
    found: Option<String>,
    /// The allowed values.
    expected: Option<String>,
    message: String,
    /// The line of text for people.
    #[serde(skip)]
    text: String,
}

impl Report {
    pub(super) fn new(configuration: &Path) -> Self {
        Self {
            configuration: configuration.to_string_lossy().into_owned(),
            problems: Vec::new(),
            more_problems: 0,
            warnings: Vec::new(),
            notices: Vec::new(),
            listeners: None,
            files: Vec::new(),
            live: None,
            live_error: None,
            is_strict: false,
        }
    }

    /// Adds the result of a check without problems, and returns the candidate.
    pub(super) fn note_checked(&mut self, checked: Checked) -> Vec<Snapshot> {
        let Checked { warnings, notices, files, candidate } = checked;
        self.notices = notices.into_iter().map(Item::from).collect();
        self.warnings = warnings.into_iter().map(Item::from).collect();
        self.files = files;
        self.listeners = Some(candidate.len());
        candidate
    }

    /// Adds problems of the files that the configuration names.
    pub(super) fn note_material(&mut self, problems: Vec<Finding>) {
        self.problems = problems.into_iter().map(Item::from).collect();
    }

    /// Adds the problems of the configuration file.
    pub(super) fn note_file(&mut self, error: &ConfigError) {
        let lines = error.problems.iter().zip(error.lines());
        let item = |(problem, text)| Item::of_file(&error.file, problem, text);
        self.problems = lines.map(item).collect();
        self.more_problems = error.more;
    }

    /// Returns whether there are no problems.
    const fn is_valid(&self) -> bool {
        self.listeners.is_some()
    }

    /// Returns whether the check succeeded.
    pub(super) fn is_good(&self) -> bool {
        self.is_valid()
            && (!self.is_strict || self.warnings.is_empty() && self.affected() == (0, 0))
    }

    /// Returns the number of connected devices that the configuration would end or refuse, and of offers.
    fn affected(&self) -> (usize, usize) {
        self.live.as_ref().map(LiveReport::affected).unwrap_or_default()
    }

    /// Prints the report as text.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub(super) fn print(&self) -> io::Result<()> {
        for problem in &self.problems {
            complain(&problem.text);
        }
        for warning in &self.warnings {
            complain(format_args!("warning: {}", warning.text));
        }
        for notice in &self.notices {
            complain(format_args!("notice: {}", notice.text));
        }
        let live = self.live.iter().flat_map(LiveReport::lines);
        let lines = self.files.iter().cloned().chain(live);
        let written = lines.into_iter().try_for_each(|line| print(format!("{line}\n")));
        let name = Shown(self.configuration.as_ref());
        let counts = self.counts();
        match self.listeners {
            Some(listeners) if self.is_good() => {
                let counts = counts.map_or_else(String::new, |counts| format!(", {counts}"));
                written?;
                print(format!("{name}: good, {listeners} listener(s){counts}\n"))
            }
            Some(_) | None => {
                let strict = if self.is_valid() { ", and --strict is set" } else { "" };
                complain(format_args!("{name}: {}{strict}", counts.unwrap_or_default()));
                written
            }
        }
    }

    /// Returns the numbers of problems, warnings and affected devices; none if there are none.
    fn counts(&self) -> Option<String> {
        let problems = self.problems.len() + self.more_problems;
        let (devices, offers) = self.affected();
        let all = [
            (problems, "problem"),
            (self.warnings.len(), "warning"),
            (devices, "affected device"),
            (offers, "refused offer"),
        ];
        let counted = all.into_iter().filter(|(count, _)| *count > 0);
        let counted: Vec<_> = counted
            .map(|(count, what)| format!("{count} {what}{}", if count == 1 { "" } else { "s" }))
            .collect();
        (!counted.is_empty()).then(|| counted.join(", "))
    }

    /// Prints the report as JSON, on one line.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub(super) fn print_json(&self) -> io::Result<()> {
        let json = Json { valid: self.is_good(), report: self };
        print(serde_json::to_string(&json).expect("it is text") + "\n")
    }
}

impl Item {
    fn of_file(file: &Path, problem: &ConfigProblem, text: String) -> Self {
        let (found, expected) = problem.found_and_expected();
        let (line, column) = problem.place.unzip();
        Self {
            file: Some(file.to_string_lossy().into_owned()),
            line,
            column,
            key: Some(problem.key.clone()).filter(|key| !key.is_empty()),
            listener: None,
            found: found.map(str::to_owned),
            expected: expected.map(str::to_owned),
            message: problem.message.clone(),
            text,
        }
    }
}

impl From<Finding> for Item {
    fn from(finding: Finding) -> Self {
        let text = finding.to_string();
        let Finding { listener, file, line, message } = finding;
        let file = file.map(|file| file.to_string_lossy().into_owned());
        Self { file, line, listener, message, text, ..Self::default() }
    }
}
