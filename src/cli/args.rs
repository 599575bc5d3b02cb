//! What can be typed: the one source of `--help`, the man pages and the shell completions.
//!
//! Nothing has a default here: options that are absent leave the configuration as it is, and the
//! defaults that the help names are compared with [`Config::default`] by a test.

pub mod audit;
pub mod draw;
pub mod eval;
pub mod prepare;
pub mod serve;
pub mod train;

use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueHint};
use longwave::bench::Case;
#[cfg(feature = "playback")]
use longwave::config::CardUse;
use longwave::config::limits::{self, Limits};
use longwave::config::{self, Config, ConfigError};
use longwave::corpus::Split;
use longwave::engine::{Device, Isa};
use longwave::wav::WavFormat;

use audit::AuditArgs;
use draw::DrawArgs;
use eval::EvalArgs;
use prepare::PrepareArgs;
use serve::{ControlArgs, LinkArgs, ServeArgs};
use train::TrainArgs;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "longwave",
    version = VERSION,
    about = "Endless music, drawn sample by sample by a sparse transformer",
    after_help = "Examples:
  longwave play                      listen on the sound card
  longwave serve                     serve listeners on http://127.0.0.1:8420/
  longwave render -s 30 -o out.wav   write 30 seconds to a file

Exit codes: 0 done, 1 internal error, 64 usage, 69 sound card, port or disk space unavailable (try again),
78 configuration, model, prompt, recordings or record invalid, or more stations than this machine
plays in time."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What forces an instruction set where `--isa` does not.
const ISA_ENV: &str = "LONGWAVE_ISA";

/// The release, and the commit where one is known.
const VERSION: &str = match option_env!("LONGWAVE_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// One variant a command.
#[derive(Debug, Subcommand)]
pub enum Command {
    #[cfg(feature = "playback")]
    /// Play on the sound card until interrupted
    #[command(after_help = "Examples:
  longwave play
  longwave play --seed 7 --temperature 0.9
  longwave play --prompt seed.wav --output-device hw:CARD=PCH,DEV=0")]
    Play(PlayArgs),

    /// Run the daemon: listeners on the network, and the sound card if there is one
    #[command(after_help = "Examples:
  longwave serve
  longwave serve --listen 0.0.0.0:8420 --tokens /etc/longwave/tokens --no-card
  longwave serve --config /etc/longwave/config.toml")]
    Serve(ServeArgs),

    /// Write music to a WAV file, faster than real time
    #[command(after_help = "Examples:
  longwave render --seconds 60 --output minute.wav
  longwave render -s 10 -o ten.wav --seed 7 --rate 48000 --format f32
  longwave render -s 30 -o on.wav --prompt seed.wav")]
    Render(RenderArgs),

    /// Judge long generation by numbers: noise, dead silence, what is stuck, clicks
    #[command(after_help = "Examples:
  longwave audit hour.wav
  longwave audit --model piano-16k --minutes 60 --seed 7 --temperature 0.9
  longwave audit hour.wav --corpus CORPUS --split valid --output judged
  longwave audit --corpus CORPUS --split train --calibrate piano.json
  longwave audit hour.wav --reference piano.json --strict --json > report.json

Each second is measured and compared with those of a corpus; named are seconds of a kind that at
most one in a thousand of the corpus's own is of. Exit codes: 0 judged, 1 with --strict if any
second is named, 78 if the recording, the corpus or the reference cannot be used.")]
    Audit(AuditArgs),

    /// Change how a station of a running daemon plays, without a click, or see how it does
    #[command(after_help = "Examples:
  longwave control piano
  longwave control piano temperature=1.02 seed=7
  longwave control piano volume_db=-12 mute=false
  longwave control piano --prompt seed.wav
  longwave control piano leveling=0 --url http://radio.local:8420 --token-file token

The change holds from the position that is printed; every listener is told.")]
    Control(ControlArgs),

    /// Make a link with which somebody may listen for a while
    #[command(after_help = "Examples:
  longwave link --tokens /etc/longwave/tokens --hours 12
  longwave link --tokens tokens --url https://radio.example/stream.wav

The link dies with the first token to listen with in the file, and needs no restart.")]
    Link(LinkArgs),

    /// Hear or record a remote station
    #[command(after_help = "Examples:
  longwave listen http://127.0.0.1:8420/
  longwave listen ws://radio.local:8420/v1/stations/piano/stream
  longwave listen http://127.0.0.1:8420/ --output hour.wav --seconds 3600
  longwave listen https://radio.local:8420/ --ca ours.pem")]
    Listen(ListenArgs),

    #[cfg(feature = "playback")]
    /// List the sound cards: a [card] of a configuration takes one's name as `output_device`
    #[command(after_help = "Examples:
  longwave devices
  longwave play --output-device \"$(longwave devices --names | head -1)\"")]
    Devices(DevicesArgs),

    /// Describe a model: sizes, memory, and who sees whom
    #[command(after_help = "Examples:
  longwave inspect
  longwave inspect models/piano-16k | less
  longwave inspect models/piano-16k --picture piano.svg
  longwave inspect --pattern '{\"kind\": \"memory\", \"segment\": 32}' --picture memory.svg")]
    Inspect(InspectArgs),

    /// Measure how fast this machine decodes a model
    #[command(after_help = "Examples:
  longwave bench
  longwave bench --case one-lane --seconds 10 --isa avx2
  longwave bench --json > bench.json
  longwave bench --compare bench.json --plot pictures
  longwave bench --case chunks --beside make
  longwave bench --patterns --plot pictures")]
    Bench(BenchArgs),

    /// Make a corpus of a folder of recordings, to train and measure models with
    #[command(after_help = "Examples:
  longwave prepare recordings --output corpus
  longwave prepare recordings -o corpus-24k --rate 24000 --level -21
  longwave prepare recordings -o corpus --silence keep --split 80,10,10

