//! Which models exist, where, at what price, with which abilities; money arithmetic. No IO.

mod config;
mod money;
mod resolve;

pub use config::{AbilityName, EndpointConfig, ModelConfig, Page, PageError, builtin_pages};
pub use money::{NanoUsd, Price};
pub use resolve::{Catalog, CatalogError, Endpoint, Model, UnknownModel};
