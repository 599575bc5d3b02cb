//! One recording into one file of the corpus: decode, level, resample, treat silence, write.
//!
//! Sound flows through in blocks and is never held whole; levelling hears a recording once
//! before it is written.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::corpus::decode::{Fault, Recording};
use crate::corpus::level::{Meter, decibels};
use crate::corpus::manifest::{Done, Options, round};
use crate::corpus::silence::Silencer;
use crate::resample::Resampler;
use crate::wav::{WavError, WavFormat, WavWriter};

/// Samples that go through the resampler at a time.
const BLOCK_LEN: usize = 4_096;

/// A recording quieter than this holds noise of its equipment, if anything.
const SILENT_DBFS: f64 = -60.0;

thread_local! {
    /// Whether a panic of this thread becomes a fault of a recording.
    static IS_CONVERTING: Cell<bool> = const { Cell::new(false) };
}

/// Keeps quiet about panics that become faults of recordings; for the program to call, whose the
/// panic hook is.
pub fn hush_decoders() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !IS_CONVERTING.get() {
            tell(info);
        }
    }));
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The recording is not fit for use; the others go on.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The file cannot be written, and no other could.
    #[error(transparent)]
    Write(WavError),
    /// The caller wanted no more.
    #[error("interrupted")]
    Interrupted,
}

impl From<WavError> for ConvertError {
    fn from(error: WavError) -> Self {
        match error {
            WavError::TooLong { .. } => Self::Fault(Fault::TooLong),
            error => Self::Write(error),
        }
    }
}

/// What to make of what.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// The recording.
    pub source: &'a Path,
    /// The file, which appears when it is whole.
    pub target: &'a Path,
    /// How.
    pub options: &'a Options,
    /// What dithering is drawn from.
    pub seed: u64,
}

/// Hears how much of the task is done, from 0 to 1, and may break it off.
pub type OnShare<'a> = &'a mut dyn FnMut(f64) -> ControlFlow<()>;

impl Task<'_> {
    /// Does it. The bytes are anybody's: what makes a decoder panic must not end a night's work.
    pub fn run(&self, on_share: OnShare<'_>) -> Result<Done, ConvertError> {
        IS_CONVERTING.set(true);
        let result = catch_unwind(AssertUnwindSafe(|| self.convert(on_share)));
        IS_CONVERTING.set(false);
        result.unwrap_or(Err(Fault::Panicked.into()))
    }

    fn convert(&self, on_share: OnShare<'_>) -> Result<Done, ConvertError> {
        let Some(dbfs) = self.options.level_dbfs else {
            return self.write(1.0, on_share);
        };
        let mut meter = Meter::default();
        self.pass(1.0, &mut |share| on_share(share / 2.0), &mut |block| {
            meter.hear(block);
            Ok(())
        })?;
        check_level(&meter)?;
        let gain = meter.gain(f64::from(dbfs));
        self.write(gain, &mut |share| on_share(0.5 + share / 2.0))
    }

    fn write(&self, gain: f64, on_share: OnShare<'_>) -> Result<Done, ConvertError> {
        let rate_hz = self.options.rate_hz;
        let mut writer = WavWriter::create(self.target, rate_hz, WavFormat::S16, None)?;
        let mut meter = Meter::default();
        let (recording, silencer) = self.pass(gain, on_share, &mut |block| {
            meter.hear(block);
            Ok(writer.write(block)?)
        })?;
        check_level(&meter)?;
        writer.finish()?;
        let seconds = |n: u64| round(n as f64 / f64::from(rate_hz));
        Ok(Done {
            seconds: seconds(meter.n),
            source_rate_hz: recording.rate_hz(),
            source_channels: recording.n_channels() as u32,
            gain_db: self.options.level_dbfs.map(|_| round(decibels(gain))),
            level_dbfs: round(meter.rms_dbfs()),
            silence_cut_s: seconds(silencer.n_cut),
            silence_dithered_s: seconds(silencer.n_dithered),
            packets_lost: recording.n_damaged(),
        })
    }

    /// Reads the recording once; `sink` gets what belongs into the corpus.
    fn pass(
        &self,
        gain: f64,
        on_share: OnShare<'_>,
        sink: &mut dyn FnMut(&[f32]) -> Result<(), ConvertError>,
    ) -> Result<(Recording, Silencer), ConvertError> {
        let mut recording = Recording::open(self.source)?;
        let rate_hz = self.options.rate_hz;
        let mut resampler = Resampler::new(recording.rate_hz(), rate_hz, BLOCK_LEN)
            .map_err(|error| Fault::Foreign(error.to_string()))?;
        let mut silencer = Silencer::new(self.options.silence, rate_hz, self.seed);
        let (mut block, mut treated) = (Vec::new(), Vec::new());
        let mut give = |output: &[f32]| {
            treated.clear();
            treated.extend(
                output
                    .iter()
                    .map(|sample| (f64::from(*sample) * gain) as f32),
            );
            silencer.process(&mut treated);
            sink(&treated)
        };
        while recording.read(&mut block)? {
            for chunk in block.chunks(BLOCK_LEN) {
                give(resampler.process(chunk))?;
            }
            if on_share(recording.share_read()).is_break() {
                return Err(ConvertError::Interrupted);
            }
        }
        give(resampler.flush())?;
        Ok((recording, silencer))
    }
}

fn check_level(meter: &Meter) -> Result<(), Fault> {
    let rms_dbfs = meter.rms_dbfs();
    match meter.n {
        0 => Err(Fault::Empty),
        _ if rms_dbfs < SILENT_DBFS => Err(Fault::Silent { rms_dbfs }),
        _ => Ok(()),
    }
}
