//! Behaviour of the whole gateway, over TCP, against a provider on a loopback port.

mod budget;
mod cache;
mod cache_pairs;
mod chat;
mod clients;
mod configuration;
mod fallback;
mod routing;
mod stack;
mod tidy;
