//! A network as a judge: what codes cost it, each predicted from those before in a window that
//! starts cold.

use candle_core::{Device, Tensor};

use super::Network;
use super::device;
use super::error::TrainError;
use super::inputs::Heard;
use super::windows::Batch;
use crate::model::Model;

/// A model on a device.
#[derive(Debug)]
pub struct Scorer {
    network: Network,
    device: Device,
}

impl Scorer {
    /// Puts the model on the device.
    pub fn new(model: &Model, device: Device) -> Result<Self, TrainError> {
        device::check(&model.config, &device).map_err(TrainError::Setting)?;
        let network = Network::from_weights(&model.config, &model.weights, &device)?;
        Ok(Self { network, device })
    }

    /// The device in a word.
    pub fn device(&self) -> &'static str {
        device::name(&self.device)
    }

    /// −log2 p of every code of the window.
    pub fn bits(&self, window: &[u8]) -> Result<Vec<f32>, TrainError> {
        let nats = surprise(&self.network, &self.device, window)?;
        let bits = (nats / std::f64::consts::LN_2)?;
        Ok(bits.to_vec1()?)
    }
}

/// The mean of −log2 p over the window.
pub(super) fn mean_bits(
    network: &Network,
    device: &Device,
    window: &[u8],
) -> Result<f64, TrainError> {
    let nats: Vec<f32> = surprise(network, device, window)?.to_vec1()?;
    let sum: f64 = nats.iter().map(|&nats| f64::from(nats)).sum();
    Ok(sum / window.len() as f64 / std::f64::consts::LN_2)
}

/// −ln p of every code of the window, `[T]`.
fn surprise(network: &Network, device: &Device, window: &[u8]) -> Result<Tensor, TrainError> {
    let (batch, shape) = (Batch::of(&[window]), (1, window.len()));
    let inputs = Heard::new(&network.config.predictor, batch.inputs, window.len()).on(device)?;
    let targets = Tensor::from_vec(batch.targets, shape, device)?;
    Ok(network.surprise(&inputs, &targets)?.flatten_all()?)
}

/// `n` whole numbers from 0 to `last`, evenly: floor(i · last / (n − 1)).
pub fn spread(last: usize, n: usize) -> impl Iterator<Item = usize> {
    (0..n).map(move |i| (i as u128 * last as u128 / (n as u128 - 1).max(1)) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_spread_from_end_to_end() {
        let starts = |last, n| spread(last, n).collect::<Vec<_>>();
        assert_eq!(starts(10, 4), [0, 3, 6, 10]);
        assert_eq!(starts(7, 1), [0]);
        assert_eq!(starts(0, 2), [0, 0]);
    }
}
