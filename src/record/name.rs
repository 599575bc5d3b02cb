//! What files are called: the station, when the file was begun, and the positions that it holds.
//!
//! `piano-20261127T061912Z-000000000000-000000960000.wav` holds the positions from the first of the
//! numbers up to the second, which is where the next file begins.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Format;
use crate::files;

/// A file's name in its parts. In the order of these, files are in the order of their making.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    /// In UTC.
    begun: String,
    pub(super) first: u64,
    /// Not known of a file that is being written.
    end: Option<u64>,
    station: String,
    extension: &'static str,
}

impl Name {
    /// Of a file that is begun now.
    pub(super) fn new(station: &str, format: Format, first: u64) -> Self {
        let now = jiff::Timestamp::now();
        Self {
            begun: now.strftime("%Y%m%dT%H%M%SZ").to_string(),
            first,
            end: None,
            station: station.to_owned(),
            extension: format.extension(),
        }
    }

    /// The same, whole.
    pub(super) fn whole(&self, n_samples: u64) -> Self {
        Self {
            end: Some(self.first + n_samples),
            ..self.clone()
        }
    }

    pub(super) fn format(&self) -> Format {
        Format::from_extension(self.extension).expect("it was made from a format")
    }

    pub(super) fn path(&self, directory: &Path) -> PathBuf {
        let Self {
            begun,
            first,
            station,
            extension,
            ..
        } = self;
        match self.end {
            Some(end) => directory.join(format!(
                "{station}-{begun}-{first:012}-{end:012}.{extension}"
            )),
            None => files::partial(
                &directory.join(format!("{station}-{begun}-{first:012}.{extension}")),
            ),
        }
    }

    /// Of one of ours, whole or not.
    fn parse(text: &str) -> Option<Self> {
        let (rest, is_whole) = match text.strip_suffix(".partial") {
            Some(rest) => (rest, false),
            None => (text, true),
        };
        let (stem, extension) = rest.rsplit_once('.')?;
        let extension = Format::from_extension(extension)?.extension();
        let number = |digits: &str| -> Option<u64> {
            let is_number = digits.len() >= 12 && digits.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| digits.parse().ok())?
        };
        // A station's name may hold such lines, too.
        let mut parts = stem.rsplitn(if is_whole { 4 } else { 3 }, '-');
        let end = match is_whole {
            true => Some(number(parts.next()?)?),
            false => None,
        };
        let first = number(parts.next()?)?;
        let begun = parts.next()?.to_owned();
        let is_time = begun.len() == 16 && begun.ends_with('Z');
        let station = parts.next()?.to_owned();
        is_time.then_some(Self {
            begun,
            first,
            end,
            station,
            extension,
        })
    }
}

/// The station's files in a directory, oldest first: those that are whole, or those that are not.
pub(super) fn list(directory: &Path, station: &str, whole: bool) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let name = name.to_str().and_then(Name::parse);
        names.extend(name.filter(|n| n.station == station && n.end.is_some() == whole));
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written() {
        let name = Name::new("late-night", Format::Flac, 960_000);
        let directory = Path::new("d");
        for name in [name.whole(320), name] {
            let path = name.path(directory);
            let text = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(Name::parse(text), Some(name), "{text}");
        }
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        for text in [
            "piano.wav",
            "piano-1-2-3.wav",
            "piano-20261127T061912Z-000000000000-000000000320.mp3",
            "piano-20261127T061912Z-000000000000.wav",
            "20261127T061912Z-000000000000-000000000320.wav",
            "piano-yesterday-000000000000-000000000320.wav",
            "piano-20261127T061912Z-000000000000.wav.partial.partial",
        ] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_stations_files_are_listed_in_the_order_of_their_making() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            "piano-20261127T061912Z-000000000320-000000000640.wav",
            "piano-20261127T061912Z-000000000000-000000000320.flac",
            "piano-20251127T061912Z-999000000000-999000000320.wav",
            "piano-20261127T061912Z-000000000640.wav.partial",
            "piano-b-20261127T061912Z-000000000000-000000000320.wav",
            "notes.txt",
        ];
        for file in files {
            fs::write(dir.path().join(file), "").unwrap();
        }
        let listed = |whole| {
            let names = list(dir.path(), "piano", whole).unwrap().into_iter();
            names.map(|name| name.first).collect::<Vec<_>>()
        };
        assert_eq!(listed(true), [999_000_000_000, 0, 320]);
        assert_eq!(listed(false), [640]);
    }
}
