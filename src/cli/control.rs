//! `control`: tells a running daemon how a station shall play from here on.

use std::io;
use std::time::Duration;

use eyre::WrapErr;
use longwave::protocol::{Changed, Patch, plain};
use longwave::tls::{self, TlsError, Trust};
use serde_json::{Map, Value};
use ureq::Agent;
use ureq::http::Response;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use super::args::serve::ControlArgs;
use super::exit::Outcome;

/// The daemon answers within a chunk, or once it has heard a prompt.
const TIMEOUT: Duration = Duration::from_secs(40);

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// What was typed is no change.
    #[error("{0}; a change is such as temperature=1.02 or seed=7")]
    Typed(String),
    /// The daemon said no, in its own words.
    #[error("the daemon answers {status}: {sentence}")]
    Refused {
        /// Of HTTP.
        status: u16,
        /// Its words.
        sentence: String,
    },
    /// Nobody is there.
    #[error("cannot reach the daemon at {url}: {source}; is it running?")]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// Why.
        source: ureq::Error,
    },
    /// What answers is no daemon of this kind.
    #[error("what answers at {0} is no longwave")]
    Foreign(String),
}

/// Changes what was typed, or shows how the station plays.
pub fn run(args: &ControlArgs) -> Outcome {
    let token = args.token()?;
    let change = change_of(&args.changes)?;
    let daemon = Daemon::new(&args.url, token, &Trust::from(args.ca.clone()))?;
    if !change.is_empty() {
        daemon.change(&args.station, &change)?;
    }
    if let Some(path) = &args.prompt {
        let wav = std::fs::read(path);
        let wav = wav.wrap_err_with(|| format!("cannot read {}", path.display()))?;
        daemon.prime(&args.station, wav)?;
    }
    println!("{}", line(&args.station, &daemon.present(&args.station)?));
    Ok(())
}

/// `KEY=VALUE`, as often as one likes.
fn change_of(typed: &[String]) -> Result<Patch, ControlError> {
    let mut keys = Map::new();
    for pair in typed {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| ControlError::Typed(format!("{pair} has no value")))?;
        let number: Result<f64, _> = value.parse();
        let value = match (key, number) {
            // Beyond 2^53 a number of JSON is not what was typed.
            ("seed", _) => Value::from(value),
            ("mute", _) if value == "true" || value == "false" => Value::from(value == "true"),
            (_, Ok(number)) => Value::from(number),
            (_, Err(_)) => return Err(ControlError::Typed(format!("{pair} is no number"))),
        };
        keys.insert(key.to_owned(), value);
    }
    let error = |error: serde_json::Error| ControlError::Typed(error.to_string());
    serde_json::from_value(Value::Object(keys)).map_err(error)
}

fn line(station: &str, changed: &Changed) -> String {
    let Changed {
        since,
        seed,
        draw,
        volume_db,
        mute,
        ..
    } = changed;
    let draw = draw
        .each()
        .map(|(parameter, value)| format!("{}={value} ", parameter.key));
    format!(
        "{station}: from position {since} seed={seed} {}volume_db={volume_db} mute={mute}",
        draw.concat()
    )
}

/// A daemon that is spoken to.
struct Daemon {
    agent: Agent,
    url: String,
    authorization: Option<String>,
}

