//! The callback's body: what the device hears in each period.
//!
//! Runs on the device's real-time thread, through no fault of ours longer than a copy: it does
//! not allocate, lock, log or enter the kernel, and always writes the whole slice. Outside fades
//! every frame of the stream is played exactly as it came.
//!
//! ```text
//! Priming --ring half full--> Playing --ring dry--> Starved --faded--> Priming
//!    |                           |                     |
//!    `--------- told to stop: fade out, then silence --'---> Stopped
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use cpal::SizedSample;
use rtrb::Consumer;

use crate::card::CardSettings;
use crate::telemetry::CardTelemetry;

/// What passes between one output's callbacks and the supervisor. Every flag stands for itself:
/// nothing else is published through them, so all accesses are relaxed.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// Supervisor to callback: fade out and be silent.
    is_stopping: AtomicBool,
    /// Callback to supervisor: the fade-out has been written.
    is_silent: AtomicBool,
    /// Error callback to supervisor: this output is lost.
    is_lost: AtomicBool,
    /// Times the device asked for a period.
    n_callbacks: AtomicU64,
    /// Times it said that it had nothing to play.
    n_xruns: AtomicU64,
    /// See [`crate::card::drift`]: nanoseconds, signed.
    lateness_ns: AtomicI64,
}

impl Signals {
    pub fn ask_to_stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    pub fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    pub fn report_loss(&self) {
        self.is_lost.store(true, Ordering::Relaxed);
    }

    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    pub fn report_xrun(&self) {
        self.n_xruns.fetch_add(1, Ordering::Relaxed);
    }

    pub fn n_xruns(&self) -> u64 {
        self.n_xruns.load(Ordering::Relaxed)
    }

    pub fn n_callbacks(&self) -> u64 {
        self.n_callbacks.load(Ordering::Relaxed)
    }

    pub fn tell_lateness(&self, ns: i64) {
        self.lateness_ns.store(ns, Ordering::Relaxed);
    }

    pub fn lateness_ns(&self) -> i64 {
        self.lateness_ns.load(Ordering::Relaxed)
    }
}

/// Lengths of fades, in frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fades {
    /// At the start of an output.
    pub rise: u32,
    /// When told to stop.
    pub fall: u32,
    /// Around a gap of our own making.
    pub gap: u32,
}

/// A sample as a device takes it, from one in [-1, 1].
pub(super) trait Pcm: SizedSample {
    fn of(sample: f32) -> Self;
}

impl Pcm for f32 {
    fn of(sample: f32) -> Self {
        sample
    }
}

impl Pcm for i16 {
    fn of(sample: f32) -> Self {
        (sample * 32_768.0).round() as Self // `as` saturates
    }
}

impl Pcm for cpal::I24 {
    fn of(sample: f32) -> Self {
        let whole = (sample * 8_388_608.0).round() as i32;
        Self::new_unchecked(whole.clamp(-8_388_608, 8_388_607))
    }
}

impl Pcm for i32 {
    fn of(sample: f32) -> Self {
        (f64::from(sample) * 2_147_483_648.0).round() as Self
    }
}

impl Pcm for u8 {
    fn of(sample: f32) -> Self {
        (sample * 128.0 + 128.0).round() as Self
    }
}

/// How a sample becomes a frame.
#[derive(Debug)]
pub(super) struct Mix {
    volume: f32,
    /// Of each channel, whether it sounds.
    sounds: Box<[bool]>,
}

impl Mix {
    pub fn new(settings: &CardSettings, n_channels: u16) -> Self {
        let channels = &settings.channels;
        let is_on = |number| channels.is_empty() || channels.contains(&number);
        Self {
            volume: settings.volume,
            sounds: (1..=n_channels).map(is_on).collect(),
        }
    }

