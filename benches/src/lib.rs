//! Load measurements of the built binary.
