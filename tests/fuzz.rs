//! The corpora of the fuzz targets, gone through on any toolchain: `fuzz/corpus/TARGET/` holds inputs
//! that reach what others do not, and every input that once was a finding.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;
use std::process::Command;

fn go_through(name: &str, target: fn(&[u8])) {
    let dir = Path::new("fuzz/corpus").join(name);
    let files = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut n = 0;
    for file in files {
        let path = file.unwrap().path();
        println!("{}", path.display());
        let input = fs::read(&path).unwrap();
        target(&input);
        // Cut short, as a connection that breaks off leaves it.
        target(&input[..input.len() / 2]);
        n += 1;
    }
    assert!(n > 0, "{} is empty", dir.display());
}

#[test]
fn protocol() {
    go_through("protocol", targets::protocol);
}

#[test]
fn config() {
    go_through("config", targets::config);
}

#[test]
fn model() {
    go_through("model", targets::model);
}

#[test]
fn prompt() {
    go_through("prompt", targets::prompt);
}

#[test]
fn a_target_that_there_is_not_is_no_finding() {
    let output = Command::new("scripts/fuzz").args(["1", "protocl"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        "there is no target protocl; the targets are: protocol config model prompt\n"
    );
}
