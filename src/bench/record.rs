//! What a run of the benchmark found: the JSON that `--json` prints and `--compare` reads.
//!
//! A field that an older record lacks is optional. None is renamed: old records stay readable.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cases::CHUNKS_PER_S;
use super::floor::Floor;
use super::host::{self, Host};
use super::measure::Times;
use crate::model::Model;

/// All that a run found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The release that measured.
    pub version: String,
    /// Its commit, if it was built from one.
    #[serde(default)]
    pub commit: Option<String>,
    /// What compiled it.
    #[serde(default)]
    pub rustc: Option<String>,
    /// The day.
    #[serde(default)]
    pub date: Option<String>,
    /// The model measured, unless a result names another.
    pub model: String,
    /// SHA-256 of its weights.
    pub model_sha256: String,
    /// Where.
    pub machine: Host,
    /// Every case that is measured step by step.
    pub results: Vec<CaseResult>,
    /// How long a prompt takes to be heard.
    #[serde(default)]
    pub prefill: Vec<PrefillResult>,
    /// How long a chunk takes that a listener waits for.
    #[serde(default)]
    pub chunks: Vec<ChunkResult>,
}

/// A case measured step by step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CaseResult {
    /// `one-lane`, `eight-lanes`, `dense-65536`, ...
    pub case: String,
    /// The model, if it is not the record's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What computed: `cpu`.
    pub device: String,
    /// The instruction set, or `naive`.
    pub isa: String,
    /// Threads that shared a step.
    #[serde(default = "one")]
    pub threads: usize,
    /// Streams decoded at once.
    pub lanes: usize,
    /// Steps measured.
    pub steps: usize,
    /// Steps per second; each is one code in every lane.
    pub steps_per_s: f64,
    /// Audio time over compute time, of each lane.
    pub x_realtime: f64,
    /// Lanes that one core would keep in real time, were each as costly as these.
    #[serde(default)]
    pub realtime_lanes_per_core: Option<f64>,
    /// Nanoseconds of the median step.
    pub step_ns_p50: u64,
    /// Nanoseconds that 99 % of the steps kept to.
    pub step_ns_p99: u64,
    /// Nanoseconds that 99.9 % of the steps kept to.
    pub step_ns_p999: u64,
    /// The least that memory and arithmetic allow.
    #[serde(default)]
    pub floor: Option<Floor>,
    /// The median step over the floor.
    pub floor_ratio: Option<f64>,
    /// A point of the curve of cost against context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Context>,
    /// A kind of attention beside others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<PatternFacts>,
    /// The median over that of the record compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_to_record: Option<f64>,
    /// For the plot: [`Times::tail`].
    #[serde(skip)]
    pub tail: Vec<(u64, f64)>,
}

/// What a layer can look back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Positions spanned.
    pub positions: u64,
    /// Does every layer see all of them?
    pub dense: bool,
}

/// What a kind of attention reads and keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatternFacts {
    /// Its word in `config.json`, or `dense`.
    pub kind: String,
    /// Keys visible to a head, the mean over layers.
    pub keys: usize,
    /// Bytes of keys and values that a step reads.
    pub read_bytes: usize,
    /// Bytes of state that a lane keeps.
    pub lane_bytes: usize,
    /// Positions that the farthest-reaching layer looks back.
    pub reach: u64,
}

/// A prompt heard in one call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PrefillResult {
    /// `prefill`
    pub case: String,
    /// The instruction set.
    pub isa: String,
    /// Cores that were there to share the work.
    pub cores: usize,
    /// Codes of the prompt.
    pub codes: usize,
    /// Seconds of the median call.
    pub seconds: f64,
    /// Audio time over compute time.
    pub x_realtime: f64,
    /// Seconds that drawing as many codes step by step takes.
    pub stepping_seconds: f64,
    /// The median over that of the record compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_to_record: Option<f64>,
}

