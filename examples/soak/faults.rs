//! What happens to the card, and how long it takes to play again.

use std::time::Duration;

use eyre::Result;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tokio::sync::watch;

use crate::daemon::{Card, Daemon};
use crate::record::{Clock, Figures, RATE_HZ, Reading, Window, sleep};

/// Seconds from one fault's healing to the next, and how long a fault lasts.
const PAUSE_S: (f64, f64) = (20.0, 40.0);
const LASTS_S: (f64, f64) = (1.0, 10.0);

/// It plays again once it has played so many frames of the stream after the fault.
const SOUND_LEN: u64 = 960;

/// Between two looks at a card that heals.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What has not healed by then will not.
const HOPE_S: f64 = 60.0;

/// From the healing to the first reading that counts as undisturbed.
const SETTLE: Duration = Duration::from_secs(1);

/// What the fake card can do (`tests/fakecard/pcm_fakecard.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Unplug,
    Busy,
    Eio,
    Suspend,
    Stall,
    Xrun,
    Drift,
}

impl Kind {
    pub const ALL: [Self; 7] = [
        Self::Unplug,
        Self::Busy,
        Self::Eio,
        Self::Suspend,
        Self::Stall,
        Self::Xrun,
        Self::Drift,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Unplug => "unplug",
            Self::Busy => "busy",
            Self::Eio => "eio",
            Self::Suspend => "suspend",
            Self::Stall => "stall",
            Self::Xrun => "xrun",
            Self::Drift => "drift",
        }
    }

    /// For who has not read the card's source.
    pub fn words(self) -> &'static str {
        match self {
            Self::Unplug => "gone, and back later",
            Self::Busy => "gone, and held by another program when it is back",
            Self::Eio => "every call fails with EIO",
            Self::Suspend => "every call fails with ESTRPIPE",
            Self::Stall => "asks for nothing and says nothing",
            Self::Xrun => "loses time, twice a second",
            Self::Drift => "its clock is 500 ppm fast or slow",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: Kind,
    pub begin_s: f64,
    pub end_s: f64,
    /// From its end until the card played again; `None` if it never did.
    pub healing_s: Option<f64>,
    /// Counted from its begin to its healing.
    pub n_underruns: u64,
    pub n_xruns: u64,
    pub n_rebuilds: u64,
}

#[derive(Debug, Default)]
pub struct Story {
    pub faults: Vec<Fault>,
    pub windows: Vec<Window>,
}

/// Random numbers of one seed and one purpose.
pub struct Chance(ChaCha8Rng);

