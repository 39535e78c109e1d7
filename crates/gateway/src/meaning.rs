//! What the semantic level does for a request: its question, the offer, and what its outcome teaches.

use crate::app::App;
use crate::pipeline::Asked;
use crate::relay;
use crate::served::Served;
use crate::telemetry;
use cache::{Agreement, AnswerId, Earlier, Entry, Evidence, Look, Placed, Put, Question, agreement};
use catalog::{Endpoint, NanoUsd};
use embedding::EmbeddingError;
use protocol::{CacheMode, Reply};
use rand::Rng;
use router::Offer;
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
    let (cache, owner, error_max) = (app.cache.clone(), asked.owner.clone(), asked.error_max);
    // A large scope takes milliseconds, too long for an async thread.
    let looked = tokio::task::spawn_blocking(move || {
        let look = cache.look(&owner, &scope, &question, error_max);
        (question, look)
    });
    let Ok((question, look)) = looked.await else { return Err("search failed") };
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
    Ok(Found { question, look, offer, entry })
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
        principal: first_eight(principal.as_bytes()) as i64,
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
        semantic.count(&asked.owner, found.look.as_ref(), is_hit, asked.policy_error_max);
        telemetry::semantic_decided(asked.caller.tenant(), reason_of(found, is_hit));
    }
}

/// Why the level decided as it did, in a word.
fn reason_of(found: &Found, is_hit: bool) -> &'static str {
    match &found.look {
        _ if is_hit => "served",
        None => "empty",
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
    app.cache.put(Put {
        id: asked.id.clone(),
        tenant: asked.caller.tenant().to_owned(),
        fingerprint: asked.fingerprint,
        reply: Arc::clone(reply),
        model: endpoint.model.clone(),
        provider: endpoint.provider.clone(),
        tags: asked.request.sluice.cache.tags.clone(),
        ttl_s: Some(asked.ttl_s),
    });
    let (Some(Found { question, look, .. }), Ok(scope)) = (found, asked.scope) else { return };
    let mut same = Vec::new();
    let mut in_doubt = Vec::new();
    for (at, answer) in
        look.iter().filter_map(|look| look.case.as_ref()).flat_map(|case| case.answers.iter().enumerate())
    {
        match compare(app, asked, reply, answer, None).await {
            Some(Agreement::Unknown) => in_doubt.push(Arc::clone(answer)),
            Some(found) => {
                if let (0, Some(look)) = (at, &look) {
                    teach(app, asked, (&question, look), found == Agreement::Same, Evidence::Miss);
                }
                same.extend((found == Agreement::Same).then(|| Arc::clone(answer)));
            }
            None => {}
        }
    }
    app.cache.place(&asked.id, asked.caller.tenant(), Placed { scope, question: question.clone(), same });
    if let (Some(look), false) = (look, in_doubt.is_empty()) {
        let doubt = Doubt { app: app.clone(), tenant: asked.caller.tenant().to_owned(), id: asked.id.clone() };
        let (owner, reply) = (asked.owner.clone(), Arc::clone(reply));
        tokio::spawn(async move { doubt.resolve(&owner, (&question, &look), &reply, in_doubt).await });
    }
}

/// Answers whose agreement only their vectors can tell; nobody waits for it.
struct Doubt {
    app: App,
    tenant: String,
    id: String,
}

impl Doubt {
    async fn resolve(&self, owner: &cache::Owner, asked: (&Question, &Look), reply: &Reply, answers: Vec<AnswerId>) {
        let (_, look) = asked;
        let Ok(fresh) = embed(&self.app, text_of(reply).to_owned(), PATIENCE).await else { return };
        for answer in answers {
            let Some(entry) = self.app.cache.entry(&self.tenant, &answer).await else { continue };
            let Ok(stored) = embed(&self.app, text_of(&entry.reply).to_owned(), PATIENCE).await else { continue };
            let cosine = cache::cosine_of(&fresh, &stored);
            let found = judge(&self.app, reply, &entry, Some(cosine));
            if found == Agreement::Unknown {
                continue;
            }
            if look.case.as_ref().is_some_and(|case| case.answer == answer) {
                telemetry::semantic_labelled(look.probability, found == Agreement::Same);
                self.app.cache.learn(owner, asked, found == Agreement::Same, Evidence::Miss);
            }
            if found == Agreement::Same {
                self.app.cache.unite(&self.tenant, &[answer, self.id.as_str().into()]);
            }
        }
    }
}

/// What a fresh and a stored answer say of each other; `None` where the stored one is gone.
async fn compare(app: &App, asked: &Asked, reply: &Reply, answer: &AnswerId, cosine: Option<f32>) -> Option<Agreement> {
    let entry = app.cache.entry(asked.caller.tenant(), answer).await?;
    Some(judge(app, reply, &entry, cosine))
}

fn judge(app: &App, reply: &Reply, entry: &Entry, cosine: Option<f32>) -> Agreement {
    let (fresh, stored) = (text_of(reply), text_of(&entry.reply));
    if fresh.len().max(stored.len()) > COMPARED_BYTES_MAX {
        return if fresh == stored { Agreement::Same } else { Agreement::Unknown };
    }
    let words = app.cache.semantic().map(cache::Semantic::words);
    words.map_or(Agreement::Unknown, |words| agreement(fresh, stored, words, cosine))
}

fn text_of(reply: &Reply) -> &str {
    reply.choices.first().and_then(|choice| choice.message.content.as_deref()).unwrap_or_default()
}

fn teach(app: &App, asked: &Asked, (question, look): (&Question, &Look), is_right: bool, evidence: Evidence) {
    telemetry::semantic_labelled(look.probability, is_right);
    app.cache.learn(&asked.owner, (question, look), is_right, evidence);
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
        let Some(fresh) = relay::shadow(&app, &asked, CacheMode::Off).await else { return };
        app.audits.spent(asked.caller.tenant(), fresh.upstream);
        telemetry::audited(fresh.upstream);
        let mut verdict = judge(&app, &fresh.reply, &entry, None);
        if verdict == Agreement::Unknown {
            let text = |reply: &Reply| text_of(reply).to_owned();
            let vectors =
                (embed(&app, text(&fresh.reply), PATIENCE).await, embed(&app, text(&entry.reply), PATIENCE).await);
            if let (Ok(fresh_vector), Ok(stored)) = vectors {
                verdict = judge(&app, &fresh.reply, &entry, Some(cache::cosine_of(&fresh_vector, &stored)));
            }
        }
        if verdict != Agreement::Unknown {
            teach(&app, &asked, (&question, &look), verdict == Agreement::Same, Evidence::Audit);
        }
    });
}
