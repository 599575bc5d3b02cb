//! Where listeners come in: the socket, and what they have to show.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use listenfd::ListenFd;

use super::DaemonError;
use crate::access::{self, Role, Tokens, TokensError};
use crate::config::{NetworkConfig, TlsConfig};
use crate::tls::Identity;

#[derive(Debug)]
pub(super) struct Door {
    pub listener: TcpListener,
    pub keys: Keys,
}

/// What those who come have to show, and what they are shown. Clones change together.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub tokens: Tokens,
    pub identity: Option<Identity>,
    /// What they guard.
    address: SocketAddr,
}

impl Door {
    /// Takes the socket that a service manager holds for us (`sd_listen_fds(3)`): who connects while we
    /// restart waits there. Without one, opens one of our own.
    pub fn open(network: &NetworkConfig) -> Result<Self, DaemonError> {
        let listener = match inherited().map_err(DaemonError::System)? {
            Some(listener) => listener,
            None => bind(&network.listen)?,
        };
        listener
            .set_nonblocking(true)
            .map_err(DaemonError::System)?;
        let address = listener.local_addr().map_err(DaemonError::System)?;
        let keys = Keys::read(network, address)?;
        Ok(Self { listener, keys })
    }
}

impl Keys {
    fn read(network: &NetworkConfig, address: SocketAddr) -> Result<Self, DaemonError> {
        Ok(Self {
            tokens: tokens(network, address)?,
            identity: network.tls_paths().map(identity).transpose()?,
            address,
        })
    }

    /// Those that a changed configuration names.
    pub fn again(&self, network: &NetworkConfig) -> Result<Self, DaemonError> {
        Self::read(network, self.address)
    }

    /// Holds what `others` do from here on. Whether connections are encrypted at all stays as it is.
    pub fn adopt(&self, others: &Self) {
        self.tokens.adopt(&others.tokens);
        if let (Some(ours), Some(others)) = (&self.identity, &others.identity) {
            ours.adopt(others);
        }
    }
}

fn inherited() -> io::Result<Option<TcpListener>> {
    let mut sockets = ListenFd::from_env();
    if sockets.len() > 1 {
        tracing::warn!("of several sockets handed over the first is listened on");
    }
    if sockets.len() == 0 {
        return Ok(None);
    }
    tracing::info!("listening where the service manager does, whatever `listen` says");
    sockets.take_tcp_listener(0)
}

fn bind(address: &str) -> Result<TcpListener, DaemonError> {
    TcpListener::bind(address).map_err(|source| DaemonError::Listen {
        address: address.to_owned(),
        source,
    })
}

/// None where there is no file of them; refuses where that, or what is in it, lets everybody listen
/// who can reach the address, unless that was said to be meant.
fn tokens(network: &NetworkConfig, address: SocketAddr) -> Result<Tokens, DaemonError> {
    let is_open = network.open || address.ip().is_loopback();
    let Some(path) = network.tokens_path() else {
        return match is_open {
            true => Ok(Tokens::default()),
            false => Err(DaemonError::Wide(address)),
        };
    };
    let tokens = Tokens::read(&path)?;
    warn_of_readers(&path, "tokens");
    match is_open || tokens.guard(Role::Listen) {
        true => Ok(tokens),
        false => Err(TokensError::Open(path).into()),
    }
}

fn identity(TlsConfig { cert, key }: TlsConfig) -> Result<Identity, DaemonError> {
    let identity = Identity::read(&cert, &key)?;
    warn_of_readers(&key, "private key");
    Ok(identity)
}

fn warn_of_readers(path: &Path, what: &str) {
    if access::is_exposed(path) {
        let path = path.display();
        tracing::warn!("everybody on this machine can read the {what} in {path}: chmod 600 {path}");
    }
}

/// What to type into a browser: an address that means "all" is reached at this machine's own.
pub(super) fn page_address(address: SocketAddr, is_encrypted: bool) -> String {
    let scheme = if is_encrypted { "https" } else { "http" };
    match address.ip().is_unspecified() {
        true => format!("{scheme}://localhost:{}/", address.port()),
        false => format!("{scheme}://{address}/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_address_wants_a_token_to_listen_or_to_be_said_open() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "control steer-steer-steer-steer").unwrap();
        let [own, wide] = ["127.0.0.1:8420", "[::]:8420"].map(|a| a.parse().unwrap());
        let mut network = NetworkConfig::default();
        let why = |network: &NetworkConfig| tokens(network, wide).unwrap_err().to_string();
        assert!(tokens(&network, own).is_ok(), "nobody else can reach it");
        assert!(why(&network).contains("could listen: name a file"));
        network.tokens = Some(file.path().to_owned());
        assert!(tokens(&network, own).is_ok());
        assert!(why(&network).contains("add a line `listen TOKEN`"));
        network.open = true;
        assert!(tokens(&network, wide).is_ok());
        network.open = false;
        std::fs::write(file.path(), "listen hear-hear-hear-hear").unwrap();
        assert!(tokens(&network, wide).is_ok());
    }
}