In CORPUS: train, valid and test with mono 16-bit WAV files, and manifest.json, which says what
was made of what and what was skipped. The same command again converts only what is missing.")]
    Prepare(PrepareArgs),
    /// Train a model on a corpus of recordings
    #[command(after_help = "Examples:
  longwave train corpus --output runs/tiny
  longwave train corpus --output runs/piano --preset piano-16k --device cuda:0
  longwave train --output runs/piano --resume --minutes 120
  longwave train corpus -o runs/mine --config mine.json --samples 500000000 --seed 7

In RUN: config.json and run.json, what is trained and how; checkpoint/, what --resume goes on
from; model/, to play, render and eval; metrics.jsonl and curves.svg; samples/, what it sounded
like on the way. Ctrl-C saves and ends.")]
    Train(Box<TrainArgs>),

    /// Measure a model in bits per sample on sound it never heard
    #[command(after_help = "Examples:
  longwave eval piano-16k corpus
  longwave eval runs/tiny/model corpus --split test --json > bits.json
  longwave eval piano-16k corpus --windows 0 --context --plot pictures")]
    Eval(EvalArgs),

    /// Say whether a configuration is right, and what it comes to
    #[command(after_help = "Examples:
  longwave check-config /etc/longwave/config.toml
  longwave check-config examples/longwave.toml > resolved.toml")]
    CheckConfig(CheckConfigArgs),

    /// Print completions for a shell
    #[command(after_help = "Examples:
  longwave completions bash > ~/.local/share/bash-completion/completions/longwave
  longwave completions fish > ~/.config/fish/completions/longwave.fish")]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },

    /// Print the man page, or write one page a command
    #[command(after_help = "Examples:
  longwave man | man -l -
  longwave man --output ~/.local/share/man/man1")]
    Man {
        /// A directory for longwave.1, longwave-play.1, ...
        #[arg(long, short, value_name = "DIR", value_hint = ValueHint::DirPath)]
        output: Option<PathBuf>,
    },
}

/// Which model, and what computes it.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A model's directory, or its name in ./models or PREFIX/share/longwave/models
    /// [default: piano-16k]
    #[arg(long, short, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model: Option<PathBuf>,

    /// What computes: cpu, cuda:N, or auto, a GPU if there is one that holds the model [default: cpu]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<Device>,

    /// Force an instruction set [default: the best this machine has]
    #[arg(long, value_name = "ISA", env = ISA_ENV, hide_env_values = true,
        value_parser = PossibleValuesParser::new(Isa::ALL.map(Isa::name)))]
    pub isa: Option<String>,

    /// Let so many threads share a step [default: chosen from the model and the caches]
    #[arg(long, value_name = "N", value_parser = within::<u32>(limits::THREADS))]
    pub threads: Option<u32>,
}

/// How a stream begins and chooses its codes.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Music")]
pub struct StreamArgs {
    /// The same seed and model play the same for ever [default: from the clock, and told]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    #[command(flatten)]
    pub draw: DrawArgs,

    /// A WAV file, of any rate, that the model hears first and then continues
    #[arg(long, value_name = "F.wav", value_hint = ValueHint::FilePath)]
    pub prompt: Option<PathBuf>,
}

