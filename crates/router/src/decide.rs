//! The one decision: endpoints and the cache's offer in one ranking, each with its reason.

use crate::endpoints::{Lot, Standing, Suffixes, lot, missed, unfit};
use crate::features::Features;
use crate::policy::{Evidence, Policy};
use crate::predictor::{Expected, Predictor};
use crate::rank::rank_by_policy;
use crate::rule::{Applied, Ruled};
use crate::verify::Check;
use catalog::{Billing, Endpoint, Makes, Model, Record};
use protocol::{ChatRequest, Content, Usage};
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

/// A model that may serve, and what the name it was asked by adds.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub model: Arc<Model>,
    pub suffixes: Suffixes,
    /// Answers where all endpoints of the model say that it is gone.
    pub successor: Option<Arc<Model>>,
}

/// Where a conversation was answered before, and how much of its prompt the provider still remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sticky {
    /// The endpoint's id.
    pub endpoint: String,
    pub warm_tokens: u64,
}

/// Everything a decision depends on.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    pub request: &'a ChatRequest,
    /// The models that may serve, in the client's order of preference.
    pub models: &'a [Wanted],
    /// The policy that chooses among them; `None` where the client named them.
    pub policy: Option<&'a Policy>,
    /// Which of the policy's rules apply.
    pub rules: &'a Applied,
    /// Share of the baseline's quality to keep, where the caller tightened the policy's.
    pub quality_min: Option<f64>,
    pub baseline: Option<&'a Model>,
    pub offer: Option<&'a Offer>,
    pub predictor: Option<&'a Predictor>,
    /// The vector of the last user turn, where there is one.
    pub vector: Option<&'a [f32]>,
    /// What was seen of endpoints lately.
    pub records: &'a dyn Fn(&Endpoint) -> Record,
    /// Draws lots among endpoints that are equally good but for their price.
    pub seed: u64,
    pub sticky: Option<&'a Sticky>,
}

/// One endpoint that can serve.
#[derive(Debug, Clone, Serialize)]
pub struct Candidate {
    #[serde(serialize_with = "endpoint_id")]
    pub endpoint: Arc<Endpoint>,
    /// Probability that the model handles the request, where it was estimated.
    pub quality: Option<f64>,
    /// Scored answers of the model behind that; without, it follows from price and age.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<usize>,
    pub expected_cost_usd: f64,
    pub expected_output_tokens: u64,
    pub reason: String,
    /// Neighbours of one rank are equally good: the healthier goes first.
    pub rank: usize,
    /// Its share in the lots that were drawn, where they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lot: Option<Lot>,
    /// The model that it stands in for, once that is gone everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_place_of: Option<String>,
}

/// One endpoint that cannot serve, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rejected {
    pub endpoint: String,
    pub reason: String,
}

/// A cheaper candidate whose answer is checked before anybody sees it.
#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    /// Its place among the candidates.
    pub candidate: usize,
    #[serde(serialize_with = "check_name")]
    pub check: Check,
}

/// The ranked candidates of one request.
#[derive(Debug, Clone, Serialize)]
pub struct Route {
    pub candidates: Vec<Candidate>,
    pub rejected: Vec<Rejected>,
    /// The offer that wins over all candidates.
    pub offer: Option<Offer>,
    pub evidence: Evidence,
    /// How likely the lots were to put the first candidate first; 1 where none were drawn. Of endpoints with one rank the
    /// healthier is called, so it speaks of the model and its price.
    pub propensity: f64,
    /// What is promised of the quality, where the policy promises.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guarantee: Option<String>,
    /// The candidate that is tried first because its answer can be checked; the first one answers where it does not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    pub difficulty: Option<f64>,
    pub input_tokens: u64,
}

fn endpoint_id<S: serde::Serializer>(endpoint: &Arc<Endpoint>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&endpoint.id)
}

