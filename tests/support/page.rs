//! Parses a page of the documentation into commands and their expected output.
//!
//! Every fence of the kind `sh` is run, in the order of the page. A `text` fence after it is its expected
//! output: each line has to appear, in this order, possibly among others; `…` matches any text within a line.
//! With the comment `<!-- the other terminal -->` above it, it is the output of a separate terminal. A comment
//! above a fence of commands changes how they are run:
//!
//! - `<!-- not run: reason -->`: not run.
//! - `<!-- in a separate terminal -->`: keeps running while the rest is run.
//! - `<!-- fails -->`: its last command fails.
//! - `<!-- after a moment -->`: a query, repeated until it prints the expected output.

use std::path::Path;

/// A fence of commands with its expected output.
#[derive(Debug)]
pub(crate) struct Block {
    /// Its line in the page.
    pub(crate) line: usize,
    /// Heading of its section.
    pub(crate) section: String,
    /// Way in which it is run.
    pub(crate) how: How,
    pub(crate) commands: String,
    /// Expected lines of the output, with `…` for any text.
    pub(crate) expected: Vec<String>,
    /// Expected lines of a separate terminal.
    pub(crate) elsewhere: Vec<String>,
}

/// Ways to run a block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum How {
    /// Each command succeeds.
    Succeeds,
    /// The last command fails.
    Fails,
    /// In a separate terminal, until the end of the page.
    Beside,
    /// Repeated until the output is as expected.
    AfterAMoment,
    /// Not at all.
    NotRun,
}

/// The blocks of a page of this repository.
pub(crate) fn blocks(page: &str) -> Vec<Block> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{page}: {error}"));
    let blocks = parse(page, &text);
    assert!(!blocks.is_empty(), "{page} has no commands");
    blocks
}

fn parse(page: &str, text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut above, mut section) = ("", "");
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let (at, remark) = (format!("{page}:{}", number + 1), std::mem::replace(&mut above, line));
        section = line.strip_prefix("## ").unwrap_or(section);
        let Some(kind) = line.strip_prefix("```") else { continue };
        let content: Vec<_> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        above = "";
        match kind {
            "sh" => blocks.push(Block {
                line: number + 1,
                section: section.to_owned(),
                how: how(&at, remark),
                commands: content.join("\n") + "\n",
                expected: Vec::new(),
                elsewhere: Vec::new(),
            }),
            "text" => {
                // A text before the first command is no output.
                let Some(block) = blocks.last_mut() else { continue };
                let other = remark == "<!-- the other terminal -->";
                let said = if other { &mut block.elsewhere } else { &mut block.expected };
                assert!(said.is_empty(), "{at}: there are two outputs of one block");
                *said = content.iter().map(|line| line.trim_end().to_owned()).collect();
            }
            "c" | "dockerfile" | "ini" | "python" | "toml" | "yaml" => {}
            _ => panic!("{at}: unknown kind of fence: {kind:?}"),
        }
    }
    blocks
}

fn how(at: &str, remark: &str) -> How {
    let Some(remark) = remark.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"))
    else {
        return How::Succeeds;
    };
    match remark {
        "fails" => How::Fails,
        "in a separate terminal" => How::Beside,
        "after a moment" => How::AfterAMoment,
        _ if remark.strip_prefix("not run: ").is_some_and(|why| why.len() > 10) => How::NotRun,
        _ => panic!("{at}: unknown comment: {remark:?}"),
    }
}

/// Returns the first expected line that is missing in an output. Each line is searched after the previous match.
pub(crate) fn missing<'a>(expected: &'a [String], output: &str) -> Option<&'a String> {
    let mut lines = output.lines();
    expected.iter().find(|wanted| !lines.any(|line| fits(wanted, line.trim_end())))
}

/// Returns true if a line matches an expected line.
fn fits(wanted: &str, line: &str) -> bool {
    let mut parts = wanted.split('…');
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        if let Some(part) = last.replace(part) {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}

#[test]
fn a_line_fits_what_it_is_expected_to_be_and_nothing_else() {
    for (wanted, line, fine) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a…", "ab", true),
        ("…b", "ab", true),
        ("a…c…e", "abcde", true),
        ("a…c…e", "abde", false),
        ("a…a", "a", false),
        ("…", "", true),
    ] {
        assert_eq!(fits(wanted, line), fine, "{wanted} {line}");
    }
}

#[test]
fn outputs_belong_to_the_commands_before_them() {
    let text = "<!-- fails -->\n```sh\nfalse\n```\nand\n```text\none\ntwo\n```\n";
    let blocks = parse("page", text);
    assert_eq!((blocks[0].line, blocks[0].how), (2, How::Fails));
    assert_eq!(blocks[0].commands, "false\n");
    assert_eq!(missing(&blocks[0].expected, "zero\none\ntwo\n"), None);
    assert_eq!(missing(&blocks[0].expected, "two\none\n").unwrap(), "two");
}
