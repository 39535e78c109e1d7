//! Fits the models of router and cache and measures them on data they have not seen.

pub mod cache;
pub mod chart;
mod data;
mod embed;
pub mod router;

pub use data::DataError;
