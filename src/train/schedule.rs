//! What changes from iteration to iteration: the learning rate, and how long the average looks
//! back. Pure functions of the recipe and of what is done, so a training resumes where it was.

use super::recipe::Recipe;

/// The learning rate of the iteration after `n_done`, when `share` of the budget is used: up in a
/// line over the warm-up, level as far as `hold`, then down in a line to the floor.
pub fn learning_rate(recipe: &Recipe, n_done: u64, share: f64) -> f64 {
    let risen = ((n_done + 1) as f64 / recipe.warmup.max(1) as f64).min(1.0);
    let beyond = (share - recipe.hold) / (1.0 - recipe.hold).max(f64::MIN_POSITIVE);
    let fallen = 1.0 - (1.0 - recipe.floor) * beyond.clamp(0.0, 1.0);
    recipe.lr * risen * fallen
}

/// The share of the average that the iteration after `n_done` keeps: little at first, when the
/// weights leave their random start, then that of the recipe.
pub fn average_kept(recipe: &Recipe, n_done: u64) -> f32 {
    let young = (n_done + 1) as f32 / (n_done + 10) as f32;
    young.min(recipe.ema)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_stays_and_falls_to_the_floor() {
        let recipe = Recipe {
            lr: 1.0,
            warmup: 10,
            hold: 0.3,
            floor: 0.02,
            ..Recipe::default()
        };
        let at = |n_done, share| learning_rate(&recipe, n_done, share);
        assert_eq!((at(0, 0.0), at(4, 0.0), at(9, 0.0)), (0.1, 0.5, 1.0));
        assert_eq!((at(100, 0.1), at(100, 0.3)), (1.0, 1.0));
        assert!((at(100, 0.65) - 0.51).abs() < 1e-9);
        assert!((at(100, 1.0) - 0.02).abs() < 1e-9);
        assert!(
            (at(100, 7.0) - 0.02).abs() < 1e-9,
            "a budget that is overrun"
        );
    }

    #[test]
    fn extremes_give_numbers() {
        let recipe = Recipe {
            warmup: 0,
            hold: 1.0,
            ..Recipe::default()
        };
        assert_eq!(learning_rate(&recipe, 0, 1.0), recipe.lr);
        assert_eq!(average_kept(&recipe, 0), 0.1);
        assert_eq!(average_kept(&recipe, 1 << 30), recipe.ema);
    }
}
