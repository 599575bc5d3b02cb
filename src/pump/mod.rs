//! The generation thread.
