//! The sound card: an output that is opened, watched, and opened again when it is lost.
//!
//! [`Card::open`] starts a supervisor thread, "card", which owns the output for its whole life.
//! Each time it opens one it makes a new ring of mono frames at the device's rate and hands the
//! feeding end to the caller's `attach`; the device's callback takes from the other end. An xrun
//! is counted: to rebuild would turn a glitch into a dropout. An output that says it is lost, has
//! asked for nothing for too long, or asks for nothing after an xrun, is given up and opened anew by its
//! id, sooner or later; meanwhile `is_live` in the telemetry is 0 and the rest of the house plays on. It
//! is live again when the new output was seen to ask for more than its buffer holds.
//!
//! This module knows nothing of models, stations or networks, and is the only one that knows
//! cpal.

mod device;
mod drift;
mod fill;

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::telemetry::CardTelemetry;

use device::Output;
use drift::Drift;

pub use device::{CardFacts, OutputDevice, devices};

/// How often the supervisor looks whether the output lives.
const TICK: Duration = Duration::from_millis(20);

/// An output that asks for nothing for so long, or for [`PERIODS_DEAD`], is dead.
const SILENCE_MAX: Duration = Duration::from_millis(500);

/// Large periods need more patience than [`SILENCE_MAX`].
const PERIODS_DEAD: u32 = 16;

/// After an xrun a device asks at once, or for [`PERIODS_TRIPPED`] at most, or never again, as PulseAudio's
/// plugin for ALSA. So long from when the xrun was seen, for the thread that reports it may have been late.
const TRIPPED_MAX: Duration = Duration::from_millis(150);

/// See [`TRIPPED_MAX`].
const PERIODS_TRIPPED: u32 = 4;

/// Sound servers may stall for seconds while a new stream wakes them up.
const SETTLE: Duration = Duration::from_secs(3);

/// Waits between attempts to open a lost device: doubled from the first to the last, which is how long a
/// device that is back may stay silent.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));

/// An output that lasted so long was well: the next loss starts at the shortest wait.
const WELL: Duration = Duration::from_secs(10);

/// At the start a busy device is asked again so often, at the shortest wait.
const BUSY_TRIES: u32 = 4;

/// The longest wait for the system while a device is opened.
const OPEN_MAX: Duration = Duration::from_secs(10);

/// The longest waits for a device: to play what is left, and to close; then for both and more.
const CLOSE_MAX: Duration = Duration::from_millis(500);
const STOP_MAX: Duration = Duration::from_secs(3);

/// Why there is no sound from a card.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// Go on without, or retry: the machine has no card that this user may see.
    #[error(
        "no sound card found: plug one in, or see that this user may open it (group `audio`), \
         or name one with --output-device"
    )]
    NoCard,
    /// Fatal: the name fits nothing.
    #[error("no sound card `{wanted}`; there is {}", known.join(" "))]
    Unknown {
        /// The name asked for.
        wanted: String,
        /// The ids of all there are.
        known: Vec<String>,
    },
    /// Fatal: the name fits more than one.
    #[error("`{wanted}` could be {}: name one of them in full", candidates.join(" or "))]
    Ambiguous {
        /// The name asked for.
        wanted: String,
        /// The ids it fits.
        candidates: Vec<String>,
    },
    /// Retry: another program holds the device.
    #[error("sound card {device} is busy: another program plays on it")]
    Busy {
        /// Its id.
        device: String,
    },
    /// Fatal: not for this user.
    #[error("sound card {device} may not be opened: add this user to the group `audio`")]
    Denied {
        /// Its id.
        device: String,
    },
    /// Retry: in the backend's words.
    #[error("cannot open sound card {device}: {reason}")]
    Open {
        /// Its id.
        device: String,
        /// The backend's reason.
        reason: String,
    },
    /// Fatal: it has not so many channels.
    #[error("sound card {device} has no channel {wanted}, only {most}: `channels` names too many")]
    Channels {
        /// Its id.
        device: String,
        /// The highest channel asked for, from 1.
        wanted: u16,
        /// How many it has.
        most: u16,
    },
    /// Retry: it was opened, and does not play.
    #[error("sound card {device} asks for nothing")]
    Still {
        /// Its id.
        device: String,
    },
    /// Retry: the system neither opened it nor refused.
    #[error("the sound system did not answer within {OPEN_MAX:?}")]
    NoAnswer,
    /// Fatal: the system gives no thread.
    #[error("cannot start the sound card's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct CardSettings {
    /// A device's id, name or unique beginning of either; `None` for the system's default.
    pub output_device: Option<String>,
    /// Sound kept ready in the ring; the ring is never shorter than four periods.
    pub lead_ms: u32,
    /// Sound the device takes at a time, as near as it can.
    pub period_ms: u32,
    /// Whether another clock than the device's sets the pace of what it is fed: then the ring holds twice
    /// the lead and is to be kept half full, which is where the device begins to play.
    pub is_paced_elsewhere: bool,
    /// A factor of every sample.
    pub volume: f32,
    /// Which channels sound, from 1; all of them when empty.
    pub channels: Vec<u16>,
    /// From silence to full at the start of an output.
    pub fade_in_ms: u32,
    /// From full to silence when stopped.
    pub fade_out_ms: u32,
}

