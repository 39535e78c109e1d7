//! Sends a request upstream and decodes its reply: the one outbound client, its deadlines and limits, and everything
//! that keeps a request alive while providers fail: breakers, the queue, second tries, hedges, fallback.

mod address;
mod attempt;
mod body;
mod breaker;
mod budget;
mod client;
mod config;
mod credential;
mod deadlines;
mod error;
mod execute;
mod frames;
mod gate;
mod latencies;
mod outbound;
mod provider;
mod queue;
mod secret;
mod settings;
mod slot;
mod statistics;
mod stream;
mod token;

pub use attempt::{Attempt, Attempts, Outcome};
pub use client::Answer;
pub use config::{ProviderConfig, ProviderError};
pub use error::{Failure, Kind as FailureKind};
pub use execute::{Call, Checking, Execution, Order, Providers, Success, Upstreams};
pub use gate::{Refusal, Ticket};
pub use outbound::{Outbound, Received};
pub use provider::Provider;
pub use queue::WEIGHT_MAX;
pub use reqwest::Error as ClientError;
pub use secret::Secret;
pub use settings::ExecutionConfig;
pub use slot::Limit;
pub use statistics::Live;
pub use stream::ReplyStream;
