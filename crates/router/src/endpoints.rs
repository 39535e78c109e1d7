//! Which endpoints may serve a request, and in which order: OpenRouter's rules, with our own facts. Pure: what was seen of
//! endpoints and the seed of the draw are arguments.

use catalog::{AbilityName, Billing, Endpoint, Model, Record};
use protocol::dialect::{Dialect, ReasoningForm};
use protocol::{ChatRequest, Content, Cutoffs, DataCollection, SortBy};
use serde::Serialize;

/// What a suffix of a model's name asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Suffixes {
    /// `:floor`, `:nitro`, `:exacto`.
    pub sort: Option<SortSuffix>,
    /// `:free`.
    pub free: bool,
    /// `:thinking`.
    pub thinking: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SortSuffix {
    Floor,
    Nitro,
    Exacto,
}

impl Suffixes {
    /// Takes the suffixes off a name; a name with one we do not know is left as it is.
    pub fn of(name: &str) -> (&str, Self) {
        let (mut name, mut suffixes) = (name, Self::default());
        while let Some((rest, suffix)) = name.rsplit_once(':') {
            match suffix {
                "floor" => suffixes.sort = Some(SortSuffix::Floor),
                "nitro" => suffixes.sort = Some(SortSuffix::Nitro),
                "exacto" => suffixes.sort = Some(SortSuffix::Exacto),
                "free" => suffixes.free = true,
                "thinking" => suffixes.thinking = true,
                _ => break,
            }
            name = rest;
        }
        (name, suffixes)
    }

    /// What endpoints are ordered by.
    pub(crate) fn sort_by(self) -> Option<SortBy> {
        self.sort.map(|sort| match sort {
            SortSuffix::Floor => SortBy::Price,
            SortSuffix::Nitro => SortBy::Throughput,
            SortSuffix::Exacto => SortBy::Exacto,
        })
    }
}

/// Why an endpoint cannot serve a request, if it cannot.
pub(crate) fn unfit(
    request: &ChatRequest,
    model: &Model,
    endpoint: &Endpoint,
    suffixes: Suffixes,
    input_tokens: u64,
) -> Option<String> {
    excluded(request, endpoint)
        .or_else(|| incapable(request, endpoint, suffixes, input_tokens))
        .or_else(|| forbidden(request, model, endpoint))
        .or_else(|| too_dear(request, endpoint, input_tokens))
}

/// The rules that name providers.
fn excluded(request: &ChatRequest, endpoint: &Endpoint) -> Option<String> {
    let preferences = &request.provider;
    let named = |names: &[String]| names.iter().any(|name| endpoint.is_called(name));
    if !preferences.only.is_empty() && !named(&preferences.only) {
        return Some(format!("provider.only does not name `{}`", endpoint.provider));
    }
    if preferences.ignore.iter().any(|name| endpoint.may_be_called(name)) {
        return Some(format!("provider.ignore names `{}`", endpoint.provider));
    }
    if preferences.allow_fallbacks == Some(false) && !preferences.order.is_empty() && !named(&preferences.order) {
        return Some(format!("provider.order does not name `{}` and fallbacks are off", endpoint.provider));
    }
    None
}

/// What the request needs and the endpoint cannot do.
fn incapable(request: &ChatRequest, endpoint: &Endpoint, suffixes: Suffixes, input_tokens: u64) -> Option<String> {
    let needs = [
        (AbilityName::Tools, !request.tools.is_empty()),
        (AbilityName::JsonSchema, wants_schema(request)),
        (AbilityName::Images, has_part(request, "image_url")),
        (AbilityName::Pdf, has_part(request, "file")),
        (AbilityName::Audio, has_part(request, "input_audio")),
        (AbilityName::Reasoning, suffixes.thinking),
    ];
    if let Some((missing, _)) = needs.iter().find(|(ability, needed)| *needed && !endpoint.abilities.contains(ability))
    {
        return Some(format!("does not support {}", missing.as_str()));
    }
    if suffixes.free && endpoint.billing != Billing::Free {
        return Some("is not free".to_owned());
    }
    if request.provider.require_parameters == Some(true) {
        let known = parameters(endpoint);
        if let Some(missing) = request.parameters().find(|name| !known.contains(name)) {
            return Some(format!("is not known to take the parameter `{missing}`"));
        }
    }
    // The prompt's tokens are an upper estimate, so a quarter less still counts as fitting: the provider knows better.
    if input_tokens * 3 / 4 > endpoint.input_tokens_max {
        return Some(format!("about {input_tokens} input tokens exceed its context of {}", endpoint.input_tokens_max));
    }
    if let Some(wanted) = request.max_tokens.filter(|wanted| *wanted > endpoint.output_tokens_max) {
        return Some(format!("gives {} output tokens at the most, not {wanted}", endpoint.output_tokens_max));
    }
    None
}

