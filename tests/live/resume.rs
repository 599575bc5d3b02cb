//! Streams that survive a restart.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use futures_util::StreamExt;
use longwave::protocol::{Event, Hello, Packet};
use tokio_tungstenite::tungstenite::Message;

use crate::changes::control;
use crate::daemon::{Daemon, Socket, codes_of, listen, rendered, text};

/// A daemon that keeps its station in `dir`.
fn keeping(dir: &Path, more: &[&str]) -> Daemon {
    let all = [&["--no-card", "--resume"], more];
    let environment = [
        ("STATE_DIRECTORY", text(dir)),
        ("RUST_LOG", "longwave=debug"),
    ];
    Daemon::start(&all.concat(), &environment)
}

async fn heard(daemon: &Daemon, n: u64) -> (Hello, Vec<u8>) {
    let (hello, codes, _socket) = listen(daemon, n).await;
    (hello, codes)
}

fn render_from(state: &Path, file: &Path, more: &[&str]) -> Vec<u8> {
    let mut render = Command::new(env!("CARGO_BIN_EXE_longwave"));
    render.args(["render", "--model", "tiny", "--format", "f32", "-s", "3"]);
    render.args(["--state", text(state), "--output", text(file)]);
    let output = render.args(more).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    codes_of(file)
}

fn end(mut daemon: Daemon) {
    daemon.signal("TERM");
    assert!(daemon.end().success());
}

#[tokio::test]
async fn the_music_goes_on_where_it_stopped_as_if_nothing_had_been() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = keeping(dir.path(), &[]);
    let (first, _) = heard(&daemon, 20).await;
    assert_eq!(first.facts.first_position, 0);
    end(daemon);
    let daemon = keeping(dir.path(), &[]);
    let (hello, codes) = heard(&daemon, 20).await;
    assert!(hello.facts.first_position >= first.position + 20 * 320);
    let from = hello.position as usize;
    let written = rendered((from + codes.len()) as u64);
    assert!(codes == written[from..], "something else goes on");
    // And a file of it is drawn from what was kept.
    end(daemon);
    let file = dir.path().join("on.wav");
    let state = dir.path().join("piano.state");
    let on = render_from(&state, &file, &[]);
    let daemon = keeping(dir.path(), &[]);
    let (hello, codes) = heard(&daemon, 5).await;
    let skipped = (hello.position - hello.facts.first_position) as usize;
    assert!(codes == on[skipped..skipped + codes.len()]);
    // What was changed stays changed.
    let (is_done, said) = control(&daemon, &["seed=5", "temperature=0.5", "mute=true"]);
    assert!(is_done, "{said}");
    end(daemon);
    let daemon = keeping(dir.path(), &[]);
    let (_, said) = control(&daemon, &[]);
    assert!(said.contains("seed=5 temperature=0.5"), "{said}");
    assert!(said.contains("mute=true"), "{said}");
    end(daemon);
    // But what the configuration has come to say goes before.
    let daemon = keeping(dir.path(), &["--temperature", "0.9"]);
    let (_, said) = control(&daemon, &[]);
    assert!(said.contains("seed=5 temperature=0.9"), "{said}");
}

#[tokio::test]
async fn a_killed_daemon_goes_on_from_what_it_kept_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = keeping(dir.path(), &[]);
    daemon.log_line("station piano is kept at position");
    daemon.signal("KILL");
    daemon.end();
    let mut daemon = keeping(dir.path(), &[]);
    let (hello, codes) = heard(&daemon, 10).await;
    assert!(hello.facts.first_position > 0);
    let from = hello.position as usize;
    assert!(codes == rendered((from + codes.len()) as u64)[from..]);
    assert!(daemon.has_said("goes on from position"));
}

#[tokio::test]
async fn a_state_that_is_broken_is_told_once_and_the_station_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("piano.state");
    fs::write(
        &path,
        format!("longwave state 1\n{}", "and no more".repeat(9)),
    )
    .unwrap();
    let mut daemon = keeping(dir.path(), &[]);
    assert!(daemon.has_said("is damaged: its checksum is another; station piano begins anew"));
    let (hello, _) = heard(&daemon, 10).await;
    assert_eq!(hello.facts.first_position, 0);
    end(daemon);
}

