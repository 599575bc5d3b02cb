//! The `[network]` table: where to listen, to whom, how much.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::fault::{Fault, fault, out_of};
use super::limits;

/// The name of the file of tokens among a service's credentials.
const CREDENTIAL: &str = "tokens";
/// Those of a certificate and its key.
const TLS_CREDENTIALS: [&str; 2] = ["tls-cert", "tls-key"];

/// The `[network]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// Whether to listen at all.
    pub enabled: bool,
    /// `HOST:PORT`; port 0 takes a free one.
    pub listen: String,
    /// A file of tokens, see [`Tokens`](crate::access::Tokens); a service's credential `tokens` when
    /// absent, if there is one.
    pub tokens: Option<PathBuf>,
    /// Whether everybody who can reach a wider address than this machine's own may listen.
    pub open: bool,
    /// Listeners of all stations together; one more is refused with 503.
    pub max_listeners: usize,
    /// Listeners and sessions from one address; this machine's own has no such limit.
    pub max_per_address: usize,
    /// Listeners and sessions with one token, links that it has signed among them.
    pub max_per_token: usize,
    /// Addresses, or nets of them such as `10.0.0.0/8`, of proxies that are believed about whom they ask
    /// for.
    pub trusted_proxies: Vec<String>,
    /// Web pages of other origins that may connect, such as `https://radio.example`; `*` for all.
    pub allowed_origins: Vec<String>,
    /// Audio in one message.
    pub packet_ms: u32,
    /// What a listener is advised to gather before it plays.
    pub jitter_ms: u32,
    /// What encrypts; a service's credentials `tls-cert` and `tls-key` when absent, if there are both.
    pub tls: Option<TlsConfig>,
}

/// The `[network.tls]` table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// A chain of certificates in PEM, the server's own first.
    pub cert: PathBuf,
    /// Its private key in PEM.
    pub key: PathBuf,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            // Nobody but this machine, until somebody decides otherwise.
            listen: "127.0.0.1:8420".into(),
            tokens: None,
            open: false,
            // At mu-law's 16 kB/s each, 1 MB/s in all: a home's upload.
            max_listeners: 64,
            // A household behind one address, and no single stranger takes the house.
            max_per_address: 16,
            // Half a house: a token is shared by a family, and should not be by everybody.
            max_per_token: 32,
            // Anybody can send a header.
            trusted_proxies: Vec::new(),
            allowed_origins: Vec::new(),
            // 50 messages a second: headers stay below a tenth of the bytes.
            packet_ms: 20,
            // Ten packets: covers a Wi-Fi hiccup; the page adapts from there.
            jitter_ms: 200,
            tls: None,
        }
    }
}

impl NetworkConfig {
    /// Codes in a packet of a model of this rate.
    pub fn packet_len(&self, rate_hz: u32) -> usize {
        (rate_hz * self.packet_ms / 1_000) as usize
    }

    /// Whether others than this machine can reach the address.
    fn is_wide(&self) -> bool {
        let host = (self.listen.rsplit_once(':')).map_or(&*self.listen, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_own = host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        !is_own && !host.eq_ignore_ascii_case("localhost")
    }

    /// Where the tokens are, if there are any.
    pub fn tokens_path(&self) -> Option<PathBuf> {
        self.tokens.clone().or_else(|| credential(CREDENTIAL))
    }

    /// Where the certificate and its key are, if there are any.
    pub fn tls_paths(&self) -> Option<TlsConfig> {
        self.tls.clone().or_else(|| {
            let [cert, key] = TLS_CREDENTIALS;
            // One without the other is meant, too: whoever reads them will miss the other.
            let (one, other) = (credential(cert), credential(key));
            let dir = one.or(other)?.parent()?.to_owned();
            Some(TlsConfig {
                cert: dir.join(cert),
                key: dir.join(key),
            })
        })
    }

    /// Those that `trusted_proxies` names.
    pub fn trusted_proxies(&self) -> Vec<IpNet> {
        let named = self.trusted_proxies.iter();
        named.filter_map(|name| net_of(name)).collect()
    }

    pub(super) fn first_fault(&self) -> Option<Fault> {
        if let Err(why) = check_address(&self.listen) {
            return fault(&["network", "listen"], why);
        }
        if self.enabled && !self.open && self.is_wide() && self.tokens_path().is_none() {
            let why = "lets everybody who can reach this machine listen: name a file of tokens with \
                       tokens, or say open = true if that is meant";
            return fault(&["network", "listen"], why.into());
        }
        let is_origin = |origin: &&String| {
            let rest = origin.split_once("://").map(|(_, host)| host);
            let is_host = rest.is_some_and(|host| !host.is_empty() && !host.contains('/'));
            is_host || *origin == "*"
        };
        if let Some(origin) = self.allowed_origins.iter().find(|o| !is_origin(o)) {
            let why = format!("must hold origins such as https://radio.example, not {origin}");
            return fault(&["network", "allowed_origins"], why);
        }
        let mut proxies = self.trusted_proxies.iter();
        if let Some(name) = proxies.find(|name| net_of(name).is_none()) {
            let why = format!("must hold addresses or nets such as 10.0.0.0/8, not {name}");
            return fault(&["network", "trusted_proxies"], why);
        }
        let n_listeners = self.max_listeners as f64;
        out_of(
            limits::MAX_LISTENERS,
            &["network", "max_listeners"],
            n_listeners,
        )
        .or_else(|| {
            let n = self.max_per_address as f64;
            out_of(limits::MAX_LISTENERS, &["network", "max_per_address"], n)
        })
        .or_else(|| {
            let n = self.max_per_token as f64;
            out_of(limits::MAX_LISTENERS, &["network", "max_per_token"], n)
        })
        .or_else(|| out_of(limits::PACKET_MS, &["network", "packet_ms"], self.packet_ms))
        .or_else(|| out_of(limits::JITTER_MS, &["network", "jitter_ms"], self.jitter_ms))
    }
}

/// A net, or an address as a net of one.
fn net_of(name: &str) -> Option<IpNet> {
    let one = || name.parse::<IpAddr>().ok().map(IpNet::from);
    name.parse().ok().or_else(one)
}

/// A file that the service manager has handed over (`systemd.exec(5)`), if it has.
fn credential(name: &str) -> Option<PathBuf> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY")?;
    Some(PathBuf::from(credentials).join(name)).filter(|path| path.exists())
}

/// Refuses what is not `HOST:PORT`.
pub fn check_address(address: &str) -> Result<(), String> {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(()),
        _ => Err(format!(
            "must be HOST:PORT such as 127.0.0.1:8420, not {address}"
        )),
    }
}
