//! Adaptive linear prediction: a cascade of NLMS filters that learns a stream while it hears it,
//! and tells the network where it expects the next code.
//!
//! What a string or a pipe does next is nearly a linear function of its last tenth of a second,
//! but of a thousand coefficients that are other ones for every chord. A small network cannot hold
//! them; a filter finds them while it listens. The cascade is that of lossless audio coders
//! (Monkey's Audio, OptimFROG): each filter predicts what the one before it has left over. The
//! update is the normalised LMS rule (Haykin, *Adaptive Filter Theory*).
//!
//! The arithmetic is that of [`Sixteen`], so places are the same on every CPU to the last bit. It
//! costs what its taps cost, whatever the age of the stream.

use std::ops::RangeInclusive;

use crate::compute::{Isa, Job, LANES, Ops, Sixteen, Stage, dispatch, lanewise};
use crate::mulaw;

/// Whole turns that a place makes over the scale of all codes, in each of its waves: octaves and
/// the fifths between them, down to less than a code.
pub const HARMONICS: [f32; LANES] = [
    1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0,
];
/// Numbers that one place becomes: a cosine and a sine of each wave.
pub const WAVES: usize = 2 * LANES;
/// Codes there are: a place is a share of them.
const CODES: f32 = 256.0;
/// Added to the energy of each tap, so that silence is not amplified.
const QUIET: f32 = 1e-7;
/// How fast the mean errors forget.
const ERROR_RATE: f32 = 1.0 / 8.0;
/// And the one that says what is usual: a wild sample makes the others so large that they let the next
/// one be wilder, while a note that begins needs some milliseconds.
const USUAL_RATE: f32 = 1.0 / 64.0;
/// Mean errors that a sample may be away from what is expected. Hardly one of a recording lies
/// farther off: the filters do not believe one that does, which would disturb them for as long as
/// they remember it, and a stream never goes on with one.
const REACH: f32 = 8.0;
/// Added to the mean error there: −74 dBFS, so that sound can begin.
const FAINT: f32 = 2e-4;

/// Samples whose distances from the cubics through their neighbours are the usual ones.
const CURVES: usize = 32;
/// Half the distance of two codes, of a sample of 1: the slope of mu-law.
const HALF_STEP: f32 = 0.021_745_794;

/// Rests that are smaller count as none, and mean errors are not smaller: −240 dBFS.
pub const INAUDIBLE: f32 = 1e-12;

/// One filter of a cascade.
#[derive(Clone, Copy, Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterPlan {
    /// Samples it sees, a multiple of sixteen.
    pub taps: usize,
    /// The share of its error that it corrects at each sample.
    pub rate: f32,
    /// The share of its weights that it forgets then; what no sound excites would stay in them, and
    /// more would gather there, for as long as a stream lasts.
    #[serde(default)]
    pub leak: f32,
}

/// A cascade and what it has heard. Allocates when it is made, and never again.
#[derive(Clone, Debug)]
pub struct Predictor {
    filters: Vec<Filter>,
    /// The sample of each code.
    samples: Box<[f32; 256]>,
    /// What all filters together expect next.
    expected: f32,
    /// Mean distance of samples from what was expected, of the last few and of some more.
    error: f32,
    usual: f32,
    /// The same in codes.
    spread: f32,
    places: Vec<f32>,
}

impl Predictor {
    /// Of at least one filter.
    fn new(plan: &[FilterPlan]) -> Self {
        let mut samples = Box::new([0.0; 256]);
        for (code, sample) in (0..=255).zip(samples.iter_mut()) {
            *sample = mulaw::decode(code);
        }
        let mut new = Self {
            filters: plan.iter().map(Filter::new).collect(),
            samples,
            expected: 0.0,
            error: 0.0,
            usual: 0.0,
            spread: 0.0,
            places: vec![0.0; n_places(plan)],
        };
        new.reset();
        new
    }

    /// The predictor of a model, if it has one; it has heard nothing.
    pub fn of(plan: &[FilterPlan]) -> Option<Self> {
        (!plan.is_empty()).then(|| Self::new(plan))
    }

    /// Forgets all.
    pub fn reset(&mut self) {
        self.filters.iter_mut().for_each(Filter::reset);
        self.expected = 0.0;
        (self.error, self.usual, self.spread) = (1.0, 1.0, 1.0);
        self.places.fill(f32::from(mulaw::SILENCE) / CODES);
    }

    /// Becomes what `other` is, of the same plan; allocates nothing.
    pub fn copy(&mut self, other: &Self) {
        for (filter, other) in self.filters.iter_mut().zip(&other.filters) {
            filter.copy(other);
        }
        (self.expected, self.spread) = (other.expected, other.spread);
        (self.error, self.usual) = (other.error, other.usual);
        self.places.copy_from_slice(&other.places);
    }

