//! Who sees whom in a window, in tiles of 64 queries by 64 keys: what attention over keys that do not
//! lie evenly is told.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::OnceLock;

use candle_core::{Device, Result, Tensor};

use super::paired_cpu::Pairs;
use crate::model::Placed;
use crate::model::pattern::Held;

/// Rows of a tile, and columns: `kTile` of the kernels.
pub const TILE: usize = 64;

/// For each row of a tile, which columns it meets, the first in the lowest bit.
type Mask = [u64; TILE];

/// The mask that hides nothing is the first of all.
const EVERYTHING: Mask = [u64::MAX; TILE];

/// A layer's pattern over a window, made once and asked by every pass.
#[derive(Debug)]
pub struct Tiles {
    /// `[G]`: how many positions share a rotation.
    turns: Vec<usize>,
    window: usize,
    n_tiles: usize,
    masks: Vec<Mask>,
    /// For each tile of queries the tiles of keys that it sees.
    queries: Lists,
    /// For each tile of keys the tiles of queries whose gradients reach it; masks have keys as rows.
    keys: Lists,
    tables: OnceLock<[Tensor; 5]>,
}

/// For each KV head and each tile, other tiles and the masks between them.
#[derive(Debug, Default)]
pub struct Lists {
    /// `[G·tiles + 1]`: where the entries of a tile begin.
    starts: Vec<u32>,
    /// (tile, mask)
    entries: Vec<[u32; 2]>,
}

impl Tiles {
    /// Of a layer's KV heads over a window of so many positions.
    pub fn new(heads: &[&dyn Placed], window: usize) -> Self {
        let mut masks = Masks::new();
        let n_tiles = window.div_ceil(TILE);
        let (mut queries, mut keys) = (Lists::default(), Lists::default());
        for pattern in heads {
            let mut back: Vec<Vec<[u32; 2]>> = vec![Vec::new(); n_tiles];
            let mut held = Held::new(*pattern);
            for tile in 0..n_tiles {
                let rows = tile * TILE..window.min((tile + 1) * TILE);
                let (seen, carried) = met_by(*pattern, &mut held, rows);
                let seen = seen.iter();
                queries.push(seen.map(|(key, mask)| [*key as u32, masks.index(mask)]));
                for (key, mask) in &carried {
                    back[*key].push([tile as u32, masks.index(&transposed(mask))]);
                }
            }
            back.into_iter().for_each(|entries| keys.push(entries));
        }
        queries.end();
        keys.end();
        Self {
            turns: heads.iter().map(|head| head.turn() as usize).collect(),
            window,
            n_tiles,
            masks: masks.all,
            queries,
            keys,
            tables: OnceLock::new(),
        }
    }

    /// `T`
    pub fn window(&self) -> usize {
        self.window
    }

    /// `G`
    pub fn n_groups(&self) -> usize {
        self.turns.len()
    }

    /// How many positions share a rotation in a KV head.
    pub fn turn(&self, group: usize) -> usize {
        self.turns[group]
    }

    /// The rows of a batch that its row `row` meets in one of the lists, in their order.
    fn met<'a>(
        &'a self,
        lists: &'a Lists,
        group: usize,
        row: usize,
    ) -> impl Iterator<Item = usize> + 'a {
        let (first, row) = (row - row % self.window, row % self.window);
        let at = group * self.n_tiles + row / TILE;
        let range = lists.starts[at] as usize..lists.starts[at + 1] as usize;
        lists.entries[range].iter().flat_map(move |[tile, mask]| {
            let bits = self.masks[*mask as usize][row % TILE];
            let met = (0..TILE).filter(move |bit| bits >> bit & 1 == 1);
            met.map(move |bit| first + *tile as usize * TILE + bit)
        })
    }

    /// On the device, u32: the starts and entries of `queries`, then of `keys`, then the masks.
    pub fn tables(&self, device: &Device) -> Result<&[Tensor; 5]> {
        if self.tables.get().is_none() {
            let table = |words: &[u32]| Tensor::from_slice(words, words.len(), device);
            let tables = [
                table(&self.queries.starts)?,
                table(self.queries.entries.as_flattened())?,
                table(&self.keys.starts)?,
                table(self.keys.entries.as_flattened())?,
                table(bytemuck::cast_slice(self.masks.as_flattened()))?,
            ];
            // Should another thread have been faster, its tables serve as well.
            let _ = self.tables.set(tables);
        }
        Ok(self.tables.get().expect("set above"))
    }
}

