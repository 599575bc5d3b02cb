//! `devices`: the sound cards that `--output-device` can name, and the GPUs that `--device` can.

use std::fmt::Display;

use longwave::card::{self, CardError, OutputDevice};

use super::exit::Outcome;
use super::pages::print;

/// One line a card; with `only_names` what a script wants.
pub fn run(only_names: bool) -> Outcome {
    let devices = card::devices()?;
    let gpus = if only_names { String::new() } else { gpus() };
    if devices.is_empty() && gpus.is_empty() {
        return Err(CardError::NoCard.into());
    }
    let mut page = gpus;
    for device in devices {
        page += &describe(&device, only_names);
    }
    print(page.as_bytes())
}

fn describe(device: &OutputDevice, only_name: bool) -> String {
    let OutputDevice { id, name, .. } = device;
    if only_name {
        return format!("{id}\n");
    }
    let mark = if device.is_default { '*' } else { ' ' };
    let rates = device
        .rates_hz
        .iter()
        .map(|&(lowest, highest)| range(lowest, highest));
    let rates = rates.collect::<Vec<_>>().join(", ");
    let channels = range(device.channels.0, device.channels.1);
    format!("{mark} {id}  {name}, {rates} Hz, {channels} channels\n")
}

/// One line a GPU.
#[cfg(feature = "cuda")]
fn gpus() -> String {
    let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
    let gpus = longwave::engine::gpus();
    let lines = gpus.into_iter().enumerate().map(|(number, gpu)| match gpu {
        Ok(gpu) => format!(
            "  cuda:{number}  {}, {:.0} GiB, {:.0} of them free, draws {} streams at once\n",
            gpu.name,
            gib(gpu.all_bytes),
            gib(gpu.free_bytes),
            gpu.n_lanes
        ),
        Err(why) => format!("  cuda:{number}  cannot be used: {why}\n"),
    });
    lines.collect()
}

/// Built without their engine, there are none.
#[cfg(not(feature = "cuda"))]
fn gpus() -> String {
    String::new()
}

fn range<T: PartialEq + Display>(lowest: T, highest: T) -> String {
    match lowest == highest {
        true => lowest.to_string(),
        false => format!("{lowest}-{highest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_one_line() {
        let device = OutputDevice {
            id: "hw:CARD=A".into(),
            name: "A card".into(),
            is_default: true,
            rates_hz: vec![(44_100, 44_100), (48_000, 96_000)],
            channels: (2, 8),
        };
        assert_eq!(
            describe(&device, false),
            "* hw:CARD=A  A card, 44100, 48000-96000 Hz, 2-8 channels\n"
        );
        assert_eq!(describe(&device, true), "hw:CARD=A\n");
    }
}
