//! SIGHUP: the configuration is read again while everything plays.

use std::fs;
use std::path::Path;

use crate::changes::control;
use crate::daemon::{Daemon, listen, text};

const STATION: &str = "model = \"tiny\"\n[[station]]\nname = \"piano\"\nwatch = false\n";

fn reread(daemon: &mut Daemon, file: &Path, config: &str, answer: &str) {
    fs::write(file, config).unwrap();
    daemon.signal("HUP");
    daemon.log_line(answer);
}

#[tokio::test]
async fn a_changed_configuration_changes_what_plays_and_a_bad_one_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    fs::write(&file, format!("{STATION}seed = 3\n")).unwrap();
    let mut daemon = Daemon::start_bare(&["--no-card", "--config", text(&file)], &[]);
    let (before, ..) = listen(&daemon, 5).await;
    let new = format!("{STATION}seed = 4\ntemperature = 0.5\n");
    reread(&mut daemon, &file, &new, "station piano from position");
    let state = |daemon: &Daemon| control(daemon, &[]).1;
    assert!(state(&daemon).contains("seed=4 temperature=0.5"));
    // Nothing of a file that is wrong anywhere.
    let bad = format!("{STATION}seed = 5\ntemperature = -1\n");
    reread(&mut daemon, &file, &bad, "all stays as it was");
    let gone = format!("{STATION}seed = 5\nprompt = \"gone.wav\"\n");
    reread(&mut daemon, &file, &gone, "all stays as it was");
    let other = format!("{STATION}seed = 5\nmodel = \"no-such\"\n");
    reread(&mut daemon, &file, &other, "all stays as it was");
    assert!(state(&daemon).contains("seed=4 temperature=0.5"));
    // What cannot change while it plays is said.
    let more = format!("{new}[[station]]\nname = \"second\"\n");
    let waits = "which stations there are: changed in the configuration, and holds after a restart";
    reread(&mut daemon, &file, &more, waits);
    // And in whatever order the file lists them, the station that is meant changes.
    let turned = format!(
        "model = \"tiny\"\n[[station]]\nname = \"second\"\nseed = 9\n{}seed = 6\n",
        STATION.trim_start_matches("model = \"tiny\"\n")
    );
    reread(&mut daemon, &file, &turned, "station piano from position");
    assert!(state(&daemon).contains("seed=6"));
    let (after, ..) = listen(&daemon, 5).await;
    assert!(after.position > before.position);
}

#[test]
fn tokens_that_were_changed_hold_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (file, tokens) = (dir.path().join("c.toml"), dir.path().join("tokens"));
    let config = format!("{STATION}[network]\ntokens = \"tokens\"\n");
    fs::write(&file, &config).unwrap();
    fs::write(&tokens, "control steer-steer-steer-steer\n").unwrap();
    let mut daemon = Daemon::start_bare(&["--no-card", "--config", text(&file)], &[]);
    assert_eq!(daemon.status_of("/v1/stations"), "200");
    fs::write(&tokens, "listen hear-hear-hear-hear\n").unwrap();
    reread(
        &mut daemon,
        &file,
        &config,
        "the configuration was read again",
    );
    assert_eq!(daemon.status_of("/v1/stations"), "401");
}
