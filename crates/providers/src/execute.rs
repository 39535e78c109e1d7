//! One request at its candidates: fallback, second tries within the budget, hedging, until the first byte is good.

use crate::attempt::{Attempts, Bills};
use crate::breaker::Outcome;
use crate::client::{Answer, Clients, Outgoing, call};
use crate::deadlines::Deadlines;
use crate::error::{Action, Failure, Kind};
use crate::gate::{Gate, Permit, Refusal, Ticket};
use crate::provider::Provider;
use crate::settings::ExecutionConfig;
use crate::slot::Choice;
use crate::statistics::{Live, Seen, Statistics};
use crate::stream::{ReplyStream, UnderCall, Witness};
use bytes::Bytes;
use catalog::{Endpoint, Kind as ProviderKind, NanoUsd, Record};
use protocol::dialect::{Dialect, Inexpressible, Target, for_vertex};
use protocol::{ChatRequest, Reply, Usage};
use rand::Rng;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Calls made for one request at the most.
const ATTEMPTS_MAX: usize = 10;
/// The longest pause before a second try.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Without `Retry-After` an endpoint that limits us is left alone for this long.
const PAUSE: Duration = Duration::from_secs(1);
/// And never for longer than this, whatever it says: it may be well again sooner.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A probe that takes longer gets company at once: the request must not pay for our curiosity.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// One candidate of a request.
#[derive(Debug, Clone)]
pub struct Call {
    pub endpoint: Arc<Endpoint>,
    /// Candidates of one rank are equally good; lower ranks go first.
    pub rank: usize,
    /// The cap on output tokens to send upstream.
    pub max_tokens: Option<u64>,
    /// For estimating what a call that brings nothing may cost.
    pub expected_output_tokens: u64,
    /// Its answer is shown only where it passes the order's check.
    pub on_trial: bool,
    /// The model it stands in for: called only once all others have said that they do not have theirs.
    pub in_place_of: Option<String>,
}

/// The candidate that answered.
pub struct Success {
    pub answer: Answer,
    pub call: Call,
    choice: usize,
    /// Its place among the attempts.
    attempt: usize,
}

/// All connections and everything known about endpoints; outlives a reload.
#[derive(Debug, Clone, Default)]
pub struct Upstreams {
    gate: Arc<Gate>,
    clients: Clients,
    statistics: Arc<Statistics>,
}

/// The providers of a configuration, by name.
pub type Providers = BTreeMap<String, Arc<Provider>>;

/// Everything that a request's execution depends on.
pub struct Order<'a> {
    pub request: &'a ChatRequest,
    /// The candidates, best first.
    pub calls: Vec<Call>,
    pub providers: &'a Providers,
    pub settings: &'a ExecutionConfig,
    pub ticket: Ticket,
    /// Says what is wrong with an answer of a candidate on trial.
    pub check: Option<&'a Checking<'a>>,
}

/// Looks at the answers of candidates on trial, in their order.
pub type Checking<'a> = dyn Fn(&Reply) -> Result<(), String> + Send + Sync + 'a;

/// A request on its way through its candidates.
pub struct Execution<'a> {
    upstreams: &'a Upstreams,
    request: &'a ChatRequest,
    settings: &'a ExecutionConfig,
    ticket: Ticket,
    check: Option<&'a Checking<'a>>,
    options: Vec<Candidate>,
    choices: Arc<[Choice]>,
    attempts: Attempts,
    permit: Option<Permit>,
}

/// A call with one of its provider's credentials.
struct Candidate {
    call: Call,
    provider: Arc<Provider>,
    credential: usize,
}

/// What has failed so far.
#[derive(Default)]
struct Tried {
    /// Not to be tried in this round.
    all: HashSet<usize>,
    /// Where a second try cannot help.
    for_good: HashSet<usize>,
    last: Option<Failure>,
    latest: Option<usize>,
    /// Somebody failed in another way than by not having the model.
    otherwise: bool,
    /// The first refusal of the request itself, where it was said in other words than the client's.
    refused: Option<Failure>,
}

