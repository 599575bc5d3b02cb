//! What the network hears of windows: codes, and where the predictor expects the next.

use candle_core::{D, Device, Result, Tensor};
use rayon::prelude::*;

use super::ops;
use crate::predictor::{self, FilterPlan};

/// Windows on the host, one after another: `[B, T]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// The code before each position.
    codes: Vec<u8>,
    /// `[B, T, P]`
    places: Vec<f32>,
    /// P; 0 without a predictor.
    n_places: usize,
    window: usize,
}

impl Heard {
    /// Windows of `window` codes, each heard from a cold start, on all cores.
    pub fn new(plan: &[FilterPlan], codes: Vec<u8>, window: usize) -> Self {
        let each = |window: &[u8]| predictor::places(plan, window);
        let places: Vec<_> = codes.par_chunks(window).map(each).collect();
        Self {
            codes,
            places: places.concat(),
            n_places: match plan {
                [] => 0,
                plan => predictor::n_places(plan),
            },
            window,
        }
    }

    /// Takes them to a device.
    pub fn on(self, device: &Device) -> Result<Inputs> {
        let (n, t) = (self.codes.len() / self.window, self.window);
        let places = match self.n_places {
            0 => None,
            p => Some(Tensor::from_vec(self.places, (n, t, p), device)?),
        };
        Ok(Inputs {
            codes: Tensor::from_vec(self.codes, (n, t), device)?,
            places,
        })
    }
}

/// Windows on a device.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// `[B, T]` u8
    codes: Tensor,
    /// `[B, T, P]` f32
    places: Option<Tensor>,
}

impl Inputs {
    /// Some of the windows.
    pub fn narrow(&self, first: usize, n: usize) -> Result<Self> {
        let of = |all: &Tensor| all.narrow(0, first, n);
        Ok(Self {
            codes: of(&self.codes)?,
            places: self.places.as_ref().map(of).transpose()?,
        })
    }

    /// B and T.
    pub fn dims(&self) -> Result<(usize, usize)> {
        self.codes.dims2()
    }

    /// `[B·T]` u8
    pub fn codes(&self) -> Result<Tensor> {
        self.codes.flatten_all()
    }

    /// `[B·T, predictor_width]`, an activation: cosines and sines of every place.
    pub fn waves(&self) -> Result<Option<Tensor>> {
        let Some(places) = &self.places else {
            return Ok(None);
        };
        let device = places.device();
        let (b, t, p) = places.dims3()?;
        let harmonics = Tensor::new(&predictor::HARMONICS, device)?;
        let turns = places.unsqueeze(D::Minus1)?.broadcast_mul(&harmonics)?;
        // Whole turns would cost the angle its last digits.
        let angles = ((&turns - turns.round()?)? * std::f64::consts::TAU)?;
        let waves = Tensor::cat(&[angles.cos()?, angles.sin()?], D::Minus1)?;
        let waves = waves.reshape((b * t, p * predictor::WAVES))?;
        Ok(Some(waves.to_dtype(ops::activation_type(device))?))
    }
}
