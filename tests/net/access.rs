//! Who may listen, and how many from one place.

use crate::server::Server;
use longwave::access::Tokens;
use longwave::net::Settings;
use std::path::Path;
use tokio_tungstenite::tungstenite::Error;

const HEAR: &str = "hear-hear-hear-hear";

async fn guarded() -> (Server, Tokens) {
    let tokens = Tokens::parse(&format!("listen {HEAR}"), Path::new("tokens")).unwrap();
    let settings = Settings {
        tokens: tokens.clone(),
        ..Settings::default()
    };
    (Server::start(settings).await, tokens)
}

#[tokio::test]
async fn where_a_token_is_wanted_nothing_sounds_without_it() {
    let (mut server, _) = guarded().await;
    server.publish(30);
    for path in ["/v1/stations", "/v1/stations/piano/stream.wav"] {
        let answer = server.text("GET", path).await;
        assert!(answer.starts_with("HTTP/1.0 401"), "{answer}");
        assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
        assert!(answer.contains("a token to listen is wanted"), "{answer}");
    }
    let Err(Error::Http(refusal)) = server.listen_by(server.request("")).await else {
        panic!("it was let in");
    };
    assert_eq!(refusal.status(), 401);
    assert_eq!(server.telemetry.net.unauthorized.get(), 3);
    let mut wrong = server.request("");
    let value = "Bearer guess-guess-guess".parse().unwrap();
    wrong.headers_mut().insert("authorization", value);
    assert!(server.listen_by(wrong).await.is_err());
    // The page itself holds no secret, and watchers of the daemon need no token.
    for path in ["/", "/healthz", "/metrics"] {
        let answer = server.text("GET", path).await;
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    }
}

#[tokio::test]
async fn a_token_or_a_signed_link_opens_the_door() {
    let (mut server, tokens) = guarded().await;
    server.publish(30);
    let mut request = server.request("");
    let value = format!("Bearer {HEAR}").parse().unwrap();
    request.headers_mut().insert("authorization", value);
    let mut by_token = server.listen_by(request).await.unwrap();
    let expires = u64::from(u32::MAX);
    let link = format!(
        "?expires={expires}&signature={}",
        tokens.sign(expires).unwrap()
    );
    let mut by_link = server.listen(&link).await;
    server.publish(20);
    for listener in [&mut by_token, &mut by_link] {
        assert_eq!(listener.hear_until(server.n_written).await, (30, 0));
    }
    let answer = server.text("GET", &format!("/v1/stations{link}")).await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    let expired = format!("?expires=7&signature={}", tokens.sign(7).unwrap());
    let answer = server.text("GET", &format!("/v1/stations{expired}")).await;
    assert!(answer.starts_with("HTTP/1.0 401"), "{answer}");
}