impl Tried {
    /// True where the latest refusal is of the client's own bytes.
    fn refused_in_own_words(&self, options: &[Candidate]) -> bool {
        self.latest.is_none_or(|choice| options[choice].call.endpoint.dialect == Dialect::OpenaiChat)
    }

    /// True where the latest failure is of a candidate on trial.
    fn on_trial(&self, options: &[Candidate]) -> bool {
        self.latest.is_some_and(|choice| options[choice].call.on_trial)
    }

    fn add(&mut self, choice: usize, failure: Failure) {
        self.all.insert(choice);
        self.latest = Some(choice);
        if failure.kind.action() != Action::TryNextOrAgain {
            self.for_good.insert(choice);
        }
        self.otherwise |= failure.kind != Kind::NoSuchModel;
        if failure.kind == Kind::Refused && self.refused.is_none() {
            self.refused = Some(failure.clone());
        }
        self.last = Some(failure);
    }
}

impl Upstreams {
    /// Prepares a request: each call with each credential of its provider. Calls at providers that are not configured
    /// are left out.
    pub fn execution<'a>(&'a self, order: Order<'a>) -> Execution<'a> {
        let Order { request, calls, providers, settings, ticket, check } = order;
        let mut options = Vec::new();
        let mut choices = Vec::new();
        for call in calls {
            let Some(provider) = providers.get(&call.endpoint.provider) else { continue };
            for (at, _) in provider.usable(&call.endpoint) {
                let credential = &provider.credentials[at];
                choices.push(Choice {
                    rank: call.rank,
                    slot: format!("{}#{}", call.endpoint.id, credential.label),
                    capacity: format!("{}#{}", provider.name, credential.label),
                    limits: credential.limits,
                    weight: credential.weight,
                });
                options.push(Candidate { call: call.clone(), provider: Arc::clone(provider), credential: at });
            }
        }
        let expected = options.first().map_or(NanoUsd::ZERO, |option| expected_cost(request, &option.call));
        self.gate.deposit(expected, settings);
        let attempts = Attempts::default();
        Execution {
            upstreams: self,
            request,
            settings,
            ticket,
            check,
            options,
            choices: choices.into(),
            attempts,
            permit: None,
        }
    }

    /// The recent past of an endpoint.
    pub fn record(&self, endpoint: &Endpoint, providers: &Providers) -> Record {
        let provider = providers.get(&endpoint.provider);
        let labels = provider.into_iter().flat_map(|provider| provider.usable(endpoint)).map(|(_, label)| label);
        let slots = labels.map(|label| format!("{}#{label}", endpoint.id));
        let failing = self.gate.are_failing(slots);
        Record { failing, ..self.statistics.record(&endpoint.id, Instant::now()) }
    }

    /// What is shown of an endpoint.
    pub fn live(&self, endpoint: &Endpoint) -> Live {
        self.statistics.live(&endpoint.id, Instant::now())
    }

    /// Requests that wait for an endpoint at its limit.
    pub fn waiting(&self) -> usize {
        self.gate.waiting()
    }
}

