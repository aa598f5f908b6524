//! Layers: the ranks of the rooms in `src/`, and the absence of cycles between its files, computed from the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::imports::{Imports, is_test, module};
use super::{root, rust_files};

/// The rooms from the top down. A room imports only rooms below it.
const RANKS: &[&[&str]] = &[
    &["lib", "main"],
    &["commands"],
    &["app"],
    &["proxy"],
    &["control"],
    &["sessions"],
    &["reload"],
    &["metrics"],
    &["trust"],
    &["lifecycle"],
    &["config"],
    &["events"],
    &["terms"],
    &["logging"],
    &["blocking", "memory", "regular_file", "runtime", "text", "time", "transparent", "value"],
    &["lock"],
];

/// The imports of each module: from the module's name to the names of the modules.
type Graph = BTreeMap<String, BTreeSet<String>>;

fn graph(src: &str) -> Graph {
    let files = rust_files(src);
    let files: Vec<_> = files.iter().map(|file| file.strip_prefix(src).unwrap()).collect();
    let modules: BTreeSet<_> = files.iter().map(|file| module(file)).collect();
    let target = |path: &str| {
        let names: Vec<_> = path.strip_prefix("crate::")?.split("::").collect();
        (1..=names.len()).rev().map(|n| names[..n].join("::")).find(|name| modules.contains(name))
    };
    let imports = |file: &Path| {
        let found = Imports::of(&root().join(src), file).found;
        found.iter().filter_map(|path| target(path)).filter(|to| *to != module(file)).collect()
    };
    let code = files.iter().filter(|file| !is_test(&module(file)) && **file != Path::new("lib.rs"));
    code.map(|file| (module(file), imports(file))).collect()
}

fn rank(module: &str) -> Option<usize> {
    let room = module.split("::").next();
    RANKS.iter().position(|rooms| rooms.iter().any(|name| Some(*name) == room))
}

/// Returns the imports between rooms that do not go down.
fn upward(graph: &Graph) -> Vec<String> {
    let edges = graph.iter().flat_map(|(from, to)| to.iter().map(move |to| (from, to)));
    let room = |module: &str| module.split("::").next().map(str::to_owned);
    let between = edges.filter(|(from, to)| room(from) != room(to));
    let wrong = between.filter(|(from, to)| match (rank(from), rank(to)) {
        (Some(from), Some(to)) => from >= to,
        _ => true,
    });
    wrong.map(|(from, to)| format!("{from} → {to}")).collect()
}

/// Returns the modules that import themselves through others.
fn in_cycles(graph: &Graph) -> Vec<&String> {
    let is_reached = |module: &String| {
        let (mut reached, mut ahead) = (BTreeSet::new(), vec![module]);
        while let Some(next) = ahead.pop() {
            ahead.extend(graph.get(next).into_iter().flatten().filter(|to| reached.insert(*to)));
        }
        reached.contains(module)
    };
    graph.keys().filter(|module| is_reached(module)).collect()
}

#[test]
fn imports_go_down() {
    let graph = graph("src");
    assert!(graph.len() > 100);
    assert_eq!(upward(&graph), [""; 0], "see ARCHITECTURE.md");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    assert_eq!(in_cycles(&graph("src")), [""; 0]);
}

#[test]
fn an_import_of_a_higher_room_is_found() {
    let found = upward(&graph("tests/tidy/fixtures/upward"));
    assert_eq!(found, ["terms::labels → metrics", "unranked → terms::labels"]);
}

#[test]
fn a_cycle_between_files_is_found() {
    let graph = graph("tests/tidy/fixtures/cycle");
    assert_eq!(in_cycles(&graph), ["trust", "trust::certs", "trust::tickets"]);
}