    /// Shows all bytes of what it has heard, and takes what `visit` leaves there.
    pub fn state(&mut self, visit: &mut dyn FnMut(&mut [u8])) {
        for filter in &mut self.filters {
            filter.state(visit);
        }
        let Self {
            expected,
            error,
            usual,
            spread,
            places,
            ..
        } = self;
        visit(bytemuck::bytes_of_mut(expected));
        for mean in [error, usual, spread] {
            visit(bytemuck::bytes_of_mut(mean));
            // Whoever wrote those bytes: a distance.
            *mean = mean.max(INAUDIBLE);
        }
        visit(bytemuck::cast_slice_mut(places));
    }

    /// Takes in a code; afterwards [`places`](Self::places) are about the next.
    #[inline(always)]
    pub fn hear<F: Sixteen>(&mut self, code: u8) {
        let n = self.filters.len();
        let missed = self.places[n - 1] * CODES - f32::from(code);
        let mut rest = self.finer_than(code, missed);
        self.spread = moved(self.spread, missed.abs(), ERROR_RATE);
        let (off, most) = (rest - self.expected, REACH * (self.error + FAINT));
        self.error = moved(self.error, off.abs(), ERROR_RATE);
        self.usual = moved(self.usual, off.abs(), USUAL_RATE);
        rest = self.expected + off.clamp(-most, most);
        let mut expected = 0.0;
        for (filter, place) in self.filters.iter_mut().zip(&mut self.places) {
            let error = heard_of(rest - filter.prediction);
            filter.step::<F>(rest, error);
            expected += filter.prediction;
            *place = place_of(&self.samples, expected);
            rest = error;
        }
        self.expected = expected.clamp(-1.0, 1.0);
        self.places[n] = place_of_spread(self.spread);
    }

    /// The sample that a code stood for, as far as can be known: a code is half a step off to either
    /// side, and the better the predictions have been, the more this one tells on which.
    #[inline(always)]
    fn finer_than(&self, code: u8, missed: f32) -> f32 {
        let trust = 1.0 / (1.0 + 4.0 * self.spread * self.spread);
        let shift = trust * missed.clamp(-0.5, 0.5);
        let at = usize::from(code);
        let neighbour = match shift < 0.0 {
            true => at.saturating_sub(1),
            false => (at + 1).min(255),
        };
        let own = self.samples[at];
        own + shift.abs() * (self.samples[neighbour] - own)
    }

    /// The codes that a stream may go on with. None lies so far from what is expected that no
    /// recording would, which is how a rare draw becomes a click: where it may not leap, one wild code
    /// does not let the next be wilder. And after a sample that stands out by more than `max_click` usual
    /// distances, none goes back as if nothing had been.
    #[inline(always)]
    pub fn within_reach<F: Sixteen>(
        &self,
        may_leap: bool,
        max_click: Option<f32>,
    ) -> RangeInclusive<u8> {
        let error = match may_leap {
            true => self.error,
            false => self.error.min(self.usual),
        };
        let reach = REACH * (error + FAINT);
        let (least, most) = (self.expected - reach, self.expected + reach);
        // Not by `and_then`: a closure is a function without the instructions.
        let going = match max_click {
            Some(max_click) => self.filters[0].going::<F>(max_click),
            None => None,
        };
        let going = going.unwrap_or(f32::NEG_INFINITY..=f32::INFINITY);
        let towards = self.expected.min(*going.end()).max(*going.start());
        let nearest = towards.min(most).max(least);
        let code = (place_of(&self.samples, nearest) * CODES + 0.5) as u8;
        let below = |x: f32| self.samples.partition_point(|sample| *sample < x);
        let first = below(going.start().min(nearest).max(least)).min(255) as u8;
        let end = below(going.end().max(nearest).min(most)).max(1) - 1;
        first.min(code)..=(end as u8).max(code)
    }

    /// Where the next code is expected, as shares of the scale from 0 to 1: by the first filter, by
    /// the first two, …, by all; and, as a logarithm, how far off they have been.
    pub fn places(&self) -> &[f32] {
        &self.places
    }
}

/// The most filters of a cascade, and the most taps of a filter.
const MAX_FILTERS: usize = 16;
const MAX_TAPS: usize = 1 << 16;

