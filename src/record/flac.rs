//! FLAC: one stream of mono samples of 16 bits, in blocks of equal length; and its frames, read again as
//! far as it takes to find the last whole one.

use flacenc::bitsink::ByteSink;
use flacenc::component::{BitRepr, StreamInfo};
use flacenc::config::Encoder;
use flacenc::error::{Verified, Verify};
use flacenc::source::{Context, Fill, FrameBuf};

/// Samples of a block; only the last may have fewer.
const BLOCK_LEN: usize = 4_096;
/// A frame is no longer: a block as it is, and what stands around it.
pub(super) const FRAME_LEN_MAX: usize = 2 * BLOCK_LEN + 64;
/// The mark, and the one block of facts.
pub(super) const HEAD_LEN: usize = 42;
/// Where in the head the number of samples stands, after four bits of something else; 36 bits.
const TOTAL_AT: usize = 21;
/// Where its digest stands; zeros: not known.
const DIGEST_AT: usize = 26;

/// An encoder.
pub(super) struct Flac {
    config: Verified<Encoder>,
    info: StreamInfo,
    block: FrameBuf,
    /// Samples of the block to come.
    pending: Vec<i32>,
    /// Of the next frame.
    number: usize,
    /// Of all that went into frames; `None`: of something else.
    digest: Option<Context>,
    rate_hz: u32,
}

impl std::fmt::Debug for Flac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flac").finish_non_exhaustive()
    }
}

impl Flac {
    pub(super) fn new(rate_hz: u32) -> Self {
        let info = StreamInfo::new(rate_hz as usize, 1, 16);
        Self {
            config: Encoder::default().into_verified().expect("its own default"),
            info: info.expect("`Format::at` has seen to the rate"),
            block: FrameBuf::with_size(1, BLOCK_LEN).expect("a length that FLAC has"),
            pending: Vec::with_capacity(BLOCK_LEN),
            number: 0,
            digest: Some(Context::new(16, 1)),
            rate_hz,
        }
    }

    pub(super) fn head(&self, n_samples: u64) -> [u8; HEAD_LEN] {
        let digest = self
            .digest
            .as_ref()
            .filter(|digest| digest.total_samples() > 0);
        let digest = digest.map_or([0; 16], Context::md5_digest);
        let block_len = BLOCK_LEN as u16;
        // Rate in 20 bits, channels less one in 3, bits less one in 5, samples in 36.
        let facts = u64::from(self.rate_hz) << 44 | 15 << 36 | n_samples;
        let fields: [&[u8]; 7] = [
            b"fLaC",
            &[0x80, 0, 0, 34], // the last block of its kind, and its length
            &block_len.to_be_bytes(),
            &block_len.to_be_bytes(),
            &[0; 6], // the lengths of frames are not known
            &facts.to_be_bytes(),
            &digest,
        ];
        let mut head = [0; HEAD_LEN];
        head.copy_from_slice(&fields.concat());
        head
    }

    /// Appends whole frames to `out`; how many samples are in them.
    pub(super) fn encode(&mut self, samples: &[i16], out: &mut Vec<u8>) -> u64 {
        let mut n_encoded = 0;
        for &sample in samples {
            self.pending.push(sample.into());
            if self.pending.len() == BLOCK_LEN {
                n_encoded += self.flush(out);
            }
        }
        n_encoded
    }

    /// The last frame, of what there is.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) -> u64 {
        if self.pending.is_empty() {
            return 0;
        }
        let n_samples = self.pending.len() as u64;
        let filled = self.block.fill_interleaved(&self.pending);
        filled.expect("a block holds what it was made for");
        if let Some(digest) = &mut self.digest {
            digest
                .fill_interleaved(&self.pending)
                .expect("it only counts");
        }
        self.pending.clear();
        let frame =
            flacenc::encode_fixed_size_frame(&self.config, &self.block, self.number, &self.info);
        self.number += 1;
        let mut sink = ByteSink::new();
        let frame = frame.expect("16 bits, and a file ends long before frame 2^31");
        frame
            .write(&mut sink)
            .expect("memory takes what is written");
        out.extend_from_slice(sink.as_slice());
        n_samples
    }

    pub(super) fn n_pending(&self) -> u64 {
        self.pending.len() as u64
    }

    pub(super) fn forget_digest(&mut self) {
        self.digest = None;
    }
}

/// Corrects a head that was read: so many samples, of no known digest.
pub(super) fn correct(head: &mut [u8; HEAD_LEN], n_samples: u64) {
    let total = n_samples.to_be_bytes();
    head[TOTAL_AT] = head[TOTAL_AT] & 0xf0 | total[3] & 0x0f;
    head[TOTAL_AT + 1..DIGEST_AT].copy_from_slice(&total[4..]);
    head[DIGEST_AT..].fill(0);
}

