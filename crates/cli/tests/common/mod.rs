//! Running the program as a user does.
#![allow(dead_code, reason = "every test file uses its part")]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// `visor` with `args`.
pub(crate) fn visor(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_visor"));
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs `visor` to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    visor(args).output().unwrap()
}

/// Runs `visor` with `input` on its standard input.
pub(crate) fn run_with(args: &[&str], input: &[u8]) -> Output {
    let mut child = visor(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// Standard error as text.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Standard output as text.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A file with `content` that lives as long as the test process.
pub(crate) fn file(name: &str, content: &[u8]) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("visor-test-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// A Multiboot kernel: 32-bit code at 1 MiB behind its header (a.out-style addresses, flag 16).
pub(crate) fn multiboot(code: &[u8]) -> Vec<u8> {
    const BASE: u32 = 0x10_0000;
    const MAGIC: u32 = 0x1bad_b002;
    const FLAGS: u32 = 1 << 16;
    let entry = BASE + 32;
    let words = [MAGIC, FLAGS, 0u32.wrapping_sub(MAGIC + FLAGS), BASE, BASE, 0, 0, entry];
    words.iter().flat_map(|w| w.to_le_bytes()).chain(code.iter().copied()).collect()
}

/// Runs a program of the host to its end.
pub(crate) fn run_outside(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).stdin(Stdio::null()).output().unwrap()
}
