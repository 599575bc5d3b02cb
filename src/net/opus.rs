//! A station as Ogg Opus: one encoder for all who listen, and a file of his own for each.
//!
//! The first listener starts the encoder, a task like any other of the network, and it ends when
//! nobody listens any more. It reads the station's ring as a listener does, and publishes into a ring
//! of its own, where its listeners are lapped as anywhere. A newcomer gets headers and a little of
//! the recent past, and positions in his file count from what he got.

use super::feed::Feed;
use super::http::{Refusal, full};
use super::places::Who;
use super::{Channel, Lobby, Tuned, icy, radio};
use crate::broadcast::{self, Next, Reader, Writer};
use crate::mulaw;
use crate::protocol::Facts;
use crate::resample::{ResampleError, Resampler};
use crate::telemetry::Telemetry;
use axum::http::StatusCode;
use bytes::Bytes;
use ogg::{PacketWriteEndInfo, PacketWriter};
use opusic_c::{Application, Bandwidth, Bitrate, Channels, Encoder, ErrorCode, SampleRate};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// Opus counts in these, whatever the station's rate.
const RATE_HZ: u32 = 48_000;
/// Of a packet.
const PACKET: Duration = Duration::from_millis(20);
/// Frames of a packet.
const PACKET_LEN: usize = 960;
/// More than music of one channel needs to sound as it was drawn.
const BIT_RATE: u32 = 64_000;
/// What a packet has at most, and two bytes for how much that is: six times the rate.
const SLOT_LEN: usize = 2 + 960;
/// Packets that the ring holds: four seconds, as those of stations do.
const N_SLOTS: usize = 200;
/// Packets of a page: a tenth of a second, for a head of 27 bytes.
const PACKETS_PER_PAGE: u64 = 5;
/// Frames at the beginning that nobody hears: a decoder that begins in the middle needs 80 ms to be
/// right (RFC 7845, 4.2), which is more than the encoder is late.
const PRE_SKIP: u16 = 3_840;

/// Where a station is encoded while somebody listens.
#[derive(Debug, Default)]
pub(super) struct Booth(Mutex<Weak<Channel>>);

impl Booth {
    /// What the encoder makes; it is started if it does not run.
    fn channel(&self, lobby: &Lobby, tuned: &Tuned) -> Result<Arc<Channel>, OpusError> {
        // What is in it is whole whoever panicked.
        let mut channel = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channel.upgrade() {
            return Ok(channel);
        }
        let (writer, source) = broadcast::ring(N_SLOTS, SLOT_LEN);
        let (bell, ticks) = watch::channel(0);
        let new = Arc::new(Channel {
            source,
            ticks,
            packet: PACKET,
        });
        let work = Work {
            reader: tuned.codes.newcomer(&lobby.settings),
            ticks: tuned.codes.ticks.clone(),
            press: Press::new(&tuned.station.facts, writer)?,
            bell,
            listeners: Arc::downgrade(&new),
            telemetry: lobby.telemetry.clone(),
        };
        *channel = Arc::downgrade(&new);
        tokio::spawn(work.run());
        Ok(new)
    }
}

/// Why a station cannot be had in Opus: a fault of the program.
#[derive(Debug, thiserror::Error)]
enum OpusError {
    #[error("{0}")]
    Rate(#[from] ResampleError),
    #[error("libopus: {0:?}")]
    Library(ErrorCode),
}

/// The encoder's task.
struct Work {
    reader: Reader,
    ticks: watch::Receiver<u64>,
    press: Press,
    bell: watch::Sender<u64>,
    /// Nobody is there any more when it leads nowhere.
    listeners: Weak<Channel>,
    telemetry: Arc<Telemetry>,
}

impl Work {
    async fn run(mut self) {
        let mut codes = vec![0; self.reader.packet_len()];
        while self.listeners.strong_count() > 0 {
            // Before looking: a packet published after the look rings again.
            self.ticks.mark_unchanged();
            loop {
                match self.reader.next(&mut codes) {
                    Next::Packet { .. } => self.press.take(&codes),
                    Next::Lapped { lost } => self.telemetry.net.packets_lost.add(lost),
                    Next::Empty => break,
                    Next::End => {
                        // First the end of their ring, then the bell that has them look.
                        drop(self.press);
                        self.bell.send_replace(u64::MAX);
                        return;
                    }
                }
            }
            self.bell.send_replace(self.press.n_published);
            if self.ticks.changed().await.is_err() {
                break;
            }
        }
    }
}

/// From codes to packets in the ring.
struct Press {
    resampler: Resampler,
    encoder: Encoder,
    writer: Writer,
    n_published: u64,
    samples: Vec<f32>,
    /// Frames that wait for the rest of their packet.
    frames: Vec<f32>,
}

impl Press {
    fn new(facts: &Facts, writer: Writer) -> Result<Self, OpusError> {
        let packet_len = facts.packet_len as usize;
        let rate_hz = facts.sample_rate_hz;
        let encoder = || -> Result<Encoder, ErrorCode> {
            let rate = SampleRate::Hz48000;
            let mut encoder = Encoder::new(Channels::Mono, rate, Application::Audio)?;
            encoder.set_bitrate(Bitrate::Value(BIT_RATE))?;
            encoder.set_max_bandwidth(bandwidth(rate_hz))?;
            Ok(encoder)
        };
        Ok(Self {
            resampler: Resampler::new(rate_hz, RATE_HZ, packet_len)?,
            encoder: encoder().map_err(OpusError::Library)?,
            writer,
            n_published: 0,
            samples: Vec::with_capacity(packet_len),
            frames: Vec::new(),
        })
    }

