//! An echo over WebSocket, for Autobahn's fuzzing client (docs/protocol.md, "Conformance").
//!
//! ```sh
//! cargo run --example echo -- 127.0.0.1:9001
//! ```
//!
//! A station echoes nothing, so this shows no line of it: it shows that the library that stations stand
//! on, of the same version and set up alike, keeps RFC 6455. Only the limits are wider, for Autobahn
//! sends up to 16 MiB at once.

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::any;
use tokio::net::TcpListener;

/// Of a message and of a frame: what Autobahn sends, and then some.
const MESSAGE_MAX: usize = 32 * 1024 * 1024;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:9001".into());
    let listener = TcpListener::bind(address).await?;
    axum::serve(listener, Router::new().fallback(any(open))).await
}

async fn open(upgrade: WebSocketUpgrade) -> Response {
    let upgrade = upgrade
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_message_size(MESSAGE_MAX)
        .max_frame_size(MESSAGE_MAX);
    upgrade.on_upgrade(echo)
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let is_said = matches!(message, Message::Text(_) | Message::Binary(_));
        if is_said && socket.send(message).await.is_err() {
            return;
        }
    }
}