/// Demands on facts; one that is unknown satisfies none.
fn forbidden(request: &ChatRequest, model: &Model, endpoint: &Endpoint) -> Option<String> {
    let (preferences, facts) = (&request.provider, &endpoint.facts);
    let keeps_none = |demand: &str| match facts.stores_prompts {
        Some(false) => None,
        Some(true) => Some(format!("stores prompts, which {demand} forbids")),
        None => Some(format!("{demand}: whether it stores prompts (stores_prompts) is unknown")),
    };
    if preferences.zdr == Some(true)
        && let Some(reason) = keeps_none("provider.zdr")
    {
        return Some(reason);
    }
    if preferences.data_collection == Some(DataCollection::Deny) {
        let demand = "provider.data_collection";
        let trains = match facts.trains_on_prompts {
            Some(false) => None,
            Some(true) => Some(format!("trains on prompts, which {demand} forbids")),
            None => Some(format!("{demand}: whether it trains on prompts (trains_on_prompts) is unknown")),
        };
        if let Some(reason) = keeps_none(demand).or(trains) {
            return Some(reason);
        }
    }
    if let Some(wanted) = &preferences.region {
        match &facts.region {
            None => {
                return Some(format!(
                    "provider.region: where it processes prompts (region) is unknown, not `{wanted}`"
                ));
            }
            Some(region) if !is_within(region, wanted) => {
                return Some(format!("processes prompts in `{region}`, not in `{wanted}`"));
            }
            Some(_) => {}
        }
    }
    if !preferences.quantizations.is_empty() {
        let quantization = facts.quantization.as_deref().unwrap_or("unknown");
        if !preferences.quantizations.iter().any(|wanted| wanted.eq_ignore_ascii_case(quantization)) {
            return Some(format!("provider.quantizations: its quantization is {quantization}"));
        }
    }
    if preferences.enforce_distillable_text == Some(true) && model.distillable != Some(true) {
        let known = if model.distillable.is_none() { "unknown" } else { "no" };
        return Some(format!(
            "provider.enforce_distillable_text: whether its author allows it (distillable) is {known}"
        ));
    }
    None
}

/// `eu-west-1` lies within `eu`.
fn is_within(region: &str, wanted: &str) -> bool {
    let (region, wanted) = (region.to_ascii_lowercase(), wanted.to_ascii_lowercase());
    region == wanted || region.strip_prefix(&wanted).is_some_and(|rest| rest.starts_with('-'))
}

fn too_dear(request: &ChatRequest, endpoint: &Endpoint, input_tokens: u64) -> Option<String> {
    let max = request.provider.max_price.as_ref()?;
    let rates = endpoint.price.rates(input_tokens);
    let usd = |nano: u64| nano as f64 / 1e9;
    let prompt = max.prompt.filter(|most| usd(rates.input) > *most).map(|most| ("prompt", usd(rates.input), most));
    let dearest = rates.output.max(rates.output_thinking);
    let completion = max.completion.filter(|most| usd(dearest) > *most).map(|most| ("completion", usd(dearest), most));
    if let Some((what, is, most)) = prompt.or(completion) {
        return Some(format!("provider.max_price.{what}: it costs ${is} a million tokens, not ${most} or less"));
    }
    if max.request.is_some() && endpoint.request_fee {
        return Some("provider.max_price.request: its price of one is unknown".to_owned());
    }
    let unpriced =
        [("image", max.image, has_part(request, "image_url")), ("audio", max.audio, has_part(request, "input_audio"))];
    let (what, ..) = unpriced.iter().find(|(_, most, used)| most.is_some() && *used)?;
    Some(format!("provider.max_price.{what}: its price of one is unknown"))
}

fn wants_schema(request: &ChatRequest) -> bool {
    let format = request.response_format.as_ref().and_then(|format| format["type"].as_str());
    format == Some("json_schema")
}

fn has_part(request: &ChatRequest, kind: &str) -> bool {
    request.messages.iter().any(|message| match &message.content {
        Content::Parts(parts) => parts.iter().any(|part| part.kind == kind),
        _ => false,
    })
}

/// The request parameters that an endpoint is known to take, in OpenRouter's words.
pub fn parameters(endpoint: &Endpoint) -> Vec<&'static str> {
    let mut names = vec!["max_tokens", "max_completion_tokens", "temperature", "top_p", "stop"];
    names.extend_from_slice(match endpoint.dialect {
        Dialect::OpenaiChat => &["seed", "frequency_penalty", "presence_penalty", "n"],
        Dialect::Gemini => &["seed", "frequency_penalty", "presence_penalty", "n", "top_k"],
        Dialect::Cohere => &["seed", "frequency_penalty", "presence_penalty", "top_k"],
        Dialect::Anthropic | Dialect::Bedrock => &["top_k"],
        Dialect::OpenaiResponses => &["verbosity"],
    });
    if endpoint.dialect == Dialect::OpenaiResponses {
        names.retain(|name| *name != "stop");
    }
    let can = |ability: AbilityName| endpoint.abilities.contains(&ability);
    if can(AbilityName::Tools) {
        names.extend(["tools", "tool_choice", "parallel_tool_calls"]);
    }
    if can(AbilityName::JsonSchema) {
        names.extend(["response_format", "structured_outputs"]);
    }
    if can(AbilityName::Reasoning) {
        names.extend(["reasoning", "include_reasoning"]);
        if endpoint.dialect != Dialect::OpenaiChat || endpoint.quirks.reasoning != ReasoningForm::EnableThinking {
            names.push("reasoning_effort");
        }
    }
    names.retain(|name| !endpoint.quirks.rejects.iter().any(|field| field == name));
    names
}

