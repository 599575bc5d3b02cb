//! Listeners who come and go: each checks that packets and positions follow upon each other, or that what
//! is missing was told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eyre::{Result, bail, ensure};
use futures_util::StreamExt;
use longwave::protocol::{Event, Facts, Format, Packet, close};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{self, Instant};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::changes::STATION;
use crate::daemon::Daemon;
use crate::faults::Chance;
use crate::record::Clock;

/// Who come and go; a witness who stays from the beginning to the end comes on top.
pub const N_SEATS: usize = 20;

/// How long they stay, and how long a seat is empty, in seconds.
const STAY_S: (f64, f64) = (5.0, 120.0);
const EMPTY_S: (f64, f64) = (0.5, 8.0);

/// Longer than any packet should be under way: what a listener gathers before it plays.
pub const GAP_S: f64 = 0.2;

/// The kernel gathers what a slow listener does not take: little, or the daemon would never notice.
const SMALL_BUFFER: u32 = 4_096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manner {
    /// Takes what comes, and says goodbye.
    Steady,
    /// Is gone without a word.
    Vanishing,
    /// Takes a packet in 30 ms, of 20 ms.
    Slow,
    /// Takes nothing for some seconds, now and then.
    Halting,
    /// Takes nothing from some moment on, and never leaves.
    Deaf,
}

impl Manner {
    pub const ALL: [Self; 5] = [
        Self::Steady,
        Self::Vanishing,
        Self::Slow,
        Self::Halting,
        Self::Deaf,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Vanishing => "vanishing",
            Self::Slow => "slow",
            Self::Halting => "halting",
            Self::Deaf => "deaf",
        }
    }

    fn any(chance: &mut Chance) -> Self {
        match chance.below(10) {
            0..=4 => Self::Steady,
            5 | 6 => Self::Vanishing,
            7 => Self::Slow,
            8 => Self::Halting,
            _ => Self::Deaf,
        }
    }

    fn takes_little(self) -> bool {
        matches!(self, Self::Slow | Self::Halting | Self::Deaf)
    }
}

/// What one manner of listener has met.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub n_visits: u64,
    pub n_packets: u64,
    pub n_told_lost: u64,
    pub n_losses: u64,
    pub n_closed_slow: u64,
}

/// No packet for so long.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    pub begin_s: f64,
    pub seconds: f64,
}

#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub counts: BTreeMap<Manner, Counts>,
    /// Of the witness.
    pub gaps: Vec<Gap>,
    /// Heard by the witness, and told lost to it.
    pub witness: Counts,
    /// Who were told that the daemon stops.
    pub n_told_end: u64,
    /// What should never be, in words.
    pub faults: Vec<String>,
}

/// All listeners there are.
pub struct Audience {
    tally: Arc<Mutex<Tally>>,
    seats: JoinSet<()>,
}

#[derive(Clone)]
struct Seat {
    address: String,
    tally: Arc<Mutex<Tally>>,
    clock: Clock,
    over: watch::Receiver<bool>,
}

impl Audience {
    pub fn gather(daemon: &Daemon, seed: u64, clock: Clock, over: watch::Receiver<bool>) -> Self {
        let tally = Arc::<Mutex<Tally>>::default();
        let seat = Seat {
            address: daemon.address.clone(),
            tally: tally.clone(),
            clock,
            over,
        };
        let mut seats = JoinSet::new();
        seats.spawn(seat.clone().witness());
        for number in 0..N_SEATS {
            seats.spawn(seat.clone().sit(Chance::new(seed, 2 + number as u64)));
        }
        Self { tally, seats }
    }

    /// Once the daemon has ended: what all of them have to tell.
    pub async fn leave(mut self) -> Tally {
        const PATIENCE: Duration = Duration::from_secs(5);
        // Who still sleeps would find nobody.
        let _ = time::timeout(PATIENCE, async {
            while self.seats.join_next().await.is_some() {}
        })
        .await;
        self.tally.lock().unwrap().clone()
    }
}

