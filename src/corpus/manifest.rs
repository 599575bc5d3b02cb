//! What a corpus says of itself: how it was made, of what, and what was left out and why.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::corpus::silence::Silence;
use crate::corpus::split::{Shares, Split};

/// Its name in the corpus.
pub const MANIFEST: &str = "manifest.json";

/// Raised whenever the same recording and options come to another file: an older corpus is then
/// refused instead of being mixed with a newer one.
pub const VERSION: u32 = 1;

/// How recordings are treated; a corpus is made with one set of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Frames per second of every file.
    pub rate_hz: u32,
    /// The level that every recording is brought to, in whole dBFS; `None` leaves it as it is.
    pub level_dbfs: Option<i32>,
    /// What is done with silence.
    pub silence: Silence,
    /// How much goes into each split.
    pub shares: Shares,
}

/// As it is typed.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--rate {}", self.rate_hz)?;
        if let Some(level) = self.level_dbfs {
            write!(f, " --level {level}")?;
        }
        write!(f, " --silence {} --split {}", self.silence, self.shares)
    }
}

/// `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of its form and of the treatment.
    pub version: u32,
    /// Whether the last run came to its end.
    pub is_complete: bool,
    /// How the files were made.
    pub options: Options,
    /// Sums over the files.
    pub totals: Totals,
    /// Every file, in the order of the sources.
    pub files: Vec<Entry>,
    /// Every recording that is not in the corpus.
    pub skipped: Vec<Skipped>,
}

/// Sums over the files of a corpus.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Of the corpus.
    pub n_files: usize,
    /// Of the corpus.
    pub seconds: f64,
    /// Recordings left out.
    pub n_skipped: usize,
    /// Of each split, by its name.
    pub splits: BTreeMap<Split, SplitTotals>,
}

/// Sums over the files of a split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SplitTotals {
    /// Files in it.
    pub n_files: usize,
    /// Their length.
    pub seconds: f64,
}

/// One file of the corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The recording, relative to the folder it was found in.
    pub source: String,
    /// Of the recording's bytes.
    pub source_sha256: String,
    /// Where it belongs.
    pub split: Split,
    /// The file, relative to the corpus: `split/name.wav`.
    pub output: String,
    /// Of the file's bytes.
    pub output_sha256: String,
    /// What was done.
    #[serde(flatten)]
    pub done: Done,
}

/// What was done to a recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The file's length.
    pub seconds: f64,
    /// What the recording had.
    pub source_rate_hz: u32,
    /// What the recording had, averaged.
    pub source_channels: u32,
    /// By how much it was made louder; absent without `--level`.
    pub gain_db: Option<f64>,
    /// The file's level.
    pub level_dbfs: f64,
    /// Silence taken away.
    pub silence_cut_s: f64,
    /// Silence that got noise.
    pub silence_dithered_s: f64,
    /// Packets of the recording that did not decode: few, or it would have been skipped.
    pub packets_lost: u64,
}

/// A recording that is not in the corpus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The recording, relative to the folder it was found in.
    pub source: String,
    /// Why, as the end of "this file ...".
    pub reason: String,
    /// Of its bytes; absent if they could not be read, and it is tried again then.
    pub source_sha256: Option<String>,
    /// The recording in the corpus that has the same bytes.
    pub same_as: Option<String>,
}

