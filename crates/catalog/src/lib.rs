//! Which models exist, where, at what price, with which abilities; money arithmetic. No IO.

mod config;
mod document;
mod endpoint;
mod kind;
mod listing;
mod merge;
mod money;
mod names;
mod price;
mod record;
mod resolve;
mod review;

pub use config::{AbilityName, EndpointConfig, ModelConfig, Prices, TierConfig};
pub use document::{Document, DocumentError, Offered, OfferedModel};
pub use endpoint::{Endpoint, Negotiated, Reach};
pub use kind::{Billing, Facts, Kind};
pub use listing::{EndpointRow, Listing, ListingError, Makes, ModelRow, Names, ProviderRow, RateRow, Status, TierRow};
pub use merge::{Change, Event, MergeError};
pub use money::NanoUsd;
pub use price::{Keeping, Price, Rates, Tier};
pub use record::{Percentiles, Record};
pub use resolve::{Catalog, CatalogError, Model, Resolved, UnknownModel};
