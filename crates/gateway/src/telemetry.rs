//! Metrics: their names, and the text that Prometheus reads. No label holds a tenant's text.

use crate::served::{Hit, Served, outcome};
use cache::Estimate;
use catalog::NanoUsd;
use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use providers::Attempt;
use std::sync::OnceLock;
use std::time::Duration;

/// Samples are folded into their buckets this often, so that they do not pile up where nobody reads the metrics.
const UPKEEP: Duration = Duration::from_secs(5);

const ACCOUNTING: &str = "sluice_accounting_seconds";
/// Accounting takes microseconds.
const ACCOUNTING_SECONDS: [f64; 15] = [
    0.000_01, 0.000_02, 0.000_03, 0.000_04, 0.000_05, 0.000_075, 0.000_1, 0.000_15, 0.000_2, 0.000_3, 0.000_5, 0.001,
    0.002, 0.005, 0.02,
];

/// Folds samples until the process ends.
pub(crate) async fn upkeep() {
    loop {
        tokio::time::sleep(UPKEEP).await;
        if let Some(recorder) = recorder() {
            recorder.run_upkeep();
        }
    }
}

/// The process-wide recorder; several gateways in one process share it.
pub(crate) fn recorder() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || {
        let seconds =
            [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        let accounting = Matcher::Full(ACCOUNTING.to_owned());
        let builder = PrometheusBuilder::new().set_buckets(&seconds).ok()?;
        let builder = builder.set_buckets_for_metric(accounting, &ACCOUNTING_SECONDS).ok()?;
        builder.install_recorder().inspect_err(|error| tracing::warn!(%error, "there will be no metrics")).ok()
    };
    HANDLE.get_or_init(install).as_ref()
}

pub(crate) fn request_ended(hit: Hit, state: &'static str, elapsed: Duration) {
    counter!("sluice_requests_total", "cache" => hit.as_str(), "state" => state).increment(1);
    histogram!("sluice_request_seconds", "cache" => hit.as_str()).record(elapsed.as_secs_f64());
}

/// What a request waited for its money to be set aside and for that to be stored, before a provider was called.
pub(crate) fn accounted(elapsed: Duration) {
    histogram!(ACCOUNTING).record(elapsed.as_secs_f64());
}

pub(crate) fn money(served: &Served) {
    counter!("sluice_cost_nano_usd_total").increment(u64::try_from(served.cost.0).unwrap_or(0));
    counter!("sluice_saved_nano_usd_total").increment(u64::try_from(served.saved.0).unwrap_or(0));
}

pub(crate) fn attempts(attempts: &[Attempt]) {
    for attempt in attempts {
        let provider = attempt.endpoint.provider.clone();
        counter!("sluice_attempts_total", "provider" => provider, "outcome" => outcome(attempt)).increment(1);
        if attempt.hedge {
            counter!("sluice_hedges_total").increment(1);
        }
        let wasted = u64::try_from(attempt.wasted_cost().0).unwrap_or(0);
        counter!("sluice_wasted_nano_usd_total").increment(wasted);
    }
}

/// A request went on without the semantic level for a reason of ours.
pub(crate) fn semantic_skipped(reason: &'static str) {
    counter!("sluice_semantic_skipped_total", "reason" => reason).increment(1);
}

/// What the semantic level decided, and why.
pub(crate) fn semantic_decided(tenant: &str, reason: &'static str) {
    counter!("sluice_semantic_decisions_total", "tenant" => tenant.to_owned(), "reason" => reason).increment(1);
}

/// What a label said of an answer that was given this probability: how well probabilities keep their word.
pub(crate) fn semantic_labelled(probability: f64, is_right: bool) {
    const BANDS: [(f64, &str); 6] =
        [(0.5, "0-0.5"), (0.8, "0.5-0.8"), (0.9, "0.8-0.9"), (0.95, "0.9-0.95"), (0.99, "0.95-0.99"), (2.0, "0.99-1")];
    let band = BANDS.iter().find(|(until, _)| probability < *until).map_or("0.99-1", |(_, band)| band);
    let right = if is_right { "true" } else { "false" };
    counter!("sluice_semantic_labels_total", "probability" => band, "right" => right).increment(1);
}

/// What an audit of a hit cost.
pub(crate) fn audited(cost: NanoUsd) {
    counter!("sluice_audits_total").increment(1);
    counter!("sluice_audit_cost_nano_usd_total").increment(u64::try_from(cost.0).unwrap_or(0));
}

/// How a comparison ended and what it cost; one that is over budget was not begun.
pub(crate) fn compared(outcome: &'static str, cost: NanoUsd) {
    counter!("sluice_comparisons_total", "outcome" => outcome).increment(1);
    counter!("sluice_comparison_cost_nano_usd_total").increment(u64::try_from(cost.0).unwrap_or(0));
}

/// Prompts and answers that were to be kept and are not.
pub(crate) fn contents_dropped(reason: &'static str, count: u64) {
    counter!("sluice_contents_dropped_total", "reason" => reason).increment(count);
}

/// Answers that somebody scored.
pub(crate) fn scored(rater: &'static str, count: u64) {
    counter!("sluice_scores_total", "rater" => rater).increment(count);
}

pub(crate) fn cache_sizes(sizes: cache::Sizes) {
    gauge!("sluice_cache_entries", "level" => "exact").set(sizes.answers as f64);
    if let Some(prompts) = sizes.prompts {
        gauge!("sluice_cache_entries", "level" => "semantic").set(prompts as f64);
    }
    if let Some(scopes) = sizes.scopes {
        gauge!("sluice_cache_scopes").set(scopes as f64);
    }
}

/// The estimated share of wrong answers of a tenant and policy, beside what is allowed.
pub(crate) fn semantic_error(tenant: &str, policy: &str, estimate: &Estimate) {
    let labels = [("tenant", tenant.to_owned()), ("policy", policy.to_owned())];
    gauge!("sluice_semantic_error", &labels).set(estimate.error);
    gauge!("sluice_semantic_error_high", &labels).set(estimate.error_high);
}

/// Why a request was turned away before any work: a limit of the gateway's own.
pub(crate) fn shed(limit: &'static str) {
    counter!("sluice_shed_total", "limit" => limit).increment(1);
}

/// What is under way and waits, and how late the gateway's own timers are.
pub(crate) fn load(under_way: usize, queued: usize, lag: Duration) {
    gauge!("sluice_requests_under_way").set(under_way as f64);
    gauge!("sluice_requests_queued").set(queued as f64);
    gauge!("sluice_lag_seconds").set(lag.as_secs_f64());
}

pub(crate) fn panicked() {
    counter!("sluice_panics_total").increment(1);
}
