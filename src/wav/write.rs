//! Writing: beside the target, then renamed.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::process;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::wav::WavError;

/// The data of a WAV file is counted by 32 bits; the header takes a little of that.
const BYTES_MAX: u64 = u32::MAX as u64 - 256;

/// Names tried for one unfinished file.
const N_PARTIALS_MAX: u32 = 1_000;

/// Every unfinished file of this process: an exit drops nothing, and must not leave them behind.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// How samples lie in a file that we write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WavFormat {
    /// 16-bit integers.
    S16,
    /// 24-bit integers.
    S24,
    /// 32-bit floating point: what was computed, untouched.
    F32,
}

impl WavFormat {
    /// All formats, in the order of their widths.
    pub const ALL: [Self; 3] = [Self::S16, Self::S24, Self::F32];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::S16 => "s16",
            Self::S24 => "s24",
            Self::F32 => "f32",
        }
    }

    /// How many frames a mono file can hold.
    pub fn frames_max(self) -> u64 {
        BYTES_MAX / u64::from(self.bits() / 8)
    }

    /// Bits of one sample.
    pub fn bits(self) -> u16 {
        match self {
            Self::S16 => 16,
            Self::S24 => 24,
            Self::F32 => 32,
        }
    }
}

impl std::fmt::Display for WavFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WavFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| format!("no format `{name}`: choose s16, s24 or f32"))
    }
}

/// A mono WAV file being written beside its place; [`finish`](Self::finish) puts it there.
/// Dropped unfinished, it leaves nothing behind.
pub struct WavWriter {
    path: PathBuf,
    partial: PathBuf,
    format: WavFormat,
    /// `None` once finished.
    writer: Option<hound::WavWriter<BufWriter<File>>>,
    n_frames_left: u64,
}

impl std::fmt::Debug for WavWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WavWriter")
            .field("path", &self.path)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl WavWriter {
    /// Opens `path` for `n_frames` frames, or as many as come if that is not known, and refuses
    /// at once what a WAV file cannot hold.
    pub fn create(
        path: &Path,
        rate_hz: u32,
        format: WavFormat,
        n_frames: Option<u64>,
    ) -> Result<Self, WavError> {
        let n_frames_max = format.frames_max();
        if n_frames.is_some_and(|n| n > n_frames_max) {
            return Err(WavError::TooLong {
                path: path.to_owned(),
            });
        }
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: rate_hz,
            bits_per_sample: format.bits(),
            sample_format: match format {
                WavFormat::F32 => hound::SampleFormat::Float,
                WavFormat::S16 | WavFormat::S24 => hound::SampleFormat::Int,
            },
        };
        if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            return Err(WavError::NoFile {
                path: path.to_owned(),
            });
        }
        let (partial, file) = create_partial(path).map_err(|error| write_error(path, error))?;
        let mut this = Self {
            path: path.to_owned(),
            partial,
            format,
            writer: None,
            n_frames_left: n_frames_max,
        };
        let writer = hound::WavWriter::new(BufWriter::new(file), spec);
        this.writer = Some(writer.map_err(|error| write_error(path, into_io(error)))?);
        Ok(this)
    }

    /// Appends samples; those beyond [-1, 1] are clamped in the integer formats.
    pub fn write(&mut self, samples: &[f32]) -> Result<(), WavError> {
        let left = self.n_frames_left.checked_sub(samples.len() as u64);
        self.n_frames_left = left.ok_or_else(|| WavError::TooLong {
            path: self.path.clone(),
        })?;
        let format = self.format;
        let writer = self
            .writer
            .as_mut()
            .expect("`finish` takes the writer away");
        let mut write = |sample: f32| match format {
            WavFormat::S16 => writer.write_sample(quantise(sample, 15)),
            WavFormat::S24 => writer.write_sample(quantise(sample, 23)),
            WavFormat::F32 => writer.write_sample(sample),
        };
        samples
            .iter()
            .try_for_each(|&sample| write(sample))
            .map_err(|error| write_error(&self.path, into_io(error)))
    }

    /// Completes the header and moves the file to its place.
    pub fn finish(mut self) -> Result<(), WavError> {
        let writer = self.writer.take().expect("nothing else takes the writer");
        writer
            .finalize()
            .map_err(|error| write_error(&self.path, into_io(error)))?;
        fs::rename(&self.partial, &self.path).map_err(|error| write_error(&self.path, error))
    }
}

impl Drop for WavWriter {
    /// After `finish` the file has moved and there is nothing to remove.
    fn drop(&mut self) {
        drop(self.writer.take());
        let _ = fs::remove_file(&self.partial);
        unfinished().retain(|partial| *partial != self.partial);
    }
}

