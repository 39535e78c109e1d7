//! One model at one provider: what it costs, what it can do, and how it is called.

use crate::config::{AbilityName, EndpointConfig, Prices};
use crate::kind::{Billing, Facts, Kind};
use crate::listing::{EndpointRow, RateRow, Status};
use crate::money::NanoUsd;
use crate::price::{Price, Rates, Tier};
use protocol::dialect::{Dialect, Quirks, ReasoningForm};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One model at one provider.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// `model@provider`, with the tag where there is one; unique in a catalogue.
    pub id: String,
    pub model: String,
    pub provider: String,
    /// Tells several endpoints of one model at one provider apart.
    pub tag: Option<String>,
    /// The provider's own name of the model.
    pub name: String,
    pub dialect: Dialect,
    pub quirks: Quirks,
    /// What it costs, the provider's fee included.
    pub price: Price,
    pub billing: Billing,
    pub context_tokens: u64,
    pub input_tokens_max: u64,
    pub output_tokens_max: u64,
    pub output_tokens_reserved_max: u64,
    pub abilities: Vec<AbilityName>,
    pub facts: Facts,
    /// It passes requests on to others.
    pub aggregator: bool,
    pub deprecated: bool,
    /// It takes a fee for each request, which is in no price.
    pub request_fee: bool,
    /// Other names of its provider: what people call it, and OpenRouter's.
    pub provider_names: Arc<[String]>,
    /// Called with this credential only, whose price it is; with any where there is none.
    pub credential: Option<String>,
    /// In place of the provider's.
    pub first_token_timeout_ms: Option<u64>,
    pub idle_timeout_ms: Option<u64>,
    pub total_timeout_ms: Option<u64>,
}

impl Endpoint {
    /// True where `name` means it: its provider, by any name, or its provider and tag as `amazon-bedrock/eu`.
    pub fn is_called(&self, name: &str) -> bool {
        let (provider, tag) = match name.split_once('/') {
            Some((provider, tag)) => (provider, Some(tag)),
            None => (name, None),
        };
        let same = |known: &str| known.eq_ignore_ascii_case(provider);
        let tagged = tag.is_none_or(|tag| self.tag.as_deref().is_some_and(|known| known.eq_ignore_ascii_case(tag)));
        tagged && (same(&self.provider) || self.provider_names.iter().any(|known| same(known)))
    }

    /// True where `name` may mean it: as [`Endpoint::is_called`], and with a part behind the slash also where that is its
    /// number format or region, or where nobody knows what it has of them. For keeping out rather too much than too little.
    pub fn may_be_called(&self, name: &str) -> bool {
        let Some((provider, part)) = name.split_once('/') else { return self.is_called(name) };
        let facts = [self.tag.as_deref(), self.facts.quantization.as_deref(), self.facts.region.as_deref()];
        let is_part = |fact: &str| {
            fact.eq_ignore_ascii_case(part) || part.to_ascii_lowercase().starts_with(&fact.to_ascii_lowercase())
        };
        let mut known = facts.into_iter().flatten().peekable();
        self.is_called(provider) && (known.peek().is_none() || known.any(is_part))
    }
}

/// A provider that can be called, as far as the catalogue needs to know it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reach {
    pub provider: String,
    pub kind: Kind,
    pub facts: Facts,
    pub aggregator: bool,
    pub fee: f64,
    pub billing: Option<Billing>,
    pub quirks: Quirks,
    /// Other names of it.
    pub names: Arc<[String]>,
    /// It is at another address than the list has: what is listed about prompts does not hold there.
    pub elsewhere: bool,
    /// Credentials with prices of their own.
    pub negotiated: Vec<Negotiated>,
    /// Every credential has prices of its own.
    pub all_negotiated: bool,
    /// The region of its address, where that decides what can be called (Bedrock).
    pub aws_region: Option<String>,
}

