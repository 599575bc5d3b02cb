//! One listener's way through a station: packets as they come, losses as they are.

use super::places::{Place, Who};
use super::{Channel, Lobby, Tuned};
use crate::broadcast::{Next, Reader};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Laps further apart than this have nothing to do with each other.
const LAPS_APART: Duration = Duration::from_secs(60);

/// A reader that can be waited for. It holds the listener's place in the house.
#[derive(Debug)]
pub(super) struct Feed {
    /// What is made for listeners alone is made as long as one holds it.
    _channel: Arc<Channel>,
    reader: Reader,
    ticks: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
    packet: Vec<u8>,
    place: Place,
    max_laps: u32,
    n_laps: u32,
    last_lap: Instant,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// The packet of that sequence is in [`Feed::packet`].
    Packet(u64),
    /// So many packets were lost, from `sequence` on.
    Lost { n_packets: u64, sequence: u64 },
    /// This listener cannot keep up; its last loss was told.
    TooSlow,
    /// The station was taken off the air, and all of it was heard.
    OffAir,
    /// The daemon stops.
    Stop,
}

impl Feed {
    /// Takes a place a little behind the station's head for somebody, or tells what there are no more of.
    pub(super) fn open(lobby: &Lobby, tuned: &Tuned, who: Who) -> Result<Self, String> {
        let place = lobby.places.take(who)?;
        Ok(Self::on(lobby, &tuned.codes, place))
    }

    /// For who has a place, of what a station is made into.
    pub(super) fn on(lobby: &Lobby, channel: &Arc<Channel>, place: Place) -> Self {
        Self {
            place,
            reader: channel.newcomer(&lobby.settings),
            ticks: channel.ticks.clone(),
            _channel: channel.clone(),
            stopping: lobby.stopping.clone(),
            packet: vec![0; channel.source.slot_len()],
            max_laps: lobby.settings.max_laps,
            n_laps: 0,
            last_lap: Instant::now(),
        }
    }

    /// The sequence of the packet that comes next, unless it is lost.
    pub(super) fn sequence(&self) -> u64 {
        self.reader.sequence()
    }

    /// The last packet: of a station its codes.
    pub(super) fn packet(&self) -> &[u8] {
        &self.packet
    }

    /// The counters to raise.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Resolves when the daemon stops.
    pub(super) fn stop(&self) -> impl Future<Output = ()> + use<> {
        let mut stopping = self.stopping.clone();
        // An error means that `serve` is gone, which comes to the same.
        async move { drop(stopping.wait_for(|&stop| stop).await) }
    }

    /// Waits for what comes next. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Fed {
        loop {
            // Before looking: a packet published after the look rings again.
            self.ticks.mark_unchanged();
            if *self.stopping.borrow() {
                return Fed::Stop;
            }
            // After the loss that was one too many was told, and not before.
            if self.n_laps >= self.max_laps {
                self.place.telemetry().closed_slow.add(1);
                return Fed::TooSlow;
            }
            let sequence = self.reader.sequence();
            match self.reader.next(&mut self.packet) {
                Next::Packet { sequence } => return Fed::Packet(sequence),
                Next::Lapped { lost } => return self.lapped(lost, sequence),
                Next::End => return Fed::OffAir,
                Next::Empty => {}
            }
            let changed = tokio::select! {
                changed = self.ticks.changed() => changed,
                changed = self.stopping.changed() => changed,
            };
            // The ticker or `serve` is gone: nobody would ever ring again.
            if changed.is_err() {
                return Fed::Stop;
            }
        }
    }

    fn lapped(&mut self, n_packets: u64, sequence: u64) -> Fed {
        self.place.telemetry().packets_lost.add(n_packets);
        if self.last_lap.elapsed() > LAPS_APART {
            self.n_laps = 0;
        }
        self.last_lap = Instant::now();
        self.n_laps += 1;
        Fed::Lost {
            n_packets,
            sequence,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::broadcast;
    use crate::control::{self, DrawParams};
    use crate::net::{Desk, House, Settings, Station};
    use crate::protocol::{Facts, ModelFacts};
    use std::sync::Arc;
    use tokio::task::JoinSet;

    pub(in crate::net) fn facts() -> Facts {
        Facts {
            station: "piano".into(),
            model: ModelFacts {
                name: "tiny".into(),
                sha256: String::new(),
            },
            seed: 7,
            draw: DrawParams::default(),
            since: 0,
            isa: "portable".into(),
            sample_rate_hz: 16_000,
            packet_len: 320,
            first_position: 0,
            prompt_sha256: None,
        }
    }

    #[tokio::test]
    async fn a_listener_whose_ticker_died_is_sent_away() {
        let (_writer, source) = broadcast::ring(4, 320);
        let controls = control::channel(Vec::new()).0;
        let station = Station {
            facts: facts(),
            source,
            hears: 1_000,
            desk: Arc::new(Desk::new(controls.clone(), 0, facts(), 1.0)),
        };
        let house = House {
            stations: watch::channel(vec![station]).1,
            controls,
            sessions: Default::default(),
            settings: Settings::default(),
            telemetry: Arc::default(),
            readiness: Arc::default(),
            inquiries: tokio::sync::mpsc::channel(1).0,
        };
        let (_stop, stopping) = watch::channel(false);
        let mut tickers = JoinSet::new();
        let lobby = Lobby::open(house, stopping, &mut tickers);
        let mut feed = Feed::open(&lobby, &lobby.stations()[0], Who::default()).unwrap();
        tickers.shutdown().await;
        assert_eq!(feed.next().await, Fed::Stop);
    }
}
