//! The canonical chat request, reply and events, and every dialect in both directions. No IO.

pub mod dialect;
mod event;
mod fingerprint;
mod json;
mod reply;
mod request;
mod sse;
mod told;
mod usage;

pub use event::{Chunk, ChunkChoice, Collector, Delta, replay};
pub use fingerprint::{Digest, context_tag, fingerprint};
pub use reply::{AssistantMessage, Choice, Reply};
pub use request::{
    CacheMode, CacheOptions, ChatRequest, Content, FieldError, Message, Part, ProviderPreferences, Role, SluiceOptions,
};
pub use sse::{SseDecoder, SseError};
pub use told::Told;
pub use usage::Usage;
