//! All that a training goes on from, in one file: values, moments, averages, counters.
//!
//! The file is replaced in one move, so there is always one that is whole. With the windows of an
//! iteration a function of its number, going on from it is the same as never having stopped.

use std::collections::HashMap;
use std::fs;

use candle_core::{Device, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::error::TrainError;
use super::ops::Moments;
use super::optimiser::{self, Optimiser};
use super::recipe::Progress;
use super::run::{self, RunDir};
use super::{Network, Parameter};

/// The form of the file; another is refused.
const VERSION: &str = "1";
/// Keys of the file's own words.
const VERSION_KEY: &str = "longwave_checkpoint";
const MODEL_KEY: &str = "config";
const PROGRESS_KEY: &str = "progress";
const SETTINGS_KEY: &str = "run";

/// What is kept of each parameter, in this order.
const KEPT: [&str; 4] = ["value", "first", "second", "average"];

/// Everything on the host, ready to be written.
pub struct Checkpoint {
    /// How far the training had come.
    pub progress: Progress,
    /// Names and values of what is kept.
    tensors: Vec<(String, Vec<f32>)>,
}

impl Checkpoint {
    /// Copies everything from the device; refuses what is no finite number by `None`.
    pub fn take(
        network: &Network,
        optimiser: &Optimiser,
        progress: Progress,
    ) -> Result<Option<Self>, TrainError> {
        let mut tensors = Vec::new();
        for (parameter, moments) in network.parameters().iter().zip(optimiser.moments()) {
            let kept = [
                parameter.value.as_tensor(),
                &moments.first,
                &moments.second,
                &moments.average,
            ];
            for (what, tensor) in KEPT.iter().zip(kept) {
                let values = tensor.to_vec1::<f32>()?;
                if !values.iter().all(|value| value.is_finite()) {
                    return Ok(None);
                }
                tensors.push((format!("{}.{what}", parameter.name), values));
            }
        }
        Ok(Some(Self { progress, tensors }))
    }

    /// Puts it in the place of the one before. `model_json` and `settings_json` go with it.
    pub fn write(
        &self,
        dir: &RunDir,
        model_json: &str,
        settings_json: String,
    ) -> Result<(), TrainError> {
        let path = dir.checkpoint();
        let views = self.tensors.iter().map(|(name, values)| {
            let bytes = bytemuck::cast_slice(values);
            let view = TensorView::new(Dtype::F32, vec![values.len()], bytes);
            (name, view.expect("four bytes a value"))
        });
        let progress = serde_json::to_string(&self.progress).expect("plain numbers");
        let words = [
            (VERSION_KEY, VERSION.to_owned()),
            (MODEL_KEY, model_json.to_owned()),
            (PROGRESS_KEY, progress),
            (SETTINGS_KEY, settings_json),
        ];
        let words = HashMap::from(words.map(|(key, value)| (key.to_owned(), value)));
        let bytes = safetensors::serialize(views, Some(words));
        let bytes = bytes.expect("names are distinct and words are text");
        let folder = path.parent().unwrap_or(dir.path());
        fs::create_dir_all(folder).map_err(TrainError::write(folder))?;
        run::replace(&path, &bytes)
    }
}

/// Brings the network back to its checkpoint, and gives what the optimiser kept and how far it was.
pub fn restore(
    network: &Network,
    dir: &RunDir,
    model_json: &str,
) -> Result<(Optimiser, Progress), TrainError> {
    let path = dir.checkpoint();
    let damaged = |reason: String| TrainError::Damaged {
        path: path.clone(),
        reason,
    };
    let bytes = fs::read(&path).map_err(TrainError::read(&path))?;
    let words = words(&bytes).map_err(damaged)?;
    if words.get(VERSION_KEY).is_none_or(|form| form != VERSION) {
        return Err(damaged(
            "it is of a form that this version does not know".into(),
        ));
    }
    let word = |key: &str| words.get(key).map(String::as_str).unwrap_or_default();
    run::same_architecture(dir.path(), word(MODEL_KEY), model_json)?;
    let progress =
        serde_json::from_str(word(PROGRESS_KEY)).map_err(|error| damaged(error.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
    let device = optimiser::device(network);
    let mut moments = Vec::new();
    for parameter in network.parameters() {
        let take = |what| tensor(&file, parameter, what, device);
        let [value, first, second, average] = KEPT.map(take);
        parameter.value.set(&value.map_err(damaged)?)?;
        moments.push(Moments {
            first: first.map_err(damaged)?,
            second: second.map_err(damaged)?,
            average: average.map_err(damaged)?,
        });
    }
    Ok((Optimiser::from_moments(moments), progress))
}

fn words(bytes: &[u8]) -> Result<HashMap<String, String>, String> {
    let (_, head) = SafeTensors::read_metadata(bytes)
        .map_err(|error| format!("it is no whole safetensors file ({error})"))?;
    Ok(head.metadata().clone().unwrap_or_default())
}

/// One of the things that are kept of a parameter.
fn tensor(
    file: &SafeTensors<'_>,
    parameter: &Parameter,
    what: &str,
    device: &Device,
) -> Result<Tensor, String> {
    let name = format!("{}.{what}", parameter.name);
    let view = file.tensor(&name).map_err(|error| error.to_string())?;
    let n = parameter.value.as_tensor().elem_count();
    if view.shape() != [n] || view.dtype() != Dtype::F32 {
        let got = (view.dtype(), view.shape());
        return Err(format!("{name} is {got:?}, {n} of F32 are needed"));
    }
    let values: Vec<f32> = view
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    Tensor::from_vec(values, n, device).map_err(|error| error.to_string())
}
