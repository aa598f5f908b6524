//! The picture of a soak: memory, descriptors and latencies over time.
//!
//! Plain SVG, as `benches/peers/chart.rs`: text is text, and the background is opaque.

use std::fmt::Write;

use super::series::Sample;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 12.0;
const PANEL: f64 = 110.0;
const TITLE: f64 = 34.0;

/// Points of a line. Beyond that, each is the median of its seconds.
const POINTS: usize = 300;

/// A line: its name, its colour, and its value in a second.
type Line = (&'static str, &'static str, fn(&Sample) -> Option<f64>);

/// A panel: title with unit, the value at its bottom, and lines. Times span several orders of magnitude: their panels
/// are logarithmic, from a time instead of 0 on.
type Panel = (&'static str, f64, &'static [Line]);

const PANELS: &[Panel] = &[
    ("Resident memory, MB", 0.0, &[("", "#0b6e4f", |sample| Some(sample.memory / 1e6))]),
    (
        "Descriptors and connections",
        0.0,
        &[
            ("descriptors", "#0b6e4f", |sample| Some(sample.fds)),
            ("connections", "#b45309", |sample| Some(sample.active)),
        ],
    ),
    (
        "Request and answer, ms",
        0.1,
        &[
            ("median", "#0b6e4f", |sample| sample.exchange.median),
            ("99 %", "#b45309", |sample| sample.exchange.p99),
            ("99 % direct", "#9aa5b1", |sample| sample.control.p99),
        ],
    ),
    (
        "Handshake, ms",
        0.1,
        &[
            ("median", "#0b6e4f", |sample| sample.handshake.median),
            ("99 %", "#b45309", |sample| sample.handshake.p99),
        ],
    ),
];

/// Draws the samples, one for each second.
pub(super) fn draw(samples: &[Sample]) -> String {
    let mut body = String::new();
    let mut y = 10.0;
    for &panel in PANELS {
        y += TITLE;
        draw_panel(&mut body, samples, panel, y);
        y += PANEL;
    }
    let seconds = samples.len();
    let axis = y + 18.0;
    for (part, anchor) in ["start", "middle", "middle", "middle", "end"].into_iter().enumerate() {
        let x = LEFT + (WIDTH - LEFT - RIGHT) * part as f64 / 4.0;
        let second = seconds as f64 * part as f64 / 4.0;
        let label = if seconds < 300 {
            format!("{second:.0} s")
        } else {
            format!("{:.1} min", second / 60.0)
        };
        writeln!(
            body,
            "<text x=\"{x:.0}\" y=\"{axis:.0}\" text-anchor=\"{anchor}\">{label}</text>"
        )
        .unwrap();
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {:.0}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#1f2933\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n",
        axis + 12.0
    )
}

fn draw_panel(body: &mut String, samples: &[Sample], (title, least, lines): Panel, top: f64) {
    let lines: Vec<_> =
        lines.iter().map(|&(name, color, value)| (name, color, thinned(samples, value))).collect();
    let values = lines.iter().flat_map(|(.., values)| values.iter().flatten());
    let most = values.copied().fold(2.0 * least, f64::max) * 1.1;
    let height = |value: f64| {
        if least > 0.0 {
            (value / least).log10().max(0.0) / (most / least).log10()
        } else {
            value / most
        }
    };
    writeln!(
        body,
        "<text x=\"12\" y=\"{:.0}\" font-weight=\"bold\">{title}</text>\
         <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
         <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{least}</text>\
         <path d=\"M{LEFT} {top:.0}V{:.0}H{:.0}\" fill=\"none\" stroke=\"#9aa5b1\"/>",
        top - 10.0,
        LEFT - 6.0,
        top + 10.0,
        if most < 10.0 { format!("{most:.1}") } else { format!("{most:.0}") },
        LEFT - 6.0,
        top + PANEL,
        top + PANEL,
        WIDTH - RIGHT,
    )
    .unwrap();
    for (place, (name, color, values)) in lines.iter().enumerate() {
        let step = (WIDTH - LEFT - RIGHT) / (values.len().max(2) - 1) as f64;
        let points: String = values
            .iter()
            .enumerate()
            .filter_map(|(at, value)| {
                let (x, y) = (LEFT + step * at as f64, top + PANEL * (1.0 - height((*value)?)));
                Some(format!("{x:.1},{y:.1} "))
            })
            .collect();
        writeln!(
            body,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.3\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\" fill=\"{color}\">{name}</text>",
            points.trim_end(),
            WIDTH - RIGHT - 100.0 * place as f64,
            top - 10.0,
        )
        .unwrap();
    }
}

/// Returns at most [`POINTS`] values, each the median of as many seconds as it stands for.
fn thinned(samples: &[Sample], value: fn(&Sample) -> Option<f64>) -> Vec<Option<f64>> {
    let each = samples.len().div_ceil(POINTS).max(1);
    let median = |part: &[Sample]| {
        let mut values: Vec<_> = part.iter().filter_map(value).collect();
        values.sort_unstable_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    samples.chunks(each).map(median).collect()
}
