//! Where a station is changed: one wish after the other goes to the pump, and what comes of it is
//! told to all who listen.

use super::http::Refusal;
use crate::control::{Change, ControlError, Controls, Receipt, Whose};
use crate::protocol::{Changed, Facts, Patch};
use crate::state::sha256_of;
use axum::http::StatusCode;
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time;

/// Changes that are remembered; older ones are counted.
const LOG_MAX: usize = 1_000;
/// Between two looks for an answer: the pump answers and wakes nobody.
const LOOK: Duration = Duration::from_millis(5);
/// How long whoever asks is kept waiting; a long prompt takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// Volumes of a card. Codes reach full scale: above 0 they would be cut off.
const VOLUMES_DB: RangeInclusive<f32> = -60.0..=0.0;

/// What a station is, and how it came to be so.
#[derive(Clone, Debug)]
pub(super) struct Now {
    /// As a hello says it.
    pub(super) facts: Facts,
    pub(super) volume_db: f32,
    pub(super) mute: bool,
    /// The last changes.
    pub(super) log: VecDeque<Changed>,
    /// All of them.
    pub(super) n_changes: u64,
}

impl Now {
    /// The changes after the first `n`, as far as they are remembered.
    pub(super) fn since(&self, n: u64) -> impl Iterator<Item = &Changed> {
        let n_new = self.n_changes.saturating_sub(n) as usize;
        self.log.iter().skip(self.log.len().saturating_sub(n_new))
    }

    fn take_in(&mut self, changed: Changed) {
        self.facts.seed = changed.seed;
        self.facts.draw = changed.draw;
        self.facts.since = changed.since;
        (self.volume_db, self.mute) = (changed.volume_db, changed.mute);
        if self.log.len() == LOG_MAX {
            self.log.pop_front();
        }
        self.log.push_back(changed);
        self.n_changes += 1;
    }
}

/// What goes with a wish to go over to a prompt.
#[derive(Debug)]
pub(super) struct Prompt {
    pub(super) codes: Box<[u8]>,
    pub(super) sha256: String,
}

/// Where one station is changed.
#[derive(Debug)]
pub struct Desk {
    controls: Controls,
    /// Which station of the pump's.
    index: usize,
    turn: Mutex<()>,
    now: watch::Sender<Now>,
}

impl Desk {
    /// Of the pump's station `index`, which begins as `facts` say, and as loud as `gain`.
    pub fn new(controls: Controls, index: usize, facts: Facts, gain: f32) -> Self {
        let mute = gain <= 0.0;
        let now = Now {
            facts,
            // How loud it would be is not known of a card that was silenced.
            volume_db: if mute { 0.0 } else { volume_db_of(gain) },
            mute,
            log: VecDeque::new(),
            n_changes: 0,
        };
        Self {
            controls,
            index,
            turn: Mutex::new(()),
            now: watch::Sender::new(now),
        }
    }

    /// Which station of the pump's it changes.
    pub(super) fn number(&self) -> usize {
        self.index
    }

    pub(super) fn watch(&self) -> watch::Receiver<Now> {
        self.now.subscribe()
    }

    /// Says what computes the station from now on.
    pub fn tell_isa(&self, isa: &str) {
        self.now
            .send_modify(|now| isa.clone_into(&mut now.facts.isa));
    }

    /// What a hello would say now.
    pub fn facts(&self) -> Facts {
        self.now.borrow().facts.clone()
    }

    /// Changes the station as a configuration says, and goes over to the codes of a prompt if there are
    /// any; from which position on, or why not.
    pub async fn turn_to(
        self: Arc<Self>,
        patch: Patch,
        prompt: Option<Vec<u8>>,
    ) -> Result<u64, String> {
        let prompt = prompt.map(|codes| Prompt {
            sha256: sha256_of(&codes),
            codes: codes.into(),
        });
        let changed = self.change(patch, prompt).await;
        let changed = changed.map_err(|Refusal(_, sentence)| sentence)?;
        Ok(changed.since)
    }

    /// Changes the station, and says what it is then. What has gone to the pump is seen through and
    /// told, though nobody may wait for it any more.
    pub(super) async fn change(
        self: Arc<Self>,
        patch: Patch,
        prompt: Option<Prompt>,
    ) -> Result<Changed, Refusal> {
        let work = tokio::spawn(async move { self.see_through(&patch, prompt).await });
        match time::timeout(PATIENCE, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(later("the server ends")),
            Err(_) => Err(later("the generator is busy and has not come to it yet")),
        }
    }

    async fn see_through(&self, patch: &Patch, prompt: Option<Prompt>) -> Result<Changed, Refusal> {
        let _turn = self.turn.lock().await;
        let mut changed = self.wanted(patch)?;
        let gain = match changed.mute {
            true => 0.0,
            false => gain_of(changed.volume_db),
        };
        let (codes, sha256) = prompt.map(|p| (p.codes, p.sha256)).unzip();
        let change = Change {
            seed: Some(changed.seed),
            draw: Some(changed.draw),
            gain: Some(gain),
            prompt: codes,
        };
        let receipt = self.controls.change(Whose::Station(self.index), change);
        changed.since = answer(receipt).await?;
        changed.prompt_sha256 = sha256;
        self.now.send_modify(|now| now.take_in(changed.clone()));
        tracing::info!(
            "station {} from position {}: seed {}, {}{}",
            self.now.borrow().facts.station,
            changed.since,
            changed.seed,
            changed.draw,
            if changed.prompt_sha256.is_some() {
                ", a new prompt"
            } else {
                ""
            },
        );
        Ok(changed)
    }

    /// What the station shall be; the position is not known yet.
    fn wanted(&self, patch: &Patch) -> Result<Changed, Refusal> {
        let now = self.now.borrow();
        let wanted = Changed {
            since: 0,
            seed: patch.seed.unwrap_or(now.facts.seed),
            draw: patch.draw.unwrap_or(now.facts.draw),
            prompt_sha256: None,
            volume_db: patch.volume_db.unwrap_or(now.volume_db),
            mute: patch.mute.unwrap_or(now.mute),
        };
        wanted.draw.check().map_err(bad)?;
        if !VOLUMES_DB.contains(&wanted.volume_db) {
            let volume_db = wanted.volume_db;
            return Err(bad(format!(
                "volume_db is {volume_db}; it must be from -60 to 0, and mute = true is silence"
            )));
        }
        Ok(wanted)
    }
}

fn gain_of(volume_db: f32) -> f32 {
    10.0f32.powf(volume_db / 20.0)
}

/// To a hundredth, which nobody hears.
fn volume_db_of(gain: f32) -> f32 {
    let volume_db = (2_000.0 * gain.log10()).round() / 100.0;
    volume_db.clamp(*VOLUMES_DB.start(), *VOLUMES_DB.end())
}

/// Waits for what becomes of an order.
async fn answer(receipt: Result<Receipt, ControlError>) -> Result<u64, Refusal> {
    let receipt = receipt.map_err(|error| later(&error.to_string()))?;
    loop {
        match receipt.read() {
            Some(Ok(position)) => return Ok(position),
            Some(Err(refusal)) => {
                return Err(Refusal(StatusCode::CONFLICT, refusal.to_string()));
            }
            None => time::sleep(LOOK).await,
        }
    }
}

fn bad(sentence: String) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, sentence)
}

fn later(sentence: &str) -> Refusal {
    Refusal(StatusCode::SERVICE_UNAVAILABLE, sentence.to_owned())
}
