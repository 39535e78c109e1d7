//! A provider on a loopback port that speaks OpenAI's dialect with settable answers, latency and faults, and remembers
//! what it saw. Every answer says `"provider": "simulated"`.

mod answer;
mod answers;
mod fault;
mod log;
mod model;
mod reply;
mod server;
mod wire;

pub use answers::{Answers, AnswersError, KnownAnswer, Row};
pub use fault::{FAULTS, Fault, Rule};
pub use log::{Call, Counters, Seen};
pub use model::SimulatedModel;
pub use server::Simulator;