impl Chance {
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(purpose);
        Self(generator)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    pub fn between(&mut self, (low, high): (f64, f64)) -> f64 {
        let unit = (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        low + unit * (high - low)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// One fault after another until the soak is over.
pub fn run(
    daemon: &Daemon,
    card: &Card,
    seed: u64,
    clock: Clock,
    over: &watch::Receiver<bool>,
) -> Story {
    let mut trouble = Trouble {
        daemon,
        card,
        clock,
        over,
        chance: Chance::new(seed, 0),
        bag: Vec::new(),
    };
    let mut story = Story::default();
    if let Err(error) = trouble.go_on(&mut story) {
        // The daemon does not answer: the rest of the record says why.
        eprintln!("no more faults: {error}");
    }
    story
}

struct Trouble<'a> {
    daemon: &'a Daemon,
    card: &'a Card,
    clock: Clock,
    over: &'a watch::Receiver<bool>,
    chance: Chance,
    /// Kinds that are still to come before any comes again.
    bag: Vec<Kind>,
}

impl Trouble<'_> {
    fn go_on(&mut self, story: &mut Story) -> Result<()> {
        sleep(SETTLE, self.over);
        loop {
            let from = self.daemon.reading(self.card)?;
            let pause_s = self.chance.between(PAUSE_S);
            let goes_on = sleep(Duration::from_secs_f64(pause_s), self.over);
            let to = self.daemon.reading(self.card)?;
            story.windows.push(Window { from, to });
            self.card.forget_the_past();
            if !goes_on {
                return Ok(());
            }
            let kind = self.next_kind();
            let fault = self.befall(kind, to)?;
            eprintln!("{}", line(&fault));
            story.faults.push(fault);
            if !sleep(SETTLE, self.over) {
                return Ok(());
            }
        }
    }

    /// Each kind as often as any other, and in an order that nobody foresees.
    fn next_kind(&mut self) -> Kind {
        if self.bag.is_empty() {
            self.bag = Kind::ALL.to_vec();
        }
        let at = self.chance.below(self.bag.len());
        self.bag.swap_remove(at)
    }

    fn befall(&mut self, kind: Kind, before: Reading) -> Result<Fault> {
        let lasts = Duration::from_secs_f64(self.chance.between(LASTS_S));
        let begin_s = self.clock.now_s();
        match kind {
            Kind::Xrun => self.stumble(lasts)?,
            Kind::Busy => self.take_away(lasts)?,
            Kind::Drift => {
                let words = self.chance.pick(&["drift 500", "drift -500"]);
                self.hold(words, lasts)?;
            }
            Kind::Unplug | Kind::Eio | Kind::Suspend | Kind::Stall => {
                self.hold(kind.name(), lasts)?;
            }
        }
        // Read before the end: what the card plays afterwards counts from here.
        let at_end = self.daemon.glance(self.card)?;
        // "run" would keep the clock as it is.
        self.card.tell(if kind == Kind::Drift {
            "drift 0"
        } else {
            "run"
        })?;
        let end_s = self.clock.now_s();
        let healed = self.wait_for_sound(&at_end, end_s)?;
        let after = healed.map_or_else(|| self.daemon.figures(), |reading| Ok(reading.figures))?;
        let n = |of: fn(&Figures) -> u64| of(&after) - of(&before.figures);
        Ok(Fault {
            kind,
            begin_s,
            end_s,
            healing_s: healed.map(|reading| reading.at_s - end_s),
            n_underruns: n(|figures| figures.underruns),
            n_xruns: n(|figures| figures.xruns),
            n_rebuilds: n(|figures| figures.rebuilds),
        })
    }

    fn hold(&self, words: &str, lasts: Duration) -> Result<()> {
        self.card.tell(words)?;
        sleep(lasts, self.over);
        Ok(())
    }

    fn stumble(&self, lasts: Duration) -> Result<()> {
        const EVERY: Duration = Duration::from_millis(500);
        let n_times = lasts.as_millis() / EVERY.as_millis();
        for _ in 0..n_times.max(1) {
            self.hold("xrun", EVERY)?;
        }
        Ok(())
    }

    /// A card that plays is not taken away by who asks for it, so it is lost first.
    fn take_away(&self, lasts: Duration) -> Result<()> {
        const SEEN: Duration = Duration::from_millis(100);
        self.hold("unplug", SEEN)?;
        self.hold("busy", lasts)
    }

    /// The first reading at which both ends say that it plays: the stream's frames go in at one, and come out
    /// at the other.
    fn wait_for_sound(&self, at_end: &Reading, end_s: f64) -> Result<Option<Reading>> {
        while self.clock.now_s() - end_s < HOPE_S {
            let now = self.daemon.glance(self.card)?;
            let is_given = now.figures.frames >= at_end.figures.frames + SOUND_LEN;
            let is_played = now.frames_played >= at_end.frames_played + SOUND_LEN;
            if now.figures.is_live && is_given && is_played {
                return Ok(Some(now));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(None)
    }
}

fn line(fault: &Fault) -> String {
    let Fault {
        kind,
        begin_s,
        end_s,
        ..
    } = fault;
    let lasts_s = end_s - begin_s;
    let end = match fault.healing_s {
        Some(seconds) => format!("plays again {seconds:.2} s later"),
        None => "never plays again".to_owned(),
    };
    format!("{begin_s:7.1} s: {} for {lasts_s:.1} s; {end}", kind.name())
}

/// So long a card may take to say that it plays, however soon it does: what is asked of both ends takes
/// as long as that many frames and a look.
pub fn resolution_s() -> f64 {
    SOUND_LEN as f64 / RATE_HZ + LOOK_EVERY.as_secs_f64()
}
