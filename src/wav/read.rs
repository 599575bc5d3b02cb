//! Reading: the header, then blocks of frames from where the caller's part begins.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::resample::{Resampler, frames_for};
use crate::wav::WavError;

/// Channel counts and rates beyond these are a broken header, not music.
const CHANNELS: RangeInclusive<u16> = 1..=64;
const RATES_HZ: RangeInclusive<u32> = 1_000..=768_000;

/// What an endless stream writes for its lengths, before anybody knows them. A 0 means it only
/// where both lengths do: beside an honest length of the file it is a file without sound.
const LENGTH_UNKNOWN: [u32; 2] = [0, u32::MAX];

/// Tags of the `fmt ` chunk.
const PCM: u16 = 1;
const FLOAT: u16 = 3;
const EXTENSIBLE: u16 = 0xfffe;

/// Frames read and converted at a time.
const BLOCK_FRAMES: usize = 4_096;

/// Louder than any mistake in scale that a prompt survives, and far from where a filter overflows.
/// The codec clips at 1.
const SAMPLE_MAX: f32 = 8.0;

/// How much is read before the part asked for, so that the resampler has settled.
const SETTLE_S: f64 = 0.1;

/// Reads the last `last_s` seconds of a file, its channels averaged, at `rate_hz`.
///
/// The result is shorter only if the file is; it is never empty. Memory is bounded by `last_s`,
/// whatever the file's size.
pub fn read_mono(path: &Path, rate_hz: u32, last_s: f64) -> Result<Vec<f32>, WavError> {
    read_source(Source::open(path)?, rate_hz, last_s)
}

/// The same of a file that lies in memory; errors call it `name`.
pub fn parse_mono(
    bytes: Vec<u8>,
    name: &str,
    rate_hz: u32,
    last_s: f64,
) -> Result<Vec<f32>, WavError> {
    let len = bytes.len() as u64;
    let source = Source::new(Path::new(name), Box::new(Cursor::new(bytes)), len)?;
    read_source(source, rate_hz, last_s)
}

fn read_source(mut source: Source, rate_hz: u32, last_s: f64) -> Result<Vec<f32>, WavError> {
    let path = source.path.clone();
    let n_wanted = (last_s.max(0.0) * f64::from(rate_hz)).ceil() as usize;
    let n_read = ((last_s.max(0.0) + SETTLE_S) * f64::from(source.format.rate_hz)).ceil() as u64;
    let n_read = n_read.min(source.n_frames);
    source.skip(source.n_frames - n_read)?;

    let mut resampler =
        Resampler::new(source.format.rate_hz, rate_hz, BLOCK_FRAMES).map_err(|source| {
            WavError::Rate {
                path: path.clone(),
                source,
            }
        })?;
    let n_out = frames_for(n_read, source.format.rate_hz, rate_hz) as usize;
    let mut mono = Vec::with_capacity(n_out);
    let mut block = Vec::with_capacity(BLOCK_FRAMES);
    while source.read_block(&mut block)? {
        mono.extend_from_slice(resampler.process(&block));
    }
    mono.extend_from_slice(resampler.flush());
    mono.drain(..mono.len().saturating_sub(n_wanted));
    if mono.is_empty() {
        return Err(WavError::Empty { path });
    }
    Ok(mono)
}

/// What the header of a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Frames per second.
    pub rate_hz: u32,
    /// How many.
    pub n_frames: u64,
}

/// Reads no more than the header, and sees that the file is as long as it says.
pub fn head(path: &Path) -> Result<Head, WavError> {
    Source::open(path).map(|source| source.head())
}

/// Reads a whole file that must be at `rate_hz`, its channels averaged, a block at a time: memory
/// does not grow with the file.
pub fn each_block(
    path: &Path,
    rate_hz: u32,
    on_block: &mut dyn FnMut(&[f32]),
) -> Result<(), WavError> {
    let mut source = Source::open(path)?;
    if source.format.rate_hz != rate_hz {
        return Err(WavError::OtherRate {
            path: path.to_owned(),
            expected: rate_hz,
            got: source.format.rate_hz,
        });
    }
    let mut block = Vec::with_capacity(BLOCK_FRAMES);
    while source.read_block(&mut block)? {
        on_block(&block);
    }
    Ok(())
}

/// A file, or bytes in its place.
trait Bytes: Read + Seek {}