/// What stands before the samples of a mono file with so many bytes of them; `u32::MAX` for no end.
pub fn header(format: WavFormat, rate_hz: u32, data_len: u32) -> [u8; 44] {
    let (tag, width) = match format {
        WavFormat::F32 => (3u16, 4),
        WavFormat::S16 | WavFormat::S24 => (1, format.bits() / 8),
    };
    let mut header = [0; 44];
    let fields: [&[u8]; 13] = [
        b"RIFF",
        &data_len.saturating_add(36).to_le_bytes(),
        b"WAVE",
        b"fmt ",
        &16u32.to_le_bytes(),
        &tag.to_le_bytes(),
        &1u16.to_le_bytes(), // channels
        &rate_hz.to_le_bytes(),
        &(rate_hz * u32::from(width)).to_le_bytes(), // bytes a second
        &width.to_le_bytes(),                        // bytes a frame
        &(8 * width).to_le_bytes(),                  // bits a sample
        b"data",
        &data_len.to_le_bytes(),
    ];
    header.copy_from_slice(&fields.concat());
    header
}

/// Removes the unfinished files of all writers: for a process that exits without dropping them.
pub fn abandon_all() {
    for partial in unfinished().drain(..) {
        // Gone is what it should be.
        let _ = fs::remove_file(partial);
    }
}

/// The nearest integer of `n_bits` and a sign; the scale that reading undoes exactly.
fn quantise(sample: f32, n_bits: u32) -> i32 {
    let scale = f64::from(1u32 << n_bits);
    (f64::from(sample) * scale)
        .round()
        .clamp(-scale, scale - 1.0) as i32
}

/// A file of nobody else's beside `path`: its name holds this process and a number.
fn create_partial(path: &Path) -> io::Result<(PathBuf, File)> {
    // Held throughout: a file is never there without being listed.
    let mut unfinished = unfinished();
    for n in 0..N_PARTIALS_MAX {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}-{n}.partial", process::id()));
        let partial = PathBuf::from(name);
        match File::create_new(&partial) {
            // Another writer's, or what a killed process of the same number left.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(file) => {
                unfinished.push(partial.clone());
                return Ok((partial, file));
            }
        }
    }
    Err(io::Error::other("too many unfinished files beside it"))
}

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    // A list of paths is whole whatever panicked.
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_error(path: &Path, source: io::Error) -> WavError {
    WavError::Write {
        path: path.to_owned(),
        source,
    }
}

fn into_io(error: hound::Error) -> io::Error {
    match error {
        hound::Error::IoError(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_clamp_instead_of_wrapping() {
        assert_eq!(quantise(1.5, 15), 32_767);
        assert_eq!(quantise(-1.5, 15), -32_768);
        assert_eq!(quantise(f32::NAN, 15), 0);
    }

    #[test]
    fn an_unfinished_file_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.wav");
        let mut writer = WavWriter::create(&path, 16_000, WavFormat::S16, None).unwrap();
        writer.write(&[0.0; 10]).unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn two_writers_of_one_file_do_not_meet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.wav");
        let write = |sample| {
            let mut writer = WavWriter::create(&path, 16_000, WavFormat::F32, None).unwrap();
            writer.write(&[sample; 10]).unwrap();
            writer
        };
        let (first, second) = (write(0.25), write(0.5));
        first.finish().unwrap();
        let got = hound::WavReader::open(&path).unwrap();
        let mut got = got.into_samples::<f32>().map(Result::unwrap);
        assert!(got.all(|sample| sample == 0.25));
        drop(second);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_is_said_before_the_work_begins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("no/such/out.wav");
        let error = WavWriter::create(&path, 16_000, WavFormat::S16, None).unwrap_err();
        assert!(
            error.to_string().contains("no/such/out.wav: No such"),
            "{error}"
        );
        let error = WavWriter::create(dir.path(), 16_000, WavFormat::S16, None).unwrap_err();
        assert!(error.to_string().contains("regular file"), "{error}");
        let device = Path::new("/dev/null");
        let error = WavWriter::create(device, 16_000, WavFormat::S16, None).unwrap_err();
        assert!(error.to_string().contains("/dev/null"), "{error}");
        let path = dir.path().join("long.wav");
        let error = WavWriter::create(&path, 48_000, WavFormat::F32, Some(1 << 30)).unwrap_err();
        assert!(error.to_string().contains("4 GiB"), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn a_format_tells_how_much_a_file_of_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("full.wav");
        for format in WavFormat::ALL {
            let create = |n| WavWriter::create(&path, 16_000, format, Some(n));
            assert!(create(format.frames_max()).is_ok());
            assert!(create(format.frames_max() + 1).is_err());
        }
    }

    #[test]
    fn a_format_is_known_by_its_name_alone() {
        for format in WavFormat::ALL {
            assert_eq!(format.name().parse(), Ok(format));
        }
        assert!(
            "s8".parse::<WavFormat>()
                .unwrap_err()
                .contains("s16, s24 or f32")
        );
    }
}
