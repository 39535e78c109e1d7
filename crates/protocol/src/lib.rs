//! The canonical chat request, reply and events, and every dialect in both directions. No IO.

mod details;
pub mod dialect;
mod event;
mod fingerprint;
mod json;
mod preferences;
mod raw;
mod reply;
mod request;
mod sse;
mod told;
mod usage;

pub use event::{Chunk, ChunkChoice, Collector, Delta, replay};
pub use fingerprint::{Digest, context_tag, digest_of, fingerprint};
pub use preferences::{Cutoffs, DataCollection, MaxPrice, ProviderPreferences, Sort, SortBy};
pub use reply::{AssistantMessage, Choice, Reply};
pub use request::{CacheMode, CacheOptions, ChatRequest, Content, FieldError, Message, Part, Role, SluiceOptions};
pub use sse::{SseDecoder, SseError};
pub use told::Told;
pub use usage::Usage;
