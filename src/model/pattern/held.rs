//! Which position every slot holds: a pattern as decoding sees it, position after position.

use super::Placed;

/// One head's slots, without keys and values.
#[derive(Debug)]
pub struct Held<'a> {
    pattern: &'a dyn Placed,
    /// Up to the last slot that was written.
    positions: Vec<u64>,
}

impl<'a> Held<'a> {
    /// At the start of a stream.
    pub fn new(pattern: &'a dyn Placed) -> Self {
        Self {
            pattern,
            positions: Vec::new(),
        }
    }

    /// Writes the next position.
    pub fn write(&mut self, position: u64) {
        let slot = self.pattern.slot(position);
        if slot >= self.positions.len() {
            self.positions.resize(slot + 1, 0);
        }
        self.positions[slot] = position;
    }

    /// Tells which keys the position written last sees, in the order of the slots.
    pub fn seen(&self, position: u64, key: &mut dyn FnMut(u64)) {
        self.pattern.visible(position, &mut |run| {
            self.positions[run].iter().copied().for_each(&mut *key);
        });
    }
}
