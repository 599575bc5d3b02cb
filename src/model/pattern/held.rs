//! Which position every slot holds: a pattern as decoding sees it, position after position.

use super::Pattern;

/// One head's slots, without keys and values.
#[derive(Debug)]
pub struct Held<'a> {
    pattern: &'a dyn Pattern,
    positions: Vec<u64>,
}

impl<'a> Held<'a> {
    /// At the start of a stream.
    pub fn new(pattern: &'a dyn Pattern) -> Self {
        Self {
            pattern,
            positions: vec![0; pattern.n_slots()],
        }
    }

    /// Writes the next position, and tells which keys it sees, in the order of the slots.
    pub fn see(&mut self, position: u64, key: &mut dyn FnMut(u64)) {
        self.positions[self.pattern.slot(position)] = position;
        self.pattern.visible(position, &mut |run| {
            self.positions[run].iter().copied().for_each(&mut *key);
        });
    }
}
