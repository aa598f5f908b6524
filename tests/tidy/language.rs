//! Language of the doc comments: they open with a verb or a noun phrase.
//!
//! CONTRIBUTING.md has the rule.

use super::{read, rust_files};

/// Words that open a clause where a verb or a noun phrase is expected.
const CLAUSE_WORDS: [&str; 10] =
    ["How", "That", "What", "When", "Where", "Whether", "Which", "Who", "Whoever", "Whose"];

/// Returns the first line of each doc comment (`///` or `//!`) of a Rust source text.
///
/// Consecutive lines of the same kind are one comment.
fn openings(source: &str) -> Vec<&str> {
    let mut openings = Vec::new();
    let mut previous = None;
    for line in source.lines().map(str::trim) {
        let kind = ["///", "//!"].into_iter().find(|kind| line.starts_with(kind));
        if let Some(kind) = kind.filter(|_| previous != kind) {
            openings.push(line[kind.len()..].trim());
        }
        previous = kind;
    }
    openings
}

/// Returns true if the text opens with one of `CLAUSE_WORDS`.
fn opens_with_clause(opening: &str) -> bool {
    let word = opening.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    CLAUSE_WORDS.contains(&word)
}

#[test]
fn doc_comments_open_with_a_verb_or_a_noun_phrase() {
    let mut all = 0;
    let mut found = Vec::new();
    for file in ["src", "tests", "benches"].into_iter().flat_map(rust_files) {
        let text = read(&file);
        let openings = openings(&text);
        all += openings.len();
        let offending = openings.into_iter().filter(|text| opens_with_clause(text));
        found.extend(offending.map(|text| format!("{}: {text}", file.display())));
    }
    assert!(all > 1000, "{all} doc comments");
    assert!(found.is_empty(), "see CONTRIBUTING.md:\n{}", found.join("\n"));
}

#[test]
fn an_opening_clause_is_found() {
    let source = "//! What this file does.\n//! How it does it.\n\n/// Parses a name.\n/// What it returns.\n\
                  fn a() {}\n    /// Whether it is open.\n    open: bool,\n/// Whatever else: no clause word.\n";
    let openings = openings(source);
    assert_eq!(
        openings,
        [
            "What this file does.",
            "Parses a name.",
            "Whether it is open.",
            "Whatever else: no clause word."
        ]
    );
    let found: Vec<_> = openings.into_iter().filter(|text| opens_with_clause(text)).collect();
    assert_eq!(found, ["What this file does.", "Whether it is open."]);
}
