//! Builds the echo program of the fixtures as one static executable, so that it runs in an image
//! `FROM scratch`. A plain `cargo build` cannot: its flags hold for the whole workspace.

use std::{env, path::PathBuf, process::Command};

const SOURCE: &str = "echo/main.rs";

fn main() {
    println!("cargo::rerun-if-changed=echo");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("echo");
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let status = Command::new(rustc)
        .args(["--edition=2024", "--crate-name=echo", "-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols"])
        .args(["-Ctarget-feature=+crt-static", "--target"])
        .arg(env::var_os("TARGET").expect("cargo sets TARGET"))
        .arg(SOURCE)
        .arg("-o")
        .arg(&out)
        .status()
        .expect("rustc runs");
    assert!(status.success(), "rustc could not build {SOURCE}: {status}");
}
