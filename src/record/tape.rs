//! What a recorder does with what it hears: into which file, until when, and what if there is none.

use std::fs;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::file::Unfinished;
use super::{Order, leftover, name};
use crate::broadcast::{Next, Reader};
use crate::mulaw;
use crate::telemetry::{RecordTelemetry, Telemetry};
use crate::wav::WavFormat;

/// Before it is tried again after a fault: at first, and at most. It doubles each time.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A fault is over when so much was written: a disk that is full takes a little now and then.
const PROOF_S: u64 = 10;

#[derive(Debug)]
pub(super) struct Tape {
    order: Order,
    reader: Reader,
    telemetry: Arc<Telemetry>,
    file: Option<Unfinished>,
    /// Samples of the file that were counted as recorded.
    n_counted: u64,
    /// Since a fault, until it is over.
    trouble: Option<Trouble>,
    codes: Vec<u8>,
    samples: Vec<i16>,
}

#[derive(Debug)]
struct Trouble {
    retry_at: Instant,
    pause: Duration,
    /// Samples that are in no file.
    n_lost: u64,
}

impl Tape {
    pub(super) fn new(order: Order, reader: Reader, telemetry: Arc<Telemetry>) -> Self {
        let codes = vec![0; reader.packet_len()];
        Self {
            order,
            reader,
            telemetry,
            file: None,
            n_counted: 0,
            trouble: None,
            samples: Vec::with_capacity(codes.len()),
            codes,
        }
    }

    /// Records all that was published and writes it.
    pub(super) fn take_all(&mut self) {
        loop {
            match self.reader.next(&mut self.codes) {
                Next::Packet { sequence } => {
                    let offset = sequence * self.codes.len() as u64;
                    self.take(self.order.first_position + offset);
                }
                Next::Lapped { lost } => self.lapped(lost),
                Next::Empty | Next::End => break,
            }
        }
        if let Some(Err(error)) = self.file.as_mut().map(Unfinished::write) {
            self.fault(&error);
        }
        self.count(false);
    }

    /// Nothing more comes.
    pub(super) fn end(mut self) {
        self.rotate();
        if self.trouble.is_some() {
            self.counters().stopped.sub(1);
        }
    }

    fn counters(&self) -> &RecordTelemetry {
        &self.telemetry.record
    }

    /// The packet in `codes`, whose first code has that position.
    fn take(&mut self, position: u64) {
        let n_more = self.codes.len() as u64;
        let is_full = |file: &Unfinished| {
            let n_samples = file.n_taken() + n_more;
            n_samples > self.order.rotate_samples.min(WavFormat::S16.frames_max())
                || file.len_with(n_more) > self.order.rotate_bytes
        };
        if self.file.as_ref().is_some_and(is_full) {
            self.rotate();
        }
        if self.file.is_none() && self.is_due() {
            self.open(position);
        }
        match &mut self.file {
            Some(file) => {
                self.samples.clear();
                let samples = self.codes.iter().map(|&code| mulaw::decode_s16(code));
                self.samples.extend(samples);
                file.take(&self.samples);
            }
            None => self.lose(n_more),
        }
    }

    /// Whether a file may be begun.
    fn is_due(&self) -> bool {
        let trouble = self.trouble.as_ref();
        trouble.is_none_or(|trouble| Instant::now() >= trouble.retry_at)
    }

    fn open(&mut self, position: u64) {
        match begin(&self.order, position) {
            Ok(file) => (self.file, self.n_counted) = (Some(file), 0),
            Err(error) => self.fault(&error),
        }
    }

    /// Ends the file.
    fn rotate(&mut self) {
        if let Some(Err(error)) = self.file.as_mut().map(Unfinished::finish) {
            return self.fault(&error);
        }
        self.count(true);
        let Some(file) = self.file.take() else {
            return;
        };
        if file.n_written() > 0 {
            self.counters().files.add(1);
            if let Err(error) = thin_out(&self.order) {
                let station = &self.order.station;
                tracing::warn!("an old recording of station {station} stays: {error}");
            }
        }
    }

