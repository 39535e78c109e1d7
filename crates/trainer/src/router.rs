//! The router's predictor: fitted on recorded outcomes, measured on outcomes it has not seen.

mod evaluate;
mod fit;
mod length;
mod outcomes;

pub use evaluate::{Evaluation, Interval, Measured, evaluate};
pub use fit::{Fitted, fit};
pub use outcomes::{Outcome, OutcomeRow, SHIPPABLE, Split, read_outcomes};
