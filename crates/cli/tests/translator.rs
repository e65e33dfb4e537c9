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

/// Writes 140,000 functions of 32 bytes and calls all of them, four times one after the other, which is more than a cache of 64 MiB has
/// room for. Each reads and writes four places that share no check, as much code for its length as a kernel's.
#[rustfmt::skip]
const MANY_FUNCTIONS: &[u8] = &[
    0xbc, 0x00, 0x00, 0x1f, 0x00,                               // mov esp, 1f0000h
    0xfc,                                                       // cld
    0xba, 0xe0, 0x22, 0x02, 0x00,                               // mov edx, 140000
    0xbf, 0x00, 0x00, 0x20, 0x00,                               // mov edi, 200000h
    0xbe, 0x95, 0x00, 0x10, 0x00,                               // 10: mov esi, template
    0xb9, 0x08, 0x00, 0x00, 0x00,                               // mov ecx, 8
    0xf3, 0xa5,                                                 // rep movsd
    0x4a,                                                       // dec edx
    0x75, 0xf1,                                                 // jnz 10
    0xc7, 0x05, 0x00, 0x80, 0x1f, 0x00, 0x04, 0x00, 0x00, 0x00, // mov [1f8000h], 4
    0xc7, 0x05, 0x04, 0x80, 0x1f, 0x00, 0x00, 0x00, 0x20, 0x00, // 29: mov [1f8004h], 200000h
    0xbb, 0x00, 0x90, 0x1f, 0x00,                               // 33: mov ebx, 1f9000h
    0xbe, 0x00, 0xa0, 0x1f, 0x00,                               // mov esi, 1fa000h
    0xbf, 0x00, 0xb0, 0x1f, 0x00,                               // mov edi, 1fb000h
    0xbd, 0x00, 0xc0, 0x1f, 0x00,                               // mov ebp, 1fc000h
    0xff, 0x15, 0x04, 0x80, 0x1f, 0x00,                         // call [1f8004h]
    0x83, 0x05, 0x04, 0x80, 0x1f, 0x00, 0x20,                   // add [1f8004h], 32
    0x81, 0x3d, 0x04, 0x80, 0x1f, 0x00, 0x00, 0x5c, 0x64, 0x00, // cmp [1f8004h], 200000h + 32 * 140000
    0x72, 0xd3,                                                 // jb 33
    0xff, 0x0d, 0x00, 0x80, 0x1f, 0x00,                         // dec [1f8000h]
    0x66, 0xba, 0xf4, 0x00,                                     // mov dx, f4h
    0x75, 0xbd,                                                 // jnz 29
    0x31, 0xc0, 0xee, 0xf4,                                     // xor eax, eax; out dx, al; hlt
    0x90, 0x90, 0x90,
    // template: mov eax, [ebx]; mov ecx, [esi]; add eax, ecx; jz +2; mov [ebx], eax; mov edx, [edi]; xor eax, edx; mov [ebp], eax; ret
    0x8b, 0x03, 0x8b, 0x0e, 0x01, 0xc8, 0x74, 0x02, 0x89, 0x03, 0x8b, 0x17, 0x31, 0xd0, 0x89, 0x45, 0x00, 0xc3,
    0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90,
];

/// kB of the process's memory that are not the guest's RAM: each page once, however often it is mapped.
fn beside_ram(process: u32) -> Option<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{process}/smaps")).ok()?;
    let (mut ram, mut sum) = (false, 0);
    for line in maps.lines() {
        if let Some(size) = line.strip_prefix("Pss:") {
            sum += if ram { 0 } else { size.trim().trim_end_matches(" kB").parse::<u64>().ok()? };
        } else if line.split_once(' ').is_some_and(|(range, _)| range.contains('-')) {
            ram = line.contains("memfd:visor-ram");
        }
    }
    Some(sum)
}

#[test]
fn a_full_code_cache_and_all_that_is_known_of_it_take_less_than_192_mib() {
    let kernel = common::file("functions", &common::multiboot(MANY_FUNCTIONS));
    let args = ["-q", "run", "--engine", "soft", "--memory", "64M", "--net", "none", "--debug-exit", "--stats=json"];
    let mut command = common::visor(&args);
    command.arg("--kernel").arg(kernel).stderr(std::process::Stdio::piped());
    let mut visor = command.spawn().unwrap();
    let mut most = 0;
    while visor.try_wait().unwrap().is_none() {
        most = most.max(beside_ram(visor.id()).unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let out = visor.wait_with_output().unwrap();
    let text = stderr(&out);
    let line = text.lines().find(|l| l.starts_with('{')).unwrap_or_else(|| panic!("no statistics: {text}"));
    let all: serde_json::Value = serde_json::from_str(line).unwrap();
    let stats = &all["cpus"][0]["translator"];
    assert!(number(stats, "flushes") >= 1, "it has been full: {stats}");
    println!("{most} kB beside the guest's RAM");
    assert!((64 << 10..192 << 10).contains(&most), "{most} kB");
}
