//! Where recordings are converted, and what came of each is written down.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::corpus::CorpusError;
use crate::corpus::convert::{ConvertError, OnShare, Task};
use crate::corpus::decode::Fault;
use crate::corpus::manifest::{Done, Entry, Manifest, Options, Skipped};
use crate::corpus::pace::{OnProgress, Pace};
use crate::corpus::plan::{Job, Plan};
use crate::corpus::prepare::Report;
use crate::corpus::split::{self, Split};
use crate::corpus::store::{self, Store};

/// How many times as long as it took the manifest is left as it is after it was saved: a small one
/// is saved after every recording, a large one costs a twentieth of the time.
const SAVE_REST: u32 = 20;

/// A corpus under way.
pub struct Work<'a> {
    store: &'a Store,
    options: &'a Options,
    jobs: Vec<Job>,
    n_removed: usize,
    state: Mutex<State>,
}

/// What is written down.
struct State {
    /// By their sources; those of jobs not yet done are of the run before.
    files: BTreeMap<String, Entry>,
    skipped: Vec<Skipped>,
    n_made: usize,
    n_left: usize,
    saved_at: Instant,
    save_took: Duration,
    /// What stopped all threads.
    fault: Option<CorpusError>,
}

impl<'a> Work<'a> {
    /// Takes a plan, and out of the corpus what the plan has no place for.
    pub fn new(
        store: &'a Store,
        options: &'a Options,
        before: Manifest,
        mut plan: Plan,
    ) -> Result<Self, CorpusError> {
        let done = mem::take(&mut plan.done).into_iter();
        let mut files: BTreeMap<String, Entry> =
            done.map(|entry| (entry.source.clone(), entry)).collect();
        let mut before: BTreeMap<String, Entry> = before
            .files
            .into_iter()
            .map(|entry| (entry.source.clone(), entry))
            .collect();
        before.retain(|source, _| !files.contains_key(source));
        for job in &plan.jobs {
            files.extend(before.remove_entry(&job.found.name));
        }
        for entry in before.values() {
            store.remove(&entry.output)?;
        }
        let state = State {
            files,
            skipped: plan.skipped,
            n_made: 0,
            n_left: plan.jobs.len(),
            saved_at: Instant::now(),
            save_took: Duration::ZERO,
            fault: None,
        };
        store.save(&state.manifest(options))?;
        Ok(Self {
            store,
            options,
            jobs: plan.jobs,
            n_removed: before.len(),
            state: Mutex::new(state),
        })
    }

    /// Does all jobs; whatever stops it, what is done is written down.
    pub fn run(&self, on_progress: OnProgress<'_>) -> Result<(), CorpusError> {
        let n_bytes = self.jobs.iter().map(|job| job.found.n_bytes).sum();
        let pace = Pace::new(false, n_bytes, on_progress);
        // One after another from the front, whichever core is free.
        self.jobs.iter().par_bridge().for_each(|job| {
            if let Err(fault) = self.convert(job, &pace) {
                // Before the others hear of it, who only follow.
                self.lock().fault.get_or_insert(fault);
                pace.stop();
            }
        });
        let mut state = self.lock();
        match state.fault.take() {
            None => Ok(()),
            Some(fault) => {
                // The disk may be as full as before: the last manifest stands then.
                let _ = self.store.save(&state.manifest(self.options));
                Err(fault)
            }
        }
    }

    /// Fills a split that the skipped recordings left empty.
    pub fn fill_splits(&mut self) -> Result<(), CorpusError> {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<&str> = state.files.keys().map(String::as_str).collect();
        let mut splits: Vec<Split> = state.files.values().map(|entry| entry.split).collect();
        split::fill(&names, &mut splits, self.options.shares);
        for (entry, split) in state.files.values_mut().zip(splits) {
            if entry.split != split {
                let name = entry.output.trim_start_matches(entry.split.name());
                let output = format!("{split}{name}");
                self.store.rename(&entry.output, &output)?;
                (entry.split, entry.output) = (split, output);
            }
        }
        Ok(())
    }

