//! The two signals that mean "stop": SIGINT from a person, SIGTERM from a service manager.

use std::io;

use futures_util::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Both signals, from the moment it was made; until then either kills as it always does.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes both signals over from the system; inside a tokio runtime only.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The name of one that has come already.
    pub fn take(&mut self) -> Option<&'static str> {
        self.next().now_or_never()
    }

    /// Waits for the next of either, and gives its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
