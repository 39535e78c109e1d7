//! Behaviour of the whole gateway, over TCP, against a provider on a loopback port.

mod cache_pairs;
