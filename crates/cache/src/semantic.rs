//! The semantic level without its storage: what neighbours say, what labels teach, which answers are one.

use crate::controller::{Confidence, Controller, Estimate};
use crate::decision::{AnswerId, Candidate, Case, make_case};
use crate::guard::{self, Veto};
use crate::learner::{Label, Learner};
use crate::model::CacheModel;
use crate::pair::{Features, features};
use crate::sketch::Sketch;
use crate::store::{Earlier, Neighbour};
use crate::text::Words;
use moka::sync::Cache as Memory;
use protocol::{Digest, digest_of};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// What is learned belongs to a tenant and a policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    pub tenant: String,
    pub policy: String,
}

/// What was learned of an owner's traffic: weights, effects, threshold, estimate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Judge {
    learner: Learner,
    controller: Controller,
    /// Has changed since it was last stored.
    #[serde(skip)]
    is_dirty: bool,
}

/// What the semantic level makes of a request.
#[derive(Debug, Clone)]
pub struct Look {
    /// The case for the best answer; `None` where rules object to every neighbour.
    pub case: Option<Case>,
    /// Cosine of the nearest neighbour.
    pub cosine: f32,
    /// Why the nearest may not serve, where a rule objects to all.
    pub veto: Option<Veto>,
    /// Probability that the case's answer is right.
    pub probability: f64,
    /// The least that may be served at the moment.
    pub threshold: f64,
    /// Known to be another answer, by an earlier label of this very prompt.
    pub is_apart: bool,
    /// Nobody but another principal has got this answer so far.
    pub is_unconfirmed: bool,
    /// How likely a hit is to be audited.
    pub audit_chance: f64,
}

impl Look {
    /// True where the answer may be served.
    pub fn is_admissible(&self) -> bool {
        self.case.is_some() && !self.is_apart && !self.is_unconfirmed && self.probability >= self.threshold
    }
}

/// Where a label comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Evidence {
    /// A miss whose fresh answer was compared with the stored one.
    Miss,
    /// A hit that was drawn for an audit, by the chance in its look.
    Audit,
    /// Somebody said so.
    Feedback,
}

/// The rules, the model and everything learned.
#[derive(Debug)]
pub struct Semantic {
    words: Arc<Words>,
    model: CacheModel,
    judges: RwLock<HashMap<Owner, Arc<Mutex<Judge>>>>,
    ties: RwLock<Ties>,
    /// Of stored prompts that were compared lately, by the digest of their text.
    sketches: Memory<Digest, Arc<Sketch>>,
    /// How often labels from comparisons say the opposite of what is true.
    evidence_error: f64,
    confidence: Confidence,
}

/// What labels said of answers: which are one, and which prompts they are wrong for.
#[derive(Debug, Default)]
struct Ties {
    /// An answer that was found to be the same as another, and that other.
    same: HashMap<AnswerId, AnswerId>,
    /// A prompt in its scope, and an answer that is wrong for it.
    apart: HashSet<(u64, AnswerId)>,
    /// Answers that two principals got.
    confirmed: HashSet<AnswerId>,
}

/// What a request asks, ready to be compared.
#[derive(Debug, Clone)]
pub struct Question {
    pub prompt: String,
    pub vector: Vec<f32>,
    pub earlier: Option<Earlier>,
    /// Stands for who asks.
    pub principal: i64,
    /// Names this very request.
    pub link: u64,
}

/// Owners whose learning is held, and ties of each kind; beyond it new ones are not remembered.
const OWNERS_MAX: usize = 10_000;
/// About 2 KB each.
const SKETCHES_MAX: u64 = 10_000;
const TIES_MAX: usize = 1_000_000;

impl Semantic {
    /// A level that has learned nothing yet; `words` are the embedder's, with how much each says.
    pub fn new(words: Arc<Words>, model: CacheModel) -> Self {
        let sketches = Memory::new(SKETCHES_MAX);
        let (judges, ties) = (RwLock::default(), RwLock::default());
        Self { words, model, judges, ties, sketches, evidence_error: 0.0, confidence: Confidence::default() }
    }

