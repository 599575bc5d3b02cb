//! The command-line listener: a remote station, recorded or heard.
//!
//! Runs in the caller's tokio runtime, one task. [`Wire`] is the connection, checked packet by
//! packet; [`Jitter`] turns what the network delivers in bursts into sound that another clock can
//! take at its own pace. The wire format is `docs/protocol.md`.

mod jitter;
#[cfg(feature = "playback")]
mod play;
mod record;
mod wire;

#[cfg(feature = "playback")]
use crate::card::CardError;
use crate::protocol::ProtocolError;
use crate::wav::WavError;
use std::io;
use tokio_tungstenite::tungstenite;

pub use jitter::{Jitter, JitterStats};
#[cfg(feature = "playback")]
pub use play::{Heard, play};
pub use record::{End, Recorded, Recording, record};
pub use wire::{Item, Wire};

/// Why a station is not heard, or no more.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Usage: not a URL that we can make sense of.
    #[error(
        "`{0}` is not the address of a station; write http://HOST:PORT/ or \
         ws://HOST:PORT/v1/stations/NAME/stream"
    )]
    Url(String),
    /// Usage: it does not speak TLS, or nobody who is believed vouches for it.
    #[error(
        "no encrypted connection to {host}: {source}; a private authority is named with --ca FILE"
    )]
    Handshake {
        /// Host and port.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// Retry: nobody there, or not yet.
    #[error("cannot reach {host}: {source}; is longwave running there?")]
    Connect {
        /// Host and port.
        host: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Retry.
    #[error("{host} does not answer; is longwave running there?")]
    NoAnswer {
        /// Host and port.
        host: String,
    },
    /// Usage: something else answers, or a server without stations.
    #[error("{host} lists no stations; is it longwave that answers there?")]
    NoStation {
        /// Host and port.
        host: String,
    },
    /// As the server says; 503 is worth another try.
    #[error("{host} refuses ({status}): {sentence}")]
    Refused {
        /// Host and port.
        host: String,
        /// The HTTP status.
        status: u16,
        /// The server's sentence.
        sentence: String,
    },
    /// Fatal: it does not speak our protocol.
    #[error("the server does not begin with a hello; it is not a longwave station")]
    NoHello,
    /// Fatal: it speaks our protocol wrongly, or a later one.
    #[error("the station's message is not understood: {0}")]
    Protocol(#[from] ProtocolError),
    /// Fatal: packets are missing and nobody said so.
    #[error("packet {got} came where packet {expected} was due, and no loss was told")]
    Sequence {
        /// What was due.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// Retry: the station said why.
    #[error("the station closed the connection ({code}): {reason}")]
    Closed {
        /// See `docs/protocol.md`.
        code: u16,
        /// In the station's words.
        reason: String,
    },
    /// Retry: the connection ended without a word.
    #[error("the connection to the station broke")]
    Broken,
    /// Retry: connected and silent.
    #[error("the station fell silent")]
    Silent,
    /// As the file's error says.
    #[error(transparent)]
    Wav(#[from] WavError),
    /// As the card's error says.
    #[cfg(feature = "playback")]
    #[error(transparent)]
    Card(#[from] CardError),
    /// Usage: the card's rate and the station's do not go together.
    #[cfg(feature = "playback")]
    #[error(transparent)]
    Resample(#[from] crate::resample::ResampleError),
    /// Retry: the network's fault.
    #[error("the connection to the station broke: {0}")]
    Io(#[from] io::Error),
    /// Retry: the connection's fault.
    #[error("the connection to the station broke: {0}")]
    Socket(Box<tungstenite::Error>),
}

impl From<tungstenite::Error> for ListenError {
    fn from(error: tungstenite::Error) -> Self {
        Self::Socket(Box::new(error))
    }
}