impl<T: Read + Seek> Bytes for T {}

type Reader = BufReader<Box<dyn Bytes>>;

/// How a sample lies in a file. By the standard a sample narrower than its container lies at the
/// container's top, so the container's width is all one needs to know.
#[derive(Clone, Copy, Debug)]
enum Coding {
    U8,
    I16,
    I24,
    I32,
    F32,
}

impl Coding {
    fn len(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::I16 => 2,
            Self::I24 => 3,
            Self::I32 | Self::F32 => 4,
        }
    }

    fn decode(self, bytes: &[u8]) -> f32 {
        const STEP: f64 = 1.0 / (1u64 << 31) as f64;
        let of = |whole| (f64::from(i32::from_le_bytes(whole)) * STEP) as f32;
        match (self, bytes) {
            (Self::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Self::I32, &[a, b, c, d]) => of([a, b, c, d]),
            (Self::I24, &[a, b, c]) => of([0, a, b, c]),
            (Self::I16, &[a, b]) => of([0, 0, a, b]),
            (Self::U8, &[a]) => of([0, 0, 0, a.wrapping_sub(128)]),
            _ => unreachable!("samples are cut to the coding's length"),
        }
    }
}

/// What a `fmt ` chunk says.
#[derive(Clone, Copy, Debug)]
struct Format {
    coding: Coding,
    n_channels: u16,
    rate_hz: u32,
}

