//! The wire format between a station and its listeners, in one table: `docs/protocol.md`.
//!
//! Pure functions without I/O, called on any thread by both ends. Text messages are JSON
//! ([`Event`] from the server, [`Request`] from a listener), binary messages are packets: a header
//! of [`HEADER_LEN`] bytes and the samples in the [`Format`] agreed on. Whatever bytes arrive,
//! decoding returns a value or a [`ProtocolError`] and never panics. What a station says is made
//! fit for a terminal ([`plain`]).

mod fields;
mod session;

use crate::draw::{self, DrawParams, DrawPatch};
use crate::mulaw;
use fields::{as_string, finite, finite_draw, plain_option, plain_string, seed_option, seed_text};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use fields::plain;
pub use session::{PromptHead, Start, Wish};

/// Version of this protocol; the `v1` in subprotocols and paths.
pub const VERSION: u32 = 1;

/// Bytes before the samples of a binary message.
pub const HEADER_LEN: usize = 12;

/// The most samples in a packet.
pub const MAX_PACKET_LEN: usize = u16::MAX as usize;

/// The longest text message a listener may send; a longer one ends the connection.
pub const MAX_REQUEST_LEN: usize = 1024;

/// First byte of a binary message that holds samples. A listener skips what it does not know.
const KIND_PACKET: u8 = 1;

/// Why a station closed the connection.
pub mod close {
    /// The session has ended as it was asked to.
    pub const NORMAL: u16 = 1000;
    /// The daemon stops; come back later.
    pub const GOING_AWAY: u16 = 1001;
    /// The listener sent more messages than it has reason to.
    pub const POLICY: u16 = 1008;
    /// There is no room for a session; come back later.
    pub const TRY_LATER: u16 = 1013;
    /// The listener fell behind again and again and cannot keep up.
    pub const TOO_SLOW: u16 = 4000;
    /// Nothing was heard from the listener, not even an answer to pings.
    pub const IDLE: u16 = 4001;
    /// The station is not there any more; it may be again, with another model.
    pub const OFF_AIR: u16 = 4002;
}

/// What was wrong with a message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProtocolError {
    /// The header does not fit.
    #[error("a packet of {0} bytes is shorter than its header of {HEADER_LEN}")]
    Short(usize),
    /// A later protocol, or not ours.
    #[error("a binary message of kind {0} is not a packet; skip it")]
    Kind(u8),
    /// A later protocol, or not ours.
    #[error("packet format {0} is unknown; the formats are 1 (mulaw), 2 (s16) and 3 (f32)")]
    Format(u8),
    /// Truncated or overlong.
    #[error("a packet promises {expected} bytes of samples and holds {got}")]
    Length {
        /// By its header.
        expected: usize,
        /// In fact.
        got: usize,
    },
    /// Not JSON, or a field missing, of the wrong type or out of bounds.
    #[error("a message is not what docs/protocol.md says: {0}")]
    Text(String),
}

/// How samples travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The codes themselves, a byte each.
    Mulaw,
    /// 16-bit signed little-endian.
    S16,
    /// 32-bit float little-endian, in [-1, 1].
    F32,
}

impl Format {
    /// All of them, as the server prefers them.
    pub const ALL: [Self; 3] = [Self::Mulaw, Self::S16, Self::F32];

    /// As in `?format=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mulaw => "mulaw",
            Self::S16 => "s16",
            Self::F32 => "f32",
        }
    }

    /// As in `Sec-WebSocket-Protocol`.
    pub fn subprotocol(self) -> &'static str {
        match self {
            Self::Mulaw => "longwave.v1.mulaw",
            Self::S16 => "longwave.v1.s16",
            Self::F32 => "longwave.v1.f32",
        }
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Bytes in a sample.
    pub fn sample_len(self) -> usize {
        match self {
            Self::Mulaw => 1,
            Self::S16 => 2,
            Self::F32 => 4,
        }
    }

    /// As in the second byte of a packet.
    fn byte(self) -> u8 {
        match self {
            Self::Mulaw => 1,
            Self::S16 => 2,
            Self::F32 => 3,
        }
    }

    /// Appends codes to `out` in this format.
    pub fn encode(self, codes: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Mulaw => out.extend_from_slice(codes),
            Self::S16 => out.extend(
                codes
                    .iter()
                    .flat_map(|&c| mulaw::decode_s16(c).to_le_bytes()),
            ),
            Self::F32 => out.extend(codes.iter().flat_map(|&c| mulaw::decode(c).to_le_bytes())),
        }
    }
}

