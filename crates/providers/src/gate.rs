//! The gate before every upstream call: takes a free slot, or waits for one in a fair and bounded queue.

use crate::breaker::{Outcome, Pass};
use crate::budget::{RetryBudget, SpendBudget};
use crate::queue::{Place, Queue};
use crate::settings::ExecutionConfig;
use crate::slot::{Blocked, Choice, Limit, Slots};
use catalog::NanoUsd;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Limits that pass with time are looked at this often while somebody waits.
const TICK: Duration = Duration::from_millis(5);

/// Who asks, and how long there is.
#[derive(Debug, Clone)]
pub struct Ticket {
    pub tenant: String,
    /// Share of turns beside other tenants.
    pub weight: u32,
    /// Within the tenant; the highest goes first.
    pub priority: i64,
    pub deadline: Instant,
}

/// Why no endpoint was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Every capable endpoint is at its limit, and the wait is over or would be too long.
    AtLimit { limit: Limit, waited: Duration, retry_after: Duration },
    /// Every capable endpoint is at its limit and the queue is full.
    QueueFull { retry_after: Duration },
    /// Every capable endpoint has been failing and is left alone for now.
    Failing { retry_after: Duration },
}

/// All shared state of execution; it outlives a reload.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    slots: Slots,
    queue: Queue<Waiter>,
    /// How many wait for each slot or capacity: a newcomer must not overtake them.
    wanted: HashMap<String, usize>,
    ticking: bool,
    retries: RetryBudget,
    hedges: SpendBudget,
}

impl Default for State {
    fn default() -> Self {
        Self {
            slots: Slots::default(),
            queue: Queue::default(),
            wanted: HashMap::new(),
            ticking: false,
            retries: RetryBudget::new(),
            hedges: SpendBudget::default(),
        }
    }
}

#[derive(Debug)]
struct Waiter {
    choices: Arc<[Choice]>,
    skip: HashSet<usize>,
    interval: Duration,
    /// Equal for waiters that can use the same choices.
    signature: u64,
    /// What it waits for: slots and capacities.
    wants: Vec<String>,
    turn: oneshot::Sender<Result<Permit, Refusal>>,
}

/// The right to make one call; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    gate: Arc<Gate>,
    /// Which of the choices.
    pub choice: usize,
    slot: String,
    capacity: String,
    interval: Duration,
    /// This call finds out whether a failing endpoint works again.
    pub is_probe: bool,
}

impl Gate {
    /// True where every one of these slots is failing.
    pub(crate) fn are_failing(&self, slots: impl Iterator<Item = String>) -> bool {
        let (state, now) = (self.state(), Instant::now());
        let mut slots = slots.peekable();
        slots.peek().is_some() && slots.all(|slot| state.slots.is_failing(&slot, now))
    }
}

impl Permit {
    /// Notes how the call went.
    pub(crate) fn record(&self, outcome: Outcome) {
        self.gate.state().slots.record(&self.slot, outcome, Instant::now(), self.interval);
    }

    /// Leaves the endpoint alone as long as its provider asked.
    pub(crate) fn pause(&self, time: Duration) {
        self.gate.state().slots.pause(&self.slot, Instant::now() + time);
    }

    pub(crate) fn took(&self, streamed: bool, time: Duration) {
        self.gate.state().slots.took(&self.slot, streamed, time);
    }

