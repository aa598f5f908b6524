//! The committed instruction counts, and the verdict on new counts: accepted, reported or refused.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// Instructions per turn, by case name.
pub(crate) type Counts = BTreeMap<String, u32>;

/// The committed file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Baseline {
    /// Architecture and tools of the baseline: others may produce other counts.
    pub(crate) made_with: String,
    pub(crate) counts: Counts,
}

/// Largest change that is accepted. Runs differ by about a thousandth by chance.
const TOLERATED_PERCENT: f64 = 5.0;

/// Verdict on a run.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    /// All cases with their changes, in Markdown.
    pub(crate) table: String,
    /// Reasons to fail.
    pub(crate) faults: Vec<String>,
    /// Notes.
    pub(crate) hints: Vec<String>,
}

impl Baseline {
    /// Compares new counts with the committed ones. The order of `new` is the order of the report.
    pub(crate) fn judge<'a>(&self, counts: impl IntoIterator<Item = (&'a str, u32)>) -> Judgement {
        let mut judged = Judgement {
            table: "| instructions a turn | count | baseline | change |\n|---|---|---|---|\n"
                .into(),
            ..Judgement::default()
        };
        let mut gone: Vec<_> = self.counts.keys().collect();
        for (case, count) in counts {
            gone.retain(|name| *name != case);
            judged.add(case, count, self.counts.get(case).copied());
        }
        for case in gone {
            judged.faults.push(format!("{case}: in the baseline, but no longer measured"));
        }
        judged
    }
}

impl Judgement {
    fn add(&mut self, case: &str, count: u32, baseline: Option<u32>) {
        let mut row = |baseline: &str, change: &str| {
            let row = writeln!(self.table, "| {case} | {count} | {baseline} | {change} |");
            row.expect("writing to a string cannot fail");
        };
        let Some(baseline) = baseline else {
            row("", "");
            self.faults.push(format!("{case}: not in the baseline"));
            return;
        };
        let whole = f64::from(baseline);
        // Compared without a division: exact, and the bound itself is accepted.
        let more = (f64::from(count) - whole) * 100.0;
        let change = more / whole;
        row(&baseline.to_string(), &format!("{change:+.2} %"));
        let changed = format!("{case}: {change:+.1} % against the baseline's {baseline}");
        if more > whole * TOLERATED_PERCENT {
            self.faults.push(changed);
        } else if more < -whole * TOLERATED_PERCENT {
            self.hints.push(changed);
        }
    }
}
