//! Behaviour of the whole gateway, over TCP, against a provider on a loopback port.

mod bound;
mod budget;
mod cache;
mod cache_pairs;
mod cascade;
mod catalogue;
mod chat;
mod clients;
mod configuration;
mod degraded;
mod dialects;
mod endpoints;
mod execution;
mod fallback;
mod faults;
mod hostile;
mod learning;
mod lifecycle;
mod outage;
mod policies;
mod routing;
mod semantic;
mod stack;
mod stores;
mod tidy;
mod upstream;
