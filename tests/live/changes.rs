//! Stations that are changed while they play.

use std::io::Read;
use std::process::{Command, Stdio};

use futures_util::StreamExt;
use longwave::protocol::{Event, Packet};
use tokio_tungstenite::tungstenite::Message;

use crate::daemon::{Daemon, SEED, codes_of, listen, rendered, text};

/// What the daemon's station answers to `longwave control`, and whether it said yes.
pub fn control(daemon: &Daemon, changes: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_longwave"))
        .args(["control", "piano", "--url"])
        .arg(format!("http://{}/", daemon.address))
        .args(changes)
        .env_remove("LONGWAVE_TOKEN")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn a_station_is_changed_from_the_position_that_all_are_told() {
    let daemon = Daemon::start(&["--no-card"], &[]);
    let (hello, before, mut socket) = listen(&daemon, 10).await;
    let (is_done, said) = control(&daemon, &["temperature=0"]);
    assert!(is_done, "{said}");
    let mut codes = before;
    let since = loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(message) => codes.extend(Packet::decode(&message).unwrap().codes()),
            Message::Text(text) => {
                let Event::Changed(changed) = Event::from_json(&text).unwrap() else {
                    panic!("{text} is no change");
                };
                assert_eq!(changed.draw.temperature, 0.0);
                break changed.since;
            }
            _ => {}
        }
    };
    assert!(
        said.contains(&format!("from position {since} seed={SEED} temperature=0")),
        "{said}"
    );
    let n_before = (since - hello.position) as usize;
    while codes.len() < n_before + 3_200 {
        if let Message::Binary(message) = socket.next().await.unwrap().unwrap() {
            codes.extend(Packet::decode(&message).unwrap().codes());
        }
    }
    let written = rendered(hello.position + codes.len() as u64);
    let written = &written[hello.position as usize..];
    assert!(
        codes[..n_before] == written[..n_before],
        "changed too early"
    );
    assert!(codes[n_before..] != written[n_before..], "not changed");

    assert_eq!(control(&daemon, &[]), (true, said));
    let (is_done, said) = control(&daemon, &["temperature=-1"]);
    assert!(
        !is_done && said.contains("the daemon answers 400"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_station_that_was_changed_is_drawn_again_from_what_it_says_of_itself() {
    let daemon = Daemon::start(&["--no-card"], &[]);
    let (before, mut codes, mut socket) = listen(&daemon, 10).await;
    let (_, said) = control(&daemon, &["seed=77", "temperature=0.6", "mute=true"]);
    assert!(
        said.contains("seed=77") && said.contains("mute=true"),
        "{said}"
    );
    control(&daemon, &["temperature=1.2"]);
    let mut told = Vec::new();
    let mut n_after = 0;
    while n_after < 25 {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(message) => {
                codes.extend(Packet::decode(&message).unwrap().codes());
                n_after += u32::from(told.len() == 2);
            }
            Message::Text(text) => match Event::from_json(&text).unwrap() {
                Event::Changed(changed) => told.push(changed),
                other => panic!("{other:?}"),
            },
            _ => {}
        }
    }
    assert_eq!((told[0].seed, told[1].seed), (77, 77));
    // Both may have come before the same chunk.
    assert!(told[0].since <= told[1].since);

    let mut answer = String::new();
    daemon
        .http("/v1/stations/piano")
        .read_to_string(&mut answer)
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (changes, file) = (dir.path().join("changes.json"), dir.path().join("out.wav"));
    std::fs::write(&changes, answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let first = before.position as usize;
    let n_codes = first + codes.len();
    let again = |more: &[&str]| {
        let seconds = (n_codes as f64 / 16_000.0).to_string();
        let command = [
            "render", "--model", "tiny", "--seed", SEED, "--format", "f32",
        ];
        let status = Command::new(env!("CARGO_BIN_EXE_longwave"))
            .args(command)
            .args(["--seconds", &seconds, "--output", text(&file)])
            .args(more)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        codes_of(&file)
    };
    assert!(codes == again(&["--changes", text(&changes)])[first..n_codes]);
    assert!(codes != again(&[])[first..n_codes], "nothing was changed");
}