impl Default for CardSettings {
    fn default() -> Self {
        Self {
            output_device: None,
            lead_ms: 100,
            period_ms: 20,
            is_paced_elsewhere: false,
            volume: 1.0,
            channels: Vec::new(),
            fade_in_ms: 50,
            fade_out_ms: 50,
        }
    }
}

/// The feeding end of an output's ring: mono frames at the device's rate.
#[derive(Debug)]
pub struct CardFeed {
    /// Where the frames go; its capacity is the lead, or twice that: see
    /// [`CardSettings::is_paced_elsewhere`]. The output is silent until it is half full.
    pub frames: rtrb::Producer<f32>,
    /// Frames per second.
    pub rate_hz: u32,
    /// Frames the device takes at a time.
    pub period_len: u32,
}

/// A card that plays, and is seen to. Dropped, it stops without waiting for the fade.
#[derive(Debug)]
pub struct Card {
    condition: Arc<Mutex<Condition>>,
    /// A word on it: begin anew, [paced elsewhere](CardSettings::is_paced_elsewhere) or not. That it is
    /// dropped is the word to stop.
    stop: Sender<bool>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Condition {
    facts: CardFacts,
    trouble: Option<String>,
}

impl Card {
    /// Opens the device and starts its supervisor. `attach` gets the feed of every output opened,
    /// the first before this returns, and runs on the supervisor's thread: it may wait a moment.
    pub fn open(
        settings: CardSettings,
        telemetry: Arc<CardTelemetry>,
        attach: impl FnMut(CardFeed) + Send + 'static,
    ) -> Result<Self, CardError> {
        let (stop, stopped) = mpsc::channel();
        let (opened_sender, opened) = mpsc::sync_channel(1);
        let mut supervisor = Supervisor {
            settings,
            telemetry,
            attach: Box::new(attach),
            stopped,
        };
        let thread =
            thread::Builder::new()
                .name("card".to_owned())
                .spawn(move || match supervisor.open_first() {
                    Ok(output) => {
                        let condition = Arc::new(Mutex::new(Condition {
                            facts: output.facts.clone(),
                            trouble: None,
                        }));
                        // If nobody waits any more, `stop` is gone too, and supervising ends at once.
                        let _ = opened_sender.send(Ok(Arc::clone(&condition)));
                        supervisor.run(output, &condition);
                    }
                    Err(error) => {
                        let _ = opened_sender.send(Err(error));
                    }
                })?;
        let first = opened.recv_timeout(OPEN_MAX);
        Ok(Self {
            condition: first.map_err(|_| CardError::NoAnswer)??,
            stop,
            thread,
        })
    }

    /// What is open, or was last.
    pub fn facts(&self) -> CardFacts {
        self.lock().facts.clone()
    }

    /// Why the card is silent now; `None` while it plays.
    pub fn trouble(&self) -> Option<String> {
        self.lock().trouble.clone()
    }

