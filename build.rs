//! Tells the program which compiler built it, and from which commit, where there is one to tell.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    if let Some(version) = answer(&rustc, &["--version"]) {
        println!("cargo:rustc-env=LONGWAVE_RUSTC={version}");
    }
    // The second line is the path below the repository's root: not empty when these sources lie,
    // unpacked from an archive, inside somebody else's repository.
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD", "--show-prefix"]) else {
        return;
    };
    if commit.contains('\n') {
        return;
    }
    let version = env!("CARGO_PKG_VERSION");
    println!("cargo:rustc-env=LONGWAVE_VERSION={version} ({commit})");
    println!("cargo:rustc-env=LONGWAVE_COMMIT={commit}");
    // Grows with every commit and checkout. A path that does not exist would rebuild each time.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && std::path::Path::new(&log).exists()
    {
        println!("cargo:rerun-if-changed={log}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    answer("git", arguments)
}

fn answer(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| answer.trim().to_owned())
}
