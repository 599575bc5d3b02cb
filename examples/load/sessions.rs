//! Sessions that open and break off in random order, beside a station that must not notice.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use eyre::{Result, ensure, eyre};
use futures_util::{SinkExt, StreamExt};
use longwave::mulaw;
use longwave::protocol::{Event, Packet};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::SEED;

/// A client with a session.
type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

#[derive(Debug, Default)]
pub struct Churn {
    pub n_opened: u64,
    /// Answered by 503: a full house.
    pub n_refused: u64,
    /// At once, at most.
    pub n_most: usize,
}

/// Opens and drops, `n` at most at once, until `end`.
pub async fn churn(address: &str, n: usize, end: Instant) -> Result<Churn> {
    let url = format!("ws://{address}/v1/sessions");
    let mut all: Vec<Client> = Vec::new();
    let (mut seen, mut dice) = (Churn::default(), 1u64);
    while Instant::now() < end {
        // As good as random, and the same every time.
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let throw = (dice >> 33) as usize;
        let may_open = all.len() < n && (all.is_empty() || throw.is_multiple_of(2));
        match may_open {
            true => match connect_async(&url).await {
                Ok((client, _)) => {
                    seen.n_opened += 1;
                    all.push(begin(client, throw).await?);
                }
                Err(Error::Http(_)) => seen.n_refused += 1,
                Err(error) => return Err(error.into()),
            },
            // Without a word.
            false => drop(all.swap_remove(throw % all.len())),
        }
        seen.n_most = seen.n_most.max(all.len());
        tokio::time::sleep(Duration::from_millis(20 + throw as u64 % 80)).await;
    }
    Ok(seen)
}

/// Some only connect, some ask and do not read, some read a little.
async fn begin(mut client: Client, throw: usize) -> Result<Client> {
    let state = throw / 2 % 4;
    if state > 0 {
        let start = format!(r#"{{"request":"start","seed":{throw}}}"#);
        client.send(Message::text(start)).await?;
    }
    for _ in 0..[0, 0, 3, 20][state] {
        client.next().await;
    }
    Ok(client)
}

/// The station's codes from the first that a listener gets, until `end`; with the position of that one.
pub async fn hear(address: String, end: Instant) -> Result<(usize, Vec<u8>)> {
    let url = format!("ws://{address}/v1/stations/piano/stream");
    let (mut socket, _) = connect_async(url).await?;
    let (mut first, mut codes) = (0, Vec::new());
    while Instant::now() < end {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => codes.extend(Packet::decode(&bytes)?.codes()),
            Some(Ok(Message::Text(text))) => match Event::from_json(&text)? {
                Event::Hello(hello) => first = hello.position as usize,
                event => eyre::bail!("the station's listener was told {event:?}"),
            },
            Some(Ok(_)) => {}
            end => eyre::bail!("the station's listener was cut off: {end:?}"),
        }
    }
    Ok((first, codes))
}

/// Whether that is what `render` draws.
pub fn is_rendered(
    longwave: &Path,
    model: &str,
    dir: &Path,
    (first, codes): &(usize, Vec<u8>),
) -> Result<bool> {
    let (file, n) = (dir.join("rendered.wav"), first + codes.len());
    let status = Command::new(longwave)
        .args([
            "render", "--model", model, "--seed", SEED, "--format", "f32",
        ])
        .args(["--seconds", &(n as f64 / 16_000.0).to_string(), "--output"])
        .arg(&file)
        .status()?;
    ensure!(status.success(), "nothing was rendered");
    let mut reader = hound::WavReader::open(&file)?;
    ensure!(
        reader.spec().sample_rate == 16_000,
        "a model of another rate"
    );
    let samples = reader.samples::<f32>().skip(*first);
    let code = |sample: Result<f32, hound::Error>| {
        mulaw::encode(sample?).ok_or_else(|| eyre!("what was rendered is no sound"))
    };
    let drawn: Vec<u8> = samples.map(code).collect::<Result<_>>()?;
    Ok(drawn == *codes)
}
