//! Every target, briefly, each in a process of its own: a panic, an abort, a process that does not end, too much memory or time is a failure,
//! whose message names the input. Always the same inputs.
#![allow(missing_docs, clippy::unwrap_used)]

use std::process::Command;
use std::sync::Mutex;
use std::thread;

use visor_test_fuzz::{Target, targets};

/// Runs `target`; gives what went wrong.
fn run(target: &Target) -> Option<String> {
    let out = Command::new(env!("CARGO_BIN_EXE_visor-fuzz"))
        .args([target.name, "--seed", "1"])
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    let say = String::from_utf8_lossy(&out.stderr).into_owned();
    print!("{}", String::from_utf8_lossy(&out.stdout));
    (!out.status.success()).then(|| format!("{} ({}): {say}", target.name, out.status))
}

#[test]
fn hostile_input_breaks_nothing() {
    let mut all: Vec<&Target> = targets().collect();
    all.reverse();
    let (left, failed) = (Mutex::new(all), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(target) = left.lock().unwrap().pop() else { break };
                    failed.lock().unwrap().extend(run(target));
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn names_are_unique_and_seeds_reach_something() {
    let mut names: Vec<&str> = targets().map(|t| t.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    for target in targets() {
        assert!(!(target.seeds)().is_empty(), "{} has no seeds", target.name);
    }
}

#[test]
fn what_breaks_is_told() {
    let out = Command::new(env!("CARGO_BIN_EXE_visor-fuzz")).args(["nothing"]).output().unwrap();
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("no target `nothing`"));
}
