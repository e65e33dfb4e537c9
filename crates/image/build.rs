//! Compiles `visor-guest-init`, the program that runs inside guests, as one static executable, so that the image
//! builder (and with it the `visor` binary) carries it.
//!
//! A second cargo with its own target directory does it: the outer build's lock and flags must not reach it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROGRAM: &str = "visor-guest-init";

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let guest = here.join("../guest");
    for watched in ["src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", guest.join(watched).display());
    }
    println!("cargo::rerun-if-changed=build.rs");

    let target_dir = out.join("guest-target");
    let status = build(&guest, &target_dir).status().expect("cargo can be started");
    assert!(status.success(), "building {PROGRAM} failed: {status}");
    let program = target_dir.join(TARGET).join("release").join(PROGRAM);
    std::fs::copy(&program, out.join(PROGRAM)).expect("the program was built");
}

fn build(guest: &Path, target_dir: &Path) -> Command {
    let cargo = env::var_os("CARGO").expect("cargo sets it");
    let mut command = Command::new(cargo);
    // Whatever steers the outer build (flags, wrappers such as clippy's, the job server, profiles) is not for this one;
    // where cargo lives and finds its registry is.
    let keep = ["CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"];
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let steers = ["CARGO", "RUSTC", "RUSTFLAGS", "RUSTDOC", "MAKEFLAGS", "CLIPPY", "DEP_"];
        if steers.iter().any(|s| text.starts_with(s)) && !keep.contains(&text) && !text.starts_with("CARGO_REGISTR") {
            command.env_remove(&name);
        }
    }
    command
        .current_dir(guest)
        .args(["build", "--release", "--offline", "--locked", "--quiet", "--target", TARGET, "--bin", PROGRAM])
        .arg("--target-dir")
        .arg(target_dir)
        // Not position independent: no relocations to process when PID 1 starts. A fixed path prefix keeps the place of
        // the build out of the program.
        .env(
            "RUSTFLAGS",
            format!(
                "-Ctarget-feature=+crt-static -Crelocation-model=static --remap-path-prefix={}=guest",
                guest.display()
            ),
        )
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    command
}
