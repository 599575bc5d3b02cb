//! Finding the recordings in a folder.

use std::fs;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use crate::corpus::CorpusError;
use crate::corpus::decode::SUFFIXES;
use crate::corpus::manifest::Skipped;

/// Known and not read, so that nobody wonders where they went.
const SUFFIXES_REFUSED: [(&str, &str); 1] = [(
    "opus",
    "holds Opus, which is not read: convert it to FLAC first",
)];

/// A file that ends like a recording.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// Its path in the folder, with `/` between the parts.
    pub name: String,
    /// Its size in bytes.
    pub n_bytes: u64,
}

/// A folder's content.
#[derive(Debug, Default)]
pub struct Listing {
    /// In the order of their names.
    pub found: Vec<Found>,
    /// What can be told without reading it.
    pub skipped: Vec<Skipped>,
    /// Files that end otherwise.
    pub n_others: usize,
}

/// Lists a folder and all below it; links are followed, what is hidden is left alone.
pub fn list(folder: &Path) -> Result<Listing, CorpusError> {
    match fs::metadata(folder) {
        Ok(there) if there.is_dir() => {}
        Ok(_) => return Err(CorpusError::NoFolder(folder.to_owned())),
        Err(source) => {
            return Err(CorpusError::Read {
                path: folder.to_owned(),
                source,
            });
        }
    }
    let mut listing = Listing::default();
    let is_hidden = |entry: &DirEntry| {
        entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".")
    };
    let walk = WalkDir::new(folder).follow_links(true).into_iter();
    for entry in walk.filter_entry(|entry| !is_hidden(entry)) {
        match entry {
            Ok(entry) => listing.add(folder, &entry),
            Err(error) => listing.add_unreadable(folder, error)?,
        }
    }
    listing.found.sort_by(|a, b| a.name.cmp(&b.name));
    if listing.found.is_empty() {
        return Err(CorpusError::NoRecordings {
            path: folder.to_owned(),
            n_others: listing.n_others + listing.skipped.len(),
        });
    }
    Ok(listing)
}

impl Listing {
    fn add(&mut self, folder: &Path, entry: &DirEntry) {
        if !entry.file_type().is_file() {
            return;
        }
        let suffix = entry.path().extension().unwrap_or_default();
        let is = |known: &str| suffix.eq_ignore_ascii_case(known);
        if let Some((_, reason)) = SUFFIXES_REFUSED.iter().find(|(known, _)| is(known)) {
            self.skip(folder, entry.path(), (*reason).to_owned());
        } else if !SUFFIXES.iter().any(|known| is(known)) {
            self.n_others += 1;
        } else if let Some(name) = relative(folder, entry.path()) {
            self.found.push(Found {
                path: entry.path().to_owned(),
                name,
                n_bytes: entry.metadata().map_or(0, |metadata| metadata.len()),
            });
        } else {
            let reason = "has a name that is not UTF-8: rename it";
            self.skip(folder, entry.path(), reason.to_owned());
        }
    }

    /// A part of the folder that cannot be listed is left out and told; without the folder itself
    /// there is nothing.
    fn add_unreadable(&mut self, folder: &Path, error: walkdir::Error) -> Result<(), CorpusError> {
        let path = error.path().unwrap_or(folder).to_owned();
        let reason = match error.loop_ancestor() {
            Some(_) => "is a link to a folder that holds it".to_owned(),
            None => format!("cannot be read: {}", io_reason(&error)),
        };
        if error.depth() == 0 {
            let source = error
                .into_io_error()
                .unwrap_or_else(|| std::io::Error::other("a loop"));
            return Err(CorpusError::Read { path, source });
        }
        self.skip(folder, &path, reason);
        Ok(())
    }

    fn skip(&mut self, folder: &Path, path: &Path, reason: String) {
        let source = path.strip_prefix(folder).unwrap_or(path);
        self.skipped.push(Skipped {
            source: source.to_string_lossy().into_owned(),
            reason,
            source_sha256: None,
            same_as: None,
        });
    }
}

fn io_reason(error: &walkdir::Error) -> String {
    error
        .io_error()
        .map_or_else(String::new, ToString::to_string)
}

fn relative(folder: &Path, path: &Path) -> Option<String> {
    let inner = path.strip_prefix(folder).ok()?;
    let parts: Option<Vec<&str>> = inner.iter().map(|part| part.to_str()).collect();
    Some(parts?.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_are_found_at_every_depth_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("b/c")).unwrap();
        fs::create_dir_all(dir.path().join(".git")).unwrap();
        for name in [
            "z.WAV",
            "b/c/a.flac",
            "b/d.mp3",
            ".git/x.wav",
            "b/._d.mp3",
            "cover.jpg",
        ] {
            fs::write(dir.path().join(name), "12").unwrap();
        }
        fs::write(dir.path().join("b/e.opus"), "").unwrap();
        let listing = list(dir.path()).unwrap();
        let names: Vec<_> = listing
            .found
            .iter()
            .map(|found| found.name.as_str())
            .collect();
        assert_eq!(names, ["b/c/a.flac", "b/d.mp3", "z.WAV"]);
        assert_eq!((listing.n_others, listing.found[0].n_bytes), (1, 2));
        assert_eq!(listing.skipped.len(), 1);
        assert!(listing.skipped[0].reason.contains("FLAC"));
    }

    #[test]
    fn an_empty_folder_pictures_and_no_folder_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let said = list(dir.path()).unwrap_err().to_string();
        assert!(said.contains("is empty"), "{said}");
        let picture = dir.path().join("a.jpg");
        fs::write(&picture, "").unwrap();
        let said = list(dir.path()).unwrap_err().to_string();
        assert!(said.contains("1 file") && said.contains(".flac"), "{said}");
        let said = list(&picture).unwrap_err().to_string();
        assert!(said.contains("not a folder"), "{said}");
        let said = list(&dir.path().join("none")).unwrap_err().to_string();
        assert!(said.contains("No such file"), "{said}");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_a_circle_ends() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.wav"), "").unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("again")).unwrap();
        let listing = list(dir.path()).unwrap();
        assert_eq!((listing.found.len(), listing.skipped.len()), (1, 1));
    }
}
