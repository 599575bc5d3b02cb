//! What the model sounds like so far: a few seconds into a file, drawn by the CPU engine on a
//! thread of its own, so that training never waits for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::engine::{self, Turn, uniform};
use crate::model::Model;
use crate::mulaw;
use crate::wav::{WavError, WavFormat, WavWriter};

/// Codes between two looks at the flag.
const CHUNK_LEN: usize = 320;
/// Between two questions whether a file is still wanted.
const WAIT: Duration = Duration::from_millis(50);

/// Renders one file at a time.
#[derive(Debug, Default)]
pub struct Audition {
    running: Option<JoinHandle<Result<(), WavError>>>,
    shall_stop: Arc<AtomicBool>,
}

/// What is to be rendered.
#[derive(Debug)]
pub struct Take {
    /// With which weights.
    pub model: Model,
    /// Where to.
    pub path: PathBuf,
    /// How long.
    pub seconds: f64,
    /// What the stream is drawn from.
    pub seed: u64,
}

impl Audition {
    /// Is the one before still being rendered?
    pub fn is_busy(&self) -> bool {
        self.running
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// Begins one, unless the one before is still being rendered; says why the one before failed.
    pub fn begin(&mut self, take: Take) -> Result<(), WavError> {
        if self.is_busy() {
            return Ok(());
        }
        let before = self.end();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| WavError::Write { path, source }
        };
        if let Some(folder) = take.path.parent() {
            std::fs::create_dir_all(folder).map_err(failed(folder))?;
        }
        let (shall_stop, failed) = (self.shall_stop.clone(), failed(&take.path));
        let thread = thread::Builder::new().name("audition".to_owned());
        let thread = thread.spawn(move || render(take, &shall_stop));
        self.running = Some(thread.map_err(failed)?);
        before
    }

    /// Waits for the file that is being rendered, as long as it is wanted: `is_wanted` is asked
    /// time and again. Returns whether it was to the end.
    pub fn wait(&mut self, is_wanted: &mut dyn FnMut() -> bool) -> Result<bool, WavError> {
        while self.is_busy() {
            if !is_wanted() {
                self.shall_stop.store(true, Ordering::Relaxed);
                return self.end().map(|()| false);
            }
            thread::sleep(WAIT);
        }
        self.end().map(|()| true)
    }

    fn end(&mut self) -> Result<(), WavError> {
        match self.running.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Audition {
    /// Who does not wait gets no file, and no half of one.
    fn drop(&mut self) {
        self.shall_stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.running.take() {
            // Its result interests nobody any more.
            let _ = thread.join();
        }
    }
}

fn render(take: Take, shall_stop: &AtomicBool) -> Result<(), WavError> {
    let rate_hz = take.model.config.sample_rate_hz;
    let n_codes = (take.seconds * f64::from(rate_hz)).round() as u64;
    let mut file = WavWriter::create(&take.path, rate_hz, WavFormat::S16, Some(n_codes))?;
    let model = Arc::new(take.model);
    let decoder = engine::open(&model, &engine::Settings::default(), 1);
    let mut decoder = decoder.expect("the best instruction set is there");
    let mut codes = [0; CHUNK_LEN];
    for first in (0..n_codes).step_by(CHUNK_LEN) {
        if shall_stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let n = (n_codes - first).min(CHUNK_LEN as u64);
        let uniforms: Vec<f32> = (first..first + n)
            .map(|position| uniform(take.seed, position))
            .collect();
        let codes = &mut codes[..n as usize];
        decoder.generate(&mut [Turn {
            lane: 0,
            draw: model.config.draw,
            uniforms: &uniforms,
            codes,
        }]);
        let samples: Vec<f32> = codes.iter().map(|&code| mulaw::decode(code)).collect();
        file.write(&samples)?;
    }
    file.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(path: &Path, seconds: f64) -> Take {
        Take {
            model: Model::load(Path::new("models/tiny")).unwrap(),
            path: path.to_owned(),
            seconds,
            seed: 3,
        }
    }

    #[test]
    fn a_take_is_a_file_of_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/a.wav");
        let mut audition = Audition::default();
        audition.begin(take(&path, 0.1)).unwrap();
        assert!(audition.wait(&mut || true).unwrap());
        let samples = crate::wav::read_mono(&path, 16_000, 9.0).unwrap();
        assert_eq!(samples.len(), 1_600);
    }

    #[test]
    fn what_is_no_longer_wanted_ends_at_once_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut audition = Audition::default();
        let long = take(&dir.path().join("a.wav"), 3_600.0);
        audition.begin(long).unwrap();
        let mut n_asked = 0;
        let mut is_wanted = || {
            n_asked += 1;
            n_asked < 3
        };
        assert!(!audition.wait(&mut is_wanted).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn one_that_fails_is_told_and_keeps_none_from_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let mut audition = Audition::default();
        let path = dir.path().join("no-file");
        std::fs::create_dir(&path).unwrap();
        audition.begin(take(&path, 0.1)).unwrap();
        while audition.is_busy() {
            thread::sleep(WAIT);
        }
        let path = dir.path().join("a.wav");
        let why = audition.begin(take(&path, 0.1)).unwrap_err().to_string();
        assert!(why.contains("no-file"), "{why}");
        assert!(audition.wait(&mut || true).unwrap());
        assert!(path.exists());
    }

    #[test]
    fn who_does_not_wait_gets_no_half_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut audition = Audition::default();
        audition
            .begin(take(&dir.path().join("a.wav"), 3_600.0))
            .unwrap();
        // A second one is not begun beside it.
        audition
            .begin(take(&dir.path().join("b.wav"), 0.1))
            .unwrap();
        drop(audition);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
