//! From what a client sends to a request with everything in it resolved: what it is sold as, its models, policy and cache rules.

use crate::app::App;
use crate::asked::{Asked, Named, generation_id};
use crate::config::AUTO;
use crate::error::Error;
use crate::grants::{self, Sold};
use crate::limits::Counted;
use crate::origin::Origin;
use crate::unpriced;
use cache::{Fold, Owner};
use catalog::{Catalog, Resolved};
use ledger::Caller;
use protocol::{CacheMode, ChatRequest, FieldError, context_tag, fingerprint};
use router::{Applied, Asker, Policy, Suffixes};
use std::sync::Arc;
use std::time::Instant;

/// Resolves models, policy and cache rules of a request.
pub(crate) fn resolve(
    app: &App,
    caller: Caller,
    mut request: ChatRequest,
    mut origin: Origin,
    started: Instant,
) -> Result<Asked, Error> {
    origin.read(&request);
    unpriced::refuse(&request)?;
    let sold = grants::sold(&caller, &mut request)?;
    if sold.hides_source {
        grants::refuse_probing(&request)?;
    }
    grants::narrow_providers(&caller, &mut request)?;
    let name = Some(sold.name.clone()).filter(|_| sold.hides_source);
    let resolved = resolve_sold(app, (caller, sold, origin), request, started);
    resolved.map_err(|error| name.map_or_else(|| error.clone(), |name| error.clone().without_source(&name)))
}

/// The same for what is known to be sold.
fn resolve_sold(
    app: &App,
    (caller, sold, origin): (Caller, Sold, Origin),
    mut request: ChatRequest,
    started: Instant,
) -> Result<Asked, Error> {
    let policy = policy_of(app, &request)?;
    if sold.name.is_empty() {
        grants::permit_policy(&caller, policy.as_ref().map(|policy| policy.name.as_str()))?;
    } else if caller.account.rules.models.is_empty() {
        grants::permit_policy(&caller, None)?; // it was asked for by name, which no rule allows
    }
    let (models, notice) = match &policy {
        Some(policy) => {
            let named = |id: &String| Named { id: id.clone(), suffixes: Suffixes::default() };
            (policy.candidates.iter().map(named).collect(), None)
        }
        None => named_models(app, &request)?,
    };
    let models = permitted(&caller, &sold, models, policy.is_some())?;
    if models.iter().any(|named| named.suffixes.thinking) {
        request.think();
    }
    let baseline = policy.as_ref().map_or_else(|| models[0].id.clone(), |policy| policy.baseline.clone());
    let quality = request.sluice.quality_min.map_or(String::new(), |quality| quality.to_string());
    let cache = app.cache.config();
    let rules = cache.policy(policy.as_ref().map(|policy| policy.name.as_str()));
    let epoch = app.cache.epoch(caller.tenant()).to_string();
    let personal = if rules.personal { request.user.clone().unwrap_or_default() } else { String::new() };
    // Who may answer depends on the rules that apply, so what was answered under others is no answer here.
    let asker = Asker { tenant: caller.tenant(), key: &caller.account.name };
    let applied = policy.as_ref().map(|policy| Applied::of(&policy.rules, &request, asker)).unwrap_or_default();
    let answerers = answerers(app, policy.as_deref(), &models);
    let rules_of_key = &caller.account.rules;
    let own_rules = format!("{}\n{}", rules_of_key.models.join("|"), rules_of_key.providers.join("|"));
    // What is sold under another name tells nobody who asks by ours that it is the same.
    let hidden = if sold.hides_source { sold.name.as_str() } else { "" };
    let identity = [caller.tenant(), &answerers, &quality, &epoch, &personal, &applied.identity(), &own_rules, hidden];
    let wanted = &request.sluice.cache;
    let least = |limits: [Option<u64>; 2]| limits.into_iter().flatten().fold(cache.exact.ttl_s, u64::min);
    let ttl_s = least([wanted.ttl_s, rules.ttl_s]);
    let policy_error_max = rules.error_max.map_or(cache.semantic.error_max, |own| own.min(cache.semantic.error_max));
    let scope = match cache.semantic.eligible(&request, ttl_s) {
        Err(reason) => Err(reason.as_str()),
        Ok(()) if !app.cache.has_semantic() => Err("no embedder"),
        Ok(()) => {
            let fold = Fold::new(&rules.volatile);
            context_tag(&request, &identity, &|text| fold.fold(text)).ok_or("no_question")
        }
    };
    let mode = mode_of(&request)?;
    Ok(Asked {
        id: generation_id(),
        fingerprint: fingerprint(&request, &identity),
        mode,
        owner: Owner {
            tenant: caller.tenant().to_owned(),
            policy: policy.as_ref().map(|policy| policy.name.clone()).unwrap_or_default(),
        },
        error_max: wanted.error_max.map_or(policy_error_max, |own| own.min(policy_error_max)),
        ttl_s,
        sold,
        origin,
        counted: Counted::default(),
        shadow: None,
        caller,
        policy,
        applied,
        models,
        notice,
        hides_thoughts: request.hides_thoughts(),
        baseline,
        scope,
        request,
        started,
    })
}

