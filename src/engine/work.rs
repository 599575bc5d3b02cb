//! A call of an engine as a value: what may have to be done once more, by another.

use std::fmt;
use std::sync::Arc;

use super::fallback::Omen;
use super::{Decoder, STEPPED_MAX, See, Turn};
use crate::mulaw;

/// What an engine is asked to do; see the functions of [`Decoder`].
pub enum Work<'a, 't> {
    /// [`Decoder::open`]
    Open(usize),
    /// [`Decoder::copy`] from one lane to another.
    Copy(usize, usize),
    /// [`Decoder::save`]
    Save(usize, &'a mut [u8]),
    /// [`Decoder::restore`]
    Restore(usize, &'a [u8]),
    /// [`Decoder::prime`]
    Prime(usize, &'a [u8]),
    /// [`Decoder::score`]
    Score(usize, &'a [u8], See<'a>),
    /// [`Decoder::generate`]
    Generate(&'a mut [Turn<'t>]),
    /// [`Decoder::generate_seen`]
    GenerateSeen(Turn<'t>, See<'a>),
    /// [`Decoder::age`] to a position.
    Age(usize, u64),
}

impl Work<'_, '_> {
    /// Has it done.
    pub fn by(&mut self, decoder: &mut dyn Decoder) {
        match self {
            Self::Open(lane) => decoder.open(*lane),
            Self::Copy(from, to) => decoder.copy(*from, *to),
            Self::Save(lane, bytes) => decoder.save(*lane, bytes),
            Self::Restore(lane, bytes) => {
                decoder.restore(*lane, bytes);
            }
            Self::Prime(lane, codes) => decoder.prime(*lane, codes),
            Self::Score(lane, codes, see) => decoder.score(*lane, codes, &mut **see),
            Self::Generate(turns) => decoder.generate(turns),
            Self::GenerateSeen(turn, see) => decoder.generate_seen(turn.again(), &mut **see),
            Self::Age(lane, position) => decoder.age(*lane, *position),
        }
    }

    /// What of it concerns the first `n_lanes` lanes, if something does; what others would have drawn is
    /// silence.
    pub fn of_first(self, n_lanes: usize) -> Option<Self> {
        match self {
            Self::Generate(turns) => {
                turns.sort_unstable_by_key(|turn| turn.lane);
                let n_own = turns.partition_point(|turn| turn.lane < n_lanes);
                let (own, others) = turns.split_at_mut(n_own);
                for turn in others {
                    turn.codes.fill(mulaw::SILENCE);
                }
                (n_own > 0).then_some(Self::Generate(own))
            }
            Self::GenerateSeen(turn, _) if turn.lane >= n_lanes => {
                turn.codes.fill(mulaw::SILENCE);
                None
            }
            work => work.is_within(n_lanes).then_some(work),
        }
    }

    fn is_within(&self, n_lanes: usize) -> bool {
        let mut is_within = self.replaces().is_none_or(|lane| lane < n_lanes);
        self.needs(&mut |lane| is_within &= lane < n_lanes);
        is_within
    }

    /// Names the lanes whose past it goes on from.
    pub fn needs(&self, name: &mut dyn FnMut(usize)) {
        match self {
            Self::Open(_) | Self::Restore(..) | Self::Age(..) => {}
            Self::Copy(lane, _)
            | Self::Save(lane, _)
            | Self::Prime(lane, _)
            | Self::Score(lane, ..) => name(*lane),
            Self::Generate(turns) => turns.iter().for_each(|turn| name(turn.lane)),
            Self::GenerateSeen(turn, _) => name(turn.lane),
        }
    }

    /// The lane that it gives another past.
    pub fn replaces(&self) -> Option<usize> {
        match self {
            Self::Open(lane)
            | Self::Restore(lane, _)
            | Self::Age(lane, _)
            | Self::Copy(_, lane) => Some(*lane),
            _ => None,
        }
    }
}

impl Turn<'_> {
    /// The same, for a while.
    pub(super) fn again(&mut self) -> Turn<'_> {
        Turn {
            lane: self.lane,
            draw: self.draw,
            uniforms: self.uniforms,
            codes: self.codes,
        }
    }
}

impl fmt::Debug for Work<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("replaces", &self.replaces())
            .finish_non_exhaustive()
    }
}

/// An engine that is told what to do in one place, whatever it is: all else of a [`Decoder`] follows.
pub trait Perform: Send {
    /// Does it.
    fn perform(&mut self, work: Work<'_, '_>);

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

    /// [`Decoder::n_threads`]
    fn n_threads(&self) -> usize {
        1
    }

    /// [`Decoder::isa`]
    fn isa(&self) -> &'static str;

    /// [`Decoder::omen`]
    fn omen(&self) -> Option<Arc<Omen>> {
        None
    }
}

impl<P: Perform> Decoder for P {
    fn n_lanes(&self) -> usize {
        Perform::n_lanes(self)
    }

    fn open(&mut self, lane: usize) {
        self.perform(Work::Open(lane));
    }

    fn copy(&mut self, from: usize, to: usize) {
        self.perform(Work::Copy(from, to));
    }

    fn state_len(&self) -> usize {
        Perform::state_len(self)
    }

    fn save(&mut self, lane: usize, bytes: &mut [u8]) {
        self.perform(Work::Save(lane, bytes));
    }

    fn restore(&mut self, lane: usize, bytes: &[u8]) -> u64 {
        self.perform(Work::Restore(lane, bytes));
        Perform::position(self, lane)
    }

    fn position(&self, lane: usize) -> u64 {
        Perform::position(self, lane)
    }

    fn prime(&mut self, lane: usize, codes: &[u8]) {
        self.perform(Work::Prime(lane, codes));
    }

    fn prompt_tile(&self) -> usize {
        Perform::prompt_tile(self)
    }

    fn score(&mut self, lane: usize, codes: &[u8], see: See<'_>) {
        self.perform(Work::Score(lane, codes, see));
    }

    fn generate(&mut self, turns: &mut [Turn<'_>]) {
        self.perform(Work::Generate(turns));
    }

    fn generate_seen(&mut self, turn: Turn<'_>, see: See<'_>) {
        self.perform(Work::GenerateSeen(turn, see));
    }

    fn age(&mut self, lane: usize, position: u64) {
        self.perform(Work::Age(lane, position));
    }

    fn n_threads(&self) -> usize {
        Perform::n_threads(self)
    }

    fn isa(&self) -> &'static str {
        Perform::isa(self)
    }

    fn omen(&self) -> Option<Arc<Omen>> {
        Perform::omen(self)
    }
}
