//! Windows on their way to the device. A copy to a GPU waits until the GPU has done all it was told
//! before, so windows travel there for many passes together.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use super::recipe::Recipe;
use super::windows;

/// Codes that travel together, as many passes as they make.
const CODES: usize = 2 << 20;
/// Passes are never more: windows that are drawn and not used are lost time.
const PASSES_MAX: usize = 16;

/// Passes that are on the device already.
#[derive(Debug, Default)]
pub struct Feed {
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    passes: Range<u64>,
    /// `[B, T]` u8 of each pass, one after another.
    inputs: Tensor,
    targets: Tensor,
}

impl Feed {
    /// Inputs and targets `[B, T]` u8 of a pass, counted over the whole training.
    pub fn pass(
        &mut self,
        codes: &[u8],
        recipe: &Recipe,
        pass: u64,
        device: &Device,
    ) -> Result<(Tensor, Tensor)> {
        let held = match self.held.take().filter(|held| held.passes.contains(&pass)) {
            Some(held) => held,
            None => {
                let n = match device.is_cpu() {
                    true => 1,
                    false => (CODES / (recipe.batch * recipe.window)).clamp(1, PASSES_MAX),
                };
                Held::fetch(codes, recipe, pass..pass + n as u64, device)?
            }
        };
        let row = (pass - held.passes.start) as usize * recipe.batch;
        let of = |all: &Tensor| all.narrow(0, row, recipe.batch);
        let windows = (of(&held.inputs)?, of(&held.targets)?);
        self.held = Some(held);
        Ok(windows)
    }
}

impl Held {
    fn fetch(codes: &[u8], recipe: &Recipe, passes: Range<u64>, device: &Device) -> Result<Self> {
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for pass in passes.clone() {
            let mut batch = windows::draw(codes, recipe, pass);
            inputs.append(&mut batch.inputs);
            targets.append(&mut batch.targets);
        }
        let shape = (inputs.len() / recipe.window, recipe.window);
        Ok(Self {
            passes,
            inputs: Tensor::from_vec(inputs, shape, device)?,
            targets: Tensor::from_vec(targets, shape, device)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_has_its_own_windows_whatever_travels_with_it() {
        let codes: Vec<u8> = (0..9_000u32).map(|i| (i * i / 11) as u8).collect();
        let recipe = Recipe {
            window: 50,
            batch: 3,
            ..Recipe::default()
        };
        let held = Held::fetch(&codes, &recipe, 10..14, &Device::Cpu).unwrap();
        let mut feed = Feed { held: Some(held) };
        for pass in [10, 13, 12, 9, 500] {
            let (inputs, targets) = feed.pass(&codes, &recipe, pass, &Device::Cpu).unwrap();
            let batch = windows::draw(&codes, &recipe, pass);
            let all = |t: Tensor| t.flatten_all().unwrap().to_vec1::<u8>().unwrap();
            assert_eq!(inputs.dims(), [3, 50]);
            assert_eq!((all(inputs), all(targets)), (batch.inputs, batch.targets));
        }
    }
}
