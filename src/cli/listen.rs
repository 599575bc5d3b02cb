//! `listen`: a remote station through the sound card or into a file.

use std::future::Future;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use longwave::listen::{self, End, Recording, Wire};
use longwave::signals::Signals;
use longwave::tls::Trust;
use longwave::wav::WavFormat;
use tokio::runtime::Builder;

use super::args::ListenArgs;
use super::exit::Outcome;

/// Until a signal comes, the time is over, or (into a file) the station ends.
pub fn run(args: ListenArgs) -> Outcome {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let trust = Trust::from(args.ca.clone());
        let line = status_line();
        let wire = tokio::select! {
            wire = Wire::open(&args.url, &trust) => wire?,
            _ = signals.next() => return Ok(()),
        };
        let facts = wire.facts();
        let (station, model, seed) = (&facts.station, &facts.model.name, facts.seed);
        line.suspend(|| eprintln!("{station} of {}, model {model}, seed {seed}", args.url));
        let length = args.seconds.map(Duration::from_secs_f64);
        let outcome = match args.output {
            Some(output) => {
                let recording = Recording {
                    output,
                    format: args.format.unwrap_or(WavFormat::S16),
                    length,
                };
                // Its length is counted in samples, not by this machine's clock.
                record(wire, &recording, &line, stop_after(None, signals)).await
            }
            None => play(wire, (args, trust), &line, stop_after(length, signals)).await,
        };
        line.finish_and_clear();
        outcome
    })
}

async fn record(
    wire: Wire,
    recording: &Recording,
    line: &ProgressBar,
    stop: impl Future<Output = ()>,
) -> Outcome {
    let rate_hz = f64::from(wire.facts().sample_rate_hz);
    let seconds = |n_samples: u64| n_samples as f64 / rate_hz;
    let show = |so_far: listen::Recorded| {
        line.set_message(format!(
            "{:.1} s, {:.1} s of it lost",
            seconds(so_far.n_samples),
            seconds(so_far.n_lost)
        ));
    };
    let (recorded, end) = listen::record(wire, recording, show, stop).await?;
    let (path, length) = (recording.output.display(), seconds(recorded.n_samples));
    let lost = seconds(recorded.n_lost);
    line.suspend(|| eprintln!("{path}: {length:.2} s, {lost:.2} s of it lost and silent"));
    match end {
        End::Length | End::Stop => Ok(()),
        End::Station(error) => Err(error.into()),
    }
}

#[cfg(feature = "playback")]
async fn play(
    wire: Wire,
    (args, trust): (ListenArgs, Trust),
    line: &ProgressBar,
    stop: impl Future<Output = ()>,
) -> Outcome {
    let settings = longwave::card::CardSettings {
        output_device: args.card.output_device,
        ..longwave::card::CardSettings::default()
    };
    let show = |heard: &listen::Heard| line.set_message(describe(heard));
    let heard = listen::play(
        ((args.url, trust), wire),
        settings,
        Default::default(),
        show,
        stop,
    )
    .await?;
    line.suspend(|| eprintln!("{}", describe(&heard)));
    Ok(())
}

#[cfg(feature = "playback")]
fn describe(heard: &listen::Heard) -> String {
    let trouble = heard
        .trouble
        .as_ref()
        .map(|why| format!(", waiting: {why}"));
    format!(
        "{} packets, {} lost, {} reconnects{}",
        heard.n_packets,
        heard.n_lost,
        heard.n_reconnects,
        trouble.unwrap_or_default()
    )
}

#[cfg(not(feature = "playback"))]
async fn play(
    _: Wire,
    _: (ListenArgs, Trust),
    _: &ProgressBar,
    _: impl Future<Output = ()>,
) -> Outcome {
    Err(longwave::daemon::CardError.into())
}

/// The first signal, or the end of the time that was given.
async fn stop_after(length: Option<Duration>, mut signals: Signals) {
    let end = async {
        match length {
            Some(length) => tokio::time::sleep(length).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = end => {}
        _ = signals.next() => {}
    }
}

/// Drawn on a terminal only.
fn status_line() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg}");
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));
    bar.with_style(style.expect("the template is constant and tested"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_status_line_can_be_drawn() {
        super::status_line();
    }
}
