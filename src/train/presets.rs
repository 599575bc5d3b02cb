//! Trainings that work, by name: a model, what the recipe changes for it, and how long it takes.
//! They are part of the program, so a name is all that is needed.

use serde::Deserialize;
use serde_json::Value;

use super::recipe::{Budget, Recipe};

/// A training that works.
#[derive(Clone, Debug)]
pub struct Preset {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is for, in a line.
    pub about: String,
    /// The text of its `config.json`.
    pub model_json: String,
    /// How it is trained.
    pub recipe: Recipe,
    /// For how long, unless that is said.
    pub budget: Budget,
}

const FILES: [(&str, &str); 2] = [
    ("tiny", include_str!("presets/tiny.json")),
    ("piano-16k", include_str!("presets/piano-16k.json")),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PresetFile {
    about: String,
    model: Value,
    recipe: Recipe,
    budget: Budget,
}

impl Preset {
    /// The names of all, the smallest first.
    pub const NAMES: [&'static str; FILES.len()] = [FILES[0].0, FILES[1].0];

    /// The preset of that name.
    pub fn named(name: &str) -> Option<Self> {
        let (name, text) = FILES.into_iter().find(|file| file.0 == name)?;
        let file: PresetFile = serde_json::from_str(text).expect("a test reads every preset");
        Some(Self {
            name,
            about: file.about,
            model_json: format!("{:#}\n", file.model),
            recipe: file.recipe,
            budget: file.budget,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelConfig;

    #[test]
    fn every_preset_is_a_model_and_a_recipe() {
        for name in Preset::NAMES {
            let preset = Preset::named(name).unwrap();
            assert_eq!(preset.name, name);
            assert!(!preset.about.is_empty());
            ModelConfig::parse(&preset.model_json).unwrap();
            preset.recipe.check().unwrap();
        }
        assert!(Preset::named("no-such").is_none());
    }
}
