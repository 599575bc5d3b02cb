//! Our own listener at our own station.

use crate::server::{FIRST_POSITION, N_SLOTS, PACKET_LEN, Server, codes, facts};
use longwave::listen::{End, Item, ListenError, Recorded, Recording, Wire, record};
use longwave::mulaw;
use longwave::net::Settings;
use longwave::protocol::close;
use longwave::tls::Trust;
use longwave::wav::WavFormat;
use std::path::Path;
use std::time::Duration;

#[tokio::test]
async fn our_own_listener_understands_our_own_station() {
    let mut server = Server::start(Settings::default()).await;
    server.publish(20);
    let mut wire = Wire::open(&format!("http://{}/", server.addr), &Trust::System)
        .await
        .unwrap();
    assert_eq!(wire.facts(), &facts("piano"));
    assert_eq!(
        wire.hello().position,
        FIRST_POSITION + 10 * PACKET_LEN as u64
    );
    let mut heard = Vec::new();
    for sequence in 10..20 {
        assert_eq!(wire.next(&mut heard).await.unwrap(), Item::Packet);
        assert_eq!(heard, codes(sequence));
    }
    server.publish(3 * N_SLOTS as u64);
    let lost = 20 + 3 * N_SLOTS as u64 - N_SLOTS as u64 / 2 - 20;
    let item = wire.next(&mut heard).await.unwrap();
    assert_eq!(item, Item::Lost { n_packets: lost });
    assert_eq!(wire.next(&mut heard).await.unwrap(), Item::Packet);
    assert_eq!(heard, codes(20 + lost));
    let nowhere = Wire::open(
        &format!("ws://{}/v1/stations/organ/stream", server.addr),
        &Trust::System,
    )
    .await;
    assert!(
        nowhere
            .unwrap_err()
            .to_string()
            .contains("the stations are: piano")
    );
    server.stop().await;
    let end = loop {
        if let Err(end) = wire.next(&mut heard).await {
            break end;
        }
    };
    assert!(
        matches!(
            end,
            ListenError::Closed {
                code: close::GOING_AWAY,
                ..
            }
        ),
        "{end}"
    );
}

fn recording(dir: &Path, length: Option<Duration>) -> Recording {
    Recording {
        output: dir.join("heard.wav"),
        format: WavFormat::F32,
        length,
    }
}

fn samples(recording: &Recording) -> Vec<f32> {
    let mut reader = hound::WavReader::open(&recording.output).unwrap();
    reader.samples().map(Result::unwrap).collect()
}

fn played(sequences: std::ops::Range<u64>) -> impl Iterator<Item = f32> {
    sequences.flat_map(codes).map(mulaw::decode)
}

#[tokio::test]
async fn a_recording_holds_what_was_played_to_the_sample() {
    let mut server = Server::start(Settings::default()).await;
    server.publish(40);
    let wire = Wire::open(&format!("{}", server.addr), &Trust::System)
        .await
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let recording = recording(dir.path(), Some(Duration::from_millis(130)));
    let stop = std::future::pending();
    let (recorded, end) = record(wire, &recording, |_| {}, stop).await.unwrap();
    assert!(matches!(end, End::Length));
    let n_samples = 130 * 16;
    assert_eq!(
        recorded,
        Recorded {
            n_samples,
            n_lost: 0
        }
    );
    let expected: Vec<f32> = played(30..40).take(n_samples as usize).collect();
    assert_eq!(samples(&recording), expected);
}

#[tokio::test]
async fn a_loss_is_silence_of_its_length_and_the_end_completes_the_file() {
    let mut server = Server::start(Settings::default()).await;
    server.publish(10);
    let wire = Wire::open(&format!("{}", server.addr), &Trust::System)
        .await
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let recording = recording(dir.path(), None);
    server.publish(3 * N_SLOTS as u64);
    let n_played = server.n_written;
    let (heard, mut hearing) = tokio::sync::watch::channel(Recorded::default());
    let see = move |recorded| {
        heard.send_replace(recorded);
    };
    let task = tokio::spawn({
        let recording = recording.clone();
        async move { record(wire, &recording, see, std::future::pending()).await }
    });
    let n_samples = n_played * PACKET_LEN as u64;
    let all = hearing.wait_for(|recorded| recorded.n_samples == n_samples);
    drop(
        tokio::time::timeout(Duration::from_secs(60), all)
            .await
            .unwrap(),
    );
    server.stop().await;
    let (recorded, end) = task.await.unwrap().unwrap();
    assert!(
        matches!(end, End::Station(ListenError::Closed { .. })),
        "{end:?}"
    );
    let n_kept = N_SLOTS as u64 / 2;
    let n_silent = (n_played - n_kept) * PACKET_LEN as u64 - recorded_before(&recording);
    assert_eq!(recorded.n_lost, n_silent);
    let samples = samples(&recording);
    assert_eq!(samples.len() as u64, n_samples);
    let tail = samples.len() - (n_kept as usize * PACKET_LEN);
    assert!(
        samples[tail..]
            .iter()
            .copied()
            .eq(played(n_played - n_kept..n_played))
    );
}

/// How many samples lie before the silence of the loss: no code stands for 0.
fn recorded_before(recording: &Recording) -> u64 {
    let samples = samples(recording);
    samples.iter().take_while(|&&sample| sample != 0.0).count() as u64
}
