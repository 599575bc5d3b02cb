//! The server's task, and how it ends.

use std::io;
use std::net::TcpListener;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::DaemonError;
use super::door::{Keys, page_address};
use crate::config::NetworkConfig;
use crate::net::{self, House};

/// The server's task and the word that ends it.
pub(super) struct Network {
    pub page: String,
    task: JoinHandle<io::Result<()>>,
    stop: oneshot::Sender<()>,
}

impl Network {
    /// Inside a runtime only.
    pub fn start(listener: TcpListener, house: House) -> Result<Self, DaemonError> {
        let address = listener.local_addr().map_err(DaemonError::System)?;
        let page = page_address(address, house.settings.identity.is_some());
        let listener = tokio::net::TcpListener::from_std(listener).map_err(DaemonError::System)?;
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            // Dropped or sent, it means the same.
            let _ = stopped.await;
        };
        let task = tokio::spawn(net::serve(listener, house, shutdown));
        Ok(Self { page, task, stop })
    }

    /// Tells all who listen, and waits until they were told.
    pub async fn stop(self) {
        // If nobody hears it, the task has ended already.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// How the server ended, which it does not by itself; never, where there is none.
pub(super) async fn end(network: &mut Option<Network>) -> io::Error {
    let Some(Network { task, .. }) = network else {
        return std::future::pending().await;
    };
    let end = task.await;
    // Asked once more for its end, the task would panic.
    *network = None;
    match end {
        Ok(Err(error)) => error,
        Ok(Ok(())) => io::Error::other("the server ended"),
        Err(error) => io::Error::other(error),
    }
}

pub(super) fn settings(network: &NetworkConfig, keys: Keys) -> net::Settings {
    net::Settings {
        max_listeners: network.max_listeners,
        max_per_address: network.max_per_address,
        max_per_token: network.max_per_token,
        trusted_proxies: network.trusted_proxies(),
        tokens: keys.tokens,
        identity: keys.identity,
        allowed_origins: network.allowed_origins.clone(),
        // Full on arrival: a newcomer hears something at once.
        burst_ms: network.jitter_ms,
        jitter_buffer_ms: network.jitter_ms,
        ..net::Settings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_network_that_has_ended_is_not_asked_again() {
        let (stop, _stopped) = oneshot::channel();
        let task = tokio::spawn(async { Err(io::Error::other("out of order")) });
        let page = String::new();
        let mut network = Some(Network { page, task, stop });
        let error = end(&mut network).await;
        assert_eq!(error.to_string(), "out of order");
        assert!(network.is_none());
    }
}