    /// Writes all of a frame, which may be cut off.
    fn write<T: Pcm>(&self, frame: &mut [T], sample: f32) {
        for (out, &sounds) in frame.iter_mut().zip(&self.sounds) {
            *out = T::of(if sounds { sample } else { 0.0 });
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Priming,
    Playing,
    Starved,
    Stopping,
    Stopped,
}

/// One output's callback and all it owns.
pub(super) struct Fill {
    frames: Consumer<f32>,
    signals: Arc<Signals>,
    telemetry: Arc<CardTelemetry>,
    state: State,
    /// Whether the stream was heard: silence before is none that it lacks.
    has_begun: bool,
    fades: Fades,
    mix: Mix,
    gain: Gain,
    echo: Echo,
}

impl Fill {
    pub fn new(
        frames: Consumer<f32>,
        (fades, mix): (Fades, Mix),
        signals: Arc<Signals>,
        telemetry: Arc<CardTelemetry>,
    ) -> Self {
        Self {
            frames,
            signals,
            telemetry,
            state: State::Priming,
            has_begun: false,
            fades,
            mix,
            gain: Gain::rising(fades.rise),
            echo: Echo::silence(),
        }
    }

    /// Reports how long a frame written now takes to the DAC.
    pub fn tell_latency(&self, latency: Duration) {
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.telemetry.device_latency_us.set(latency_us);
    }

    /// Writes all of `out`: frames whose channels play the same, or are silent.
    pub fn fill<T: Pcm>(&mut self, out: &mut [T]) {
        let n_channels = self.mix.sounds.len();
        let n_ready = self.frames.slots();
        self.signals.n_callbacks.fetch_add(1, Ordering::Relaxed);
        self.telemetry.callbacks.add(1);
        self.telemetry.ring_frames.set(n_ready as u64);
        self.change_state(n_ready);

        let n_wanted = out.len() / n_channels;
        let n_played = match self.state {
            State::Playing => n_wanted.min(n_ready),
            State::Stopping => n_wanted.min(n_ready).min(self.gain.n_left()),
            State::Priming | State::Starved | State::Stopped => 0,
        };
        let (played, rest) = out.split_at_mut(n_played * n_channels);
        self.play(played);
        if n_played < n_wanted {
            self.run_dry();
            self.count_lost(n_wanted - n_played);
        }
        // The last chunk is short if the device gave half a frame: it too is written.
        for frame in rest.chunks_mut(n_channels) {
            self.mix.write(frame, self.echo.next());
        }
        if self.state == State::Stopped && self.echo.is_over() {
            self.signals.is_silent.store(true, Ordering::Relaxed);
        }
    }

    fn change_state(&mut self, n_ready: usize) {
        let is_stopping = self.signals.is_stopping.load(Ordering::Relaxed);
        let is_half_full = n_ready >= self.frames.buffer().capacity().div_ceil(2);
        self.state = match self.state {
            State::Playing if is_stopping => {
                self.gain.fall(self.fades.fall);
                State::Stopping
            }
            State::Priming | State::Starved if is_stopping => State::Stopped,
            State::Priming | State::Starved if is_half_full && self.echo.is_over() => {
                self.has_begun = true;
                State::Playing
            }
            State::Starved if self.echo.is_over() => State::Priming,
            state => state,
        };
    }

    /// Plays as many frames as `out` holds; the ring has them.
    fn play<T: Pcm>(&mut self, out: &mut [T]) {
        let n_channels = self.mix.sounds.len();
        let n = out.len() / n_channels;
        let ready = self.frames.read_chunk(n).expect("the caller counted them");
        let mut last = self.echo.level;
        for (frame, sample) in out.chunks_exact_mut(n_channels).zip(ready) {
            last = sample * self.mix.volume * self.gain.next();
            self.mix.write(frame, last);
        }
        self.echo.level = last;
        self.telemetry.frames.add(n as u64);
    }

    /// Silence in place of the stream, unless it has not begun or was told to end.
    fn count_lost(&self, n_frames: usize) {
        let is_ending = matches!(self.state, State::Stopping | State::Stopped);
        if self.has_begun && !is_ending {
            self.telemetry.lost_frames.add(n_frames as u64);
        }
    }

    /// The stream ended in the middle of a period: by our fault, or because it was to stop.
    fn run_dry(&mut self) {
        match self.state {
            State::Playing => {
                self.telemetry.ring_underruns.add(1);
                self.echo.begin(self.fades.gap);
                self.gain = Gain::rising(self.fades.gap);
                self.state = State::Starved;
            }
            State::Stopping => {
                self.echo.begin(self.fades.gap);
                self.state = State::Stopped;
            }
            State::Priming | State::Starved | State::Stopped => {}
        }
    }
}

/// A gain that moves smoothly from 0 to exactly 1, or back.
#[derive(Clone, Copy, Debug)]
struct Gain {
    /// Frames from 0, up to `len`.
    at: u32,
    len: u32,
    is_rising: bool,
}

impl Gain {
    fn rising(len: u32) -> Self {
        Self {
            at: 0,
            len: len.max(1),
            is_rising: true,
        }
    }

    /// Turns round from wherever it is.
    fn fall(&mut self, len: u32) {
        let len = len.max(1);
        let at = u64::from(self.at) * u64::from(len) / u64::from(self.len);
        *self = Self {
            at: at as u32,
            len,
            is_rising: false,
        };
    }

    fn next(&mut self) -> f32 {
        self.at = match self.is_rising {
            true => (self.at + 1).min(self.len),
            false => self.at.saturating_sub(1),
        };
        smooth(self.at, self.len)
    }

    /// Frames until a falling gain is 0.
    fn n_left(&self) -> usize {
        self.at as usize
    }
}

/// What is heard where the stream breaks off: its last sample, sinking to equilibrium.
#[derive(Clone, Copy, Debug)]
struct Echo {
    level: f32,
    at: u32,
    len: u32,
}

impl Echo {
    fn silence() -> Self {
        Self {
            level: 0.0,
            at: 0,
            len: 1,
        }
    }

    fn begin(&mut self, len: u32) {
        self.len = len.max(1);
        self.at = self.len;
    }

    fn is_over(&self) -> bool {
        self.at == 0
    }

    fn next(&mut self) -> f32 {
        self.at = self.at.saturating_sub(1);
        match self.at {
            0 => 0.0,
            at => self.level * smooth(at, self.len),
        }
    }
}

/// 0 at 0, exactly 1 at `len`, without corners.
fn smooth(at: u32, len: u32) -> f32 {
    let x = at as f32 / len as f32;
    x * x * (3.0 - 2.0 * x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use assert_no_alloc::assert_no_alloc;
    use rtrb::{Producer, RingBuffer};

    const FADES: Fades = Fades {
        rise: 10,
        fall: 20,
        gap: 5,
    };

    struct Bench {
        fill: Fill,
        ring: Producer<f32>,
        signals: Arc<Signals>,
        telemetry: Arc<CardTelemetry>,
    }

    impl Bench {
        fn new(capacity: usize) -> Self {
            Self::with(capacity, 1, &CardSettings::default())
        }

        fn with(capacity: usize, n_channels: u16, settings: &CardSettings) -> Self {
            let (ring, frames) = RingBuffer::new(capacity);
            let (signals, telemetry) = (Arc::<Signals>::default(), Arc::<CardTelemetry>::default());
            let fill = Fill::new(
                frames,
                (FADES, Mix::new(settings, n_channels)),
                signals.clone(),
                telemetry.clone(),
            );
            Self {
                fill,
                ring,
                signals,
                telemetry,
            }
        }

        fn push(&mut self, n: usize) {
            self.ring.push_entire_slice(&vec![0.5; n]).unwrap();
        }

        /// One period, mono, into a slice full of rubbish.
        fn period(&mut self, n: usize) -> Vec<f32> {
            let mut out = vec![9.0; n];
            self.fill.fill(&mut out);
            out
        }

        fn underruns(&self) -> u64 {
            self.telemetry.ring_underruns.get()
        }

        fn lost(&self) -> u64 {
            self.telemetry.lost_frames.get()
        }
    }

    fn is_silent(out: &[f32]) -> bool {
        out.iter().all(|&x| x == 0.0)
    }

    #[test]
    fn an_empty_ring_plays_silence_and_is_no_underrun() {
        let mut bench = Bench::new(100);
        assert!(is_silent(&bench.period(32)));
        bench.push(49);
        assert!(is_silent(&bench.period(32)), "below half a ring");
        assert_eq!(bench.underruns(), 0);
        assert_eq!(bench.lost(), 0, "nothing was heard yet");
        assert_eq!(bench.telemetry.callbacks.get(), 2);
        assert_eq!(bench.telemetry.ring_frames.get(), 49);
    }

    #[test]
    fn half_a_ring_starts_it_with_a_fade_in_and_then_plays_bit_for_bit() {
        let mut bench = Bench::new(100);
        bench.push(50);
        let out = bench.period(30);
        assert!(out[..9].iter().is_sorted() && out[0] > 0.0 && out[8] < 0.5);
        assert!(out[9..].iter().all(|&x| x == 0.5));
        assert_eq!(
            bench.period(20),
            vec![0.5; 20],
            "an exact fit is no underrun"
        );
        assert_eq!(bench.underruns(), 0);
        assert_eq!(bench.telemetry.frames.get(), 50);
    }

    #[test]
    fn a_dry_ring_fades_counts_once_and_resumes_at_half_with_a_fade() {
        let mut bench = Bench::new(100);
        bench.push(100);
        bench.period(90);
        let out = bench.period(30);
        assert_eq!(out[..10], [0.5; 10]);
        assert!(out[10..14].iter().is_sorted_by(|a, b| a > b) && out[10] < 0.5);
        assert!(is_silent(&out[14..]));
        bench.push(49);
        assert!(is_silent(&bench.period(30)));
        assert_eq!(bench.underruns(), 1);
        bench.push(1);
        let out = bench.period(20);
        assert!(out[0] > 0.0 && out[0] < 0.5 && out[4..].iter().all(|&x| x == 0.5));
        assert_eq!(bench.underruns(), 1);
        assert_eq!(bench.lost(), 20 + 30, "every frame of the gap");
    }

    #[test]
    fn a_fade_longer_than_a_period_goes_on_in_the_next() {
        let mut bench = Bench::new(4);
        bench.push(4);
        bench.period(4);
        let mut tail = bench.period(2);
        bench.push(4);
        tail.extend(bench.period(2));
        tail.extend(bench.period(2));
        assert!(tail[..5].iter().is_sorted_by(|a, b| a > b), "{tail:?}");
        assert_eq!(tail[4..], [0.0, 0.0]);
        assert!(bench.period(2)[0] > 0.0, "then it resumes");
    }

    #[test]
    fn stopping_fades_out_says_so_and_stays_silent() {
        let mut bench = Bench::new(200);
        bench.push(200);
        bench.period(50);
        bench.signals.ask_to_stop();
        let out = bench.period(15);
        assert!(out.iter().is_sorted_by(|a, b| a > b) && out[14] > 0.0);
        assert!(!bench.signals.is_silent());
        let out = bench.period(15);
        assert!(is_silent(&out[5..]));
        bench.period(15);
        assert!(bench.signals.is_silent());
        assert!(is_silent(&bench.period(15)));
        assert_eq!((bench.underruns(), bench.lost()), (0, 0));
    }

    #[test]
    fn stopping_before_the_start_or_on_a_dry_ring_is_silent_too() {
        let mut bench = Bench::new(100);
        bench.signals.ask_to_stop();
        assert!(is_silent(&bench.period(8)) && bench.signals.is_silent());

        let mut bench = Bench::new(100);
        bench.push(55);
        bench.period(50);
        bench.signals.ask_to_stop();
        let out = bench.period(20);
        assert!(
            out[5] < out[4] && out[5] > 0.0 && is_silent(&out[10..]),
            "{out:?}"
        );
        assert!(bench.signals.is_silent());
        assert_eq!(bench.underruns(), 0);
    }

    #[test]
    fn every_channel_gets_the_sample_and_half_frames_are_written() {
        let mut bench = Bench::with(20, 3, &CardSettings::default());
        bench.push(20);
        bench.period(30);
        let mut out = vec![9.0f32; 3 * 4 + 2];
        bench.fill.fill(&mut out);
        assert_eq!(out[..12], [0.5; 12]);
        assert!(out[12..].iter().all(|x| x.abs() <= 0.5));
    }

    #[test]
    fn channels_that_are_not_named_are_silent_and_the_volume_is_a_factor() {
        let settings = CardSettings {
            volume: 0.25,
            channels: vec![3, 2],
            ..CardSettings::default()
        };
        let mut bench = Bench::with(20, 4, &settings);
        bench.push(20);
        bench.period(40);
        let mut out = vec![9.0f32; 4 * 2 + 3];
        bench.fill.fill(&mut out);
        assert_eq!(out[..4], [0.0, 0.125, 0.125, 0.0]);
        assert_eq!(out[4..8], [0.0, 0.125, 0.125, 0.0]);
        assert!(out[8..].iter().all(|x| x.abs() <= 0.125), "half a frame");
    }

    #[test]
    fn devices_of_other_formats_get_the_nearest_value() {
        assert_eq!(
            [-2.0, -1.0, 0.0, 0.5, 1.0].map(i16::of),
            [-32_768, -32_768, 0, 16_384, 32_767]
        );
        assert_eq!(
            [-1.0, 0.25, 1.0].map(i32::of),
            [i32::MIN, 1 << 29, i32::MAX]
        );
        assert_eq!([-1.0, 0.0, 0.5, 1.0].map(u8::of), [0, 128, 192, 255]);
        let i24 = [-1.0, 0.5, 1.0].map(|x| cpal::I24::of(x).inner());
        assert_eq!(i24, [-8_388_608, 4_194_304, 8_388_607]);
    }

    #[test]
    fn no_state_of_the_callback_allocates() {
        let mut bench = Bench::new(100);
        let (mut floats, mut words) = ([9.0f32; 60], [9i16; 60]);
        let samples = [0.5f32; 100];
        assert_no_alloc(|| {
            for round in 0..40 {
                let n = bench.ring.slots().min(round * 7);
                bench.ring.push_entire_slice(&samples[..n]).unwrap();
                bench.fill.fill(&mut floats);
                bench.fill.fill(&mut words);
                bench.fill.tell_latency(Duration::from_millis(3));
            }
            bench.signals.ask_to_stop();
            bench.fill.fill(&mut floats);
            bench.fill.fill(&mut floats);
        });
        assert!(bench.underruns() > 1 && bench.signals.is_silent());
    }
}
