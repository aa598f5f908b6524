//! Reads files of allow rules, and compares names with patterns. The first byte of an input selects one; a pattern
//! and a name are on two lines.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tlsidecar::trust::fuzz::{allow_rules, text_rule, uri_rule};

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(data) else { return };
    if which % 3 == 0 {
        if let Err(problems) = allow_rules(text) {
            assert!((1..=101).contains(&problems), "{problems} problems");
        }
        return;
    }
    let Some((pattern, name)) = text.split_once('\n') else { return };
    let (found, expected) = match which % 3 {
        1 => {
            let Some(found) = text_rule(pattern, name) else { return };
            (found, matches(&lower(pattern), &lower(name), "."))
        }
        _ => {
            let Some(found) = uri_rule(pattern, name) else { return };
            (found, matches(&chars(pattern), &chars(name), ""))
        }
    };
    assert_eq!(found, expected, "{pattern:?} and {name:?}");
});

fn chars(text: &str) -> Vec<char> {
    text.chars().collect()
}

fn lower(text: &str) -> Vec<char> {
    chars(&text.to_ascii_lowercase())
}

/// Compares a name with a pattern in the simplest way: a star stands for one or more characters, none of them a
/// slash or one of `ends`.
fn matches(pattern: &[char], name: &[char], ends: &str) -> bool {
    match pattern {
        [] => name.is_empty(),
        ['*', rest @ ..] => {
            let label = name.iter().take_while(|&&c| c != '/' && !ends.contains(c)).count();
            (1..=label).any(|end| matches(rest, &name[end..], ends))
        }
        [c, rest @ ..] => name.first() == Some(c) && matches(rest, &name[1..], ends),
    }
}
