//! Whether real time is held, judged by the sound that was lost; looked at once a second.
//!
//! Chunks that were late do no harm as long as the lead bears them, so what counts is what was missing
//! in the end: silence that the card played for want of frames, and time that stations without a card
//! were behind the clock. Time that the device itself lost (xruns) is not in it.

use crate::telemetry::Telemetry;

/// Looks, seconds apart, that are judged together.
const N_LOOKS: usize = 60;

/// Lost in them, it is too much: one second of sixty is heard as a stutter.
const LOST_MAX_US: u64 = 1_000_000;

/// And when no more than this is, all is well again: so it takes most of a quiet minute to come back,
/// and a machine that just fails does not flicker.
const LOST_FEW_US: u64 = 200_000;

/// Looks in a row at which nothing new was drawn: what is lost then is known only afterwards.
const IDLE_MAX: u64 = 3;

#[derive(Debug)]
pub(super) struct Pace {
    /// Microseconds lost before each of the last looks, the newest in the place of the oldest.
    lost_us: [u64; N_LOOKS],
    n_looks: usize,
    /// Of each card.
    card_frames: Vec<u64>,
    timers_us: u64,
    n_chunks: u64,
    n_idle: u64,
    /// Whether little enough was lost.
    holds: bool,
    n_loads: u64,
    load_sum: f64,
    factor: Option<f64>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            lost_us: [0; N_LOOKS],
            n_looks: 0,
            card_frames: Vec::new(),
            timers_us: 0,
            n_chunks: 0,
            n_idle: 0,
            // Until it is shown otherwise.
            holds: true,
            n_loads: 0,
            load_sum: 0.0,
            factor: None,
        }
    }
}

impl Pace {
    /// Takes in another second.
    pub fn look(&mut self, telemetry: &Telemetry) {
        let lost_us = self.newly_lost_us(telemetry);
        self.lost_us[self.n_looks % N_LOOKS] = lost_us;
        self.n_looks += 1;
        self.holds = match self.lost_lately_us() {
            lost if lost >= LOST_MAX_US => false,
            lost if lost <= LOST_FEW_US => true,
            _ => self.holds,
        };
        let pump = &telemetry.pump;
        let n_chunks = pump.chunks.get();
        self.n_idle = match n_chunks == self.n_chunks {
            true => self.n_idle + 1,
            false => 0,
        };
        self.n_chunks = n_chunks;
        let (n_loads, load_sum) = (pump.chunk_load.n_observed(), pump.chunk_load.sum());
        let load = load_sum - self.load_sum;
        // In a second in which nothing was drawn it is as fast as it was.
        if load > 0.0 {
            self.factor = Some((n_loads - self.n_loads) as f64 / load);
        }
        (self.n_loads, self.load_sum) = (n_loads, load_sum);
    }

    /// What was lost since the last look, at all cards and elsewhere.
    fn newly_lost_us(&mut self, telemetry: &Telemetry) -> u64 {
        let timers_us = telemetry.pump.lost_us.get();
        let mut lost_us = timers_us - self.timers_us;
        self.timers_us = timers_us;
        self.card_frames.resize(telemetry.cards.len(), 0);
        for (before, card) in self.card_frames.iter_mut().zip(&telemetry.cards) {
            let frames = card.lost_frames.get();
            // A card that has lost frames has a rate.
            lost_us += (frames - *before) * 1_000_000 / card.rate_hz.get().max(1);
            *before = frames;
        }
        lost_us
    }

    fn lost_lately_us(&self) -> u64 {
        self.lost_us.iter().sum()
    }

    /// Why the stations do not play in time, if they do not.
    pub fn trouble(&self) -> Option<String> {
        if self.n_idle >= IDLE_MAX {
            return Some(format!("nothing was drawn for {} s", self.n_idle));
        }
        let lost_s = self.lost_lately_us() as f64 / 1e6;
        let lost = || format!("{lost_s:.1} s of sound were lost in the last {N_LOOKS} s");
        (!self.holds).then(lost)
    }

    /// Sound drawn in a second of work: 1 is real time.
    pub fn factor(&self) -> Option<f64> {
        self.factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        telemetry: Telemetry,
        pace: Pace,
    }

    impl Default for Bench {
        fn default() -> Self {
            Self {
                telemetry: Telemetry::with_cards(["default", "second"]),
                pace: Pace::default(),
            }
        }
    }

    impl Bench {
        /// A second in which something was drawn and so much was lost; what is wrong.
        fn second(&mut self, lost_ms: u64) -> Option<String> {
            self.telemetry.pump.chunks.add(50);
            self.telemetry.pump.lost_us.add(1_000 * lost_ms);
            self.pace.look(&self.telemetry);
            self.pace.trouble()
        }

        /// Seconds in which nothing is lost, until nothing is wrong.
        fn seconds_to_recover(&mut self) -> usize {
            1 + (0..).take_while(|_| self.second(0).is_some()).count()
        }
    }

    #[test]
    fn a_second_lost_in_a_minute_decides_and_most_of_a_quiet_minute_after_it() {
        let mut bench = Bench::default();
        assert_eq!((bench.second(500), bench.second(499)), (None, None));
        let trouble = bench.second(1).unwrap();
        assert_eq!(trouble, "1.0 s of sound were lost in the last 60 s");
        assert_eq!(bench.seconds_to_recover(), 59);
        assert_eq!(bench.second(900), None);
    }

    #[test]
    fn a_loss_that_goes_on_a_little_keeps_it_down_and_does_not_put_it_down() {
        let mut bench = Bench::default();
        for _ in 0..300 {
            assert_eq!(bench.second(10), None, "0.6 s a minute");
        }
        assert!(bench.second(1_000).is_some());
        for _ in 0..300 {
            assert!(bench.second(10).is_some());
        }
        assert!(bench.seconds_to_recover() <= 60);
    }

    #[test]
    fn silence_at_the_card_is_lost_and_late_chunks_are_not() {
        let mut bench = Bench::default();
        let cards = bench.telemetry.cards.clone();
        cards[0].rate_hz.set(48_000);
        cards[1].rate_hz.set(16_000);
        bench.telemetry.pump.late_chunks.add(1_000);
        cards[0].device_xruns.add(1_000);
        cards[0].lost_frames.add(23_999);
        cards[1].lost_frames.add(8_000);
        assert_eq!(bench.second(0), None);
        cards[0].lost_frames.add(1);
        assert!(bench.second(1).is_some());
    }

    #[test]
    fn a_pump_that_draws_nothing_is_noticed_while_it_hangs() {
        let mut bench = Bench::default();
        bench.second(0);
        let mut idle = || {
            bench.pace.look(&bench.telemetry);
            bench.pace.trouble()
        };
        assert_eq!((idle(), idle()), (None, None));
        assert_eq!(idle().unwrap(), "nothing was drawn for 3 s");
        assert_eq!(idle().unwrap(), "nothing was drawn for 4 s");
        assert_eq!(bench.second(100), None);
    }

    #[test]
    fn the_factor_is_that_of_the_last_second_of_work() {
        let mut bench = Bench::default();
        bench.second(0);
        assert_eq!(bench.pace.factor(), None);
        bench.telemetry.pump.chunk_load.observe(0.25);
        bench.telemetry.pump.chunk_load.observe(0.75);
        bench.second(0);
        assert_eq!(bench.pace.factor(), Some(2.0));
        bench.second(0);
        assert_eq!(bench.pace.factor(), Some(2.0));
    }
}