/// A binary message: consecutive samples of the stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Packet<'a> {
    /// How the samples are written.
    pub format: Format,
    /// Counts the station's packets from 0; see [`Hello::position`].
    pub sequence: u64,
    samples: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Appends the message for `codes` to `out`.
    ///
    /// # Panics
    /// If there are more than [`MAX_PACKET_LEN`] codes.
    pub fn encode(format: Format, sequence: u64, codes: &[u8], out: &mut Vec<u8>) {
        let n_samples = u16::try_from(codes.len()).expect("a packet is at most MAX_PACKET_LEN");
        out.extend_from_slice(&[KIND_PACKET, format.byte()]);
        out.extend_from_slice(&n_samples.to_le_bytes());
        out.extend_from_slice(&sequence.to_le_bytes());
        format.encode(codes, out);
    }

    /// Reads a binary message.
    pub fn decode(message: &'a [u8]) -> Result<Self, ProtocolError> {
        let Some((header, samples)) = message.split_first_chunk::<HEADER_LEN>() else {
            return Err(ProtocolError::Short(message.len()));
        };
        let [kind, format, n0, n1, sequence @ ..] = *header;
        if kind != KIND_PACKET {
            return Err(ProtocolError::Kind(kind));
        }
        let format = Format::ALL
            .into_iter()
            .find(|known| known.byte() == format)
            .ok_or(ProtocolError::Format(format))?;
        let expected = usize::from(u16::from_le_bytes([n0, n1])) * format.sample_len();
        if samples.len() != expected {
            let got = samples.len();
            return Err(ProtocolError::Length { expected, got });
        }
        Ok(Self {
            format,
            sequence: u64::from_le_bytes(sequence),
            samples,
        })
    }

    /// How many samples it holds.
    pub fn n_samples(&self) -> usize {
        self.samples.len() / self.format.sample_len()
    }

    /// The samples in [-1, 1].
    pub fn samples(&self) -> impl Iterator<Item = f32> {
        let format = self.format;
        self.samples
            .chunks_exact(format.sample_len())
            .map(move |bytes| match (format, bytes) {
                (Format::S16, &[a, b]) => f32::from(i16::from_le_bytes([a, b])) / 32_768.0,
                (Format::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
                (_, bytes) => mulaw::decode(bytes[0]),
            })
    }

    /// The codes, whatever the format: PCM is the image of a code and leads back to it.
    pub fn codes(&self) -> impl Iterator<Item = u8> {
        self.samples()
            .map(|sample| mulaw::encode(sample).unwrap_or(mulaw::SILENCE))
    }
}

/// What the server says in text messages. A listener skips events it does not know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first message.
    Hello(Box<Hello>),
    /// Packets this listener was too slow for; the next packet follows the gap.
    Lost {
        /// How many.
        n_packets: u64,
        /// The first one lost.
        sequence: u64,
        /// Where in the stream the first one lost begins.
        position: u64,
    },
    /// The station plays otherwise.
    Changed(Box<Changed>),
    /// The connection ends; the close frame says the same.
    Closing {
        /// One of [`close`].
        code: u16,
        /// In words.
        #[serde(deserialize_with = "plain_string")]
        reason: String,
    },
    /// An event of a later version.
    #[serde(other)]
    Unknown,
}

impl Event {
    /// The text message.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an event has string keys and finite numbers")
    }

    /// Reads a text message.
    pub fn from_json(text: &str) -> Result<Self, ProtocolError> {
        let event = serde_json::from_str(text).map_err(text_error)?;
        if let Self::Hello(hello) = &event {
            hello.check()?;
        }
        Ok(event)
    }
}

/// What a station is; all of it but seed and draw parameters stays the same while it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Its name, as in the path.
    #[serde(deserialize_with = "plain_string")]
    pub station: String,
    /// What plays.
    pub model: ModelFacts,
    /// With the draw parameters and the model it decides every code. Written as a string: JSON
    /// numbers of some readers end at 2^53.
    #[serde(with = "as_string")]
    pub seed: u64,
    /// How codes are drawn.
    #[serde(deserialize_with = "finite_draw")]
    pub draw: DrawParams,
    /// The position from which seed and draw have been so.
    pub since: u64,
    /// What computes, for the record: every instruction set gives the same codes.
    #[serde(deserialize_with = "plain_string")]
    pub isa: String,
    /// Samples in a second.
    pub sample_rate_hz: u32,
    /// Samples in a packet.
    pub packet_len: u32,
    /// Where in the stream packet 0 begins: after the prompt, if there was one.
    pub first_position: u64,
    /// Of the prompt's codes, in hexadecimal; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "plain_option")]
    pub prompt_sha256: Option<String>,
}

/// How a station plays from a position on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// The first position that is drawn so.
    pub since: u64,
    /// See [`Facts::seed`].
    #[serde(with = "as_string")]
    pub seed: u64,
    /// How codes are drawn.
    #[serde(deserialize_with = "finite_draw")]
    pub draw: DrawParams,
    /// Of the codes that the stream goes over to, in hexadecimal; absent where it goes on from its own
    /// past.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "plain_option")]
    pub prompt_sha256: Option<String>,
    /// How loud its card plays, 0 at most; listeners get the codes as they are.
    #[serde(deserialize_with = "finite")]
    pub volume_db: f32,
    /// Whether its card is silent.
    pub mute: bool,
}

