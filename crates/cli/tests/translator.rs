//! The translator's own judges, and what it promises, on a Linux that boots from the image `tiny` (built if it is not in the cache).
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

mod common;

use common::{run, stderr};

/// Runs `command` in `tiny` translated, and gives the translator's statistics.
fn translated(options: &[&str], command: &[&str]) -> serde_json::Value {
    let image = run(&["image", "build", "tiny"]);
    assert!(image.status.success(), "{}", stderr(&image));
    let mut args = vec!["-q", "run", "--engine", "soft", "--tier", "2", "--timeout", "900s", "--stats=json"];
    args.extend(options);
    args.extend(["tiny", "--"]);
    args.extend(command);
    let out = run(&args);
    assert_eq!(out.status.code(), Some(0), "{}", stderr(&out));
    let text = stderr(&out);
    let line = text.lines().find(|l| l.starts_with('{')).unwrap_or_else(|| panic!("no statistics: {text}"));
    let all: serde_json::Value = serde_json::from_str(line).unwrap();
    all["cpus"][0]["translator"].clone()
}

fn number(stats: &serde_json::Value, name: &str) -> u64 {
    stats[name].as_u64().unwrap_or_else(|| panic!("{name} of {stats}"))
}

#[test]
fn a_boot_in_lockstep_finds_no_difference() {
    let stats = translated(&["--debug", "lockstep"], &["true"]);
    assert!(number(&stats, "lockstep_blocks") > 1_000_000, "{stats}");
    assert_eq!(number(&stats, "lockstep_differences"), 0, "{stats}");
}

#[test]
fn a_range_of_blocks_is_translated_and_the_rest_interpreted() {
    let stats = translated(&["--debug", "translate-range=1000..3000"], &["true"]);
    // Of some of the 2,000 nothing can be translated.
    assert!((1_900..=2_000).contains(&number(&stats, "blocks")), "{stats}");
}

/// What has been translated once serves every process that maps the same file.
#[test]
fn programs_that_run_again_are_not_translated_again() {
    let times = |n: u32| {
        let script = format!("i=0; while [ $i -lt {n} ]; do ls -l /usr/bin > /dev/null; i=$((i + 1)); done");
        number(&translated(&[], &["sh", "-c", &script]), "blocks")
    };
    // Code is translated when it is met for the third time.
    let (none, some, many) = (times(0), times(6), times(46));
    let first = some.saturating_sub(none);
    assert!(first > 1_000, "{none} blocks, {some} with the program");
    let further = many.saturating_sub(some) / 40;
    assert!(further < first / 20, "{further} blocks for each time after {first} for the first ones");
}