    pub(crate) fn p95(&self, streamed: bool) -> Option<Duration> {
        self.gate.state().slots.p95(&self.slot, streamed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.state().slots.end(&self.capacity);
        self.gate.dispatch();
    }
}

/// Takes a waiter out of the queue when its request is given up.
struct InLine<'a> {
    gate: &'a Gate,
    place: Place,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        if let Some(waiter) = state.queue.remove(&self.place) {
            state.unwant(&waiter);
        }
    }
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whole between any two statements, so a panic elsewhere cannot have torn it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.state().queue.len()
    }

    /// A request begins: it adds to what may be spent on second tries and hedges.
    pub(crate) fn deposit(&self, expected: NanoUsd, settings: &ExecutionConfig) {
        let mut state = self.state();
        state.retries.deposit(settings.retry_share_max);
        state.hedges.deposit(expected, settings.hedge_spend_max);
    }

    pub(crate) fn withdraw_retry(&self, settings: &ExecutionConfig) -> bool {
        self.state().retries.withdraw(Instant::now(), settings.retry_per_second_min)
    }

    pub(crate) fn return_hedge(&self, expected: NanoUsd) {
        self.state().hedges.give_back(expected);
    }

    pub(crate) fn withdraw_hedge(&self, expected: NanoUsd) -> bool {
        self.state().hedges.withdraw(expected)
    }

    /// Takes a choice that is free now, unless others wait for it.
    pub(crate) fn try_acquire(
        self: &Arc<Self>,
        choices: &[Choice],
        skip: &HashSet<usize>,
        settings: &ExecutionConfig,
    ) -> Result<Permit, Blocked> {
        let (interval, now) = (settings.breaker_interval(), Instant::now());
        let mut state = self.state();
        let waited_for =
            |choice: &Choice| state.wanted.contains_key(&choice.slot) || state.wanted.contains_key(&choice.capacity);
        let contested: Vec<usize> =
            (0..choices.len()).filter(|at| !skip.contains(at) && waited_for(&choices[*at])).collect();
        let beyond: HashSet<usize> = skip.iter().chain(&contested).copied().collect();
        match state.slots.take(choices, &beyond, now, interval) {
            Ok((choice, pass)) => Ok(self.permit(&choices[choice], choice, interval, pass)),
            Err(blocked) => {
                let limit = |at: &usize| state.slots.limited_until(&choices[*at], now).unwrap_or((now, Limit::Queue));
                let limits = contested.iter().map(limit).chain(blocked.limited_until);
                Err(Blocked { limited_until: limits.min_by_key(|(until, _)| *until), ..blocked })
            }
        }
    }

    /// Takes a free choice, or waits for one; says how long it waited.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        choices: &Arc<[Choice]>,
        skip: &HashSet<usize>,
        ticket: &Ticket,
        settings: &ExecutionConfig,
    ) -> Result<(Permit, Duration), Refusal> {
        let blocked = match self.try_acquire(choices, skip, settings) {
            Ok(permit) => return Ok((permit, Duration::ZERO)),
            Err(blocked) => blocked,
        };
        let asked = Instant::now();
        let until = ticket.deadline.min(asked + Duration::from_millis(settings.queue_wait_max_ms));
        let Some((limited_until, limit)) = blocked.limited_until else {
            let retry_after = blocked.failing_until.map_or(TICK, |at| at.saturating_duration_since(asked));
            return Err(Refusal::Failing { retry_after });
        };
        let retry_after = limited_until.saturating_duration_since(asked);
        if limited_until > until {
            return Err(Refusal::AtLimit { limit, waited: Duration::ZERO, retry_after });
        }
        let (place, turn) = self.enqueue(choices, skip, ticket, settings)?;
        let in_line = InLine { gate: self, place };
        self.dispatch();
        self.tick();
        let outcome = tokio::time::timeout_at(until.into(), turn).await;
        drop(in_line);
        match outcome {
            Ok(Ok(turn)) => turn.map(|permit| (permit, asked.elapsed())),
            Ok(Err(_)) | Err(_) => {
                Err(Refusal::AtLimit { limit, waited: asked.elapsed(), retry_after: asked.elapsed() })
            }
        }
    }

    fn enqueue(
        &self,
        choices: &Arc<[Choice]>,
        skip: &HashSet<usize>,
        ticket: &Ticket,
        settings: &ExecutionConfig,
    ) -> Result<(Place, oneshot::Receiver<Result<Permit, Refusal>>), Refusal> {
        /// About a second is what a full queue needs to move.
        const FULL: Refusal = Refusal::QueueFull { retry_after: Duration::from_secs(1) };
        let (turn, receiver) = oneshot::channel();
        let mut state = self.state();
        if state.queue.len() >= settings.queue_requests_max {
            let evicted = state.queue.make_room(&ticket.tenant, ticket.weight).ok_or(FULL)?;
            state.unwant(&evicted);
            let _gone = evicted.turn.send(Err(FULL)); // its client may have left
        }
        let usable = || (0..choices.len()).filter(|at| !skip.contains(at)).map(|at| &choices[at]);
        let mut hasher = DefaultHasher::new();
        usable().for_each(|choice| choice.slot.hash(&mut hasher));
        // A pause is the slot's own; a limit is shared by all of the credential's endpoints.
        let now = Instant::now();
        let wants = usable().filter_map(|choice| match state.slots.limited_until(choice, now)?.1 {
            Limit::Pause => Some(choice.slot.clone()),
            _ => Some(choice.capacity.clone()),
        });
        let wants: Vec<String> = wants.collect();
        for wanted in &wants {
            *state.wanted.entry(wanted.clone()).or_default() += 1;
        }
        let waiter = Waiter {
            choices: Arc::clone(choices),
            skip: skip.clone(),
            interval: settings.breaker_interval(),
            signature: hasher.finish(),
            wants,
            turn,
        };
        let place = state.queue.push(&ticket.tenant, ticket.weight, ticket.priority, waiter);
        Ok((place, receiver))
    }

    /// Gives out what is free to those who wait, in fair order.
    fn dispatch(self: &Arc<Self>) {
        let mut returned = Vec::new(); // given back once the lock is free
        {
            let mut state = self.state();
            let mut blocked: HashSet<u64> = HashSet::new();
            while state.queue.len() > 0 {
                let now = Instant::now();
                let State { slots, queue, .. } = &mut *state;
                let granted = queue.next(|waiter| {
                    if blocked.contains(&waiter.signature) {
                        return None;
                    }
                    let taken = slots.take(&waiter.choices, &waiter.skip, now, waiter.interval);
                    if taken.is_err() {
                        blocked.insert(waiter.signature);
                    }
                    taken.ok()
                });
                let Some((waiter, (choice, pass))) = granted else { break };
                state.unwant(&waiter);
                let permit = self.permit(&waiter.choices[choice], choice, waiter.interval, pass);
                if let Err(Ok(permit)) = waiter.turn.send(Ok(permit)) {
                    returned.push(permit); // its client has left
                }
            }
        }
        drop(returned);
    }

    /// Looks again and again while somebody waits, since rates and pauses end without an event.
    fn tick(self: &Arc<Self>) {
        if std::mem::replace(&mut self.state().ticking, true) {
            return;
        }
        let gate = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(TICK).await;
                gate.dispatch();
                let mut state = gate.state();
                if state.queue.len() == 0 {
                    state.ticking = false;
                    return;
                }
            }
        });
    }

    fn permit(self: &Arc<Self>, choice: &Choice, at: usize, interval: Duration, pass: Pass) -> Permit {
        Permit {
            gate: Arc::clone(self),
            choice: at,
            slot: choice.slot.clone(),
            capacity: choice.capacity.clone(),
            interval,
            is_probe: pass == Pass::Probe,
        }
    }
}

impl State {
    fn unwant(&mut self, waiter: &Waiter) {
        for wanted in &waiter.wants {
            if let Some(count) = self.wanted.get_mut(wanted) {
                *count -= 1;
                if *count == 0 {
                    self.wanted.remove(wanted);
                }
            }
        }
    }
}
