//! The calls that a request may make, and the money that is set aside for them.

use crate::asked::Asked;
use crate::error::Error;
use crate::relay;
use catalog::{Endpoint, Keeping, NanoUsd, Price};
use ledger::{NotEnough, Settlement};
use providers::Call;
use router::{Candidate, Route};
use std::sync::Arc;

/// Fewest output tokens that are worth a call.
const OUTPUT_TOKENS_FLOOR: u64 = 16;
/// Endpoints tried for one request at the most.
const CANDIDATES_MAX: usize = 5;
const STAND_INS_MAX: usize = 2;
/// Models of one request that are tried at least once.
const MODELS_MAX: usize = 8;

/// The candidates that are tried: the first ones, but each named model at least once, and whoever stands in for a model that
/// may be gone.
fn tried(candidates: &[Candidate]) -> Vec<&Candidate> {
    let mut models: Vec<&str> = Vec::new();
    let mut chosen = Vec::new();
    let (mut others, mut stand_ins) = (CANDIDATES_MAX, STAND_INS_MAX);
    for candidate in candidates {
        let is_new = models.len() < MODELS_MAX && !models.contains(&candidate.endpoint.model.as_str());
        let left = if candidate.in_place_of.is_some() { &mut stand_ins } else { &mut others };
        if *left == 0 && !(is_new && candidate.in_place_of.is_none()) {
            continue;
        }
        *left = left.saturating_sub(1);
        models.push(&candidate.endpoint.model);
        chosen.push(candidate);
    }
    chosen
}

/// Sets aside the most that the candidates could cost, or what the key has left, and fits the output caps to it.
pub(crate) async fn reserve(asked: &Asked, settlement: &mut Settlement, route: &Route) -> Result<Vec<Call>, Error> {
    if route.candidates.is_empty() {
        return Err(Error::NoCapableEndpoint(route.rejected.clone()));
    }
    let on_trial = route.trial.iter().flat_map(|trial| {
        route.candidates.get(trial.candidate).into_iter().flat_map(|candidate| vec![candidate; trial.check.samples()])
    });
    let on_trial: Vec<&Candidate> = on_trial.collect();
    let trials = on_trial.len();
    // A model on trial answers only where it passes.
    let on_trial_model = on_trial.first().map(|candidate| candidate.endpoint.model.as_str());
    let others = tried(&route.candidates).into_iter();
    let others = others.filter(|candidate| Some(candidate.endpoint.model.as_str()) != on_trial_model);
    let candidates: Vec<&Candidate> = on_trial.iter().copied().chain(others).collect();
    let keeping = if asked.request.may_be_kept_for_an_hour() { Keeping::Hour } else { Keeping::Usual };
    let caps: Vec<u64> = candidates.iter().map(|candidate| natural_cap(asked, &candidate.endpoint)).collect();
    // At the price for which it is sold, and at that for which it is bought.
    let bounds = |(candidate, cap): (&Candidate, u64)| {
        let of = |price: &Price| price.bound(route.input_tokens, cap.saturating_mul(asked.request.n), keeping);
        let endpoint = &candidate.endpoint;
        (of(&asked.sold.price(endpoint)) + asked.sold.per_answer(), of(&endpoint.price))
    };
    let bound = |call| bounds(call).0;
    let most = candidates.iter().copied().zip(caps.iter().copied()).map(bounds).max();
    let (wanted, bought) = most.unwrap_or_default();
    let floors = caps.iter().map(|cap| (*cap).min(OUTPUT_TOKENS_FLOOR));
    let needed = candidates.iter().copied().zip(floors).map(bound).min().unwrap_or_default();
    let granted = settlement.reserve(wanted, needed).await.map_err(relay::no_money)?;
    settlement.generation.upstream_nano = share(bought, granted, wanted);
    let mut calls = Vec::new();
    for (at, (candidate, cap)) in candidates.into_iter().zip(caps).enumerate() {
        let price = asked.sold.price(&candidate.endpoint);
        let for_tokens = granted - asked.sold.per_answer();
        let affordable =
            price.affordable_output_tokens(for_tokens, route.input_tokens, keeping).unwrap_or(0) / asked.request.n;
        if affordable >= cap.min(OUTPUT_TOKENS_FLOOR) {
            calls.push(Call {
                endpoint: Arc::clone(&candidate.endpoint),
                rank: if at < trials { at } else { candidate.rank + trials },
                on_trial: at < trials,
                max_tokens: if affordable >= cap { asked.request.max_tokens.map(|_| cap) } else { Some(affordable) },
                expected_output_tokens: candidate.expected_output_tokens,
                in_place_of: candidate.in_place_of.clone(),
            });
        }
    }
    if calls.is_empty() {
        let budget = "the key".to_owned();
        return Err(Error::NotEnoughMoney(NotEnough { budget, available: granted, needed }));
    }
    Ok(calls)
}

/// What `granted` is of `wanted`, of another amount.
fn share(of: NanoUsd, granted: NanoUsd, wanted: NanoUsd) -> i64 {
    let part = i128::from(of.0) * i128::from(granted.0) / i128::from(wanted.0.max(1));
    i64::try_from(part).unwrap_or(i64::MAX)
}

/// The output cap of a request at an endpoint where money is no object.
pub(crate) fn natural_cap(asked: &Asked, endpoint: &Endpoint) -> u64 {
    let asked_cap = asked.request.max_tokens.unwrap_or(endpoint.output_tokens_reserved_max);
    asked_cap.min(endpoint.output_tokens_max)
}