impl Pairs for Tiles {
    fn keys(&self, group: usize, query: usize) -> impl Iterator<Item = usize> {
        self.met(&self.queries, group, query)
    }

    fn queries(&self, group: usize, key: usize) -> impl Iterator<Item = usize> {
        self.met(&self.keys, group, key)
    }
}

impl Lists {
    /// The next tile's.
    fn push(&mut self, entries: impl IntoIterator<Item = [u32; 2]>) {
        self.end();
        self.entries.extend(entries);
    }

    fn end(&mut self) {
        self.starts.push(self.entries.len() as u32);
    }
}

/// By the tile of keys.
type ByTile = BTreeMap<usize, Mask>;

/// What the queries of a tile see, and where their gradients go. Tiles come in order.
fn met_by(pattern: &dyn Placed, held: &mut Held<'_>, queries: Range<usize>) -> (ByTile, ByTile) {
    let (mut seen, mut carried) = (ByTile::new(), ByTile::new());
    for query in queries {
        held.write(query as u64);
        held.seen(query as u64, &mut |key| {
            let (tile, bit) = (key as usize / TILE, key % TILE as u64);
            let mark = |masks: &mut ByTile| {
                masks.entry(tile).or_insert([0; TILE])[query % TILE] |= 1 << bit;
            };
            mark(&mut seen);
            if pattern.carries_gradient(query as u64, key) {
                mark(&mut carried);
            }
        });
    }
    (seen, carried)
}

/// All masks, each kept once.
struct Masks {
    all: Vec<Mask>,
    known: HashMap<Mask, u32>,
}

impl Masks {
    fn new() -> Self {
        Self {
            all: vec![EVERYTHING],
            known: HashMap::from([(EVERYTHING, 0)]),
        }
    }

    fn index(&mut self, mask: &Mask) -> u32 {
        *self.known.entry(*mask).or_insert_with(|| {
            self.all.push(*mask);
            self.all.len() as u32 - 1
        })
    }
}

fn transposed(mask: &Mask) -> Mask {
    std::array::from_fn(|column| {
        let bit = |row: usize| (mask[row] >> column & 1) << row;
        (0..TILE).fold(0, |bits, row| bits | bit(row))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Layer;
    use crate::model::pattern::Defaults;
    use serde_json::json;

    #[test]
    fn the_tiles_are_the_mask_of_every_kind() {
        let defaults = Defaults {
            stride: 8,
            context: 64,
        };
        for entry in [
            json!("fixed"),
            json!("global"),
            json!("memory"),
            json!([{"kind": "random", "block": 16, "blocks": 9, "r": 2, "seed": 5}, "block_sparse"]),
        ] {
            let layer = Layer::parse(&entry, &defaults, 2).unwrap();
            let window = 300;
            let heads = layer.placed(2).unwrap();
            let tiles = Tiles::new(&heads, window);
            for (group, pattern) in heads.into_iter().enumerate() {
                for row in 0..window {
                    let sorted = |mut met: Vec<usize>| {
                        met.sort_unstable();
                        met
                    };
                    let all = |of: &dyn Fn(u64) -> bool| {
                        let rows = 0..window;
                        rows.filter(|other| of(*other as u64)).collect::<Vec<_>>()
                    };
                    let at = row as u64;
                    assert_eq!(
                        sorted(tiles.keys(group, row).collect()),
                        all(&|key| pattern.sees(at, key))
                    );
                    let reached = all(&|query| pattern.carries_gradient(query, at));
                    assert_eq!(
                        sorted(tiles.queries(group, row).collect()),
                        reached,
                        "{entry} at {row}"
                    );
                }
            }
        }
    }
}
