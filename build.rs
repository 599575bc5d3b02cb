//! Tells the program which commit it was built from, where there is one to tell.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The second line is the path below the repository's root: not empty when these sources lie,
    // unpacked from an archive, inside somebody else's repository.
    let Some(answer) = git(&["rev-parse", "--short=12", "HEAD", "--show-prefix"]) else {
        return;
    };
    if answer.contains('\n') {
        return;
    }
    let version = env!("CARGO_PKG_VERSION");
    println!("cargo:rustc-env=LONGWAVE_VERSION={version} ({answer})");
    // Grows with every commit and checkout. A path that does not exist would rebuild each time.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && std::path::Path::new(&log).exists()
    {
        println!("cargo:rerun-if-changed={log}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| answer.trim().to_owned())
}
