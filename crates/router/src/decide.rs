//! The one decision: endpoints and the cache's offer in one ranking, each with its reason.

use crate::features::Features;
use crate::policy::{Evidence, Policy};
use crate::predictor::{Predictor, prior_ability, probability};
use catalog::{AbilityName, Endpoint, Model};
use protocol::{ChatRequest, Content};
use serde::Serialize;
use std::sync::Arc;

/// What the cache found: a stored answer and how sure it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Offer {
    /// The stored answer's id.
    pub id: String,
    pub probability: f64,
    /// Only an admissible offer may win.
    pub admissible: bool,
    /// Why it is, or is not, admissible.
    pub reason: String,
}

/// Everything a decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub request: &'a ChatRequest,
    /// The models that may serve, in the client's order of preference.
    pub models: &'a [&'a Model],
    /// The policy that chooses among them; `None` where the client named them.
    pub policy: Option<&'a Policy>,
    /// Share of the baseline's quality to keep, where the caller tightened the policy's.
    pub quality_min: Option<f64>,
    pub baseline: Option<&'a Model>,
    pub offer: Option<&'a Offer>,
    pub predictor: Option<&'a Predictor>,
}

/// One endpoint that can serve.
#[derive(Debug, Clone, Serialize)]
pub struct Candidate {
    #[serde(serialize_with = "endpoint_id")]
    pub endpoint: Arc<Endpoint>,
    /// Probability that the model handles the request, where it was estimated.
    pub quality: Option<f64>,
    pub expected_cost_usd: f64,
    pub expected_output_tokens: u64,
    pub reason: String,
    /// Neighbours of one rank are equally good: the healthier goes first.
    pub rank: usize,
}

/// One endpoint that cannot serve, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rejected {
    pub endpoint: String,
    pub reason: String,
}

/// The ranked candidates of one request.
#[derive(Debug, Clone, Serialize)]
pub struct Route {
    pub candidates: Vec<Candidate>,
    pub rejected: Vec<Rejected>,
    /// The offer that wins over all candidates.
    pub offer: Option<Offer>,
    pub evidence: Evidence,
    pub difficulty: Option<f64>,
    pub input_tokens: u64,
}

fn endpoint_id<S: serde::Serializer>(endpoint: &Arc<Endpoint>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&endpoint.id)
}

/// A high estimate of a request's input tokens: English has about 4 characters a token, and texts in other scripts use more
/// bytes for each. A provider that counts more is booked as an overrun.
pub fn estimate_tokens(request: &ChatRequest) -> u64 {
    const MEDIA_PART_TOKENS: u64 = 1_500; // a picture behind a URL has few bytes and many tokens
    let media = request.messages.iter().filter(|message| message.has_media()).map(|message| match &message.content {
        Content::Parts(parts) => parts.iter().filter(|part| part.kind != "text").count() as u64,
        _ => 0,
    });
    request.prompt_bytes() as u64 / 3 + 16 + media.sum::<u64>() * MEDIA_PART_TOKENS
}

/// Output tokens expected where there is no predictor.
const OUTPUT_TOKENS_GUESS: u64 = 256;

/// Ranks the endpoints of `models` and the offer. Candidates may be empty; then `rejected` says why.
pub fn decide(question: Question<'_>) -> Route {
    let request = question.request;
    let prompt = request.messages.iter().rev().find(|message| message.role == protocol::Role::User);
    let features = Features::of(&prompt.map(protocol::Message::text).unwrap_or_default());
    let difficulty = question.predictor.map(|predictor| predictor.difficulty(&features));
    let guess = question.predictor.map_or(OUTPUT_TOKENS_GUESS, |predictor| predictor.output_tokens(&features));
    let mut route = Route {
        candidates: Vec::new(),
        rejected: Vec::new(),
        offer: question.offer.filter(|offer| offer.admissible).cloned(),
        evidence: if question.policy.is_some() { Evidence::Prior } else { Evidence::Named },
        difficulty: difficulty.map(f64::from),
        input_tokens: estimate_tokens(request),
    };
    for model in question.models {
        let quality = difficulty.map(|difficulty| f64::from(probability(prior_ability(model), difficulty)));
        let mut candidates = Vec::new();
        for endpoint in &model.endpoints {
            if let Some(reason) = unfit(request, endpoint, route.input_tokens) {
                route.rejected.push(Rejected { endpoint: endpoint.id.clone(), reason });
                continue;
            }
            let output = guess.min(request.max_tokens.unwrap_or(u64::MAX)).min(endpoint.output_tokens_max);
            candidates.push(Candidate {
                expected_cost_usd: endpoint.price.cost(route.input_tokens, 0, output).as_usd(),
                endpoint: Arc::new(endpoint.clone()),
                quality: quality.filter(|_| question.policy.is_some()),
                expected_output_tokens: output,
                reason: "named by the request".to_owned(),
                rank: 0,
            });
        }
        order_endpoints(request, &mut candidates);
        route.candidates.append(&mut candidates);
    }
    if let Some(policy) = question.policy {
        rank_by_policy(&mut route, policy, question, difficulty);
    }
    number(request, &mut route.candidates);
    route
}

