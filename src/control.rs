//! Typed commands to the pump.
