//! The chart: a group of bars for each of a few figures, scaled within the group.
//!
//! Plain SVG. Text is text, for search and screen readers. The background is opaque, so that the chart is
//! readable on light and dark pages.

use std::fmt::Write as _;

use super::load::{HANDSHAKES, MB, MESSAGES};
use super::report::{OURS, Report};

/// A group of bars: title, load and figure.
const GROUPS: &[(&str, &str, &str)] = &[
    ("Full TLS 1.3 handshakes per CPU second", "full 1.3, ECDSA", HANDSHAKES),
    ("Resumed TLS 1.2 handshakes per CPU second", "resumed 1.2", HANDSHAKES),
    ("MB to the backend per CPU second", "to backend, 64 connections", MB),
    ("MB to the client per CPU second", "to client, 64 connections", MB),
    ("Messages of 128 B per CPU second", "128 B, 32 connections", MESSAGES),
    (
        "Bytes of memory per idle connection (less is better)",
        "few idle",
        "bytes per connection, 3,000 held",
    ),
];

const WIDTH: usize = 760;
const LABEL: usize = 140;
const BAR: usize = 16;
const STEP: usize = 20;
const TITLE: usize = 34;
const LONGEST: f64 = (WIDTH - LABEL - 100) as f64;

/// Draws the results of a run.
pub fn draw(report: &Report) -> String {
    let mut body = String::new();
    let mut y = 10;
    for (title, load, figure) in GROUPS {
        let bars: Vec<_> = report
            .peers()
            .filter_map(|peer| Some((peer, report.median(load, figure, peer)?)))
            .collect();
        let Some(most) = bars.iter().map(|bar| bar.1).max_by(f64::total_cmp) else { continue };
        y += TITLE;
        let _infallible =
            writeln!(body, "<text x=\"12\" y=\"{}\" font-weight=\"bold\">{title}</text>", y - 10);
        for (peer, value) in bars {
            let color = if peer == OURS { "#0b6e4f" } else { "#9aa5b1" };
            let (length, middle) = (value / most * LONGEST, y + BAR - 4);
            let _infallible = writeln!(
                body,
                "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{peer}</text>\
                 <rect x=\"{LABEL}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{color}\"/>\
                 <text x=\"{:.1}\" y=\"{middle}\">{value:.0}</text>",
                LABEL - 8,
                LABEL as f64 + length + 6.0,
            );
            y += STEP;
        }
    }
    let height = y + 12;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#1f2933\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}
