//! How much faster than it says a device's clock is, by this machine's monotonic clock.
//!
//! The callback notes how late the device is: the time since its first call and what it says that it still
//! has to play, less what the frames asked for since should last at its nominal rate. That is one number,
//! so who reads it sees it whole. A clock that is fast is ever earlier: the lateness falls, and its slope
//! is the drift.
//!
//! A callback may come late, when the machine is busy, never early; if the device says how much it has to
//! play, that makes up for it, but not all do. So of every two seconds the earliest stands, and a line
//! through all of these is fitted: known after a minute, and better the longer it lasts, up to ten.
//! A step, as of an xrun, is no drift: the line goes on from there, parallel to itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::card::fill::Signals;

/// A device that begins, or begins again after an xrun, asks for several periods at once.
const SETTLE: Duration = Duration::from_secs(3);

/// Of so long the earliest callback stands.
const BLOCK: Duration = Duration::from_secs(2);

/// Points of a line, at most: ten minutes.
const POINTS_MAX: usize = 300;

/// How widely the points of a line are spread, at least, in square seconds: as those of a minute without
/// a step are, or of four with one every half minute.
const SPREAD_MIN: f64 = 8_500.0;

/// No clock drifts so far within a block: the device lost time, or left some out.
const STEP_S: f64 = 0.01;

/// Whatever is further off has no clock, but asks as fast as it is answered.
const CLOCK_MAX_PPM: f64 = 10_000.0;

/// In the device's callback.
#[derive(Debug)]
pub(super) struct Clock {
    rate_hz: u32,
    begin: Option<Instant>,
    n_asked: u64,
    signals: Arc<Signals>,
}

impl Clock {
    pub fn new(rate_hz: u32, signals: Arc<Signals>) -> Self {
        Self {
            rate_hz,
            begin: None,
            n_asked: 0,
            signals,
        }
    }

    /// `n_frames` are asked for, while what was given before takes `rest` to be played.
    pub fn tick(&mut self, now: Instant, rest: Duration, n_frames: usize) {
        let elapsed = now - *self.begin.get_or_insert(now);
        let asked_ns = u128::from(self.n_asked) * 1_000_000_000 / u128::from(self.rate_hz.max(1));
        // Both are centuries away from the edge.
        let due_ns = (elapsed + rest).as_nanos() as i64;
        self.signals.tell_lateness(due_ns - asked_ns as i64);
        self.n_asked += n_frames as u64;
    }
}

/// The earliest callback of a block.
#[derive(Clone, Copy, Debug)]
struct Point {
    at_s: f64,
    lateness_s: f64,
    /// Steps before it.
    n_steps: u64,
}

/// On the supervisor's thread, of one output.
#[derive(Debug)]
pub(super) struct Drift {
    begin: Instant,
    /// Until when what is seen does not count.
    settled_at: Instant,
    n_xruns: u64,
    n_steps: u64,
    /// When the block that is under way began, and the earliest in it.
    block: Option<(Instant, f64)>,
    points: VecDeque<Point>,
    ppm: Option<f64>,
}

impl Drift {
    pub fn new(now: Instant) -> Self {
        Self {
            begin: now,
            settled_at: now + SETTLE,
            n_xruns: 0,
            n_steps: 0,
            block: None,
            points: VecDeque::with_capacity(POINTS_MAX),
            ppm: None,
        }
    }

    /// What it is, once it is known.
    pub fn ppm(&self) -> Option<f64> {
        self.ppm
    }

    /// Takes in how late the last callback came.
    pub fn look(&mut self, lateness_ns: i64, n_xruns: u64, now: Instant) {
        if n_xruns != self.n_xruns {
            self.n_xruns = n_xruns;
            self.n_steps += 1;
            self.block = None;
            self.settled_at = now + SETTLE;
        }
        if now < self.settled_at {
            return;
        }
        let lateness_s = lateness_ns as f64 / 1e9;
        let (since, earliest) = self.block.unwrap_or((now, lateness_s));
        let earliest = earliest.min(lateness_s);
        self.block = Some((since, earliest));
        if now - since >= BLOCK {
            self.block = None;
            self.add((now - self.begin).as_secs_f64(), earliest);
        }
    }

    fn add(&mut self, at_s: f64, lateness_s: f64) {
        let last = self.points.back();
        if last.is_some_and(|last| (last.lateness_s - lateness_s).abs() > STEP_S) {
            self.n_steps += 1;
        }
        if self.points.len() == POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back(Point {
            at_s,
            lateness_s,
            n_steps: self.n_steps,
        });
        let ppm = slope(self.points.make_contiguous()).map(|slope| -1e6 * slope);
        self.ppm = ppm.filter(|ppm| ppm.abs() < CLOCK_MAX_PPM);
    }
}

