//! The model card beside the weights: what the program knows, and room for what only a person does.

use std::fs;

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
    let path = job.dir.model().join("README.md");
    let old = fs::read_to_string(&path).unwrap_or_default();
    let text = kept(&text(job, config, progress, valid_bits), &old);
    run::replace(&path, text.as_bytes())
}

/// The new card with those lines of the old one that are a person's to write.
fn kept(new: &str, old: &str) -> String {
    let line = |new: &str| {
        let own = ["| trained on |", "| licence of the weights |"];
        let head = own.into_iter().find(|head| new.starts_with(head));
        let old = head.and_then(|head| old.lines().find(|old| old.starts_with(head)));
        old.unwrap_or(new).to_owned() + "\n"
    };
    new.lines().map(line).collect()
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
         | training | longwave {version}, {preset}{iterations} iterations, {heard:.1} M samples, \
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
        heard = progress.samples as f64 / 1e6,
        minutes = progress.seconds / 60.0,
        seed = recipe.seed,
    )
}

#[cfg(test)]
mod tests {
    use super::kept;

    #[test]
    fn what_a_person_wrote_stays_and_what_the_program_knows_is_new() {
        let new = "# run\n\n| trained on | *say* |\n| training | 2 |\n| licence of the weights | *say* |\n";
        let old = "# run\n| trained on | my piano |\n| training | 1 |\n| licence of the weights | CC0 |\n";
        let card = kept(new, old);
        for line in [
            "| trained on | my piano |",
            "| training | 2 |",
            "| licence of the weights | CC0 |",
        ] {
            assert!(card.lines().any(|own| own == line), "{line}: {card}");
        }
        assert_eq!(kept(new, ""), new);
    }
}