/// What one credential pays instead of the listed price.
#[derive(Debug, Clone, PartialEq)]
pub struct Negotiated {
    /// The credential's name.
    pub credential: String,
    /// Taken off every price of the provider, as a share.
    pub discount: f64,
    /// Prices by canonical model, before them.
    pub prices: BTreeMap<String, Rates>,
}

/// An endpoint of the list at a provider that can be called.
pub(crate) fn listed(row: &EndpointRow, reach: &Reach) -> Endpoint {
    let dialect = row.dialect.unwrap_or(reach.kind.dialect());
    let mut quirks = reach.quirks.clone();
    if row.no_sampling {
        quirks.rejects.extend(["temperature", "top_p"].map(str::to_owned));
    }
    quirks.reasoning = row.reasoning.unwrap_or(quirks.reasoning);
    quirks.rejects.extend(row.rejects.iter().cloned());
    quirks.thinking_tokens = row.thinking_tokens;
    quirks.always_thinks = row.always_thinks;
    quirks.efforts.clone_from(&row.efforts);
    let own_bytes = dialect == Dialect::OpenaiChat && quirks.reasoning == ReasoningForm::AsAsked;
    if !row.abilities.contains(&AbilityName::Reasoning) && !own_bytes {
        quirks.rejects.extend(["reasoning", "reasoning_effort"].map(str::to_owned));
    }
    if quirks.reasoning == ReasoningForm::Effort && quirks.efforts.is_empty() {
        quirks.efforts = ["low", "medium", "high"].map(str::to_owned).to_vec(); // known everywhere
    }
    let tiers = row.tiers.iter().map(|tier| Tier { over_tokens: tier.over, rates: tier.rates.rates() });
    let price = Price { base: row.rates.rates(), tiers: tiers.collect() };
    let own = Some(row.billing).filter(|billing| *billing != Billing::PerToken);
    Endpoint {
        id: row.id(),
        model: row.model.clone(),
        provider: row.provider.clone(),
        tag: row.tag.clone(),
        name: row.name.clone(),
        dialect,
        quirks,
        price: price.scaled(reach.fee),
        billing: own.or(reach.billing).unwrap_or_default(),
        context_tokens: row.context,
        input_tokens_max: row.input_max.unwrap_or(row.context).min(row.context),
        output_tokens_max: row.output_max,
        output_tokens_reserved_max: OUTPUT_TOKENS_RESERVED_MAX.min(row.output_max),
        abilities: row.abilities.clone(),
        facts: if reach.elsewhere { reach.facts.clone() } else { row.facts.or(&reach.facts) },
        aggregator: reach.aggregator,
        deprecated: row.status == Status::Deprecated,
        request_fee: row.request_fee,
        provider_names: Arc::clone(&reach.names),
        credential: None,
        first_token_timeout_ms: None,
        idle_timeout_ms: None,
        total_timeout_ms: None,
    }
}

/// Reserved for a request that names no cap.
const OUTPUT_TOKENS_RESERVED_MAX: u64 = 4_096;

impl RateRow {
    /// In nano-dollars; a price that is none is 0, which validation keeps out.
    pub(crate) fn rates(&self) -> Rates {
        let nano = |usd: f64| NanoUsd::from_usd(usd).and_then(|nano| u64::try_from(nano.0).ok()).unwrap_or(0);
        let basic = Rates::of(nano(self.input), nano(self.output));
        let written = self.cache_write.map_or(basic, |price| basic.with_cache_write(nano(price)));
        Rates {
            cache_read: self.cache_read.map_or(basic.cache_read, nano),
            output_thinking: self.thinking.map_or(basic.output, nano),
            ..written
        }
    }
}

