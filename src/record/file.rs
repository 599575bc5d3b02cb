//! One file in the making. At any moment it is a valid file of what was written until then.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::Format;
use super::flac::Flac;
use super::name::Name;
use crate::wav::{self, WavFormat};

/// Takes samples, and puts them on the disk when it is told to.
///
/// It writes by itself, not by the writers of `wav` and hound: those keep what they could not write, and
/// what is in such a file after a full disk nobody knows.
#[derive(Debug)]
pub(super) struct Unfinished {
    name: Name,
    directory: PathBuf,
    file: File,
    encoding: Encoding,
    /// Encoded, not written.
    bytes: Vec<u8>,
    /// Samples in `bytes`.
    n_encoded: u64,
    /// Samples on the disk, and bytes.
    n_written: u64,
    len: u64,
}

#[derive(Debug)]
enum Encoding {
    Wav { rate_hz: u32 },
    Flac(Box<Flac>),
}

impl Encoding {
    /// The head of a file with so many samples.
    fn head(&self, n_samples: u64) -> Vec<u8> {
        match self {
            Self::Wav { rate_hz } => wav_head(*rate_hz, n_samples),
            Self::Flac(flac) => flac.head(n_samples).into(),
        }
    }

    /// Appends to `out`; how many samples that came to.
    fn encode(&mut self, samples: &[i16], out: &mut Vec<u8>) -> u64 {
        match self {
            Self::Wav { .. } => {
                out.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
                samples.len() as u64
            }
            Self::Flac(flac) => flac.encode(samples, out),
        }
    }

    /// Samples that it keeps back.
    fn n_pending(&self) -> u64 {
        match self {
            Self::Wav { .. } => 0,
            Self::Flac(flac) => flac.n_pending(),
        }
    }
}

/// The head of a WAV file with so many samples.
pub(super) fn wav_head(rate_hz: u32, n_samples: u64) -> Vec<u8> {
    let len = u32::try_from(2 * n_samples).unwrap_or(u32::MAX);
    wav::header(WavFormat::S16, rate_hz, len).into()
}

impl Unfinished {
    /// Begins a file with the sample at position `first`.
    pub(super) fn create(
        directory: &Path,
        station: &str,
        format: Format,
        rate_hz: u32,
        first: u64,
    ) -> io::Result<Self> {
        let name = Name::new(station, format, first);
        let file = File::create_new(name.path(directory))?;
        // So that no other daemon takes it for a leftover. A file system without locks has one daemon.
        let _ = file.try_lock();
        let encoding = match format {
            Format::Wav => Encoding::Wav { rate_hz },
            Format::Flac => Encoding::Flac(Box::new(Flac::new(rate_hz))),
        };
        let mut this = Self {
            name,
            directory: directory.to_owned(),
            file,
            bytes: encoding.head(0),
            encoding,
            n_encoded: 0,
            n_written: 0,
            len: 0,
        };
        match this.write() {
            Ok(()) => Ok(this),
            Err(error) => {
                this.remove();
                Err(error)
            }
        }
    }

    /// Takes samples; nothing is written yet.
    pub(super) fn take(&mut self, samples: &[i16]) {
        self.n_encoded += self.encoding.encode(samples, &mut self.bytes);
    }

    /// Writes what was taken, but for what a block of FLAC still waits for.
    pub(super) fn write(&mut self) -> io::Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        self.file.seek(SeekFrom::Start(self.len))?;
        self.file.write_all(&self.bytes)?;
        let n_written = self.n_written + self.n_encoded;
        put_head(&mut self.file, &self.encoding.head(n_written))?;
        self.n_written = n_written;
        self.len += self.bytes.len() as u64;
        self.bytes.clear();
        self.n_encoded = 0;
        Ok(())
    }

    /// Samples on the disk.
    pub(super) fn n_written(&self) -> u64 {
        self.n_written
    }

    /// Samples taken.
    pub(super) fn n_taken(&self) -> u64 {
        self.n_written + self.n_encoded + self.encoding.n_pending()
    }

    /// Bytes that the file would have at most, with all that was taken and `n_more` samples.
    pub(super) fn len_with(&self, n_more: u64) -> u64 {
        self.len + self.bytes.len() as u64 + 2 * (self.encoding.n_pending() + n_more)
    }

    /// Writes the rest and gives the file its name. On an error the file is as it was.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if let Encoding::Flac(flac) = &mut self.encoding {
            self.n_encoded += flac.flush(&mut self.bytes);
        }
        self.write()?;
        self.name_it()
    }

    /// After an error: ends the file where it was still whole, as far as that can be done.
    pub(super) fn finish_short(mut self) -> io::Result<()> {
        self.file.set_len(self.len)?;
        if let Encoding::Flac(flac) = &mut self.encoding {
            // It has heard more than is in the file.
            flac.forget_digest();
        }
        put_head(&mut self.file, &self.encoding.head(self.n_written))?;
        self.name_it()
    }

    fn name_it(&mut self) -> io::Result<()> {
        let partial = self.name.path(&self.directory);
        if self.n_written == 0 {
            return fs::remove_file(partial);
        }
        self.file.sync_all()?;
        let whole = self.name.whole(self.n_written);
        fs::rename(partial, whole.path(&self.directory))
    }

    /// There shall be no such file.
    pub(super) fn remove(self) {
        // If that fails, it is mended when the next file is begun.
        let _ = fs::remove_file(self.name.path(&self.directory));
    }
}

/// Writes a head over the one that is there.
pub(super) fn put_head(file: &mut File, head: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    file.write_all(head)
}
