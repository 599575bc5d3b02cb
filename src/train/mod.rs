//! The model as a candle graph.
