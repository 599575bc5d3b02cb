//! AdamW over the parameters of a network, and the average of their values.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor};

use super::ops::{self, AdamW, Moments};
use super::{Network, Parameter};

/// What is kept of every parameter from one iteration to the next.
#[derive(Debug)]
pub struct Optimiser {
    moments: Vec<Moments>,
}

/// The sum of the gradients of an iteration's passes, one a parameter.
#[derive(Debug, Default)]
pub struct Gradients(Vec<Tensor>);

impl Gradients {
    /// Adds what a pass of `share` of the iteration found.
    pub fn add(&mut self, parameters: &[Parameter], found: &GradStore, share: f64) -> Result<()> {
        for (i, parameter) in parameters.iter().enumerate() {
            let Some(gradient) = found.get(parameter.value.as_tensor()) else {
                candle_core::bail!("no gradient reaches {}", parameter.name);
            };
            // The one pass there mostly is needs no multiplication.
            let gradient = match share < 1.0 {
                true => (gradient * share)?,
                false => gradient.clone(),
            };
            match self.0.get_mut(i) {
                Some(sum) => *sum = (&*sum + gradient)?,
                None => self.0.push(gradient),
            }
        }
        Ok(())
    }
}

impl Optimiser {
    /// One that has seen nothing: moments of zero, averages that are the values.
    pub fn new(network: &Network) -> Result<Self> {
        let moments = network.parameters().iter().map(|parameter| {
            let value = parameter.value.as_tensor();
            Ok(Moments {
                first: value.zeros_like()?,
                second: value.zeros_like()?,
                average: value.copy()?.detach(),
            })
        });
        Ok(Self {
            moments: moments.collect::<Result<_>>()?,
        })
    }

    /// One that goes on with what another kept.
    pub fn from_moments(moments: Vec<Moments>) -> Self {
        Self { moments }
    }

    /// What is kept, in the order of the parameters.
    pub fn moments(&self) -> &[Moments] {
        &self.moments
    }

    /// The averaged values, in the order of the parameters.
    pub fn averages(&self) -> Vec<Tensor> {
        let averages = self.moments.iter().map(|moments| &moments.average);
        averages.cloned().collect()
    }

    /// Changes every parameter, and returns the sum of the squares of all gradients, `[1]`, which
    /// stays on the device. Where it is no finite number nothing was changed.
    pub fn step(&self, network: &Network, gradients: &Gradients, step: &AdamW) -> Result<Tensor> {
        let squares = Tensor::zeros(1, DType::F32, device(network))?;
        for gradient in &gradients.0 {
            ops::add_squares(&squares, gradient)?;
        }
        let all = network.parameters().iter().zip(&gradients.0);
        for ((parameter, gradient), moments) in all.zip(&self.moments) {
            let value = parameter.value.as_tensor();
            ops::adamw(value, gradient, moments, &parameter.decayed, &squares, step)?;
        }
        Ok(squares)
    }
}

/// Where the network is.
pub fn device(network: &Network) -> &Device {
    let first = network.parameters().first();
    first.map_or(&Device::Cpu, |parameter| {
        parameter.value.as_tensor().device()
    })
}
