//! Sends a request upstream and decodes its reply: the one outbound client, its deadlines and limits, and fallback.

mod client;
mod config;
mod error;
mod outbound;
mod secret;
mod stream;

pub use client::{Answer, Attempt, Call, Success, Upstreams};
pub use config::{Kind, KnownProvider, Provider, ProviderConfig, ProviderError, known_providers};
pub use error::{Action, Failure, Kind as FailureKind};
pub use outbound::{Outbound, Received};
pub use secret::Secret;
pub use stream::ReplyStream;