/// Gives one rank to neighbours of one model at one cost, unless the client ordered the providers itself.
fn number(request: &ChatRequest, candidates: &mut [Candidate]) {
    for at in 1..candidates.len() {
        let (before, this) = (&candidates[at - 1], &candidates[at]);
        let equal = before.endpoint.model == this.endpoint.model && before.endpoint.price == this.endpoint.price;
        let rank = before.rank + usize::from(!equal || !request.provider.order.is_empty());
        candidates[at].rank = rank;
    }
}

/// Why an endpoint cannot serve a request, if it cannot.
fn unfit(request: &ChatRequest, endpoint: &Endpoint, input_tokens: u64) -> Option<String> {
    let preferences = &request.provider;
    let named = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case(&endpoint.provider));
    if !preferences.only.is_empty() && !named(&preferences.only) {
        return Some(format!("provider.only does not name `{}`", endpoint.provider));
    }
    if named(&preferences.ignore) {
        return Some(format!("provider.ignore names `{}`", endpoint.provider));
    }
    if preferences.allow_fallbacks == Some(false) && !preferences.order.is_empty() && !named(&preferences.order) {
        return Some(format!("provider.order does not name `{}` and fallbacks are off", endpoint.provider));
    }
    let needs = [
        (AbilityName::Tools, !request.tools.is_empty()),
        (AbilityName::JsonSchema, wants_schema(request)),
        (AbilityName::Images, has_images(request)),
    ];
    if let Some((missing, _)) = needs.iter().find(|(ability, needed)| *needed && !endpoint.abilities.contains(ability))
    {
        return Some(format!("does not support {}", missing.as_str()));
    }
    // The prompt's tokens are an upper estimate, so a quarter less still counts as fitting: the provider knows better.
    if input_tokens * 3 / 4 > endpoint.context_tokens {
        return Some(format!("about {input_tokens} input tokens exceed its context of {}", endpoint.context_tokens));
    }
    None
}

fn wants_schema(request: &ChatRequest) -> bool {
    let format = request.response_format.as_ref().and_then(|format| format["type"].as_str());
    format == Some("json_schema")
}

fn has_images(request: &ChatRequest) -> bool {
    request.messages.iter().any(|message| match &message.content {
        Content::Parts(parts) => parts.iter().any(|part| part.kind == "image_url"),
        _ => false,
    })
}

/// The client's provider order first, then the cheaper one.
fn order_endpoints(request: &ChatRequest, candidates: &mut [Candidate]) {
    let order = &request.provider.order;
    let place = |candidate: &Candidate| {
        let provider = &candidate.endpoint.provider;
        order.iter().position(|name| name.eq_ignore_ascii_case(provider)).unwrap_or(order.len())
    };
    candidates
        .sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.expected_cost_usd.total_cmp(&b.expected_cost_usd)));
}

/// The cheapest that keeps enough of the baseline's quality, then dearer ones that do, then the rest, best first.
fn rank_by_policy(route: &mut Route, policy: &Policy, question: Question<'_>, difficulty: Option<f32>) {
    let baseline_quality = question
        .baseline
        .zip(difficulty)
        .map(|(baseline, difficulty)| f64::from(probability(prior_ability(baseline), difficulty)));
    let quality_min = policy.quality_min.max(question.quality_min.unwrap_or(0.0));
    let Some(wanted) = baseline_quality.map(|quality| quality * quality_min) else {
        // Without a predictor nothing is known of quality: the baseline serves, the others are a fallback.
        route.candidates.sort_by_key(|candidate| candidate.endpoint.model != policy.baseline);
        for candidate in &mut route.candidates {
            candidate.reason = "no predictor: the baseline goes first".to_owned();
        }
        return;
    };
    let keeps = |candidate: &Candidate| {
        candidate.endpoint.model == policy.baseline || candidate.quality.is_some_and(|quality| quality >= wanted)
    };
    route.candidates.sort_by(|a, b| {
        let by_quality = || b.quality.unwrap_or(0.0).total_cmp(&a.quality.unwrap_or(0.0));
        let by_cost = || a.expected_cost_usd.total_cmp(&b.expected_cost_usd);
        keeps(b).cmp(&keeps(a)).then_with(|| if keeps(a) { by_cost() } else { by_quality() })
    });
    for candidate in &mut route.candidates {
        let quality = candidate.quality.unwrap_or(0.0);
        candidate.reason = if candidate.endpoint.model == policy.baseline {
            format!("the baseline, expected quality {quality:.3}")
        } else if quality >= wanted {
            format!("expected quality {quality:.3} keeps the {wanted:.3} asked for")
        } else {
            format!("expected quality {quality:.3} is under the {wanted:.3} asked for: only a fallback")
        };
    }
}