impl Seat {
    /// One listener after another.
    async fn sit(mut self, mut chance: Chance) {
        while !*self.over.borrow() {
            let empty = Duration::from_secs_f64(chance.between(EMPTY_S));
            if time::timeout(empty, self.over.changed()).await.is_ok() {
                break;
            }
            let manner = Manner::any(&mut chance);
            let result = self.visit(manner, &mut chance).await;
            if let Err(error) = result {
                self.blame(manner.name(), &error);
            }
        }
    }

    /// From the first packet to the last.
    async fn witness(self) {
        loop {
            let mut counts = Counts::default();
            let result = self.attend(&mut counts).await;
            {
                let mut tally = self.tally.lock().unwrap();
                tally.witness.n_visits += 1;
                tally.witness.n_packets += counts.n_packets;
                tally.witness.n_told_lost += counts.n_told_lost;
            }
            if let Err(error) = result {
                self.blame("witness", &error);
            }
            if *self.over.borrow() {
                return;
            }
            time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn attend(&self, counts: &mut Counts) -> Result<()> {
        let mut line = Line::open(&self.address, Format::Mulaw, false).await?;
        let mut last_s = self.clock.now_s();
        loop {
            let heard = line.next(counts).await?;
            let now_s = self.clock.now_s();
            if now_s - last_s > GAP_S {
                let (begin_s, seconds) = (last_s, now_s - last_s);
                self.tally
                    .lock()
                    .unwrap()
                    .gaps
                    .push(Gap { begin_s, seconds });
            }
            match heard {
                Heard::Packet => last_s = now_s,
                Heard::Other => {}
                Heard::Closed(code) => return self.closed(code, false),
            }
        }
    }

    async fn visit(&mut self, manner: Manner, chance: &mut Chance) -> Result<()> {
        let format = chance.pick(&[Format::Mulaw, Format::S16, Format::F32]);
        let stay = Duration::from_secs_f64(chance.between(STAY_S));
        let mut counts = Counts {
            n_visits: 1,
            ..Counts::default()
        };
        let mut result = Line::open(&self.address, format, manner.takes_little()).await;
        let end = match &mut result {
            Ok(line) => self.listen(line, manner, stay, chance, &mut counts).await,
            Err(_) if *self.over.borrow() => Ok(()),
            Err(error) => Err(eyre::eyre!("{error}")),
        };
        let mut tally = self.tally.lock().unwrap();
        let sum = tally.counts.entry(manner).or_default();
        sum.n_visits += counts.n_visits;
        sum.n_packets += counts.n_packets;
        sum.n_told_lost += counts.n_told_lost;
        sum.n_losses += counts.n_losses;
        sum.n_closed_slow += counts.n_closed_slow;
        end
    }

    async fn listen(
        &self,
        line: &mut Line,
        manner: Manner,
        stay: Duration,
        chance: &mut Chance,
        counts: &mut Counts,
    ) -> Result<()> {
        let end = Instant::now() + stay;
        while Instant::now() < end {
            match time::timeout_at(end, line.next(counts)).await {
                Err(_) => break,
                Ok(Ok(Heard::Closed(code))) => {
                    counts.n_closed_slow += u64::from(code == Some(close::TOO_SLOW));
                    return self.closed(code, manner.takes_little());
                }
                // Who takes nothing may be cut off without a word, and so may anybody in the end.
                Ok(Err(_)) if self.may_be_cut_off(manner) && !line.is_out_of_step => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(_)) => {}
            }
            match manner {
                Manner::Slow => time::sleep(Duration::from_millis(30)).await,
                Manner::Halting if chance.below(400) == 0 => {
                    let halt = chance.between((2.0, 8.0));
                    time::sleep(Duration::from_secs_f64(halt)).await;
                }
                _ => {}
            }
        }
        match manner {
            Manner::Steady | Manner::Slow | Manner::Halting => line.say_goodbye().await,
            Manner::Vanishing => {}
            Manner::Deaf => {
                let mut over = self.over.clone();
                let _ = time::timeout(Duration::from_secs(45), over.changed()).await;
            }
        }
        Ok(())
    }

    fn may_be_cut_off(&self, manner: Manner) -> bool {
        manner.takes_little() || *self.over.borrow()
    }

    /// The daemon may end a conversation because it ends itself, or because somebody is too slow.
    fn closed(&self, code: Option<u16>, is_slow: bool) -> Result<()> {
        match code {
            Some(close::GOING_AWAY) if *self.over.borrow() => {
                self.tally.lock().unwrap().n_told_end += 1;
                Ok(())
            }
            Some(close::TOO_SLOW | close::IDLE) if is_slow => Ok(()),
            None if is_slow => Ok(()),
            _ if *self.over.borrow() && is_slow => Ok(()),
            code => bail!("cut off with code {code:?}"),
        }
    }

    fn blame(&self, who: &str, error: &eyre::Report) {
        let words = format!("{:.1} s: {who}: {error}", self.clock.now_s());
        eprintln!("{words}");
        self.tally.lock().unwrap().faults.push(words);
    }
}

/// A connection, and where in the stream it is.
struct Line {
    socket: WebSocketStream<TcpStream>,
    facts: Facts,
    format: Format,
    /// The packet that comes next.
    sequence: u64,
    /// The stream was not what it should be, as opposed to the connection.
    is_out_of_step: bool,
}

enum Heard {
    Packet,
    Other,
    Closed(Option<u16>),
}

impl Line {
    async fn open(address: &str, format: Format, is_small: bool) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if is_small {
            socket.set_recv_buffer_size(SMALL_BUFFER)?;
        }
        let stream = socket.connect(address.parse()?).await?;
        let name = format.name();
        let url = format!("ws://{address}/v1/stations/{STATION}/stream?format={name}");
        let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await?;
        let hello = match socket.next().await {
            Some(Ok(Message::Text(hello))) => Event::from_json(&hello)?,
            other => bail!("no hello but {other:?}"),
        };
        let Event::Hello(hello) = hello else {
            bail!("another event before the hello");
        };
        ensure!(hello.format == format, "another format than was asked for");
        let position = hello.facts.position(hello.sequence);
        ensure!(
            hello.position == position,
            "the hello's position is not its packet's"
        );
        Ok(Self {
            socket,
            facts: hello.facts,
            format,
            sequence: hello.sequence,
            is_out_of_step: false,
        })
    }

