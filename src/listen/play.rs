//! A station through the sound card.
//!
//! Two tasks: one keeps the connection, and makes a new one when it breaks; the other keeps the
//! card's ring filled from the jitter buffer. The card is the clock of all that is heard.

use super::{Item, Jitter, JitterStats, ListenError, Wire};
use crate::card::{Card, CardFeed, CardSettings};
use crate::mulaw;
use crate::protocol::{Hello, Report};
use crate::resample::Resampler;
use crate::telemetry::CardTelemetry;
use crate::tls::Trust;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{self, MissedTickBehavior};

/// How often the card's ring is filled: a fraction of any sensible lead.
const FILL_INTERVAL: Duration = Duration::from_millis(4);
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// Waits between attempts to connect again: doubled from the first to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// News that may wait for the player; more, and the network waits.
const N_NEWS: usize = 64;

/// How a remote station is heard just now.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// The jitter buffer.
    pub jitter: JitterStats,
    /// Packets that came.
    pub n_packets: u64,
    /// Packets that were lost on the way.
    pub n_lost: u64,
    /// Connections made after the first.
    pub n_reconnects: u64,
    /// Why nothing comes; `None` while connected.
    pub trouble: Option<String>,
}

/// Plays the station `from` a URL, to which `wire` is the first connection, until `stop` resolves.
/// When the connection breaks it is made again, however long that takes. `see` is told four times
/// a second how it goes.
pub async fn play(
    (from, wire): ((String, Trust), Wire),
    settings: CardSettings,
    telemetry: Arc<CardTelemetry>,
    mut see: impl FnMut(&Heard),
    stop: impl Future<Output = ()>,
) -> Result<Heard, ListenError> {
    let (feeds, mut new_feeds) = mpsc::unbounded_channel();
    let first = wire.hello().clone();
    let attach = move |feed| drop(feeds.send(feed));
    let opened = tokio::task::spawn_blocking(move || Card::open(settings, telemetry, attach));
    let card = opened.await.map_err(std::io::Error::other)??;
    let (reports, reported) = watch::channel(Report::default());
    let (sender, mut news) = mpsc::channel(N_NEWS);
    let network = Abort(tokio::spawn(keep_connected(from, wire, sender, reported)));
    let mut player = Player::new(&first);
    let mut fills = time::interval(FILL_INTERVAL);
    fills.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut looks = time::interval(Duration::from_millis(250));
    let mut reporting = time::interval(REPORT_INTERVAL);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(feed) = new_feeds.recv() => player.attach(feed)?,
            Some(item) = news.recv() => player.hear(item)?,
            _ = fills.tick() => player.fill_card(),
            _ = looks.tick() => see(player.look()),
            _ = reporting.tick() => drop(reports.send_replace(player.report())),
        }
    }
    drop(network);
    // The card fades out by what its ring still holds.
    let stopped = tokio::task::spawn_blocking(move || card.stop());
    while !stopped.is_finished() {
        player.fill_card();
        fills.tick().await;
    }
    Ok(player.heard)
}

