//! How a card's ring is kept half full although its clock is not the station's: the loop that steers a
//! resampler.
//!
//! A ring between two clocks gains or loses their difference. The ratio is bent in proportion to the error
//! of its level, and by the sum of these errors, which in the end is the drift: then the level stays where
//! it is wanted with no error left. Slowly: chunks and periods make the level jump by tens of milliseconds
//! all the time, and what the ear could hear is a pitch that moves.

/// The level is a mean over about so many seconds: of many chunks and many periods, in whatever phase.
const SMOOTH_S: f64 = 2.0;

/// The loop's own pace, in radians a second, critically damped: a drift of 500 ppm moves the level by 9 ms
/// at most, and is found within some minutes.
const PACE: f64 = 0.02;

/// The largest drift that is believed: twice what two bad crystals have.
const DRIFT_MAX: f64 = 0.0015;

/// The largest bend of the ratio: a twenty-third of a semitone, which a ring that is far off may ask for.
const BEND_MAX: f64 = 0.0025;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Servo {
    /// By how many seconds of sound the ring is too full.
    level: Option<f64>,
    /// How much slower the card's clock is, as a share.
    drift: f64,
}

impl Servo {
    /// Takes in by how many seconds of sound the ring was too full for the last `elapsed_s`.
    pub fn see(&mut self, error_s: f64, elapsed_s: f64) {
        let level = self.level.unwrap_or(error_s);
        let weight = elapsed_s / (SMOOTH_S + elapsed_s);
        self.level = Some(level + (error_s - level) * weight);
    }

    /// What was seen is no more so; the drift stays.
    pub fn forget_level(&mut self) {
        self.level = None;
    }

    /// The ratio for the next `chunk_s` seconds: below 1 makes less sound of it.
    pub fn steer(&mut self, chunk_s: f64) -> f64 {
        let level = self.level.unwrap_or(0.0);
        let wanted = self.drift + 2.0 * PACE * level;
        let bend = wanted.clamp(-BEND_MAX, BEND_MAX);
        // A ring that is so far off says nothing of clocks.
        if bend == wanted {
            let drift = self.drift + PACE * PACE * level * chunk_s;
            self.drift = drift.clamp(-DRIFT_MAX, DRIFT_MAX);
        }
        1.0 - bend
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring between a station that is drawn in chunks and a card that takes periods, by clocks that
    /// differ: simulated, in frames of 48 kHz.
    struct Bench {
        servo: Servo,
        chunk_s: f64,
        period_s: f64,
        /// How much faster than the station's the card's clock is.
        drift: f64,
        now: f64,
        chunk_at: f64,
        period_at: f64,
        level: f64,
        ratio: f64,
    }

    const RATE: f64 = 48_000.0;
    const WANTED: f64 = 0.1 * RATE;

    impl Bench {
        fn new(chunk_s: f64, period_s: f64, drift: f64) -> Self {
            Self {
                servo: Servo::default(),
                chunk_s,
                period_s,
                drift,
                now: 0.0,
                chunk_at: 0.0,
                period_at: 0.003,
                level: WANTED,
                ratio: 1.0,
            }
        }

        /// So long, at the pump's looks; the least and the greatest level that a callback found, in
        /// seconds, and the least and the greatest ratio.
        fn run(&mut self, seconds: f64, jitter: &mut impl FnMut() -> f64) -> [f64; 4] {
            let mut seen = [f64::MAX, f64::MIN, f64::MAX, f64::MIN];
            let end = self.now + seconds;
            while self.now < end {
                let look_s = 0.002 + 0.008 * jitter();
                self.now += look_s;
                while self.period_at < self.now {
                    let found = self.level / RATE;
                    (seen[0], seen[1]) = (seen[0].min(found), seen[1].max(found));
                    self.level = (self.level - self.period_s * RATE).max(0.0);
                    self.period_at += self.period_s / (1.0 + self.drift);
                }
                self.servo.see((self.level - WANTED) / RATE, look_s);
                if self.chunk_at < self.now {
                    self.chunk_at += self.chunk_s;
                    self.ratio = self.servo.steer(self.chunk_s);
                    (seen[2], seen[3]) = (seen[2].min(self.ratio), seen[3].max(self.ratio));
                    self.level += self.chunk_s * RATE * self.ratio;
                }
            }
            seen
        }
    }

    fn noise() -> impl FnMut() -> f64 {
        let mut state = 0x2545_f491u32;
        move || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            f64::from(state) / f64::from(u32::MAX)
        }
    }

    #[test]
    fn for_hours_the_ring_stays_half_full_whatever_the_clocks() {
        let mut jitter = noise();
        for (chunk_s, period_s) in [(0.02, 0.01), (0.02, 0.0107), (0.04, 0.03)] {
            for ppm in [-1_000.0, -500.0, -80.0, 0.0, 500.0, 1_000.0] {
                let mut bench = Bench::new(chunk_s, period_s, ppm * 1e-6);
                let [least, most, ..] = bench.run(600.0, &mut jitter);
                let room = 0.1 - 0.02 - chunk_s - period_s;
                assert!(
                    least > room && most < 0.2 - room,
                    "{ppm}: {least} to {most}"
                );
                let [least, most, low, high] = bench.run(3.0 * 3_600.0, &mut jitter);
                let swing = chunk_s + period_s;
                assert!(least > 0.1 - swing, "{ppm} ppm: down to {least} s");
                assert!(most < 0.1 + swing, "{ppm} ppm: up to {most} s");
                // The mean is the drift to the last frame; the pitch moves by less than is heard.
                let wobble = 1e6 * (high - low);
                assert!(wobble < 200.0, "{ppm} ppm: the ratio moves by {wobble} ppm");
                let found = -1e6 * bench.servo.drift;
                assert!((found - ppm).abs() < 15.0, "{found} ppm, not {ppm}");
            }
        }
    }

    #[test]
    fn a_ring_that_is_far_off_comes_back_without_overshooting() {
        let mut jitter = noise();
        let mut bench = Bench::new(0.02, 0.01, 300e-6);
        bench.run(1_200.0, &mut jitter);
        bench.level += 0.08 * RATE;
        let [_, _, low, _] = bench.run(300.0, &mut jitter);
        assert!(low >= 1.0 - BEND_MAX);
        let [least, most, ..] = bench.run(600.0, &mut jitter);
        assert!(least > 0.065 && most < 0.135, "{least} to {most} s");
    }

    #[test]
    fn a_clock_that_changes_its_pace_is_followed() {
        let mut jitter = noise();
        let mut bench = Bench::new(0.02, 0.01, 500e-6);
        bench.run(1_200.0, &mut jitter);
        bench.drift = -500e-6;
        let [least, most, ..] = bench.run(1_200.0, &mut jitter);
        assert!(least > 0.04 && most < 0.16, "{least} to {most} s");
        let found = -1e6 * bench.servo.drift;
        assert!((found + 500.0).abs() < 60.0, "{found} ppm");
    }
}
