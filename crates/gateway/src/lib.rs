//! The HTTP server, the one pipeline, telemetry; composes the configuration.

mod app;
mod asked;
mod auth;
mod calls;
mod compare;
pub mod config;
mod connection;
mod contents;
mod error;
mod flight;
mod grants;
mod http;
mod limits;
mod meaning;
mod origin;
mod pipeline;
mod pressure;
mod relay;
mod resolve;
mod serve;
mod served;
mod session;
mod spending;
mod telemetry;
mod trials;
mod unpriced;
mod upkeep;
mod webhook;

pub use app::{App, StartError, Started, take_lock};
pub use config::{Config, ConfigFile, Learning};
pub use serve::{Gateway, serve};