    /// The same where labels from comparisons, not those of readers, say the opposite of what is true this often.
    #[must_use]
    pub fn with_evidence_error(self, evidence_error: f64) -> Self {
        Self { evidence_error, ..self }
    }

    /// The same where the bound and its statement are to hold this often, by default in 95 of 100.
    #[must_use]
    pub fn with_confidence(self, level: f64) -> Self {
        Self { confidence: Confidence::new(level), ..self }
    }

    /// The words that the embedder knows, with how much each says.
    pub fn words(&self) -> &Words {
        &self.words
    }

    /// The sketch of a stored prompt, or of its earlier turns.
    fn stored_sketch(&self, text: &str) -> Arc<Sketch> {
        self.sketches.get_with(digest_of(text.as_bytes()), || Arc::new(self.sketch(text)))
    }

    /// Prepares a prompt for comparisons.
    pub fn sketch(&self, prompt: &str) -> Sketch {
        Sketch::of(prompt, &self.words)
    }

    /// The features of a pair of prompts.
    ///
    /// # Errors
    /// With the rule that objects to one answer for both.
    pub fn compare(&self, asked: &Sketch, stored: &Sketch, cosine: f32) -> Result<Features, Veto> {
        let form = guard::compare(&asked.reading, &stored.reading)?;
        Ok(features(asked, stored, cosine, form))
    }

    /// Judges the neighbours of a prompt. Nothing is counted.
    pub fn look(&self, owner: &Owner, question: &Question, neighbours: &[Neighbour], error_max: f64) -> Option<Look> {
        let nearest = neighbours.first()?;
        let (compared, veto) = self.compare_all(question, neighbours);
        let judge = self.judge(owner);
        let judge = judge.lock().unwrap_or_else(PoisonError::into_inner);
        let ties = self.ties.read().unwrap_or_else(PoisonError::into_inner);
        let candidate = |(neighbour, features): (&Neighbour, Features)| {
            let answer = ties.root(&neighbour.row.answer);
            let (score, effect) = (self.model.score(&features), judge.learner.effect(&answer));
            Candidate { answer, cosine: neighbour.cosine, features, score, effect }
        };
        let candidates: Vec<Candidate> = compared.into_iter().map(candidate).collect();
        let case = make_case(&candidates);
        let probability = case.as_ref().map_or(0.0, |case| judge.learner.probability(case));
        let is_apart = |case: &Case| ties.apart.contains(&(question.link, Arc::clone(&case.answer)));
        let is_known_to_asker = |case: &Case| {
            let leads = |neighbour: &Neighbour| ties.root(&neighbour.row.answer) == case.answer;
            let own = |neighbour: &&Neighbour| neighbour.row.principal == question.principal;
            ties.confirmed.contains(&case.answer) || neighbours.iter().filter(own).any(leads)
        };
        Some(Look {
            is_apart: case.as_ref().is_some_and(is_apart),
            is_unconfirmed: case.as_ref().is_some_and(|case| !is_known_to_asker(case)),
            veto: veto.filter(|_| case.is_none()),
            case,
            cosine: nearest.cosine,
            probability,
            threshold: judge.controller.threshold(error_max, self.confidence),
            audit_chance: Controller::audit_chance(probability),
        })
    }

