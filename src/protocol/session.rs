//! What the client of a session says.

use super::{Format, MAX_REQUEST_LEN, Patch, ProtocolError, seed_option, text_error};
use serde::Deserialize;

/// What a client asks of its session. The server refuses what it does not know: a client that is
/// mistaken about its own stream should hear of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Wish {
    /// Begin; the first message, and only that.
    Start(Box<Start>),
    /// Draw otherwise; card and volume are no concern of a session.
    Change(Patch),
    /// Go over to what this begins.
    Prime {
        /// The messages that follow.
        prompt: PromptHead,
    },
    /// Send nothing more for now; when there is no more room, nothing is drawn, either.
    Pause,
    /// Go on.
    Resume,
    /// End.
    Stop,
}

/// How a session begins.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// A model that the server has loaded; its first when absent.
    #[serde(default)]
    pub model: Option<String>,
    /// Drawn by the server when absent, and told.
    #[serde(default, deserialize_with = "seed_option")]
    pub seed: Option<u64>,
    /// How codes are drawn, as far as it shall not be as the model says.
    #[serde(default, rename = "draw")]
    pub patch: Patch,
    /// Of the packets.
    #[serde(default = "mulaw")]
    pub format: Format,
    /// What is heard first: the messages that follow.
    #[serde(default)]
    pub prompt: Option<PromptHead>,
    /// The session whose past it shall have instead.
    #[serde(default)]
    pub branch_of: Option<String>,
    /// It ends after so many seconds of sound.
    #[serde(default)]
    pub budget_s: Option<f64>,
}

/// What the binary messages that follow hold, one or several.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptHead {
    /// Of each sample; mulaw are codes.
    pub format: Format,
    /// Samples in a second; those of the model when absent.
    #[serde(default)]
    pub rate_hz: Option<u32>,
    /// Bytes, all messages together.
    pub n_bytes: usize,
}

fn mulaw() -> Format {
    Format::Mulaw
}

impl Wish {
    /// Reads a text message.
    pub fn from_json(text: &str) -> Result<Self, ProtocolError> {
        if text.len() > MAX_REQUEST_LEN {
            let text = format!("{} bytes are more than {MAX_REQUEST_LEN}", text.len());
            return Err(ProtocolError::Text(text));
        }
        serde_json::from_str(text).map_err(text_error)
    }
}
