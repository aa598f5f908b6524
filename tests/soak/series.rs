//! The figures of each second of a soak.
//!
//! **Promises.** The file has a line for each second, and a header with the names and units of its columns.
//!
//! **Not here.** The picture: `chart.rs`.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::chart::draw;
use super::site::Site;
use crate::support::proxy::metric;

/// The state of the proxy at the end of a second, and the latencies within it.
pub(super) struct Sample {
    /// Resident memory in bytes.
    pub(super) memory: f64,
    /// Open descriptors.
    pub(super) fds: f64,
    pub(super) active: f64,
    pub(super) handshake: Spread,
    pub(super) exchange: Spread,
    /// Exchanges without the proxy.
    pub(super) control: Spread,
    pub(super) reloads: f64,
    pub(super) restarts: f64,
}

/// Times in milliseconds. Without a time, none.
#[derive(Default)]
pub(super) struct Spread {
    pub(super) count: usize,
    pub(super) median: Option<f64>,
    pub(super) p99: Option<f64>,
}

/// The samples of a soak.
#[derive(Default)]
pub(super) struct Series(Vec<Sample>);

impl Sample {
    pub(super) fn of(site: &Site) -> Self {
        let (_, text) = site.sidecar.ask("GET", "/metrics").unwrap();
        let count = |series: &str| metric::<f64>(&text, series).unwrap();
        Self {
            memory: count("process_resident_memory_bytes"),
            fds: site.open_files() as f64,
            active: count("tlsidecar_connections_active{listener=\"test\"}"),
            handshake: Spread::of(&mut site.latencies.handshakes.lock().unwrap()),
            exchange: Spread::of(&mut site.latencies.exchanges.lock().unwrap()),
            control: Spread::of(&mut site.latencies.control.lock().unwrap()),
            reloads: count("tlsidecar_reloads_total{outcome=\"swapped\"}"),
            restarts: site.restarts() as f64,
        }
    }
}

impl Spread {
    /// Takes the times of a second.
    fn of(times: &mut Vec<Duration>) -> Self {
        let mut times = std::mem::take(times);
        times.sort_unstable();
        let at = |share: usize| {
            let place = times.len().checked_sub(1)? * share / 100;
            Some(times[place].as_secs_f64() * 1000.0)
        };
        Self { count: times.len(), median: at(50), p99: at(99) }
    }
}

impl Series {
    pub(super) fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// Returns the median of the resident memory in the second quarter, after the warm-up, and in the last one.
    pub(super) fn memory(&self) -> (f64, f64) {
        let quarter = self.0.len() / 4;
        let median = |part: &[Sample]| {
            let mut bytes: Vec<_> = part.iter().map(|sample| sample.memory).collect();
            bytes.sort_unstable_by(f64::total_cmp);
            bytes[bytes.len() / 2]
        };
        (median(&self.0[quarter..2 * quarter]), median(&self.0[self.0.len() - quarter..]))
    }

    /// Returns a line with the figures of the whole soak.
    fn summary(&self) -> String {
        let (early, late) = self.memory();
        let handshakes: usize = self.0.iter().map(|sample| sample.handshake.count).sum();
        let exchanges: usize = self.0.iter().map(|sample| sample.exchange.count).sum();
        let median = |value: fn(&Sample) -> Option<f64>| {
            let mut values: Vec<_> = self.0.iter().filter_map(value).collect();
            values.sort_unstable_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or_default()
        };
        let last = self.0.last().unwrap();
        format!(
            "{} s: {handshakes} handshakes, {exchanges} exchanges, {} reloads, {} restarts of the backend; memory \
             {:.1} MB after the warm-up and {:.1} MB at the end; median of the seconds: handshakes {:.1} ms, 99 % \
             within {:.1} ms; exchanges {:.2} ms, 99 % within {:.2} ms, without the proxy {:.2} and {:.2} ms",
            self.0.len(),
            last.reloads,
            last.restarts,
            early / 1e6,
            late / 1e6,
            median(|sample| sample.handshake.median),
            median(|sample| sample.handshake.p99),
            median(|sample| sample.exchange.median),
            median(|sample| sample.exchange.p99),
            median(|sample| sample.control.median),
            median(|sample| sample.control.p99),
        )
    }

    /// Writes `series.csv` and `soak.svg`.
    pub(super) fn write(&self, directory: &Path) {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("summary.txt"), self.summary()).unwrap();
        let mut text = "second,memory_bytes,fds,active,handshakes,handshake_p50_ms,handshake_p99_ms,exchanges,\
                        exchange_p50_ms,exchange_p99_ms,control_p50_ms,control_p99_ms,reloads,restarts\n"
            .to_owned();
        let time = |time: Option<f64>| time.map(|time| format!("{time:.3}")).unwrap_or_default();
        for (second, sample) in self.0.iter().enumerate() {
            let Sample { memory, fds, active, handshake, exchange, control, reloads, restarts } =
                sample;
            writeln!(
                text,
                "{},{memory},{fds},{active},{},{},{},{},{},{},{},{},{reloads},{restarts}",
                second + 1,
                handshake.count,
                time(handshake.median),
                time(handshake.p99),
                exchange.count,
                time(exchange.median),
                time(exchange.p99),
                time(control.median),
                time(control.p99),
            )
            .unwrap();
        }
        fs::write(directory.join("series.csv"), text).unwrap();
        fs::write(directory.join("soak.svg"), draw(&self.0)).unwrap();
    }
}
