//! A complete listener: records a station to a WAV file and accounts for every packet.
//!
//! ```sh
//! cargo run --example listener -- ws://127.0.0.1:8420/v1/stations/piano/stream 10 piano.wav
//! ```

use futures_util::StreamExt;
use tokio_tungstenite::{connect_async, tungstenite::Message};

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let [_, url, seconds, path] = &std::env::args().collect::<Vec<_>>()[..] else {
        return Err("usage: listener URL SECONDS FILE.wav".into());
    };
    let (mut socket, _) = connect_async(format!("{url}?format=s16")).await?;
    let Some(Message::Text(hello)) = socket.next().await.transpose()? else {
        return Err("the first message is no hello".into());
    };
    let hello: serde_json::Value = serde_json::from_str(&hello)?;
    println!("{} by {}", hello["station"], hello["model"]["name"]);
    let sample_rate = u32::try_from(hello["sample_rate_hz"].as_u64().ok_or("no rate")?)?;
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut wav = hound::WavWriter::create(path, spec)?;
    let wanted = seconds.parse::<u32>()? * sample_rate;
    let mut sequence = hello["sequence"].as_u64().ok_or("no sequence")?;
    while wav.len() < wanted {
        match socket.next().await.ok_or("the station hung up")?? {
            Message::Binary(packet) => {
                // kind, format, n_samples, sequence: docs/protocol.md
                let (header, samples) = packet.split_first_chunk::<12>().ok_or("short")?;
                if header[..2] != [1, 2] {
                    continue;
                }
                assert_eq!(sequence.to_le_bytes(), header[4..], "a packet is missing");
                sequence += 1;
                for sample in samples.chunks_exact(2) {
                    wav.write_sample(i16::from_le_bytes([sample[0], sample[1]]))?;
                }
            }
            Message::Text(text) => {
                println!("{text}");
                let event: serde_json::Value = serde_json::from_str(&text)?;
                sequence += event["n_packets"].as_u64().unwrap_or(0);
            }
            _ => {}
        }
    }
    wav.finalize()?;
    socket.close(None).await?;
    Ok(())
}
