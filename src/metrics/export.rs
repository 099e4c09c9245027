//! A snapshot in Prometheus' text format, by the table of families.

use std::collections::BTreeMap;

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::table::{FAMILIES, Family, Kind};
use super::{Durations, OTHER_TENANTS, Snapshot, TenantNumbers, UpstreamSnapshot};

/// What the table's families are read from: the snapshot, with the tenants as they are published.
pub(super) struct View<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// Tenants with series of their own, and the others as one.
    pub(super) tenants: Vec<(&'a str, &'a TenantNumbers)>,
}

impl<'a> View<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let named = snapshot.tenants.iter().filter(|tenant| !tenant.is_folded);
        let named = named.map(|tenant| (tenant.name.as_str(), &tenant.numbers));
        let tenants = named.chain(snapshot.others.as_ref().map(|others| (OTHER_TENANTS, others))).collect();
        Self { snapshot, tenants }
    }

    /// How long logins took, over all tenants.
    pub(super) fn logins(&self) -> Durations {
        let mut all = Durations::default();
        self.tenants.iter().for_each(|(_, tenant)| all.add(&tenant.login));
        all
    }

    /// Who waits for an upstream, by the tenants as they are published.
    pub(super) fn queues(&self, upstream: &'a UpstreamSnapshot) -> BTreeMap<&'a str, u64> {
        let mut queues = BTreeMap::new();
        for queue in &upstream.queue {
            let is_folded = self.snapshot.tenant(&queue.tenant).is_some_and(|tenant| tenant.is_folded);
            let name = if is_folded { OTHER_TENANTS } else { queue.tenant.as_str() };
            *queues.entry(name).or_default() += queue.depth;
        }
        queues
    }
}

/// The samples of one family.
pub(super) struct Samples {
    family: &'static Family,
    metrics: Vec<Metric>,
}

impl Samples {
    pub(super) fn of(family: &'static Family, view: &View<'_>) -> Self {
        let mut samples = Self { family, metrics: Vec::new() };
        (family.read)(view, &mut samples);
        samples
    }

    /// A count, or a level that cannot be negative.
    #[expect(clippy::cast_precision_loss, reason = "the format's numbers are floating: exact up to 2^53")]
    pub(super) fn count(&mut self, labels: &[&str], count: u64) {
        self.value(labels, count as f64);
    }

    /// A level.
    #[expect(clippy::cast_precision_loss, reason = "the format's numbers are floating: exact up to 2^53")]
    pub(super) fn level(&mut self, labels: &[&str], level: i64) {
        self.value(labels, level as f64);
    }

    /// A number that is not whole.
    pub(super) fn value(&mut self, labels: &[&str], value: f64) {
        let mut metric = self.metric(labels);
        if self.family.kind == Kind::Counter {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.metrics.push(metric);
    }

    /// How long things took.
    pub(super) fn durations(&mut self, labels: &[&str], durations: &Durations) {
        let bucket = |(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(durations.cumulative().map(bucket).collect());
        histogram.set_sample_count(durations.count());
        histogram.set_sample_sum(durations.sum_seconds());
        let mut metric = self.metric(labels);
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    fn metric(&self, values: &[&str]) -> Metric {
        debug_assert_eq!(values.len(), self.family.labels.len(), "{}", self.family.name);
        let pair = |(label, value): (&super::table::Tag, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name(label.name.to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        let mut metric = Metric::default();
        metric.set_label(self.family.labels.iter().zip(values).map(pair).collect());
        metric
    }

    fn into_family(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.family.name.to_owned());
        family.set_help(self.family.help.to_owned());
        family.set_field_type(match self.family.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        family.set_metric(self.metrics);
        family
    }
}

impl Snapshot {
    /// The metric families that have samples.
    fn families(&self) -> Vec<MetricFamily> {
        let view = View::new(self);
        let samples = FAMILIES.iter().map(|family| Samples::of(family, &view));
        samples.filter(|samples| !samples.metrics.is_empty()).map(Samples::into_family).collect()
    }

    /// In Prometheus' text format, for `/metrics`.
    pub fn prometheus(&self) -> String {
        // It fails on a family without a name or samples, and there is none.
        TextEncoder::new().encode_to_string(&self.families()).unwrap_or_default()
    }
}
