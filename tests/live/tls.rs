//! A daemon with a certificate: who is let in, what a renewed one changes, what a broken one does not.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::daemon::{Daemon, text};

const CONFIG: &str = "model = \"tiny\"\n[network.tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n\
                      [[station]]\nname = \"piano\"\nwatch = false\nseed = 3\n";

/// A new certificate and its key, and a copy of it for those who are to believe it.
fn renew(dir: &Path, copy: &str) {
    let names = ["localhost", "127.0.0.1"].map(String::from);
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    fs::write(dir.join(copy), made.cert.pem()).unwrap();
}

fn longwave(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longwave"));
    let command = command
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    command.output().unwrap()
}

fn control(daemon: &Daemon, ca: &Path) -> bool {
    let url = format!("https://{}", daemon.address);
    let output = longwave(&["control", "piano", "--url", &url, "--ca", text(ca)]);
    output.status.success() && String::from_utf8_lossy(&output.stdout).contains("seed=3")
}

#[test]
fn a_certificate_is_renewed_while_it_plays_and_a_broken_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    renew(dir.path(), "first.pem");
    fs::write(at("c.toml"), CONFIG).unwrap();
    let mut daemon = Daemon::start_bare(&["--no-card", "--config", text(&at("c.toml"))], &[]);
    assert!(daemon.has_said("https://"));
    assert!(control(&daemon, &at("first.pem")));
    // Somebody who listens all the while.
    let url = format!("wss://{}/v1/stations/piano/stream", daemon.address);
    let (wav, ca) = (at("heard.wav"), at("first.pem"));
    let mut listener = Command::new(env!("CARGO_BIN_EXE_longwave"))
        .args(["listen", &url, "--ca", text(&ca), "--seconds", "6"])
        .args(["--output", text(&wav)])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(listener.stderr.take().unwrap());
    let mut connected = String::new();
    said.read_line(&mut connected).unwrap();
    assert!(connected.starts_with("piano of wss://"), "{connected}");
    renew(dir.path(), "second.pem");
    daemon.signal("HUP");
    daemon.log_line("the configuration was read again");
    assert!(control(&daemon, &at("second.pem")));
    assert!(!control(&daemon, &at("first.pem")), "the old one is gone");
    fs::write(at("key.pem"), "no key").unwrap();
    daemon.signal("HUP");
    let line = daemon.log_line("all stays as it was");
    assert!(line.contains("key.pem holds no private key"), "{line}");
    assert!(control(&daemon, &at("second.pem")));
    assert!(listener.wait().unwrap().success());
    let bytes = fs::metadata(&wav).unwrap().len();
    assert!(bytes >= 6 * 2 * 8_000, "{bytes} bytes heard");
}

#[test]
fn a_daemon_without_its_key_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    renew(dir.path(), "ours.pem");
    fs::remove_file(dir.path().join("key.pem")).unwrap();
    let file = dir.path().join("c.toml");
    fs::write(&file, CONFIG).unwrap();
    misses("key.pem", &["--config", text(&file)], "");
    // Of a service's credentials one alone means encryption, too.
    fs::rename(dir.path().join("cert.pem"), dir.path().join("tls-cert")).unwrap();
    misses("tls-key", &["--model", "tiny"], text(dir.path()));
}

/// A daemon with these credentials says that it cannot read a file, and does not start.
fn misses(file: &str, arguments: &[&str], credentials: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longwave"));
    let command = command
        .args(["serve", "--listen", "127.0.0.1:0", "--no-card"])
        .args(arguments)
        .env("CREDENTIALS_DIRECTORY", credentials)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(
        said.contains("cannot read") && said.contains(file),
        "{said}"
    );
}
