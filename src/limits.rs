//! Which values a number may have, and how it is said. Values only; used on any thread.

use std::fmt;
use std::ops::{Bound, RangeBounds, RangeInclusive};

/// The values a number may have. It prints as words: `above 0 and at most 1`, with `#`
/// as `from 0.1 to 8` where both ends belong.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    least: Bound<f64>,
    pub(crate) most: Bound<f64>,
    /// Whether 0 is a word of its own, whatever the bounds.
    or_zero: bool,
}

impl Limits {
    /// From one to the other, both included.
    pub const fn within(range: RangeInclusive<f32>) -> Self {
        let (least, most) = (*range.start() as f64, *range.end() as f64);
        Self::between(Bound::Included(least), Bound::Included(most))
    }

    /// From one to the other.
    pub const fn between(least: Bound<f64>, most: Bound<f64>) -> Self {
        Self {
            least,
            most,
            or_zero: false,
        }
    }

    /// These and 0.
    pub const fn or_zero(self) -> Self {
        Self {
            or_zero: true,
            ..self
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
        // What an f32 stands for prints as it was written.
        if let (true, Bound::Included(least), Bound::Included(most)) =
            (f.alternate(), self.least, self.most)
        {
            let zero = if self.or_zero { "0 or " } else { "" };
            return write!(f, "{zero}from {} to {}", least as f32, most as f32);
        }
        if self.or_zero {
            f.write_str("0, or ")?;
        }
        match self.least {
            Bound::Included(least) => write!(f, "at least {}", least as f32)?,
            Bound::Excluded(least) => write!(f, "above {least}")?,
            Bound::Unbounded => {}
        }
        match self.most {
            Bound::Included(most) => write!(f, " and at most {}", most as f32),
            Bound::Excluded(most) => write!(f, " and below {most}"),
            Bound::Unbounded => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: Limits = Limits::within(0.0..=0.2);
    const SUM: Limits = Limits::between(Bound::Excluded(0.0), Bound::Included(1.0));
    const PART: Limits = Limits::between(Bound::Included(0.0), Bound::Excluded(1.0));
    const TEMPERATURE: Limits = Limits::within(0.01..=10.0).or_zero();

    #[test]
    fn edges_belong_or_not_as_the_words_say() {
        assert!(SUM.check(1.0).is_ok());
        assert_eq!(
            SUM.check(0.0).unwrap_err(),
            "must be above 0 and at most 1, not 0"
        );
        assert!(PART.check(0.0).is_ok());
        assert_eq!(
            PART.check(1.0).unwrap_err(),
            "must be at least 0 and below 1, not 1"
        );
        assert!(SHARE.check(f64::from(0.2f32)).is_ok());
        assert_eq!(
            SHARE.check(0.5).unwrap_err(),
            "must be at least 0 and at most 0.2, not 0.5"
        );
    }

    #[test]
    fn short_words_say_the_same() {
        for (limits, words) in [
            (SHARE, "from 0 to 0.2"),
            (TEMPERATURE, "0 or from 0.01 to 10"),
            (SUM, "above 0 and at most 1"),
            (PART, "at least 0 and below 1"),
        ] {
            assert_eq!(format!("{limits:#}"), words);
        }
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
