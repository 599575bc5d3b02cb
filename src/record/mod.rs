//! Recording: a station into files, without losing or repeating a sample while the disk can take them.
//!
//! A recorder is one more listener of the station's broadcast ring, on a thread of its own called
//! "record": whatever the disk does, the pump, the card and other listeners never learn of it. It
//! writes beside the place of a file and gives the file its name once it is whole, and begins the next
//! where the last one ended: what a directory holds of a stream, joined by the positions in its names,
//! is the stream.
//!
//! A recorder that is too slow is lapped, which ends a file and is said. One that cannot write ends its
//! file where it was still whole, says so once, counts what it leaves out and tries again, at ever
//! longer intervals.

mod file;
mod flac;
mod leftover;
mod name;
mod tape;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::broadcast::Reader;
use crate::telemetry::Telemetry;
use tape::Tape;

/// Between two looks for packets: a ring holds some seconds.
const LOOK: Duration = Duration::from_millis(250);

/// How the sound lies in a file: samples of 16 bits, as in the WAV stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// As it is.
    Wav,
    /// Smaller, and the same samples.
    Flac,
}

impl Format {
    /// What the encoder of FLAC takes.
    pub const FLAC_RATE_HZ_MAX: u32 = 96_000;

    /// The format for a station of that rate: where there is no FLAC, WAV.
    pub fn at(self, rate_hz: u32) -> Self {
        match self {
            Self::Flac if rate_hz > Self::FLAC_RATE_HZ_MAX => Self::Wav,
            format => format,
        }
    }

    /// At the end of a file's name.
    fn extension(self) -> &'static str {
        match self {
            Self::Wav => "wav",
            Self::Flac => "flac",
        }
    }

    fn from_extension(extension: &str) -> Option<Self> {
        let all = [Self::Wav, Self::Flac];
        all.into_iter().find(|f| f.extension() == extension)
    }
}

/// What is recorded, and where to.
#[derive(Clone, Debug)]
pub struct Order {
    /// Begins the files' names.
    pub station: String,
    /// Where the files are.
    pub directory: PathBuf,
    /// Whether the directory is made where there is none.
    pub is_made: bool,
    /// How the files hold their samples.
    pub format: Format,
    /// Of the station.
    pub rate_hz: u32,
    /// Of the first code that the station ever published.
    pub first_position: u64,
    /// A file is no longer than this.
    pub rotate_samples: u64,
    /// Nor has it more bytes than this.
    pub rotate_bytes: u64,
    /// How many files of this station are kept; all when absent.
    pub keep: Option<usize>,
}

/// A station being recorded. Dropped, it ends its file in its own time.
#[derive(Debug)]
pub struct Recorder {
    /// Dropped to say that nothing more comes.
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
    telemetry: Arc<Telemetry>,
}

impl Recorder {
    /// Begins with the next packet of `reader`. Nothing is written before it comes.
    pub fn start(order: Order, reader: Reader, telemetry: Arc<Telemetry>) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let mut tape = Tape::new(order, reader, telemetry.clone());
        let work = move || {
            loop {
                // Before the look: what was published until then is still recorded.
                let is_over =
                    stopped.recv_timeout(LOOK) == Err(mpsc::RecvTimeoutError::Disconnected);
                tape.take_all();
                if is_over {
                    return tape.end();
                }
            }
        };
        let thread = thread::Builder::new().name("record".into()).spawn(work)?;
        Ok(Self {
            stop,
            thread,
            telemetry,
        })
    }

    /// Ends the files of all, with everything that was published, and waits for the disk.
    pub fn finish(recorders: Vec<Self>) {
        let told = recorders.into_iter().map(|recorder| {
            drop(recorder.stop);
            (recorder.thread, recorder.telemetry)
        });
        // All are told before one is waited for.
        for (thread, telemetry) in told.collect::<Vec<_>>() {
            // One that panicked has said so, and its file is mended at the next start.
            if thread.join().is_err() {
                telemetry.record.stopped.sub(1);
            }
        }
    }
}
