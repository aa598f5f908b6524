//! A problem or a warning about a configuration that is checked.
//!
//! **Promises.** As text it is one escaped line.
//!
//! **Not here.** Problems of the configuration file itself (`config/file/problem.rs`).

use std::fmt;
use std::path::PathBuf;

use crate::text::one_line;
use crate::trust::findings::{CertError, Warning};

/// A problem or a warning about a configuration that is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The listener that it is about. None: the process.
    pub listener: Option<String>,
    /// The file that it is about, if it is one.
    pub file: Option<PathBuf>,
    /// The line in this file, from 1.
    pub line: Option<usize>,
    /// The text, which names the file, and not the listener.
    pub message: String,
}

impl Finding {
    pub(super) const fn of_process(message: String) -> Self {
        Self { listener: None, file: None, line: None, message }
    }

    pub(super) fn of_listener(listener: &str, message: String) -> Self {
        Self { listener: Some(listener.to_owned()), ..Self::of_process(message) }
    }

    pub(super) fn of_file(listener: &str, error: &CertError) -> Self {
        let (file, line) = (Some(error.file.clone()), error.line);
        Self { file, line, ..Self::of_listener(listener, error.to_string()) }
    }

    pub(super) fn of_warning(listener: &str, warning: &Warning) -> Self {
        let (file, line) = warning.place();
        let file = file.map(ToOwned::to_owned);
        Self { file, line, ..Self::of_listener(listener, warning.to_string()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listener = self.listener.as_ref().map(|name| format!("listener {name:?}: "));
        let listener = listener.unwrap_or_default();
        f.write_str(&one_line(&format!("{listener}{}", self.message)))
    }
}
