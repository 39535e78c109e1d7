//! Which providers and models a configuration reaches: its own tables, the catalogue, and the credentials found.

use super::{ConfigFile, Findings, Mistake, SIMULATED, listed};
use catalog::{Billing, Catalog, Kind, Listing, Model, ModelConfig, Reach};
use providers::Provider;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The page of the simulator's models.
#[derive(Deserialize)]
struct Simulated {
    models: Vec<ModelConfig>,
}

/// The day of the prices is said when they are older than this.
const AGE_DAYS_MAX: i64 = 30;

impl ConfigFile {
    /// The list of models and prices: the one given, or the shipped one.
    pub(super) fn listing(&self, findings: &mut Findings) -> Arc<Listing> {
        if let Some(listing) = &self.listing {
            return Arc::clone(listing);
        }
        match Listing::shipped() {
            Ok(listing) => listing,
            Err(error) => {
                findings.mistakes.push(Mistake::new(0..0, "catalogue", error.to_string()));
                Arc::default()
            }
        }
    }

    pub(super) fn providers(
        &self,
        listing: &Listing,
        environment: &dyn Fn(&str) -> Option<String>,
        simulator: Option<&str>,
        findings: &mut Findings,
    ) -> Vec<Provider> {
        let mut providers = Vec::new();
        for (name, config) in &self.tables.providers {
            match Provider::from_config(name, config, listing.providers.get(name), environment) {
                Ok(provider) => {
                    if provider.kind == Kind::Simulated {
                        findings.notices.push(format!("every answer of the provider `{name}` is SIMULATED"));
                    }
                    providers.push(provider);
                }
                Err(errors) => {
                    findings.mistakes.extend(errors.into_iter().map(|e| Mistake::new(e.span, e.field, e.problem)))
                }
            }
        }
        for row in listing.providers.values().filter(|row| !self.tables.providers.contains_key(&row.id)) {
            match Provider::known(row, environment) {
                Some(Ok(provider)) => {
                    findings.notices.push(format!("{} found: serving {}'s models", provider.credential_name(), row.id));
                    providers.push(provider);
                }
                Some(Err(problem)) => findings.notices.push(format!("{} is OFF: {problem}", row.id)),
                None => {}
            }
        }
        if let Some(url) = simulator {
            findings.notices.push(
                "NO PROVIDER CREDENTIAL FOUND: every answer is SIMULATED. Export OPENAI_API_KEY, or another of \
                 `sluice catalog list --providers`, or add a [providers] table, to serve real models."
                    .to_owned(),
            );
            providers.extend(Provider::new(SIMULATED, Kind::Simulated, url, None));
        }
        providers
    }

    pub(super) fn catalog(&self, listing: &Arc<Listing>, providers: &[Provider], findings: &mut Findings) -> Catalog {
        let mut catalog = Catalog::default();
        let reach: Vec<Reach> = providers.iter().map(|provider| provider.reach().clone()).collect();
        let configured: BTreeSet<&str> =
            self.tables.providers.keys().map(String::as_str).chain(providers.iter().map(|p| p.name.as_str())).collect();
        for (at, model) in self.tables.models.iter().enumerate() {
            let place = format!("models[{at}]");
            for error in catalog.add(model, &place, &reach) {
                findings.mistakes.push(Mistake::new(error.span, error.field, error.problem));
            }
            for (endpoint_at, endpoint) in model.endpoints.iter().enumerate() {
                let name = endpoint.provider.get_ref();
                if !configured.contains(name.as_str()) {
                    let names: Vec<&str> = configured.iter().copied().collect();
                    let problem = format!("no provider `{name}`; configured: {}", listed(&names));
                    let field = format!("{place}.endpoints[{endpoint_at}].provider");
                    findings.mistakes.push(Mistake::new(endpoint.provider.span(), field, problem));
                }
            }
        }
        if configured.contains(SIMULATED) {
            match toml::from_str::<Simulated>(include_str!("../../../../config/catalog/simulated.toml")) {
                Ok(page) => {
                    let own = |model: &&ModelConfig| catalog.find(model.id.get_ref()).is_none();
                    let new: Vec<&ModelConfig> = page.models.iter().filter(own).collect();
                    new.into_iter().for_each(|model| drop(catalog.add(model, "simulated", &reach)));
                }
                Err(error) => findings.mistakes.push(Mistake::new(0..0, "simulated", error.to_string())),
            }
        }
        catalog.join(listing, &reach);
        for (reach, priced) in reach.iter().flat_map(|reach| reach.negotiated.iter().map(move |own| (reach, own))) {
            for model in priced.prices.keys().filter(|model| catalog.models().all(|known| known.id != **model)) {
                let place = format!("providers.{}.credentials.prices.model", reach.provider);
                let problem = match catalog.find(model) {
                    Some(found) => format!("`{model}` is another name of `{}`; write that", found.model.id),
                    None => format!("no model `{model}`; `sluice catalog list` has the canonical names"),
                };
                findings.mistakes.push(Mistake::new(0..0, place, problem));
            }
        }
        let uses_list = catalog.models().any(|model| listing.models.contains_key(&model.id));
        if let Some(days) = age_days(&listing.as_of).filter(|days| uses_list && *days > AGE_DAYS_MAX) {
            findings.notices.push(format!(
                "prices are of {} ({days} days ago, {}); `sluice catalog refresh` brings newer ones",
                listing.as_of, listing.source
            ));
        }
        catalog
    }
}

/// Days since a day `YYYY-MM-DD`.
fn age_days(day: &str) -> Option<i64> {
    let day: jiff::civil::Date = day.parse().ok()?;
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    day.until(today).ok().map(|span| i64::from(span.get_days()))
}

/// The dearest model among those released within a year of the newest.
pub(super) fn baseline_of(catalog: &Catalog, ids: &[String]) -> Option<String> {
    let models: Vec<Arc<Model>> = ids.iter().filter_map(|id| Some(catalog.resolve(id).ok()?.model)).collect();
    let newest = models.iter().filter_map(|model| model.released.as_deref()).max();
    let year_before = newest.and_then(|date| {
        let (year, rest) = date.split_once('-')?;
        Some(format!("{}-{rest}", year.parse::<u32>().ok()?.checked_sub(1)?))
    });
    let recent = |model: &&Arc<Model>| match (&model.released, &year_before) {
        (Some(released), Some(bound)) => released > bound,
        _ => true,
    };
    let paid = |model: &Arc<Model>| {
        let paid = model.endpoints.iter().filter(|endpoint| endpoint.billing == Billing::PerToken);
        paid.map(|endpoint| endpoint.price.base.output).min()
    };
    let price = |model: &&Arc<Model>| paid(model).unwrap_or(0);
    models.iter().filter(recent).max_by_key(price).map(|model| model.id.clone())
}
