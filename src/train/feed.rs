//! Windows on their way to the device. A copy to a GPU waits until the GPU has done all it was told
//! before, so windows travel there for many passes together; and while it computes, the CPU's cores
//! draw the next.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::inputs::{Heard, Inputs};
use super::recipe::Recipe;
use super::windows::{self, Batch};
use crate::predictor::FilterPlan;

/// Codes that travel together, as many passes as they make.
const CODES: usize = 2 << 20;
/// Passes are never more: windows that are drawn and not used are lost time.
const PASSES_MAX: usize = 16;

/// Where windows come from, and those that are on the device already.
#[derive(Debug)]
pub struct Feed {
    source: Arc<Source>,
    device: Device,
    held: Option<Held>,
    next: Option<Receiver<Drawn>>,
}

/// What windows are a function of, besides the number of their pass.
#[derive(Debug)]
struct Source {
    codes: Vec<u8>,
    noisy: Recipe,
    clean: Recipe,
    predictor: Vec<FilterPlan>,
}

/// Which windows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Order {
    passes: Range<u64>,
    is_noisy: bool,
}

/// Windows on the host.
#[derive(Debug)]
struct Drawn {
    order: Order,
    inputs: Heard,
    targets: Vec<u8>,
}

/// Windows on the device.
#[derive(Debug)]
struct Held {
    order: Order,
    inputs: Inputs,
    /// `[B, T]` u8 of each pass, one after another.
    targets: Tensor,
}

impl Source {
    fn draw(&self, order: Order) -> Drawn {
        let recipe = match order.is_noisy {
            true => &self.noisy,
            false => &self.clean,
        };
        let each = |pass| windows::draw(&self.codes, recipe, pass);
        let batches: Vec<Batch> = order.passes.clone().into_par_iter().map(each).collect();
        let mut all = Batch::default();
        batches.into_iter().for_each(|batch| all += batch);
        Drawn {
            order,
            inputs: Heard::new(&self.predictor, all.inputs, recipe.window),
            targets: all.targets,
        }
    }
}

impl Order {
    fn has(&self, pass: u64, is_noisy: bool) -> bool {
        self.passes.contains(&pass) && self.is_noisy == is_noisy
    }
}

impl Drawn {
    fn on(self, window: usize, device: &Device) -> Result<Held> {
        let shape = (self.targets.len() / window, window);
        Ok(Held {
            order: self.order,
            inputs: self.inputs.on(device)?,
            targets: Tensor::from_vec(self.targets, shape, device)?,
        })
    }
}

impl Feed {
    /// Windows of `codes` for a device.
    pub fn new(codes: Vec<u8>, recipe: Recipe, predictor: Vec<FilterPlan>, device: Device) -> Self {
        let source = Source {
            codes,
            clean: recipe.clean(),
            noisy: recipe,
            predictor,
        };
        Self {
            source: Arc::new(source),
            device,
            held: None,
            next: None,
        }
    }

    /// Inputs and targets `[B, T]` u8 of a pass, counted over the whole training; noisy as the
    /// recipe says, or clean.
    pub fn pass(&mut self, pass: u64, is_noisy: bool) -> Result<(Inputs, Tensor)> {
        let (batch, window) = (self.source.noisy.batch, self.source.noisy.window);
        let held = self.held.take();
        let held = match held.filter(|held| held.order.has(pass, is_noisy)) {
            Some(held) => held,
            None => self.fetch(pass, is_noisy).on(window, &self.device)?,
        };
        let row = (pass - held.order.passes.start) as usize * batch;
        let windows = (
            held.inputs.narrow(row, batch)?,
            held.targets.narrow(0, row, batch)?,
        );
        self.held = Some(held);
        Ok(windows)
    }

    /// The windows from `pass` on; the next ones are drawn meanwhile.
    fn fetch(&mut self, pass: u64, is_noisy: bool) -> Drawn {
        let recipe = &self.source.noisy;
        let n = (CODES / (recipe.batch * recipe.window)).clamp(1, PASSES_MAX) as u64;
        let order = |first| Order {
            passes: first..first + n,
            is_noisy,
        };
        let waiting = self.next.take().and_then(|next| next.recv().ok());
        let drawn = match waiting.filter(|drawn| drawn.order == order(pass)) {
            Some(drawn) => drawn,
            None => self.source.draw(order(pass)),
        };
        let (sender, next) = mpsc::channel();
        let (source, following) = (self.source.clone(), order(drawn.order.passes.end));
        rayon::spawn(move || {
            // Nobody waits for it where the training has ended.
            let _ = sender.send(source.draw(following));
        });
        self.next = Some(next);
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_has_its_own_windows_whatever_travels_with_it() {
        let codes: Vec<u8> = (0..9_000u32).map(|i| (i * i / 11) as u8).collect();
        let noisy = Recipe {
            window: 50,
            batch: 3,
            input_noise: 0.5,
            ..Recipe::default()
        };
        let predictor = vec![FilterPlan {
            taps: 16,
            rate: 0.1,
            leak: 0.0,
        }];
        let mut feed = Feed::new(codes.clone(), noisy.clone(), predictor.clone(), Device::Cpu);
        let n = PASSES_MAX as u64;
        let passes = [10, 13, 10 + n - 1, 10 + n, 10 + n + 3, 9, 500];
        let clean = [501, 502, 501 + n].map(|pass| (pass, false));
        for (pass, is_noisy) in passes.map(|pass| (pass, true)).into_iter().chain(clean) {
            let (inputs, targets) = feed.pass(pass, is_noisy).unwrap();
            let recipe = if is_noisy { &noisy } else { &noisy.clean() };
            let batch = windows::draw(&codes, recipe, pass);
            assert_eq!(batch == windows::draw(&codes, &noisy, pass), is_noisy);
            let alone = Heard::new(&predictor, batch.inputs.clone(), 50).on(&Device::Cpu);
            let waves = |inputs: &Inputs| {
                let waves = inputs.waves().unwrap().unwrap();
                waves.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            assert_eq!(waves(&inputs), waves(&alone.unwrap()));
            let all = |t: Tensor| t.flatten_all().unwrap().to_vec1::<u8>().unwrap();
            assert_eq!(inputs.dims().unwrap(), (3, 50));
            assert_eq!(all(inputs.codes().unwrap()), batch.inputs);
            assert_eq!(all(targets), batch.targets);
        }
    }
}