/// Refuses a cascade that could not run or would not be stable.
pub fn check(plan: &[FilterPlan]) -> Result<(), String> {
    if plan.len() > MAX_FILTERS {
        let n = plan.len();
        return Err(format!(
            "predictor has {n} filters, more than the {MAX_FILTERS} this version takes"
        ));
    }
    for (i, FilterPlan { taps, rate, leak }) in plan.iter().enumerate() {
        if *taps == 0 || *taps > MAX_TAPS || !taps.is_multiple_of(LANES) {
            return Err(format!(
                "predictor[{i}]: taps is {taps}; it must be a multiple of {LANES} up to {MAX_TAPS}"
            ));
        }
        if !(*rate > 0.0 && *rate < 2.0) {
            return Err(format!(
                "predictor[{i}]: rate is {rate}; it must lie between 0 and 2, or the filter runs away"
            ));
        }
        if !(0.0..=0.1).contains(leak) {
            return Err(format!(
                "predictor[{i}]: leak is {leak}; it must be from 0 to 0.1"
            ));
        }
    }
    Ok(())
}

/// How many places such a predictor gives.
pub fn n_places(plan: &[FilterPlan]) -> usize {
    plan.len() + 1
}

/// The places after each code of a stream that begins with them: [codes, places].
pub fn places(plan: &[FilterPlan], codes: &[u8]) -> Vec<f32> {
    match Predictor::of(plan) {
        None => Vec::new(),
        Some(predictor) => {
            let walk = Walk(predictor, codes);
            dispatch(Isa::best(), walk).expect("the best of this CPU is available")
        }
    }
}

struct Walk<'a>(Predictor, &'a [u8]);

impl Job for Walk<'_> {
    type Out = Vec<f32>;

    fn run<O: Ops>(self, ops: O) -> Vec<f32> {
        ops.run(Listen(ops, self.0, self.1))
    }
}

struct Listen<'a, O>(O, Predictor, &'a [u8]);

impl<O: Ops> Stage for Listen<'_, O> {
    type Out = Vec<f32>;

    #[inline(always)]
    fn run(self) -> Vec<f32> {
        let Self(_, mut predictor, codes) = self;
        let mut all = Vec::with_capacity(codes.len() * predictor.places.len());
        for code in codes {
            predictor.hear::<O::F>(*code);
            all.extend_from_slice(&predictor.places);
        }
        all
    }
}

/// A filter that predicts what comes in next from the last `taps` it took in.
#[derive(Clone, Debug)]
struct Filter {
    rate: f32,
    /// What a weight keeps of itself when it is corrected.
    kept: f32,
    weights: Vec<f32>,
    /// What came in, the newest first, from `head` on; twice as long as is seen, so that it seldom
    /// has to move.
    heard: Vec<f32>,
    head: usize,
    /// Sum of the squares of what is seen.
    energy: f32,
    prediction: f32,
}

impl Filter {
    fn new(plan: &FilterPlan) -> Self {
        Self {
            rate: plan.rate,
            kept: 1.0 - plan.leak,
            weights: vec![0.0; plan.taps],
            heard: vec![0.0; 2 * plan.taps],
            head: plan.taps,
            energy: 0.0,
            prediction: 0.0,
        }
    }

    fn reset(&mut self) {
        self.weights.fill(0.0);
        self.heard.fill(0.0);
        (self.head, self.energy, self.prediction) = (self.weights.len(), 0.0, 0.0);
    }

    fn copy(&mut self, other: &Self) {
        self.weights.copy_from_slice(&other.weights);
        self.heard.copy_from_slice(&other.heard);
        self.head = other.head;
        (self.energy, self.prediction) = (other.energy, other.prediction);
    }

    fn state(&mut self, visit: &mut dyn FnMut(&mut [u8])) {
        visit(bytemuck::cast_slice_mut(&mut self.weights));
        visit(bytemuck::cast_slice_mut(&mut self.heard));
        let mut head = self.head as u64;
        visit(bytemuck::bytes_of_mut(&mut head));
        // Whoever wrote those bytes: nothing beyond is ever read.
        self.head = (head as usize).min(self.weights.len());
        visit(bytemuck::bytes_of_mut(&mut self.energy));
        visit(bytemuck::bytes_of_mut(&mut self.prediction));
    }

    /// Where samples may go on after the newest, or it would be a click of more than `max_click` usual
    /// distances. A sample's distance is that from the cubic through its four neighbours (as the audit of
    /// clicks has it: Godsill & Rayner, *Digital Audio Restoration*, 1998, ch. 5). Two of these are yet to
    /// come, so the next is held near the mean of the line and the parabola through the last: one that
    /// returns from a sample that lies off by d is 2.5 d away from there.
    #[inline(always)]
    fn going<F: Sixteen>(&self, max_click: f32) -> Option<RangeInclusive<f32>> {
        if self.weights.len() < CURVES + 4 {
            return None;
        }
        let heard = &self.heard[self.head..];
        let mut sum = F::splat(0.0);
        for at in (0..CURVES).step_by(LANES) {
            let of = |back: usize| F::load(heard[at + back..].first_chunk().expect("so many"));
            let outer = of(0).add(of(4));
            let inner = of(1).add(of(3)).mul(F::splat(4.0));
            sum = sum.add(outer.sub(inner).add(of(2).mul(F::splat(6.0))).abs());
        }
        let mean = sum.sum() / (6.0 * CURVES as f32);
        let [a, b, c] = [heard[0], heard[1], heard[2]];
        let at = 2.5 * a - 2.0 * b + 0.5 * c;
        let half_step = HALF_STEP * (a.abs() + 1.0 / 255.0);
        let width = 3.0 * max_click * (mean + half_step);
        Some(at - width..=at + width)
    }

