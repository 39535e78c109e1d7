//! Fits the router's predictor on recorded outcomes and measures it on outcomes it has not seen.

mod evaluate;
mod fit;
mod length;
mod outcomes;

pub use evaluate::{Evaluation, Interval, Measured, evaluate};
pub use fit::{Fitted, fit};
pub use outcomes::{Outcome, OutcomeRow, OutcomesError, SHIPPABLE, Split, read_outcomes};
