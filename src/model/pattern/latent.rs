//! `latent`: every input of the context, from the first layer alone (Perceiver AR, arXiv 2202.07765).
//!
//! Perceiver AR attends once from its last `latents` positions to all inputs, by cross-attention over
//! their embeddings, and then works among the latents alone. The first layer's keys are made of the
//! embeddings, so a dense window there *is* that cross-attention, and the rule that no later layer
//! reaches over more than `latents` positions is the rest. What differs: when the paper's window
//! moves, every latent's inputs change and all are computed anew; here a position becomes a latent
//! once, with the `inputs` before it, and its keys in the layers above stay what they are. So a step
//! computes one latent and reads `inputs` + the later layers' keys, at any age; and as later layers
//! stack, the last latent depends on more than `latents` others.

use serde::Deserialize;
use serde_json::Value;
use std::ops::Range;

use super::local::Local;
use super::{Defaults, Head, Kind, Parsed, Pattern, Placed, Spacing, checked, fields};

pub(super) const KIND: Kind = Kind {
    name: "latent",
    parse,
};

#[derive(Debug)]
struct Latent {
    inputs: Local,
    latents: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(rename = "kind")]
    _kind: String,
    inputs: usize,
    latents: usize,
}

/// The word alone: the model's context seen by as many latents.
fn parse(entry: &Value, defaults: &Defaults) -> Parsed {
    let (inputs, latents) = match entry {
        Value::String(_) => (defaults.context, defaults.context),
        object => {
            let own: Fields = fields(object)?;
            (own.inputs, own.latents)
        }
    };
    let window = checked("inputs", inputs)?;
    if checked("latents", latents)? > window {
        return Err(format!(
            "latents is {latents}, more than the {window} inputs that there are"
        ));
    }
    let inputs = Local { window };
    Ok(Head::placed(Latent { inputs, latents }))
}

impl Pattern for Latent {
    fn kind(&self) -> &'static str {
        KIND.name
    }

    fn reach(&self) -> u64 {
        self.inputs.reach()
    }

    fn above(&self) -> Option<u64> {
        Some(self.latents as u64)
    }

    fn n_slots(&self) -> usize {
        self.inputs.n_slots()
    }

    fn max_visible(&self) -> usize {
        self.inputs.max_visible()
    }

    fn cycle(&self, rope_period: u64) -> Option<u64> {
        self.inputs.cycle(rope_period)
    }
}

impl Placed for Latent {
    fn sees(&self, query: u64, key: u64) -> bool {
        self.inputs.sees(query, key)
    }

    fn spacing(&self) -> Option<Spacing> {
        self.inputs.spacing()
    }

    fn slot(&self, position: u64) -> usize {
        self.inputs.slot(position)
    }

    fn visible(&self, position: u64, run: &mut dyn FnMut(Range<usize>)) {
        self.inputs.visible(position, run);
    }
}
