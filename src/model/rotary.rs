//! Exactly cyclic rotary positions (after RoFormer, arXiv 2104.09864, with integer harmonics).
//!
//! Pair (i, i + K/2) of a head turns by `harmonics[i] · p / period` of a full turn. The harmonics
//! are whole numbers, so only `p mod period` matters: one table of `period` angles serves for ever
//! and no hour of a stream differs from the first.

/// The table of one model.
#[derive(Clone, Debug)]
pub struct Rotary {
    harmonics: Vec<u32>,
    /// (cos, sin) of j / period of a full turn.
    turn: Vec<(f32, f32)>,
}

impl Rotary {
    /// Builds the table; `harmonics` has one entry per pair of a head's dimensions.
    pub fn new(period: usize, harmonics: &[u32]) -> Self {
        let turn = (0..period)
            .map(|j| {
                let angle = std::f64::consts::TAU * j as f64 / period as f64;
                (angle.cos() as f32, angle.sin() as f32)
            })
            .collect();
        Self {
            harmonics: harmonics.to_vec(),
            turn,
        }
    }

    /// Writes cos `[K/2]` and sin `[K/2]` for rotation `p`.
    pub fn angles(&self, p: u64, cos: &mut [f32], sin: &mut [f32]) {
        let period = self.turn.len() as u64;
        let p = p % period;
        for ((harmonic, cos), sin) in self.harmonics.iter().zip(cos).zip(sin) {
            (*cos, *sin) = self.turn[(u64::from(*harmonic) * p % period) as usize];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_repeats_exactly_after_the_period_even_at_hour_100() {
        let rotary = Rotary::new(4096, &[652, 47, 8]);
        let at = |p: u64| {
            let (mut cos, mut sin) = ([0.0; 3], [0.0; 3]);
            rotary.angles(p, &mut cos, &mut sin);
            (cos, sin)
        };
        let hour_100 = 100 * 3600 * 16_000 / 4096 * 4096;
        for p in [0, 1, 77, 4095] {
            assert_eq!(at(p), at(p + hour_100));
        }
        assert_eq!(at(0), ([1.0; 3], [0.0; 3]));
    }
}
