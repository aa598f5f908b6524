//! Declaration of metrics: name, labels and help stand beside the handle that moves the metric.
//!
//! **Promises.** A wrong name or label stops the first test that makes the metrics. A child whose labels come from
//! closed sets exists from the start and is moved by one atomic operation, without a look-up.
//!
//! **Not here.** The declarations (`listener.rs`, `process.rs`).

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::Index;
use std::sync::OnceLock;

use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::lock::Lock;
use crate::terms::closed_set::ClosedSet;
use crate::terms::labels::Cipher;

/// Declares a struct of metric handles, and a second struct of the families that the handles are children of.
///
/// Each line is one metric: `field: Handle = "name" ["label", …] "help";`, for histograms with the buckets
/// after the help. The type of the handle says which kind of metric it is and which closed sets its labels
/// take.
macro_rules! declare_metrics {
    (
        $(#[$doc:meta])*
        struct $handles:ident of $families:ident {
            $( $(#[$field_doc:meta])* $field:ident: $handle:ty
                = $name:literal [$($label:literal),*] $help:literal $(, $buckets:ident)?; )+
        }
    ) => {
        $(#[$doc])*
        struct $handles {
            $( $(#[$field_doc])* $field: $handle, )+
        }

        /// The families, with the children of all listeners.
        pub(super) struct $families {
            $( $field: <$handle as $crate::metrics::declare::MetricHandle>::Family, )+
        }

        impl $families {
            pub(super) fn register(registry: &prometheus::Registry) -> Self {
                use $crate::metrics::declare::{Declaration, MetricHandle};
                Self {
                    $( $field: <$handle as MetricHandle>::register(registry, &Declaration {
                        name: $name,
                        help: $help,
                        labels: &[$($label),*],
                        buckets: &[$($buckets)?],
                    }), )+
                }
            }

            /// Returns the children whose first labels have these values.
            fn children(&self, first: &[&str]) -> $handles {
                use $crate::metrics::declare::MetricHandle;
                $handles { $( $field: <$handle as MetricHandle>::child(&self.$field, first), )+ }
            }
        }
    };
}

pub(super) use declare_metrics;

/// Name, help, labels and buckets of one metric.
pub(super) struct Declaration {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) labels: &'static [&'static str],
    /// None or one list, in seconds. Histograms alone have it.
    pub(super) buckets: &'static [&'static [f64]],
}

/// A metric as its user holds it: one child, or one for each value of further labels.
pub(super) trait MetricHandle: Sized {
    /// The metric with all its children.
    type Family: Clone;

    fn register(registry: &Registry, declaration: &Declaration) -> Self::Family;

    /// Returns the child with these label values; it is exported from now on.
    fn child(family: &Self::Family, values: &[&str]) -> Self;

    /// Stops exporting the child with these label values.
    fn remove(family: &Self::Family, values: &[&str]);
}

macro_rules! handle {
    ($child:ty, $family:ty, $options:expr) => {
        impl MetricHandle for $child {
            type Family = $family;

            fn register(registry: &Registry, declaration: &Declaration) -> $family {
                let family = <$family>::new($options(declaration), declaration.labels);
                registered(registry, family)
            }

            fn child(family: &$family, values: &[&str]) -> Self {
                family.with_label_values(values)
            }

            fn remove(family: &$family, values: &[&str]) {
                // It fails only if the child does not exist.
                let _missing = family.remove_label_values(values);
            }
        }
    };
}

handle!(IntCounter, IntCounterVec, options);
handle!(Counter, CounterVec, options);
handle!(IntGauge, IntGaugeVec, options);
handle!(Gauge, GaugeVec, options);
handle!(Histogram, HistogramVec, histogram_options);

fn options(declaration: &Declaration) -> Opts {
    Opts::new(declaration.name, declaration.help)
}

fn histogram_options(declaration: &Declaration) -> HistogramOpts {
    HistogramOpts::new(declaration.name, declaration.help).buckets(declaration.buckets.concat())
}

/// Registers a metric whose name and labels are constants.
fn registered<T: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<T>,
) -> T {
    let metric = metric.expect("names and labels are constants that a test has registered");
    registry.register(Box::new(metric.clone())).expect("each name is registered once");
    metric
}

/// One child for each value of a label.
#[derive(Clone)]
pub(super) struct Set<L, M> {
    /// In the order of the values.
    children: Vec<M>,
    label: PhantomData<L>,
}

impl<L: ClosedSet, M> Set<L, M> {
    /// Makes the child of each value.
    pub(super) fn from_fn(child: impl FnMut(&L) -> M) -> Self {
        Self { children: L::all().iter().map(child).collect(), label: PhantomData }
    }
}

impl<L: ClosedSet, M: MetricHandle> MetricHandle for Set<L, M> {
    type Family = M::Family;

    fn register(registry: &Registry, declaration: &Declaration) -> M::Family {
        M::register(registry, declaration)
    }

    fn child(family: &M::Family, values: &[&str]) -> Self {
        Self::from_fn(|value| M::child(family, &[values, &[value.label()]].concat()))
    }

    fn remove(family: &M::Family, values: &[&str]) {
        for value in L::all() {
            M::remove(family, &[values, &[value.label()]].concat());
        }
    }
}

impl<L: ClosedSet, M> Index<L> for Set<L, M> {
    type Output = M;

    fn index(&self, value: L) -> &M {
        &self.children[value.index()]
    }
}

/// One child for each cipher suite, with the labels `version` and `cipher`. Those of suites that few listeners have are
/// exported once they are used.
pub(super) struct BySuite<M: MetricHandle>(Set<Cipher, Later<M>>);

impl<M: MetricHandle> MetricHandle for BySuite<M> {
    type Family = M::Family;

    fn register(registry: &Registry, declaration: &Declaration) -> M::Family {
        M::register(registry, declaration)
    }

    fn child(family: &M::Family, values: &[&str]) -> Self {
        let child = |cipher: &Cipher| {
            let values = &[values, &[cipher.version(), cipher.as_str()]].concat();
            let child = Later::<M>::child(family, values);
            if !cipher.is_legacy() {
                child.used();
            }
            child
        };
        Self(Set::from_fn(child))
    }

    fn remove(family: &M::Family, values: &[&str]) {
        for cipher in Cipher::ALL {
            M::remove(family, &[values, &[cipher.version(), cipher.as_str()]].concat());
        }
    }
}

impl<M: MetricHandle> BySuite<M> {
    /// Returns the children that are exported.
    pub(super) fn exported(&self) -> impl Iterator<Item = &M> {
        Cipher::ALL.iter().filter_map(|&cipher| self.0[cipher].child.get())
    }
}

impl<M: MetricHandle> Index<Cipher> for BySuite<M> {
    type Output = M;

    fn index(&self, cipher: Cipher) -> &M {
        self.0[cipher].used()
    }
}

/// A child that is exported once it is first used: for what few listeners have.
pub(super) struct Later<M: MetricHandle> {
    family: M::Family,
    values: Vec<String>,
    child: OnceLock<M>,
}

impl<M: MetricHandle> MetricHandle for Later<M> {
    type Family = M::Family;

    fn register(registry: &Registry, declaration: &Declaration) -> M::Family {
        M::register(registry, declaration)
    }

    fn child(family: &M::Family, values: &[&str]) -> Self {
        let values = values.iter().map(|&value| value.to_owned()).collect();
        Self { family: family.clone(), values, child: OnceLock::new() }
    }

    fn remove(_: &M::Family, _: &[&str]) {}
}

impl<M: MetricHandle> Later<M> {
    /// Returns whether the child is exported.
    pub(super) fn is_used(&self) -> bool {
        self.exported().is_some()
    }

    /// Returns the child if it is exported.
    pub(super) fn exported(&self) -> Option<&M> {
        self.child.get()
    }

    /// Returns the child, which is exported from now on.
    pub(super) fn used(&self) -> &M {
        let values = || self.values.iter().map(String::as_str).collect::<Vec<_>>();
        self.child.get_or_init(|| M::child(&self.family, &values()))
    }
}

/// Children whose last labels are named by the configuration, and which come and go with it.
pub(super) struct Named<M: MetricHandle> {
    family: M::Family,
    first: Vec<String>,
    current: Lock<BTreeMap<LabelValues, M>>,
}

/// The values of the labels that the configuration names.
pub(super) type LabelValues = Vec<String>;

impl<M: MetricHandle> MetricHandle for Named<M> {
    type Family = M::Family;

    fn register(registry: &Registry, declaration: &Declaration) -> M::Family {
        M::register(registry, declaration)
    }

    fn child(family: &M::Family, values: &[&str]) -> Self {
        let first = values.iter().map(|&value| value.to_owned()).collect();
        Self { family: family.clone(), first, current: Lock::default() }
    }

    fn remove(_: &M::Family, _: &[&str]) {}
}

impl<M: MetricHandle> Named<M> {
    /// Exports a child for each of these names and no other, and has `update` set each. A child that stays keeps
    /// its value.
    pub(super) fn replace<V>(
        &self,
        wanted: BTreeMap<LabelValues, V>,
        mut update: impl FnMut(&LabelValues, &M, V),
    ) {
        let mut current = self.current.lock();
        let mut before = std::mem::take(&mut *current);
        for (names, value) in wanted {
            let child = before.remove(&names);
            let child = child.unwrap_or_else(|| M::child(&self.family, &self.values(&names)));
            update(&names, &child, value);
            current.insert(names, child);
        }
        for names in before.keys() {
            M::remove(&self.family, &self.values(names));
        }
    }

    fn values<'a>(&'a self, names: &'a LabelValues) -> Vec<&'a str> {
        self.first.iter().chain(names).map(String::as_str).collect()
    }
}

impl Named<Gauge> {
    /// Exports these values and no other. Of two with the same names the last counts.
    pub(super) fn publish(&self, values: impl IntoIterator<Item = (LabelValues, f64)>) {
        self.replace(values.into_iter().collect(), |_, gauge, value| gauge.set(value));
    }
}
