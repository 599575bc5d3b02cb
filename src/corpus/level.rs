//! How loud a recording is, and by how much to change that.

/// The loudest sample that levelling leaves: a step below where 16 bits clip.
const PEAK_MAX: f64 = 0.999;

/// Listens to a recording.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    /// Samples heard.
    pub n: u64,
    power: f64,
    peak: f32,
}

impl Meter {
    /// Hears the next samples.
    pub fn hear(&mut self, block: &[f32]) {
        self.n += block.len() as u64;
        for &sample in block {
            self.power += f64::from(sample) * f64::from(sample);
            self.peak = self.peak.max(sample.abs());
        }
    }

    /// The level of all that was heard, where a square wave of full scale has 0.
    pub fn rms_dbfs(&self) -> f64 {
        10.0 * (self.power / self.n.max(1) as f64).log10()
    }

    /// What to multiply with for a level of `dbfs`, or for the loudest level short of clipping.
    pub fn gain(&self, dbfs: f64) -> f64 {
        let wanted = 10f64.powf((dbfs - self.rms_dbfs()) / 20.0);
        wanted.min(PEAK_MAX / f64::from(self.peak).max(f64::MIN_POSITIVE))
    }
}

/// A factor in decibels.
pub fn decibels(gain: f64) -> f64 {
    20.0 * gain.log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(block: &[f32]) -> Meter {
        let mut meter = Meter::default();
        block.chunks(3).for_each(|block| meter.hear(block));
        meter
    }

    #[test]
    fn a_square_wave_has_the_level_of_its_height() {
        let meter = heard(&[0.1, -0.1].repeat(100));
        assert_eq!(meter.n, 200);
        assert!((meter.rms_dbfs() + 20.0).abs() < 1e-5);
        assert!((decibels(meter.gain(-14.0)) - 6.0).abs() < 1e-5);
        assert!((decibels(meter.gain(-26.0)) + 6.0).abs() < 1e-5);
    }

    #[test]
    fn a_peak_limits_the_gain() {
        let mut samples = vec![0.01; 1_000];
        samples.push(0.5);
        assert!((heard(&samples).gain(-6.0) - 2.0 * PEAK_MAX).abs() < 1e-9);
    }

    #[test]
    fn nothing_and_silence_have_no_level() {
        assert_eq!(Meter::default().rms_dbfs(), f64::NEG_INFINITY);
        assert_eq!(heard(&[0.0; 10]).rms_dbfs(), f64::NEG_INFINITY);
    }
}
