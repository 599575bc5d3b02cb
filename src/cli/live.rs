//! `play` and `serve`: the daemon with its log, and on a terminal a line of how it goes.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use longwave::config::Config;
use longwave::daemon::{self, Beat, Reread};
use longwave::telemetry::{CardTelemetry, Counter, Telemetry};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::exit::Outcome;

/// Runs until a signal comes. Away from a terminal, whose end is a SIGHUP, too, that has the configuration
/// read again.
pub fn run(config: &Config, reread: Option<Reread<'_>>) -> Outcome {
    let reread = reread.filter(|_| !io::stderr().is_terminal());
    let line = StatusLine::new();
    start_log(line.bar.clone());
    let mut meter = LoadMeter::default();
    let mut is_told = false;
    let result = daemon::run(config, reread, &mut |beat| {
        // Whatever the log may say: without the address nobody can listen.
        if let Some(page) = beat.page.filter(|_| !is_told) {
            line.bar.suspend(|| eprintln!("page: {page}"));
            is_told = true;
        }
        line.show(&meter.read(beat));
    });
    line.bar.finish_and_clear();
    Ok(result?)
}

/// To the journal with levels, where stderr leads there; else to stderr, around the status line.
/// `RUST_LOG` says how much.
fn start_log(bar: ProgressBar) {
    let filter = EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("warn,longwave=info"));
    let is_journaled = std::env::var_os("JOURNAL_STREAM").is_some();
    let journal = is_journaled.then(tracing_journald::layer);
    if let Some(Ok(journal)) = journal {
        let log = tracing_subscriber::registry().with(filter);
        return log.with(journal.with_field_prefix(None)).init();
    }
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(LogWriter(bar))
        .with_ansi(io::stderr().is_terminal());
    match io::stderr().is_terminal() || is_journaled {
        true => log.without_time().init(),
        false => log.init(),
    }
}

/// Steps aside for a line of the log, so that the status line stays the last.
#[derive(Clone)]
struct LogWriter(ProgressBar);

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Drawn on a terminal only.
struct StatusLine {
    bar: ProgressBar,
}

impl StatusLine {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{spinner} {msg}");
        let bar = ProgressBar::new_spinner()
            .with_style(style.expect("the template is constant and tested"));
        Self { bar }
    }

    fn show(&self, text: &str) {
        self.bar.set_message(text.to_owned());
        self.bar.tick();
    }
}

/// Turns sums into what happened since the last look.
#[derive(Default)]
struct LoadMeter {
    n_chunks: u64,
    load_sum: f64,
    load: f64,
}

impl LoadMeter {
    fn read(&mut self, beat: &Beat<'_>) -> String {
        let Telemetry { pump, net, .. } = beat.telemetry;
        let of_cards = |figure: fn(&CardTelemetry) -> &Counter| beat.telemetry.of_cards(figure);
        let n_chunks = pump.chunk_load.n_observed();
        let load_sum = pump.chunk_load.sum();
        if n_chunks > self.n_chunks {
            self.load = (load_sum - self.load_sum) / (n_chunks - self.n_chunks) as f64;
        }
        (self.n_chunks, self.load_sum) = (n_chunks, load_sum);
        let trouble = beat
            .trouble
            .as_ref()
            .map(|why| format!(", card silent: {why}"));
        format!(
            "{}  {} listeners, {:.0} % of a core, {} underruns{}",
            clock(beat.uptime),
            net.listeners.get(),
            self.load * 100.0,
            of_cards(|c| &c.ring_underruns) + of_cards(|c| &c.device_xruns),
            trouble.unwrap_or_default(),
        )
    }
}

fn clock(uptime: Duration) -> String {
    let s = uptime.as_secs();
    format!("{}:{:02}:{:02}", s / 3_600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_line_shows_the_load_since_the_last_look() {
        StatusLine::new();
        let telemetry = Telemetry::with_cards(["default"]);
        let beat = Beat {
            telemetry: &telemetry,
            uptime: Duration::from_secs(3_723),
            trouble: Some("unplugged".into()),
            page: None,
        };
        let mut meter = LoadMeter::default();
        telemetry.pump.chunk_load.observe(0.9);
        meter.read(&beat);
        telemetry.pump.chunk_load.observe(0.5);
        telemetry.cards[0].ring_underruns.add(2);
        assert_eq!(
            meter.read(&beat),
            "1:02:03  0 listeners, 50 % of a core, 2 underruns, card silent: unplugged"
        );
    }
}
