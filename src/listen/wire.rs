//! The network half of a listener: a WebSocket, understood and checked.

use super::ListenError;
use crate::protocol::{Event, Facts, Format, Hello, Packet, Report, Request, plain};
use crate::tls::Trust;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use std::fmt;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// To connect, and to get the hello.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A station that says nothing for so long is gone, whatever the connection says.
const SILENCE: Duration = Duration::from_secs(10);
/// The longest message a station may send: the longest packet and then some.
const MESSAGE_MAX: usize = 512 * 1024;
/// The longest list of stations.
const LIST_MAX: u64 = 1024 * 1024;

/// Encrypted or not.
trait Line: AsyncRead + AsyncWrite + Unpin + Send + fmt::Debug {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + fmt::Debug> Line for S {}

/// A connection to a station, past its hello.
#[derive(Debug)]
pub struct Wire {
    socket: WebSocketStream<Box<dyn Line>>,
    hello: Hello,
    /// The sequence that must come next.
    expected: u64,
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// The codes of the next packet are there.
    Packet,
    /// The station went on without us: so many packets are missing before the next.
    Lost {
        /// How many.
        n_packets: u64,
    },
}

impl Wire {
    /// Connects to `url`: a station's stream (`ws://host:port/v1/stations/name/stream`, or the
    /// same with `http` or `.wav`), or a server (`http://host:port/`), whose first station is
    /// meant. Encrypted with `wss` and `https`; who the server is `trust` tells.
    pub async fn open(url: &str, trust: &Trust) -> Result<Self, ListenError> {
        let address = Address::parse(url)?;
        let opened = time::timeout(CONNECT_TIMEOUT, Self::connect(&address, trust)).await;
        opened.map_err(|_| ListenError::NoAnswer {
            host: address.host.clone(),
        })?
    }

    async fn connect(address: &Address, trust: &Trust) -> Result<Self, ListenError> {
        let path = match &address.path {
            Some(path) => path.clone(),
            None => first_station(address, trust).await?,
        };
        let mut request = format!("ws://{}{path}{}", address.host, address.query)
            .into_client_request()
            .map_err(|error| ListenError::Url(error.to_string()))?;
        let name = Format::Mulaw.subprotocol();
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", name.parse().expect("is ASCII"));
        let config = WebSocketConfig::default()
            .read_buffer_size(8 * 1024)
            .max_message_size(Some(MESSAGE_MAX))
            .max_frame_size(Some(MESSAGE_MAX));
        let stream = address.dial(trust).await?;
        let (socket, _) = client_async_with_config(request, stream, Some(config))
            .await
            .map_err(|error| refused(address, error))?;
        Self::greet(socket).await
    }

    async fn greet(mut socket: WebSocketStream<Box<dyn Line>>) -> Result<Self, ListenError> {
        let first = socket.next().await.ok_or(ListenError::Broken)??;
        let Message::Text(text) = first else {
            return Err(ListenError::NoHello);
        };
        let Event::Hello(hello) = Event::from_json(&text)? else {
            return Err(ListenError::NoHello);
        };
        Ok(Self {
            socket,
            expected: hello.sequence,
            hello: *hello,
        })
    }

    /// The station's first words.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// What stays the same while the station runs.
    pub fn facts(&self) -> &Facts {
        &self.hello.facts
    }

    /// Waits for the next packet, whose codes replace those in `codes`, or for the news that some
    /// are lost. Dropping the future loses nothing.
    pub async fn next(&mut self, codes: &mut Vec<u8>) -> Result<Item, ListenError> {
        loop {
            let message = time::timeout(SILENCE, self.socket.next())
                .await
                .map_err(|_| ListenError::Silent)?
                .ok_or(ListenError::Broken)??;
            let item = match message {
                Message::Binary(bytes) => self.take(&bytes, codes)?,
                Message::Text(text) => self.note(Event::from_json(&text)?)?,
                Message::Close(frame) => return Err(closed(frame)),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => None,
            };
            if let Some(item) = item {
                return Ok(item);
            }
        }
    }

    fn take(&mut self, bytes: &[u8], codes: &mut Vec<u8>) -> Result<Option<Item>, ListenError> {
        let packet = Packet::decode(bytes)?;
        if packet.sequence != self.expected {
            return Err(ListenError::Sequence {
                expected: self.expected,
                got: packet.sequence,
            });
        }
        self.expected = self.expected.saturating_add(1);
        codes.clear();
        codes.extend(packet.codes());
        Ok(Some(Item::Packet))
    }

    fn note(&mut self, event: Event) -> Result<Option<Item>, ListenError> {
        match event {
            Event::Lost { n_packets, .. } => {
                self.expected = self.expected.saturating_add(n_packets);
                Ok(Some(Item::Lost { n_packets }))
            }
            Event::Closing { code, reason } => Err(ListenError::Closed { code, reason }),
            Event::Hello(_) | Event::Changed(_) | Event::Unknown => Ok(None),
        }
    }

    /// Tells the station how its listener fares.
    pub async fn report(&mut self, report: Report) -> Result<(), ListenError> {
        let text = Request::Report(report).to_json();
        Ok(self.socket.send(Message::text(text)).await?)
    }

