//! A station into a WAV file.

use super::{Item, ListenError, Wire};
use crate::mulaw;
use crate::wav::{WavFormat, WavWriter};
use std::path::PathBuf;
use std::time::Duration;

/// What a loss may fill with silence at most; more is no loss but a broken station.
const LOSS_MAX_S: u64 = 600;

/// Silence is written in pieces: its length is the station's to say, our memory is not.
const SILENCE_LEN: u64 = 4_096;

/// What to record.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The file, which appears when it is complete.
    pub output: PathBuf,
    /// How its samples are written.
    pub format: WavFormat,
    /// How long; `None`: until stopped, or until a WAV file can hold no more.
    pub length: Option<Duration>,
}

/// What has been recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Samples in the file.
    pub n_samples: u64,
    /// Samples of these that are silence because their packets were lost on the way.
    pub n_lost: u64,
}

/// Why a recording is over.
#[derive(Debug)]
pub enum End {
    /// It is as long as was asked for, or as a WAV file can be.
    Length,
    /// The caller said stop.
    Stop,
    /// The station or the network ended it; the file holds what came before.
    Station(ListenError),
}

/// Records until the length is reached, `stop` resolves or the station ends; then completes the
/// file. `see` is told of the progress after each packet. What is lost becomes silence, so that a
/// place in the file is a time in the stream.
pub async fn record(
    mut wire: Wire,
    recording: &Recording,
    mut see: impl FnMut(Recorded),
    stop: impl Future<Output = ()>,
) -> Result<(Recorded, End), ListenError> {
    let rate_hz = wire.facts().sample_rate_hz;
    let n_wanted = recording
        .length
        .map(|length| (length.as_secs_f64() * f64::from(rate_hz)).round() as u64);
    let output = &recording.output;
    let mut tape = Tape {
        writer: WavWriter::create(output, rate_hz, recording.format, n_wanted)?,
        n_wanted: n_wanted.unwrap_or(recording.format.frames_max()),
        recorded: Recorded::default(),
        samples: Vec::new(),
    };
    let mut codes = Vec::new();
    tokio::pin!(stop);
    let end = loop {
        if tape.recorded.n_samples >= tape.n_wanted {
            break End::Length;
        }
        let item = tokio::select! {
            () = &mut stop => break End::Stop,
            item = wire.next(&mut codes) => item,
        };
        match item {
            Ok(Item::Packet) => tape.write(&codes)?,
            Ok(Item::Lost { n_packets }) => {
                let n_lost = n_packets.saturating_mul(u64::from(wire.facts().packet_len));
                if n_lost > LOSS_MAX_S * u64::from(rate_hz) {
                    break End::Station(ListenError::Broken);
                }
                tape.leave_out(n_lost)?;
            }
            Err(error) => break End::Station(error),
        }
        see(tape.recorded);
    };
    let recorded = tape.recorded;
    tape.writer.finish()?;
    wire.close().await;
    Ok((recorded, end))
}

struct Tape {
    writer: WavWriter,
    n_wanted: u64,
    recorded: Recorded,
    samples: Vec<f32>,
}

impl Tape {
    fn write(&mut self, codes: &[u8]) -> Result<(), ListenError> {
        self.samples.clear();
        self.samples
            .extend(codes.iter().map(|&code| mulaw::decode(code)));
        self.append().map(drop)
    }

    fn leave_out(&mut self, n_lost: u64) -> Result<(), ListenError> {
        let mut n_left = n_lost.min(self.n_wanted - self.recorded.n_samples);
        while n_left > 0 {
            self.samples.clear();
            self.samples.resize(n_left.min(SILENCE_LEN) as usize, 0.0);
            let n = self.append()?;
            self.recorded.n_lost += n;
            n_left -= n;
        }
        Ok(())
    }

    /// Writes what is wanted of `samples`; how many were.
    fn append(&mut self) -> Result<u64, ListenError> {
        let room = self.n_wanted - self.recorded.n_samples;
        let n = (self.samples.len() as u64).min(room);
        self.writer.write(&self.samples[..n as usize])?;
        self.recorded.n_samples += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_loss_is_written_whole_and_held_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heard.wav");
        let n_wanted = 1_000_000;
        let mut tape = Tape {
            writer: WavWriter::create(&path, 16_000, WavFormat::S16, None).unwrap(),
            n_wanted,
            recorded: Recorded::default(),
            samples: Vec::new(),
        };
        tape.write(&[7; 320]).unwrap();
        tape.leave_out(600_000).unwrap();
        assert_eq!(tape.recorded.n_samples, 600_320);
        // It ends where the recording does, however much was lost.
        tape.leave_out(u64::MAX).unwrap();
        let n_lost = n_wanted - 320;
        let n_samples = n_wanted;
        assert_eq!(tape.recorded, Recorded { n_samples, n_lost });
        assert!(tape.samples.capacity() <= SILENCE_LEN as usize);
    }
}
