//! `longwave inspect`: what a model is, in words and with its attention pattern drawn.

mod picture;

use std::fmt::Write;
use std::sync::Arc;

use crate::engine::Footprint;
use crate::model::{Head, Layer, Model, ModelConfig, V};

pub use picture::{Panel, PictureError, draw};

/// A page about the model: sizes, context, memory, and who sees whom.
pub fn describe(model: &Arc<Model>) -> String {
    let config = &model.config;
    let footprint = Footprint::of(config);
    let rate = config.sample_rate_hz;
    let rows = [
        ("model", model.name.clone()),
        ("sha256", model.sha256.clone()),
        ("parameters", thousands(n_parameters(model))),
        (
            "sample rate",
            format!("{rate} Hz, {:?} codes", config.codec),
        ),
        (
            "layers",
            format!(
                "{} of width {}, {} heads on {} KV heads of {}, MLP {}, convolution {}",
                config.n_layers(),
                config.d_model,
                config.n_heads,
                config.n_kv_heads,
                config.head_size(),
                config.mlp_width(),
                config.conv_width
            ),
        ),
        ("context", samples(config.context, rate)),
        ("depends on", depends_on(config)),
        (
            "repeats after",
            match config.cycle() {
                Some(cycle) if config.predictor.is_empty() => samples(cycle, rate),
                _ => "never".into(),
            },
        ),
        ("predictor", predictor(config)),
        (
            "int8 weights",
            format!("{} read in every step", bytes(footprint.weight_bytes)),
        ),
        (
            "state",
            format!(
                "{} for each lane; a station of a daemon has three, unless it is not watched",
                bytes(footprint.lane_bytes)
            ),
        ),
    ];
    let mut page = String::new();
    for (name, value) in rows {
        line(&mut page, format_args!("{name:<14}{value}"));
    }
    page.push('\n');
    draw_pattern(&mut page, &config.layers, rate);
    page
}

/// A line or more about a layer by itself: what it sees, and what it keeps for that.
pub fn describe_layer(layer: &Layer, rate: u32) -> String {
    let mut page = String::new();
    draw_pattern(&mut page, std::slice::from_ref(layer), rate);
    for head in layer.patterns() {
        let (slots, reach) = (
            thousands(head.n_slots() as u64),
            samples(head.reach(), rate),
        );
        let runs = match head.max_runs() {
            1 => "one run".into(),
            n => format!("{n} runs"),
        };
        line(
            &mut page,
            format_args!(
                "{}: keeps {slots} slots, reads {runs} of them, reaches {reach}",
                head.kind()
            ),
        );
    }
    page
}

/// The model's patterns, each once, for [`draw`].
pub fn panels(config: &ModelConfig) -> Vec<Panel<'_>> {
    let heads = config.layers.iter().enumerate();
    let heads = heads.flat_map(|(i, layer)| layer.patterns().map(move |head| (i, head)));
    let mut panels: Vec<(String, Panel<'_>)> = Vec::new();
    for (i, head) in heads {
        let is = format!("{head:?}");
        match panels.iter_mut().find(|(known, _)| *known == is) {
            Some((_, panel)) => panel.title += &format!(", {i}"),
            None => {
                let title = format!("{} in layers {i}", head.kind());
                panels.push((is, Panel { title, head }));
            }
        }
    }
    panels.into_iter().map(|(_, panel)| panel).collect()
}

/// How far back the output depends on what was heard.
fn depends_on(config: &ModelConfig) -> String {
    let mut rings = samples(config.receptive_field(), config.sample_rate_hz);
    if let Some(kept) = config
        .layers
        .iter()
        .map(Layer::kept)
        .max()
        .filter(|n| *n > 0)
    {
        write!(rings, ", and the first {}", thousands(kept)).expect("a String takes all");
    }
    match config.predictor.is_empty() {
        true => rings,
        false => format!("all of the stream: layers {rings}, filters more and more faintly"),
    }
}

fn predictor(config: &ModelConfig) -> String {
    let taps: Vec<String> = config
        .predictor
        .iter()
        .map(|f| f.taps.to_string())
        .collect();
    match taps.as_slice() {
        [] => "none".into(),
        taps => format!("{} filters of {} taps", taps.len(), taps.join(", ")),
    }
}

fn n_parameters(model: &Model) -> u64 {
    let (config, weights) = (&model.config, &model.weights);
    let (d, f) = (config.d_model, config.mlp_width());
    let attention = d * (2 * d + 2 * config.kv_width()) + d * config.conv_width + d;
    let shared = config.layers.iter().filter(|layer| layer.shares_queries());
    let shared = shared.count() * d * config.kv_width();
    let mlp = 2 * d * f + f + 2 * d;
    let ends = 2 * V * d + V + d + d * config.predictor_width();
    ((attention + mlp) * weights.layers.len() - shared + ends) as u64
}

