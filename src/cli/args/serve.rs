//! What `serve` can be told, and how its listeners are let in.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use longwave::config::{CardUse, Config, ConfigError, TlsConfig};

use super::{CardArgs, FileArgs, ModelArgs, StreamArgs, WatchArgs, address, replace, within};
use longwave::config::limits;
use longwave::draw::KEYS;

/// `serve`
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Where to listen [default: 127.0.0.1:8420]
    #[arg(long, short, value_name = "HOST:PORT", value_parser = address)]
    pub listen: Option<String>,

    /// A file of tokens: a line is `listen TOKEN`, `session TOKEN` or `control TOKEN`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub tokens: Option<PathBuf>,

    /// Encrypt with this certificate, or chain of them
    #[arg(long, value_name = "F.pem", value_hint = ValueHint::FilePath, requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The private key of the certificate
    #[arg(long, value_name = "F.pem", value_hint = ValueHint::FilePath, requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Let everybody listen who can reach the address, without a token
    #[arg(long)]
    pub open: bool,

    /// Go on where the stations stopped the last time, and keep them for the next
    #[arg(long)]
    pub resume: bool,

    /// Leave the sound cards alone
    #[arg(long, conflicts_with = "output_device")]
    pub no_card: bool,

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

/// `link`
#[derive(Debug, Args)]
pub struct LinkArgs {
    /// The file of tokens of the daemon
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub tokens: PathBuf,

    /// How long it is good
    #[arg(long, value_name = "H", default_value_t = 24.0, allow_negative_numbers = true,
        value_parser = within::<f64>(limits::LINK_HOURS))]
    pub hours: f64,

    /// Where it leads: the page, or a stream
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url,
        default_value = "http://127.0.0.1:8420/")]
    pub url: String,
}

/// `control`
#[derive(Debug, Args)]
pub struct ControlArgs {
    /// Which station
    #[arg(value_name = "STATION")]
    pub station: String,

    #[arg(value_name = "KEY=VALUE", help = what_to_change())]
    pub changes: Vec<String>,

    /// The daemon
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url,
        default_value = "http://127.0.0.1:8420/")]
    pub url: String,

    /// A WAV file, of any rate, that the station hears next and then continues
    #[arg(long, value_name = "F.wav", value_hint = ValueHint::FilePath)]
    pub prompt: Option<PathBuf>,

    /// A file with a token to control, such as the daemon's own [default: $LONGWAVE_TOKEN]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,

    /// Believe the certificate authorities in this file, and no others [default: the system's]
    #[arg(long, value_name = "F.pem", value_hint = ValueHint::FilePath)]
    pub ca: Option<PathBuf>,
}

fn what_to_change() -> String {
    format!(
        "What to change: seed, {}; volume_db (-60 to 0) and mute of the card. Without any, how it plays is \
         printed",
        KEYS.join(", ")
    )
}

impl ServeArgs {
    /// What the file and the command line come to.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let mut config = self.file.read()?;
        self.model.apply(&mut config);
        self.stream.apply(&mut config);
        self.watch.apply(&mut config);
        replace(&mut config.network.listen, self.listen);
        config.network.tokens = self.tokens.or(config.network.tokens.take());
        let tls = self.tls_cert.zip(self.tls_key);
        let tls = tls.map(|(cert, key)| TlsConfig { cert, key });
        config.network.tls = tls.or(config.network.tls.take());
        config.network.open |= self.open;
        config.state.resume |= self.resume;
        if self.no_card {
            config
                .cards
                .iter_mut()
                .for_each(|card| card.enabled = CardUse::Off);
        }
        if let Some(name) = self.card.output_device {
            // Whoever names a card wants to hear it.
            config.play_only_on(name);
        }
        config.check().map(|()| config)
    }
}
