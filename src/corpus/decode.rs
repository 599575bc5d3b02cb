//! A recording of any kind, as blocks of mono samples at its own rate.
//!
//! The bytes are nobody's friend: rates, channels and lengths beyond music are refused, and a file
//! that ends early or decodes badly is told from one that is whole. Memory holds one packet.

use std::fs::File;
use std::io;
use std::path::Path;

use symphonia::core::codecs::audio::well_known::{CODEC_ID_MP3, CODEC_ID_OPUS};
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder};
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatReader, Track, TrackType};
use symphonia::core::io::MediaSourceStream;

/// What the names of readable files end in, in lower case.
pub const SUFFIXES: [&str; 11] = [
    "wav", "wave", "flac", "mp3", "ogg", "oga", "m4a", "m4b", "aac", "aif", "aiff",
];

/// Channel counts and rates beyond these are a broken header, not music.
const CHANNELS_MAX: usize = 64;
const RATE_MIN_HZ: u32 = 1_000;
const RATE_MAX_HZ: u32 = 768_000;

/// Longer than any recording of one piece; a file that claims more is a mistake, or meant to fill
/// the disk: a few bytes of FLAC can stand for hours.
const HOURS_MAX: u64 = 24;

/// Beyond one packet in so many the damage can be heard; a few at the start are the usual sign of
/// an MP3 cut out of a longer one.
const PACKETS_PER_DAMAGE: u64 = 100;
const N_DAMAGED_FREE: u64 = 3;

/// How much earlier than promised a file may end: encoders count their padding differently.
const SHORT_S: f64 = 0.1;
const SHORT_SHARE: f64 = 0.001;

/// Louder than any mistake in scale, and far from where a filter overflows.
const SAMPLE_MAX: f32 = 8.0;

/// Why a recording is not used; each reads as the end of "this file ...".
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The system would not give its bytes.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// No container or codec that we know.
    #[error("holds no sound that can be read ({0})")]
    Foreign(String),
    /// There is no decoder for it that needs nothing but cargo.
    #[error("holds Opus, which is not read: convert it to FLAC first")]
    Opus,
    /// Numbers that no recording has.
    #[error("claims {0}, which no recording has")]
    Absurd(String),
    /// It would not end.
    #[error("is too long for one file: cut it into pieces first")]
    TooLong,
    /// It ends before its header says.
    #[error(
        "is truncated or damaged: its header promises {expected_s:.1} s, it holds {got_s:.1} s"
    )]
    Truncated {
        /// Seconds promised.
        expected_s: f64,
        /// Seconds found.
        got_s: f64,
    },
    /// Its container is broken in the middle.
    #[error("is damaged after {at_s:.1} s ({reason})")]
    Broken {
        /// Where.
        at_s: f64,
        /// The decoder's reason.
        reason: String,
    },
    /// Too much of it does not decode.
    #[error("is damaged: {n_damaged} of {n_packets} packets do not decode")]
    Damaged {
        /// Packets lost.
        n_damaged: u64,
        /// Packets met.
        n_packets: u64,
    },
    /// NaN or infinity.
    #[error("holds a sample that is not a finite number, after {at_s:.1} s")]
    NotFinite {
        /// Where.
        at_s: f64,
    },
    /// No sound at all.
    #[error("holds no sound: it is 0 seconds long")]
    Empty,
    /// Nothing that a model could learn from.
    #[error("is nearly silent: {rms_dbfs:.0} dBFS")]
    Silent {
        /// Its level.
        rms_dbfs: f64,
    },
    /// The decoder's own bug.
    #[error("made its decoder fail: convert it to FLAC first")]
    Panicked,
}

/// An open recording.
pub struct Recording {
    reader: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track_id: u32,
    /// Seconds, where the header's word can be trusted.
    promised_s: Option<f64>,
    rate_hz: u32,
    n_channels: usize,
    n_frames: u64,
    n_packets: u64,
    n_damaged: u64,
    interleaved: Vec<f32>,
    /// Decoded by `open`, to learn the true rate, and not yet given away.
    first: Option<Vec<f32>>,
}