    /// Corrects the weights by the error of the last prediction, takes in `newest`, and predicts
    /// what follows: all in one pass over the weights.
    #[inline(always)]
    fn step<F: Sixteen>(&mut self, newest: f32, error: f32) {
        let n = self.weights.len();
        let gain = F::splat(self.rate * error / (self.energy + QUIET * n as f32));
        // Where there is nothing to correct nothing is forgotten: weights would dwindle in silence to
        // numbers that processors take a hundred times as long for.
        let kept = F::splat(if error == 0.0 { 1.0 } else { self.kept });
        if self.head == 0 {
            self.heard.copy_within(..n, n);
            self.head = n;
        }
        self.head -= 1;
        self.heard[self.head] = newest;
        let seen = &self.heard[self.head..];
        let (before, now) = (&seen[1..=n], &seen[..n]);
        let (mut sum, mut energy) = (F::splat(0.0), F::splat(0.0));
        // Not fused: where the CPU cannot, that would cost a call of a function for each tap.
        let pairs = before.as_chunks().0.iter().zip(now.as_chunks().0);
        for (weights, (before, now)) in self.weights.as_chunks_mut().0.iter_mut().zip(pairs) {
            let now = F::load(now);
            let corrected = F::load(before).mul(gain).add(F::load(weights).mul(kept));
            corrected.store(weights);
            sum = corrected.mul(now).add(sum);
            energy = now.mul(now).add(energy);
        }
        // What comes in lies within 1, and what is left over within a little more. A filter that
        // could say anything could be led astray by what it says itself.
        self.prediction = sum.sum().clamp(-2.0, 2.0);
        self.energy = energy.sum();
    }
}

/// A mean error after one more.
#[inline(always)]
fn moved(mean: f32, error: f32, rate: f32) -> f32 {
    (mean + rate * (error - mean)).max(INAUDIBLE)
}

/// What is left over, unless it is next to nothing: where a stream holds one code the rest dwindles to
/// numbers that processors take a hundred times as long for.
#[inline(always)]
fn heard_of(rest: f32) -> f32 {
    if rest.abs() < INAUDIBLE { 0.0 } else { rest }
}

/// Where a sample lies among those of the codes: the nearest below, and the share of the way to the
/// next. The ends are held.
fn place_of(samples: &[f32; 256], x: f32) -> f32 {
    let below = samples.partition_point(|sample| *sample <= x);
    let (Some(low), Some(high)) = (below.checked_sub(1).map(|i| samples[i]), samples.get(below))
    else {
        return if below == 0 { 0.0 } else { 255.0 / CODES };
    };
    ((below - 1) as f32 + (x - low) / (high - low)) / CODES
}

/// The logarithm of a mean error between 1/16 and 256 codes, as three quarters of the scale. Straight
/// between powers of two: what a float's bits are, read as a number.
fn place_of_spread(spread: f32) -> f32 {
    let octaves = spread.clamp(1.0 / 16.0, CODES).to_bits() as f32 / (1u32 << 23) as f32 - 127.0;
    (octaves + 4.0) / 16.0
}

/// The waves of one place: the cosines of its turns, then the sines.
#[inline(always)]
pub fn waves<F: Sixteen>(place: f32, out: &mut [f32; WAVES]) {
    let turns = F::splat(place).mul(F::load(&HARMONICS));
    let [cos, sin] = bytemuck::cast_mut::<_, [[f32; LANES]; 2]>(out);
    lanewise::cos_of_turns(turns).store(cos);
    // A quarter turn behind.
    lanewise::cos_of_turns(turns.sub(F::splat(0.25))).store(sin);
}

/// The waves of all places, one after another, by the definition: the twin of [`waves`], for naive
/// engines and oracles.
pub fn naive_waves(places: &[f32]) -> Vec<f32> {
    let mut all = Vec::with_capacity(places.len() * WAVES);
    for place in places {
        let angles = HARMONICS.map(|h| std::f64::consts::TAU * f64::from(h * place));
        all.extend(angles.map(|angle| angle.cos() as f32));
        all.extend(angles.map(|angle| angle.sin() as f32));
    }
    all
}

#[cfg(test)]
mod tests;