    /// Fades out, closes the device and opens it again, for `attach` to feed from elsewhere, by its own
    /// pace or another's. Waits for nothing; what is lost already is opened again anyway.
    pub fn begin_anew(&self, is_paced_elsewhere: bool) {
        // Without a supervisor there is nothing that could begin.
        let _ = self.stop.send(is_paced_elsewhere);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Condition> {
        // The data is whole at every moment: a panic elsewhere does not spoil it.
        self.condition
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Fades out, lets the device play it, and closes the device; gives up on a device that keeps
    /// the supervisor for seconds. Keep feeding the ring until this returns.
    pub fn stop(self) {
        drop(self.stop);
        let begin = Instant::now();
        while !self.thread.is_finished() && begin.elapsed() < STOP_MAX {
            thread::sleep(TICK / 4);
        }
    }
}

/// The thread "card".
struct Supervisor {
    settings: CardSettings,
    telemetry: Arc<CardTelemetry>,
    attach: Box<dyn FnMut(CardFeed) + Send>,
    stopped: Receiver<bool>,
}

/// How an output's watch ended.
enum End {
    Stopped,
    /// It was asked to begin anew.
    Anew {
        is_paced_elsewhere: bool,
    },
    Lost(&'static str),
}

impl Supervisor {
    /// A busy device may be free in a moment: the program before us may still be closing it.
    fn open_first(&mut self) -> Result<Output, CardError> {
        for _ in 1..BUSY_TRIES {
            match self.open() {
                Err(CardError::Busy { .. }) => thread::sleep(BACK_OFF.0),
                result => return result,
            }
        }
        self.open()
    }

    fn open(&mut self) -> Result<Output, CardError> {
        self.open_if(|_, _| Ok(()))
    }

    /// A device that was lost may be back in name only. Who is fed paces its station, and all who listen
    /// to it: so it has to show first that it plays.
    fn reopen(&mut self) -> Result<Output, CardError> {
        self.open_if(Self::try_silence)
    }

    fn open_if(
        &mut self,
        is_fit: fn(&mut Self, &Output) -> Result<(), CardError>,
    ) -> Result<Output, CardError> {
        let (output, feed) = device::open(&self.settings, &self.telemetry)?;
        if let Err(error) = is_fit(self, &output) {
            discard(output);
            return Err(error);
        }
        let told = &self.telemetry;
        told.rate_hz.set(feed.rate_hz.into());
        told.ring_capacity_frames
            .set(feed.frames.buffer().capacity() as u64);
        // Live before it is fed: a pump that finds it attached finds it pacing.
        self.telemetry.is_live.set(1);
        (self.attach)(feed);
        match output.play() {
            Ok(()) => Ok(output),
            Err(error) => {
                self.telemetry.is_live.set(0);
                discard(output);
                Err(error)
            }
        }
    }

    /// Plays silence, until the device asks for more when what it took at first must have been played.
    fn try_silence(&mut self, output: &Output) -> Result<(), CardError> {
        output.play()?;
        let begin = Instant::now();
        let filled_by = output.latency() + TICK;
        // Callbacks until then, at least.
        let mut n_filling = None;
        while begin.elapsed() < SETTLE {
            if self.is_stopped(TICK) || output.signals.is_lost() {
                break;
            }
            let n_callbacks = Some(output.signals.n_callbacks());
            if begin.elapsed() < filled_by || n_filling.is_none() {
                n_filling = n_callbacks;
            } else if n_callbacks > n_filling {
                return Ok(());
            }
        }
        Err(CardError::Still {
            device: output.facts.id.clone(),
        })
    }

    fn run(mut self, mut output: Output, condition: &Mutex<Condition>) {
        // From now on this very device, by the name that lasts; a default stays the default.
        if let Some(wanted) = &mut self.settings.output_device {
            wanted.clone_from(&output.facts.id);
        }
        let tell = |facts: Option<CardFacts>, trouble: Option<String>| {
            let mut condition = condition.lock().unwrap_or_else(PoisonError::into_inner);
            condition.trouble = trouble;
            if let Some(facts) = facts {
                condition.facts = facts;
            }
        };
        let mut back_off = BACK_OFF.0;
        loop {
            let opened_at = Instant::now();
            let end = self.watch(&output);
            self.telemetry.drift_ppm.set(None);
            let is_lost = match end {
                End::Stopped => return self.close(output),
                End::Anew { is_paced_elsewhere } => {
                    self.settings.is_paced_elsewhere = is_paced_elsewhere;
                    self.close(output);
                    false
                }
                End::Lost(reason) => {
                    self.telemetry.is_live.set(0);
                    tell(None, Some(reason.to_owned()));
                    discard(output);
                    true
                }
            };
            if opened_at.elapsed() > WELL {
                back_off = BACK_OFF.0;
            }
            output = loop {
                if self.is_stopped(back_off) {
                    return;
                }
                back_off = (back_off * 2).min(BACK_OFF.1);
                match self.reopen() {
                    Ok(output) => break output,
                    Err(error) => tell(None, Some(error.to_string())),
                }
            };
            self.telemetry.rebuilds.add(is_lost.into());
            tell(Some(output.facts.clone()), None);
        }
    }

    /// Looks on while the output plays.
    fn watch(&self, output: &Output) -> End {
        let mut watchdog = Watchdog::new(output.latency() / 2, Instant::now());
        let mut drift = Drift::new(Instant::now());
        let told = &self.telemetry;
        loop {
            match self.stopped.recv_timeout(TICK) {
                Ok(is_paced_elsewhere) => return End::Anew { is_paced_elsewhere },
                Err(RecvTimeoutError::Disconnected) => return End::Stopped,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if output.signals.is_lost() {
                return End::Lost("the device is gone");
            }
            let now = Instant::now();
            let (n_callbacks, n_xruns) = (output.signals.n_callbacks(), output.signals.n_xruns());
            if watchdog.is_dead(n_callbacks, n_xruns, now) {
                return End::Lost("the device asks for nothing");
            }
            drift.look(output.signals.lateness_ns(), n_xruns, now);
            told.drift_ppm.set(drift.ppm());
        }
    }

    /// Waits; `true` as soon as the card is to stop.
    fn is_stopped(&mut self, wait: Duration) -> bool {
        match self.stopped.recv_timeout(wait) {
            Ok(is_paced_elsewhere) => {
                self.settings.is_paced_elsewhere = is_paced_elsewhere;
                false
            }
            Err(error) => error == RecvTimeoutError::Disconnected,
        }
    }

    fn close(&self, output: Output) {
        output.signals.ask_to_stop();
        let fade = Duration::from_millis(self.settings.fade_out_ms.into());
        let patience = fade + 2 * output.latency() + CLOSE_MAX;
        let begin = Instant::now();
        while !output.signals.is_silent() && begin.elapsed() < patience {
            thread::sleep(TICK / 4);
        }
        // What was written last still has to reach the ear.
        thread::sleep(output.latency().min(CLOSE_MAX));
        self.telemetry.is_live.set(0);
        if let Some(done) = discard(output) {
            // Timeout or done, there is nothing more to do.
            let _ = done.recv_timeout(CLOSE_MAX);
        }
    }
}

/// Drops an output on a thread of its own, because dropping one whose sound server died may never
/// return. The receiver hears when it did; without a thread it has by now.
fn discard(output: Output) -> Option<Receiver<()>> {
    let (done_sender, done) = mpsc::channel::<()>();
    thread::Builder::new()
        .name("card-close".to_owned())
        .spawn(move || {
            device::hush();
            drop(output);
            drop(done_sender);
        })
        .ok()
        .map(|_| done)
}

/// Sees whether callbacks keep coming: the only sign of life that every backend gives.
struct Watchdog {
    n_seen: u64,
    since: Instant,
    n_xruns: u64,
    /// When the first xrun since then was seen.
    tripped: Option<Instant>,
    born: Instant,
    patience: Duration,
    /// The same after an xrun.
    patience_tripped: Duration,
}

impl Watchdog {
    fn new(period: Duration, now: Instant) -> Self {
        Self {
            n_seen: 0,
            since: now,
            n_xruns: 0,
            tripped: None,
            born: now,
            patience: SILENCE_MAX.max(period * PERIODS_DEAD),
            patience_tripped: TRIPPED_MAX.max(period * PERIODS_TRIPPED),
        }
    }

    fn is_dead(&mut self, n_callbacks: u64, n_xruns: u64, now: Instant) -> bool {
        if n_callbacks != self.n_seen {
            (self.n_seen, self.since, self.tripped) = (n_callbacks, now, None);
        }
        // If both came since it last looked, the xrun may have been the later: who goes on asking shows.
        if n_xruns != self.n_xruns {
            self.n_xruns = n_xruns;
            self.tripped.get_or_insert(now);
        }
        let (patience, patience_tripped) = match now - self.born < SETTLE {
            true => (self.patience.max(SETTLE), self.patience),
            false => (self.patience, self.patience_tripped),
        };
        let has_tripped = self.tripped.is_some_and(|at| now - at > patience_tripped);
        has_tripped || now - self.since > patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_waits_for_callbacks_as_long_as_the_period_asks() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut watchdog = Watchdog::new(Duration::from_millis(10), start);
        assert!(!watchdog.is_dead(0, 0, at(2_900)), "it may be settling");
        assert!(watchdog.is_dead(0, 0, at(3_001)));

        let mut watchdog = Watchdog::new(Duration::from_millis(10), start);
        assert!(!watchdog.is_dead(7, 0, at(4_000)));
        assert!(!watchdog.is_dead(7, 0, at(4_500)));
        assert!(watchdog.is_dead(7, 0, at(4_501)));
        assert!(!watchdog.is_dead(8, 0, at(4_600)));

        let mut patient = Watchdog::new(Duration::from_millis(200), start);
        assert!(!patient.is_dead(1, 0, at(4_000)));
        assert!(!patient.is_dead(1, 0, at(7_200)));
        assert!(patient.is_dead(1, 0, at(7_201)));
    }

    #[test]
    fn a_device_that_asks_for_nothing_after_an_xrun_is_given_up_sooner() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let watchdog = |period_ms| {
            let mut watchdog = Watchdog::new(Duration::from_millis(period_ms), start);
            assert!(!watchdog.is_dead(1, 0, at(4_000)));
            watchdog
        };
        let mut still = watchdog(10);
        assert!(!still.is_dead(1, 1, at(4_020)));
        assert!(!still.is_dead(1, 900, at(4_170)), "a flood changes nothing");
        assert!(still.is_dead(1, 900, at(4_171)));

        let mut late = watchdog(10);
        assert!(!late.is_dead(1, 1, at(4_400)), "it was told of late");
        assert!(!late.is_dead(2, 1, at(4_420)), "and goes on");
        assert!(!late.is_dead(2, 1, at(4_900)));

        let mut both = watchdog(10);
        assert!(!both.is_dead(2, 1, at(4_020)));
        assert!(both.is_dead(2, 1, at(4_171)));

        let mut patient = watchdog(200);
        assert!(!patient.is_dead(1, 1, at(4_100)));
        assert!(!patient.is_dead(1, 1, at(4_900)));
        assert!(patient.is_dead(1, 1, at(4_901)));

        let mut settling = Watchdog::new(Duration::from_millis(10), start);
        assert!(!settling.is_dead(1, 1, at(100)));
        assert!(!settling.is_dead(1, 1, at(600)));
        assert!(settling.is_dead(1, 1, at(601)));
    }

    #[test]
    fn an_error_says_what_there_is_in_one_sentence() {
        let error = CardError::Unknown {
            wanted: "foo".to_owned(),
            known: vec!["alsa:default".to_owned(), "alsa:hw:CARD=0".to_owned()],
        };
        assert_eq!(
            error.to_string(),
            "no sound card `foo`; there is alsa:default alsa:hw:CARD=0"
        );
    }
}
