//! A lane's state as bytes: kept, and given back. What they mean only the engine of the same model knows.

use super::Decoder;

/// Bytes that a lane's state takes; none where the engine cannot show it.
pub fn state_len(decoder: &mut dyn Decoder) -> usize {
    let mut len = 0;
    decoder.state(0, &mut |piece| len += piece.len());
    len
}

/// Copies a lane's state into `bytes`, which are [`state_len`].
pub fn save(decoder: &mut dyn Decoder, lane: usize, bytes: &mut [u8]) {
    let mut rest = bytes;
    decoder.state(lane, &mut |piece| {
        let (own, others) = std::mem::take(&mut rest).split_at_mut(piece.len());
        own.copy_from_slice(piece);
        rest = others;
    });
}

/// Makes a lane what [`save`] has kept of one, of the same model; the position that it is at then.
pub fn restore(decoder: &mut dyn Decoder, lane: usize, bytes: &[u8]) -> u64 {
    let mut rest = bytes;
    decoder.state(lane, &mut |piece| {
        let (own, others) = rest.split_at(piece.len());
        piece.copy_from_slice(own);
        rest = others;
    });
    decoder.position(lane)
}