/// Whether a stream may come to harm.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Music")]
pub struct WatchArgs {
    /// Let streams that collapse into noise or silence stay there [default: they return by
    /// themselves]
    #[arg(long)]
    pub no_watch: bool,
}

/// `play`
#[cfg(feature = "playback")]
#[derive(Debug, Args)]
pub struct PlayArgs {
    #[command(flatten)]
    pub file: FileArgs,
    #[command(flatten)]
    pub card: CardArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub stream: StreamArgs,
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// `render`
#[derive(Debug, Args)]
pub struct RenderArgs {
    /// How much music
    #[arg(long, short, value_name = "S", allow_negative_numbers = true,
        value_parser = within::<f64>(limits::SECONDS))]
    pub seconds: f64,

    /// Where to write; an existing file is replaced once the new one is whole
    #[arg(long, short, value_name = "F.wav", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,

    /// Frames per second of the file [default: the model's]
    #[arg(long, short, value_name = "HZ", value_parser = within::<u32>(limits::RATE_HZ))]
    pub rate: Option<u32>,

    /// How the file holds its samples [default: s16]
    #[arg(long, short, value_name = "FORMAT", value_parser = format())]
    pub format: Option<WavFormat>,

    /// Begin where a station was kept (`serve --resume`); drawn as that was, but for what is said otherwise
    #[arg(long, value_name = "F.state", value_hint = ValueHint::FilePath, conflicts_with = "prompt")]
    pub state: Option<PathBuf>,

    /// Change the stream as a station was changed: what GET /v1/stations/NAME said of it
    #[arg(long, value_name = "F.json", value_hint = ValueHint::FilePath)]
    pub changes: Option<PathBuf>,

    /// The WAV file of a prompt that the station was given while it played; can be given several times
    #[arg(long, value_name = "F.wav", value_hint = ValueHint::FilePath, requires = "changes")]
    pub new_prompt: Vec<PathBuf>,

    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub stream: StreamArgs,
}

/// `listen`
#[derive(Debug, Args)]
pub struct ListenArgs {
    /// A server, whose first station is taken, or a station's stream
    #[arg(value_name = "URL", value_hint = ValueHint::Url)]
    pub url: String,

    /// Write to a file instead of the sound card
    #[arg(long, short, value_name = "F.wav", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,

    /// How long [default: until interrupted]
    #[arg(long, short, value_name = "S", allow_negative_numbers = true,
        value_parser = within::<f64>(limits::SECONDS))]
    pub seconds: Option<f64>,

    /// How the file holds its samples [default: s16]
    #[arg(long, short, value_name = "FORMAT", value_parser = format(), requires = "output")]
    pub format: Option<WavFormat>,

    /// Believe the certificate authorities in this file, and no others [default: the system's]
    #[arg(long, value_name = "F.pem", value_hint = ValueHint::FilePath)]
    pub ca: Option<PathBuf>,

    #[command(flatten)]
    pub card: CardArgs,
}

/// `devices`
#[cfg(feature = "playback")]
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// Only the names that --output-device takes, one a line
    #[arg(long)]
    pub names: bool,
}

/// `inspect`
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A model's directory or name [default: piano-16k]
    #[arg(value_name = "MODEL", value_hint = ValueHint::DirPath)]
    pub model: Option<PathBuf>,

    /// Describe a kind of attention instead: an entry of `pattern` in a config.json
    #[arg(long, value_name = "JSON", conflicts_with = "model")]
    pub pattern: Option<String>,

    /// Draw who sees whom into this SVG
    #[arg(long, value_name = "FILE.svg", value_hint = ValueHint::FilePath)]
    pub picture: Option<PathBuf>,
}

/// `bench`
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,

    /// How long each measurement takes
    #[arg(long, short, value_name = "S", default_value_t = 3.0,
        value_parser = within::<f64>(limits::SECONDS))]
    pub seconds: f64,

    /// Compare the kinds of attention instead, at equal visible keys; short for --case patterns
    #[arg(long, conflicts_with = "case")]
    pub patterns: bool,

    /// Only this case; can be given several times [default: all but patterns]
    #[arg(long, value_name = "CASE", value_parser = PossibleValuesParser::new(Case::ALL.map(Case::name)))]
    pub case: Vec<String>,

    /// A shell command to run over and over while chunks are measured once more
    #[arg(long, value_name = "COMMAND", value_hint = ValueHint::CommandString)]
    pub beside: Option<String>,

    /// Set every case beside that of an older record, made by --json
    #[arg(long, value_name = "RECORD.json", value_hint = ValueHint::FilePath)]
    pub compare: Option<PathBuf>,

    /// Draw steps.svg, context.svg and patterns.svg, of what was measured, in this directory
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub plot: Option<PathBuf>,

    #[command(flatten)]
    pub model: ModelArgs,
}

