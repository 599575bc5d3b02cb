//! Training: the model as a chain of blocks in candle's autograd, and the oracle.
//!
//! `forward.rs` is the model written naively and dense: what every engine and `network.rs` are
//! judged by.

mod blocks;
pub mod forward;
mod network;
pub mod ops;
mod parameters;

pub use network::Network;
pub use parameters::{Parameter, Part};

#[cfg(test)]
mod tests;