impl Daemon {
    fn new(url: &str, token: Option<String>, trust: &Trust) -> Result<Self, TlsError> {
        let config = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false);
        let config = match url.to_ascii_lowercase().starts_with("https:") {
            true => config.tls_config(believing(trust)?).build(),
            false => config.build(),
        };
        Ok(Self {
            agent: config.into(),
            url: url.trim_end_matches('/').to_owned(),
            authorization: token.map(|token| format!("Bearer {token}")),
        })
    }

    /// How a station plays now.
    fn present(&self, station: &str) -> Result<Changed, ControlError> {
        let mut request = self
            .agent
            .get(format!("{}/v1/stations/{station}", self.url));
        if let Some(value) = &self.authorization {
            request = request.header("authorization", value);
        }
        let body = self.body(request.call())?;
        serde_json::from_str(&body).map_err(|_| self.foreign())
    }

    fn change(&self, station: &str, change: &Patch) -> Result<Changed, ControlError> {
        let mut request = self
            .agent
            .patch(format!("{}/v1/stations/{station}", self.url));
        if let Some(value) = &self.authorization {
            request = request.header("authorization", value);
        }
        let body = self.body(request.send(change.to_json()))?;
        serde_json::from_str(&body).map_err(|_| self.foreign())
    }

    fn prime(&self, station: &str, wav: Vec<u8>) -> Result<Changed, ControlError> {
        let path = format!("{}/v1/stations/{station}/prime", self.url);
        let mut request = self.agent.post(path).header("content-type", "audio/wav");
        if let Some(value) = &self.authorization {
            request = request.header("authorization", value);
        }
        let body = self.body(request.send(&wav[..]))?;
        serde_json::from_str(&body).map_err(|_| self.foreign())
    }

    /// What was answered, if it was yes.
    fn body(
        &self,
        answer: Result<Response<ureq::Body>, ureq::Error>,
    ) -> Result<String, ControlError> {
        let unreachable = |source| ControlError::Unreachable {
            url: self.url.clone(),
            source,
        };
        let mut answer = answer.map_err(unreachable)?;
        let status = answer.status();
        let body = answer.body_mut().read_to_string().map_err(unreachable)?;
        match status.is_success() {
            true => Ok(body),
            false => Err(ControlError::Refused {
                status: status.as_u16(),
                sentence: plain(&body),
            }),
        }
    }

    fn foreign(&self) -> ControlError {
        ControlError::Foreign(self.url.clone())
    }
}

fn believing(trust: &Trust) -> Result<TlsConfig, TlsError> {
    let authorities = trust.authorities()?;
    let roots = authorities
        .iter()
        .map(|der| Certificate::from_der(der).to_owned());
    let roots: Vec<Certificate<'static>> = roots.collect();
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(tls::provider())
        .build())
}

/// A token from a file, its first word that is not a role: the daemon's own file will do.
pub fn token_in(text: &str) -> Option<String> {
    let lines = text.lines().map(str::trim);
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let token = lines.find_map(|line| {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("control") => words.next(),
            Some("listen" | "session") | None => None,
            Some(token) => Some(token),
        }
    });
    token.map(str::to_owned)
}

impl ControlArgs {
    /// The token, from the file that was named or the environment.
    fn token(&self) -> io::Result<Option<String>> {
        match &self.token_file {
            Some(path) => Ok(token_in(&std::fs::read_to_string(path)?)),
            None => Ok(std::env::var("LONGWAVE_TOKEN").ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(words: &[&str]) -> Result<Patch, String> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        change_of(&words).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_typed_becomes_a_change_or_a_sentence() {
        let change = typed(&["temperature=1.02", "seed=18446744073709551615"]).unwrap();
        assert_eq!(change.draw.temperature, Some(1.02));
        assert_eq!(change.seed, Some(u64::MAX));
        assert!(typed(&[]).unwrap().is_empty());
        for (words, why) in [
            ("temperature", "has no value"),
            ("temperature=hot", "is no number"),
            ("luck=7", "unknown field `luck`"),
            ("seed=-1", "a seed is a whole number"),
        ] {
            let error = typed(&[words]).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_token_is_found_in_a_file_of_its_own_and_in_the_daemons() {
        assert_eq!(token_in("secret\n"), Some("secret".into()));
        let daemons = "# ours\nlisten hear\ncontrol steer the desk\n";
        assert_eq!(token_in(daemons), Some("steer".into()));
        assert_eq!(token_in("listen hear\n"), None);
    }
}