/// A task that ends with its owner.
struct Abort(JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// From the connection to the player.
enum News {
    Hello(Box<Hello>),
    Codes(Vec<u8>),
    Lost(u64),
    Away(String),
}

/// Listens, and connects again when that ends, until the player is gone.
async fn keep_connected(
    (url, trust): (String, Trust),
    wire: Wire,
    news: mpsc::Sender<News>,
    mut reported: watch::Receiver<Report>,
) {
    let mut connected = Ok(wire);
    let mut pause = BACK_OFF.0;
    loop {
        let error = match connected {
            Ok(wire) => {
                pause = BACK_OFF.0;
                listen(wire, &news, &mut reported).await
            }
            Err(error) => error,
        };
        if news.send(News::Away(error.to_string())).await.is_err() {
            return;
        }
        time::sleep(pause).await;
        pause = (pause * 2).min(BACK_OFF.1);
        connected = Wire::open(&url, &trust).await;
        if let Ok(wire) = &connected {
            let hello = Box::new(wire.hello().clone());
            if news.send(News::Hello(hello)).await.is_err() {
                return;
            }
        }
    }
}

/// Passes on what comes until nothing comes any more.
async fn listen(
    mut wire: Wire,
    news: &mpsc::Sender<News>,
    reported: &mut watch::Receiver<Report>,
) -> ListenError {
    let mut codes = Vec::new();
    loop {
        let item = tokio::select! {
            item = wire.next(&mut codes) => item,
            Ok(()) = reported.changed() => {
                let report = *reported.borrow_and_update();
                match wire.report(report).await {
                    Ok(()) => continue,
                    Err(error) => return error,
                }
            }
        };
        let item = match item {
            Ok(Item::Packet) => News::Codes(std::mem::take(&mut codes)),
            Ok(Item::Lost { n_packets }) => News::Lost(n_packets),
            Err(error) => return error,
        };
        if news.send(item).await.is_err() {
            return ListenError::Broken;
        }
    }
}

/// The way from codes to the card's ring.
struct Player {
    jitter: Jitter,
    rate_hz: u32,
    feed: Option<(CardFeed, Resampler)>,
    /// Samples at the stream's rate on their way to the resampler, 5 ms.
    chunk: Vec<f32>,
    /// How many frames of the resampler's last output are in the ring.
    n_passed: usize,
    heard: Heard,
    n_reported: u64,
}

impl Player {
    fn new(hello: &Hello) -> Self {
        let rate_hz = hello.facts.sample_rate_hz;
        Self {
            jitter: Jitter::new(rate_hz, hello.jitter_buffer_ms),
            rate_hz,
            feed: None,
            chunk: vec![0.0; (rate_hz as usize / 200).max(1)],
            n_passed: 0,
            heard: Heard::default(),
            n_reported: 0,
        }
    }

    /// The card has opened an output, its first or another. Its ring starts full of silence, or
    /// it would empty the jitter buffer that was just gathered.
    fn attach(&mut self, mut feed: CardFeed) -> Result<(), ListenError> {
        let resampler = Resampler::new(self.rate_hz, feed.rate_hz, self.chunk.len())?;
        let n_slots = feed.frames.slots();
        if let Ok(space) = feed.frames.write_chunk_uninit(n_slots) {
            space.fill_from_iter(std::iter::repeat_n(0.0, n_slots));
        }
        self.feed = Some((feed, resampler));
        self.n_passed = 0;
        Ok(())
    }

    fn hear(&mut self, news: News) -> Result<(), ListenError> {
        match news {
            News::Codes(codes) => {
                self.heard.n_packets += 1;
                self.jitter.push(codes.into_iter().map(mulaw::decode));
            }
            News::Lost(n_packets) => {
                // A station may claim any number.
                self.heard.n_lost = self.heard.n_lost.saturating_add(n_packets);
                self.jitter.gap();
            }
            News::Away(reason) => {
                self.heard.trouble = Some(reason);
                self.jitter.gap();
                self.jitter.end();
            }
            News::Hello(hello) => {
                self.heard.n_reconnects += 1;
                self.heard.trouble = None;
                if hello.facts.sample_rate_hz != self.rate_hz {
                    return self.retune(&hello);
                }
            }
        }
        Ok(())
    }

    /// The station came back with another rate.
    fn retune(&mut self, hello: &Hello) -> Result<(), ListenError> {
        let (feed, heard) = (self.feed.take(), std::mem::take(&mut self.heard));
        *self = Self::new(hello);
        self.heard = heard;
        feed.map_or(Ok(()), |(feed, _)| self.attach(feed))
    }

    /// Fills the card's ring as far as it goes.
    fn fill_card(&mut self) {
        let Some((feed, resampler)) = &mut self.feed else {
            return;
        };
        loop {
            let waiting = &resampler.output()[self.n_passed..];
            let n = waiting.len().min(feed.frames.slots());
            if let Ok(space) = feed.frames.write_chunk_uninit(n) {
                self.n_passed += space.fill_from_iter(waiting.iter().copied());
            }
            if self.n_passed < resampler.output().len() || feed.frames.slots() == 0 {
                return;
            }
            self.jitter.pull(&mut self.chunk);
            resampler.process(&self.chunk);
            self.n_passed = 0;
        }
    }

    fn look(&mut self) -> &Heard {
        self.heard.jitter = self.jitter.stats();
        &self.heard
    }

    fn report(&mut self) -> Report {
        let stats = self.jitter.stats();
        let ring_ms = self.feed.as_ref().map_or(0, |(feed, _)| {
            let n_frames = feed.frames.buffer().capacity() - feed.frames.slots();
            (n_frames as u64 * 1_000 / u64::from(feed.rate_hz)) as u32
        });
        let n_underruns = (stats.n_underruns - self.n_reported).min(1_000) as u32;
        self.n_reported = stats.n_underruns;
        Report {
            n_underruns,
            buffered_ms: stats.buffered_ms,
            jitter_buffer_ms: stats.target_ms,
            latency_ms: stats.buffered_ms + ring_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_station_may_claim_any_loss() {
        let mut player = Player {
            jitter: Jitter::new(16_000, 200),
            rate_hz: 16_000,
            feed: None,
            chunk: vec![0.0; 80],
            n_passed: 0,
            heard: Heard::default(),
            n_reported: 0,
        };
        for n_packets in [1, u64::MAX] {
            player.hear(News::Lost(n_packets)).unwrap();
        }
        assert_eq!(player.look().n_lost, u64::MAX);
    }
}
