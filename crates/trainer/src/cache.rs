//! The cache's model: fitted on labelled streams and pairs, and replayed over streams it has not seen.

mod fit;
mod replay;
mod rivals;
mod streams;
mod sweep;
mod verdicts;

pub use fit::{CacheFitted, FitError, SHIPPABLE, fit, kinds_held_out};
pub use replay::{Comparing, Part, Replayed, Rule, Words, replay};
pub use rivals::{fixed_cosine, vcache};
pub use streams::{Arrival, Pair, Prepared, PreparedPair, Stream, prepare, prepare_pairs, read_pairs, read_stream};
pub use sweep::{Method, Point, chart, net_at, sweep};
pub use verdicts::{Kind, kinds};
