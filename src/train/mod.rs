//! The model as a candle graph. Today it is the oracle that every engine is judged by.

pub mod forward;
