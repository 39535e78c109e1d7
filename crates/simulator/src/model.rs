//! The models of the simulator: what each is called, how fast it is, and its standing fault.

use crate::fault::{FAULTS, Fault, Rule};
use std::time::Duration;

/// One simulated model.
#[derive(Debug, Clone)]
pub struct SimulatedModel {
    /// The name under which it is asked.
    pub name: String,
    /// Time to the first token, and to a whole answer.
    pub latency: Duration,
    pub rule: Option<Rule>,
}

impl SimulatedModel {
    /// A model that answers at once.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), latency: Duration::ZERO, rule: None }
    }

    /// The same model with a fault.
    pub fn failing(name: impl Into<String>, fault: Fault) -> Self {
        Self { rule: Some(Rule::always(fault)), ..Self::new(name) }
    }

    /// Two well models and `sim/fault-NAME` for each fault.
    pub fn shipped(latency: Duration) -> Vec<Self> {
        let mut models = vec![Self::new("sim/small"), Self::new("sim/large")];
        models.extend(FAULTS.map(|fault| Self::failing(format!("sim/fault-{}", fault.name()), fault)));
        models.iter_mut().for_each(|model| model.latency = latency);
        models
    }
}