impl Manifest {
    /// Of a corpus without files.
    pub fn new(options: Options) -> Self {
        Self {
            version: VERSION,
            is_complete: false,
            options,
            totals: Totals::default(),
            files: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Puts all in order and adds up.
    pub fn settle(&mut self) {
        self.files.sort_by(|a, b| a.source.cmp(&b.source));
        self.skipped.sort_by(|a, b| a.source.cmp(&b.source));
        let mut totals = Totals {
            n_skipped: self.skipped.len(),
            ..Totals::default()
        };
        for split in Split::ALL {
            totals.splits.insert(split, SplitTotals::default());
        }
        for entry in &self.files {
            let of_split = totals.splits.entry(entry.split).or_default();
            of_split.n_files += 1;
            of_split.seconds += entry.done.seconds;
            totals.n_files += 1;
            totals.seconds += entry.done.seconds;
        }
        let sums = totals
            .splits
            .values_mut()
            .map(|of_split| &mut of_split.seconds);
        sums.chain([&mut totals.seconds])
            .for_each(|sum| *sum = round(*sum));
        self.totals = totals;
    }

    /// As a person can read it.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and words have a JSON form") + "\n"
    }

    /// Understands a manifest. Its paths are believed only if we could have written them: files
    /// are removed by them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if manifest.version != VERSION {
            return Err(format!(
                "it has version {}, not {VERSION}",
                manifest.version
            ));
        }
        let is_ours = |entry: &&Entry| {
            let name = entry.output.strip_prefix(entry.split.name());
            let name = name.and_then(|name| name.strip_prefix('/'));
            name.is_some_and(|name| {
                Path::new(name).file_name() == Some(name.as_ref()) && name.ends_with(".wav")
            })
        };
        match manifest.files.iter().find(|entry| !is_ours(entry)) {
            Some(entry) => Err(format!("it names a file `{}`", entry.output.escape_debug())),
            None => Ok(manifest),
        }
    }
}

/// To thousandths: enough of seconds and decibels, and short enough to be read back exactly.
pub fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let entry = |source: &str, split: Split, seconds| Entry {
            source: source.to_owned(),
            source_sha256: "aa".to_owned(),
            split,
            output: format!("{split}/{source}.wav"),
            output_sha256: "bb".to_owned(),
            done: Done {
                seconds,
                source_rate_hz: 44_100,
                source_channels: 2,
                gain_db: Some(-3.25),
                level_dbfs: -21.0,
                silence_cut_s: 0.1,
                silence_dithered_s: 0.0,
                packets_lost: 0,
            },
        };
        let mut manifest = Manifest::new(Options {
            rate_hz: 16_000,
            level_dbfs: Some(-21),
            silence: Silence::Cut,
            shares: Shares::default(),
        });
        manifest.files.push(entry("b", Split::Train, 2.5));
        manifest.files.push(entry("a", Split::Train, 1.25));
        manifest.files.push(entry("c", Split::Test, 1.0));
        manifest.skipped.push(Skipped {
            source: "d".to_owned(),
            reason: "is nearly silent".to_owned(),
            source_sha256: None,
            same_as: None,
        });
        manifest.settle();
        manifest
    }

    #[test]
    fn what_is_written_is_read_back() {
        let manifest = manifest();
        let text = serde_json::to_string_pretty(&manifest).unwrap();
        assert_eq!(Manifest::parse(&text), Ok(manifest), "{text}");
    }

    #[test]
    fn totals_add_up_and_files_stand_in_the_order_of_their_sources() {
        let manifest = manifest();
        let sources: Vec<_> = manifest.files.iter().map(|entry| &entry.source).collect();
        assert_eq!(sources, ["a", "b", "c"]);
        let totals = manifest.totals;
        assert_eq!((totals.n_files, totals.n_skipped), (3, 1));
        assert_eq!(totals.seconds, 4.75);
        assert_eq!(totals.splits[&Split::Train].n_files, 2);
        assert_eq!(totals.splits[&Split::Train].seconds, 3.75);
        assert_eq!(totals.splits[&Split::Valid], SplitTotals::default());
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_not_believed() {
        for output in [
            "../x.wav",
            "train/../../x.wav",
            "/x.wav",
            "test/a.wav",
            "train/a.txt",
        ] {
            let mut manifest = manifest();
            manifest.files[0].output = output.to_owned();
            let text = serde_json::to_string(&manifest).unwrap();
            let said = Manifest::parse(&text).unwrap_err();
            assert!(said.contains(output), "{said}");
        }
    }

    #[test]
    fn another_version_and_another_file_are_refused() {
        let mut manifest = manifest();
        manifest.version = 9;
        let text = serde_json::to_string(&manifest).unwrap();
        assert!(Manifest::parse(&text).unwrap_err().contains("version 9"));
        assert!(Manifest::parse("{}").is_err());
    }

    #[test]
    fn options_are_told_as_they_are_typed() {
        let said = manifest().options.to_string();
        assert_eq!(
            said,
            "--rate 16000 --level -21 --silence cut --split 90,5,5"
        );
    }
}
