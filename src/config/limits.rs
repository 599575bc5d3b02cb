//! What each number may be: one table for the file and for the command line. How codes are drawn has its
//! own, [`crate::draw::PARAMETERS`].

use std::ops::Bound;

pub use crate::limits::Limits;

/// Streams of one daemon: as many as one call of the engine can serve.
pub const STATIONS: Limits = Limits::between(Bound::Included(1.0), Bound::Included(64.0));
/// Audio waiting at the card: below 10 ms no desktop keeps up, above 5 s nobody waits.
pub const LEAD_MS: Limits = Limits::between(Bound::Included(10.0), Bound::Included(5_000.0));
/// What the card asks for at once.
pub const PERIOD_MS: Limits = Limits::between(Bound::Included(1.0), Bound::Included(500.0));
/// Sound cards of one daemon.
pub const CARDS: Limits = Limits::between(Bound::Included(1.0), Bound::Included(16.0));
/// A channel of a card, from 1.
pub const CHANNEL: Limits = Limits::between(Bound::Included(1.0), Bound::Included(256.0));
/// How loud a card is. Codes reach full scale: above 0 they would be cut off.
pub const VOLUME_DB: Limits = Limits::between(Bound::Included(-60.0), Bound::Included(0.0));
/// One message to a listener: shorter is mostly headers, longer is mostly waiting.
pub const PACKET_MS: Limits = Limits::between(Bound::Included(5.0), Bound::Included(200.0));
/// What a listener gathers before it plays; no jitter buffer of ours grows beyond 3 s.
pub const JITTER_MS: Limits = Limits::between(Bound::Included(20.0), Bound::Included(3_000.0));
/// Threads that share a step: more would wait for each other longer than they compute.
pub const THREADS: Limits = Limits::between(Bound::Included(1.0), Bound::Included(16.0));
/// Minutes from one time that stations are kept to the next: up to a day.
pub const EVERY_MIN: Limits = Limits::between(Bound::Included(1.0), Bound::Included(1_440.0));
/// Minutes of sound in a file of a recording: up to a day.
pub const ROTATE_MIN: Limits = Limits::between(Bound::Included(1.0), Bound::Included(1_440.0));
/// Bytes of such a file: some seconds at least, and what a WAV file can count at most.
pub const ROTATE_BYTES: Limits =
    Limits::between(Bound::Included(100_000.0), Bound::Included(4_000_000_000.0));
/// Files of a recording.
pub const KEEP: Limits = Limits::between(Bound::Included(1.0), Bound::Included(1_000_000.0));
/// Listeners at once.
pub const MAX_LISTENERS: Limits = Limits::between(Bound::Included(1.0), Bound::Included(100_000.0));
/// Seconds of sound in one file: a WAV file's length is a 32-bit number of bytes, so the file's
/// rate and format limit it further.
pub const SECONDS: Limits = Limits::between(Bound::Excluded(0.0), Bound::Included(86_400.0));
/// Minutes of sound that are drawn and judged: a day, of which a report still opens.
pub const AUDIT_MINUTES: Limits = Limits::between(Bound::Excluded(0.0), Bound::Included(1_440.0));
/// Hours that a link is good: up to a year.
pub const LINK_HOURS: Limits = Limits::between(Bound::Excluded(0.0), Bound::Included(8_784.0));
/// Minutes of a training, of which none lasts longer than a year.
pub const MINUTES: Limits = Limits::between(Bound::Excluded(0.0), Bound::Included(525_600.0));
/// Minutes from one to the next of what a training does beside; 0 never does it.
pub const MINUTES_OR_NEVER: Limits = Limits::between(Bound::Included(0.0), MINUTES.most);
/// Frames per second of a sound file or a card.
pub const RATE_HZ: Limits = Limits::between(Bound::Included(4_000.0), Bound::Included(384_000.0));
