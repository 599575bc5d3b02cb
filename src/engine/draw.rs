//! Choosing a code from logits. The order of operations is `docs/model.md`, "Drawing": another
//! device that follows it draws the same codes.

/// How a stream chooses its codes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DrawParams {
    /// Divides the logits; below 1 the likely becomes likelier, 0 always takes the likeliest.
    pub temperature: f32,
    /// Keep the fewest codes whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keep codes at least this likely, as a share of the likeliest; 0 keeps all.
    pub min_p: f32,
}

impl Default for DrawParams {
    fn default() -> Self {
        Self {
            temperature: 0.95,
            top_p: 1.0,
            min_p: 0.0,
        }
    }
}

/// The number in [0, 1) for the code at `position` of the stream seeded with `seed`.
pub fn uniform(seed: u64, position: u64) -> f32 {
    let _ = (seed, position);
    0.0
}