fn check_name<S: serde::Serializer>(check: &Check, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(check.as_str())
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
    let seen = question.predictor.map(|predictor| (predictor, predictor.see(&features, question.vector)));
    let expect = |model: &Model| seen.as_ref().map(|(predictor, seen)| predictor.expect(model, seen));
    // Without labels of the baseline, those of the others have nothing to be compared with.
    let baseline = question.baseline.and_then(expect);
    let by_labels = baseline.is_some_and(|baseline| baseline.labelled.is_some());
    let mut route = Route {
        candidates: Vec::new(),
        rejected: Vec::new(),
        offer: question.offer.filter(|offer| offer.admissible).cloned(),
        evidence: if question.policy.is_some() { Evidence::Prior } else { Evidence::Named },
        propensity: 1.0,
        guarantee: None,
        trial: None,
        difficulty: seen.as_ref().map(|(_, seen)| f64::from(seen.difficulty())),
        input_tokens: estimate_tokens(request),
    };
    let rules = question.policy.map_or(&[][..], |policy| &policy.rules);
    let ruled = Ruled::by(rules, question.rules);
    let mut standing: Vec<(Standing, Candidate)> = Vec::new();
    for wanted in question.models {
        let expected = expect(&wanted.model);
        let guess = expected.map_or(OUTPUT_TOKENS_GUESS, |expected| expected.output_tokens);
        let mut group = Vec::new();
        for endpoint in &wanted.model.endpoints {
            let objection = unsuitable(question, wanted, endpoint, route.input_tokens);
            match objection.or_else(|| ruled.objection(endpoint)) {
                Some(reason) => route.rejected.push(Rejected { endpoint: endpoint.id.clone(), reason }),
                None => {
                    let mut candidate = candidate(question, endpoint, route.input_tokens, guess);
                    if let Some(expected) = expected.filter(|_| question.policy.is_some()) {
                        let labelled = expected.labelled.filter(|_| by_labels);
                        candidate.quality = Some(labelled.map_or(expected.prior, |(quality, _)| quality));
                        candidate.labels = labelled.map(|(_, labels)| labels);
                    }
                    if let Some(reason) = too_dear(question, &candidate) {
                        route.rejected.push(Rejected { endpoint: endpoint.id.clone(), reason });
                        continue;
                    }
                    group.push((stand(question, wanted, endpoint, &mut candidate), candidate));
                }
            }
        }
        put_in_order(question, &mut group);
        standing.append(&mut group);
    }
    let rather =
        request.provider.preferred_min_throughput.is_some() || request.provider.preferred_max_latency.is_some();
    if question.policy.is_none() && request.provider.sort.is_some_and(|sort| sort.across_models) {
        put_in_order(question, &mut standing);
    } else if question.policy.is_none() && rather {
        // A fallback model that meets what is rather wanted goes before a first one that is known not to.
        standing.sort_by_key(|(standing, _)| standing.missed);
    }
    number(request, &mut standing);
    route.candidates = standing.into_iter().map(|(_, candidate)| candidate).collect();
    match question.policy {
        Some(policy) => rank_by_policy(&mut route, policy, question, &ruled, baseline),
        None => {
            let mut successors = successors(question, &route, expect);
            route.candidates.append(&mut successors);
        }
    }
    if let Some(lot) = route.candidates.first().and_then(|first| first.lot) {
        route.propensity = lot.weight / lot.total;
    }
    route
}

fn unsuitable(question: Question<'_>, wanted: &Wanted, endpoint: &Endpoint, input_tokens: u64) -> Option<String> {
    let by_auto = question.policy.is_some_and(|policy| policy.name == "auto");
    if !matches!(wanted.model.makes, Makes::Chat | Makes::Other) {
        return Some("makes no text".to_owned());
    }
    if by_auto && endpoint.billing != Billing::PerToken {
        return Some("is not paid by the token, so `auto` does not choose it".to_owned());
    }
    unfit(question.request, &wanted.model, endpoint, wanted.suffixes, input_tokens)
}

/// Why an endpoint costs more than the policy lets it.
fn too_dear(question: Question<'_>, candidate: &Candidate) -> Option<String> {
    let cost_max = question.policy?.cost_max_usd?;
    let cost = candidate.expected_cost_usd;
    (cost > cost_max).then(|| format!("expected to cost ${cost:.6}, over the policy's cost_max_usd of {cost_max}"))
}

fn candidate(question: Question<'_>, endpoint: &Arc<Endpoint>, input_tokens: u64, guess: u64) -> Candidate {
    let output = guess.min(question.request.max_tokens.unwrap_or(u64::MAX)).min(endpoint.output_tokens_max);
    let warm = question.sticky.filter(|sticky| sticky.endpoint == endpoint.id).map_or(0, |sticky| sticky.warm_tokens);
    let warm = warm.min(input_tokens);
    let usage =
        Usage { input_tokens: input_tokens - warm, cache_read_tokens: warm, output_tokens: output, ..Usage::default() };
    Candidate {
        expected_cost_usd: endpoint.price.cost(usage).as_usd(),
        endpoint: Arc::clone(endpoint),
        quality: None,
        labels: None,
        expected_output_tokens: output,
        reason: "named by the request".to_owned(),
        rank: 0,
        lot: None,
        in_place_of: None,
    }
}