/// Of the line with the least squares, which may be shifted at every step; `None` while the points do
/// not say enough.
fn slope(points: &[Point]) -> Option<f64> {
    let (mut xy, mut xx) = (0.0, 0.0);
    for piece in points.chunk_by(|a, b| a.n_steps == b.n_steps) {
        let n = piece.len() as f64;
        let mean_x = piece.iter().map(|p| p.at_s).sum::<f64>() / n;
        let mean_y = piece.iter().map(|p| p.lateness_s).sum::<f64>() / n;
        for point in piece {
            let x = point.at_s - mean_x;
            xy += x * (point.lateness_s - mean_y);
            xx += x * x;
        }
    }
    (xx >= SPREAD_MIN).then(|| xy / xx)
}

#[cfg(test)]
mod tests {
    use super::*;
    use assert_no_alloc::assert_no_alloc;

    const PERIOD_LEN: usize = 480;
    const RATE_HZ: u32 = 48_000;

    /// A device whose clock is `ppm` fast and whose callbacks come up to 3 ms late, looked at after each.
    /// It has two periods to play, and may say so.
    struct Device {
        signals: Arc<Signals>,
        clock: Clock,
        drift: Drift,
        start: Instant,
        now_s: f64,
        ppm: f64,
        n_xruns: u64,
        says_rest: bool,
        random: u32,
    }

    impl Device {
        fn new(ppm: f64) -> Self {
            let (signals, start) = (Arc::<Signals>::default(), Instant::now());
            Self {
                clock: Clock::new(RATE_HZ, signals.clone()),
                signals,
                drift: Drift::new(start),
                start,
                now_s: 0.0,
                ppm,
                n_xruns: 0,
                says_rest: false,
                random: 1,
            }
        }

        fn play(&mut self, seconds: f64) -> Option<f64> {
            let end = self.now_s + seconds;
            while self.now_s < end {
                self.random = self
                    .random
                    .wrapping_mul(1_664_525)
                    .wrapping_add(1_013_904_223);
                let late_s = 0.003 * f64::from(self.random >> 8) / f64::from(1 << 24);
                let now = self.start + Duration::from_secs_f64(self.now_s + late_s);
                let rest_s = if self.says_rest { 0.02 - late_s } else { 0.0 };
                self.clock
                    .tick(now, Duration::from_secs_f64(rest_s), PERIOD_LEN);
                self.drift
                    .look(self.signals.lateness_ns(), self.n_xruns, now);
                let period_s = PERIOD_LEN as f64 / f64::from(RATE_HZ);
                self.now_s += period_s / (1.0 + self.ppm / 1e6);
            }
            self.drift.ppm()
        }
    }

    #[test]
    fn a_minute_of_late_callbacks_tells_the_drift() {
        for ppm in [-480.0, -3.0, 0.0, 137.0] {
            let mut device = Device::new(ppm);
            assert_eq!(device.play(60.0), None, "too early");
            let found = device.play(10.0).expect("it is known after a minute");
            assert!((found - ppm).abs() < 5.0, "{found} is not {ppm}");
            let found = device.play(600.0).unwrap();
            assert!((found - ppm).abs() < 0.3, "{found} is not {ppm}");
            assert_eq!(device.drift.points.len(), POINTS_MAX);
        }
    }

    #[test]
    fn a_device_that_says_what_it_has_to_play_is_known_better() {
        let mut device = Device::new(137.0);
        device.says_rest = true;
        let found = device.play(70.0).unwrap();
        assert!((found - 137.0).abs() < 0.1, "{found}");
    }

    #[test]
    fn a_clock_that_changes_is_followed() {
        let mut device = Device::new(50.0);
        device.play(700.0);
        device.ppm = -20.0;
        let found = device.play(700.0).unwrap();
        assert!((found + 20.0).abs() < 0.3, "{found}");
    }

    #[test]
    fn lost_time_is_no_drift() {
        let mut device = Device::new(50.0);
        device.play(100.0);
        for lost_s in [0.05, 0.004] {
            device.now_s += lost_s;
            // The smaller one is too small to be seen by itself.
            device.n_xruns += u64::from(lost_s < STEP_S);
            let found = device.play(60.0).unwrap();
            assert!((found - 50.0).abs() < 5.0, "{found}");
        }
    }

    #[test]
    fn a_device_that_loses_time_twice_a_minute_has_a_drift_after_some() {
        let mut device = Device::new(-80.0);
        let mut n_pieces = 0;
        while device.play(30.0).is_none() {
            device.n_xruns += 1;
            device.now_s += 0.02;
            n_pieces += 1;
        }
        assert!((5..12).contains(&n_pieces), "{n_pieces}");
        let found = device.play(30.0).unwrap();
        assert!((found + 80.0).abs() < 8.0, "{found}");
    }

    #[test]
    fn a_device_without_a_clock_has_no_drift() {
        assert_eq!(Device::new(1e6).play(100.0), None);
    }

    #[test]
    fn the_callback_allocates_nothing() {
        let mut clock = Clock::new(RATE_HZ, Arc::default());
        let start = Instant::now();
        assert_no_alloc(|| {
            clock.tick(start, Duration::ZERO, PERIOD_LEN);
            let late = start + Duration::from_millis(12);
            clock.tick(late, Duration::from_millis(5), PERIOD_LEN);
        });
        assert_eq!(clock.signals.lateness_ns(), 7_000_000);
    }
}
