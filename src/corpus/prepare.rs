//! A folder of recordings into a corpus: `longwave prepare`.
//!
//! First every recording is hashed, so that twins are found and what an earlier run did is known;
//! then those that are missing or changed are converted, as many at a time as there are cores.
//! The manifest is written again and again on the way: a run that ends early has lost the files it
//! was at, and nothing else.

use std::collections::HashMap;
use std::path::PathBuf;

use rayon::prelude::*;

use crate::corpus::CorpusError;
use crate::corpus::decode::Fault;
use crate::corpus::find::{self, Found, Listing};
use crate::corpus::manifest::{Entry, Manifest, Options};
use crate::corpus::pace::{OnProgress, Pace};
use crate::corpus::plan::{Looked, Plan};
use crate::corpus::store::{self, Store};
use crate::corpus::work::Work;

/// What is to be made.
#[derive(Clone, Debug)]
pub struct Order {
    /// Where the recordings are.
    pub folder: PathBuf,
    /// Where the corpus goes.
    pub corpus: PathBuf,
    /// How it is made.
    pub options: Options,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The corpus as it is now.
    pub manifest: Manifest,
    /// Recordings converted in this run.
    pub n_made: usize,
    /// Files of the folder that are no recordings.
    pub n_others: usize,
    /// Files removed because their recordings are gone.
    pub n_removed: usize,
}

/// Makes a corpus, or what an earlier run left to be done of it.
pub fn prepare(order: &Order, on_progress: OnProgress<'_>) -> Result<Report, CorpusError> {
    let listing = find::list(&order.folder)?;
    store::check_apart(&order.folder, &order.corpus)?;
    let (store, before) = Store::open(&order.corpus, &order.options)?;
    check_folder(order, &before, &listing)?;

    let looked = look(&store, &before, &listing, on_progress)?;
    let n_others = listing.n_others;
    let plan = Plan::new(&before, looked, listing.skipped, &order.options);
    let is_split = plan.is_split;
    let mut work = Work::new(&store, &order.options, before, plan)?;
    work.run(on_progress)?;
    if !is_split {
        work.fill_splits()?;
    }
    let report = work.finish(n_others)?;
    match (
        report.manifest.files.first(),
        report.manifest.skipped.first(),
    ) {
        (None, Some(first)) => Err(CorpusError::NothingUsable {
            n: report.manifest.skipped.len(),
            first: first.source.escape_debug().to_string(),
            reason: first.reason.clone(),
        }),
        _ => Ok(report),
    }
}

/// A corpus of other recordings is not this one's earlier run.
fn check_folder(order: &Order, before: &Manifest, listing: &Listing) -> Result<(), CorpusError> {
    let is_here = |entry: &Entry| {
        let at = listing
            .found
            .binary_search_by(|found| found.name.cmp(&entry.source));
        at.is_ok()
    };
    match before.files.is_empty() || before.files.iter().any(is_here) {
        true => Ok(()),
        false => Err(CorpusError::OtherFolder {
            path: order.corpus.clone(),
            folder: order.folder.clone(),
        }),
    }
}

/// Hashes every recording and every file that an earlier run made of it.
fn look(
    store: &Store,
    before: &Manifest,
    listing: &Listing,
    on_progress: OnProgress<'_>,
) -> Result<Vec<Looked>, CorpusError> {
    let entries: HashMap<&str, &Entry> = before
        .files
        .iter()
        .map(|entry| (entry.source.as_str(), entry))
        .collect();
    let pace = Pace::new(
        true,
        listing.found.iter().map(|found| found.n_bytes).sum(),
        on_progress,
    );
    let n = listing.found.len();
    let interrupted = || CorpusError::Interrupted { n_left: n };
    let look_at = |found: &Found| -> Result<Looked, CorpusError> {
        let hash = store::sha256(&found.path, &mut |n| pace.advance(n));
        let sha256 = match hash {
            Ok(hash) => Ok(hash.ok_or_else(interrupted)?),
            Err(error) => Err(Fault::Io(error).to_string()),
        };
        let entry = entries.get(found.name.as_str()).filter(|entry| {
            let still = || store::sha256_whole(&store.path.join(&entry.output));
            sha256.as_ref() == Ok(&entry.source_sha256)
                && still().is_ok_and(|hash| hash == entry.output_sha256)
        });
        Ok(Looked {
            found: found.clone(),
            sha256,
            before: entry.map(|entry| (*entry).clone()),
        })
    };
    listing.found.par_iter().map(look_at).collect()
}