/// The endpoint, and one more for each credential that pays a price of its own.
pub(crate) fn with_negotiated(endpoint: Arc<Endpoint>, reach: &[Reach]) -> Vec<Arc<Endpoint>> {
    let Some(reach) = reach.iter().find(|reach| reach.provider == endpoint.provider) else { return vec![endpoint] };
    let own = reach.negotiated.iter().map(|negotiated| {
        let price = match negotiated.prices.get(&endpoint.model) {
            Some(rates) => Price::flat(*rates),
            None => endpoint.price.scaled(-negotiated.discount),
        };
        let credential = Some(negotiated.credential.clone());
        let id = format!("{}#{}", endpoint.id, negotiated.credential);
        Arc::new(Endpoint { id, price, credential, ..Endpoint::clone(&endpoint) })
    });
    let mut all: Vec<Arc<Endpoint>> = own.collect();
    if !reach.all_negotiated {
        all.push(endpoint);
    }
    all
}

pub(crate) fn configured(id: &str, config: &EndpointConfig, price: Price, reach: Option<&Reach>) -> Endpoint {
    let provider = config.provider.get_ref();
    let mut quirks = reach.map(|reach| reach.quirks.clone()).unwrap_or_default();
    quirks.rejects.extend(config.rejects.iter().cloned());
    quirks.reasoning = config.reasoning.unwrap_or(quirks.reasoning);
    if let Some(field) = &config.max_tokens_field {
        quirks.max_tokens_field.clone_from(field);
    }
    let general = Facts::default();
    let facts = config.facts().or(reach.map_or(&general, |reach| &reach.facts));
    let usual = reach.map_or(Dialect::default(), |reach| reach.kind.dialect());
    Endpoint {
        id: match &config.tag {
            Some(tag) => format!("{id}@{provider}/{tag}"),
            None => format!("{id}@{provider}"),
        },
        model: id.to_owned(),
        provider: provider.clone(),
        tag: config.tag.clone(),
        name: config.name.clone(),
        dialect: config.dialect.unwrap_or(usual),
        quirks,
        price: price.scaled(reach.map_or(0.0, |reach| reach.fee)),
        billing: config.billing.or(reach.and_then(|reach| reach.billing)).unwrap_or_default(),
        context_tokens: config.context_tokens,
        input_tokens_max: config.context_tokens,
        output_tokens_max: config.output_tokens_max,
        output_tokens_reserved_max: config.output_tokens_reserved_max,
        abilities: config.abilities.clone(),
        facts,
        aggregator: reach.is_some_and(|reach| reach.aggregator),
        deprecated: false,
        request_fee: false,
        provider_names: reach.map_or_else(Arc::default, |reach| Arc::clone(&reach.names)),
        credential: None,
        first_token_timeout_ms: config.first_token_timeout_ms,
        idle_timeout_ms: config.idle_timeout_ms,
        total_timeout_ms: config.total_timeout_ms,
    }
}

pub(crate) fn configured_price(
    endpoint: &EndpointConfig,
    place: &str,
    complain: &mut impl FnMut(std::ops::Range<usize>, String, String),
) -> Price {
    let mut rates = |place: &str, prices: Prices<'_>| {
        prices.rates(|span, field, problem| complain(span, format!("{place}.{field}"), problem))
    };
    let base = rates(place, endpoint.prices());
    let tiers = endpoint.tiers.iter().enumerate().map(|(at, tier)| Tier {
        over_tokens: tier.over_tokens,
        rates: rates(&format!("{place}.tiers[{at}]"), tier.prices()),
    });
    let mut tiers: Vec<Tier> = tiers.collect();
    tiers.sort_by_key(|tier| tier.over_tokens);
    Price { base, tiers }
}

/// True where a provider in this region serves an inference profile of such a tag; `None` tags serve where profiles are
/// missing (docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-support.html).
pub(crate) fn is_in_region(tag: &str, region: &str) -> bool {
    match tag {
        "global" => true,
        "us" => region.starts_with("us-") || region.starts_with("ca-"),
        "eu" => region.starts_with("eu-"),
        "jp" => region == "ap-northeast-1" || region == "ap-northeast-3",
        "au" => region == "ap-southeast-2" || region == "ap-southeast-4",
        "apac" => region.starts_with("ap-"),
        _ => true,
    }
}
