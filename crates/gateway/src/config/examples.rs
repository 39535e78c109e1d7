//! The examples beside the policies: requests, and who is to serve them.

use super::{Config, ConfigFile};
use bytes::Bytes;
use catalog::Record;
use protocol::{ChatRequest, FieldError};
use router::{Applied, Asker, Example, Policy, Question, Suffixes, Wanted, decide};
use serde_json::{Value, json};

/// What became of an example.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Tried {
    pub policy: String,
    pub prompt: String,
    /// The model that is to serve.
    pub picks: String,
    /// The one that does, where any can.
    pub picked: Option<String>,
    /// Why it does, or what is wrong with the example.
    pub reason: String,
    /// Nobody serves that model here, so there is nothing to decide.
    pub is_out_of_reach: bool,
}

impl Tried {
    /// True where the right model serves.
    pub fn is_right(&self) -> bool {
        self.picked.as_deref() == Some(self.picks.as_str())
    }
}

impl ConfigFile {
    /// The same with the providers and models of another file: for examples that name models nobody serves here.
    pub fn with_models_of(mut self, other: Self) -> Self {
        self.tables.models = other.tables.models;
        self.tables.providers = other.tables.providers;
        self
    }
}

impl Config {
    /// Tries every example with its own policy. No provider is called.
    pub fn try_examples(&self) -> Vec<Tried> {
        self.examples.iter().map(|(policy, example)| self.try_example(policy, example)).collect()
    }

    /// What a policy makes of an example.
    pub fn try_example(&self, policy: &str, example: &Example) -> Tried {
        let mut tried = Tried {
            policy: policy.to_owned(),
            prompt: example.prompt.clone(),
            picks: example.picks.clone(),
            picked: None,
            reason: String::new(),
            is_out_of_reach: self.catalog.find(&example.picks).is_none(),
        };
        let (Some(policy), request) = (self.policies.get(policy), request(policy, example)) else {
            tried.reason = "no such policy".to_owned();
            return tried;
        };
        match request {
            Err(error) => tried.reason = format!("{}: {}", error.field, error.problem),
            Ok(request) => (tried.picked, tried.reason) = self.pick(policy, &request),
        }
        tried
    }

    /// The model that a policy lets serve, with the reason, as if nothing had been seen of any endpoint.
    fn pick(&self, policy: &Policy, request: &ChatRequest) -> (Option<String>, String) {
        let found = policy.candidates.iter().filter_map(|id| self.catalog.find(id));
        let models: Vec<Wanted> =
            found.map(|found| Wanted { model: found.model, suffixes: Suffixes::default(), successor: None }).collect();
        let baseline = self.catalog.find(&policy.baseline).map(|found| found.model);
        let route = decide(Question {
            request,
            models: &models,
            policy: Some(policy),
            rules: &Applied::of(&policy.rules, request, Asker::default()),
            quality_min: None,
            baseline: baseline.as_deref(),
            offer: None,
            predictor: Some(&self.predictor),
            vector: None,
            records: &|_| Record::default(),
            seed: 0,
            sticky: None,
        });
        match (route.candidates.first(), route.rejected.first()) {
            (Some(first), _) => (Some(first.endpoint.model.clone()), first.reason.clone()),
            (None, Some(rejected)) => (None, format!("{}: {}", rejected.endpoint, rejected.reason)),
            (None, None) => (None, "the policy has no candidates".to_owned()),
        }
    }
}

/// The request of an example.
fn request(policy: &str, example: &Example) -> Result<ChatRequest, FieldError> {
    let mut body =
        json!({"model": format!("policy/{policy}"), "messages": [{"role": "user", "content": example.prompt}]});
    if let Some(more) = &example.request {
        match serde_json::from_str::<Value>(more) {
            Ok(Value::Object(more)) => body.as_object_mut().into_iter().for_each(|body| body.extend(more.clone())),
            _ => return Err(FieldError::new("examples.request", "is no JSON object")),
        }
    }
    ChatRequest::parse(&Bytes::from(body.to_string()))
}