/// What is asked of a station; what is absent stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, remote = "Self")]
pub struct Patch {
    /// See [`Facts::seed`]; a number is understood, too.
    #[serde(deserialize_with = "seed_option", serialize_with = "seed_text")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How codes are drawn, key by key.
    #[serde(flatten, skip_deserializing, serialize_with = "draw::given")]
    pub draw: DrawPatch,
    /// See [`Changed::volume_db`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_db: Option<f32>,
    /// See [`Changed::mute`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mute: Option<bool>,
}

impl<'de> Deserialize<'de> for Patch {
    fn deserialize<D: Deserializer<'de>>(object: D) -> Result<Self, D::Error> {
        let mut draw = DrawPatch::default();
        // What is derived bears the same name and knows nothing of how codes are drawn.
        let patch = Self::deserialize(draw.among(object))?;
        Ok(Self { draw, ..patch })
    }
}

impl Serialize for Patch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl Patch {
    /// Reads the body of a request.
    pub fn from_json(text: &[u8]) -> Result<Self, ProtocolError> {
        serde_json::from_slice(text).map_err(text_error)
    }

    /// The body of a request.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a change has string keys and finite numbers")
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The model, so that a stream can be computed again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// Its name.
    #[serde(deserialize_with = "plain_string")]
    pub name: String,
    /// Of its weights, in hexadecimal.
    #[serde(deserialize_with = "plain_string")]
    pub sha256: String,
}

/// The first message of a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub protocol: u32,
    /// Name and version of the server.
    #[serde(deserialize_with = "plain_string")]
    pub server: String,
    /// Of the packets on this connection.
    pub format: Format,
    /// The packet that comes first.
    pub sequence: u64,
    /// Where in the stream that packet begins.
    pub position: u64,
    /// How much a listener should gather before it plays.
    pub jitter_buffer_ms: u32,
    /// The name of a session, by which another can have its past; absent for a station.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "plain_option")]
    pub session: Option<String>,
    /// About the station.
    #[serde(flatten)]
    pub facts: Facts,
}

impl Hello {
    /// Refuses what a listener could not work with.
    fn check(&self) -> Result<(), ProtocolError> {
        let facts = &self.facts;
        if self.protocol != VERSION {
            let text = format!("protocol {} is not {VERSION}", self.protocol);
            return Err(ProtocolError::Text(text));
        }
        if !(1_000..=768_000).contains(&facts.sample_rate_hz) {
            let text = format!("{} samples a second", facts.sample_rate_hz);
            return Err(ProtocolError::Text(text));
        }
        if !(1..=MAX_PACKET_LEN).contains(&(facts.packet_len as usize)) {
            let text = format!("{} samples in a packet", facts.packet_len);
            return Err(ProtocolError::Text(text));
        }
        Ok(())
    }
}

impl Facts {
    /// Where in the stream a packet begins. A sequence from the wire may be any number: saturates.
    pub fn position(&self, sequence: u64) -> u64 {
        let distance = sequence.saturating_mul(u64::from(self.packet_len));
        self.first_position.saturating_add(distance)
    }
}

/// What a listener says. The server skips what it does not know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// How it fares, once a second at most.
    Report(Report),
    /// A request of a later version.
    #[serde(other)]
    Unknown,
}

/// How a listener fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Times its jitter buffer ran dry since its last report.
    pub n_underruns: u32,
    /// Sound waiting in the jitter buffer.
    pub buffered_ms: u32,
    /// What it takes the jitter buffer to be worth filling to.
    pub jitter_buffer_ms: u32,
    /// From the arrival of a sample to the ear, as far as it knows.
    pub latency_ms: u32,
}

impl Request {
    /// The text message.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a request has string keys and whole numbers")
    }

    /// Reads a text message; figures nobody can mean are refused.
    pub fn from_json(text: &str) -> Result<Self, ProtocolError> {
        if text.len() > MAX_REQUEST_LEN {
            let text = format!("{} bytes are more than {MAX_REQUEST_LEN}", text.len());
            return Err(ProtocolError::Text(text));
        }
        let request = serde_json::from_str(text).map_err(text_error)?;
        if let Self::Report(report) = &request {
            let longest_ms = [
                report.buffered_ms,
                report.jitter_buffer_ms,
                report.latency_ms,
            ];
            if report.n_underruns > 1_000 || longest_ms.iter().any(|&ms| ms > 600_000) {
                return Err(ProtocolError::Text("a report out of bounds".into()));
            }
        }
        Ok(request)
    }
}

fn text_error(error: serde_json::Error) -> ProtocolError {
    // The sentence may quote the message.
    ProtocolError::Text(plain(&error.to_string()))
}

#[cfg(test)]
mod tests;
