//! The CPU engine: int8 weights shared by all lanes, int8 caches per lane, one step of a batch of
//! lanes at a time, generic over the instruction set.
//!
//! A step is computed by one thread or shared by several, each with its own KV heads and its own
//! rows of every matrix ([`worker`], [`team`]). A long prompt is not stepped through but taken in
//! by tiles of positions ([`prefill`]). All ways compute the same bits. After construction nothing
//! allocates but long prompts. A step costs the same at hour 100 as at second 5: every
//! layer reads a bounded run of slots and overwrites one.

mod attention;
mod embed;
mod prefill;
mod team;
mod weights;
mod worker;

use std::sync::{Arc, Mutex};

use self::prefill::Prefill;
use self::team::Team;
use self::weights::PackedWeights;
use self::worker::{Choose, Lane, Place, Worker};
use super::{
    Decoder, DrawParams, See, Settings, Turn, check_turns,
    draw::{draw_by, within_reach},
    noise,
};
use crate::compute::{Ops, Plain, Stage, lanewise};
use crate::model::{Model, V};

/// The engine for instruction set `O`.
#[derive(Debug)]
pub struct CpuDecoder<O> {
    ops: O,
    weights: Arc<PackedWeights>,
    /// Bytes that a lane takes.
    state_len: usize,
    first: Worker<O>,
    /// Each is locked by its own thread, for a chunk, and by nobody else meanwhile.
    others: Vec<Mutex<Worker<O>>>,
    team: Team,
    prefill: Prefill,
}

impl<O: Ops> CpuDecoder<O> {
    /// An engine with `n_lanes` lanes at the start of their streams.
    pub fn new(ops: O, model: Arc<Model>, settings: &Settings, n_lanes: usize) -> Self {
        let weights = Arc::new(PackedWeights::new(model));
        let config = &weights.model.config;
        let n_ranks = settings.threads.unwrap_or(1).clamp(1, config.n_kv_heads);
        let widest = config.mlp_width().max(config.d_model).max(V);
        let (team, seats) = Team::new(n_ranks, n_lanes * widest, &settings.cpus);
        let mut workers = seats
            .into_iter()
            .map(|seat| Worker::new(ops, weights.clone(), seat, n_lanes));
        let mut new = Self {
            ops,
            first: workers.next().expect("a team has a first"),
            others: workers.map(Mutex::new).collect(),
            team,
            prefill: Prefill::default(),
            weights,
            state_len: 0,
        };
        if n_lanes > 0 {
            let mut len = 0;
            new.state(0, &mut |piece| len += piece.len());
            new.state_len = len;
        }
        new
    }

    /// Every worker's part of a lane, the first one's first.
    fn parts(&mut self, lane: usize) -> impl Iterator<Item = &mut Lane> {
        let others = self.others.iter_mut().map(move |worker| {
            let worker = worker.get_mut().expect(NOT_POISONED);
            &mut worker.lanes[lane]
        });
        std::iter::once(&mut self.first.lanes[lane]).chain(others)
    }

    /// Says which lanes are advanced next, in this order.
    fn activate(&mut self, lanes: impl Iterator<Item = usize> + Clone) {
        let others = self.others.iter_mut();
        let others = others.map(|worker| worker.get_mut().expect(NOT_POISONED));
        for worker in others.chain([&mut self.first]) {
            worker.active.clear();
            worker.active.extend(lanes.clone());
        }
    }

    /// Advances the active lanes by `n` codes; see [`Worker::lead`].
    fn advance(&mut self, n: usize, wants_logits: bool, choose: Choose<'_>) {
        let (first, others) = (&mut self.first, &self.others);
        let lead = || first.lead(n, wants_logits, choose);
        self.team.run(lead, &|rank| {
            let mut worker = others[rank - 1].try_lock().expect(NOT_POISONED);
            worker.follow(n, wants_logits);
        });
    }
}

/// A code drawn from what a place allows.
struct Draw<'a, O> {
    _ops: O,
    place: Place<'a>,
    params: &'a DrawParams,
    uniform: f32,
}

impl<O: Ops> Stage for Draw<'_, O> {
    type Out = u8;

    #[inline(always)]
    fn run(self) -> u8 {
        let Place {
            logits,
            predictor,
            recent,
            ..
        } = self.place;
        let within = within_reach::<O::F>(predictor, self.params);
        draw_by::<O::F>(logits, &within, self.params, recent, self.uniform)
    }
}

/// Draws the code that a place wants into the turn.
fn draw<O: Ops>(ops: O, place: Place<'_>, turn: &mut Turn<'_>) -> u8 {
    let at = place.at;
    let code = ops.run(Draw {
        _ops: ops,
        place,
        params: &turn.draw,
        uniform: turn.uniforms[at],
    });
    turn.codes[at] = code;
    code
}

const NOT_POISONED: &str = "a panic in a team ends the process";

