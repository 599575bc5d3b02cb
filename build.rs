//! Tells the program which compiler built it, and from which commit, where there is one to tell.
//! Under `train-cuda` it also compiles `kernels/train.cu`, under `cuda` `kernels/decode.cu` and
//! `kernels/prefill.cu`; the results are embedded, so the GPU machine needs no compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_TRAIN_CUDA").is_some() {
        compile_kernels("train", "train-cuda", &[]);
    }
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some() {
        // Products and sums round each by themselves, as on a CPU.
        compile_kernels("decode", "cuda", &["-fmad=false"]);
        compile_kernels("prefill", "cuda", &["-fmad=false"]);
    }
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
        && Path::new(&log).exists()
    {
        println!("cargo:rerun-if-changed={log}");
    }
}

/// Machine code for Hopper, and PTX from which the driver of any other GPU since Ampere makes its own.
const TARGETS: [&str; 4] = [
    "-gencode",
    "arch=compute_90,code=sm_90",
    "-gencode",
    "arch=compute_80,code=compute_80",
];

/// Compiles `kernels/{name}.cu`, which a feature wants.
fn compile_kernels(name: &str, feature: &str, options: &[&str]) {
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    let out = std::env::var("OUT_DIR").expect("cargo sets it");
    let source = format!("kernels/{name}.cu");
    let status = Command::new(nvcc())
        .args(["-O3", "-std=c++17", "-lineinfo", "--fatbin"])
        .args(TARGETS)
        .args(options)
        .arg("-o")
        .arg(Path::new(&out).join(format!("{name}.fatbin")))
        .arg(&source)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("nvcc could not compile {source}: {status}"),
        Err(e) => panic!(
            "feature `{feature}` needs nvcc of CUDA 13 ({e}): run scripts/cuda-toolkit and set \
             CUDA_HOME as it says"
        ),
    }
}

/// That of `CUDA_HOME`, or else whichever the shell would find.
fn nvcc() -> PathBuf {
    let home = std::env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    match home {
        Some(nvcc) if nvcc.exists() => nvcc,
        _ => PathBuf::from("nvcc"),
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
