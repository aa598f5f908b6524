//! Figures of all rounds: medians as tables in Markdown, raw values as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::chart;
use super::limit::LIMIT;
use super::load::Figure;
use super::peer::{PLAIN_RELAY, Peer};

/// Results of one run.
pub struct Report {
    rounds: usize,
    /// Name and version, in the order of the columns.
    peers: Vec<(&'static str, String)>,
    /// In the order of measurement.
    rows: Vec<Row>,
}

/// One figure of one load: a value for each peer and round.
struct Row {
    load: &'static str,
    figure: &'static str,
    values: BTreeMap<&'static str, Vec<f64>>,
}

impl Report {
    pub const fn new(rounds: usize) -> Self {
        Self { rounds, peers: Vec::new(), rows: Vec::new() }
    }

    /// Adds a peer if it is installed. Returns whether it is.
    pub fn version_of(&mut self, peer: &Peer) -> bool {
        match peer.version() {
            Some(version) => {
                self.peers.push((peer.name, version));
                true
            }
            None => {
                eprintln!("SKIPPED: {} is not installed", peer.name);
                false
            }
        }
    }

    /// Adds a column that is no peer.
    pub fn add_column(&mut self, name: &'static str, description: &str) {
        self.peers.push((name, description.to_owned()));
    }

    pub fn add(&mut self, load: &'static str, peer: &'static str, figures: Vec<Figure>) {
        for (figure, value) in figures {
            let at = self.rows.iter().position(|row| row.load == load && row.figure == figure);
            let at = at.unwrap_or_else(|| {
                self.rows.push(Row { load, figure, values: BTreeMap::new() });
                self.rows.len() - 1
            });
            self.rows[at].values.entry(peer).or_default().push(value);
        }
    }

    /// Returns the median of a figure over the rounds.
    pub fn median(&self, load: &str, figure: &str, peer: &str) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.load == load && row.figure == figure)?;
        row.median(peer)
    }

    /// Returns the other proxies with TLS, with their medians of a figure.
    pub fn others(&self, load: &str, figure: &str) -> Vec<(&'static str, f64)> {
        let no_peers = [OURS, FLOOR, PLAIN_RELAY, LIMIT];
        let tls = self.peers.iter().filter(|(name, _)| !no_peers.contains(name));
        tls.filter_map(|(name, _)| Some((*name, self.median(load, figure, name)?))).collect()
    }

    /// Returns the names of the peers, in the order of the columns.
    pub fn peers(&self) -> impl Iterator<Item = &'static str> {
        self.peers.iter().map(|(name, _)| *name)
    }

    /// Returns a table for each kind of figure, with a row for each load and a column for each peer.
    pub fn tables(&self) -> String {
        let mut text = format!("\nMedians of {} rounds.\n", self.rounds);
        for (name, version) in &self.peers {
            let _infallible = writeln!(text, "- {name}: {version}");
        }
        let mut figures: Vec<_> = self.rows.iter().map(|row| row.figure).collect();
        figures.dedup();
        let mut listed: Vec<&str> = Vec::new();
        for figure in figures {
            if !listed.contains(&figure) {
                listed.push(figure);
                self.table(figure, &mut text);
            }
        }
        text
    }

    fn table(&self, figure: &str, text: &mut String) {
        let names: Vec<_> = self.peers().collect();
        let rule = "---|".repeat(names.len());
        let _infallible = writeln!(text, "\n| {figure} | {} |\n|---|{rule}", names.join(" | "));
        for row in self.rows.iter().filter(|row| row.figure == figure) {
            let cells = names.iter().map(|peer| row.median(peer).map_or_else(String::new, shown));
            let cells = cells.collect::<Vec<_>>().join(" | ");
            let _infallible = writeln!(text, "| {} | {cells} |", row.load);
        }
    }

    /// Writes `figures.json` and `chart.svg` into `dir`.
    pub fn write(&self, dir: &Path) -> std::io::Result<()> {
        fs::create_dir_all(dir)?;
        let rows = self
            .rows
            .iter()
            .map(|row| json!({ "load": row.load, "figure": row.figure, "values": row.values }));
        let all = json!({
            "rounds": self.rounds,
            "peers": self.peers.iter().cloned().collect::<BTreeMap<_, _>>(),
            "figures": rows.collect::<Vec<Value>>(),
        });
        fs::write(dir.join("figures.json"), format!("{all:#}\n"))?;
        fs::write(dir.join("chart.svg"), chart::draw(self))
    }
}

/// Name of this project's proxy.
pub const OURS: &str = "tlsidecar";

/// Name of the baseline: forwarding without TLS.
pub const FLOOR: &str = "HAProxy, no TLS";

impl Row {
    fn median(&self, peer: &str) -> Option<f64> {
        let mut values = self.values.get(peer)?.clone();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }
}

/// Formats a value with its significant digits.
fn shown(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => grouped(value),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
