//! Behaviour of the whole gateway over TCP; the tests live in `tests/it` and `tests/vectors`. Here: servers that they need.

pub mod postgres;
pub mod qdrant;
