//! What a key may ask for and what its tenant pays, applied to a request; a refusal names the rule.

use crate::error::Error;
use catalog::{Endpoint, NanoUsd, Price};
use ledger::{Caller, Markup};
use protocol::{ChatRequest, FieldError, Usage};
use providers::Attempt;
use std::net::IpAddr;

/// What a request is sold as.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sold {
    /// The tenant's own name of the model; empty where it was asked for by ours.
    pub name: String,
    /// Clients see neither who answered nor what that took.
    pub hides_source: bool,
    markup: Markup,
}

impl Sold {
    /// The price that the tenant pays at an endpoint; what each answer costs by itself is apart.
    pub(crate) fn price(&self, endpoint: &Endpoint) -> Price {
        self.markup.selling(&endpoint.price)
    }

    /// What the tenant pays for tokens of an endpoint, and for an answer.
    pub(crate) fn answer_cost(&self, endpoint: &Endpoint, usage: Usage) -> NanoUsd {
        self.price(endpoint).cost(usage) + self.markup.per_request()
    }

    /// What the tenant pays for a call that it gave up.
    pub(crate) fn given_up_cost(&self, attempt: &Attempt) -> NanoUsd {
        attempt.wasted.map_or(NanoUsd::ZERO, |usage| self.price(&attempt.endpoint).cost(usage))
    }

    /// What each answer of a model costs by itself.
    pub(crate) fn per_answer(&self) -> NanoUsd {
        self.markup.per_request()
    }

    /// What an answer out of the cache costs.
    pub(crate) fn hit_cost(&self) -> NanoUsd {
        self.markup.per_hit()
    }
}

/// Refuses who may not ask from this address.
pub(crate) fn permit_address(caller: &Caller, address: Option<IpAddr>) -> Result<(), Error> {
    if caller.account.rules.allow_address(address) {
        return Ok(());
    }
    let from = address.map_or_else(|| "an unknown address".to_owned(), |address| address.to_string());
    Err(Error::Forbidden(format!("rules.ip_ranges: this key may not be used from {from}")))
}

/// Puts what is served in the place of a model of the tenant's own, and says what that is sold as.
pub(crate) fn sold(caller: &Caller, request: &mut ChatRequest) -> Result<Sold, Error> {
    let terms = &caller.account.tenant.terms;
    let Some(own) = request.named_models().into_iter().find_map(|name| terms.own_model(name)) else {
        return Ok(Sold { markup: terms.markup, ..Sold::default() });
    };
    if request.named_models().len() > 1 {
        let problem = format!("`{}` stands alone; leave the others out", own.id);
        return Err(FieldError::new("models", problem).into());
    }
    permit_model(caller, &own.id)?;
    // What is sold is what the tenant chose: a policy of the client's own choice would be another thing.
    (request.model, request.models, request.sluice.policy) = (own.serves.clone(), Vec::new(), None);
    Ok(Sold { name: own.id.clone(), hides_source: own.hides_source, markup: own.markup.unwrap_or(terms.markup) })
}

/// Refuses wishes whose fulfilment would tell who answers and at what price.
pub(crate) fn refuse_probing(request: &ChatRequest) -> Result<(), FieldError> {
    let wishes = &request.provider;
    let told = [
        ("provider.only", !wishes.only.is_empty()),
        ("provider.order", !wishes.order.is_empty()),
        ("provider.ignore", !wishes.ignore.is_empty()),
        ("provider.quantizations", !wishes.quantizations.is_empty()),
        ("provider.region", wishes.region.is_some()),
        ("provider.max_price", wishes.max_price.is_some()),
    ];
    match told.into_iter().find(|(_, is_named)| *is_named) {
        None => Ok(()),
        Some((field, _)) => Err(FieldError::new(field, "this model's providers are not shown; leave it out")),
    }
}

/// Refuses a model that the key may not ask for.
pub(crate) fn permit_model(caller: &Caller, model: &str) -> Result<(), Error> {
    if caller.account.rules.allow_model(model) {
        return Ok(());
    }
    Err(Error::Forbidden(format!("rules.models: this key may not ask for `{model}`")))
}

/// Refuses a policy, or a model by its name, that the key may not ask for.
pub(crate) fn permit_policy(caller: &Caller, policy: Option<&str>) -> Result<(), Error> {
    if caller.account.rules.allow_policy(policy) {
        return Ok(());
    }
    let asked = policy.map_or_else(|| "for models by name".to_owned(), |policy| format!("for the policy `{policy}`"));
    Err(Error::Forbidden(format!("rules.policies: this key may not ask {asked}")))
}

/// Leaves only the providers that the key may use, as if the client had asked for no other.
pub(crate) fn narrow_providers(caller: &Caller, request: &mut ChatRequest) -> Result<(), Error> {
    let allowed = &caller.account.rules.providers;
    if allowed.is_empty() {
        return Ok(());
    }
    let only = &mut request.provider.only;
    if only.is_empty() {
        only.clone_from(allowed);
        return Ok(());
    }
    only.retain(|provider| caller.account.rules.allow_provider(provider));
    if only.is_empty() {
        return Err(Error::Forbidden(
            "rules.providers: this key may use none of the providers in `provider.only`".into(),
        ));
    }
    Ok(())
}
