//! Whole trainings of a very small model: what is learnt, what is kept, what stops them.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::json;

use super::*;
use crate::train::run::Origin;
use crate::train::{DeviceChoice, Recipe};
use crate::wav::{WavFormat, WavWriter};

const RATE_HZ: u32 = 8_000;

/// A corpus of a tone, and a small model for it.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for split in ["train", "valid"] {
        let folder = dir.path().join("corpus").join(split);
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("tone.wav");
        let mut file = WavWriter::create(&path, RATE_HZ, WavFormat::S16, None).unwrap();
        let tone: Vec<f32> = (0..RATE_HZ)
            .map(|i| 0.3 * (i as f32 * 0.25).sin())
            .collect();
        file.write(&tone).unwrap();
        file.finish().unwrap();
    }
    let config = json!({
        "d_model": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "mlp_ratio": 2,
        "conv_width": 3, "stride": 4, "context": 16, "pattern": ["local", "strided"],
        "rope_period": 32, "rope_harmonics": [7, 3, 2, 1], "sample_rate": RATE_HZ,
        "codec": "mulaw8", "norm_eps": 1e-5
    });
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

fn recipe() -> Recipe {
    Recipe {
        // More rows than one core sums up alone.
        window: 300,
        batch: 2,
        accumulate: 2,
        lr: 1e-2,
        warmup: 5,
        input_noise: 0.05,
        input_replace: 0.01,
        seed: 5,
        ..Recipe::default()
    }
}

/// A training of so many iterations.
fn job(dir: &Path, name: &str, n: u64) -> Job {
    let origin = Origin::Config(dir.join("config.json"));
    let mut job = Job::new(&dir.join(name), &dir.join("corpus"), &origin).unwrap();
    job.settings.recipe = recipe();
    job.settings.budget = Some(Budget::Samples(n * recipe().samples_per_iteration()));
    job.settings.pace.render_minutes = 0.0;
    job
}

fn train(job: &Job) -> Result<Ending, TrainError> {
    run(job, &Device::Cpu, &mut |_| ControlFlow::Continue(()))
}

/// Every tensor of the checkpoint, by name.
fn kept(job: &Job) -> Vec<(String, Vec<u8>)> {
    let bytes = fs::read(job.dir.checkpoint()).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter();
    let mut all: Vec<_> = tensors.map(|(name, t)| (name, t.data().to_vec())).collect();
    all.sort();
    all
}

#[test]
fn the_loss_falls_and_what_is_kept_can_be_played() {
    let place = place();
    let job = job(place.path(), "run", 120);
    let mut bits = Vec::new();
    let ending = run(&job, &Device::Cpu, &mut |event| {
        if let Event::Look { metric, .. } = event {
            bits.extend(metric.bits);
        }
        ControlFlow::Continue(())
    });
    let ending = ending.unwrap();
    assert_eq!(ending.progress.iteration, 120);
    assert!(!ending.is_interrupted);
    let (first, last) = (bits[0], bits[bits.len() - 1]);
    assert!(first > last + 1.0, "{bits:?}");
    assert!(ending.valid_bits.unwrap() < first);
    let model = Model::load(&job.dir.model()).unwrap();
    assert_eq!(model.config.d_model, 16);
    for path in [job.dir.metrics(), job.dir.curves(), job.dir.settings()] {
        assert!(fs::metadata(&path).unwrap().len() > 0, "{path:?}");
    }
    let card = fs::read_to_string(job.dir.model().join("README.md")).unwrap();
    assert!(card.contains("120 iterations") && card.contains("| trained on | the corpus"));
}