impl Recording {
    /// Opens a file and decodes its first packet.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let file = Box::new(File::open(path)?);
        let stream = MediaSourceStream::new(file, Default::default());
        let mut hint = Hint::new();
        if let Some(suffix) = path.extension().and_then(|suffix| suffix.to_str()) {
            hint.with_extension(suffix);
        }
        let reader = symphonia::default::get_probe()
            .probe(&hint, stream, Default::default(), Default::default())
            .map_err(foreign)?;
        let track = reader.default_track(TrackType::Audio);
        let track = track.ok_or_else(|| Fault::Foreign("no sound track".into()))?;
        let params = track.codec_params.as_ref().and_then(|codec| codec.audio());
        let params = params.ok_or_else(|| Fault::Foreign("no sound track".into()))?;
        if params.codec == CODEC_ID_OPUS {
            return Err(Fault::Opus);
        }
        let decoder = symphonia::default::get_codecs()
            .make_audio_decoder(params, &Default::default())
            .map_err(foreign)?;
        let (track_id, promised_s) = (track.id, promised_s(track, params));
        if promised_s.is_some_and(|s| s > (HOURS_MAX * 3_600) as f64) {
            return Err(Fault::TooLong);
        }
        let mut this = Self {
            reader,
            decoder,
            track_id,
            promised_s,
            rate_hz: 0,
            n_channels: 0,
            n_frames: 0,
            n_packets: 0,
            n_damaged: 0,
            interleaved: Vec::new(),
            first: None,
        };
        let mut first = Vec::new();
        if !this.decode_block(&mut first)? {
            return Err(Fault::Empty);
        }
        this.first = Some(first);
        Ok(this)
    }

    /// Frames per second.
    pub fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// Channels, which `read` averages.
    pub fn n_channels(&self) -> usize {
        self.n_channels
    }

    /// Packets that did not decode, so far.
    pub fn n_damaged(&self) -> u64 {
        self.n_damaged
    }

    /// How much of it has been read, from 0 to 1; 0 where nobody knows its length.
    pub fn share_read(&self) -> f64 {
        let promised_s = self.promised_s.filter(|s| *s > 0.0);
        promised_s.map_or(0.0, |promised_s| (self.read_s() / promised_s).min(1.0))
    }

    /// Replaces `block` with the next samples, of which there is at least one; `false` at the end
    /// of a recording that was whole.
    pub fn read(&mut self, block: &mut Vec<f32>) -> Result<bool, Fault> {
        if let Some(first) = self.first.take() {
            *block = first;
            return Ok(true);
        }
        let is_more = self.decode_block(block)?;
        if !is_more {
            self.check_end()?;
        }
        Ok(is_more)
    }

    fn read_s(&self) -> f64 {
        self.n_frames as f64 / f64::from(self.rate_hz.max(1))
    }

    fn decode_block(&mut self, block: &mut Vec<f32>) -> Result<bool, Fault> {
        loop {
            let packet = match self.reader.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => return Ok(false),
                // Whether that was too early is judged by what the header promised.
                Err(Error::IoError(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(false);
                }
                Err(Error::IoError(error)) => return Err(Fault::Io(error)),
                Err(error) => return Err(self.broken(error.to_string())),
            };
            if packet.track_id != self.track_id {
                continue;
            }
            self.n_packets += 1;
            match self.decoder.decode(&packet) {
                Ok(sound) => {
                    let (rate_hz, n_channels) = (sound.spec().rate(), sound.spec().channels());
                    let n_channels = n_channels.count();
                    sound.copy_to_vec_interleaved(&mut self.interleaved);
                    self.check_spec(rate_hz, n_channels)?;
                }
                Err(Error::DecodeError(_) | Error::IoError(_)) => {
                    self.n_damaged += 1;
                    continue;
                }
                Err(error) => return Err(self.broken(error.to_string())),
            }
            if !self.interleaved.is_empty() {
                return self.mix_down(block).map(|()| true);
            }
        }
    }

    /// The first packet tells the rate and the channels, and all others must agree.
    fn check_spec(&mut self, rate_hz: u32, n_channels: usize) -> Result<(), Fault> {
        if self.n_frames == 0 {
            if !(RATE_MIN_HZ..=RATE_MAX_HZ).contains(&rate_hz) {
                return Err(Fault::Absurd(format!("{rate_hz} frames per second")));
            }
            if !(1..=CHANNELS_MAX).contains(&n_channels) {
                return Err(Fault::Absurd(format!("{n_channels} channels")));
            }
            (self.rate_hz, self.n_channels) = (rate_hz, n_channels);
        }
        match (rate_hz, n_channels) == (self.rate_hz, self.n_channels) {
            true => Ok(()),
            false => Err(self.broken("its rate or channels change".into())),
        }
    }

    fn mix_down(&mut self, block: &mut Vec<f32>) -> Result<(), Fault> {
        let scale = 1.0 / self.n_channels as f32;
        let frames = self.interleaved.chunks_exact(self.n_channels);
        block.clear();
        block.extend(frames.map(|frame| frame.iter().sum::<f32>() * scale));
        if !block.iter().all(|sample| sample.is_finite()) {
            return Err(Fault::NotFinite {
                at_s: self.read_s(),
            });
        }
        // After the check: clamping would make a number of infinity.
        for sample in block.iter_mut() {
            *sample = sample.clamp(-SAMPLE_MAX, SAMPLE_MAX);
        }
        self.n_frames += block.len() as u64;
        match self.n_frames > HOURS_MAX * 3_600 * u64::from(self.rate_hz) {
            true => Err(Fault::TooLong),
            false => Ok(()),
        }
    }

    fn check_end(&self) -> Result<(), Fault> {
        let (n_damaged, n_packets) = (self.n_damaged, self.n_packets);
        if n_damaged > N_DAMAGED_FREE + n_packets / PACKETS_PER_DAMAGE || n_damaged == n_packets {
            return Err(Fault::Damaged {
                n_damaged,
                n_packets,
            });
        }
        let got_s = self.read_s();
        match self.promised_s {
            Some(expected_s) if got_s + SHORT_S + SHORT_SHARE * expected_s < expected_s => {
                Err(Fault::Truncated { expected_s, got_s })
            }
            _ => Ok(()),
        }
    }

    fn broken(&self, reason: String) -> Fault {
        Fault::Broken {
            at_s: self.read_s(),
            reason,
        }
    }
}

fn foreign(error: Error) -> Fault {
    match error {
        Error::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Fault::Foreign("it ends within its header".into())
        }
        Error::IoError(error) => Fault::Io(error),
        error => Fault::Foreign(error.to_string()),
    }
}

/// An MP3's length is a guess from its first frames, unless its encoder left a tag, which is also
/// where the encoder's delay comes from.
fn promised_s(track: &Track, params: &AudioCodecParameters) -> Option<f64> {
    let is_guess = params.codec == CODEC_ID_MP3 && track.delay.is_none();
    let n_frames = track.num_frames.filter(|_| !is_guess)?;
    let rate_hz = params.sample_rate.filter(|hz| *hz > 0)?;
    Some(n_frames as f64 / f64::from(rate_hz))
}
