//! The models of the simulator and the ways in which they can fail.

use std::time::Duration;

/// One simulated model.
#[derive(Debug, Clone)]
pub struct SimulatedModel {
    /// The name under which it is asked.
    pub name: String,
    /// Time to the first token, and to a whole answer.
    pub latency: Duration,
    pub fault: Option<Fault>,
}

/// How a model misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 429 with `Retry-After: 7`.
    RateLimited,
    /// 500.
    Broken,
    /// Accepts and never answers.
    Hang,
    /// Closes the connection before any content.
    CutBeforeContent,
    /// Closes the connection after some content.
    CutAfterContent,
    /// Says that it used 100 times the output it gave: dearer than anyone reserved.
    Overruns,
}

impl SimulatedModel {
    /// A model that answers at once.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), latency: Duration::ZERO, fault: None }
    }

    /// The same model with a fault.
    pub fn failing(name: impl Into<String>, fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::new(name) }
    }

    /// Two well models and one for each fault.
    pub fn shipped(latency: Duration) -> Vec<Self> {
        let mut models = vec![Self::new("sim/small"), Self::new("sim/large")];
        let faults = [
            ("sim/fault-429", Fault::RateLimited),
            ("sim/fault-500", Fault::Broken),
            ("sim/fault-hang", Fault::Hang),
            ("sim/fault-cut-before", Fault::CutBeforeContent),
            ("sim/fault-cut-after", Fault::CutAfterContent),
        ];
        models.extend(faults.map(|(name, fault)| Self::failing(name, fault)));
        models.iter_mut().for_each(|model| model.latency = latency);
        models
    }
}
