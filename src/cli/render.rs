//! `render`: a progress bar around [`longwave::render`].

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use longwave::render::{Order, render};
use longwave::setup::Setup;
use longwave::wav::WavFormat;

use super::args::RenderArgs;
use super::changes;
use super::exit::Outcome;
use super::interrupt;

/// Shown on a terminal only; the last line says what a person needs to do it again.
pub fn run(mut args: RenderArgs) -> Outcome {
    let config = args.resolve()?;
    let mut order = Order {
        seconds: args.seconds,
        output: args.output,
        rate_hz: args.rate,
        format: args.format.unwrap_or(WavFormat::S16),
        changes: Vec::new(),
    };
    let mut setup = Setup::new(&config)?;
    if let Some(path) = &args.state {
        setup.go_on_from(path, &config.stations[0])?;
    }
    if let Some(path) = &args.changes {
        let prompts = setup.prompts(&args.new_prompt)?;
        // What a state has behind it is in it.
        let begin = args
            .state
            .as_ref()
            .map(|_| setup.starts[0].first_position());
        order.changes = changes::read(path, prompts, begin.unwrap_or(0))?;
    }
    let is_interrupted = interrupt::flag()?;
    let rate_hz = f64::from(setup.engines[0].model.config.sample_rate_hz);
    let bar = progress_bar();
    let mut begin = Instant::now();
    let result = render(&mut setup, &order, |progress| {
        if progress.is_prompt {
            begin = Instant::now();
            bar.set_message("listening to the prompt");
        } else {
            let x_realtime = x_realtime(progress.n_done, rate_hz, begin);
            bar.set_message(format!("{x_realtime:.2} x real time"));
        }
        bar.set_length(progress.n_codes);
        bar.set_position(progress.n_done);
        match is_interrupted.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    let n_codes = bar.length().unwrap_or(0);
    bar.finish_and_clear();
    result?;
    tell_fall(&setup);
    eprintln!(
        "{}: {} s, seed {}, {:.2} x real time",
        order.output.display(),
        order.seconds,
        setup.starts[0].seed,
        x_realtime(n_codes, rate_hz, begin),
    );
    Ok(())
}

/// Says it if another engine has drawn the rest than was asked for.
pub(super) fn tell_fall(setup: &Setup) {
    let omen = setup.engines[0].decoder.omen();
    if let Some(fall) = omen.as_ref().and_then(|omen| omen.get()) {
        eprintln!(
            "the GPU failed on the way: {}; {} drew the rest, which may not be what the GPU would have drawn",
            fall.why, fall.isa
        );
    }
}

/// Seconds of sound in a second of work.
pub(super) fn x_realtime(n_codes: u64, rate_hz: f64, begin: Instant) -> f64 {
    n_codes as f64 / rate_hz / begin.elapsed().as_secs_f64().max(1e-9)
}

/// Of codes; shown on a terminal only.
pub(super) fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}, {eta} left");
    ProgressBar::no_length().with_style(style.expect("the template is constant and tested"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_progress_bar_can_be_drawn() {
        super::progress_bar();
    }
}
