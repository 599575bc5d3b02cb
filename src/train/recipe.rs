//! How a network is trained: every number that is not the model's, each with its one default.
//!
//! The defaults are the recipe of the preset `piano-16k`; a preset changes some,
//! the command line any, and `run.json` keeps what came of it.

use serde::{Deserialize, Serialize};

/// The settings of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// `T`, codes of a window.
    pub window: usize,
    /// Windows that pass through the network at once.
    pub batch: usize,
    /// Batches whose gradients make one iteration.
    pub accumulate: usize,
    /// Learning rate, at its height.
    pub lr: f64,
    /// Share of the gradient's mean that an iteration keeps.
    pub beta1: f32,
    /// Share of the mean of its square that an iteration keeps.
    pub beta2: f32,
    /// Added to the root of that mean.
    pub eps: f32,
    /// Weight decay of matrices.
    pub decay: f32,
    /// Longest gradient, all parameters together.
    pub clip: f32,
    /// Iterations in which the learning rate rises to its height.
    pub warmup: u64,
    /// Share of the budget up to which it stays there.
    pub hold: f64,
    /// Share of its height at which it ends.
    pub floor: f64,
    /// Share of the averaged weights that an iteration keeps, once there are many iterations.
    pub ema: f32,
    /// Share of the input codes that are moved a little.
    pub input_noise: f64,
    /// By so many codes, the standard deviation.
    pub noise_width: f64,
    /// In runs of so many codes, on average; between them nothing is moved.
    pub noise_run: f64,
    /// Share of the input codes that are replaced by any.
    pub input_replace: f64,
    /// Share of the budget up to which inputs are moved and replaced; from there on they are clean.
    pub noise_until: f64,
    /// What weights and windows are drawn from.
    pub seed: u64,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            window: 65_536,
            batch: 2,
            accumulate: 1,
            lr: 3e-3,
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-8,
            decay: 0.05,
            clip: 1.0,
            warmup: 300,
            hold: 0.3,
            floor: 0.02,
            ema: 0.999,
            input_noise: 0.0,
            noise_width: 4.0,
            noise_run: 1.0,
            input_replace: 0.0,
            noise_until: 1.0,
            seed: 0,
        }
    }
}

impl Recipe {
    /// Codes that are predicted in one iteration.
    pub fn samples_per_iteration(&self) -> u64 {
        (self.accumulate * self.batch * self.window) as u64
    }

    /// The same with nothing done to the inputs.
    pub fn clean(&self) -> Self {
        Self {
            input_noise: 0.0,
            input_replace: 0.0,
            ..self.clone()
        }
    }

    /// Refuses what cannot be trained with, in words that name the setting.
    pub fn check(&self) -> Result<(), String> {
        let size = |name: &str, value: usize, most: usize| match (1..=most).contains(&value) {
            true => Ok(()),
            false => Err(format!("{name} is {value}; it must be from 1 to {most}")),
        };
        let number =
            |name: &str, value: f64, least: f64, most: f64| match (least..=most).contains(&value) {
                true => Ok(()),
                false => Err(format!(
                    "{name} is {value}; it must be from {least} to {most}"
                )),
            };
        // A share so small that nothing is ever drawn would be waited for in vain.
        let share = |name: &str, value: f64| match value == 0.0 {
            true => Ok(()),
            false => number(name, value, 1e-9, 1.0),
        };
        size("window", self.window, 1 << 22)?;
        size("batch", self.batch, 4096)?;
        size("accumulate", self.accumulate, 4096)?;
        number("lr", self.lr, 1e-9, 1.0)?;
        number("beta1", self.beta1.into(), 0.0, 0.9999)?;
        number("beta2", self.beta2.into(), 0.0, 0.999_999)?;
        number("eps", self.eps.into(), 1e-20, 1.0)?;
        number("decay", self.decay.into(), 0.0, 10.0)?;
        number("clip", self.clip.into(), 1e-6, 1e6)?;
        number("hold", self.hold, 0.0, 1.0)?;
        number("floor", self.floor, 0.0, 1.0)?;
        number("ema", self.ema.into(), 0.0, 0.999_999)?;
        share("input_noise", self.input_noise)?;
        number("noise_width", self.noise_width, 0.0, 256.0)?;
        number("noise_run", self.noise_run, 1.0, 1e9)?;
        share("input_replace", self.input_replace)?;
        number("noise_until", self.noise_until, 0.0, 1.0)
    }
}

/// How long a training lasts, all its resumptions together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// By the clock, while iterations run.
    Minutes(f64),
    /// Codes predicted.
    Samples(u64),
}

/// How far a training has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Iterations done.
    pub iteration: u64,
    /// Codes predicted.
    pub samples: u64,
    /// Seconds that this took.
    pub seconds: f64,
}

impl Budget {
    /// The share of the budget that is used: 1 is all, more is possible.
    pub fn share(&self, done: &Progress) -> f64 {
        match *self {
            Self::Minutes(minutes) => done.seconds / (60.0 * minutes),
            Self::Samples(samples) => done.samples as f64 / samples as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_right_and_nonsense_is_named() {
        assert_eq!(Recipe::default().check(), Ok(()));
        let refusal = |change: fn(&mut Recipe)| {
            let mut recipe = Recipe::default();
            change(&mut recipe);
            recipe.check().unwrap_err()
        };
        assert!(refusal(|r| r.batch = 0).contains("batch is 0"));
        assert!(refusal(|r| r.lr = f64::NAN).contains("lr is NaN"));
        assert!(refusal(|r| r.ema = 1.0).contains("ema is 1"));
        assert!(refusal(|r| r.input_noise = 1e-17).contains("input_noise is"));
    }

    #[test]
    fn a_recipe_and_a_budget_survive_being_written() {
        let recipe = Recipe {
            lr: 1.25e-3,
            seed: u64::MAX,
            ..Recipe::default()
        };
        let text = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<Recipe>(&text).unwrap(), recipe);
        for budget in [Budget::Minutes(0.1), Budget::Samples(1 << 40)] {
            let text = serde_json::to_string(&budget).unwrap();
            assert_eq!(serde_json::from_str::<Budget>(&text).unwrap(), budget);
        }
    }
}