/// Why a header is not ours: the words of [`WavError::Foreign`] or [`WavError::Unsupported`].
enum HeaderError {
    Io(io::Error),
    Foreign(&'static str),
    Unsupported(String),
}

impl HeaderError {
    fn at(self, path: &Path) -> WavError {
        let path = path.to_owned();
        match self {
            Self::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => WavError::Foreign {
                path,
                reason: "it ends before its sound begins",
            },
            Self::Io(source) => WavError::Read { path, source },
            Self::Foreign(reason) => WavError::Foreign { path, reason },
            Self::Unsupported(what) => WavError::Unsupported { path, what },
        }
    }
}

impl From<io::Error> for HeaderError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads up to the first byte of sound: its format, and how many bytes of it are promised, if any
/// number is.
fn read_header(reader: &mut Reader) -> Result<(Format, Option<u32>), HeaderError> {
    let mut riff = [0; 12];
    reader.read_exact(&mut riff)?;
    if &riff[..4] != b"RIFF" || &riff[8..] != b"WAVE" {
        return Err(HeaderError::Foreign("it does not begin with RIFF and WAVE"));
    }
    let is_endless = LENGTH_UNKNOWN.contains(&u32_at(&riff, 4));
    let mut format = None;
    loop {
        let mut head = [0; 8];
        reader.read_exact(&mut head)?;
        let len = u32_at(&head, 4);
        match (&head[..4], format) {
            (b"fmt ", _) => format = Some(read_format(reader, len)?),
            (b"data", Some(format)) => {
                let is_unknown = len == u32::MAX || (len == 0 && is_endless);
                return Ok((format, (!is_unknown).then_some(len)));
            }
            (b"data", None) => return Err(HeaderError::Foreign("it has no `fmt ` before `data`")),
            // Chunks begin at even offsets, whatever their lengths.
            _ => reader.seek_relative(i64::from(len) + i64::from(len % 2))?,
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn coding(tag: u16, n_bytes: u16) -> Result<Coding, HeaderError> {
    match (tag, n_bytes) {
        (PCM, 1) => Ok(Coding::U8),
        (PCM, 2) => Ok(Coding::I16),
        (PCM, 3) => Ok(Coding::I24),
        (PCM, 4) => Ok(Coding::I32),
        (FLOAT, 4) => Ok(Coding::F32),
        (PCM, n) => Err(HeaderError::Unsupported(format!("{n}-byte integers"))),
        (FLOAT, n) => Err(HeaderError::Unsupported(format!("{n}-byte floats"))),
        (tag, _) => Err(HeaderError::Unsupported(format!(
            "sound of WAV format {tag}"
        ))),
    }
}

fn read_format(reader: &mut Reader, len: u32) -> Result<Format, HeaderError> {
    let mut bytes = [0; 40];
    if len < 16 {
        return Err(HeaderError::Foreign("its `fmt ` chunk is too short"));
    }
    let n_kept = bytes.len().min(len as usize);
    reader.read_exact(&mut bytes[..n_kept])?;
    reader.seek_relative(i64::from(len) - n_kept as i64 + i64::from(len % 2))?;

    let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let tag = match u16_at(0) {
        // The first two bytes of the sub-format's GUID are the tag it stands for.
        EXTENSIBLE => u16_at(24),
        tag => tag,
    };
    let (n_channels, frame_len) = (u16_at(2), u16_at(12));
    let rate_hz = u32_at(&bytes, 4);
    if !CHANNELS.contains(&n_channels) {
        return Err(HeaderError::Unsupported(format!("{n_channels} channels")));
    }
    if !RATES_HZ.contains(&rate_hz) {
        return Err(HeaderError::Unsupported(format!("sound at {rate_hz} Hz")));
    }
    if frame_len % n_channels != 0 {
        return Err(HeaderError::Foreign(
            "its frames are no whole number of samples",
        ));
    }
    Ok(Format {
        coding: coding(tag, frame_len / n_channels)?,
        n_channels,
        rate_hz,
    })
}

/// An open file, its reader at the next frame to read.
struct Source {
    path: PathBuf,
    reader: Reader,
    format: Format,
    n_frames: u64,
    position: u64,
    bytes: Vec<u8>,
}

impl Source {
    fn open(path: &Path) -> Result<Self, WavError> {
        let read_error = |source| WavError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(read_error)?;
        let file_len = file.metadata().map_err(read_error)?.len();
        Self::new(path, Box::new(file), file_len)
    }

    fn new(path: &Path, file: Box<dyn Bytes>, file_len: u64) -> Result<Self, WavError> {
        let read_error = |source| WavError::Read {
            path: path.to_owned(),
            source,
        };
        let mut reader = BufReader::new(file);
        let (format, data_len) = read_header(&mut reader).map_err(|error| error.at(path))?;

        let data_start = reader.stream_position().map_err(read_error)?;
        let got = file_len.saturating_sub(data_start);
        let expected = data_len.map_or(got, u64::from);
        if got < expected {
            return Err(WavError::Truncated {
                path: path.to_owned(),
                expected,
                got,
            });
        }
        let frame_len = format.coding.len() * usize::from(format.n_channels);
        Ok(Self {
            path: path.to_owned(),
            reader,
            format,
            n_frames: expected / frame_len as u64,
            position: 0,
            bytes: vec![0; BLOCK_FRAMES * frame_len],
        })
    }

    fn head(&self) -> Head {
        Head {
            rate_hz: self.format.rate_hz,
            n_frames: self.n_frames,
        }
    }

    fn frame_len(&self) -> usize {
        self.bytes.len() / BLOCK_FRAMES
    }

    fn skip(&mut self, n_frames: u64) -> Result<(), WavError> {
        let n_bytes = n_frames * self.frame_len() as u64;
        self.position += n_frames;
        match self.reader.seek(SeekFrom::Current(n_bytes as i64)) {
            Ok(_) => Ok(()),
            Err(source) => Err(WavError::Read {
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// Replaces `block` with the next frames, mixed down; `false` at the end.
    fn read_block(&mut self, block: &mut Vec<f32>) -> Result<bool, WavError> {
        let n = (self.n_frames - self.position).min(BLOCK_FRAMES as u64) as usize;
        let (frame_len, coding) = (self.frame_len(), self.format.coding);
        let bytes = &mut self.bytes[..n * frame_len];
        self.reader
            .read_exact(bytes)
            .map_err(|source| WavError::Read {
                path: self.path.clone(),
                source,
            })?;
        block.clear();
        for frame in bytes.chunks_exact(frame_len) {
            let samples = frame.chunks_exact(coding.len());
            let sum: f64 = samples.map(|sample| f64::from(coding.decode(sample))).sum();
            block.push((sum / f64::from(self.format.n_channels)) as f32);
        }
        if let Some(at) = block.iter().position(|sample| !sample.is_finite()) {
            return Err(WavError::NotFinite {
                path: self.path.clone(),
                frame: self.position + at as u64,
            });
        }
        // After the check: clamping would make a number of infinity.
        for sample in block.iter_mut() {
            *sample = sample.clamp(-SAMPLE_MAX, SAMPLE_MAX);
        }
        self.position += n as u64;
        Ok(n > 0)
    }
}