/// The endpoints of the successors of named models: for the case that those are gone, and after everything else.
fn successors(question: Question<'_>, route: &Route, expect: impl Fn(&Model) -> Option<Expected>) -> Vec<Candidate> {
    let mut found = Vec::new();
    for wanted in question.models {
        let Some(model) = &wanted.successor else { continue };
        let guess = expect(model).map_or(OUTPUT_TOKENS_GUESS, |expected| expected.output_tokens);
        let successor = Wanted { model: Arc::clone(model), suffixes: wanted.suffixes, successor: None };
        let mut group = Vec::new();
        for endpoint in &model.endpoints {
            if unsuitable(question, &successor, endpoint, route.input_tokens).is_none() {
                let mut candidate = candidate(question, endpoint, route.input_tokens, guess);
                let standing = stand(question, &successor, endpoint, &mut candidate);
                candidate.reason = format!("only where `{}` is gone", wanted.model.id);
                candidate.in_place_of = Some(wanted.model.id.clone());
                group.push((standing, candidate));
            }
        }
        put_in_order(question, &mut group);
        found.extend(group.into_iter().map(|(_, candidate)| candidate));
    }
    let last = route.candidates.last().map_or(0, |candidate| candidate.rank + 1);
    found.iter_mut().enumerate().for_each(|(at, candidate)| candidate.rank = last + at);
    found
}

/// Where a candidate stands among the endpoints of its model, and why.
fn stand(question: Question<'_>, wanted: &Wanted, endpoint: &Endpoint, candidate: &mut Candidate) -> Standing {
    let request = question.request;
    let record = (question.records)(endpoint);
    let price = candidate.expected_cost_usd;
    let order = &request.provider.order;
    if !order.is_empty() {
        let place = order.iter().position(|name| endpoint.is_called(name)).unwrap_or(order.len());
        candidate.reason = "by provider.order".to_owned();
        return Standing { missed: 0, failing: false, aggregator: false, key: place as f64, drawn: false };
    }
    let sort = request.provider.sort.map(|sort| sort.by).or(wanted.suffixes.sort_by());
    if let Some(by) = sort {
        candidate.reason = format!("sorted by {by:?}").to_lowercase();
        return Standing::sorted(endpoint, &record, by, price);
    }
    let missed = missed(request, &record);
    if record.failing {
        candidate.reason = "it has been failing: last".to_owned();
    }
    let lot = lot(question.seed, endpoint, price);
    Standing { missed, failing: record.failing, aggregator: endpoint.aggregator, key: lot, drawn: true }
}

/// Orders the endpoints of one model; the one that remembers the conversation goes first where that is cheaper than
/// beginning again elsewhere.
fn put_in_order(question: Question<'_>, group: &mut Vec<(Standing, Candidate)>) {
    group.sort_by(|(a, one), (b, other)| {
        let by_cost = || one.expected_cost_usd.total_cmp(&other.expected_cost_usd);
        a.compare(b).then_with(by_cost).then_with(|| one.endpoint.id.cmp(&other.endpoint.id))
    });
    share_out(group);
    let preferences = &question.request.provider;
    let drawn = group.iter().all(|(standing, _)| standing.drawn);
    if let Some(sticky) = question.sticky.filter(|_| drawn)
        && let Some(at) = group.iter().position(|(_, candidate)| candidate.endpoint.id == sticky.endpoint)
    {
        let cheapest = group.iter().map(|(_, candidate)| candidate.expected_cost_usd).fold(f64::INFINITY, f64::min);
        let (standing, warm) = &group[at];
        if !standing.failing && warm.expected_cost_usd <= cheapest {
            let (mut standing, mut warm) = group.remove(at);
            warm.reason = format!("its prompt cache holds about {} tokens of this conversation", sticky.warm_tokens);
            standing.key = f64::NEG_INFINITY;
            warm.lot = None;
            group.insert(0, (standing, warm));
        }
    }
    if preferences.allow_fallbacks == Some(false) && preferences.order.is_empty() {
        group.truncate(1);
    }
}

/// Gives each endpoint its share in the drawing among the equally good ones of its model.
fn share_out(group: &mut [(Standing, Candidate)]) {
    let lots: Vec<Option<Lot>> =
        group.iter().map(|(standing, candidate)| standing.lot(candidate.expected_cost_usd)).collect();
    for at in 0..group.len() {
        let (standing, candidate) = &mut group[at];
        let others = || lots.iter().flatten().filter(|lot| lot.class == standing.class());
        candidate.lot = lots[at].filter(|_| others().count() > 1).map(|lot| lot.among(others().copied()));
    }
}

/// Gives one rank to neighbours of one model at one price that are equally good, so that the healthier of them is
/// called more often.
fn number(request: &ChatRequest, candidates: &mut [(Standing, Candidate)]) {
    let ordered = !request.provider.order.is_empty() || request.provider.sort.is_some();
    for at in 1..candidates.len() {
        let ((before, first), (this, second)) = (&candidates[at - 1], &candidates[at]);
        let equal = first.endpoint.model == second.endpoint.model
            && first.endpoint.price == second.endpoint.price
            && (before.failing, before.missed, before.aggregator) == (this.failing, this.missed, this.aggregator)
            && before.key > f64::NEG_INFINITY;
        candidates[at].1.rank = first.rank + usize::from(!equal || ordered);
    }
}
