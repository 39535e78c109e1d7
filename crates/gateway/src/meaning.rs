//! What the semantic level does for a request: its question, the offer, and what its outcome teaches.

use crate::app::App;
use crate::asked::{Asked, Purpose};
use crate::relay;
use crate::served::Served;
use crate::telemetry;
use cache::{Agreement, AnswerId, Earlier, Entry, Evidence, Look, Owner, Placed, Put, Question, agreement};
use catalog::{Endpoint, NanoUsd};
use embedding::EmbeddingError;
use protocol::{CacheMode, Digest, Reply};
use rand::Rng;
use router::Offer;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What was found for a request.
pub(crate) struct Found {
    pub question: Question,
    /// `None` where the scope has no prompts.
    pub look: Option<Look>,
    pub offer: Option<Offer>,
    /// The stored answer, where the offer is admissible.
    pub entry: Option<Arc<Entry>>,
    /// Why nothing could be looked for, where a store failed.
    pub failed: Option<&'static str>,
}

/// What a similar hit was decided on.
pub(crate) type Similar = (Question, Look, Arc<Entry>);

/// Longer answers are not compared.
const COMPARED_BYTES_MAX: usize = 16 * 1024;
/// What nobody waits for may wait this long for a vector.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks for a stored answer by meaning, or says why not.
pub(crate) async fn find(app: &App, asked: &Asked) -> Result<Found, &'static str> {
    let question = question(app, asked).await?;
    let Ok(scope) = asked.scope else { return Err("no question") };
    let (look, failed) = match app.cache.look(&asked.owner, &scope, &question, asked.error_max).await {
        Ok(look) => (look, None),
        Err(error) => {
            tracing::debug!(%error, "no neighbours");
            telemetry::semantic_skipped(error.as_str());
            (None, Some(error.as_str()))
        }
    };
    let (mut offer, mut entry) = (look.as_ref().map(|look| make_offer(look, asked)), None);
    if let Some(offer) = offer.as_mut().filter(|offer| offer.admissible) {
        entry = app.cache.entry(asked.caller.tenant(), &offer.id).await.filter(|entry| asked.fits(entry));
        if !asked.reads_semantic() {
            entry = None;
            offer.reason.push_str(", but a fresh answer was asked for");
        } else if entry.is_none() {
            offer.reason.push_str(", but the answer is gone or longer than max_tokens");
        }
        offer.admissible = entry.is_some();
    }
    Ok(Found { question, look, offer, entry, failed })
}

/// Why there was nothing to find, or nothing could be looked for.
pub(crate) fn why_not(found: &Result<Found, &'static str>) -> Option<&'static str> {
    found.as_ref().map_or_else(|reason| Some(*reason), |found| found.failed)
}

/// The vector of what was asked, where labels were learned from with vectors of this embedder: the one that the cache
/// looked with, or, where a promise of quality rests on it, a new one.
pub(crate) async fn vector<'a>(
    app: &App,
    asked: &Asked,
    found: &'a Result<Found, &'static str>,
) -> Option<Cow<'a, [f32]>> {
    if app.config.predictor.embedder()? != app.embedder.as_ref()?.identity() {
        return None;
    }
    if let Ok(found) = found {
        return Some(Cow::Borrowed(found.question.vector.as_slice()));
    }
    asked.policy.as_ref()?.guarantee?.margin?;
    let text = asked.request.last_user_text()?.into_owned();
    let budget = Duration::from_millis(app.config.embedding.budget_ms);
    embed(app, text, budget).await.ok().map(Cow::Owned)
}

/// The question with its vectors, or why there are none.
async fn question(app: &App, asked: &Asked) -> Result<Question, &'static str> {
    if !asked.reads_semantic() && asked.mode != CacheMode::Refresh {
        return Err("not asked");
    }
    asked.scope?;
    let Some(text) = asked.request.last_user_text() else { return Err("no question") };
    let budget = Duration::from_millis(app.config.embedding.budget_ms);
    let prompt = text.into_owned();
    let vector = embed(app, prompt.clone(), budget).await?;
    let earlier = match asked.request.earlier_user_text() {
        None => None,
        Some(text) => {
            let vector = embed(app, text.clone(), budget).await?;
            Some(Earlier { text: text.into(), vector: vector.into() })
        }
    };
    let first_eight = |bytes: &[u8]| u64::from_le_bytes(std::array::from_fn(|at| bytes[at]));
    let principal = protocol::digest_of(asked.caller.account.hash.as_bytes());
    Ok(Question {
        prompt,
        vector,
        earlier,
        principal: first_eight(&principal.0) as i64,
        link: first_eight(&asked.fingerprint.0),
    })
}

async fn embed(app: &App, text: String, budget: Duration) -> Result<Vec<f32>, &'static str> {
    let Some(embedder) = &app.embedder else { return Err("no embedder") };
    match embedder.embed(text, budget).await {
        Ok(embedded) if embedded.truncated => Err("truncated"),
        Ok(embedded) => Ok(embedded.vector),
        Err(error) => {
            tracing::debug!(%error, "no vector");
            let reason = match error {
                EmbeddingError::Busy => "embedder busy",
                EmbeddingError::Late(_) => "embedder late",
                _ => "embedder failed",
            };
            telemetry::semantic_skipped(reason);
            Err(reason)
        }
    }
}

