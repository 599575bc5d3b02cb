//! `dilated`: t sees t, t − dilation, t − 2·dilation, …: `window` positions (Longformer, arXiv
//! 2004.05150, causal).
//!
//! One head of it is a head of `strided` under Longformer's words, and lies phase-major like it: the
//! paper's ring of window · dilation slots in another order. What makes it a kind of its own is that
//! the dilation may differ by head, which a list of entries says.

use serde::Deserialize;
use serde_json::Value;

use super::strided::Strided;
use super::{Defaults, Head, Kind, Parsed, checked, fields};

pub(super) const KIND: Kind = Kind {
    name: "dilated",
    parse,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(rename = "kind")]
    _kind: String,
    window: usize,
    dilation: usize,
}

/// The word alone: the model's context at its stride.
fn parse(entry: &Value, defaults: &Defaults) -> Parsed {
    let (window, dilation) = match entry {
        Value::String(_) => (defaults.context / defaults.stride, defaults.stride),
        object => {
            let own: Fields = fields(object)?;
            (own.window, own.dilation)
        }
    };
    let (window, dilation) = (checked("window", window)?, checked("dilation", dilation)?);
    Ok(Head::placed(Strided::new(KIND.name, dilation, window)?))
}
