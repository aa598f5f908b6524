//! How a metric is made: its registration, and one child for each value of a label.
//!
//! **Promises.** A name or a label that is wrong stops the first test that makes the metrics. A child
//! is moved by one atomic addition, without a look-up.
//!
//! **Not here.** Which metrics there are (`listener.rs`, `process.rs`).

use std::marker::PhantomData;
use std::ops::Index;

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
};

use crate::terms::closed_set::ClosedSet;

/// Makes metrics in a registry.
pub(super) struct Maker<'a>(pub(super) &'a Registry);

impl Maker<'_> {
    /// Registers a metric whose name and labels are constants, and so are known to be right.
    pub(super) fn register<T: Collector + Clone + 'static>(
        &self,
        metric: prometheus::Result<T>,
    ) -> T {
        let metric = metric.expect("names and labels are constants that a test has seen made");
        self.0.register(Box::new(metric.clone())).expect("each name is registered once");
        metric
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// For instants and times, which have fractions.
    pub(super) fn instants(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register(GaugeVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> HistogramVec {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(HistogramVec::new(opts, labels))
    }
}

/// One child for each value of a label.
pub(super) struct Set<L, M> {
    /// In the order of the values.
    children: Vec<M>,
    label: PhantomData<L>,
}

impl<L: ClosedSet, M> Set<L, M> {
    /// The children of `family` whose last label is `L`, and whose labels before are `first`.
    pub(super) fn of<B>(family: &MetricVec<B>, first: &[&str]) -> Self
    where
        B: MetricVecBuilder<M = M>,
        M: prometheus::core::Metric,
    {
        let child = |value: &L| family.with_label_values(&[first, &[value.label()]].concat());
        Self { children: L::all().iter().map(child).collect(), label: PhantomData }
    }
}

impl<L: ClosedSet, M> Index<L> for Set<L, M> {
    type Output = M;

    fn index(&self, value: L) -> &M {
        &self.children[value.index()]
    }
}
