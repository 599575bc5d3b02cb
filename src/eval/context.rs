//! How much of the past helps: the same codes predicted by streams that started a while before
//! them, and the same streams started longer before. Differences are taken block by block, so what
//! makes a block easy or hard does not hide what context does.

use serde::Serialize;

use super::{EvalError, Event, SplitCodes, Tell, mean_and_error};
use crate::corpus::Split;
use crate::model::ModelConfig;
use crate::train::{Scorer, spread};

/// Codes that are judged together.
const BLOCK: usize = 256;
/// The shortest context, and the factor from one to the next.
const FIRST: usize = 256;
const FACTOR: usize = 4;
/// No stream starts longer before its block.
const CONTEXT_MAX: usize = 1 << 20;
/// Blocks, where a device has time for so many.
pub const DEFAULT_TARGETS: usize = 256;
/// Codes that a CPU predicts in minutes, and the fewest blocks that give an error at all.
const CPU_CODES: usize = 4 << 20;
const TARGETS_MIN: usize = 8;

/// The curve of one split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Context {
    /// Which split.
    pub split: Split,
    /// Blocks judged.
    pub targets: usize,
    /// Codes of each.
    pub block: usize,
    /// From the shortest context to the longest.
    pub points: Vec<ContextPoint>,
}

/// What one context comes to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ContextPoint {
    /// Codes between the start of the stream and the block.
    pub context: usize,
    /// The same as time.
    pub seconds: f64,
    /// Bits per sample.
    pub bits_per_sample: f64,
    /// Bits that it saves over the context before, the mean over the blocks.
    pub gain: f64,
    /// Standard error of that.
    pub gain_error: f64,
    /// Bits that the longest context saves over this one.
    pub lacking: f64,
    /// Standard error of that.
    pub lacking_error: f64,
}

/// The contexts that make a difference to the model: none beyond what its output depends on.
pub fn contexts(config: &ModelConfig) -> Vec<usize> {
    let reach = config.receptive_field();
    let all = std::iter::successors(Some(FIRST), |context| Some(context * FACTOR));
    all.take_while(|&context| context <= CONTEXT_MAX)
        .take_while(|&context| context <= FIRST * FACTOR || context as u64 <= reach)
        .collect()
}

/// Blocks that the device has time for, unless somebody asked for a number.
pub fn n_targets(contexts: &[usize], device: &str) -> usize {
    let codes_each: usize = contexts.iter().map(|context| context + BLOCK).sum();
    match device {
        "cpu" => (CPU_CODES / codes_each).clamp(TARGETS_MIN, DEFAULT_TARGETS),
        _ => DEFAULT_TARGETS,
    }
}

/// Judges blocks that are spread over the split, each from every context.
pub fn measure(
    scorer: &Scorer,
    config: &ModelConfig,
    split: &SplitCodes,
    asked: Option<usize>,
    tell: Tell<'_>,
) -> Result<Context, EvalError> {
    let contexts = contexts(config);
    let longest = contexts.last().copied().unwrap_or(FIRST);
    split.check(longest + BLOCK)?;
    let n_targets = asked.unwrap_or_else(|| n_targets(&contexts, scorer.device()));
    let n_codes: usize = contexts.iter().map(|context| context + BLOCK).sum();
    let n_codes = (n_codes * n_targets) as u64;
    let mut n_done = 0;
    // By context, by block.
    let mut bits = vec![Vec::with_capacity(n_targets); contexts.len()];
    for start in spread(split.codes.len() - longest - BLOCK, n_targets) {
        let block = start + longest;
        for (context, bits) in contexts.iter().zip(&mut bits) {
            if tell(Event::Predicted { n_done, n_codes }).is_break() {
                return Err(EvalError::Interrupted);
            }
            let window = &split.codes[block - context..block + BLOCK];
            let of_window = scorer.bits(window)?;
            let of_block = of_window[*context..].iter().map(|&bits| f64::from(bits));
            bits.push(of_block.sum::<f64>() / BLOCK as f64);
            n_done += window.len() as u64;
        }
    }
    Ok(Context {
        split: split.split,
        targets: n_targets,
        block: BLOCK,
        points: points(&contexts, &bits, config.sample_rate_hz),
    })
}

fn points(contexts: &[usize], bits: &[Vec<f64>], rate_hz: u32) -> Vec<ContextPoint> {
    let saved = |worse: usize, better: usize| {
        let pairs = bits[worse].iter().zip(&bits[better]);
        mean_and_error(
            &pairs
                .map(|(worse, better)| worse - better)
                .collect::<Vec<_>>(),
        )
    };
    let point = |(i, &context): (usize, &usize)| {
        let (gain, gain_error) = saved(i.saturating_sub(1), i);
        let (lacking, lacking_error) = saved(i, contexts.len() - 1);
        ContextPoint {
            context,
            seconds: context as f64 / f64::from(rate_hz),
            bits_per_sample: mean_and_error(&bits[i]).0,
            gain,
            gain_error,
            lacking,
            lacking_error,
        }
    };
    contexts.iter().enumerate().map(point).collect()
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::path::Path;

    use super::*;
    use crate::eval::tests::noise;
    use crate::model::Model;
    use crate::train::DeviceChoice;

    /// The tiny model without its predictor.
    fn unforeseeing() -> Model {
        let mut model = Model::load(Path::new("models/tiny")).unwrap();
        model.config.predictor.clear();
        model.weights.predictor.clear();
        model
    }

    #[test]
    fn contexts_end_where_the_model_does() {
        let reference = include_str!("../../tests/golden/reference/config.json");
        let reference = ModelConfig::parse(reference).unwrap();
        assert_eq!(contexts(&reference), [256, 1_024, 4_096, 16_384, 65_536]);
        let tiny = Model::load(Path::new("models/tiny")).unwrap();
        assert_eq!(contexts(&tiny.config), [256, 1_024]);
        assert!((TARGETS_MIN..100).contains(&n_targets(&contexts(&reference), "cpu")));
        assert_eq!(n_targets(&contexts(&reference), "cuda"), DEFAULT_TARGETS);
    }

    #[test]
    fn a_model_that_hears_nothing_farther_gains_nothing() {
        // Filters would remember more.
        let model = unforeseeing();
        let config = model.config.clone();
        // Its output depends on 100 codes or so: more context changes nothing but rounding.
        assert!(config.receptive_field() < FIRST as u64);
        let split = noise(5_000);
        let scorer = Scorer::new(&model, DeviceChoice::Cpu.open().unwrap().device).unwrap();
        let curve = measure(&scorer, &config, &split, Some(3), &mut |_| {
            ControlFlow::Continue(())
        });
        let curve = curve.unwrap();
        assert_eq!(curve.targets, 3);
        let [short, long] = &curve.points[..] else {
            panic!("{curve:?}");
        };
        assert!((short.bits_per_sample - long.bits_per_sample).abs() < 1e-4);
        assert!(long.gain.abs() < 1e-4 && long.gain_error < 1e-4);
        assert_eq!((short.gain, long.lacking), (0.0, 0.0));
    }

    #[test]
    fn differences_are_paired() {
        // Blocks that differ by much, contexts by a constant: the error of the difference is 0.
        let bits = [vec![3.0, 5.0, 9.0], vec![2.5, 4.5, 8.5]];
        let points = points(&[256, 1_024], &bits, 16_000);
        assert_eq!((points[1].gain, points[1].gain_error), (0.5, 0.0));
        assert_eq!((points[0].lacking, points[0].seconds), (0.5, 0.016));
    }
}