fn make_offer(look: &Look, asked: &Asked) -> Offer {
    let (probability, threshold) = (look.probability, look.threshold);
    let reason = match (look.veto, &look.case) {
        (Some(veto), _) => format!("cosine {:.3}, vetoed: {}", look.cosine, veto.as_str()),
        _ if look.is_apart => "a label said that this answer is wrong here".to_owned(),
        _ if look.is_unconfirmed => "the answer of another key, which no second one has got yet".to_owned(),
        _ if threshold > 1.0 => format!("nothing seen lately could keep an error of {}", asked.error_max),
        _ if probability < threshold => {
            format!("probability {probability:.3}; {threshold:.3} keeps an error of {}", asked.error_max)
        }
        _ => format!("probability {probability:.3}, {threshold:.3} is needed"),
    };
    Offer {
        id: look.case.as_ref().map(|case| case.answer.to_string()).unwrap_or_default(),
        probability,
        admissible: look.is_admissible(),
        reason,
    }
}

/// Counts the request, and whether a stored answer was given.
pub(crate) fn count(app: &App, asked: &Asked, found: &Found, is_hit: bool) {
    if let (Some(semantic), true) = (app.cache.semantic(), asked.reads_semantic()) {
        if found.failed.is_none() {
            semantic.count(&asked.owner, found.look.as_ref(), is_hit);
        }
        telemetry::semantic_decided(asked.caller.tenant(), reason_of(found, is_hit));
    }
}

/// Why the level decided as it did, in a word.
fn reason_of(found: &Found, is_hit: bool) -> &'static str {
    match &found.look {
        _ if is_hit => "served",
        None => found.failed.unwrap_or("empty"),
        Some(look) => match look.veto {
            Some(veto) => veto.as_str(),
            None if look.is_apart => "apart",
            None if look.is_unconfirmed => "unconfirmed",
            None if look.probability < look.threshold => "unlikely",
            None => "unusable",
        },
    }
}

/// Stores a fresh answer at its place among the others, and learns from what the neighbours' answers say.
pub(crate) async fn remember(app: &App, asked: &Asked, found: Option<Found>, reply: &Arc<Reply>, endpoint: &Endpoint) {
    if !asked.writes_cache() || !reply.is_complete_text() {
        return;
    }
    app.cache.put(put(asked, reply, (&endpoint.model, &endpoint.provider)));
    let (Some(Found { question, look, .. }), Ok(scope)) = (found, asked.scope) else { return };
    let tenant = asked.caller.tenant();
    let answers = look.iter().filter_map(|look| look.case.as_ref()).flat_map(|case| &case.answers);
    let mut entries = Vec::new();
    for answer in answers {
        entries.extend(app.cache.entry(tenant, answer).await.map(|entry| (Arc::clone(answer), entry)));
    }
    let lesson = Lesson { app: app.clone(), owner: asked.owner.clone(), question, look };
    let (id, fresh) = (asked.id.clone(), Arc::clone(reply));
    // Reading answers takes milliseconds, too long for an async thread.
    let placed = tokio::task::spawn_blocking(move || {
        let in_doubt = lesson.place(&id, scope, &fresh, entries);
        (lesson, id, fresh, in_doubt)
    });
    let Ok((lesson, id, fresh, in_doubt)) = placed.await else { return };
    if !in_doubt.is_empty() {
        tokio::spawn(async move { lesson.resolve(&id, &fresh, in_doubt).await });
    }
}

/// What the fresh answer to a question teaches of the stored ones near it.
struct Lesson {
    app: App,
    owner: Owner,
    question: Question,
    look: Option<Look>,
}

type Stored = (AnswerId, Arc<Entry>);

impl Lesson {
    /// Puts the question at its place and learns what is certain; returns the answers that are in doubt.
    fn place(&self, id: &str, scope: Digest, fresh: &Reply, entries: Vec<Stored>) -> Vec<Stored> {
        let (mut same, mut in_doubt) = (Vec::new(), Vec::new());
        for (answer, entry) in entries {
            match judge(&self.app, fresh, &entry.reply, None) {
                Agreement::Unknown => in_doubt.push((answer, entry)),
                found => {
                    self.learn(&answer, found == Agreement::Same);
                    same.extend((found == Agreement::Same).then_some(answer));
                }
            }
        }
        self.app.cache.place(id, &self.owner.tenant, Placed { scope, question: self.question.clone(), same });
        in_doubt
    }

    /// Learns what only the answers' vectors can tell; nobody waits for it.
    async fn resolve(&self, id: &str, fresh: &Reply, answers: Vec<Stored>) {
        for (answer, entry) in answers {
            let found = judge_by_vectors(&self.app, fresh, &entry.reply).await;
            if found != Agreement::Unknown {
                self.learn(&answer, found == Agreement::Same);
            }
            if found == Agreement::Same {
                self.app.cache.unite(&self.owner.tenant, &[answer, id.into()]);
            }
        }
    }

