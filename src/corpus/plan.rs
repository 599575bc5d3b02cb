//! What is done already, what is not to be done, and what is to be done.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::corpus::find::Found;
use crate::corpus::manifest::{Entry, Manifest, Options, Skipped};
use crate::corpus::names;
use crate::corpus::split::{self, Split};

/// A recording whose bytes are known.
#[derive(Debug)]
pub struct Looked {
    /// Where it is.
    pub found: Found,
    /// Its hash, or why it has none.
    pub sha256: Result<String, String>,
    /// What an earlier run made of the same bytes, and still stands.
    pub before: Option<Entry>,
}

/// A recording to be converted.
#[derive(Debug)]
pub struct Job {
    /// Where it is.
    pub found: Found,
    /// Of its bytes.
    pub sha256: String,
    /// Where it belongs.
    pub split: Split,
    /// The file to write, relative to the corpus.
    pub output: String,
}

/// What is done, what is not to be done, and what is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// Files of an earlier run that still stand.
    pub done: Vec<Entry>,
    /// Recordings that are left out.
    pub skipped: Vec<Skipped>,
    /// The longest first, so that no core is left alone with it at the end.
    pub jobs: Vec<Job>,
    /// Whether the folder itself says what belongs where.
    pub is_split: bool,
}

impl Plan {
    /// Decides about every recording; `skipped` are those that the listing left out.
    pub fn new(
        before: &Manifest,
        looked: Vec<Looked>,
        skipped: Vec<Skipped>,
        options: &Options,
    ) -> Self {
        let mut plan = Self {
            skipped,
            ..Self::default()
        };
        let usable = plan.sort_out(before, looked);
        let splits_before: HashMap<&str, Split> = before
            .files
            .iter()
            .map(|entry| (entry.source.as_str(), entry.split))
            .collect();
        let placed: Vec<split::Placed<'_>> = usable
            .iter()
            .map(|(looked, _)| looked.found.name.as_str())
            .map(|name| (name, splits_before.get(name).copied()))
            .collect();
        let splits = split::assign(&placed, options.shares);
        let sources: Vec<(&str, Split)> = placed
            .iter()
            .zip(&splits)
            .map(|((name, _), split)| (*name, *split))
            .collect();
        plan.is_split = split::is_split(placed.iter().map(|(name, _)| *name));
        let names = names::assign(&sources, plan.is_split);
        for (((looked, sha256), split), name) in usable.into_iter().zip(splits).zip(names) {
            let output = format!("{split}/{name}");
            match looked.before.filter(|entry| entry.output == output) {
                Some(entry) => plan.done.push(entry),
                None => plan.jobs.push(Job {
                    found: looked.found,
                    sha256,
                    split,
                    output,
                }),
            }
        }
        plan.jobs.sort_by_key(|job| Reverse(job.found.n_bytes));
        plan
    }

    /// Takes out what cannot be read, what an earlier run found unfit, and all twins but the first:
    /// a recording in two splits would make a model look better than it is.
    fn sort_out(&mut self, before: &Manifest, looked: Vec<Looked>) -> Vec<(Looked, String)> {
        let unfit = before
            .skipped
            .iter()
            .filter(|skipped| skipped.same_as.is_none());
        let unfit: HashMap<&str, &Skipped> = unfit
            .map(|skipped| (skipped.source.as_str(), skipped))
            .collect();
        let mut firsts: HashMap<String, String> = HashMap::new();
        let mut usable = Vec::new();
        for looked in looked {
            let source = looked.found.name.clone();
            let sha256 = match looked.sha256.clone() {
                Ok(sha256) => sha256,
                Err(reason) => {
                    self.skip(source, reason, None, None);
                    continue;
                }
            };
            let unfit = unfit
                .get(source.as_str())
                .filter(|skipped| skipped.source_sha256.as_deref() == Some(sha256.as_str()));
            if let Some(unfit) = unfit {
                self.skip(source, unfit.reason.clone(), Some(sha256), None);
            } else if let Some(first) = firsts.get(&sha256) {
                let reason = format!("is the same recording as {first}");
                self.skip(source, reason, Some(sha256), Some(first.clone()));
            } else {
                firsts.insert(sha256.clone(), source);
                usable.push((looked, sha256));
            }
        }
        usable
    }

    fn skip(&mut self, source: String, reason: String, hash: Option<String>, same: Option<String>) {
        self.skipped.push(Skipped {
            source,
            reason,
            source_sha256: hash,
            same_as: same,
        });
    }
}
