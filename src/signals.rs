//! Signals: SIGINT from a person and SIGTERM from a service manager mean "stop", SIGHUP "read the
//! configuration again".

use std::io;

use futures_util::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// All three, from the moment it was made; until then each kills as it always does.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes the signals over from the system; inside a tokio runtime only.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The name of one to stop that has come already.
    pub fn take(&mut self) -> Option<&'static str> {
        self.next().now_or_never()
    }

    /// Waits for the next one to stop, and gives its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    /// Waits for the next of any: `Err` with its name to stop, `Ok` to read the configuration again.
    pub async fn any(&mut self) -> Result<(), &'static str> {
        tokio::select! {
            _ = self.interrupt.recv() => Err("SIGINT"),
            _ = self.terminate.recv() => Err("SIGTERM"),
            _ = self.hangup.recv() => Ok(()),
        }
    }
}
