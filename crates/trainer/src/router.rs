//! The router's models: fitted on recorded outcomes, measured on outcomes they have not seen.

mod cascade;
mod evaluate;
mod fit;
mod frontier;
mod head;
mod heads;
mod lbfgs;
mod length;
mod log;
mod noise;
mod outcomes;
mod pair;
mod prepared;
mod promise;
mod scorers;
mod splits;

pub use cascade::Cascaded;
pub use evaluate::{ByCost, Evaluation, OnPair, Plan, Single, evaluate};
pub use fit::{Fitted, fit};
pub use frontier::{Frontier, Point};
pub use heads::{add_heads, fits};
pub use log::{LoggedAnswer, read_log};
pub use noise::{Flipped, Noise, flips, noisy};
pub use outcomes::{Outcome, OutcomeRow, SHIPPABLE, Split, read_outcome_file, read_outcomes};
pub use pair::Interval;
pub use prepared::{Prompt, models_with_labels, prepare_prompts};
pub use promise::Kept;
pub use scorers::Scorer;
pub use splits::Protocol;