impl Execution<'_> {
    /// Every call made, also after the request was given up.
    pub fn attempts(&self) -> Attempts {
        self.attempts.clone()
    }

    /// Takes the right to make the first call; waits where every candidate is at its limit. Returns the wait.
    ///
    /// # Errors
    /// When nobody may be called.
    pub async fn admit(&mut self) -> Result<Duration, Refusal> {
        let stand_ins = self.stand_ins();
        let acquired = self.upstreams.gate.acquire(&self.choices, &stand_ins, &self.ticket, self.settings);
        let (permit, waited) = acquired.await?;
        self.permit = Some(permit);
        Ok(waited)
    }

    /// Calls one candidate after the other until one answers; for a stream, until its first content has arrived.
    ///
    /// # Errors
    /// With the last failure when nobody is left to try, or at once when the request itself is refused.
    pub async fn first_success(mut self) -> Result<Success, Failure> {
        let stand_ins = self.stand_ins();
        let mut tried = Tried { all: stand_ins.clone(), for_good: stand_ins.clone(), ..Tried::default() };
        let mut round = 0;
        let mut permit = self.permit.take();
        loop {
            if let Some(permit) = permit.take()
                && let Some(success) = self.attempt(permit, &mut tried).await
                && let Some(success) = self.checked(success, &mut tried).await
            {
                return Ok(success);
            }
            if tried.on_trial(&self.options) {
                tried.refused = None; // what it found fault with the others may take
            }
            let last =
                tried.last.clone().unwrap_or_else(|| Failure::new("", Kind::Failing, "no endpoint may be called"));
            let is_over = self.attempts.count() >= ATTEMPTS_MAX || Instant::now() >= self.ticket.deadline;
            // What was refused in the client's own words would be refused again; a translation may have been at fault.
            let own_words = || tried.refused_in_own_words(&self.options);
            // A trial's refusal is no reason not to ask who would have been asked without it.
            let is_final = last.kind.action() == Action::Stop && !tried.on_trial(&self.options);
            if is_over || is_final && own_words() {
                return Err(tried.refused.unwrap_or(last));
            }
            let gate = &self.upstreams.gate;
            if !tried.otherwise && tried.all.len() == self.choices.len() {
                // The model is gone everywhere: whoever stands in for it may answer now.
                tried.all.retain(|choice| !stand_ins.contains(choice));
                tried.for_good.retain(|choice| !stand_ins.contains(choice));
                tried.otherwise = true;
            }
            // Somebody untried who is free, or who is only at a limit: waiting there costs no second try.
            let untried = gate.acquire(&self.choices, &tried.all, &self.ticket, self.settings).await;
            if let Ok((next, _)) = untried {
                permit = Some(next);
                continue;
            }
            let failure = tried.refused.clone().unwrap_or(last);
            permit = Some(self.again(&mut tried, round).await.ok_or(failure)?);
            round += 1;
        }
    }

    /// The answer of a candidate on trial where it passes, whole, and any other as it is.
    async fn checked(&self, success: Success, tried: &mut Tried) -> Option<Success> {
        let Some(check) = self.check.filter(|_| success.call.on_trial) else { return Some(success) };
        let Success { answer, call, choice, attempt } = success;
        let prompt_bytes = self.request.prompt_bytes();
        let whole = match answer {
            Answer::Whole(reply) => Ok(*reply),
            Answer::Stream(stream) => {
                // Until it has passed it is billed for nothing, also when nobody waits for its end.
                let so_far = |chars: usize| {
                    self.attempts.reject(attempt, Kind::Unverified, Usage::estimate(prompt_bytes, chars))
                };
                collected(*stream, &call.endpoint.provider, so_far).await
            }
        };
        let problem = match whole {
            Ok(reply) => match check(&reply) {
                Ok(()) => {
                    self.attempts.accept(attempt);
                    return Some(Success { answer: Answer::Whole(Box::new(reply)), call, choice, attempt });
                }
                Err(problem) => {
                    let usage = reply.usage.as_ref().and_then(Usage::from_openai);
                    let estimate = || Usage::estimate(prompt_bytes, reply.text_chars());
                    self.attempts.reject(attempt, Kind::Unverified, usage.unwrap_or_else(estimate));
                    Failure::new(&call.endpoint.provider, Kind::Unverified, problem)
                }
            },
            Err(failure) => failure, // what had come is booked
        };
        tracing::debug!(endpoint = %call.endpoint.id, %problem, "an answer on trial did not pass");
        tried.add(choice, problem);
        // Nor is it asked with another credential: a sample is a sample.
        let same = |at: &usize| self.options[*at].call.on_trial && self.options[*at].call.rank == call.rank;
        let others: Vec<usize> = (0..self.options.len()).filter(same).collect();
        tried.all.extend(&others);
        tried.for_good.extend(others);
        None
    }

    /// The choices of models that stand in for others.
    fn stand_ins(&self) -> HashSet<usize> {
        let all = self.options.iter().enumerate();
        let stand_ins: HashSet<usize> =
            all.filter(|(_, option)| option.call.in_place_of.is_some()).map(|(at, _)| at).collect();
        // Where nothing else is left, they answer at once.
        if stand_ins.len() == self.options.len() { HashSet::new() } else { stand_ins }
    }

    /// Waits for a second try at what failed, within budget and deadline.
    async fn again(&self, tried: &mut Tried, round: u32) -> Option<Permit> {
        if tried.for_good.len() == self.choices.len() || !self.upstreams.gate.withdraw_retry(self.settings) {
            return None;
        }
        let pause = Duration::from_millis(self.settings.retry_backoff_ms).saturating_mul(1 << round.min(10));
        let pause = pause.min(BACKOFF_MAX).mul_f64(rand::rng().random_range(0.0..=1.0)); // full jitter
        if Instant::now() + pause >= self.ticket.deadline {
            return None;
        }
        tokio::time::sleep(pause).await;
        tried.all.clone_from(&tried.for_good);
        let next = self.upstreams.gate.acquire(&self.choices, &tried.for_good, &self.ticket, self.settings).await;
        next.ok().map(|(permit, _)| permit)
    }

    /// One call, with a second beside it when the first is slow; `None` when it failed.
    async fn attempt(&self, permit: Permit, tried: &mut Tried) -> Option<Success> {
        let first_choice = permit.choice;
        let patience = self.patience(&permit);
        let mut first = std::pin::pin!(self.send(permit, false));
        let second = match patience {
            None => None,
            Some((time, paid)) => tokio::select! {
                outcome = &mut first => return noted(outcome, first_choice, tried),
                () = tokio::time::sleep(time) => self.hedge(first_choice, &tried.all, paid),
            },
        };
        let Some(second) = second else { return noted(first.await, first_choice, tried) };
        let second_choice = second.choice;
        let mut second = std::pin::pin!(self.send(second, true));
        tokio::select! {
            outcome = &mut first => match noted(outcome, first_choice, tried) {
                Some(success) => Some(success),
                None => noted(second.await, second_choice, tried),
            },
            outcome = &mut second => match noted(outcome, second_choice, tried) {
                Some(success) => Some(success),
                None => noted(first.await, first_choice, tried),
            },
        }
    }

    /// How long a call may be slow before it gets company, and whether that is paid from the budget for hedges.
    fn patience(&self, permit: &Permit) -> Option<(Duration, bool)> {
        if permit.is_probe && self.choices.len() > 1 {
            return Some((PROBE_PATIENCE, false));
        }
        let hedged = self.settings.hedge_spend_max > 0.0;
        let p95 = hedged.then(|| permit.p95(self.request.stream)).flatten()?;
        Some((p95, true))
    }

    /// The right to a second call: at another candidate where one is free, else at the same.
    fn hedge(&self, first: usize, tried: &HashSet<usize>, paid: bool) -> Option<Permit> {
        let gate = &self.upstreams.gate;
        let mut skip = tried.clone();
        skip.insert(first);
        // The money first: a permit that is not used has used up a turn.
        let expected = expected_cost(self.request, &self.options[first].call);
        if paid && !gate.withdraw_hedge(expected) {
            return None;
        }
        let permit = match gate.try_acquire(&self.choices, &skip, self.settings) {
            Err(_) if paid => gate.try_acquire(&self.choices, tried, self.settings),
            other => other, // a probe gets company elsewhere or none
        };
        if permit.is_err() && paid {
            gate.return_hedge(expected);
        }
        permit.ok()
    }

    /// Makes one call and notes how it went.
    async fn send(&self, permit: Permit, hedge: bool) -> Result<Success, Failure> {
        let Candidate { call: wanted, provider, credential } = &self.options[permit.choice];
        let (endpoint, credential) = (&wanted.endpoint, &provider.credentials[*credential]);
        let under_way =
            self.attempts.begin(Arc::clone(endpoint), &credential.label, bills(self.request, wanted), hedge);
        let (choice, attempt) = (permit.choice, under_way.place());
        let deadlines = Deadlines::of(provider, endpoint);
        let tightened = deadlines.tightened(&self.request.sluice);
        let connect = deadlines.connect;
        let outcome = match (encoded(self.request, wanted, provider), self.upstreams.clients.get(connect)) {
            (Ok(body), Ok(client)) => {
                let outgoing = Outgoing {
                    provider,
                    endpoint,
                    credential,
                    deadlines,
                    tightened,
                    body,
                    streamed: self.request.stream,
                    choices: self.request.n,
                    by: self.ticket.deadline.into(),
                };
                call(&client, outgoing).await
            }
            (Err(error), _) => Err(Failure::new(&provider.name, Kind::Inexpressible, error.to_string())),
            (_, Err(_)) => Err(Failure::new(&provider.name, Kind::Unreachable, "no TLS can be set up")),
        };
        match outcome {
            Ok(answer) => {
                under_way.answered();
                permit.record(if self.request.stream { Outcome::Began } else { Outcome::Good });
                permit.took(self.request.stream, under_way.elapsed());
                let statistics = Arc::clone(&self.upstreams.statistics);
                let witness = Witness { statistics, endpoint: endpoint.id.clone() };
                let answer = match answer {
                    Answer::Stream(stream) => {
                        witness.saw(Seen::FirstToken(under_way.elapsed()));
                        let call = UnderCall { permit, under_way, credential: credential.clone(), witness };
                        Answer::Stream(Box::new(stream.of_call(call)))
                    }
                    Answer::Whole(reply) => {
                        witness.answered(&reply, under_way.elapsed());
                        Answer::Whole(reply)
                    }
                };
                Ok(Success { answer, call: wanted.clone(), choice, attempt })
            }
            Err(failure) => {
                credential.failed(failure.status);
                let mut failure = credential.redacted(failure);
                if matches!(failure.kind, Kind::RateLimited | Kind::Overloaded) {
                    permit.pause(failure.retry_after.get_or_insert(PAUSE).to_owned().min(PAUSE_MAX));
                }
                under_way.failed(&failure);
                tracing::info!(endpoint = %endpoint.id, kind = failure.kind.as_str(), "a call failed");
                if let Some(outcome) = failure.outcome() {
                    permit.record(outcome);
                    self.upstreams.statistics.note(&endpoint.id, Seen::Bad, Instant::now());
                }
                Err(failure)
            }
        }
    }
}