#[test]
fn a_training_that_was_interrupted_goes_on_as_if_it_had_not_been() {
    let place = place();
    let whole = job(place.path(), "whole", 50);
    train(&whole).unwrap();

    let parts = job(place.path(), "parts", 50);
    let ending = run(&parts, &Device::Cpu, &mut |event| match event {
        Event::Look { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    let stopped = ending.unwrap();
    assert!(stopped.is_interrupted);
    assert!(stopped.progress.iteration < 50);
    let resumed = Job::resume(parts.dir.path(), None).unwrap();
    assert_eq!(resumed.settings, parts.settings);
    let ending = train(&resumed).unwrap();
    assert_eq!(ending.progress.iteration, 50);

    let (whole, parts) = (kept(&whole), kept(&resumed));
    assert_eq!(whole.len(), 4 * 6);
    for (a, b) in whole.iter().zip(&parts) {
        assert_eq!(a.0, b.0);
        assert!(a.1 == b.1, "{} is another", a.0);
    }
}

#[test]
fn a_budget_that_is_used_up_changes_nothing() {
    let place = place();
    let job = job(place.path(), "run", 3);
    train(&job).unwrap();
    let before = kept(&job);
    let again = Job::resume(job.dir.path(), None).unwrap();
    assert_eq!(train(&again).unwrap().progress.iteration, 3);
    assert!(kept(&job) == before);
}

#[test]
fn a_checkpoint_of_another_architecture_is_refused() {
    let place = place();
    let job = job(place.path(), "run", 2);
    train(&job).unwrap();
    let text = fs::read_to_string(job.dir.config()).unwrap();
    let other = text.replace("\"mlp_ratio\":2", "\"mlp_ratio\":3");
    assert_ne!(text, other);
    fs::write(job.dir.config(), other).unwrap();
    let before = kept(&job);
    let why = train(&Job::resume(job.dir.path(), None).unwrap()).unwrap_err();
    let said = why.to_string();
    assert!(
        said.contains("another architecture") && said.contains("mlp_ratio is 2 there and 3 here"),
        "{said}"
    );
    assert!(kept(&job) == before);
}

#[test]
fn a_checkpoint_that_was_cut_is_refused_by_name() {
    let place = place();
    let job = job(place.path(), "run", 2);
    train(&job).unwrap();
    let bytes = fs::read(job.dir.checkpoint()).unwrap();
    for len in [0, 7, 100, bytes.len() - 1] {
        fs::write(job.dir.checkpoint(), &bytes[..len]).unwrap();
        let why = train(&Job::resume(job.dir.path(), None).unwrap()).unwrap_err();
        let said = why.to_string();
        assert!(said.contains("state.safetensors is damaged"), "{said}");
    }
}

#[test]
fn weights_that_are_no_numbers_stop_it_and_never_reach_the_disk() {
    let place = place();
    let job = job(place.path(), "run", 50);
    let config = job.check().unwrap();
    let device = DeviceChoice::Cpu.open().unwrap().device;
    let go_on: Tell<'_> = &mut |_| ControlFlow::Continue(());
    let corpus = Corpus::read(&job, &config, go_on).unwrap();
    let mut training = Training::begin(&job, &config, &device, corpus, go_on).unwrap();
    let before = kept(&job);
    let value = &training.network.parameters()[0].value;
    let poison = (value.as_tensor() * f64::NAN).unwrap();
    value.set(&poison).unwrap();
    let why = training.iterate(go_on).unwrap_err();
    let said = why.to_string();
    for word in [
        "the loss",
        "checkpoint of iteration 0 is kept",
        "--lr",
        "--resume",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let why = training.save(go_on).unwrap_err();
    assert!(matches!(why, TrainError::Diverged { .. }), "{why}");
    drop(training);
    assert!(kept(&job) == before);
}

#[test]
fn what_cannot_be_trained_on_is_told_before_a_run_is_begun() {
    let place = place();
    let mut long = job(place.path(), "run", 1);
    long.settings.recipe.window = 9_000;
    let said = train(&long).unwrap_err().to_string();
    assert!(said.contains("fewer than a window of 9000"), "{said}");
    fs::remove_dir_all(place.path().join("corpus/train")).unwrap();
    let said = train(&job(place.path(), "run", 1)).unwrap_err().to_string();
    assert!(said.contains("longwave prepare"), "{said}");
    assert!(!place.path().join("run").exists());
}

#[test]
fn a_disk_that_takes_nothing_stops_it_and_the_checkpoint_stays() {
    let place = place();
    let job = job(place.path(), "run", 2);
    train(&job).unwrap();
    let before = kept(&job);
    let mut more = Job::resume(job.dir.path(), None).unwrap();
    more.settings.budget = Some(Budget::Samples(4 * recipe().samples_per_iteration()));
    // Stands where the new checkpoint would be written.
    fs::create_dir(
        place
            .path()
            .join("run/checkpoint/state.safetensors.partial"),
    )
    .unwrap();
    let said = train(&more).unwrap_err().to_string();
    assert!(
        said.starts_with("cannot write") && said.contains("the last checkpoint is whole"),
        "{said}"
    );
    assert!(kept(&job) == before);
}