/// Which endpoints lots are drawn among.
pub(crate) type Class = (bool, u8, bool);

/// An endpoint's share in the drawing of lots among the equally good ones of its model: it comes first with probability
/// `weight / total`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lot {
    /// 1 / (expected cost in USD)².
    pub weight: f64,
    /// The sum of all weights in the drawing.
    pub total: f64,
    #[serde(skip)]
    pub(crate) class: Class,
}

impl Lot {
    /// Its share among these.
    pub(crate) fn among(self, others: impl Iterator<Item = Self>) -> Self {
        Self { total: others.map(|lot| lot.weight).sum(), ..self }
    }
}

/// How an endpoint stands among those that can serve; what is smaller goes first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Standing {
    /// Not what the request would rather have: it is known to be, or not known.
    pub missed: u8,
    pub failing: bool,
    pub aggregator: bool,
    /// The order asked for, or drawn.
    pub key: f64,
    pub drawn: bool,
}

impl Standing {
    pub(crate) fn compare(&self, other: &Self) -> std::cmp::Ordering {
        self.class().cmp(&other.class()).then_with(|| self.key.total_cmp(&other.key))
    }

    pub(crate) fn class(&self) -> Class {
        (self.failing, self.missed, self.aggregator)
    }

    /// What takes part in the drawing; what costs nothing comes first without one.
    pub(crate) fn lot(&self, price: f64) -> Option<Lot> {
        let takes_part = self.drawn && price > 0.0;
        takes_part.then(|| Lot { weight: (price * price).recip(), total: 0.0, class: self.class() })
    }

    /// By a measure rather than by lot, aggregators are as good as others.
    pub(crate) fn sorted(endpoint: &Endpoint, record: &Record, by: SortBy, price: f64) -> Self {
        let unknown = f64::INFINITY;
        let key = match by {
            SortBy::Price => price,
            SortBy::Throughput => record.throughput.map_or(unknown, |throughput| -throughput.p50),
            SortBy::Latency => record.latency_ms.map_or(unknown, |latency| latency.p50),
            SortBy::Exacto => record.good_calls.map_or(unknown, |share| -share),
        };
        let aggregator = by != SortBy::Price && endpoint.aggregator;
        Self { missed: 0, failing: false, aggregator, key, drawn: false }
    }
}

/// 0 where what the request would rather have is met, 1 where that is not known, 2 where it is not met.
pub(crate) fn missed(request: &ChatRequest, record: &Record) -> u8 {
    let preferences = &request.provider;
    let throughput = preferences.preferred_min_throughput.map(|wanted| {
        let seen = record.throughput.map(|seen| [seen.p50, seen.p75, seen.p90, seen.p99]);
        judged(wanted, seen, |seen, wanted| seen >= wanted)
    });
    let latency = preferences.preferred_max_latency.map(|wanted| {
        let seen = record.latency_ms.map(|seen| [seen.p50, seen.p75, seen.p90, seen.p99].map(|ms| ms / 1e3));
        judged(wanted, seen, |seen, wanted| seen <= wanted)
    });
    throughput.into_iter().chain(latency).max().unwrap_or(0)
}

fn judged(wanted: Cutoffs, seen: Option<[f64; 4]>, met: impl Fn(f64, f64) -> bool) -> u8 {
    let Some(seen) = seen else { return 1 };
    let cutoffs = [wanted.p50, wanted.p75, wanted.p90, wanted.p99];
    let all_met = seen.into_iter().zip(cutoffs).all(|(seen, wanted)| wanted.is_none_or(|wanted| met(seen, wanted)));
    if all_met { 0 } else { 2 }
}

/// A lot that comes first with probability in proportion to 1/price² (Efraimidis and Spirakis, 2006: the smallest of
/// −ln(u)/weight); what costs nothing comes before all that costs.
pub(crate) fn lot(seed: u64, endpoint: &Endpoint, price: f64) -> f64 {
    if price <= 0.0 {
        return 0.0;
    }
    -uniform(seed, &endpoint.id).ln() * price * price
}

/// A number from 0 to 1, both excluded, that follows from seed and name (FNV-1a, then SplitMix64's finish).
fn uniform(seed: u64, name: &str) -> f64 {
    let mut state = seed ^ 0xcbf2_9ce4_8422_2325;
    for byte in name.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((state ^ (state >> 31)) >> 11) as f64 / (1u64 << 53) as f64 + f64::EPSILON / 4.0
}
