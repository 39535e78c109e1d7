//! Behaviour of the whole gateway over TCP; the tests live in `tests/it` and `tests/vectors`.

pub mod qdrant;
