//! The suite on the software engine.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use visor_engine::{Engine, VcpuStats};
use visor_engine_soft::{HostFeatures, SoftEngine, SoftOptions, Tier};
use visor_test_guests::harness::Guest;
use visor_test_guests::{conformance, features, image, paging, random, scenario};

/// Programs for features that the soft engine announces only where the host has them.
const HOST_DEPENDENT: &[&str] = &["long/fsgsbase"];

fn engine() -> SoftEngine {
    SoftEngine::new().expect("the software engine runs anywhere")
}

/// The interpreter; the translator as it is; one that translates what it sees for the first time, so that programs which run once meet
/// it at all; and this one as it is on old hosts.
fn engines() -> impl Iterator<Item = (&'static str, SoftEngine)> {
    let absent = HostFeatures::ALL;
    [
        ("tier 1", SoftOptions { tier: Tier::Interpreter, ..SoftOptions::default() }),
        ("tier 2", SoftOptions::default()),
        ("eager tier 2", eager()),
        ("eager tier 2 without PEXT, FSGSBASE and AVX", SoftOptions { absent, ..eager() }),
    ]
    .into_iter()
    .map(|(name, options)| (name, SoftEngine::with_options(options).unwrap()))
}

#[track_caller]
fn well(account: String) {
    assert!(account.is_empty(), "\n{account}");
}

#[test]
fn programs() {
    let filter = std::env::var("VISOR_GUEST").unwrap_or_default();
    for (name, engine) in engines() {
        let report = conformance::engine(&engine, &[], &filter);
        println!("{name}:\n{}", report.text());
        assert!(report.failed.is_empty(), "{name}:\n{}", report.text());
        let missing: Vec<_> = report.skipped.iter().filter(|(name, _)| !HOST_DEPENDENT.contains(name)).collect();
        assert!(missing.is_empty(), "features that every host gives: {missing:?}");
    }
}

#[test]
fn paging_matrix() {
    for (_, engine) in engines() {
        well(paging::check(&engine).unwrap());
    }
}

#[test]
fn triple_fault() {
    well(scenario::triple_fault(&engine()).unwrap());
}

#[test]
fn halted() {
    well(scenario::halted(&engine()).unwrap());
}

#[test]
fn kick() {
    well(scenario::kick(&engine()).unwrap());
}

#[test]
fn reset_state() {
    well(scenario::reset_state(&engine()).unwrap());
}

#[test]
fn save_and_restore() {
    well(scenario::migrate(&engine(), &engine()).unwrap());
}

#[test]
fn random_bytes() {
    let seeds = std::env::var("VISOR_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(8);
    for seed in 0..seeds {
        well(random::run(&engine(), seed, Duration::from_millis(150)).unwrap());
    }
}

#[test]
fn accesses() {
    well(scenario::accesses(&engine()).unwrap());
}

/// What the CPUs did in `program` on an engine with `options`.
fn counted(program: &str, vcpus: u32, options: SoftOptions) -> Vec<VcpuStats> {
    let engine = SoftEngine::with_options(options).unwrap();
    let mut guest = Guest::new(&engine, &image::program(program), vcpus).unwrap();
    let outcome = guest.run_all(Duration::from_secs(60)).unwrap();
    assert_eq!(outcome.exit, Some(0), "{program} ends: {}", outcome.differences());
    std::iter::once(&guest.boot).chain(&guest.others).map(|cpu| cpu.stats()).collect()
}

/// Translates at once, and proves that what it emits is harmless.
fn eager() -> SoftOptions {
    SoftOptions { eager: true, verify: true, ..SoftOptions::default() }
}

#[test]
fn a_block_that_is_rewritten_all_the_time() {
    let stats = counted("modify/rewrite", 1, eager())[0].translator;
    let times = 100_000;
    assert!((times..3 * times).contains(&stats.blocks), "{} translations", stats.blocks);
    assert!((times - 2..3 * times).contains(&stats.invalidations.own_store), "{:?}", stats.invalidations);
    assert_eq!(stats.invalidations.device + stats.invalidations.other_cpu, 0, "{:?}", stats.invalidations);
    assert!(stats.links_made < 3 * times, "{} links", stats.links_made);
}

#[test]
fn whoever_changes_code_is_named() {
    let by_device = counted("modify/dma", 1, eager())[0].translator.invalidations;
    assert!(by_device.device >= 3, "{by_device:?}");
    assert_eq!(by_device.other_cpu, 0, "{by_device:?}");
    let cpus = counted("smp/cross-modify", 2, eager());
    let by_other: u64 = cpus.iter().map(|c| c.translator.invalidations.other_cpu).sum();
    assert!(by_other > 0, "{cpus:?}");
    assert!(cpus.iter().all(|c| c.translator.invalidations.device == 0), "{cpus:?}");
}

#[test]
fn instructions_are_counted_once_or_not_at_all() {
    let turns = 6 * 20_000;
    let interpreter = SoftOptions { tier: Tier::Interpreter, ..SoftOptions::default() };
    let exact = counted("drive/counted", 1, interpreter)[0].instructions;
    assert!((turns..turns + 20_000).contains(&exact), "{exact}");
    for eager in [false, true] {
        let stats = &counted("drive/counted", 1, SoftOptions { eager, count: true, ..SoftOptions::default() })[0];
        assert!(stats.translator.interpreted >= 2 * 19_900, "{stats:?}");
        assert!(stats.instructions.abs_diff(exact) < exact / 50, "{} instead of {exact}", stats.instructions);
    }
    assert_eq!(counted("drive/counted", 1, SoftOptions::default())[0].instructions, 0, "not asked for");
}

/// Programs for one CPU that the engine has the features for.
fn alone() -> impl Iterator<Item = image::Program> {
    let cpuid = engine().caps().cpuid.clone();
    image::programs().into_iter().filter(move |p| {
        !p.name.starts_with("drive/") && !p.name.starts_with("smp/") && p.needs.iter().all(|f| features::has(&cpuid, f))
    })
}

#[test]
fn lockstep_finds_no_difference() {
    let mut compared = 0;
    for program in alone().chain([image::program("drive/compute-64")]) {
        let name = program.name;
        let stats = &counted(name, 1, SoftOptions { lockstep: true, ..eager() })[0].translator;
        assert_eq!(stats.lockstep_differences, 0, "{name}: {stats:?}");
        compared += stats.lockstep_blocks;
    }
    assert!(compared > 100_000, "{compared}");
}

#[test]
fn a_range_of_blocks_is_translated_and_the_rest_interpreted() {
    let blocks = |range| counted("drive/compute-64", 1, SoftOptions { bisect: range, ..eager() })[0].translator.blocks;
    let all = blocks(None);
    assert!(all >= 10, "{all}");
    assert_eq!((blocks(Some(0..3)), blocks(Some(3..8)), blocks(Some(1_000_000..1_000_001))), (3, 5, 0));
    let halves = [blocks(Some(0..all / 2)), blocks(Some(all / 2..u64::MAX))];
    assert!(halves.iter().sum::<u64>() >= all && halves[0] == all / 2, "{halves:?} of {all}");
}

#[test]
fn the_verifier_accepts_what_is_emitted() {
    for absent in [HostFeatures::default(), HostFeatures::ALL] {
        for program in alone().chain([image::program("drive/compute-64")]) {
            let stats = &counted(program.name, 1, SoftOptions { absent, ..eager() })[0];
            let refused = stats.exits.helpers.iter().find(|h| h.name == "verifier_refused").map(|h| h.count);
            assert_eq!(refused, Some(0), "{}", program.name);
        }
    }
}
