//! An engine that may fail, and what plays on when it does: the CPU engine, in every lane from where it was.
//!
//! Of each lane that shall last the host keeps how it began and the codes since, as many as the next depends
//! on. When the engine fails, those who wait for the failed call wait on: the CPU engine is made, takes in what
//! the lanes of the call have heard, at their positions, and does the call again. Other lanes are taken in when
//! they are wanted. That may allocate and takes its time, which is lost and counted where it is missed; until
//! then nothing allocates that the failing engine does not. Lanes that shall not last end with the engine: they
//! are silent, and what they are asked for is not done.
//!
//! A lane that is younger than its window, or was restored within it, goes on as if nothing had happened, but
//! for what drawing remembers of its last draws. Of an older one the filters of a predictor have heard the
//! window alone: what comes is not what would have come, to the bit.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, OnceLock};

use super::work::{Perform, Work};
use super::{Decoder, STEPPED_MAX, See, Settings};
use crate::model::Model;

/// An engine that may fail at any call, and is useless from then on.
pub trait Fallible: Send {
    /// What is said of it then.
    type Error: fmt::Display;

    /// Does what it is told. Work that has failed may have been done in part.
    fn attempt(&mut self, work: &mut Work<'_, '_>) -> Result<(), Self::Error>;

    /// [`Decoder::n_lanes`]
    fn n_lanes(&self) -> usize;

    /// [`Decoder::state_len`]
    fn state_len(&self) -> usize;

    /// [`Decoder::position`]
    fn position(&self, lane: usize) -> u64;

    /// [`Decoder::prompt_tile`]
    fn prompt_tile(&self) -> usize {
        STEPPED_MAX
    }

    /// [`Decoder::isa`]
    fn isa(&self) -> &'static str;
}

/// Where it is said that an engine has failed: nothing, until it has.
pub type Omen = OnceLock<Fall>;

/// That an engine has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fall {
    /// In its driver's words.
    pub why: String,
    /// What computes since.
    pub isa: &'static str,
}

/// An engine as long as it works, then the CPU engine.
pub struct Fallback<E> {
    model: Arc<Model>,
    /// Of the CPU engine.
    settings: Settings,
    n_lanes: usize,
    playing: Playing<E>,
    omen: Arc<Omen>,
}

enum Playing<E> {
    /// What each lane has heard that shall last.
    First(E, Vec<Past>),
    /// Those that it has not yet taken in.
    Second(Box<dyn Decoder>, Vec<Option<Past>>),
}

impl<E> fmt::Debug for Fallback<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fallback")
            .field("model", &self.model.name)
            .field("fall", &self.omen.get())
            .finish_non_exhaustive()
    }
}

impl<E: Fallible> Fallback<E> {
    /// Of an engine of this model whose lanes have heard nothing, and of which the first `n_lasting` play on.
    /// `settings` are the processor's, with an instruction set that it has.
    pub fn new(engine: E, model: &Arc<Model>, settings: &Settings, n_lasting: usize) -> Self {
        let window = model.config.receptive_field() as usize;
        let pasts = (0..n_lasting).map(|_| Past::new(window)).collect();
        Self {
            n_lanes: engine.n_lanes(),
            model: model.clone(),
            settings: settings.clone(),
            playing: Playing::First(engine, pasts),
            omen: Arc::default(),
        }
    }

    /// The engine has failed.
    fn fall(&mut self, why: &E::Error) {
        if let Playing::First(_, pasts) = &mut self.playing {
            let cpu = super::open(&self.model, &self.settings, pasts.len());
            let cpu = cpu.expect("the instruction set is available");
            let fall = Fall {
                why: why.to_string(),
                isa: cpu.isa(),
            };
            let pasts = pasts.drain(..).map(Some).collect();
            self.playing = Playing::Second(cpu, pasts);
            self.omen.get_or_init(|| fall);
        }
    }

    fn carry_out(&mut self, mut work: Work<'_, '_>) {
        if let Playing::First(engine, pasts) = &mut self.playing {
            match engine.attempt(&mut work) {
                Ok(()) => return note(&work, engine, pasts),
                Err(why) => self.fall(&why),
            }
        }
        let Playing::Second(cpu, pasts) = &mut self.playing else {
            return;
        };
        let Some(mut work) = work.of_first(pasts.len()) else {
            return;
        };
        work.needs(&mut |lane| {
            if let Some(past) = pasts[lane].take() {
                past.relive(lane, &mut **cpu);
            }
        });
        if let Some(lane) = work.replaces() {
            pasts[lane] = None;
        }
        work.by(&mut **cpu);
    }
}

impl<E: Fallible> Perform for Fallback<E> {
    fn perform(&mut self, work: Work<'_, '_>) {
        match work {
            Work::Score(lane, codes, see) => {
                self.carry_out(Work::Score(lane, codes, &mut once(see)))
            }
            Work::GenerateSeen(turn, see) => {
                self.carry_out(Work::GenerateSeen(turn, &mut once(see)));
            }
            work => self.carry_out(work),
        }
    }

