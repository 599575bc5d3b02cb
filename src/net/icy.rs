//! ICY metadata: what plays, between the bytes of a stream, for players that ask for it.

use crate::protocol::Facts;
use axum::http::header::{HeaderMap, HeaderName, HeaderValue};

/// Bytes of sound between two titles: half a second at 16 kHz.
const INTERVAL: usize = 16_000;

/// Where a stream is between its titles.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Icy {
    /// Bytes of sound until the next.
    n_left: usize,
    /// The last that was told.
    told: String,
}

impl Icy {
    /// For whom asks for it by `Icy-MetaData: 1`.
    pub(super) fn wanted(asked: &HeaderMap) -> Option<Self> {
        let is_wanted = asked.get("icy-metadata").is_some_and(|value| value == "1");
        is_wanted.then(|| Self {
            n_left: INTERVAL,
            told: String::new(),
        })
    }

    /// The stream's next bytes with what belongs between them.
    pub(super) fn interleave(&mut self, mut sound: &[u8], title: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(sound.len() + 1);
        while sound.len() >= self.n_left {
            let (before, after) = sound.split_at(self.n_left);
            bytes.extend_from_slice(before);
            self.tell(title, &mut bytes);
            (self.n_left, sound) = (INTERVAL, after);
        }
        bytes.extend_from_slice(sound);
        self.n_left -= sound.len();
        bytes
    }

    /// A byte that counts blocks of 16, and these; none where nothing is new.
    fn tell(&mut self, title: &str, bytes: &mut Vec<u8>) {
        if self.told == title {
            return bytes.push(0);
        }
        self.told = title.to_owned();
        // A quote would end it, and so does what does not fit.
        let title = title.replace('\'', " ");
        let mut text = format!("StreamTitle='{title}';").into_bytes();
        text.truncate(16 * 255);
        text.resize(text.len().next_multiple_of(16), 0);
        bytes.push((text.len() / 16) as u8);
        bytes.append(&mut text);
    }
}

/// Says in a response that it comes, and of what.
pub(super) fn announce(station: &str, headers: &mut HeaderMap) {
    let interval = HeaderValue::from(INTERVAL as u64);
    headers.insert(HeaderName::from_static("icy-metaint"), interval);
    // A station's name is letters, digits and lines.
    if let Ok(name) = HeaderValue::from_str(station) {
        headers.insert(HeaderName::from_static("icy-name"), name);
    }
}

/// What plays, in a line.
pub(super) fn title(facts: &Facts) -> String {
    let Facts {
        station,
        model,
        seed,
        ..
    } = facts;
    format!("{station} ({}, seed {seed})", model.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes the titles out again: the sound, and what was told.
    fn split(mut bytes: &[u8]) -> (Vec<u8>, Vec<String>) {
        let (mut sound, mut titles) = (Vec::new(), Vec::new());
        while bytes.len() > INTERVAL {
            sound.extend_from_slice(&bytes[..INTERVAL]);
            let n = 16 * usize::from(bytes[INTERVAL]);
            let (text, rest) = bytes[INTERVAL + 1..].split_at(n);
            let text = String::from_utf8(text.to_vec()).unwrap();
            titles.push(text.trim_end_matches('\0').to_owned());
            bytes = rest;
        }
        sound.extend_from_slice(bytes);
        (sound, titles)
    }

    #[test]
    fn a_title_is_told_at_first_and_when_it_changes() {
        let sound: Vec<u8> = (0..5 * INTERVAL + 100).map(|i| (i * 7) as u8).collect();
        for chunk_len in [1, 640, INTERVAL - 1, INTERVAL, 3 * INTERVAL] {
            let asked = HeaderMap::from_iter([(
                HeaderName::from_static("icy-metadata"),
                HeaderValue::from_static("1"),
            )]);
            let mut icy = Icy::wanted(&asked).unwrap();
            let (mut bytes, mut n_sent) = (Vec::new(), 0);
            for chunk in sound.chunks(chunk_len) {
                n_sent += chunk.len();
                let title = if n_sent <= 3 * INTERVAL {
                    "it's A"
                } else {
                    "B"
                };
                bytes.extend(icy.interleave(chunk, title));
            }
            let (heard, titles) = split(&bytes);
            assert!(heard == sound, "in chunks of {chunk_len}");
            let told: Vec<&str> = titles
                .iter()
                .map(|t| t.as_str())
                .filter(|t| !t.is_empty())
                .collect();
            assert_eq!(told, ["StreamTitle='it s A';", "StreamTitle='B';"]);
            assert_eq!(titles.len(), 5);
        }
    }

    #[test]
    fn who_does_not_ask_gets_none() {
        assert_eq!(Icy::wanted(&HeaderMap::new()), None);
    }
}
