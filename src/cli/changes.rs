//! The changes of a station, as its server tells them, for `render`.

use std::path::Path;

use eyre::{WrapErr, bail};
use longwave::control::Change;
use longwave::protocol::Changed;
use longwave::state::prompt_sha256;
use serde::Deserialize;

/// What the server says of a station, as far as it is needed here.
#[derive(Deserialize)]
struct Portrait {
    n_changes: usize,
    changes: Vec<Changed>,
}

/// Reads the answer of `GET /v1/stations/NAME`, what was changed from `begin` on; a change that has a prompt
/// needs it among `prompts`.
pub fn read(path: &Path, prompts: Vec<Vec<u8>>, begin: u64) -> eyre::Result<Vec<(u64, Change)>> {
    let text = std::fs::read_to_string(path);
    let text = text.wrap_err_with(|| format!("cannot read {}", path.display()))?;
    let portrait: Portrait = serde_json::from_str(&text).wrap_err_with(|| {
        format!(
            "{} is not what GET /v1/stations/NAME answers",
            path.display()
        )
    })?;
    let first = portrait.changes.first();
    let reaches_back = first.is_some_and(|changed| changed.since < begin);
    if portrait.n_changes != portrait.changes.len() && !reaches_back {
        bail!(
            "of {} changes the last {} are in {}: what was played cannot be drawn again",
            portrait.n_changes,
            portrait.changes.len(),
            path.display()
        );
    }
    let prompts: Vec<(Option<String>, Vec<u8>)> = prompts
        .into_iter()
        .map(|codes| (prompt_sha256(&codes), codes))
        .collect();
    let changes = portrait.changes.into_iter();
    let changes = changes.filter(|changed| changed.since >= begin);
    changes.map(|changed| change(changed, &prompts)).collect()
}

fn change(changed: Changed, prompts: &[(Option<String>, Vec<u8>)]) -> eyre::Result<(u64, Change)> {
    let position = changed.since;
    let prompt = match &changed.prompt_sha256 {
        None => None,
        wanted => match prompts.iter().find(|(sha256, _)| sha256 == wanted) {
            Some((_, codes)) => Some(codes.clone().into_boxed_slice()),
            None => bail!(
                "the change at position {position} goes over to a prompt that is none of those given: \
                 name its file with --new-prompt"
            ),
        },
    };
    let change = Change {
        seed: Some(changed.seed),
        draw: Some(changed.draw),
        gain: None,
        prompt,
    };
    Ok((position, change))
}