/// `check-config`
#[derive(Debug, Args)]
pub struct CheckConfigArgs {
    /// The configuration
    #[arg(value_name = "F.toml", value_hint = ValueHint::FilePath)]
    pub config: PathBuf,
}

/// The configuration file.
#[derive(Clone, Debug, Default, Args)]
pub struct FileArgs {
    /// Read the configuration from a file; what the command line says goes before it
    #[arg(long, short, value_name = "F.toml", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
}

/// Which sound card.
#[derive(Clone, Debug, Default, Args)]
pub struct CardArgs {
    /// Play on this sound card alone, as `longwave devices` names it [default: the configuration's, or the system's]
    #[arg(long, value_name = "NAME")]
    pub output_device: Option<String>,
}

impl FileArgs {
    /// The file's configuration, or the defaults where none is named.
    pub fn read(&self) -> Result<Config, ConfigError> {
        self.config
            .as_deref()
            .map_or_else(|| Ok(Config::default()), Config::read)
    }
}

impl ModelArgs {
    /// A model changes every station, like all that is said of streams.
    fn apply(self, config: &mut Config) {
        if let Some(model) = self.model {
            config.model = model;
            config
                .stations
                .iter_mut()
                .for_each(|station| station.model = None);
        }
        replace(&mut config.device, self.device);
        config.threads = self.threads.or(config.threads);
        if let Some(isa) = self.isa {
            // Where both say the same, either is the reason.
            let is_from_env = std::env::var(ISA_ENV).is_ok_and(|asked| asked == isa);
            config.isa_from = if is_from_env { ISA_ENV } else { "--isa" };
            config.isa = Some(isa);
        }
    }
}

impl StreamArgs {
    /// Changes every station: with several, the file is the place to tell them apart.
    fn apply(self, config: &mut Config) {
        for station in &mut config.stations {
            station.seed = self.seed.or(station.seed);
            station.draw = self.draw.0.or(station.draw);
            station.prompt = self.prompt.clone().or(station.prompt.take());
        }
    }
}

impl WatchArgs {
    /// What is drawn into a file is what was drawn, whatever it is.
    const OFF: Self = Self { no_watch: true };

    fn apply(self, config: &mut Config) {
        for station in &mut config.stations {
            station.watch &= !self.no_watch;
        }
    }
}

#[cfg(feature = "playback")]
impl PlayArgs {
    /// What the file and the command line come to.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let mut config = self.file.read()?;
        self.model.apply(&mut config);
        self.stream.apply(&mut config);
        self.watch.apply(&mut config);
        config.network.enabled = false;
        match self.card.output_device {
            Some(name) => config.play_only_on(name),
            None => config.cards[0].enabled = CardUse::Required,
        }
        config.check().map(|()| config)
    }
}

impl BenchArgs {
    /// The model that the command line describes.
    pub fn resolve(&mut self) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        std::mem::take(&mut self.model).apply(&mut config);
        config.check().map(|()| config)
    }
}

impl RenderArgs {
    /// The model and the one station that the command line describes.
    pub fn resolve(&mut self) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        std::mem::take(&mut self.model).apply(&mut config);
        std::mem::take(&mut self.stream).apply(&mut config);
        // A new prompt is heard by a lane that a watched station has.
        if self.new_prompt.is_empty() {
            WatchArgs::OFF.apply(&mut config);
        }
        config.check().map(|()| config)
    }
}

fn replace<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// A parser of numbers that refuses what `limits` does.
fn within<T>(limits: Limits) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr<Err: ToString> + Into<f64> + Copy,
{
    move |text| {
        let value: T = text.parse().map_err(|why: T::Err| why.to_string())?;
        limits.check(value.into()).map(|()| value)
    }
}

fn format() -> impl TypedValueParser<Value = WavFormat> {
    let names = WavFormat::ALL.map(WavFormat::name);
    PossibleValuesParser::new(names)
        .try_map(|name| name.parse::<WavFormat>().map_err(eyre::Report::msg))
}

fn split() -> impl TypedValueParser<Value = Split> {
    let names = Split::ALL.map(Split::name);
    PossibleValuesParser::new(names)
        .try_map(|name| name.parse::<Split>().map_err(eyre::Report::msg))
}

fn address(text: &str) -> Result<String, String> {
    config::check_address(text).map(|()| text.to_owned())
}

#[cfg(test)]
mod tests;
