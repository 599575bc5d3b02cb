//! Listeners of one station, and how late its packets come to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use eyre::{Result, ensure};
use futures_util::StreamExt;
use longwave::protocol::{Event, HEADER_LEN};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// A millisecond each; what is later counts in the last.
const N_BUCKETS: usize = 10_000;

/// A newcomer gets some of the past at once: what comes then is late by design.
const SETTLING: Duration = Duration::from_secs(2);

/// Lateness of all packets that all listeners got: behind the packet that was earliest, against one clock.
#[derive(Debug)]
pub struct Lateness {
    begin: Instant,
    earliest_us: AtomicI64,
    buckets: Vec<AtomicU64>,
    is_counting: AtomicBool,
    pub n_lost: AtomicU64,
    pub n_ended: AtomicU64,
}

impl Lateness {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            begin: Instant::now(),
            earliest_us: AtomicI64::new(i64::MAX),
            buckets: (0..N_BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            is_counting: AtomicBool::new(false),
            n_lost: AtomicU64::new(0),
            n_ended: AtomicU64::new(0),
        })
    }

    /// From here on it is counted.
    pub fn count(&self) {
        self.is_counting.store(true, Ordering::Relaxed);
    }

    fn see(&self, due_us: i64) {
        let at_us = self.begin.elapsed().as_micros() as i64 - due_us;
        let earliest_us = self.earliest_us.fetch_min(at_us, Ordering::Relaxed);
        if self.is_counting.load(Ordering::Relaxed) {
            let late_ms = (at_us - earliest_us).max(0) as usize / 1_000;
            self.buckets[late_ms.min(N_BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn n_packets(&self) -> u64 {
        self.buckets.iter().map(|n| n.load(Ordering::Relaxed)).sum()
    }

    /// Milliseconds that this share of the packets was at most late.
    pub fn quantile_ms(&self, share: f64) -> usize {
        let wanted = (self.n_packets() as f64 * share).ceil() as u64;
        let mut so_far = 0;
        let reached = self.buckets.iter().position(|n| {
            so_far += n.load(Ordering::Relaxed);
            so_far >= wanted
        });
        reached.unwrap_or(N_BUCKETS) + 1
    }
}

/// `n` listeners, who stay until they are dropped.
pub async fn gather(address: &str, n: usize, lateness: &Arc<Lateness>) -> Result<JoinSet<()>> {
    let mut all = JoinSet::new();
    for number in 0..n {
        let url = format!("ws://{address}/v1/stations/piano/stream");
        let connected = timeout(Duration::from_secs(30), connect_async(url)).await;
        let Ok(Ok((mut socket, _))) = connected else {
            eyre::bail!(
                "listener {number} was not let in: {:?}",
                connected.map(|c| c.err())
            );
        };
        let Some(Ok(Message::Text(text))) = socket.next().await else {
            eyre::bail!("listener {number} got no hello");
        };
        let Event::Hello(hello) = Event::from_json(&text)? else {
            eyre::bail!("listener {number} got no hello");
        };
        ensure!(hello.facts.packet_len > 0, "packets of nothing");
        let packet_us =
            1e6 * f64::from(hello.facts.packet_len) / f64::from(hello.facts.sample_rate_hz);
        let (lateness, begin) = (lateness.clone(), Instant::now());
        all.spawn(async move {
            while let Some(Ok(message)) = socket.next().await {
                match message {
                    Message::Binary(bytes) if bytes.len() > HEADER_LEN => {
                        let sequence = bytes[4..12].try_into().map(u64::from_le_bytes);
                        let sequence = sequence.expect("eight bytes are eight bytes");
                        if begin.elapsed() > SETTLING {
                            lateness.see((sequence as f64 * packet_us) as i64);
                        }
                    }
                    Message::Text(text) => {
                        if let Ok(Event::Lost { n_packets, .. }) = Event::from_json(&text) {
                            lateness.n_lost.fetch_add(n_packets, Ordering::Relaxed);
                        }
                    }
                    _ => {}
                }
            }
            lateness.n_ended.fetch_add(1, Ordering::Relaxed);
        });
    }
    Ok(all)
}
