//! The committed instruction counts, and their comparison with new ones.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// Instructions per turn, by the names of the cases.
pub(crate) type Counts = BTreeMap<String, u32>;

/// The committed baseline.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Baseline {
    /// The architecture and the tools of the baseline. Counts with others may differ.
    pub(crate) made_with: String,
    pub(crate) counts: Counts,
}

/// A larger change is not random: runs differ by a thousandth.
const TOLERATED_PERCENT: f64 = 5.0;

/// Result of a comparison.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    /// Every case with its change, in Markdown.
    pub(crate) table: String,
    /// Failures.
    pub(crate) faults: Vec<String>,
    /// Remarks.
    pub(crate) hints: Vec<String>,
}

impl Baseline {
    /// Compares new counts with the committed ones. The results keep the order of the new counts.
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
            row.expect("a string takes everything");
        };
        let Some(baseline) = baseline else {
            row("", "");
            self.faults.push(format!("{case}: not in the baseline"));
            return;
        };
        let whole = f64::from(baseline);
        // Compared before the division, which is exact; the bound itself is accepted.
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
