//! The table of causes in docs/device-failures.md: each metric, alert, reason and key exists and names the cause.

use std::collections::{BTreeMap, BTreeSet};

use tlsidecar::terms::reason::Reason;

use super::{first_column, read, rust_files};

/// A row of the table.
struct Row<'a> {
    cause: &'a str,
    metric: &'a str,
    alert: &'a str,
    log: &'a str,
    test: &'a str,
}

/// Returns the rows of the table.
fn rows(page: &str) -> Vec<Row<'_>> {
    let table = page.split("## Causes, and what names them\n").nth(1).unwrap();
    table.lines().filter(|line| line.starts_with("| ")).skip(1).map(row).collect()
}

fn row(line: &str) -> Row<'_> {
    let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
    let [cause, metric, alert, log, test] = cells[..] else { panic!("{line}") };
    Row { cause, metric, alert, log, test }
}

/// Returns the parts of a cell between these marks.
fn quoted(cell: &str, mark: char) -> impl Iterator<Item = &str> {
    cell.split(mark).skip(1).step_by(2)
}

/// Splits `name="value"`; the value is empty if there is none.
fn key_and_value(text: &str) -> (&str, &str) {
    text.split_once('=').map_or((text, ""), |(key, value)| (key, value.trim_matches('"')))
}

fn reasons() -> BTreeSet<String> {
    Reason::ALL.iter().map(ToString::to_string).collect()
}

#[test]
fn the_table_has_all_causes() {
    let page = read("docs/device-failures.md");
    let rows = rows(&page);
    let causes: BTreeSet<_> = rows.iter().map(|row| row.cause).collect();
    assert!(causes.len() == rows.len() && rows.len() >= 24, "{causes:?}");
    for row in &rows {
        assert!(row.test.contains("::"), "{}: no test stages it", row.cause);
    }
}

#[test]
fn the_metrics_of_causes_are_documented_with_their_labels_and_values() {
    let page = read("docs/metrics.md");
    let documented: BTreeMap<_, _> = page
        .lines()
        .filter_map(|line| Some((line.strip_prefix("| `tlsidecar_")?.split_once('`')?.0, line)))
        .collect();
    for row in rows(&read("docs/device-failures.md")) {
        let mut last = "";
        for series in quoted(row.metric, '`') {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            last = if name.is_empty() { last } else { name };
            let about = documented.get(last);
            let about = about.unwrap_or_else(|| panic!("{}: no metric {last}", row.cause));
            if labels.is_empty() {
                continue;
            }
            let (key, value) = key_and_value(labels.trim_end_matches('}'));
            assert!(about.contains(&format!("`{key}`")), "{last} has no label {key}");
            let is_known = about.contains(&format!("`{value}`"))
                || (key == "reason" && reasons().contains(value))
                || (key == "alert"
                    && read("src/terms/labels.rs").contains(&format!("=> {value:?}")));
            assert!(is_known, "{last}: {key} has no value {value}");
        }
        assert!(!last.is_empty(), "{}: no metric names it", row.cause);
    }
}

#[test]
fn the_reasons_keys_and_lines_of_causes_exist() {
    let page = read("docs/log.md");
    let log = page.split("## Access log").nth(1).unwrap().split("\n## ").next().unwrap();
    let (keys, reasons) = (first_column(log), reasons());
    let sources: String = rust_files("src").iter().map(read).collect();
    for row in rows(&read("docs/device-failures.md")) {
        let mut found = BTreeSet::new();
        for term in quoted(row.log, '`') {
            let (key, _) = key_and_value(term);
            assert!(keys.contains(key) || reasons.contains(key), "{}: {key}", row.cause);
            found.insert(reasons.contains(key));
        }
        assert!(found.contains(&true), "{}: no reason", row.cause);
        let without_terms: String = row.log.split('`').step_by(2).collect();
        for line in quoted(&without_terms, '"') {
            assert!(sources.contains(line), "{}: no line {line:?}", row.cause);
        }
    }
}

/// A case of promtool: the alerts that it expects, with their texts.
struct Case {
    alerts: BTreeSet<String>,
    text: String,
}

/// Returns the cases of deploy/prometheus/tests/causes.yml by name.
fn cases(file: &str) -> BTreeMap<&str, Case> {
    let case = |text: &str| {
        let named = text.lines().filter_map(|line| line.split_once("alertname: "));
        let alerts = named.map(|(_, name)| name.trim().to_owned()).collect();
        // Descriptions are folded.
        let words: Vec<_> = text.split_whitespace().collect();
        Case { alerts, text: words.join(" ") }
    };
    let cases = file.split("\n  - name: ").skip(1).filter_map(|text| text.split_once('\n'));
    cases.map(|(name, text)| (name.trim(), case(text))).collect()
}

#[test]
fn the_alerts_of_causes_are_raised_by_a_case_whose_texts_name_the_cause() {
    let rules = read("deploy/prometheus/rules/alerts.yml");
    let file = read("deploy/prometheus/tests/causes.yml");
    let mut cases = cases(&file);
    for row in rows(&read("docs/device-failures.md")) {
        let (names, parts): (BTreeSet<_>, Vec<_>) = quoted(row.alert, '`').fold(
            (BTreeSet::new(), Vec::new()),
            |(mut names, mut parts), term| {
                if term.starts_with("Tlsidecar") {
                    names.insert(term.to_owned());
                } else {
                    parts.push(term);
                }
                (names, parts)
            },
        );
        let case = cases.remove(row.cause);
        let case = case.unwrap_or_else(|| panic!("causes.yml has no case {:?}", row.cause));
        for name in &names {
            let is_alert = rules.contains(&format!("- alert: {name}\n"));
            assert!(is_alert && case.alerts.contains(name), "{}: {name}", row.cause);
        }
        for part in parts {
            assert!(case.text.contains(part), "{}: no description has {part}", row.cause);
        }
        assert!(!names.is_empty(), "{}: no alert", row.cause);
    }
    assert!(cases.is_empty(), "of no cause: {:?}", cases.keys());
}