    /// Says goodbye.
    pub async fn close(mut self) {
        // Who does not hear it will notice that we are gone.
        let _ = time::timeout(Duration::from_millis(500), self.socket.close(None)).await;
    }
}

/// What a URL comes to.
#[derive(Debug, PartialEq)]
struct Address {
    is_encrypted: bool,
    /// With the port.
    host: String,
    /// `None`: a server without a station named.
    path: Option<String>,
    /// What a signed link says, `?` included; empty without one.
    query: String,
}

impl Address {
    fn parse(url: &str) -> Result<Self, ListenError> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("ws", url));
        let (is_encrypted, usual_port) = match scheme {
            "ws" | "http" => (false, 80),
            "wss" | "https" => (true, 443),
            _ => return Err(ListenError::Url(url.to_owned())),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() || host.contains('@') {
            return Err(ListenError::Url(url.to_owned()));
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| {
            !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit())
        });
        let path = path.split('#').next().unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let pairs = query.split('&');
        // The format is ours to choose.
        let kept = pairs.filter(|pair| !pair.is_empty() && !pair.starts_with("format="));
        let query = kept.collect::<Vec<_>>().join("&");
        let path = path.strip_suffix(".wav").unwrap_or(path);
        Ok(Self {
            is_encrypted,
            host: match has_port {
                true => host.to_owned(),
                false => format!("{host}:{usual_port}"),
            },
            path: (!path.is_empty()).then(|| format!("/{path}")),
            query: match query.is_empty() {
                true => query,
                false => format!("?{query}"),
            },
        })
    }

    async fn dial(&self, trust: &Trust) -> Result<Box<dyn Line>, ListenError> {
        let host = || self.host.clone();
        let dialled = TcpStream::connect(&self.host).await;
        let stream = dialled.map_err(|source| ListenError::Connect {
            host: host(),
            source,
        })?;
        if !self.is_encrypted {
            return Ok(Box::new(stream));
        }
        let name = (self.host.rsplit_once(':')).map_or(&*self.host, |(name, _)| name);
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let shaken = trust.connect(name, stream).await;
        let stream = shaken.map_err(|source| ListenError::Handshake {
            host: host(),
            source,
        })?;
        Ok(Box::new(stream))
    }
}

/// The path of the first station's stream, from the server's list.
async fn first_station(address: &Address, trust: &Trust) -> Result<String, ListenError> {
    #[derive(Deserialize)]
    struct Listing {
        stream: String,
    }
    let mut stream = address.dial(trust).await?;
    let Address { host, query, .. } = address;
    let request = format!("GET /v1/stations{query} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LIST_MAX).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    if let Some(status @ 400..) = status {
        return Err(ListenError::Refused {
            host: host.clone(),
            status,
            sentence: plain(body),
        });
    }
    let listings: Vec<Listing> = serde_json::from_str(body).unwrap_or_default();
    let first = listings.into_iter().next();
    let listing = first.ok_or_else(|| ListenError::NoStation { host: host.clone() })?;
    Ok(listing.stream)
}

/// The server's own sentence, if it answered with one.
fn refused(address: &Address, error: tungstenite::Error) -> ListenError {
    let tungstenite::Error::Http(response) = error else {
        return ListenError::Socket(Box::new(error));
    };
    let body = response.body().as_deref().unwrap_or_default();
    let sentence = String::from_utf8_lossy(body);
    ListenError::Refused {
        host: address.host.clone(),
        status: response.status().as_u16(),
        sentence: plain(&sentence),
    }
}

fn closed(frame: Option<tungstenite::protocol::CloseFrame>) -> ListenError {
    match frame {
        Some(frame) => ListenError::Closed {
            code: frame.code.into(),
            reason: plain(&frame.reason),
        },
        None => ListenError::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_stream_or_a_server() {
        let address = |host: &str, path: Option<&str>| Address {
            is_encrypted: false,
            host: host.into(),
            path: path.map(Into::into),
            query: String::new(),
        };
        let stream = Some("/v1/stations/piano/stream");
        for (url, expected) in [
            ("ws://h:1/v1/stations/piano/stream", address("h:1", stream)),
            (
                "http://h:1/v1/stations/piano/stream.wav",
                address("h:1", stream),
            ),
            (
                "h:1/v1/stations/piano/stream?format=s16",
                address("h:1", stream),
            ),
            ("http://h:8420/", address("h:8420", None)),
            ("http://h:8420/#piano", address("h:8420", None)),
            ("http://[::1]", address("[::1]:80", None)),
            ("localhost:8420", address("localhost:8420", None)),
        ] {
            assert_eq!(Address::parse(url).unwrap(), expected, "{url}");
        }
        let link = Address::parse("http://h/?expires=7&format=f32&signature=ab#piano").unwrap();
        assert_eq!(link.query, "?expires=7&signature=ab");
        for (url, host) in [("wss://h/", "h:443"), ("https://[::1]:8420/", "[::1]:8420")] {
            let encrypted = Address {
                is_encrypted: true,
                ..address(host, None)
            };
            assert_eq!(Address::parse(url).unwrap(), encrypted, "{url}");
        }
        for url in ["ftp://h/", "ws:///path", "", "http://user@h/"] {
            assert!(
                matches!(Address::parse(url), Err(ListenError::Url(_))),
                "{url}"
            );
        }
    }

    #[test]
    fn the_words_of_a_close_command_no_terminal() {
        let frame = tungstenite::protocol::CloseFrame {
            code: 4000.into(),
            reason: "\u{1b}[2Jtoo slow\n".into(),
        };
        let said = closed(Some(frame)).to_string();
        assert!(!said.contains(char::is_control), "{said:?}");
        assert!(said.contains("too slow"), "{said}");
    }
}
