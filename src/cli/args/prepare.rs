//! What can be typed after `longwave prepare`.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueHint, value_parser};
use longwave::config::limits;
use longwave::corpus::{Options, Order, Shares, Silence};

use super::within;

/// `prepare`
#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// The recordings, and all folders in it: WAV, FLAC, MP3, Ogg Vorbis, M4A, AAC, AIFF
    #[arg(value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub folder: PathBuf,

    /// The corpus; one that stands there already, made with the same options, is brought up to date
    #[arg(long, short, value_name = "CORPUS", value_hint = ValueHint::DirPath)]
    pub output: PathBuf,

    /// Frames per second of the corpus, which will be the model's
    #[arg(long, short, value_name = "HZ", default_value_t = 16_000,
        value_parser = within::<u32>(limits::RATE_HZ))]
    pub rate: u32,

    /// Bring every recording to this RMS level, such as -21, as far as it does not clip
    /// [default: leave it as it is]
    #[arg(long, value_name = "DBFS", allow_negative_numbers = true,
        value_parser = value_parser!(i32).range(-40..=-6))]
    pub level: Option<i32>,

    /// Pauses: cut those beyond half a second to that and dither them, only dither, or keep them
    #[arg(long, value_name = "HOW", default_value_t = Silence::Cut, value_parser = silence())]
    pub silence: Silence,

    /// How much goes into train, valid and test; a folder with subfolders of these names keeps
    /// its own split
    #[arg(long, value_name = "N,N,N", default_value_t = Shares::default())]
    pub split: Shares,
}

impl PrepareArgs {
    /// What is to be made.
    pub fn order(self) -> Order {
        Order {
            folder: self.folder,
            corpus: self.output,
            options: Options {
                rate_hz: self.rate,
                level_dbfs: self.level,
                silence: self.silence,
                shares: self.split,
            },
        }
    }
}

fn silence() -> impl TypedValueParser<Value = Silence> {
    PossibleValuesParser::new(Silence::ALL.map(Silence::name))
        .try_map(|name| name.parse::<Silence>().map_err(eyre::Report::msg))
}
