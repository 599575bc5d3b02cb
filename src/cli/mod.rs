//! The command line: what can be typed, what each command does, what its end means.

pub mod args;
pub mod audit;
pub mod bench;
mod changes;
pub mod control;
#[cfg(feature = "playback")]
pub mod devices;
pub mod eval;
pub mod exit;
pub mod interrupt;
pub mod link;
pub mod listen;
pub mod live;
pub mod pages;
pub mod prepare;
pub mod render;
pub mod train;
