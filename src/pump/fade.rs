//! From one lane of a stream to another, without a click and without a hole: a station returns from
//! a collapse so, and any stream goes over to what a new prompt has begun.

use std::f32::consts::FRAC_PI_2;

use super::stream::Stream;
use crate::control::ChunkShape;
use crate::engine::Turn;
use crate::mulaw;

/// Long enough not to click, and short because it costs a lane more while it lasts. A lead of 100 ms
/// bears that up to a load of 0.7, where a chunk of two lanes takes 1.4 times as long as it plays;
/// beyond, a card may run dry once and fade. Admission does not count it: stations would be refused for
/// what one takes in a quarter of a second, if ever.
pub(super) const FADE_S: f64 = 0.25;

/// A lane that fades in beside the stream's own, if one does.
#[derive(Debug)]
pub(super) struct Fade {
    lane: Option<usize>,
    /// How much is done, in codes.
    n_faded: usize,
    len: usize,
    /// What the lane that fades in has drawn.
    codes: Box<[u8]>,
    samples: Box<[f32; 256]>,
}

impl Fade {
    pub fn new(chunk: ChunkShape) -> Self {
        let samples = std::array::from_fn(|code| mulaw::decode(code as u8));
        Self {
            lane: None,
            n_faded: 0,
            len: (FADE_S * f64::from(chunk.rate_hz)) as usize,
            codes: vec![0; chunk.len].into(),
            samples: Box::new(samples),
        }
    }

    /// From the next chunk on `lane` draws, too, and in the end it alone.
    pub fn begin(&mut self, lane: usize) {
        (self.lane, self.n_faded) = (Some(lane), 0);
    }

    /// Stops where it is.
    pub fn cancel(&mut self) {
        self.lane = None;
    }

    /// The one that fades in.
    pub fn lane(&self) -> Option<usize> {
        self.lane
    }

    pub fn is_running(&self) -> bool {
        self.lane.is_some()
    }

    /// What the lane that fades in draws beside the stream's `turn`.
    pub fn turn<'a>(&'a mut self, turn: &Turn<'a>) -> Option<Turn<'a>> {
        self.lane.map(|lane| Turn {
            lane,
            draw: turn.draw,
            uniforms: turn.uniforms,
            codes: &mut self.codes[..turn.uniforms.len()],
        })
    }

    /// Fades from what the stream has drawn into what was drawn beside it. At the end of the fade the
    /// stream has the new lane, and the old one is given back.
    pub fn mix(&mut self, stream: &mut Stream) -> Option<usize> {
        let mut lane = self.lane?;
        // The two have nothing to do with each other: their powers add up, so that of the sum
        // stays.
        let turn = FRAC_PI_2 / self.len as f32;
        let codes = stream.codes_mut().iter_mut().zip(&self.codes);
        let mut at = self.n_faded;
        for (old, new) in codes {
            *old = match at < self.len {
                true => {
                    let (up, down) = (turn * at as f32).sin_cos();
                    let sample = |code: u8| self.samples[usize::from(code)];
                    let mixed = down * sample(*old) + up * sample(*new);
                    mulaw::encode(mixed).unwrap_or(mulaw::SILENCE)
                }
                false => *new,
            };
            at += 1;
        }
        self.n_faded = at;
        if at < self.len {
            return None;
        }
        self.lane = None;
        stream.swap_lane(&mut lane);
        Some(lane)
    }
}
