//! What was measured on the way: `metrics.jsonl`, one JSON object a line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::run;

/// One line; what it does not measure is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Iterations done.
    pub iteration: u64,
    /// Codes predicted.
    pub samples: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// Bits per sample, the mean of the iterations since the line before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<f64>,
    /// Bits per sample of the averaged weights on a few windows of the validation split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_bits: Option<f64>,
    /// Learning rate of the last iteration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Length of the gradient before it was clipped, the root of the mean square of the
    /// iterations since the line before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient: Option<f64>,
    /// Codes predicted in a second since the line before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples_per_s: Option<f64>,
}

/// The file, and all its lines.
#[derive(Debug)]
pub struct Metrics {
    file: File,
    lines: Vec<Metric>,
}

impl Metrics {
    /// Opens the file of a training that has done `n_done` iterations: what was measured after
    /// them, before an interruption, is measured again.
    pub fn open(path: &Path, n_done: u64) -> Result<Self, TrainError> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text.map_err(TrainError::read(path))?,
        };
        // A line that is no JSON was cut off when the process ended.
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let lines: Vec<Metric> = lines
            .filter(|metric: &Metric| metric.iteration <= n_done)
            .collect();
        let kept: String = lines.iter().map(as_line).collect();
        if kept != text {
            run::replace(path, kept.as_bytes())?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self {
            file: file.map_err(TrainError::write(path))?,
            lines,
        })
    }

    /// Adds a line.
    pub fn push(&mut self, path: &Path, metric: Metric) -> Result<(), TrainError> {
        self.lines.push(metric);
        let written = self.file.write_all(as_line(&metric).as_bytes());
        written.map_err(TrainError::write(path))
    }

    /// All of them.
    pub fn lines(&self) -> &[Metric] {
        &self.lines
    }
}

fn as_line(metric: &Metric) -> String {
    serde_json::to_string(metric).expect("plain numbers") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(iteration: u64) -> Metric {
        Metric {
            iteration,
            samples: 10 * iteration,
            seconds: 0.1,
            bits: Some(7.25),
            ..Metric::default()
        }
    }

    #[test]
    fn lines_are_read_again_without_those_that_will_be_measured_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut metrics = Metrics::open(&path, 0).unwrap();
        for i in [20, 40, 60] {
            metrics.push(&path, metric(i)).unwrap();
        }
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"iteration\":70,\"sam").unwrap();
        let metrics = Metrics::open(&path, 40).unwrap();
        assert_eq!(metrics.lines(), [metric(20), metric(40)]);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(!text.contains("null") && text.contains("\"bits\":7.25"));
    }
}