#[tokio::test]
async fn where_nothing_can_be_kept_it_plays_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("file");
    fs::write(&blocked, "not a directory").unwrap();
    let mut daemon = keeping(&blocked.join("states"), &[]);
    daemon.log_line("cannot keep station piano in");
    heard(&daemon, 10).await;
    end(daemon);
}

/// The head and the body of what is answered.
fn get(daemon: &Daemon, path: &str) -> (String, Vec<u8>) {
    let mut answer = Vec::new();
    daemon.http(path).read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = answer.split_off(end.unwrap() + 4);
    (String::from_utf8(answer).unwrap(), body)
}

/// Hears `n` packets more; where a change was told.
async fn hear_on(socket: &mut Socket, codes: &mut Vec<u8>, n: usize) -> Option<u64> {
    let (mut n_heard, mut since) = (0, None);
    while n_heard < n {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(message) => {
                codes.extend(Packet::decode(&message).unwrap().codes());
                n_heard += 1;
            }
            Message::Text(told) => match Event::from_json(&told).unwrap() {
                Event::Changed(changed) => since = Some(changed.since),
                other => panic!("{other:?}"),
            },
            _ => {}
        }
    }
    since
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_heard_after_a_state_that_was_asked_for_is_what_render_makes_of_it() {
    // Nothing is kept in files here.
    let daemon = Daemon::start(&["--no-card"], &[]);
    let (hello, mut codes, mut socket) = listen(&daemon, 10).await;
    // What was changed before is in the state.
    let (is_done, said) = control(&daemon, &["seed=77", "temperature=0.6"]);
    assert!(is_done, "{said}");
    hear_on(&mut socket, &mut codes, 10).await;
    let (head, body) = get(&daemon, "/v1/stations/piano/state");
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    let position = head
        .lines()
        .find_map(|line| line.strip_prefix("longwave-position: "));
    let position: u64 = position.unwrap().parse().unwrap();
    hear_on(&mut socket, &mut codes, 25).await;
    // What is changed later is told, and given to `render`.
    control(&daemon, &["seed=78"]);
    let since = hear_on(&mut socket, &mut codes, 25).await.unwrap();
    assert!(since > position);

    let dir = tempfile::tempdir().unwrap();
    let [state, changes, file] = ["s.state", "c.json", "on.wav"].map(|name| dir.path().join(name));
    fs::write(&state, body).unwrap();
    fs::write(&changes, get(&daemon, "/v1/stations/piano").1).unwrap();
    let heard = &codes[(position - hello.position) as usize..];
    let on = render_from(&state, &file, &["--changes", text(&changes)]);
    assert!(heard.len() > 30 * 320 && heard == &on[..heard.len()]);
    let unchanged = render_from(&state, &file, &[]);
    let n_before = (since - position) as usize;
    assert!(heard[..n_before] == unchanged[..n_before]);
    assert!(heard != &unchanged[..heard.len()]);
}

/// What `render` says that refuses a state.
fn refusal(model: &str, state: &Path, file: &Path) -> String {
    let mut render = Command::new(env!("CARGO_BIN_EXE_longwave"));
    render.args(["render", "--model", model, "-s", "1"]);
    render.args(["--state", text(state), "--output", text(file)]);
    let output = render.output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(!file.exists());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_state_that_is_damaged_or_of_something_else_is_refused_in_a_sentence() {
    let daemon = Daemon::start(&["--no-card"], &[]);
    let mut body = get(&daemon, "/v1/stations/piano/state").1;
    let dir = tempfile::tempdir().unwrap();
    let [state, file] = ["s.state", "on.wav"].map(|name| dir.path().join(name));
    fs::write(&state, &body).unwrap();
    let said = refusal("piano-16k", &state, &file);
    assert!(said.contains("s.state is of another model"), "{said}");
    body[1_000] ^= 1;
    fs::write(&state, &body).unwrap();
    let said = refusal("tiny", &state, &file);
    assert!(
        said.contains("s.state is damaged: its checksum is another"),
        "{said}"
    );
    let said = refusal("tiny", &dir.path().join("none"), &file);
    assert!(said.contains("none is not there"), "{said}");
}
