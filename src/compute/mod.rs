//! Arithmetic of one step.