    /// Calls the corpus complete.
    pub fn finish(self, n_others: usize) -> Result<Report, CorpusError> {
        let state = self.lock();
        let mut manifest = state.manifest(self.options);
        manifest.is_complete = true;
        self.store.save(&manifest)?;
        Ok(Report {
            manifest,
            n_made: state.n_made,
            n_others,
            n_removed: self.n_removed,
        })
    }

    fn convert(&self, job: &Job, pace: &Pace<'_>) -> Result<(), CorpusError> {
        if pace.advance(0).is_break() {
            return Err(self.interrupted());
        }
        let mut n_told = 0;
        let result = self.make(job, &mut |share| {
            let n = (share * job.found.n_bytes as f64) as u64;
            let n_more = n.saturating_sub(n_told);
            n_told += n_more;
            pace.advance(n_more)
        });
        // A file may hold more than its header told, or be given up early.
        let _ = pace.advance(job.found.n_bytes.saturating_sub(n_told));
        match result {
            Ok((done, output_sha256)) => self.note_made(job, done, output_sha256),
            Err(ConvertError::Fault(fault)) => self.note_skipped(job, &fault),
            Err(ConvertError::Interrupted) => Err(self.interrupted()),
            Err(ConvertError::Write(error)) => Err(CorpusError::of_wav(error)),
        }
    }

    fn make(&self, job: &Job, on_share: OnShare<'_>) -> Result<(Done, String), ConvertError> {
        let target = self.store.path.join(&job.output);
        let task = Task {
            source: &job.found.path,
            target: &target,
            options: self.options,
            seed: split::hash(&job.found.name),
        };
        let done = task.run(on_share)?;
        Ok((done, store::sha256_whole(&target).map_err(Fault::Io)?))
    }

    fn note_made(&self, job: &Job, done: Done, output_sha256: String) -> Result<(), CorpusError> {
        let entry = Entry {
            source: job.found.name.clone(),
            source_sha256: job.sha256.clone(),
            split: job.split,
            output: job.output.clone(),
            output_sha256,
            done,
        };
        let mut state = self.lock();
        state.n_made += 1;
        let before = state.files.insert(entry.source.clone(), entry);
        if let Some(before) = before.filter(|before| before.output != job.output) {
            self.store.remove(&before.output)?;
        }
        self.note(state)
    }

    fn note_skipped(&self, job: &Job, fault: &Fault) -> Result<(), CorpusError> {
        let mut state = self.lock();
        if let Some(before) = state.files.remove(&job.found.name) {
            self.store.remove(&before.output)?;
        }
        state.skipped.push(Skipped {
            source: job.found.name.clone(),
            reason: fault.to_string(),
            // What the system refused once it may give the next time.
            source_sha256: (!matches!(fault, Fault::Io(_))).then(|| job.sha256.clone()),
            same_as: None,
        });
        self.note(state)
    }

    fn note(&self, mut state: MutexGuard<'_, State>) -> Result<(), CorpusError> {
        state.n_left -= 1;
        if state.saved_at.elapsed() < state.save_took * SAVE_REST {
            return Ok(());
        }
        let begin = Instant::now();
        self.store.save(&state.manifest(self.options))?;
        state.saved_at = Instant::now();
        state.save_took = begin.elapsed();
        Ok(())
    }

    fn interrupted(&self) -> CorpusError {
        CorpusError::Interrupted {
            n_left: self.lock().n_left,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whatever panicked did so in a decoder, without the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn manifest(&self, options: &Options) -> Manifest {
        let mut manifest = Manifest::new(options.clone());
        manifest.files = self.files.values().cloned().collect();
        manifest.skipped.clone_from(&self.skipped);
        manifest.settle();
        manifest
    }
}