/// Chunks of 20 ms, one after another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChunkResult {
    /// `chunks`, or `card-…`
    pub case: String,
    /// The command that ran meanwhile.
    pub beside: Option<String>,
    /// How often that command failed.
    #[serde(default)]
    pub beside_failed: usize,
    /// The instruction set, or the library.
    pub isa: String,
    /// Threads that shared a step.
    pub threads: usize,
    /// Streams decoded at once.
    pub lanes: usize,
    /// Chunks measured.
    pub chunks: usize,
    /// Nanoseconds that a chunk plays: it must not take longer.
    pub deadline_ns: u64,
    /// Nanoseconds of the median chunk.
    pub chunk_ns_p50: u64,
    /// Nanoseconds that 99 % of the chunks kept to.
    pub chunk_ns_p99: u64,
    /// Nanoseconds that 99.9 % of the chunks kept to.
    pub chunk_ns_p999: u64,
    /// Nanoseconds of the slowest chunk.
    pub chunk_ns_max: u64,
    /// The median over that of the record compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_to_record: Option<f64>,
}

impl ChunkResult {
    /// Of one stream on one thread, with nothing beside.
    pub fn of(case: &str, isa: &str, times: &Times) -> Self {
        Self {
            case: case.into(),
            beside: None,
            beside_failed: 0,
            isa: isa.into(),
            threads: 1,
            lanes: 1,
            chunks: times.n_calls(),
            deadline_ns: 1_000_000_000 / u64::from(CHUNKS_PER_S),
            chunk_ns_p50: times.quantile(0.5),
            chunk_ns_p99: times.quantile(0.99),
            chunk_ns_p999: times.quantile(0.999),
            chunk_ns_max: times.quantile(1.0),
            ratio_to_record: None,
        }
    }
}

/// Medians that lie closer together say nothing: a machine differs so much from hour to hour.
pub const NOISE: f64 = 0.10;

/// Why a record was refused.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file could not be read.
    #[error("cannot read the record {path}: {source}; `longwave bench --json` prints one")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{path} is no record of a benchmark ({reason}); `longwave bench --json` prints one")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

fn one() -> usize {
    1
}

impl Record {
    /// Of a model on this machine; nothing has been found yet.
    pub fn new(model: &Model) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: host::COMMIT.map(str::to_owned),
            rustc: host::RUSTC.map(str::to_owned),
            date: Some(host::date()),
            model: model.name.clone(),
            model_sha256: model.sha256.clone(),
            machine: Host::this(),
            results: Vec::new(),
            prefill: Vec::new(),
            chunks: Vec::new(),
        }
    }

    /// Reads a record that was stored.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let path = || path.to_path_buf();
        let text = fs::read_to_string(path()).map_err(|source| RecordError::Read {
            path: path(),
            source,
        })?;
        serde_json::from_str(&text).map_err(|error| RecordError::Foreign {
            path: path(),
            reason: error.to_string(),
        })
    }

    /// As `--json` prints it.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and text can always be written")
    }

    /// Sets every result beside that of an older record.
    pub fn compare(&mut self, old: &Self) {
        for result in &mut self.results {
            result.ratio_to_record = old.ratio_of_steps(result);
        }
        for result in &mut self.prefill {
            result.ratio_to_record = old.ratio_of_prefill(result);
        }
        for result in &mut self.chunks {
            result.ratio_to_record = old.ratio_of_chunks(result);
        }
    }

    /// The median of `new` over ours of the same case.
    pub fn ratio_of_steps(&self, new: &CaseResult) -> Option<f64> {
        let key = |r: &CaseResult| (r.case.clone(), r.isa.clone(), r.threads, r.lanes);
        let old = self.results.iter().find(|old| key(old) == key(new))?;
        ratio(new.step_ns_p50 as f64, old.step_ns_p50 as f64)
    }

    /// Likewise, of a prompt.
    pub fn ratio_of_prefill(&self, new: &PrefillResult) -> Option<f64> {
        let key = |r: &PrefillResult| (r.isa.clone(), r.cores, r.codes);
        let old = self.prefill.iter().find(|old| key(old) == key(new))?;
        ratio(new.seconds, old.seconds)
    }

    /// Likewise, of chunks.
    pub fn ratio_of_chunks(&self, new: &ChunkResult) -> Option<f64> {
        let key = |r: &ChunkResult| (r.beside.clone(), r.isa.clone(), r.threads, r.lanes);
        let old = self.chunks.iter().find(|old| key(old) == key(new))?;
        ratio(new.chunk_ns_p50 as f64, old.chunk_ns_p50 as f64)
    }
}