/// One strip per layer, or per KV head where they differ: how much of the past it sees, on a
/// logarithmic scale of distance.
fn draw_pattern(page: &mut String, layers: &[Layer], rate: u32) {
    let farthest = layers.iter().map(|layer| layer.reach()).max().unwrap_or(1);
    let n_octaves = u64::BITS - farthest.saturating_sub(1).leading_zeros();
    // Of the strip; at least what stands above it.
    let width = (2 * n_octaves as usize + 2).max(14);
    line(
        page,
        format_args!(
            "what each layer sees: █ every position, ▄ some, ▁ few, ░ as it sounds, · none"
        ),
    );
    line(
        page,
        format_args!("{:18}now{:>w$}", "", seconds(farthest, rate), w = width - 3),
    );
    let heads = layers.iter().enumerate();
    let heads = heads.flat_map(|(i, layer)| layer.patterns().map(move |head| (i, head)));
    for (i, head) in heads {
        let strip: String = std::iter::once(0..1)
            .chain((0..2 * n_octaves).map(|half| half_octave(half)..half_octave(half + 1)))
            .filter(|distances| !distances.is_empty())
            .map(|distances| shade(head, distances))
            .collect();
        let mut keys = format!("{} keys", thousands(head.max_visible() as u64));
        if head.kept() > 0 {
            write!(keys, ", {} of them kept for ever", thousands(head.kept()))
                .expect("a String takes all that is written");
        }
        line(
            page,
            format_args!("{i:>3} {:<13} {strip}  {keys}", head.kind()),
        );
    }
}

/// Distances from here on belong to half octave `half` of the scale.
fn half_octave(half: u32) -> u64 {
    (2f64.powf(f64::from(half) / 2.0)).round() as u64
}

/// How densely the positions at these distances are seen, on the mean over some queries: what a
/// query sees may depend on where in its block it stands.
fn shade(head: &Head, distances: std::ops::Range<u64>) -> char {
    let pattern = match head {
        Head::Placed(pattern) => pattern,
        Head::Hashed(_) => {
            return if distances.start < head.reach() {
                '░'
            } else {
                '·'
            };
        }
    };
    const QUERIES: u64 = 8;
    const MOST: u64 = 4096;
    // Of many distances some, spread by the golden ratio.
    let n = (distances.end - distances.start).min(MOST);
    let at = |i: u64| match distances.end - distances.start {
        all if all > MOST => distances.start + i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % all,
        _ => distances.start + i,
    };
    // Steps that no block divides, over blocks of any size.
    let queries = (0..QUERIES).map(|i| (1 << 40) + i * 1_234_567);
    let pairs = queries.flat_map(|now| (0..n).map(move |i| (now, i)));
    let n = n * QUERIES;
    let seen = pairs
        .filter(|(now, i)| pattern.sees(*now, now - at(*i)))
        .count() as u64;
    match seen {
        0 => '·',
        seen if seen == n => '█',
        seen if seen * 8 >= n => '▄',
        _ => '▁',
    }
}

fn samples(n: u64, rate: u32) -> String {
    format!("{} samples, {}", thousands(n), seconds(n, rate))
}

fn seconds(n: u64, rate: u32) -> String {
    format!("{:.3} s", n as f64 / f64::from(rate))
}

fn bytes(n: usize) -> String {
    match n {
        n if n >= 1 << 20 => format!("{:.2} MiB", n as f64 / f64::from(1 << 20)),
        n => format!("{:.1} KiB", n as f64 / 1024.0),
    }
}

/// Digits in groups of three.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(page, "{text}").expect("a String takes all that is written");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_page_counts_the_parameters_that_the_tensors_hold() {
        let model = Model::load(Path::new("models/tiny")).unwrap();
        let named = model.weights.named();
        let all: usize = named.iter().map(|(_, tensor)| tensor.len()).sum();
        assert_eq!(n_parameters(&model), all as u64);
    }

    #[test]
    fn the_drawing_shows_local_layers_full_and_strided_ones_sparse() {
        let page = describe(&Arc::new(Model::load(Path::new("models/tiny")).unwrap()));
        let strip = |i: usize| {
            let start = format!("{i:>3} ");
            page.lines()
                .find(|line| line.starts_with(&start))
                .unwrap()
                .to_string()
        };
        assert!(
            strip(0).contains("████") && strip(0).contains('·'),
            "{page}"
        );
        assert!(strip(1).contains('▄'), "{page}");
    }

    #[test]
    fn the_nearest_and_the_farthest_layers_are_drawn() {
        let reach = crate::model::pattern::Defaults {
            stride: 256,
            context: 65_536,
        };
        for entry in [
            serde_json::json!({"kind": "local", "window": 1}),
            serde_json::json!({"kind": "local", "window": 1 << 26}),
            serde_json::json!({"kind": "random", "block": 64, "blocks": 1 << 20, "r": 64, "seed": 1}),
        ] {
            let layer = Layer::parse(&entry, &reach, 1).unwrap();
            let page = describe_layer(&layer, 16_000);
            assert!(page.contains('█'), "{page}");
        }
    }

    #[test]
    fn digits_are_grouped() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