    fn n_lanes(&self) -> usize {
        self.n_lanes
    }

    fn state_len(&self) -> usize {
        match &self.playing {
            Playing::First(engine, _) => engine.state_len(),
            Playing::Second(cpu, _) => cpu.state_len(),
        }
    }

    fn position(&self, lane: usize) -> u64 {
        match &self.playing {
            Playing::First(engine, _) => engine.position(lane),
            Playing::Second(cpu, pasts) => match pasts.get(lane) {
                Some(Some(past)) => past.position,
                Some(None) => cpu.position(lane),
                None => 0,
            },
        }
    }

    fn prompt_tile(&self) -> usize {
        match &self.playing {
            Playing::First(engine, _) => engine.prompt_tile(),
            Playing::Second(cpu, _) => cpu.prompt_tile(),
        }
    }

    fn n_threads(&self) -> usize {
        match &self.playing {
            Playing::First(..) => 1,
            Playing::Second(cpu, _) => cpu.n_threads(),
        }
    }

    fn isa(&self) -> &'static str {
        match &self.playing {
            Playing::First(engine, _) => engine.isa(),
            Playing::Second(cpu, _) => cpu.isa(),
        }
    }

    fn omen(&self) -> Option<Arc<Omen>> {
        Some(self.omen.clone())
    }
}

/// Shows nothing twice of what has to be done again: those logits are the same, or as near as what plays on comes.
fn once(see: See<'_>) -> impl FnMut(usize, &[f32]) {
    let mut n_shown = 0;
    move |index, logits| {
        if index >= n_shown {
            n_shown = index + 1;
            see(index, logits);
        }
    }
}

/// What has been done, for what may come.
fn note<E: Fallible>(work: &Work<'_, '_>, engine: &E, pasts: &mut [Past]) {
    if let Work::Copy(from, to) = work
        && let Ok([from, to]) = pasts.get_disjoint_mut([*from, *to])
    {
        return to.copy(from);
    }
    let mut of = |lane: usize, note: &dyn Fn(&mut Past)| {
        pasts.get_mut(lane).into_iter().for_each(note);
    };
    match work {
        Work::Open(lane) => of(*lane, &|past| past.begin(Begin::Open, 0)),
        // Of a lane that does not last nobody knows the past.
        Work::Copy(_, to) => of(*to, &|past| past.begin(Begin::Aged, engine.position(*to))),
        Work::Save(..) => {}
        Work::Restore(lane, bytes) => of(*lane, &|past| {
            past.begin(Begin::Kept(Arc::from(*bytes)), engine.position(*lane));
        }),
        Work::Prime(lane, codes) | Work::Score(lane, codes, _) => {
            of(*lane, &|past| past.hear(codes))
        }
        Work::Generate(turns) => {
            for turn in turns.iter() {
                of(turn.lane, &|past| past.hear(turn.codes));
            }
        }
        Work::GenerateSeen(turn, _) => of(turn.lane, &|past| past.hear(turn.codes)),
        Work::Age(lane, position) => of(*lane, &|past| past.begin(Begin::Aged, *position)),
    }
}

/// What a lane has heard.
struct Past {
    begin: Begin,
    /// Since it began, or as many as the next code depends on: the newest last.
    codes: VecDeque<u8>,
    window: usize,
    /// After them.
    position: u64,
}

/// What was before.
#[derive(Clone)]
enum Begin {
    /// Nothing.
    Open,
    /// All of a state.
    Kept(Arc<[u8]>),
    /// What does not matter, or nobody knows.
    Aged,
}

impl Past {
    fn new(window: usize) -> Self {
        Self {
            begin: Begin::Open,
            codes: VecDeque::with_capacity(window),
            window,
            position: 0,
        }
    }

    fn begin(&mut self, begin: Begin, position: u64) {
        self.codes.clear();
        (self.begin, self.position) = (begin, position);
    }

    fn copy(&mut self, other: &Self) {
        self.begin = other.begin.clone();
        self.codes.clone_from(&other.codes);
        self.position = other.position;
    }

    fn hear(&mut self, codes: &[u8]) {
        self.position += codes.len() as u64;
        let newest = &codes[codes.len().saturating_sub(self.window)..];
        let n_old = (self.codes.len() + codes.len()).saturating_sub(self.window);
        if n_old > 0 {
            self.begin = Begin::Aged;
        }
        self.codes.drain(..n_old.min(self.codes.len()));
        self.codes.extend(newest);
    }

    /// Makes a lane that nobody has used what it would be.
    fn relive(mut self, lane: usize, decoder: &mut dyn Decoder) {
        let first = self.position - self.codes.len() as u64;
        decoder.open(lane);
        match &self.begin {
            Begin::Open => {}
            Begin::Kept(bytes) => {
                decoder.restore(lane, bytes);
            }
            // Noise, which no code after the window depends on: zeros would be heard no better.
            Begin::Aged => decoder.age(lane, first),
        }
        decoder.prime(lane, self.codes.make_contiguous());
    }
}

#[cfg(test)]
pub(super) mod tests;