    /// Only the answer that would have been given teaches.
    fn learn(&self, answer: &AnswerId, is_right: bool) {
        if let Some(look) = self.look.as_ref().filter(|look| look.case.as_ref().is_some_and(|c| c.answer == *answer)) {
            teach(&self.app, &self.owner, (&self.question, look), is_right, Evidence::Miss);
        }
    }
}

/// True where two answers say the same beyond doubt.
pub(crate) async fn says_the_same(app: &App, one: &Reply, other: &Reply) -> bool {
    let found = match judge(app, one, other, None) {
        Agreement::Unknown => judge_by_vectors(app, one, other).await,
        certain => certain,
    };
    found == Agreement::Same
}

fn judge(app: &App, fresh: &Reply, stored: &Reply, cosine: Option<f32>) -> Agreement {
    let (fresh, stored) = (fresh.first_text(), stored.first_text());
    if fresh.len().max(stored.len()) > COMPARED_BYTES_MAX {
        return if fresh == stored { Agreement::Same } else { Agreement::Unknown };
    }
    let words = app.cache.semantic().map(cache::Semantic::words);
    words.map_or(Agreement::Unknown, |words| agreement(fresh, stored, words, cosine))
}

async fn judge_by_vectors(app: &App, fresh: &Reply, stored: &Reply) -> Agreement {
    let texts = [fresh.first_text(), stored.first_text()].map(str::to_owned);
    let [fresh_text, stored_text] = texts;
    match (embed(app, fresh_text, PATIENCE).await, embed(app, stored_text, PATIENCE).await) {
        (Ok(a), Ok(b)) => judge(app, fresh, stored, Some(cache::cosine_of(&a, &b))),
        _ => Agreement::Unknown,
    }
}

fn teach(app: &App, owner: &Owner, asked: (&Question, &Look), is_right: bool, evidence: Evidence) {
    telemetry::semantic_labelled(asked.1.probability, is_right);
    app.cache.learn(owner, asked, is_right, evidence);
}

/// What audits cost, against what hits saved, of each tenant since the start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Audits(Arc<Mutex<HashMap<String, (NanoUsd, NanoUsd)>>>);

impl Audits {
    fn saved(&self, tenant: &str, saved: NanoUsd, share_max: f64) -> bool {
        let mut tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, spent) = tallies.entry(tenant.to_owned()).or_default();
        *all += saved;
        spent.as_usd() <= share_max * all.as_usd()
    }

    /// What hits saved and audits cost.
    pub(crate) fn tally(&self, tenant: &str) -> (NanoUsd, NanoUsd) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(tenant).copied().unwrap_or_default()
    }

    fn spent(&self, tenant: &str, cost: NanoUsd) {
        let mut tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, spent) = tallies.entry(tenant.to_owned()).or_default();
        *spent += cost;
    }
}

/// Draws whether a hit is audited: then the question is asked again in the shadow, and the answers are compared.
pub(crate) fn audit(app: &App, asked: &Arc<Asked>, (question, look, entry): Similar, served: &Served) {
    app.cache.note_hit(&asked.id, &asked.owner, (&question, &look));
    let share_max = app.cache.config().semantic.audit_cost_share_max;
    let is_affordable = app.audits.saved(asked.caller.tenant(), served.saved, share_max);
    if !is_affordable || rand::rng().random::<f64>() >= look.audit_chance {
        return;
    }
    let (app, asked) = (app.clone(), Arc::clone(asked));
    tokio::spawn(async move {
        let Some(fresh) = relay::shadow(&app, asked.in_the_shadow(Purpose::Audit)).await else { return };
        app.audits.spent(asked.caller.tenant(), fresh.upstream);
        telemetry::audited(fresh.upstream);
        if fresh.head.is_stand_in {
            return; // another model's answer says nothing of this one's
        }
        let verdict = match judge(&app, &fresh.reply, &entry.reply, None) {
            Agreement::Unknown => judge_by_vectors(&app, &fresh.reply, &entry.reply).await,
            certain => certain,
        };
        if verdict != Agreement::Unknown {
            teach(&app, &asked.owner, (&question, &look), verdict == Agreement::Same, Evidence::Audit);
        }
        if let (Agreement::Different, true, Ok(scope)) = (verdict, fresh.reply.is_complete_text(), asked.scope) {
            // The right answer is there now: the question gets it from here on.
            let (model, provider) = (&fresh.head.model, &fresh.head.provider);
            app.cache.put(put(&asked, &fresh.reply, (model, provider)));
            let placed = Placed { scope, question, same: Vec::new() };
            app.cache.place(&asked.id, asked.caller.tenant(), placed);
        }
    });
}

/// An answer to keep for a request.
fn put(asked: &Asked, reply: &Arc<Reply>, (model, provider): (&str, &str)) -> Put {
    Put {
        id: asked.id.clone(),
        tenant: asked.caller.tenant().to_owned(),
        fingerprint: asked.fingerprint,
        reply: Arc::clone(reply),
        model: model.to_owned(),
        provider: provider.to_owned(),
        tags: asked.request.sluice.cache.tags.clone(),
        ttl_s: Some(asked.ttl_s),
    }
}