/// Who reads a lane's state, or writes it: gets it piece by piece.
type Visit<'a> = &'a mut dyn FnMut(&mut [u8]);

impl<O: Ops> CpuDecoder<O> {
    /// Shows all that the lane is, always the same pieces in the same order; what `visit` leaves there the
    /// lane is from then on.
    fn state(&mut self, lane: usize, visit: Visit<'_>) {
        self.first.lanes[lane].state(visit);
        // What every worker keeps for itself follows the first one's.
        let first = &self.first.lanes[lane];
        for worker in &mut self.others {
            let worker = worker.get_mut().expect(NOT_POISONED);
            worker.lanes[lane].copy_common(first);
        }
        for layer in 0..self.weights.layers.len() {
            for part in self.parts(lane) {
                let stores = &mut part.layers[layer].stores;
                stores.iter_mut().for_each(|store| store.state(visit));
            }
        }
    }
}

impl<O: Ops> Decoder for CpuDecoder<O> {
    fn n_lanes(&self) -> usize {
        self.first.lanes.len()
    }

    fn open(&mut self, lane: usize) {
        self.parts(lane).for_each(Lane::open);
    }

    fn copy(&mut self, from: usize, to: usize) {
        let others = self.others.iter_mut();
        let others = others.map(|worker| worker.get_mut().expect(NOT_POISONED));
        for worker in others.chain([&mut self.first]) {
            let lanes = worker.lanes.get_disjoint_mut([from, to]);
            let [from, to] = lanes.expect("two different lanes of this engine");
            to.copy(from);
        }
    }

    fn state_len(&self) -> usize {
        self.state_len
    }

    fn save(&mut self, lane: usize, bytes: &mut [u8]) {
        let mut rest = bytes;
        self.state(lane, &mut |piece| {
            let (own, others) = std::mem::take(&mut rest).split_at_mut(piece.len());
            own.copy_from_slice(piece);
            rest = others;
        });
    }

    fn restore(&mut self, lane: usize, bytes: &[u8]) -> u64 {
        let mut rest = bytes;
        self.state(lane, &mut |piece| {
            let (own, others) = rest.split_at(piece.len());
            piece.copy_from_slice(own);
            rest = others;
        });
        self.position(lane)
    }

    fn position(&self, lane: usize) -> u64 {
        self.first.lanes[lane].position
    }

    fn prime(&mut self, lane: usize, codes: &[u8]) {
        if prefill::is_worth_it(codes.len()) {
            return self.take_in(lane, codes, None);
        }
        self.activate([lane].into_iter());
        self.advance(codes.len(), false, &mut |place| codes[place.at]);
    }

    fn score(&mut self, lane: usize, codes: &[u8], see: See<'_>) {
        if prefill::is_worth_it(codes.len()) {
            return self.take_in(lane, codes, Some(see));
        }
        self.activate([lane].into_iter());
        self.advance(codes.len(), true, &mut |place| {
            see(place.at, place.logits);
            codes[place.at]
        });
    }

    fn generate(&mut self, turns: &mut [Turn<'_>]) {
        let n = check_turns(turns);
        let ops = self.ops;
        self.activate(turns.iter().map(|turn| turn.lane));
        self.advance(n, true, &mut |place| {
            let turn = &mut turns[place.turn];
            draw(ops, place, turn)
        });
    }

    fn generate_seen(&mut self, mut turn: Turn<'_>, see: See<'_>) {
        let n = check_turns(std::slice::from_ref(&turn));
        let ops = self.ops;
        self.activate([turn.lane].into_iter());
        self.advance(n, true, &mut |place| {
            see(place.at, place.logits);
            draw(ops, place, &mut turn)
        });
    }

    fn age(&mut self, lane: usize, position: u64) {
        let config = self.weights.model.config.clone();
        let k = config.head_size();
        let (mut bytes, mut numbers) = (vec![0; k], vec![0.0; k]);
        let mut first = 0;
        for part in self.parts(lane) {
            part.position = position;
            let mut noise = noise();
            let n_own = part.layers.first().map_or(0, |layer| layer.stores.len());
            let heads = first..first + n_own;
            first = heads.end;
            for (layer, patterns) in part.layers.iter_mut().zip(&config.layers) {
                for (group, store) in heads.clone().zip(&mut layer.stores) {
                    let head = patterns.head(group);
                    store.rings.fill(head, position);
                    for slot in 0..head.n_slots() {
                        numbers.fill_with(|| noise.next().unwrap_or(0.0));
                        let scale = lanewise::quantize::<Plain>(&numbers, &mut bytes);
                        store.cache.write(slot, (&bytes, scale), (&bytes, scale));
                    }
                }
            }
        }
    }

    fn n_threads(&self) -> usize {
        1 + self.others.len()
    }

    fn isa(&self) -> &'static str {
        O::NAME
    }
}
