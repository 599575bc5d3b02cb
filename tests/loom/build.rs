//! Sets `longwave_loom` for this crate alone: a global `--cfg loom` would reach every dependency.

fn main() {
    println!("cargo:rustc-check-cfg=cfg(longwave_loom)");
    println!("cargo:rustc-cfg=longwave_loom");
    println!("cargo:rerun-if-changed=build.rs");
}
