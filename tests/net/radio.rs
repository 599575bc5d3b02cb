//! Stations for players: what an Ogg Opus stream holds, decoded again, and ICY titles in a WAV stream.

use longwave::mulaw;
use longwave::net::Settings;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::server::{PACKET_LEN, Server, eventually};

/// Plays a tone, no faster than anybody listens.
async fn play(server: &mut Server, hz: f64, n_packets: u64) {
    for n in 0..n_packets {
        let first = server.n_written * PACKET_LEN as u64;
        let sample = |at: u64| 0.5 * (std::f64::consts::TAU * hz * at as f64 / 16_000.0).sin();
        let codes = (first..first + PACKET_LEN as u64).map(|at| mulaw::encode(sample(at) as f32));
        let codes: Vec<u8> = codes.map(Option::unwrap).collect();
        server.writer.publish(&codes);
        server.n_written += 1;
        if n % 10 == 9 {
            sleep(Duration::from_millis(40)).await;
        }
    }
}

async fn ask(server: &Server, path: &str, header: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head = format!(
        "GET {path} HTTP/1.0\r\nHost: {}\r\n{header}\r\n",
        server.addr
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Where the head of an answer ends.
fn split(answer: &[u8]) -> (String, &[u8]) {
    let end = answer
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    (head.to_lowercase(), &answer[end + 4..])
}

#[tokio::test]
async fn who_asks_gets_titles_between_the_samples_and_nobody_else() {
    let mut server = Server::start(Settings::default()).await;
    server.publish(20);
    let mut with = ask(&server, "/stream.wav", "Icy-MetaData: 1\r\n").await;
    let mut without = ask(&server, "/stream.wav", "Icy-MetaData: 0\r\n").await;
    let telemetry = server.telemetry.clone();
    eventually("both are here", || telemetry.net.listeners.get() == 2).await;
    play(&mut server, 440.0, 100).await;
    server.stop().await;
    let (mut titled, mut plain) = (Vec::new(), Vec::new());
    with.read_to_end(&mut titled).await.unwrap();
    without.read_to_end(&mut plain).await.unwrap();
    let ((head, mut titled), (other, plain)) = (split(&titled), split(&plain));
    assert!(
        head.contains("icy-metaint: 16000") && head.contains("icy-name: piano"),
        "{head}"
    );
    assert!(!other.contains("icy-"), "{other}");
    let (mut sound, mut titles) = (Vec::new(), Vec::new());
    while titled.len() > 16_000 {
        sound.extend_from_slice(&titled[..16_000]);
        let len = 16 * usize::from(titled[16_000]);
        titles.push(String::from_utf8(titled[16_001..][..len].to_vec()).unwrap());
        titled = &titled[16_001 + len..];
    }
    sound.extend_from_slice(titled);
    assert_eq!(
        titles[0].trim_end_matches('\0'),
        "StreamTitle='piano (tiny, seed 7)';"
    );
    assert!(titles.len() >= 3 && titles[1..].iter().all(String::is_empty));
    assert!(sound == plain);
}

#[tokio::test]
async fn asking_for_the_head_of_an_opus_stream_takes_no_place() {
    let server = Server::start(Settings::default()).await;
    for path in ["/stream.opus", "/v1/stations/piano/stream.opus"] {
        let head = server.text("HEAD", path).await.to_lowercase();
        let wanted = match cfg!(feature = "opus") {
            true => "http/1.0 200 ok\r\ncontent-type: audio/ogg",
            false => "http/1.0 501",
        };
        assert!(head.starts_with(wanted), "{head}");
    }
    assert_eq!(server.telemetry.net.listeners_total.get(), 0);
}

#[cfg(feature = "opus")]
mod opus {
    use super::*;
    use ogg::PacketReader;
    use opusic_c::{Channels, Decoder, SampleRate};
    use std::io::Cursor;

    const PRE_SKIP: usize = 3_840;
    const FRAMES: usize = 960;

    /// A file that was heard: its pages, and its packets of sound.
    struct Heard {
        head: String,
        pages: Vec<Page>,
        packets: Vec<Vec<u8>>,
    }

    #[derive(Debug, PartialEq)]
    struct Page {
        flags: u8,
        granule: u64,
        serial: u32,
        sequence: u32,
        n_packets: usize,
    }

    /// Pages, as far as they are whole.
    fn pages(mut bytes: &[u8]) -> Vec<Page> {
        let mut pages = Vec::new();
        while bytes.len() >= 27 {
            assert_eq!(&bytes[..5], b"OggS\0");
            let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            let lacing = &bytes[27..][..usize::from(bytes[26])];
            pages.push(Page {
                flags: bytes[5],
                granule: u64::from(word(6)) | u64::from(word(10)) << 32,
                serial: word(14),
                sequence: word(18),
                n_packets: lacing.iter().filter(|&&len| len < 255).count(),
            });
            let body: usize = lacing.iter().map(|&len| usize::from(len)).sum();
            bytes = &bytes[27 + lacing.len() + body..];
        }
        pages
    }

    /// What came until the connection ended. Checks what holds of every such file.
    async fn hear(mut stream: TcpStream) -> Heard {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let (head, body) = split(&answer);
        let pages = pages(body);
        // With the checksums of pages.
        let mut reader = PacketReader::new(Cursor::new(body));
        let mut packets = Vec::new();
        while let Ok(Some(packet)) = reader.read_packet() {
            packets.push(packet.data);
        }
        let id = packets.remove(0);
        assert_eq!(&id[..12], b"OpusHead\x01\x01\x00\x0f");
        assert_eq!(id[12..], [&16_000u32.to_le_bytes()[..], &[0; 3]].concat());
        let tags = packets.remove(0);
        assert!(tags.starts_with(b"OpusTags"));
        assert!(String::from_utf8_lossy(&tags).contains("TITLE=piano (tiny, seed 7)"));
        assert_eq!(
            (pages[0].flags, pages[0].granule, pages[0].n_packets),
            (2, 0, 1)
        );
        assert_eq!((pages[1].granule, pages[1].n_packets), (0, 1));
        let mut n_packets = 0;
        for (n, page) in pages.iter().enumerate() {
            assert_eq!((page.sequence, page.serial), (n as u32, pages[0].serial));
            if n >= 2 {
                n_packets += page.n_packets;
                assert_eq!((page.flags, page.granule), (0, (n_packets * FRAMES) as u64));
            }
        }
        assert_eq!(n_packets, packets.len());
        Heard {
            head,
            pages,
            packets,
        }
    }

    impl Heard {
        /// As a player decodes it.
        fn frames(&self) -> Vec<f32> {
            let mut decoder = Decoder::new(Channels::Mono, SampleRate::Hz48000).unwrap();
            let (mut frames, mut packet) = (Vec::new(), [0.0; FRAMES]);
            for bytes in &self.packets {
                let n = decoder.decode_float_to_slice(bytes, &mut packet, false);
                assert_eq!(n.unwrap(), FRAMES);
                frames.extend(packet);
            }
            assert_eq!(frames.len() as u64, self.pages.last().unwrap().granule);
            frames.split_off(PRE_SKIP)
        }
    }

    /// How loud a tone is in some frames, and what else there is beside it, in dB.
    fn tone(frames: &[f32], hz: f64) -> (f64, f64) {
        // Whole periods of all tones used here.
        let frames = &frames[..frames.len() / 1_200 * 1_200];
        let (mut sin, mut cos, mut power) = (0.0, 0.0, 0.0);
        for (n, &frame) in frames.iter().enumerate() {
            let (angle, frame) = (
                std::f64::consts::TAU * hz * n as f64 / 48_000.0,
                f64::from(frame),
            );
            sin += frame * angle.sin();
            cos += frame * angle.cos();
            power += frame * frame;
        }
        let n = frames.len() as f64;
        let amplitude = 2.0 * (sin * sin + cos * cos).sqrt() / n;
        let of_tone = amplitude * amplitude / 2.0;
        (
            amplitude,
            10.0 * (of_tone / (power / n - of_tone).max(1e-12)).log10(),
        )
    }

    #[tokio::test]
    async fn an_opus_stream_decodes_to_what_the_station_plays() {
        let mut server = Server::start(Settings::default()).await;
        play(&mut server, 440.0, 30).await;
        let stream = ask(&server, "/stream.opus", "").await;
        let telemetry = server.telemetry.clone();
        eventually("it is here", || telemetry.net.listeners.get() == 1).await;
        play(&mut server, 440.0, 150).await;
        server.stop().await;
        let heard = hear(stream).await;
        assert!(
            heard.head.contains("content-type: audio/ogg"),
            "{}",
            heard.head
        );
        let frames = heard.frames();
        // Three seconds and the burst, less what waits for the rest of its page or of its block.
        let n_wanted = 160 * FRAMES - PRE_SKIP;
        assert!((n_wanted - 8 * FRAMES..=n_wanted).contains(&frames.len()));
        let (amplitude, snr_db) = tone(&frames, 440.0);
        assert!((0.48..0.52).contains(&amplitude), "{amplitude}");
        // Mu-law's own noise is at 38 dB.
        assert!(snr_db > 25.0, "{snr_db} dB");
        // 64 kb/s, and little for the container.
        let n_bytes: usize = heard.packets.iter().map(Vec::len).sum();
        let bit_rate = n_bytes as f64 * 8.0 / (heard.packets.len() as f64 * 0.02);
        assert!((30_000.0..100_000.0).contains(&bit_rate), "{bit_rate}");
        assert_eq!(telemetry.net.packets_lost.get(), 0);
    }

    #[tokio::test]
    async fn listeners_share_an_encoder_and_each_has_a_file_of_its_own() {
        let mut server = Server::start(Settings::default()).await;
        play(&mut server, 440.0, 30).await;
        let first = ask(&server, "/stream.opus", "").await;
        let telemetry = server.telemetry.clone();
        eventually("one is here", || telemetry.net.listeners.get() == 1).await;
        play(&mut server, 440.0, 50).await;
        let second = ask(&server, "/v1/stations/piano/stream.opus", "").await;
        eventually("two are here", || telemetry.net.listeners.get() == 2).await;
        play(&mut server, 440.0, 50).await;
        server.stop().await;
        let (first, second) = (hear(first).await, hear(second).await);
        assert_ne!(first.pages[0].serial, second.pages[0].serial);
        // From somewhere on they are the same packets: a burst of 200 ms, and a second.
        let n_same = |rest: &[Vec<u8>]| {
            let n = rest.len().min(second.packets.len());
            (rest[..n] == second.packets[..n]).then_some(n)
        };
        let from = (0..first.packets.len()).find_map(|at| n_same(&first.packets[at..]));
        assert!((50..=60).contains(&from.unwrap()), "{from:?} packets");
        assert!(tone(&second.frames(), 440.0).1 > 25.0);
    }

    #[tokio::test]
    async fn who_comes_when_nobody_listened_hears_nothing_of_before() {
        let mut server = Server::start(Settings::default()).await;
        let telemetry = server.telemetry.clone();
        let early = ask(&server, "/stream.opus", "").await;
        eventually("one is here", || telemetry.net.listeners.get() == 1).await;
        play(&mut server, 440.0, 50).await;
        drop(early);
        while telemetry.net.listeners.get() > 0 {
            play(&mut server, 440.0, 10).await;
        }
        play(&mut server, 880.0, 50).await;
        let late = ask(&server, "/stream.opus", "").await;
        eventually("another is here", || telemetry.net.listeners.get() == 1).await;
        play(&mut server, 880.0, 50).await;
        server.stop().await;
        let frames = hear(late).await.frames();
        assert!(tone(&frames, 880.0).1 > 25.0);
    }
}
