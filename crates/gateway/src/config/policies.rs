//! Policies: tables of the configuration and files beside it, checked against the models that can be reached.

use super::reach::baseline_of;
use super::{AUTO, ConfigError, ConfigFile, Mistake, is_for_auto};
use catalog::{Catalog, Endpoint, Listing};
use protocol::Usage;
use router::{Policy, PolicyConfig, Predictor};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The policy files of a folder, in order; none where there is no folder.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let unreadable = |error: std::io::Error| ConfigError::Unreadable {
        name: folder.display().to_string(),
        problem: error.to_string(),
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

impl ConfigFile {
    /// Adds the policy of a file, which is called as the file is.
    pub(super) fn add_policy(&mut self, path: &Path, file: &str, text: &str) -> Result<(), ConfigError> {
        let mistaken = |span, field: &str, problem: &str| {
            ConfigError::mistakes(file, text, vec![Mistake::new(span, field, problem)])
        };
        let config: PolicyConfig =
            toml::from_str(text).map_err(|error| mistaken(error.span().unwrap_or_default(), "", error.message()))?;
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        if self.tables.policies.insert(name.clone(), config).is_some() {
            let problem = format!("there is a table [policies.{name}] already; rename this file or remove the table");
            return Err(mistaken(0..0, &format!("policies.{name}"), &problem));
        }
        self.policy_files.insert(name, file.to_owned());
        Ok(())
    }

    pub(super) fn policies(
        &self,
        catalog: &Catalog,
        predictor: Option<&Predictor>,
        mistakes: &mut Vec<Mistake>,
        notices: &mut Vec<String>,
    ) -> (BTreeMap<String, Arc<Policy>>, HashMap<String, String>) {
        let resolve = |name: &str| match catalog.resolve(name) {
            Ok(resolved) => Ok(resolved.model.id.clone()),
            Err(unknown) if unknown.nearest.is_empty() => Err(format!("no model `{name}`")),
            Err(unknown) => Err(format!("no model `{name}`; did you mean {}?", unknown.nearest.join(", "))),
        };
        let endpoints: Vec<&Endpoint> = catalog.models().flat_map(|model| &model.endpoints).map(|one| &**one).collect();
        let mut policies = BTreeMap::new();
        let mut attached: HashMap<String, String> = HashMap::new();
        for (name, config) in &self.tables.policies {
            let config = &without_withdrawn(name, config, catalog, notices);
            let known = mistakes.len();
            let all = || for_auto(catalog);
            match Policy::from_config(name, config, resolve, all, |ids| baseline_of(catalog, ids)) {
                Ok(policy) => {
                    for pattern in policy.rules.iter().flat_map(|rule| rule.idle(endpoints.iter().copied())) {
                        notices
                            .push(format!("policy `{name}`: `{pattern}` in a rule covers nothing that can be reached"));
                    }
                    let dominated = predictor.map(|predictor| {
                        policy.dominated(predictor, |model, input, output| cost(catalog, model, input, output))
                    });
                    notices.extend(dominated.iter().flatten().map(|found| format!("policy `{name}`: {found}")));
                    let policy = match predictor.filter(|_| config.guarantee) {
                        None => policy,
                        Some(predictor) => promising(policy, predictor, catalog, notices),
                    };
                    policies.insert(name.clone(), Arc::new(policy));
                }
                Err(errors) => mistakes.extend(errors.into_iter().map(|e| Mistake::new(e.span, e.field, e.problem))),
            }
            for (at, model) in config.applies_to.iter().enumerate() {
                let field = format!("policies.{name}.applies_to[{at}]");
                match resolve(model.get_ref()) {
                    Ok(_) if catalog.find(model.get_ref()).is_some_and(|found| found.in_place_of.is_some()) => {
                        let problem = format!("`{}` is withdrawn; name its successor", model.get_ref());
                        mistakes.push(Mistake::new(model.span(), field, problem));
                    }
                    Err(problem) => mistakes.push(Mistake::new(model.span(), field, problem)),
                    Ok(id) => {
                        if let Some(other) = attached.insert(id, name.clone()) {
                            let problem = format!("the policy `{other}` is attached to `{}` already", model.get_ref());
                            mistakes.push(Mistake::new(model.span(), field, problem));
                        }
                    }
                }
            }
            // A place in another file than the main one is named, not shown.
            if let Some(file) = self.policy_files.get(name) {
                for mistake in &mut mistakes[known..] {
                    mistake.span = 0..0;
                    mistake.problem = format!("{} ({file})", mistake.problem);
                }
            }
        }
        if !policies.contains_key(AUTO) && mistakes.is_empty() && !catalog.is_empty() {
            let candidates = for_auto(catalog);
            if let Some(baseline) = baseline_of(catalog, &candidates) {
                notices.push(format!(
                    "auto: {} candidates, baseline {baseline} (the dearest of the newest generation); quality is a \
                     prior, unverified",
                    candidates.len()
                ));
                let policy = Policy::plain(AUTO, candidates, baseline, 0.95);
                policies.insert(AUTO.to_owned(), Arc::new(policy));
            }
        }
        (policies, attached)
    }
}

/// Every model that `auto` may choose.
fn for_auto(catalog: &Catalog) -> Vec<String> {
    catalog.models().filter(|model| is_for_auto(model)).map(|model| model.id.clone()).collect()
}

/// A policy with what can be promised of it, at the prices of the moment.
fn promising(policy: Policy, predictor: &Predictor, catalog: &Catalog, notices: &mut Vec<String>) -> Policy {
    let policy = policy.with_guarantee(predictor, |model, input, output| cost(catalog, model, input, output));
    let said = policy.guarantee.map(|guarantee| guarantee.statement()).unwrap_or_default();
    notices.push(format!("policy `{}`: {said}", policy.name));
    policy
}

/// What a model's cheapest endpoint takes for so many tokens, in dollars.
fn cost(catalog: &Catalog, model: &str, input_tokens: u64, output_tokens: u64) -> f64 {
    let usage = Usage { input_tokens, output_tokens, ..Usage::default() };
    let found = catalog.find(model);
    let costs = found.iter().flat_map(|found| &found.model.endpoints).map(|endpoint| endpoint.price.cost(usage));
    costs.min().map_or(f64::INFINITY, |cost| cost.as_usd())
}

/// A policy without candidates that a provider has withdrawn since it was written, as long as another is left: a refresh of
/// prices must not be refused for them.
fn without_withdrawn(name: &str, config: &PolicyConfig, catalog: &Catalog, notices: &mut Vec<String>) -> PolicyConfig {
    let mut config = config.clone();
    let was_listed = |id: &str| {
        Listing::shipped().is_ok_and(|shipped| shipped.models.contains_key(id)) || {
            let listing = catalog.listing();
            listing
                .is_some_and(|listing| listing.gone.iter().any(|gone| gone == id || gone.ends_with(&format!("/{id}"))))
        }
    };
    let is_gone = |id: &str| catalog.find(id).is_none() && was_listed(id);
    for rule in &mut config.rules {
        for named in [&mut rule.only, &mut rule.forbid, &mut rule.prefer] {
            let is_left = named.iter().any(|model| !is_gone(model.get_ref()));
            named.retain(|model| !is_left || !is_gone(model.get_ref()));
        }
    }
    let Some(candidates) = &mut config.candidates else { return config };
    if candidates.iter().all(|candidate| is_gone(candidate.get_ref())) {
        return config; // all gone is a mistake, and is named as one
    }
    candidates.retain(|candidate| {
        let gone = is_gone(candidate.get_ref());
        if gone {
            notices
                .push(format!("policy `{name}`: `{}` cannot be reached any more and is left out", candidate.get_ref()));
        }
        !gone
    });
    config
}

/// A policy and all endpoints behind it, in a digest: hundreds of names would be hashed for each request.
pub(super) fn answerers(policy: &Policy, catalog: &Catalog) -> String {
    // Labels and prices move what is promised every now and then; answers given before stay good.
    let mut text = format!("{:?}", Policy { guarantee: None, ..policy.clone() });
    for resolved in policy.candidates.iter().filter_map(|id| catalog.find(id)) {
        for endpoint in &resolved.model.endpoints {
            text.push_str(&format!("|{}={}", endpoint.id, endpoint.name));
        }
    }
    protocol::digest_of(text.as_bytes()).to_string()
}