/// A stream to its end; `so_far` is told the characters that have come.
async fn collected(mut stream: ReplyStream, provider: &str, so_far: impl Fn(usize)) -> Result<Reply, Failure> {
    let mut chars = 0;
    so_far(chars);
    while let Some(chunk) = stream.next().await {
        chars += chunk?.text_chars();
        so_far(chars);
    }
    stream.collected().finish().ok_or_else(|| Failure::new(provider, Kind::Empty, "a stream without chunks"))
}

fn noted(outcome: Result<Success, Failure>, choice: usize, tried: &mut Tried) -> Option<Success> {
    outcome.map_err(|failure| tried.add(choice, failure)).ok()
}

/// The request in the words of a call's endpoint.
fn encoded(request: &ChatRequest, call: &Call, provider: &Provider) -> Result<Vec<Bytes>, Inexpressible> {
    let endpoint = &call.endpoint;
    let target = Target {
        model: &endpoint.name,
        max_tokens: call.max_tokens,
        output_tokens_max: endpoint.output_tokens_max,
        quirks: &endpoint.quirks,
    };
    let body = endpoint.dialect.encode_request(request, target)?;
    match (provider.kind, endpoint.dialect) {
        (ProviderKind::Vertex, Dialect::Anthropic) => Ok(for_vertex(&body)),
        _ => Ok(body),
    }
}

fn bills(request: &ChatRequest, call: &Call) -> Bills {
    let expected = Usage { output_tokens: call.expected_output_tokens, ..Usage::estimate(request.prompt_bytes(), 0) };
    let begun = Usage::estimate(request.prompt_bytes(), 0);
    // A stream without its first content has not cost output; a whole answer may have been all but done.
    if request.stream { Bills { given_up: begun, expected: begun } } else { Bills { given_up: expected, expected } }
}

fn expected_cost(request: &ChatRequest, call: &Call) -> NanoUsd {
    let input = Usage::estimate(request.prompt_bytes(), 0).input_tokens;
    call.endpoint.price.expected(input, call.expected_output_tokens)
}
