//! Encrypted connections: who we are to those who connect, and whom we believe when we connect.
//!
//! All of it is rustls with ring; nobody else names either. An [`Identity`] is replaced whole while
//! connections live: those go on with the one they began with.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// Longer than any file of certificates: Debian's of all authorities has 220 kB.
const FILE_LEN_MAX: u64 = 4 * 1024 * 1024;

/// What certificates and keys can be wrong in. *Fatal*: a human must change them.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It cannot be read.
    #[error("cannot read {}: {source}; TLS needs it, see docs/operating.md", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds none, or a broken one.
    #[error("{} holds no certificate in PEM ({why}); it should hold ours first, then those that vouch for it", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It holds none that can be used.
    #[error("{} holds no private key in PEM without a passphrase ({why})", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Each may be right, but not together.
    #[error("the certificate in {} cannot be used with the key in {}: {why}; name two that were made for each other", cert.display(), key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's.
        key: PathBuf,
        /// What rustls says.
        why: rustls::Error,
    },
    /// Nobody could be believed.
    #[error(
        "this machine knows no certificate authorities: install ca-certificates, or name one with --ca FILE"
    )]
    NoAuthorities,
}

/// What a server shows of itself. Clones are the same: all change when one [adopts](Self::adopt) another.
#[derive(Clone)]
pub struct Identity(Arc<RwLock<Arc<ServerConfig>>>);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// Reads a chain of certificates, the server's own first, and the key of that one.
    pub fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = certificates(cert)?;
        let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|why| TlsError::NoKey {
            path: key.to_owned(),
            why: why.to_string(),
        })?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .and_then(|config| {
                let config = config.with_no_client_auth();
                config.with_single_cert(chain, secret)
            });
        let mut config = config.map_err(|why| TlsError::Pair {
            cert: cert.to_owned(),
            key: key.to_owned(),
            why,
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(RwLock::new(Arc::new(config)))))
    }

    /// Is from here on what `other` is.
    pub fn adopt(&self, other: &Self) {
        let config = other.config();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Shakes hands with who has connected; takes as long as they like.
    pub async fn accept<S>(&self, stream: S) -> io::Result<server::TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        TlsAcceptor::from(self.config()).accept(stream).await
    }

    fn config(&self) -> Arc<ServerConfig> {
        // It is replaced whole or not at all.
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Whose word is believed about who a server is.
#[derive(Clone, Debug, Default)]
pub enum Trust {
    /// The authorities that this machine knows.
    #[default]
    System,
    /// Those in a file, and no others.
    File(PathBuf),
}

impl From<Option<PathBuf>> for Trust {
    fn from(file: Option<PathBuf>) -> Self {
        file.map_or(Self::System, Self::File)
    }
}

impl Trust {
    /// Shakes hands with `host`, a name or an address, at the other end of `stream`.
    pub async fn connect<S>(&self, host: &str, stream: S) -> io::Result<client::TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut roots = RootCertStore::empty();
        let authorities = self.authorities().map_err(io::Error::other)?;
        let (_, n_bad) = roots.add_parsable_certificates(authorities);
        if let (Self::File(path), 1..) = (self, n_bad) {
            let (path, why) = (path.clone(), format!("{n_bad} of them cannot be read"));
            return Err(io::Error::other(TlsError::NoCertificate { path, why }));
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await
    }

    /// The certificates of the authorities.
    pub fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        match self {
            Self::File(path) => certificates(path),
            // What cannot be read of them is none of them.
            Self::System => match rustls_native_certs::load_native_certs().certs {
                none if none.is_empty() => Err(TlsError::NoAuthorities),
                certificates => Ok(certificates),
            },
        }
    }
}

/// The arithmetic of encryption.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    let none = |why: String| TlsError::NoCertificate {
        path: path.to_owned(),
        why,
    };
    match found {
        Ok(found) if found.is_empty() => Err(none(pem::Error::NoItemsFound.to_string())),
        Ok(found) => Ok(found),
        Err(why) => Err(none(why.to_string())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let n = File::open(path)?
            .take(FILE_LEN_MAX + 1)
            .read_to_end(&mut bytes)?;
        match n as u64 > FILE_LEN_MAX {
            true => Err(io::Error::other("it is longer than 4 MiB")),
            false => Ok(bytes),
        }
    };
    read().map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn why(cert: &Path, key: &Path) -> String {
        Identity::read(cert, key).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_with_a_certificate_or_a_key_is_a_sentence_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let [cert, key, other, text] =
            ["cert.pem", "key.pem", "other.pem", "text"].map(|name| dir.path().join(name));
        let made = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let ours = made();
        fs::write(&cert, ours.cert.pem()).unwrap();
        fs::write(&key, ours.signing_key.serialize_pem()).unwrap();
        fs::write(&other, made().signing_key.serialize_pem()).unwrap();
        fs::write(&text, "no PEM").unwrap();
        assert!(Identity::read(&cert, &key).is_ok());
        for (why, names, says) in [
            (why(&text, &key), "text", "no certificate in PEM"),
            (why(&key, &key), "key.pem", "no certificate in PEM"),
            (why(&cert, &cert), "cert.pem", "no private key in PEM"),
            (why(&cert, &other), "other.pem", "made for each other"),
            (why(&cert, &dir.path().join("gone")), "gone", "cannot read"),
        ] {
            assert!(why.contains(names) && why.contains(says), "{why}");
            assert!(!why.contains('\n'), "{why}");
        }
        let damaged = ours.cert.pem().replacen("MII", "AAA", 1);
        fs::write(&cert, damaged).unwrap();
        assert!(
            why(&cert, &key).contains("cert.pem"),
            "a damaged one is none"
        );
        let roots = Trust::File(text).authorities().unwrap_err().to_string();
        assert!(roots.contains("no certificate"), "{roots}");
    }
}
