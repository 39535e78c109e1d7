//! `/generation/feedback` and `/generation/scores`: what readers and evaluations made of answers.

use crate::app::App;
use crate::auth;
use crate::contents::Rater;
use crate::error::Error;
use crate::http::read_json;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use cache::Filter;
use database::Generation;
use protocol::FieldError;
use serde::Deserialize;
use serde_json::{Value, json};

/// OpenRouter's feedback, and a score of ours.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Feedback {
    generation_id: String,
    category: Option<Category>,
    #[serde(default)]
    comment: Option<String>,
    #[serde(default)]
    sluice: Option<Opinion>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Opinion {
    /// 0 wrong, 1 right.
    score: f64,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Category {
    Latency,
    Incoherence,
    IncorrectResponse,
    Formatting,
    Billing,
    ApiError,
    Other,
}

const COMMENT_CHARS_MAX: usize = 1_000;

/// One reader's word: it teaches the cache where the answer was found by meaning, and the router what the model can do.
pub(super) async fn feedback(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Json<Value>, Error> {
    let caller = auth::holder(&app, &headers).await?;
    let feedback: Feedback = read_json(&app, &headers, body).await?;
    if feedback.comment.as_ref().is_some_and(|comment| comment.chars().count() > COMMENT_CHARS_MAX) {
        return Err(FieldError::new("comment", format!("at most {COMMENT_CHARS_MAX} characters are accepted")).into());
    }
    let score = match (&feedback.sluice, feedback.category) {
        (Some(Opinion { score }), _) => Some(in_range("sluice.score", *score)?),
        (None, Some(Category::IncorrectResponse | Category::Incoherence)) => Some(0.0),
        (None, Some(_)) => None,
        (None, None) => return Err(FieldError::new("category", "missing; name one, or send `sluice.score`").into()),
    };
    let id = &feedback.generation_id;
    let generation = find(&app, caller.tenant(), id).await?.ok_or_else(|| no_such(id))?;
    let (cache, router) = match score {
        None => ("none: the cache learns from what was right or wrong", "none: it says nothing of the answer"),
        Some(score) => {
            let cache = teach_cache(&app, &generation, score >= 0.5).await?;
            (cache, keep(&app, caller.tenant(), &[answered(&generation, score)]).await)
        }
    };
    Ok(Json(json!({"data": {"success": true}, "sluice": {"cache": cache, "router": router}})))
}

/// What an evaluation found out about many answers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scores {
    scores: Vec<Scored>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scored {
    generation_id: String,
    /// 0 wrong, 1 right.
    score: f64,
}

const SCORES_MAX: usize = 1_000;

/// A batch: each score counts as one feedback; ids that are not the tenant's are named and change nothing.
pub(super) async fn scores(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Json<Value>, Error> {
    let caller = auth::holder(&app, &headers).await?;
    let Scores { scores } = read_json(&app, &headers, body).await?;
    if scores.is_empty() || scores.len() > SCORES_MAX {
        let problem = format!("{} scores; send 1 to {SCORES_MAX} at once", scores.len());
        return Err(FieldError::new("scores", problem).into());
    }
    for (at, scored) in scores.iter().enumerate() {
        in_range(&format!("scores[{at}].score"), scored.score)?;
    }
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for Scored { generation_id, score } in scores {
        match find(&app, caller.tenant(), &generation_id).await? {
            Some(generation) => known.push((generation, score)),
            None => unknown.push(generation_id),
        }
    }
    for (generation, score) in &known {
        teach_cache(&app, generation, *score >= 0.5).await?;
    }
    let kept: Vec<(String, f64)> = known.iter().map(|(generation, score)| answered(generation, *score)).collect();
    let router = keep(&app, caller.tenant(), &kept).await;
    Ok(Json(json!({"data": {"accepted": known.len(), "unknown": unknown}, "sluice": {"router": router}})))
}

fn in_range(field: &str, score: f64) -> Result<f64, FieldError> {
    let problem = || FieldError::new(field, format!("{score}; use a number from 0 to 1"));
    (0.0..=1.0).contains(&score).then_some(score).ok_or_else(problem)
}

async fn find(app: &App, tenant: &str, id: &str) -> Result<Option<Generation>, Error> {
    app.ledger.generation(tenant, id).await.map_err(Error::unreadable)
}

fn no_such(id: &str) -> Error {
    Error::NotFound(format!("no generation `{id}`"))
}

/// The generation whose answer was given: an earlier one where it was stored.
fn given(generation: &Generation) -> &str {
    let is_hit = ["exact", "coalesced", "similar"].contains(&generation.cache.as_str());
    if is_hit && !generation.cache_source.is_empty() { &generation.cache_source } else { &generation.id }
}

/// What is scored: an answer to this very request, which may have been made for an earlier one. One that was found by
/// meaning says nothing of what its model makes of this question.
fn answered(generation: &Generation, score: f64) -> (String, f64) {
    let id = if generation.cache == "similar" { &generation.id } else { given(generation) };
    (id.to_owned(), score)
}

/// Keeps scores for the router; says what became of them. Without the content file there is nothing to learn from.
async fn keep(app: &App, tenant: &str, scores: &[(String, f64)]) -> &'static str {
    let Some(contents) = &app.contents else { return "none: the content file is away" };
    match contents.rate(tenant, Rater::Client, scores).await {
        Err(error) => {
            tracing::warn!(%error, "scores were not stored");
            "none: the content file refuses writes"
        }
        Ok(()) if !app.config.content.tenants.iter().any(|kept| kept == tenant) => {
            "kept, but the tenant is not in [content]: without its answers nothing is learned"
        }
        Ok(()) => "kept",
    }
}

/// An answer that was found by meaning teaches the cache; another that is wrong is forgotten, so that nobody gets it
/// again.
async fn teach_cache(app: &App, generation: &Generation, is_right: bool) -> Result<&'static str, Error> {
    let (tenant, id) = (&generation.tenant_id, &generation.id);
    Ok(match (app.cache.teach(tenant, id, is_right), is_right) {
        (true, _) => "learned",
        (false, true) => "none: no stored answer was given by meaning",
        (false, false) => {
            let filter = Filter { id: Some(given(generation).to_owned()), ..Filter::default() };
            let forgotten = app.cache.forget(tenant, &filter).await.map_err(Error::unreadable)?;
            if forgotten.is_empty() { "none: the answer is not stored" } else { "forgotten" }
        }
    })
}
