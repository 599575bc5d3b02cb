//! The command-line listener.
