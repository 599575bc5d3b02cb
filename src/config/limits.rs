//! What each number may be: one table for the file and for the command line.

use std::fmt;
use std::ops::{Bound, RangeBounds, RangeInclusive};

use crate::engine::DrawParams;

/// The values a number may have. It prints as words: `above 0 and at most 1`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    least: Bound<f64>,
    most: Bound<f64>,
    /// Whether 0 is a word of its own, whatever the bounds.
    or_zero: bool,
}

/// Streams of one daemon: as many as one call of the engine can serve.
pub const STATIONS: Limits = Limits::between(Bound::Included(1.0), Bound::Included(64.0));
/// See [`DrawParams::TEMPERATURES`].
pub const TEMPERATURE: Limits = Limits {
    or_zero: true,
    ..Limits::within(DrawParams::TEMPERATURES)
};
/// See [`DrawParams::MAX_ENTROPIES`].
pub const MAX_ENTROPY: Limits = Limits::within(DrawParams::MAX_ENTROPIES);
/// Bits; 8 is no limit.
pub const MAX_RISE: Limits = Limits::within(DrawParams::MAX_RISES);
/// A share of the temperature an octave; 0 leaves it.
pub const LEVELING: Limits = Limits::within(DrawParams::LEVELINGS);
/// Usual distances; 100 is no limit.
pub const MAX_CLICK: Limits = Limits::within(DrawParams::MAX_CLICKS);
/// A sum of probabilities; at 0 nothing would be left to draw.
pub const TOP_P: Limits = Limits::between(Bound::Excluded(0.0), Bound::Included(1.0));
/// A share of the likeliest code; at 1 nothing but it would be left, which is temperature 0.
pub const MIN_P: Limits = Limits::between(Bound::Included(0.0), Bound::Excluded(1.0));
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

impl Limits {
    const fn within(range: RangeInclusive<f32>) -> Self {
        let (least, most) = (*range.start() as f64, *range.end() as f64);
        Self::between(Bound::Included(least), Bound::Included(most))
    }

    const fn between(least: Bound<f64>, most: Bound<f64>) -> Self {
        Self {
            least,
            most,
            or_zero: false,
        }
    }

    /// Refuses a value outside the limits (and what is not a number) in words.
    pub fn check(&self, value: f64) -> Result<(), String> {
        if (self.least, self.most).contains(&value) || (self.or_zero && value == 0.0) {
            Ok(())
        } else {
            // An f32 that came by way of a file should print as it was written there.
            Err(format!("must be {self}, not {}", value as f32))
        }
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.or_zero {
            f.write_str("0, or ")?;
        }
        match self.least {
            // What an f32 stands for prints as it was written.
            Bound::Included(least) => write!(f, "at least {}", least as f32)?,
            Bound::Excluded(least) => write!(f, "above {least}")?,
            Bound::Unbounded => {}
        }
        match self.most {
            Bound::Included(most) => write!(f, " and at most {most}"),
            Bound::Excluded(most) => write!(f, " and below {most}"),
            Bound::Unbounded => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_belong_or_not_as_the_words_say() {
        assert!(TOP_P.check(1.0).is_ok());
        assert_eq!(
            TOP_P.check(0.0).unwrap_err(),
            "must be above 0 and at most 1, not 0"
        );
        assert!(MIN_P.check(0.0).is_ok());
        assert_eq!(
            MIN_P.check(1.0).unwrap_err(),
            "must be at least 0 and below 1, not 1"
        );
    }

    #[test]
    fn a_temperature_is_0_or_well_above_it() {
        for fine in [0.0, 0.01, 0.95, 10.0] {
            assert!(TEMPERATURE.check(f64::from(fine as f32)).is_ok(), "{fine}");
        }
        assert_eq!(
            TEMPERATURE.check(1e-9).unwrap_err(),
            "must be 0, or at least 0.01 and at most 10, not 0.000000001"
        );
        assert!(TEMPERATURE.check(-0.5).is_err());
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(TEMPERATURE.check(value).is_err());
        }
    }
}
