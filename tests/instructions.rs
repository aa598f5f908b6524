//! The bench that counts instructions refuses only counts that have grown.

#[path = "../benches/instructions/baseline.rs"]
mod baseline;

use self::baseline::{Baseline, Judgement};

/// Compares the count of one case with a baseline of 1,000.
fn judge(count: u32) -> Judgement {
    let counts = [("seal".to_owned(), 1000)].into();
    Baseline { made_with: String::new(), counts }.judge([("seal", count)])
}

#[test]
fn a_count_that_has_grown_by_more_than_5_percent_is_a_fault() {
    let judged = judge(1051);
    assert!(judged.faults.len() == 1 && judged.hints.is_empty(), "{judged:?}");
    assert!(judged.faults[0].contains("seal: +5.1 %"), "{judged:?}");
    assert!(judged.table.contains("| seal | 1051 | 1000 | +5.10 % |"), "{judged:?}");
}

#[test]
fn a_count_that_has_changed_by_5_percent_at_most_is_fine() {
    for count in [950, 1000, 1050] {
        let judged = judge(count);
        assert!(judged.faults.is_empty() && judged.hints.is_empty(), "{judged:?}");
    }
}

#[test]
fn a_count_that_has_shrunk_is_a_hint_and_not_a_fault() {
    let judged = judge(949);
    assert!(judged.faults.is_empty() && judged.hints.len() == 1, "{judged:?}");
}

#[test]
fn the_baseline_has_the_cases_that_are_measured_and_no_others() {
    let empty = Baseline::default().judge([("seal", 1000)]);
    assert_eq!(empty.faults, ["seal: not in the baseline"]);
    let renamed = Baseline { made_with: String::new(), counts: [("open".to_owned(), 1)].into() };
    assert_eq!(renamed.judge([]).faults, ["open: in the baseline, but no longer measured"]);
}
