//! longwave: a daemon that never stops playing.
//!
//! A sparse transformer draws raw audio one code after another, in real time, and a lock-free
//! ring carries the sound to a sound card and to listeners on the network. The modules stand
//! below in the order of the layers: each may name only those that `tests/layering.rs` allows.

pub mod access;
pub mod capacity;
pub mod files;
pub mod limits;
pub mod machine;
pub mod mulaw;
pub mod plot;
pub mod sound;
pub mod telemetry;

pub mod broadcast;
pub mod draw;
pub mod protocol;
pub mod resample;

pub mod wav;

pub mod corpus;

pub mod compute;

pub mod predictor;

pub mod model;

pub mod engine;

pub mod control;
pub mod state;

pub mod train;

pub mod eval;

pub mod bench;
pub mod inspect;

pub mod tls;

#[cfg(feature = "playback")]
pub mod card;
pub mod listen;
pub mod net;
pub mod pump;
pub mod record;

pub mod config;
pub mod setup;
pub mod signals;

pub mod audit;
pub mod daemon;
pub mod render;

// Aborts a test that allocates inside `assert_no_alloc`; elsewhere it is the system's allocator.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: assert_no_alloc::AllocDisabler = assert_no_alloc::AllocDisabler;