    /// The neighbours that no rule objects to, with their features, and the first rule that objected to one. Most of a
    /// look's time goes here, so nothing is locked.
    fn compare_all<'a>(
        &self,
        question: &Question,
        neighbours: &'a [Neighbour],
    ) -> (Vec<(&'a Neighbour, Features)>, Option<Veto>) {
        let asked = self.sketch(&question.prompt);
        let before = question.earlier.as_ref().map(|earlier| self.sketch(&earlier.text));
        let (mut passed, mut veto) = (Vec::with_capacity(neighbours.len()), None);
        for neighbour in neighbours {
            let row = &neighbour.row;
            let compared = self.compare(&asked, &self.stored_sketch(&row.prompt), neighbour.cosine);
            let compared = compared.and_then(|features| match (&before, &row.earlier) {
                (Some(asked), Some(stored)) => {
                    let stored = self.stored_sketch(&stored.text);
                    self.compare(asked, &stored, neighbour.cosine).map(|_| features)
                }
                _ => Ok(features),
            });
            match compared {
                Err(rule) => veto = veto.or(Some(rule)),
                Ok(features) => passed.push((neighbour, features)),
            }
        }
        (passed, veto)
    }

    /// Counts a request that the level could have answered, and whether it did.
    pub fn count(&self, owner: &Owner, look: Option<&Look>, is_hit: bool) {
        let judge = self.judge(owner);
        let mut judge = judge.lock().unwrap_or_else(PoisonError::into_inner);
        let probability = look.filter(|look| !look.is_apart).map_or(0.0, |look| look.probability);
        judge.is_dirty = true;
        judge.controller.saw(probability);
        if is_hit {
            judge.controller.hit(probability);
        }
    }

    /// Takes in whether the answer of a look was right.
    pub fn learn(&self, owner: &Owner, look: &Look, is_right: bool, evidence: Evidence) {
        let Some(case) = &look.case else { return };
        let judge = self.judge(owner);
        let mut judge = judge.lock().unwrap_or_else(PoisonError::into_inner);
        let error = if evidence == Evidence::Feedback { 0.0 } else { self.evidence_error };
        let weight = if evidence == Evidence::Audit { 1.0 / look.audit_chance } else { 1.0 };
        let label = Label { is_right, weight, error };
        match evidence {
            Evidence::Audit => judge.controller.audited(look.probability, label),
            Evidence::Miss => judge.controller.missed(look.probability, label),
            Evidence::Feedback => {} // who complains was not drawn by chance
        }
        judge.is_dirty = true;
        judge.learner.learn(case, label);
    }

    /// Remembers that an answer is wrong for a request.
    pub fn part(&self, link: u64, answer: &AnswerId) {
        let mut ties = self.ties.write().unwrap_or_else(PoisonError::into_inner);
        let answer = ties.root(answer);
        if ties.apart.len() < TIES_MAX {
            ties.apart.insert((link, answer));
        }
    }

    /// Remembers that a second principal got an answer.
    pub fn confirm(&self, answer: &AnswerId) {
        let mut ties = self.ties.write().unwrap_or_else(PoisonError::into_inner);
        let answer = ties.root(answer);
        if ties.confirmed.len() < TIES_MAX {
            ties.confirmed.insert(answer);
        }
    }

    /// Makes answers one, the first of them; returns it. `None` of none.
    pub fn join(&self, same: &[AnswerId]) -> Option<AnswerId> {
        let mut ties = self.ties.write().unwrap_or_else(PoisonError::into_inner);
        let first = ties.root(same.first()?);
        for other in &same[1..] {
            let other = ties.root(other);
            if other != first && ties.same.len() < TIES_MAX {
                if ties.confirmed.contains(&other) {
                    ties.confirmed.insert(Arc::clone(&first));
                }
                ties.same.insert(other, Arc::clone(&first));
            }
        }
        Some(first)
    }

    /// The answer that an answer was found to be the same as, or itself.
    pub fn root(&self, answer: &AnswerId) -> AnswerId {
        self.ties.read().unwrap_or_else(PoisonError::into_inner).root(answer)
    }

    /// The error estimate of an owner.
    pub fn estimate(&self, owner: &Owner) -> Estimate {
        self.judge(owner).lock().unwrap_or_else(PoisonError::into_inner).controller.estimate(self.confidence)
    }

    /// Forgets what was learned of answers that are gone.
    pub fn retain_answers(&self, is_there: impl Fn(&AnswerId) -> bool) {
        for judge in self.judges.read().unwrap_or_else(PoisonError::into_inner).values() {
            judge.lock().unwrap_or_else(PoisonError::into_inner).learner.retain(&is_there);
        }
        let mut ties = self.ties.write().unwrap_or_else(PoisonError::into_inner);
        let Ties { same, apart, confirmed } = &mut *ties;
        confirmed.retain(&is_there);
        apart.retain(|(_, answer)| is_there(answer));
        // Links of a chain to a living answer stay, also where an answer in the middle is gone.
        let leads = |answer: &AnswerId| is_there(&Ties::follow(same, answer));
        let dead: Vec<AnswerId> = same.keys().filter(|answer| !leads(answer)).cloned().collect();
        dead.iter().for_each(|answer| drop(same.remove(answer)));
    }

    /// Answers, and all that were found to be the same as one of them.
    pub(crate) fn leading_to(&self, mut answers: HashSet<AnswerId>) -> HashSet<AnswerId> {
        let ties = self.ties.read().unwrap_or_else(PoisonError::into_inner);
        let others: Vec<AnswerId> =
            ties.same.keys().filter(|answer| answers.contains(&ties.root(answer))).cloned().collect();
        answers.extend(others);
        answers
    }

    /// What was learned of each owner since the last call, as JSON.
    pub fn changed_judges(&self) -> Vec<(Owner, String)> {
        let judges: Vec<(Owner, Arc<Mutex<Judge>>)> = {
            let judges = self.judges.read().unwrap_or_else(PoisonError::into_inner);
            judges.iter().map(|(owner, judge)| (owner.clone(), Arc::clone(judge))).collect()
        };
        let mut changed = Vec::new();
        for (owner, judge) in judges {
            let mut judge = judge.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::take(&mut judge.is_dirty)
                && let Ok(state) = serde_json::to_string(&*judge)
            {
                changed.push((owner, state));
            }
        }
        changed
    }

    /// Puts back what was learned of an owner.
    ///
    /// # Errors
    /// When it was written by another version.
    pub fn restore(&self, owner: Owner, state: &str) -> Result<(), serde_json::Error> {
        let mut judge: Judge = serde_json::from_str(state)?;
        judge.controller.resume();
        let mut judges = self.judges.write().unwrap_or_else(PoisonError::into_inner);
        judges.insert(owner, Arc::new(Mutex::new(judge)));
        Ok(())
    }

    /// The estimate of every owner, in order.
    pub fn estimates(&self) -> Vec<(Owner, Estimate)> {
        let judges = self.judges.read().unwrap_or_else(PoisonError::into_inner);
        let estimate = |judge: &Mutex<Judge>| {
            judge.lock().unwrap_or_else(PoisonError::into_inner).controller.estimate(self.confidence)
        };
        let mut estimates: Vec<_> = judges.iter().map(|(owner, judge)| (owner.clone(), estimate(judge))).collect();
        estimates.sort_by(|a, b| a.0.cmp(&b.0));
        estimates
    }

    fn judge(&self, owner: &Owner) -> Arc<Mutex<Judge>> {
        if let Some(judge) = self.judges.read().unwrap_or_else(PoisonError::into_inner).get(owner) {
            return Arc::clone(judge);
        }
        let fresh =
            Judge { learner: Learner::new(&self.model.prior), controller: Controller::default(), is_dirty: false };
        let fresh = Arc::new(Mutex::new(fresh));
        let mut judges = self.judges.write().unwrap_or_else(PoisonError::into_inner);
        if judges.len() >= OWNERS_MAX && !judges.contains_key(owner) {
            return fresh;
        }
        Arc::clone(judges.entry(owner.clone()).or_insert(fresh))
    }
}

impl Ties {
    fn root(&self, answer: &AnswerId) -> AnswerId {
        Self::follow(&self.same, answer)
    }

    fn follow(same: &HashMap<AnswerId, AnswerId>, answer: &AnswerId) -> AnswerId {
        let mut root = answer;
        while let Some(next) = same.get(root) {
            root = next;
        }
        Arc::clone(root)
    }
}
