//! Which machine part computes, and why.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{Decoder, Settings};
use crate::model::Model;

/// What computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// A GPU where there is one that holds the model, or else the processor.
    Auto,
    /// This machine's processor.
    #[default]
    Cpu,
    /// The GPU of that number.
    Cuda(usize),
}

/// Why the device that was asked for cannot compute. *Retry* elsewhere, or ask for another.
#[derive(Debug, thiserror::Error)]
#[error("{device} cannot compute: {why}; --device cpu can")]
pub struct DeviceError {
    /// The one asked for.
    pub device: Device,
    /// Why not.
    pub why: String,
}

/// An engine, and why it computes where it does.
#[allow(missing_debug_implementations)] // Engines have no common one.
pub struct Opened {
    /// The engine.
    pub decoder: Box<dyn Decoder>,
    /// Where it computes, and why there, unless there was no choice.
    pub why: Option<String>,
}

/// How many lanes an engine shall have.
#[derive(Clone, Copy, Debug)]
pub struct LaneCounts {
    /// All of them.
    pub all: usize,
    /// The first of them, which play on when a GPU fails.
    pub lasting: usize,
}

/// An engine on a device. `settings` are the processor's; its instruction set is one that it has.
pub fn open_on(
    device: Device,
    model: &Arc<Model>,
    settings: &Settings,
    lanes: LaneCounts,
) -> Result<Opened, DeviceError> {
    let on_cpu = |why| Opened {
        decoder: super::open(model, settings, lanes.all).expect("the instruction set is available"),
        why,
    };
    match device {
        Device::Cpu => Ok(on_cpu(None)),
        Device::Cuda(number) => match on_gpu(model, settings, number, lanes) {
            Ok((decoder, name)) => Ok(Opened {
                decoder,
                why: Some(format!("on GPU {number}, {name}, as asked for")),
            }),
            Err(why) => Err(DeviceError { device, why }),
        },
        // Who asks for an instruction set or for threads wants the processor.
        Device::Auto if settings.isa.is_some() => Ok(on_cpu(None)),
        Device::Auto => Ok(match on_gpu(model, settings, 0, lanes) {
            Ok((decoder, name)) => Opened {
                decoder,
                why: Some(format!("on GPU 0, {name}, because it is there")),
            },
            Err(why) => on_cpu(Some(format!("on the processor: {why}"))),
        }),
    }
}

/// The engine on a GPU, which the processor stands by, and its name; or a sentence that says why not.
#[cfg(feature = "cuda")]
fn on_gpu(
    model: &Arc<Model>,
    settings: &Settings,
    number: usize,
    lanes: LaneCounts,
) -> Result<(Box<dyn Decoder>, String), String> {
    match super::CudaDecoder::open(model, number, lanes.all) {
        Ok(decoder) => {
            let name = decoder.gpu_name().to_owned();
            let decoder = super::Fallback::new(decoder, model, settings, lanes.lasting);
            Ok((Box::new(decoder), name))
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(not(feature = "cuda"))]
fn on_gpu(
    _: &Arc<Model>,
    _: &Settings,
    _: usize,
    _: LaneCounts,
) -> Result<(Box<dyn Decoder>, String), String> {
    Err("this longwave was built without the feature `cuda`".to_owned())
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let number = |name: &str| match name {
            "cuda" => Some(0),
            name => name.strip_prefix("cuda:")?.parse().ok(),
        };
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            name => number(name)
                .map(Self::Cuda)
                .ok_or_else(|| format!("must be auto, cpu or cuda:N, not {name}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_device_is_read_as_it_is_written() {
        for device in [Device::Auto, Device::Cpu, Device::Cuda(0), Device::Cuda(12)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            assert!(
                wrong.parse::<Device>().unwrap_err().contains("cuda:N"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn where_there_is_no_such_gpu_auto_takes_the_processor_and_the_rest_say_why() {
        let model = Arc::new(Model::load(Path::new("models/tiny")).unwrap());
        let settings = Settings::default();
        let lanes = LaneCounts { all: 1, lasting: 1 };
        let cpu = open_on(Device::Cpu, &model, &settings, lanes).unwrap();
        assert_eq!(cpu.why, None);
        let auto = open_on(Device::Auto, &model, &settings, lanes).unwrap();
        assert!(auto.why.unwrap().starts_with("on "));
        let error = open_on(Device::Cuda(99), &model, &settings, lanes)
            .err()
            .unwrap();
        assert!(
            error.to_string().starts_with("cuda:99 cannot compute: "),
            "{error}"
        );
    }
}