/// What must leave no trace is neither looked for nor kept.
fn mode_of(request: &ChatRequest) -> Result<CacheMode, Error> {
    match (request.provider.zdr, request.sluice.cache.mode) {
        (Some(true), CacheMode::Only) => Err(Error::NotCached),
        (Some(true), _) => Ok(CacheMode::Off),
        (_, mode) => Ok(mode),
    }
}

/// The models that the key may ask for: one that is named must be among them, of a policy's the others stay out.
fn permitted(caller: &Caller, sold: &Sold, models: Vec<Named>, of_policy: bool) -> Result<Vec<Named>, Error> {
    if !sold.name.is_empty() {
        return Ok(models);
    }
    let refused = models.iter().find_map(|named| grants::permit_model(caller, &named.id).err());
    let Some(refused) = refused else { return Ok(models) };
    let left: Vec<Named> =
        models.into_iter().filter(|named| of_policy && caller.account.rules.allow_model(&named.id)).collect();
    if left.is_empty() { Err(refused) } else { Ok(left) }
}

/// Who may answer, as part of what makes answers interchangeable: policy, models, and where each is served. When the
/// configuration changes them, answers stored before are not found any more.
fn answerers(app: &App, policy: Option<&Policy>, models: &[Named]) -> String {
    if let Some(policy) = policy {
        return app.config.answerers.get(&policy.name).cloned().unwrap_or_default();
    }
    let mut text = "named".to_owned();
    for named in models {
        let Ok(resolved) = app.config.catalog.resolve(&named.id) else { continue };
        for endpoint in &resolved.model.endpoints {
            text.push_str(&format!("|{}={}", endpoint.id, endpoint.name));
        }
        if named.suffixes != Suffixes::default() {
            text.push_str(&format!("|{:?}", named.suffixes));
        }
    }
    text
}

/// The policy that the model string, the request or an attachment names.
fn policy_of(app: &App, request: &ChatRequest) -> Result<Option<Arc<Policy>>, Error> {
    let policies = &app.config.policies;
    let find = |name: &str| {
        let known = || policies.keys().cloned().collect();
        policies.get(name).cloned().ok_or_else(|| Error::UnknownPolicy { name: name.to_owned(), known: known() })
    };
    let model = app.config.catalog.meant(request.named_models().first().copied().unwrap_or_default());
    match (request.sluice.policy.as_deref(), model) {
        (Some("as-asked"), AUTO | "openrouter/auto" | "sluice/auto") => {
            let problem = "`as-asked` needs a named model, not `auto`";
            Err(Error::BadRequest(FieldError::new("sluice.policy", problem)))
        }
        (Some("as-asked"), _) => Ok(None),
        (Some(name), _) => find(name).map(Some),
        (None, AUTO | "openrouter/auto" | "sluice/auto") => find(AUTO).map(Some),
        (None, name) => match name.strip_prefix("policy/") {
            Some(policy) => find(policy).map(Some),
            None => {
                let catalog = &app.config.catalog;
                let found = catalog.find(name).or_else(|| Some(found_without_suffixes(catalog, name)?.0));
                let id = found.map(|resolved| resolved.model.id.clone()).unwrap_or_default();
                app.config.attached.get(&id).map(|policy| find(policy)).transpose()
            }
        },
    }
}

/// The models that the request names, and what its asker should know about the first.
fn named_models(app: &App, request: &ChatRequest) -> Result<(Vec<Named>, Option<String>), Error> {
    let catalog = &app.config.catalog;
    let (mut models, mut notices) = (Vec::new(), Vec::new());
    for name in request.named_models() {
        // A name with its suffix can be a model of its own, as OpenRouter's `:free` ones are.
        let (resolved, suffixes) = match catalog.find(name) {
            Some(resolved) => (resolved, Suffixes::default()),
            None => found_without_suffixes(catalog, name).ok_or_else(|| unknown(catalog, name))?,
        };
        notices.extend(resolved.in_place_of.map(|withdrawn| stands_in(&withdrawn, &resolved.model.id)));
        models.push(Named { id: resolved.model.id.clone(), suffixes });
    }
    Ok((models, notices.into_iter().next()))
}

/// The model of a name whose suffixes are taken off one after the other, since with some of them it can be a model of its
/// own.
fn found_without_suffixes(catalog: &Catalog, name: &str) -> Option<(Resolved, Suffixes)> {
    let (base, _) = Suffixes::of(name);
    let ends = name.match_indices(':').map(|(at, _)| at).filter(|at| *at >= base.len());
    ends.rev().find_map(|end| {
        let resolved = catalog.find(&name[..end])?;
        let (_, suffixes) = Suffixes::of(&name[end..]);
        Some((resolved, suffixes))
    })
}

fn unknown(catalog: &Catalog, name: &str) -> Error {
    let (base, _) = Suffixes::of(name);
    match catalog.resolve(base) {
        Err(unknown) => Error::UnknownModel(unknown),
        Ok(_) => Error::Internal { id: "a model that is there was not found".to_owned() },
    }
}

/// What an asker is told when another model answers.
pub(crate) fn stands_in(withdrawn: &str, model: &str) -> String {
    format!("{withdrawn} is withdrawn; {model} answers in its place")
}
