//! What a tenant's requests cost it beside what providers take, and what holds for all its users.

use catalog::{NanoUsd, Price};
use serde::{Deserialize, Serialize};

/// Terms of a tenant. By default it pays what providers take, and nothing for what the cache answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    pub markup: Markup,
    /// Models under names of the tenant's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<OwnModel>,
    /// What each end `user` of the tenant may spend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_limit: Option<UserLimit>,
    /// It spends only what was paid or given in advance, also before the first credit.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub prepaid: bool,
}

/// What is taken on top. All of it applies at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Markup {
    /// Of what the provider takes.
    pub percent: f64,
    /// For each million tokens, input and output alike.
    pub usd_per_mtok: f64,
    /// For each answer of a model.
    pub usd_per_request: f64,
    /// For each answer out of the cache, all in all.
    pub usd_per_hit: f64,
}

/// A model, or a policy, under a name of the tenant's own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OwnModel {
    /// What the tenant's clients ask for, as `acme/fast`.
    pub id: String,
    /// What answers: a model, or `policy/NAME`.
    pub serves: String,
    /// In the place of the tenant's own markup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub markup: Option<Markup>,
    /// Clients do not see which provider and model answered, nor what they took.
    pub hides_source: bool,
}

/// What one end user may spend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserLimit {
    pub usd: f64,
    /// `daily`, `weekly`, `monthly`; left out, never.
    #[serde(default)]
    pub reset: String,
}

const PER_MILLION: i128 = 1_000_000;

impl Markup {
    /// The price that a tenant pays where an endpoint takes `price`; what an answer costs by itself is apart.
    pub fn selling(&self, price: &Price) -> Price {
        if self.percent == 0.0 && self.usd_per_mtok == 0.0 {
            return price.clone();
        }
        let per_mtok = NanoUsd::from_usd(self.usd_per_mtok).unwrap_or_default().0.unsigned_abs();
        price.scaled(self.percent / 100.0).raised(per_mtok)
    }

    /// What each answer of a model costs by itself.
    pub fn per_request(&self) -> NanoUsd {
        NanoUsd::from_usd(self.usd_per_request).unwrap_or_default()
    }

    /// What each answer out of the cache costs.
    pub fn per_hit(&self) -> NanoUsd {
        NanoUsd::from_usd(self.usd_per_hit).unwrap_or_default()
    }

    fn problem(&self, field: &str) -> Option<(String, String)> {
        let parts = [
            ("percent", self.percent),
            ("usd_per_mtok", self.usd_per_mtok),
            ("usd_per_request", self.usd_per_request),
            ("usd_per_hit", self.usd_per_hit),
        ];
        let wrong = parts.into_iter().find(|(_, amount)| !(0.0..=1e6).contains(amount));
        wrong.map(|(part, amount)| (format!("{field}.{part}"), format!("{amount}; use 0 to 1,000,000")))
    }
}

impl Terms {
    /// As they were stored. Terms that cannot be read cost nothing extra, and say so in the log.
    pub(crate) fn stored(tenant: &str, json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_else(|error| {
            tracing::error!(tenant, %error, "the terms of a tenant cannot be read; it pays what providers take");
            Self::default()
        })
    }

    /// What is wrong with them: the field and the problem.
    pub fn problem(&self) -> Option<(String, String)> {
        if let Some(problem) = self.markup.problem("markup") {
            return Some(problem);
        }
        for (at, model) in self.models.iter().enumerate() {
            let field = |name: &str| format!("models[{at}].{name}");
            if !model.id.contains('/') {
                return Some((field("id"), format!("`{}`; use author/slug", model.id)));
            }
            if model.serves.is_empty() {
                return Some((field("serves"), "empty; name a model, or policy/NAME".to_owned()));
            }
            if self.models[..at].iter().any(|earlier| earlier.id == model.id) {
                return Some((field("id"), format!("`{}` is there twice", model.id)));
            }
            if let Some(problem) = model.markup.and_then(|markup| markup.problem(&field("markup"))) {
                return Some(problem);
            }
        }
        let limit = self.user_limit.as_ref()?;
        if !(0.0..=1e9).contains(&limit.usd) {
            return Some(("user_limit.usd".to_owned(), format!("{}; use dollars, 0 or more", limit.usd)));
        }
        reset_problem(&limit.reset).map(|problem| ("user_limit.reset".to_owned(), problem))
    }

    /// The model of the tenant's own that clients ask for by this name.
    pub fn own_model(&self, name: &str) -> Option<&OwnModel> {
        self.models.iter().find(|model| model.id == name)
    }
}

/// What is wrong with the name of a reset.
pub fn reset_problem(reset: &str) -> Option<String> {
    let known = ["", "daily", "weekly", "monthly"].contains(&reset);
    (!known).then(|| format!("`{reset}`; use daily, weekly or monthly, or leave it out"))
}

/// `nano` times `share`, in millionths, rounded up to a whole nano-dollar.
pub(crate) fn share_of(nano: NanoUsd, share: f64) -> NanoUsd {
    let millionths = (share * PER_MILLION as f64).round() as i128;
    let product = i128::from(nano.0) * millionths;
    let rounded = product.div_euclid(PER_MILLION) + i128::from(product.rem_euclid(PER_MILLION) > 0);
    NanoUsd(i64::try_from(rounded).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use catalog::Rates;
    use protocol::Usage;

    #[test]
    fn each_part_of_a_markup_is_on_top() {
        let price = Price::flat(Rates::of(1_000_000_000, 2_000_000_000)); // dollars a million tokens: 1 and 2
        let usage = Usage { input_tokens: 1_000, output_tokens: 500, ..Usage::default() };
        assert_eq!(price.cost(usage), NanoUsd(2_000_000));
        let markup = Markup { percent: 20.0, usd_per_mtok: 1.0, usd_per_request: 0.008, usd_per_hit: 0.001 };
        let selling = markup.selling(&price);
        assert_eq!(selling.cost(usage), NanoUsd(2_400_000 + 1_500_000));
        assert_eq!(markup.per_request(), NanoUsd(8_000_000));
        assert_eq!(markup.per_hit(), NanoUsd(1_000_000));
        assert_eq!(Markup::default().selling(&price), price);
    }

    #[test]
    fn shares_are_rounded_up() {
        assert_eq!(share_of(NanoUsd(1_000_000_000), 0.055), NanoUsd(55_000_000));
        assert_eq!(share_of(NanoUsd(1), 0.055), NanoUsd(1));
        assert_eq!(share_of(NanoUsd(0), 0.055), NanoUsd(0));
    }

    #[test]
    fn mistakes_are_named_with_their_field() {
        let check = |json: &str, field: &str| {
            let terms: Terms = serde_json::from_str(json).expect("terms");
            assert_eq!(terms.problem().map(|(field, _)| field).unwrap_or_default(), field, "{json}");
        };
        check("{}", "");
        check(r#"{"markup": {"percent": -1}}"#, "markup.percent");
        check(r#"{"models": [{"id": "fast", "serves": "x/y"}]}"#, "models[0].id");
        check(r#"{"models": [{"id": "a/fast"}]}"#, "models[0].serves");
        check(r#"{"user_limit": {"usd": 1, "reset": "hourly"}}"#, "user_limit.reset");
    }
}
