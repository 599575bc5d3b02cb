//! Streams that survive a restart.

use std::fs;
use std::path::Path;
use std::process::Command;

use longwave::protocol::Hello;

use crate::changes::control;
use crate::daemon::{Daemon, codes_of, listen, rendered, text};

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

fn render_from(state: &Path, file: &Path) -> Vec<u8> {
    let mut render = Command::new(env!("CARGO_BIN_EXE_longwave"));
    render.args(["render", "--model", "tiny", "--format", "f32", "-s", "3"]);
    render.args(["--state", text(state), "--output", text(file)]);
    assert!(render.output().unwrap().status.success());
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
    let on = render_from(&state, &file);
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
