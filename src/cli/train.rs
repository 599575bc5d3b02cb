//! `train`: a line of progress around [`longwave::train`], and a line for every checkpoint.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use longwave::train::{self, Budget, Device, DeviceChoice, Ending, Event, Job, Metric, TrainError};

use super::args::train::TrainArgs;
use super::exit::Outcome;
use super::interrupt;

/// The bar is shown on a terminal only, the lines always.
pub fn run(args: &TrainArgs) -> Outcome {
    let job = args.resolve()?;
    let device = device(args.device)?;
    let is_interrupted = interrupt::flag()?;
    let bar = progress_bar();
    let ending = train::run(&job, &device, &mut |event| {
        show(&bar, &event);
        match is_interrupted.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    bar.finish_and_clear();
    eprint!("{}", last_words(&job, &ending?));
    Ok(())
}

/// Opens what shall compute, and says which it is unless that was asked for by name.
pub(super) fn device(choice: DeviceChoice) -> Result<Device, TrainError> {
    let opened = choice.open()?;
    if let Some(why) = opened.why {
        eprintln!("--device {choice}: {why}");
    }
    Ok(opened.device)
}

fn show(bar: &ProgressBar, event: &Event) {
    match event {
        Event::Reading(reading) => {
            bar.set_length(reading.n_codes);
            bar.set_position(reading.n_done);
            bar.set_message(format!("reading {}", reading.split));
        }
        Event::Begin {
            device,
            n_codes,
            n_parameters,
            resumed,
        } => {
            let again = match resumed.iteration {
                0 => String::new(),
                n => format!(", from iteration {n}"),
            };
            let line = format!(
                "{n_parameters} parameters learn from {:.1} M samples on {device}{again}; \
                 Ctrl-C saves and ends",
                *n_codes as f64 / 1e6
            );
            bar.suspend(|| eprintln!("{line}"));
            bar.set_length(PERMILLE);
        }
        Event::Look {
            metric,
            share,
            left_s,
        } => {
            bar.set_position((share * PERMILLE as f64) as u64);
            bar.set_message(format!(
                "{:.3} bits, {}, {} left",
                metric.bits.unwrap_or(f64::NAN),
                speed(metric),
                time(*left_s)
            ));
        }
        Event::Saved { metric } if metric.iteration > 0 => {
            let line = saved(metric);
            bar.suspend(|| eprintln!("{line}"));
        }
        Event::Saved { .. } => {}
        Event::Rendering => bar.set_message("saved; rendering what it sounds like"),
        Event::Note(note) => bar.suspend(|| eprintln!("longwave: {note}")),
    }
}

const PERMILLE: u64 = 1000;

fn saved(metric: &Metric) -> String {
    let valid = match metric.valid_bits {
        Some(bits) => format!(", validation {bits:.3} bits"),
        None => String::new(),
    };
    format!(
        "{:>8}  iteration {}, {:.1} M samples{valid}, saved",
        time(metric.seconds),
        metric.iteration,
        metric.samples as f64 / 1e6,
    )
}

fn speed(metric: &Metric) -> String {
    match metric.samples_per_s.unwrap_or(0.0) {
        n if n >= 1e6 => format!("{:.2} M samples/s", n / 1e6),
        n => format!("{:.1} k samples/s", n / 1e3),
    }
}

/// As a person says it: 42 s, 7.5 min, 3.2 h.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 99.5 => format!("{s:.0} s"),
        s if s < 5_970.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

fn last_words(job: &Job, ending: &Ending) -> String {
    let (run, progress) = (job.dir.path().display(), &ending.progress);
    let valid = match ending.valid_bits {
        Some(bits) => format!(", validation {bits:.3} bits"),
        None => String::new(),
    };
    let done = format!(
        "{run}: {}, {} iterations, {:.1} M samples{valid}\n",
        time(progress.seconds),
        progress.iteration,
        progress.samples as f64 / 1e6
    );
    let next = match (ending.is_interrupted, job.settings.budget) {
        (true, _) => format!("saved; go on with: longwave train --output {run} --resume\n"),
        (false, Some(Budget::Samples(_))) => longer(job, "--samples"),
        (false, _) => longer(job, "--minutes"),
    };
    format!("{done}{next}")
}

fn longer(job: &Job, option: &str) -> String {
    let model = job.dir.model();
    format!(
        "hear it: longwave play -m {}; train longer: --resume with more {option}\n",
        model.display()
    )
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}");
    let bar =
        ProgressBar::new(PERMILLE).with_style(style.expect("the template is constant and tested"));
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_bar_can_be_drawn() {
        progress_bar();
    }

    #[test]
    fn times_are_said_as_people_do() {
        assert_eq!(
            [3.4, 99.0, 150.0, 7_200.0].map(time),
            ["3 s", "99 s", "2.5 min", "2.0 h"]
        );
    }
}
