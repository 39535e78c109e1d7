//! A provider on a loopback port that speaks OpenAI's dialect with settable answers, latency and faults, and remembers
//! what it saw. Every answer says `"provider": "simulated"`.

mod answers;
mod model;
mod server;

pub use answers::{Answers, AnswersError, KnownAnswer, Row};
pub use model::{Fault, SimulatedModel};
pub use server::{Seen, Simulator};
