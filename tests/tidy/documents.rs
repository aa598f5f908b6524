//! Documents: complete lists of reasons, metrics and problems, links, examples.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use tlsidecar::commands::probe::problem::ProblemKind;
use tlsidecar::config::file;
use tlsidecar::metrics::Metrics;
use tlsidecar::terms::reason::Reason;

use super::{first_column, pages, read, root, rust_files};

#[test]
fn architecture_names_every_room() {
    let text = read("ARCHITECTURE.md");
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let room = name.strip_suffix(".rs").unwrap_or(&name);
        let named = [format!("`{room}/`"), format!("`{room}.rs`")];
        assert!(named.iter().any(|form| text.contains(form)), "{room} is not in ARCHITECTURE.md");
    }
}

#[test]
fn every_reason_is_documented_and_nothing_else() {
    let documented = first_column(&read("docs/reasons.md"));
    let reasons: BTreeSet<_> = Reason::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(documented, reasons);
}

#[test]
fn every_problem_of_the_probe_is_documented_and_nothing_else() {
    let page = read("docs/probe.md");
    let table = page.split("## Problems").nth(1).unwrap().split("\n## ").next().unwrap();
    let problems: BTreeSet<_> = ProblemKind::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(first_column(table), problems);
}

#[test]
fn every_metric_is_documented_and_nothing_else() {
    let mut names = BTreeSet::new();
    for file in rust_files("src/metrics") {
        let text = read(&file);
        let constants = text.split('"').skip(1).step_by(2);
        names.extend(constants.filter(|s| s.starts_with("tlsidecar_")).map(str::to_owned));
    }
    assert!(names.len() > 40);
    // Metrics of the operating system, which the library names.
    let metrics = Metrics::new();
    let text = String::from_utf8(metrics.render().unwrap().0).unwrap();
    let given = text.lines().filter_map(|line| line.strip_prefix("# TYPE process_"));
    names.extend(given.map(|line| format!("process_{}", line.split(' ').next().unwrap())));
    assert_eq!(first_column(&read("docs/metrics.md")), names);
}

#[test]
fn every_metric_says_what_to_do_and_names_its_labels_values() {
    let page = read("docs/metrics.md");
    let rows: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>())
        .collect();
    for row in &rows {
        assert_eq!(row.len(), 5, "name, type, labels, meaning, what to do: {row:?}");
        assert!(["counter", "gauge", "histogram"].contains(&row[1]), "{row:?}");
        assert!(row[3].len() > 10 && row[4].len() > 2, "{row:?}");
    }
    assert!(rows.len() > 40);
}

#[test]
fn every_key_of_the_access_log_is_documented_and_nothing_else() {
    let source = read("src/proxy/record.rs");
    let event =
        source.split("tracing::event!(").nth(1).unwrap().split(")\n    }};").next().unwrap();
    let keys: BTreeSet<_> = event
        .lines()
        .filter_map(|line| line.trim().split_once(" = "))
        .map(|(key, _)| key.to_owned())
        .collect();
    assert!(keys.len() > 10);
    let page = read("docs/log.md");
    let log = page.split("## Access log").nth(1).unwrap().split("\n## ").next().unwrap();
    assert_eq!(first_column(log), keys);
}

/// Returns the TOML in a page.
pub(super) fn toml_blocks(page: &str) -> Vec<String> {
    page.split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

#[test]
fn the_configurations_in_the_documents_are_good() {
    let dir = tempfile::tempdir().unwrap();
    let of_plant = ["plant-a.crt", "plant-a.key", "plant-a-ca.crt"];
    for name in ["tls.crt", "tls.key", "ca.crt", "devices-ca.crt"].into_iter().chain(of_plant) {
        fs::write(dir.path().join(name), "").unwrap();
    }
    let mut checked = 0;
    for page in ["README.md", "docs/configuration.md"] {
        for text in toml_blocks(&read(page)) {
            let parsed = file::parse(&text, &dir.path().join("tlsidecar.toml"));
            assert!(parsed.is_ok(), "{page}: {}", parsed.unwrap_err());
            checked += 1;
        }
    }
    assert_eq!(checked, 4);
}

/// Returns the anchors of a page's headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let named = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        heading.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
    };
    headings.map(named).collect()
}

#[test]
fn the_tests_that_pages_name_exist() {
    for page in ["docs/trust.md", "docs/reliability.md", "docs/device-failures.md"] {
        let page = read(page);
        let named: BTreeSet<_> = page.split('`').filter(|text| text.contains("::")).collect();
        for name in &named {
            let (module, test) = name.rsplit_once("::").unwrap();
            let text = read(format!("tests/{}.rs", module.replace("::", "/")));
            assert!(text.contains(&format!("fn {test}()")), "{name}: there is no such test");
        }
        assert!(named.len() > 15, "{}", named.len());
    }
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let (mut checked, mut places) = (0, 0);
    let top = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "certs/README.md",
        "deploy/README.md",
        "examples/README.md",
        "examples/modbus/README.md",
        "examples/mqtt/README.md",
    ];
    for page in pages("docs").into_iter().chain(top.map(PathBuf::from)) {
        let page = root().join(page);
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let outside = link.starts_with("http");
            assert!(outside || target.exists(), "{}: {link}", page.display());
            if !outside && !place.is_empty() {
                let there = anchors(&fs::read_to_string(&target).unwrap()).contains(place);
                assert!(there, "{}: {link}: there is no such heading", page.display());
                places += 1;
            }
            checked += 1;
        }
    }
    assert!(checked > 40 && places > 8, "{checked} links, {places} of them to a heading");
}
