//! Which codes a pass learns from: a pure function of the seed and the number of the pass, so a
//! training that was interrupted goes on with the windows it would have had.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rand_distr::{Distribution, Geometric, Normal};

use super::recipe::Recipe;
use crate::mulaw;

/// Windows of one pass, one after another: `[B, T]` each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// What the network hears: the targets a place later, silence first, perhaps disturbed.
    pub inputs: Vec<u8>,
    /// What it shall predict.
    pub targets: Vec<u8>,
}

impl std::ops::AddAssign for Batch {
    /// Windows after windows.
    fn add_assign(&mut self, other: Self) {
        self.inputs.extend(other.inputs);
        self.targets.extend(other.targets);
    }
}

impl Batch {
    /// Room for `n` codes.
    fn with_capacity(n: usize) -> Self {
        Self {
            inputs: Vec::with_capacity(n),
            targets: Vec::with_capacity(n),
        }
    }

    /// Adds a window that starts cold.
    fn push(&mut self, targets: &[u8]) {
        self.inputs.push(mulaw::SILENCE);
        self.inputs.extend(&targets[..targets.len() - 1]);
        self.targets.extend(targets);
    }

    /// Windows of equal length, none of them disturbed.
    pub fn of(windows: &[&[u8]]) -> Self {
        let mut batch = Self::with_capacity(windows.iter().map(|window| window.len()).sum());
        for window in windows {
            batch.push(window);
        }
        batch
    }
}

/// The windows of a pass, counted over the whole training. `codes` hold at least one window.
pub fn draw(codes: &[u8], recipe: &Recipe, pass: u64) -> Batch {
    let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed);
    // Stream 0 is where the weights came from.
    rng.set_stream(1 + pass);
    let n_starts = (codes.len() - recipe.window + 1) as u64;
    let mut batch = Batch::with_capacity(recipe.batch * recipe.window);
    for _ in 0..recipe.batch {
        let start = below(&mut rng, n_starts) as usize;
        batch.push(&codes[start..][..recipe.window]);
    }
    for window in batch.inputs.chunks_mut(recipe.window) {
        disturb(&mut window[1..], recipe, &mut rng);
    }
    batch
}

/// A whole number below `n`, all alike to within n / 2⁶⁴.
fn below(rng: &mut ChaCha8Rng, n: u64) -> u64 {
    ((u128::from(rng.next_u64()) * u128::from(n)) >> 64) as u64
}

/// Moves some codes and replaces some, as the recipe says.
fn disturb(inputs: &mut [u8], recipe: &Recipe, rng: &mut ChaCha8Rng) {
    let width = Normal::new(0.0, recipe.noise_width).expect("a checked recipe");
    some(
        inputs,
        recipe.input_noise,
        recipe.noise_run,
        rng,
        &mut |code, rng| {
            let moved = f64::from(*code) + width.sample(rng).round();
            *code = moved.clamp(0.0, 255.0) as u8;
        },
    );
    some(inputs, recipe.input_replace, 1.0, rng, &mut |code, rng| {
        *code = rng.next_u32() as u8;
    });
}

