//! What computes: the one place where a device is opened.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;

use crate::model::{Layer, ModelConfig};

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if this program and this machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU, all its cores.
    Cpu,
    /// A GPU, by its number.
    Cuda(usize),
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// *Rebuild*: this program was built without.
    #[error(
        "this longwave was built for the CPU alone: build it with `cargo build --release \
         --features train-cuda`, or give --device cpu"
    )]
    NotBuilt,
    /// *Retry*, perhaps: the driver says no.
    #[error("no GPU number {number}: {reason}; see what `nvidia-smi` says, or give --device cpu")]
    Unavailable {
        /// Which.
        number: usize,
        /// The driver's words.
        reason: String,
    },
}

/// A device, ready to compute.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The device.
    pub device: Device,
    /// Which it is and why, in a sentence, where the choice was left to us.
    pub why: Option<String>,
}

impl DeviceChoice {
    /// Opens what was asked for; the calling thread must be the one that computes.
    pub fn open(self) -> Result<Opened, DeviceError> {
        let asked = |device| Opened { device, why: None };
        match self {
            Self::Cpu => Ok(asked(Device::Cpu)),
            Self::Cuda(number) => cuda(number).map(asked),
            Self::Auto => Ok(auto(cuda(0))),
        }
    }
}

/// The GPU if there is one, else the CPU.
fn auto(gpu: Result<Device, DeviceError>) -> Opened {
    let (device, why) = match gpu {
        Ok(gpu) => (gpu, "the first GPU computes".to_owned()),
        Err(DeviceError::NotBuilt) => {
            let why = "the CPU computes: this longwave was built for nothing else";
            (Device::Cpu, why.to_owned())
        }
        Err(DeviceError::Unavailable { reason, .. }) => {
            let why = format!("the CPU computes, for no GPU is to be had: {reason}");
            (Device::Cpu, why)
        }
    };
    Opened {
        device,
        why: Some(why),
    }
}

/// Refuses a model that the device does not compute, in a sentence.
pub fn check(config: &ModelConfig, device: &Device) -> Result<(), String> {
    match device.is_cpu() {
        true => Ok(()),
        false => check_for_gpu(config),
    }
}

fn check_for_gpu(config: &ModelConfig) -> Result<(), String> {
    match config.layers.iter().position(Layer::shares_queries) {
        Some(i) => Err(format!(
            "pattern[{i}] is hashed, for which there are no GPU kernels: give --device cpu"
        )),
        None => Ok(()),
    }
}

/// The device in a word.
pub fn name(device: &Device) -> &'static str {
    if device.is_cuda() { "cuda" } else { "cpu" }
}

#[cfg(not(feature = "train-cuda"))]
fn cuda(_number: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt)
}

#[cfg(feature = "train-cuda")]
fn cuda(number: usize) -> Result<Device, DeviceError> {
    let refuse = |error: candle_core::Error| DeviceError::Unavailable {
        number,
        reason: error.to_string().lines().next().unwrap_or("").to_owned(),
    };
    super::ops::open_cuda(number).map_err(refuse)
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let number = |rest: &str| rest.parse().ok().map(Self::Cuda);
        match word {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            word => word.strip_prefix("cuda:").and_then(number),
        }
        .ok_or_else(|| format!("no device `{word}`: choose auto, cpu or cuda:0"))
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_known_by_their_names() {
        for choice in [
            DeviceChoice::Auto,
            DeviceChoice::Cpu,
            DeviceChoice::Cuda(0),
            DeviceChoice::Cuda(7),
        ] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        for word in ["abacus", "cuda:", "cuda:x", "cuda:-1", ""] {
            let why = word.parse::<DeviceChoice>().unwrap_err();
            assert!(why.contains("cuda:0"), "{why}");
        }
    }

    #[test]
    #[cfg(not(feature = "train-cuda"))]
    fn without_the_feature_a_gpu_is_refused_and_auto_takes_the_cpu() {
        let why = DeviceChoice::Cuda(0).open().unwrap_err().to_string();
        assert!(why.contains("--features train-cuda"), "{why}");
        let opened = DeviceChoice::Auto.open().unwrap();
        assert!(opened.device.is_cpu());
        assert!(opened.why.unwrap().contains("built for nothing else"));
        assert_eq!(DeviceChoice::Cpu.open().unwrap().why, None);
    }

    #[test]
    fn a_gpu_is_spared_what_only_a_cpu_computes_and_nothing_else() {
        for file in std::fs::read_dir("examples/patterns").unwrap() {
            let path = file.unwrap().path();
            let config = ModelConfig::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
            assert_eq!(check(&config, &Device::Cpu), Ok(()));
            match check_for_gpu(&config) {
                Ok(()) => assert!(!path.ends_with("hashed.json")),
                Err(why) => {
                    assert!(path.ends_with("hashed.json"), "{}: {why}", path.display());
                    assert!(why.contains("pattern[1] is hashed") && why.contains("--device cpu"));
                }
            }
        }
    }

    #[test]
    fn a_gpu_that_does_not_answer_is_told_in_the_drivers_words() {
        let opened = auto(Err(DeviceError::Unavailable {
            number: 0,
            reason: "CUDA_ERROR_NO_DEVICE".into(),
        }));
        assert!(opened.device.is_cpu());
        assert!(opened.why.unwrap().ends_with("CUDA_ERROR_NO_DEVICE"));
    }
}
