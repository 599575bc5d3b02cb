//! The directory that a corpus is written to, which one process owns at a time.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::corpus::CorpusError;
use crate::corpus::manifest::{MANIFEST, Manifest, Options};
use crate::corpus::split::Split;
use crate::files;

/// Bytes hashed between two looks at the caller.
const CHUNK_LEN: usize = 1 << 18;

/// An owned corpus.
#[derive(Debug)]
pub struct Store {
    /// Where it is.
    pub path: PathBuf,
    /// The lock, given back when it is closed.
    _lock: File,
}

impl Store {
    /// Takes possession of a corpus, or begins one where there is nothing, and gives the manifest
    /// of the runs before. What a killed run left half done is swept away.
    pub fn open(path: &Path, options: &Options) -> Result<(Self, Manifest), CorpusError> {
        let fault = |source| CorpusError::write(path, source);
        // Before anything is made in a place that is not ours.
        read_manifest(path, options)?;
        for split in Split::ALL {
            fs::create_dir_all(path.join(split.name())).map_err(fault)?;
        }
        let lock = File::open(path).map_err(fault)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CorpusError::Busy(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(fault(source)),
        }
        let store = Self {
            path: path.to_owned(),
            _lock: lock,
        };
        store.sweep().map_err(fault)?;
        // Again: until the lock was ours it may have been another's.
        match read_manifest(path, options)? {
            Some(manifest) => Ok((store, manifest)),
            None => {
                let manifest = Manifest::new(options.clone());
                // At once: without it the next run would not know the corpus for one.
                store.save(&manifest)?;
                Ok((store, manifest))
            }
        }
    }

    /// Writes the manifest, all of it or nothing.
    pub fn save(&self, manifest: &Manifest) -> Result<(), CorpusError> {
        let path = self.path.join(MANIFEST);
        let json = manifest.to_json();
        files::replace(&path, json.as_bytes()).map_err(|source| CorpusError::write(&path, source))
    }

    /// Removes what no recording stands behind any more.
    pub fn remove(&self, output: &str) -> Result<(), CorpusError> {
        let path = self.path.join(output);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(CorpusError::write(&path, error))
            }
            _ => Ok(()),
        }
    }

    /// Gives a file of the corpus another place in it.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), CorpusError> {
        let to = self.path.join(to);
        fs::rename(self.path.join(from), &to).map_err(|source| CorpusError::write(&to, source))
    }

    /// Removes the unfinished files of a run that was killed: the lock says that it is no more.
    fn sweep(&self) -> io::Result<()> {
        for split in Split::ALL {
            for entry in fs::read_dir(self.path.join(split.name()))? {
                let path = entry?.path();
                if path.extension().is_some_and(|suffix| suffix == "partial") {
                    fs::remove_file(path)?;
                }
            }
        }
        Ok(())
    }
}

/// The manifest of an earlier run with the same options; `None` where nothing stands yet.
fn read_manifest(path: &Path, options: &Options) -> Result<Option<Manifest>, CorpusError> {
    use io::ErrorKind::{NotADirectory, NotFound};
    let file = path.join(MANIFEST);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => {
            return match is_free(path) {
                true => Ok(None),
                false => Err(CorpusError::Foreign(path.to_owned())),
            };
        }
        Err(source) => return Err(CorpusError::Read { path: file, source }),
    };
    let manifest = Manifest::parse(&text);
    let manifest = manifest.map_err(|reason| CorpusError::Manifest { path: file, reason })?;
    match manifest.options == *options {
        true => Ok(Some(manifest)),
        false => Err(CorpusError::OtherOptions {
            path: path.to_owned(),
            were: manifest.options.to_string(),
        }),
    }
}

/// Whether there is nothing, an empty directory, or what a run leaves that was killed before its
/// first manifest: empty folders of the splits.
fn is_free(path: &Path) -> bool {
    let is_empty = |dir: &Path| fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    let is_split = |path: &Path| Split::ALL.iter().any(|split| path.ends_with(split.name()));
    match fs::read_dir(path) {
        Ok(entries) => {
            let mut paths = entries.flatten().map(|entry| entry.path());
            let partial = files::partial(&path.join(MANIFEST));
            paths.all(|path| is_split(&path) && is_empty(&path) || path == partial)
        }
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Refuses a corpus inside the folder it is made of, whose files would be found as recordings the
/// next time, and the reverse.
pub fn check_apart(folder: &Path, corpus: &Path) -> Result<(), CorpusError> {
    let read_error = |source| CorpusError::Read {
        path: folder.to_owned(),
        source,
    };
    let folder = fs::canonicalize(folder).map_err(read_error)?;
    let place = resolve(corpus).map_err(read_error)?;
    match place.starts_with(&folder) || folder.starts_with(&place) {
        true => Err(CorpusError::Inside(corpus.to_owned())),
        false => Ok(()),
    }
}

/// A path without links or dots, though its end may not exist yet.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut resolved = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                resolved.pop();
            }
            part => resolved.push(part),
        }
        if let Ok(canonical) = fs::canonicalize(&resolved) {
            resolved = canonical;
        }
    }
    Ok(resolved)
}

/// The SHA-256 of a file in hexadecimal; `None` if the caller broke off. `on_bytes` hears how many
/// more were read.
pub fn sha256(
    path: &Path,
    on_bytes: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_LEN];
    loop {
        let n = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&chunk[..n]);
        if on_bytes(n as u64).is_break() {
            return Ok(None);
        }
    }
    let digest = hasher.finalize();
    Ok(Some(
        digest.iter().map(|byte| format!("{byte:02x}")).collect(),
    ))
}

/// The SHA-256 of a file that nobody waits for.
pub fn sha256_whole(path: &Path) -> io::Result<String> {
    let hash = sha256(path, &mut |_| ControlFlow::Continue(()))?;
    Ok(hash.expect("nothing breaks off"))
}
