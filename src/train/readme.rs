//! The model card beside the weights: what the program knows, and room for what only a person does.

use super::error::TrainError;
use super::recipe::Progress;
use super::run::{self, Job};
use crate::model::ModelConfig;

/// Writes `README.md` of the model that can be played.
pub fn write(
    job: &Job,
    config: &ModelConfig,
    progress: &Progress,
    valid_bits: Option<f64>,
) -> Result<(), TrainError> {
    let text = text(job, config, progress, valid_bits);
    run::replace(&job.dir.model().join("README.md"), text.as_bytes())
}

fn text(job: &Job, config: &ModelConfig, progress: &Progress, valid_bits: Option<f64>) -> String {
    let last = |path: &std::path::Path| {
        let name = path.file_name().unwrap_or(path.as_os_str());
        name.to_string_lossy().into_owned()
    };
    let settings = &job.settings;
    let recipe = &settings.recipe;
    let context_s = config.context as f64 / f64::from(config.sample_rate_hz);
    let preset = match &settings.preset {
        Some(preset) => format!("preset {preset}, "),
        None => String::new(),
    };
    let bits = match valid_bits {
        Some(bits) => format!("{bits:.3} on a few windows of the validation split"),
        None => "not measured".to_owned(),
    };
    format!(
        "# {name}\n\n\
         {rate} Hz, {layers} layers of width {d}, context {context} samples ({context_s:.1} s).\n\n\
         | | |\n|---|---|\n\
         | trained on | the corpus `{corpus}`: *say whose recordings, and by which licence* |\n\
         | training | longwave {version}, {preset}{iterations} iterations of {heard} samples, \
         {minutes:.1} minutes, seed {seed} |\n\
         | bits per sample | {bits}; `longwave eval` measures by the protocol |\n\
         | licence of the weights | *yours to say: it follows from that of the recordings* |\n",
        name = last(job.dir.path()),
        rate = config.sample_rate_hz,
        layers = config.n_layers(),
        d = config.d_model,
        context = config.context,
        corpus = last(&settings.corpus),
        version = settings.version,
        iterations = progress.iteration,
        heard = recipe.samples_per_iteration(),
        minutes = progress.seconds / 60.0,
        seed = recipe.seed,
    )
}
