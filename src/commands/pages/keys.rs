//! The keys of the configuration file, as docs/configuration.md lists them.
//!
//! **Promises.** Every key of the file is one of them (`tests/tidy/flags.rs`).
//!
//! **Not here.** Their types (`config/file/sections.rs`).

/// The block of docs/configuration.md with all keys (`build.rs`).
const BLOCK: &str = include_str!(concat!(env!("OUT_DIR"), "/keys.toml"));

/// A section of the file.
#[derive(Debug)]
pub struct Section {
    /// Its heading, such as `[listener.tls]`.
    pub heading: String,
    /// Its meaning. Empty: its heading says it.
    pub text: String,
    /// Its keys.
    pub keys: Vec<Key>,
}

/// A key of the file.
#[derive(Debug)]
pub struct Key {
    /// Its name, with the table that it is in: `tls.client_auth` in a route.
    pub name: String,
    /// The default or, without one, an example: in TOML.
    pub value: String,
    /// The value is the default.
    pub has_default: bool,
    /// The meaning.
    pub text: String,
}

/// Returns the sections, in the order of the page.
#[must_use]
pub fn sections() -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut lines = BLOCK.lines();
    while let Some(line) = lines.next() {
        let (written, text) = line.split_once(" #").unwrap_or((line, ""));
        let (written, text) = (written.trim(), text.trim().to_owned());
        if written.starts_with('[') {
            let heading = written.to_owned();
            sections.push(Section { heading, text, keys: Vec::new() });
            continue;
        }
        let Some(section) = sections.last_mut() else { continue };
        let has_default = !written.starts_with("# ");
        let Some((name, value)) = written.trim_start_matches("# ").split_once(" = ") else {
            continue;
        };
        let mut value = value.to_owned();
        if value == "[" {
            let items = lines.by_ref().take_while(|line| line.trim() != "]");
            let items: Vec<_> = items.map(|line| line.trim().trim_end_matches(',')).collect();
            value = format!("[{}]", items.join(", "));
        }
        section.keys.push(Key { name: name.to_owned(), value, has_default, text });
    }
    sections
}
