//! Language of the doc comments in src: they open with a verb or a noun phrase.
//!
//! CONTRIBUTING.md has the rule. A share below the limit is accepted, because a clause is sometimes the
//! shortest true sentence.

use super::{read, rust_files};

/// Words that open a clause where a verb or a noun phrase is expected.
const CLAUSE_WORDS: [&str; 10] =
    ["How", "That", "What", "When", "Where", "Whether", "Which", "Who", "Whoever", "Whose"];

/// Highest accepted share of doc comments that open with a clause.
const LIMIT: f64 = 0.03;

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

/// Returns the offending openings and their share.
fn offending<'a>(openings: &[&'a str]) -> (Vec<&'a str>, f64) {
    let found: Vec<_> = openings.iter().copied().filter(|text| opens_with_clause(text)).collect();
    let share = found.len() as f64 / openings.len() as f64;
    (found, share)
}

#[test]
fn doc_comments_open_with_a_verb_or_a_noun_phrase() {
    let files: Vec<_> = rust_files("src").into_iter().map(|file| (read(&file), file)).collect();
    let all: Vec<_> = files.iter().flat_map(|(text, _)| openings(text)).collect();
    assert!(all.len() > 1000, "{} doc comments", all.len());
    let (found, share) = offending(&all);
    println!(
        "{} of {} doc comments open with a clause: {:.1} %",
        found.len(),
        all.len(),
        share * 100.0
    );
    if share >= LIMIT {
        for (text, file) in &files {
            for opening in openings(text).into_iter().filter(|text| opens_with_clause(text)) {
                println!("{}: {opening}", file.display());
            }
        }
        panic!(
            "{:.1} % of the doc comments open with a clause: see CONTRIBUTING.md",
            share * 100.0
        );
    }
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
    let (found, share) = offending(&openings);
    assert_eq!(found, ["What this file does.", "Whether it is open."]);
    assert!(share >= LIMIT, "the fixture is over the limit: {share}");
}