    /// Counts what is on the disk, and whether a fault is over.
    fn count(&mut self, is_whole: bool) {
        let Some(n_written) = self.file.as_ref().map(Unfinished::n_written) else {
            return;
        };
        let is_proof = is_whole || n_written >= PROOF_S * u64::from(self.order.rate_hz);
        if let Some(trouble) = self.trouble.take_if(|_| is_proof) {
            self.counters().stopped.sub(1);
            tracing::info!(
                "station {} is recorded again; {} samples are not",
                self.order.station,
                trouble.n_lost
            );
        }
        if self.trouble.is_none() {
            self.counters().samples.add(n_written - self.n_counted);
            self.n_counted = n_written;
        }
    }

    fn lapped(&mut self, n_packets: u64) {
        let n_lost = n_packets * self.codes.len() as u64;
        self.rotate();
        self.lose(n_lost);
        tracing::warn!(
            "the disk was too slow for the recording of station {}: {n_lost} samples are not in it",
            self.order.station
        );
    }

    fn lose(&mut self, n_samples: u64) {
        self.counters().lost.add(n_samples);
        if let Some(trouble) = &mut self.trouble {
            trouble.n_lost += n_samples;
        }
    }

    /// Ends the file as far as it is whole, and waits.
    fn fault(&mut self, error: &io::Error) {
        self.counters().failures.add(1);
        let is_new = self.trouble.is_none();
        if is_new {
            self.counters().stopped.add(1);
            tracing::error!(
                "station {} is not recorded: cannot write in {}: {error}; it plays on, and recording is tried \
                 again",
                self.order.station,
                self.order.directory.display()
            );
        }
        let pause = self.trouble.as_ref().map(|trouble| 2 * trouble.pause);
        let pause = pause.unwrap_or(PAUSE_MIN).min(PAUSE_MAX);
        let n_lost = self.trouble.as_ref().map_or(0, |trouble| trouble.n_lost);
        self.trouble = Some(Trouble {
            retry_at: Instant::now() + pause,
            pause,
            n_lost,
        });
        if let Some(file) = self.file.take() {
            self.cut(file, is_new);
        }
    }

    /// Keeps what there is of a file; but not what a full disk took in between.
    fn cut(&mut self, file: Unfinished, is_kept: bool) {
        let (n_written, n_taken) = (file.n_written(), file.n_taken());
        if !is_kept {
            file.remove();
            return self.lose(n_taken);
        }
        self.counters().samples.add(n_written - self.n_counted);
        self.lose(n_taken - n_written);
        match file.finish_short() {
            Ok(()) if n_written > 0 => self.counters().files.add(1),
            // Without a name of its own it is mended when the next is begun.
            _ => {}
        }
    }
}

impl Drop for Tape {
    /// An encoder that has panicked writes nothing more, and that must be seen.
    fn drop(&mut self) {
        if thread::panicking() && self.trouble.is_none() {
            self.counters().failures.add(1);
            self.counters().stopped.add(1);
        }
    }
}

/// A new file; before it, what another left is put in order.
fn begin(order: &Order, position: u64) -> io::Result<Unfinished> {
    if order.is_made {
        fs::create_dir_all(&order.directory)?;
    }
    leftover::mend(order)?;
    let Order {
        directory,
        station,
        format,
        rate_hz,
        ..
    } = order;
    Unfinished::create(directory, station, *format, *rate_hz, position)
}

/// Removes the oldest files that are too many; never the last.
fn thin_out(order: &Order) -> io::Result<()> {
    let Some(keep) = order.keep else {
        return Ok(());
    };
    let names = name::list(&order.directory, &order.station, true)?;
    let n_old = names.len().saturating_sub(keep.max(1));
    for name in &names[..n_old] {
        fs::remove_file(name.path(&order.directory))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broadcast;
    use crate::record::Format;

    #[test]
    fn a_recorder_that_panics_is_one_that_has_stopped() {
        let order = Order {
            station: "piano".into(),
            directory: "/nowhere".into(),
            is_made: false,
            format: Format::Flac,
            rate_hz: 16_000,
            first_position: 0,
            rotate_samples: 1,
            rotate_bytes: 1,
            keep: None,
        };
        let (_writer, source) = broadcast::ring(4, 320);
        let telemetry = Arc::<Telemetry>::default();
        let tape = Tape::new(order, source.subscribe(0), telemetry.clone());
        let recording = thread::spawn(move || {
            let _tape = tape;
            panic!("an encoder that cannot go on");
        });
        assert!(recording.join().is_err());
        let RecordTelemetry {
            stopped, failures, ..
        } = &telemetry.record;
        assert_eq!((stopped.get(), failures.get()), (1, 1));
    }
}