/// Visits a `share` of the codes in runs of `run` on average, by drawing how long each run is and
/// how far it is to the next.
fn some(
    codes: &mut [u8],
    share: f64,
    run: f64,
    rng: &mut ChaCha8Rng,
    change: &mut dyn FnMut(&mut u8, &mut ChaCha8Rng),
) {
    if share == 0.0 {
        return;
    }
    let mean_gap = run * (1.0 - share) / share;
    let begins = 1.0 / (1.0 + mean_gap);
    let gap = Geometric::new(begins).expect("a checked recipe");
    let more = Geometric::new(1.0 / run).expect("a checked recipe");
    // A window is a piece of something longer: it may begin within a run.
    let is_within = (rng.next_u32() as f64) < share * 2f64.powi(32);
    let mut at = match is_within {
        true => 0,
        false => gap.sample(rng).saturating_add(1),
    };
    loop {
        let end = at.saturating_add(1).saturating_add(more.sample(rng));
        let Some(rest) = codes.get_mut(at as usize..) else {
            return;
        };
        let n = ((end - at) as usize).min(rest.len());
        rest[..n].iter_mut().for_each(|code| change(code, rng));
        at = end.saturating_add(gap.sample(rng));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        Recipe {
            window: 500,
            batch: 3,
            accumulate: 2,
            seed: 7,
            ..Recipe::default()
        }
    }

    fn codes() -> Vec<u8> {
        (0..10_000u32).map(|i| (i * i / 7 % 251) as u8).collect()
    }

    #[test]
    fn windows_are_a_function_of_seed_and_pass() {
        let (codes, recipe) = (codes(), recipe());
        let batch = draw(&codes, &recipe, 40);
        assert_eq!(batch, draw(&codes, &recipe, 40));
        let other = Recipe {
            seed: 8,
            ..recipe.clone()
        };
        assert_ne!(batch, draw(&codes, &recipe, 41));
        assert_ne!(batch, draw(&codes, &other, 40));
    }

    #[test]
    fn inputs_are_the_targets_a_place_later_and_every_window_starts_cold() {
        let codes = codes();
        let batch = draw(&codes, &recipe(), 0);
        for (inputs, targets) in batch.inputs.chunks(500).zip(batch.targets.chunks(500)) {
            assert_eq!(inputs[0], mulaw::SILENCE);
            assert_eq!(inputs[1..], targets[..499]);
            assert!(codes.windows(500).any(|window| window == targets));
        }
    }

    #[test]
    fn the_first_and_the_last_window_are_drawn_too() {
        let codes: Vec<u8> = (0..10).collect();
        let recipe = Recipe {
            window: 8,
            batch: 1,
            ..recipe()
        };
        let mut starts: Vec<u8> = (0..60)
            .map(|i| draw(&codes, &recipe, i).targets[0])
            .collect();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(starts, [0, 1, 2]);
    }

    /// What is heard of silence.
    fn heard_of_silence(n: usize, recipe: Recipe) -> Batch {
        let recipe = Recipe {
            window: n,
            batch: 1,
            ..recipe
        };
        draw(&vec![128; n], &recipe, 0)
    }

    fn share_moved(inputs: &[u8]) -> f64 {
        inputs.iter().filter(|&&code| code != 128).count() as f64 / inputs.len() as f64
    }

    #[test]
    fn noise_in_runs_leaves_long_stretches_alone() {
        let recipe = Recipe {
            input_noise: 0.3,
            noise_run: 2_000.0,
            ..recipe()
        };
        let inputs = heard_of_silence(2_000_000, recipe).inputs;
        // A tenth of the moves round to none.
        let share = share_moved(&inputs);
        assert!((0.23..0.32).contains(&share), "{share}");
        let shares = inputs.chunks(200).map(share_moved);
        let quiet = shares.clone().filter(|&share| share == 0.0).count();
        let loud = shares.filter(|&share| share > 0.8).count();
        assert!(quiet > 6_000 && loud > 2_000, "{quiet} {loud}");
    }

    #[test]
    fn a_window_may_begin_within_a_run() {
        let recipe = Recipe {
            input_noise: 0.5,
            noise_run: 1e6,
            ..recipe()
        };
        let begins = (0..40).filter(|&seed| {
            let recipe = Recipe {
                seed,
                ..recipe.clone()
            };
            share_moved(&heard_of_silence(100, recipe).inputs) > 0.5
        });
        assert!((10..30).contains(&begins.count()));
    }

    #[test]
    fn noise_disturbs_its_share_of_the_inputs_and_no_target() {
        let recipe = Recipe {
            input_noise: 0.05,
            input_replace: 0.001,
            ..recipe()
        };
        let batch = heard_of_silence(100_000, recipe.clone());
        assert!(batch.targets.iter().all(|&code| code == 128));
        let moved = share_moved(&batch.inputs);
        // A tenth of the moves round to none.
        assert!((0.042..0.052).contains(&moved), "{moved}");
        let far = batch.inputs.iter().filter(|&&code| code.abs_diff(128) > 24);
        assert!((50..120).contains(&far.count()));
        let all = Recipe {
            input_replace: 1.0,
            ..recipe
        };
        assert!(share_moved(&heard_of_silence(100_000, all).inputs) > 0.994);
    }
}