fn ratio(new: f64, old: f64) -> Option<f64> {
    (old > 0.0).then(|| new / old)
}

/// What a ratio of medians says, if it says anything.
pub fn verdict(ratio: f64) -> &'static str {
    match ratio {
        ratio if ratio > 1.0 + NOISE => "slower",
        ratio if ratio < 1.0 / (1.0 + NOISE) => "faster",
        _ => "",
    }
}

impl CaseResult {
    /// From the times of its steps; the caller sets what it knows beside.
    pub fn new(case: &str, isa: &str, times: &Times) -> Self {
        Self {
            case: case.into(),
            model: None,
            device: "cpu".into(),
            isa: isa.into(),
            threads: 1,
            lanes: 1,
            steps: times.n_calls(),
            steps_per_s: times.calls_per_s(),
            x_realtime: 0.0,
            realtime_lanes_per_core: None,
            step_ns_p50: times.quantile(0.5),
            step_ns_p99: times.quantile(0.99),
            step_ns_p999: times.quantile(0.999),
            floor: None,
            floor_ratio: None,
            context: None,
            pattern: None,
            ratio_to_record: None,
            tail: times.tail(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(case: &str, p50: u64) -> CaseResult {
        CaseResult::new(case, "portable", &Times::new(vec![p50]))
    }

    fn record(results: Vec<CaseResult>) -> Record {
        let model = Model::load(Path::new("models/tiny")).unwrap();
        Record {
            results,
            ..Record::new(&model)
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        let written = record(vec![result("one-lane", 5), result("eight-lanes", 9)]);
        fs::write(&path, written.to_json()).unwrap();
        let read = Record::read(&path).unwrap();
        assert_eq!(read.to_json(), written.to_json());
        assert!(read.machine.cores.is_some());
    }

    #[test]
    fn the_first_record_of_all_is_still_read() {
        let path = Path::new("benches/record/2026-11-22-amd-epyc-2-cores.json");
        let old = Record::read(path).unwrap();
        assert_eq!((old.results.len(), old.results[0].threads), (6, 1));
        let mut new = result("one-lane", 76_134);
        new.isa = "avx512-vnni".into();
        assert_eq!(old.ratio_of_steps(&new), Some(2.0));
    }

    #[test]
    fn what_is_no_record_is_refused_by_name() {
        for name in [
            "Cargo.toml",
            "models/tiny/config.json",
            "no-such-record.json",
        ] {
            let error = Record::read(Path::new(name)).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("--json"), "{error}");
        }
    }

    #[test]
    fn only_the_same_case_is_compared() {
        let old = record(vec![result("one-lane", 100)]);
        let mut new = record(vec![result("one-lane", 150), result("eight-lanes", 150)]);
        new.results.push(CaseResult {
            threads: 2,
            ..result("one-lane", 150)
        });
        new.compare(&old);
        let ratios: Vec<_> = new.results.iter().map(|r| r.ratio_to_record).collect();
        assert_eq!(ratios, [Some(1.5), None, None]);
    }

    #[test]
    fn noise_is_no_verdict() {
        assert_eq!([1.0, 1.09, 0.92].map(verdict), [""; 3]);
        assert_eq!([1.11, 0.90].map(verdict), ["slower", "faster"]);
    }
}