/// The frame of that number at the beginning of `bytes`, which is the file's end or at least a frame and
/// the beginning of another: its length, and how many samples it holds.
pub(super) fn frame(bytes: &[u8], number: u64) -> Option<(usize, u64)> {
    let (head_len, n_samples) = frame_head(bytes, number)?;
    let mut crc = bytes[..head_len].iter().fold(0, crc16);
    for (at, byte) in bytes.iter().enumerate().skip(head_len) {
        crc = crc16(crc, byte);
        let end = at + 1;
        // A frame ends with the remainder of all before it, which makes that of the whole zero; but
        // zero it may be before.
        let is_end =
            crc == 0 && (end == bytes.len() || frame_head(&bytes[end..], number + 1).is_some());
        if is_end {
            return Some((end, n_samples));
        }
    }
    None
}

/// The head of a frame: its length, and how many samples the frame holds.
fn frame_head(bytes: &[u8], number: u64) -> Option<(usize, u64)> {
    let (&[0xff, 0xf8, sizes, _], rest) = bytes.split_first_chunk()? else {
        return None;
    };
    // As in UTF-8: the first byte tells by its ones how many there are.
    let number_len = rest.first()?.leading_ones().max(1) as usize;
    let (first, more) = rest.get(..number_len)?.split_first()?;
    let mask = 0x7fu32 >> if number_len == 1 { 0 } else { number_len };
    let read = more
        .iter()
        .fold(u64::from(u32::from(*first) & mask), |n, byte| {
            n << 6 | u64::from(byte & 0x3f)
        });
    let rest = &rest[number_len..];
    let (block_len, size_len) = match sizes >> 4 {
        6 => (u64::from(*rest.first()?) + 1, 1),
        7 => (u64::from(u16::from_be_bytes(*rest.first_chunk()?)) + 1, 2),
        code @ 8.. => (256 << (code - 8), 0),
        code @ 2..=5 => (576 << (code - 2), 0),
        1 => (192, 0),
        0 => return None,
    };
    let rate_len = match sizes & 15 {
        12 => 1,
        13 | 14 => 2,
        _ => 0,
    };
    let head_len = 4 + number_len + size_len + rate_len + 1;
    let is_whole = bytes.get(..head_len)?.iter().fold(0, crc8) == 0;
    (is_whole && read == number).then_some((head_len, block_len))
}

/// x^8 + x^2 + x + 1
fn crc8(crc: u8, byte: &u8) -> u8 {
    (0..8).fold(crc ^ byte, |crc, _| {
        crc << 1 ^ if crc & 0x80 != 0 { 0x07 } else { 0 }
    })
}

/// x^16 + x^15 + x^2 + 1
fn crc16(crc: u16, byte: &u8) -> u16 {
    (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
        crc << 1 ^ if crc & 0x8000 != 0 { 0x8005 } else { 0 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(n: usize) -> Vec<i16> {
        (0..n as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 18) as i16)
            .collect()
    }

    /// Frame by frame, and what follows the last.
    fn walk(mut bytes: &[u8]) -> (Vec<u64>, usize) {
        let mut blocks = Vec::new();
        while let Some((len, n)) = frame(
            &bytes[..bytes.len().min(2 * FRAME_LEN_MAX)],
            blocks.len() as u64,
        ) {
            blocks.push(n);
            bytes = &bytes[len..];
        }
        (blocks, bytes.len())
    }

    #[test]
    fn frames_are_found_again_up_to_the_one_that_is_cut() {
        for rate_hz in [16_000, 11_025, 12_345, 65_534] {
            let mut flac = Flac::new(rate_hz);
            let mut bytes = Vec::new();
            // Enough for numbers of two bytes.
            assert_eq!(
                flac.encode(&samples(130 * BLOCK_LEN + 10), &mut bytes),
                130 * 4_096
            );
            assert_eq!(flac.n_pending(), 10);
            assert_eq!(walk(&bytes), (vec![4_096; 130], 0));
            let len = bytes.len();
            assert_eq!(flac.flush(&mut bytes), 10);
            let (blocks, rest) = walk(&bytes);
            assert_eq!((blocks.len(), blocks[130], rest), (131, 10, 0));
            bytes.truncate(len - 1);
            assert_eq!(walk(&bytes).0.len(), 129);
        }
    }

    #[test]
    fn a_head_is_corrected_and_nothing_else_of_it() {
        let mut flac = Flac::new(44_100);
        flac.encode(&samples(2 * BLOCK_LEN), &mut Vec::new());
        let (mut head, fresh) = (flac.head(0xf_ffff_ffff), Flac::new(44_100).head(8_192));
        assert_ne!(head[DIGEST_AT..], [0; 16]);
        correct(&mut head, 8_192);
        assert_eq!(head, fresh);
    }
}
