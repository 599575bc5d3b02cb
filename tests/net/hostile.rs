//! Clients that mean harm, or behave as if they did.

use crate::server::Server;
use longwave::net::Settings;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn silent_connections_keep_nobody_out_and_cost_no_listener_its_place() {
    let settings = Settings {
        max_listeners: 4,
        ..Settings::default()
    };
    let mut server = Server::start(settings).await;
    let mut listener = server.listen("").await;
    server.publish(10);
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(server.addr).await.unwrap());
    }
    let answer = server.text("GET", "/healthz").await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    // The first that came had to go, without a word.
    assert_eq!(silent[0].read(&mut [0; 16]).await.unwrap_or(0), 0);
    assert!(server.telemetry.net.pushed_out.get() >= 100);
    server.publish(10);
    assert_eq!(listener.hear_until(20).await, (20, 0));
}
