//! Wire formats, each one file of pure functions between bytes and the canonical forms.

pub mod openai_chat;