    fn take(&mut self, codes: &[u8]) {
        self.samples.clear();
        self.samples
            .extend(codes.iter().map(|&code| mulaw::decode(code)));
        self.frames.extend(self.resampler.process(&self.samples));
        let mut slot = [0; SLOT_LEN];
        let (packets, rest) = self.frames.as_chunks::<PACKET_LEN>();
        for packet in packets {
            // A packet that failed would be a hole in time: an empty one is filled by the decoder.
            let len = self.encoder.encode_float_to_slice(packet, &mut slot[2..]);
            let len = len.unwrap_or(0) as u16;
            slot[..2].copy_from_slice(&len.to_le_bytes());
            self.writer.publish(&slot);
            self.n_published += 1;
        }
        let n_done = self.frames.len() - rest.len();
        self.frames.drain(..n_done);
    }
}

/// As much as a station of that rate has: bits are not for what is not there.
fn bandwidth(rate_hz: u32) -> Bandwidth {
    match rate_hz {
        ..=8_000 => Bandwidth::Narrow,
        8_001..=12_000 => Bandwidth::Medium,
        12_001..=16_000 => Bandwidth::Wide,
        16_001..=24_000 => Bandwidth::Superwide,
        _ => Bandwidth::Full,
    }
}

/// An endless Ogg Opus file of one listener.
pub(super) struct OpusBody {
    feed: Feed,
    pages: PacketWriter<'static, Vec<u8>>,
    serial: u32,
    /// Packets of sound in it.
    n_packets: u64,
}

impl OpusBody {
    /// With its headers.
    pub(super) fn open(lobby: &Lobby, tuned: &Tuned, who: Who) -> Result<Self, Refusal> {
        // Before an encoder is made: a full house shall cost nothing.
        let place = lobby.places.take(who).map_err(|places| full(&places))?;
        let channel = tuned.opus.channel(lobby, tuned).map_err(|error| {
            tracing::error!(
                "no Opus of station {}: {error}",
                tuned.station.facts.station
            );
            let sentence = format!("no Opus can be made: {error}; there is stream.wav");
            Refusal(StatusCode::INTERNAL_SERVER_ERROR, sentence)
        })?;
        let mut this = Self {
            feed: Feed::on(lobby, &channel, place),
            pages: PacketWriter::new(Vec::new()),
            // Another one for each, as RFC 3533 wants it.
            serial: RandomState::new().hash_one(()) as u32,
            n_packets: 0,
        };
        let facts = tuned.station.desk.facts();
        for header in [id_header(facts.sample_rate_hz), comment_header(&facts)] {
            this.write(header, PacketWriteEndInfo::EndPage);
        }
        Ok(this)
    }

    /// The headers, if they have not gone out yet, and a page of sound.
    pub(super) async fn page(mut self) -> Option<(Bytes, Self)> {
        loop {
            radio::packet(&mut self.feed).await?;
            let (len, bytes) = self.feed.packet().split_at(2);
            let len = usize::from(u16::from_le_bytes([len[0], len[1]]));
            let packet = bytes[..len].to_vec();
            self.n_packets += 1;
            let is_last = self.n_packets.is_multiple_of(PACKETS_PER_PAGE);
            let end = match is_last {
                true => PacketWriteEndInfo::EndPage,
                false => PacketWriteEndInfo::NormalPacket,
            };
            self.write(packet, end);
            if is_last {
                let bytes = std::mem::take(self.pages.inner_mut());
                return Some((bytes.into(), self));
            }
        }
    }

    fn write(&mut self, packet: Vec<u8>, end: PacketWriteEndInfo) {
        // Frames so far, those that are skipped among them.
        let granule = self.n_packets * PACKET_LEN as u64;
        let written = self.pages.write_packet(packet, self.serial, end, granule);
        written.expect("memory takes what is written");
    }
}

/// RFC 7845, 5.1.
fn id_header(rate_hz: u32) -> Vec<u8> {
    let fields: [&[u8]; 7] = [
        b"OpusHead",
        &[1], // version
        &[1], // channels
        &PRE_SKIP.to_le_bytes(),
        &rate_hz.to_le_bytes(), // of what was encoded
        &0u16.to_le_bytes(),    // gain
        &[0],                   // one stream, of one or two channels
    ];
    fields.concat()
}

/// RFC 7845, 5.2.
fn comment_header(facts: &Facts) -> Vec<u8> {
    let comments = [
        format!("TITLE={}", icy::title(facts)),
        format!("ENCODER=longwave {}", env!("CARGO_PKG_VERSION")),
    ];
    let text = |text: &str| [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let mut header = b"OpusTags".to_vec();
    header.extend(text(opusic_c::version()));
    header.extend((comments.len() as u32).to_le_bytes());
    header.extend(comments.iter().flat_map(|comment| text(comment)));
    header
}