    async fn next(&mut self, counts: &mut Counts) -> Result<Heard> {
        match self.socket.next().await {
            None => Ok(Heard::Closed(None)),
            Some(Err(error)) => Err(error.into()),
            Some(Ok(Message::Close(frame))) => {
                Ok(Heard::Closed(frame.map(|frame| frame.code.into())))
            }
            Some(Ok(Message::Binary(message))) => {
                let taken = self.take(&message);
                self.is_out_of_step = taken.is_err();
                counts.n_packets += 1;
                taken.map(|()| Heard::Packet)
            }
            Some(Ok(Message::Text(text))) => {
                let told = self.hear(&text, counts);
                self.is_out_of_step = told.is_err();
                told.map(|()| Heard::Other)
            }
            Some(Ok(_)) => Ok(Heard::Other),
        }
    }

    fn take(&mut self, message: &[u8]) -> Result<()> {
        let packet = Packet::decode(message)?;
        let (wanted, came) = (self.sequence, packet.sequence);
        ensure!(came == wanted, "packet {came} came for {wanted}");
        let n_samples = packet.n_samples();
        ensure!(
            n_samples == self.facts.packet_len as usize && packet.format == self.format,
            "packet {came} has {n_samples} samples of {:?}",
            packet.format
        );
        self.sequence += 1;
        Ok(())
    }

    fn hear(&mut self, text: &str, counts: &mut Counts) -> Result<()> {
        if let Event::Lost {
            n_packets,
            sequence,
            position,
        } = Event::from_json(text)?
        {
            let wanted = self.sequence;
            ensure!(sequence == wanted, "lost from {sequence} on, at {wanted}");
            ensure!(
                position == self.facts.position(sequence),
                "lost at another position"
            );
            self.sequence += n_packets;
            counts.n_told_lost += n_packets;
            counts.n_losses += 1;
        }
        Ok(())
    }

    async fn say_goodbye(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(3);
        let goodbye = async {
            if self.socket.close(None).await.is_ok() {
                while let Some(Ok(_)) = self.socket.next().await {}
            }
        };
        // A daemon that does not answer shows in its descriptors.
        let _ = time::timeout(PATIENCE, goodbye).await;
    }
}
