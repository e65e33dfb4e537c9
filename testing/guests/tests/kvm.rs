//! The suite on the KVM engine, where this host has it.
//!
//! Some hosts have a page-table KVM without hardware virtualization ("kvm-pvm"), which emulates privileged guest code in the
//! kernel. That emulator is incomplete; what was seen to be wrong in it is excused there, and only there.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use visor_engine_kvm::KvmEngine;
use visor_engine_soft::SoftEngine;
use visor_test_guests::conformance::{self, Excuse};
use visor_test_guests::{paging, scenario};

/// What a page-table KVM gets wrong. Each was seen.
const EMULATED: &[Excuse] = &[
    Excuse { program: "long/double-fault", reason: "it repeats a push without a stack for ever" },
    Excuse { program: "real/idtr-limit", reason: "it takes vectors beyond the limit of the real-mode IDT" },
    Excuse { program: "exception/double", reason: "it makes #DF of an absent gate of a benign exception" },
    Excuse { program: "debug/data-breakpoint", reason: "it has no data breakpoints" },
    Excuse { program: "paging/32-bit", reason: "it has 4-level paging only" },
    Excuse { program: "paging/accessed-dirty", reason: "it has 4-level paging only" },
    Excuse { program: "paging/invalidation", reason: "it has 4-level paging only" },
    Excuse { program: "paging/global", reason: "it has 4-level paging only" },
    Excuse { program: "paging/crossing", reason: "it has 4-level paging only" },
    Excuse { program: "paging/pae", reason: "it has 4-level paging only" },
    Excuse { program: "modify/alias", reason: "it has 4-level paging only" },
    Excuse { program: "long/ring3", reason: "it cannot run ring 3" },
    Excuse { program: "long/ring3-interrupt", reason: "it cannot run ring 3" },
    Excuse { program: "long/syscall", reason: "it cannot run ring 3" },
    Excuse { program: "long/sysret32", reason: "it cannot run ring 3" },
    Excuse { program: "long/call-gate", reason: "it cannot run ring 3" },
    Excuse { program: "long/umip", reason: "it cannot run ring 3" },
    Excuse { program: "long/tsd-pce", reason: "it cannot run ring 3" },
    Excuse { program: "inline/syscall", reason: "it cannot run ring 3" },
    Excuse { program: "inline/flags", reason: "it cannot run ring 3" },
    Excuse { program: "inline/time", reason: "it cannot run ring 3" },
    Excuse { program: "narrow/turns", reason: "it cannot run ring 3" },
    Excuse { program: "narrow/ends", reason: "accesses beyond 4 GiB wrap" },
    Excuse { program: "long/iretq", reason: "it refuses a null SS in ring 0" },
    Excuse {
        program: "long/canonical",
        reason: "#PF instead of #GP for an access across the edge of the canonical range",
    },
    Excuse { program: "long/control-registers", reason: "it ignores the upper halves of CR0 and CR4" },
    Excuse { program: "irq/sti-shadow", reason: "it looks at interrupts only now and then" },
    Excuse { program: "irq/x2apic", reason: "it accepts reserved bits in x2APIC registers" },
];

/// What QEMU's software CPU gets wrong as the host of a real kvm_amd (`cargo xtask kvm-svm`): the guest's instructions are its, and
/// so are these. Each was seen with QEMU 7.2; none of them is KVM's or visor's to mend.
const QEMU_CPU: &[Excuse] = &[
    Excuse { program: "real/segment-arithmetic", reason: LIMITS },
    Excuse { program: "real/protected-and-back", reason: LIMITS },
    Excuse { program: "protected/limits", reason: LIMITS },
    Excuse { program: "protected/null-and-kinds", reason: LIMITS },
    Excuse { program: "long/compatibility", reason: LIMITS },
    Excuse { program: "real/idtr-limit", reason: "it saves the address after an INT that faults" },
    Excuse { program: "protected/gate-dpl", reason: "it saves the address after an INT that faults" },
    Excuse { program: "protected/iret", reason: "#NP instead of #SS for an absent stack segment" },
    Excuse { program: "task/jmp", reason: "its task switches set no TS" },
    Excuse { program: "task/faults", reason: "faults of its task switches come at the wrong instruction" },
    Excuse { program: "task/ldt-and-cr3", reason: "its task switches know no T flag" },
    Excuse { program: "exception/faults", reason: "it executes LOCK MOV" },
    Excuse { program: "exception/mf-xm", reason: "it raises no #XM, and #MF late" },
    Excuse { program: "exception/ac", reason: "it checks no alignment" },
    Excuse { program: "exception/double", reason: "it makes no #DF of two contributory faults under SVM" },
    Excuse { program: "long/double-fault", reason: "it gives wrong error codes for faults while delivering faults" },
    Excuse { program: "debug/faults-and-step", reason: DEBUG },
    Excuse { program: "debug/data-breakpoint", reason: DEBUG },
    Excuse { program: "debug/io-breakpoint", reason: DEBUG },
    Excuse { program: "debug/registers", reason: DEBUG },
    Excuse { program: "paging/32-bit", reason: PAGE_FAULTS },
    Excuse { program: "paging/crossing", reason: PAGE_FAULTS },
    Excuse { program: "paging/pae", reason: PAGE_FAULTS },
    Excuse { program: "paging/large-pages", reason: PAGE_FAULTS },
    Excuse { program: "long/iretq", reason: "it refuses a null SS" },
    Excuse { program: "long/fs-gs", reason: CANONICAL },
    Excuse { program: "long/fsgsbase", reason: CANONICAL },
    Excuse { program: "long/canonical", reason: CANONICAL },
    Excuse { program: "long/cr8", reason: "it ignores reserved bits of CR8" },
    Excuse { program: "long/control-registers", reason: "its VMRUN refuses a state that MOV to CR0 has made" },
    Excuse { program: "long/syscall", reason: "SYSCALL loses the status flags" },
    Excuse { program: "inline/syscall", reason: "SYSCALL loses the status flags" },
    Excuse { program: "irq/x2apic", reason: "kvm_amd of its kernel takes reserved bits of x2APIC registers" },
    Excuse { program: "io/mmio-sse", reason: "KVM's instruction emulator knows few SSE instructions" },
];
const DEBUG: &str = "its debug registers and single steps are wrong under SVM";
const LIMITS: &str = "it checks no segment limits and rights";
const PAGE_FAULTS: &str = "it gives wrong error codes for reserved bits and read-modify-writes";
const CANONICAL: &str = "it checks few addresses for being canonical";

fn engine() -> Option<KvmEngine> {
    KvmEngine::new().inspect_err(|e| println!("skipped: {e}")).ok()
}

/// Whether the host's KVM emulates guest code because it has no hardware for it.
fn emulated() -> bool {
    Path::new("/sys/module/kvm_pvm").exists()
}

/// Whether the host itself is a machine whose CPU is QEMU's software.
fn on_qemu_cpu() -> bool {
    let signature = std::arch::x86_64::__cpuid(0x4000_0000);
    [signature.ebx, signature.ecx, signature.edx] == [*b"TCGT", *b"CGTC", *b"GTCG"].map(u32::from_le_bytes)
}

/// Whether an account only says that the host's emulator gave up.
fn gave_up(account: &str) -> bool {
    account.contains("InternalError")
}

#[track_caller]
fn well(account: Result<String, visor_engine::EngineError>) {
    match account {
        Ok(account) => assert!(account.is_empty(), "\n{account}"),
        Err(e) if emulated() && gave_up(&format!("{e:?}")) => println!("skipped: this host's KVM: {e}"),
        Err(e) => panic!("{e:?}"),
    }
}

#[test]
fn programs() {
    let Some(engine) = engine() else { return };
    let filter = std::env::var("VISOR_GUEST").unwrap_or_default();
    let excuses = match () {
        () if emulated() => EMULATED,
        () if on_qemu_cpu() => QEMU_CPU,
        () => &[],
    };
    let mut report = conformance::engine(&engine, excuses, &filter);
    if emulated() {
        let (unable, failed) = report.failed.into_iter().partition(|(_, what)| gave_up(what));
        report.failed = failed;
        report.skipped.extend::<Vec<_>>(unable);
    }
    println!("{}", report.text());
    assert!(report.failed.is_empty(), "{}", report.text());
    assert!(filter.len() > 1 || report.passed.len() >= 20, "hardly anything was run\n{}", report.text());
}

#[test]
fn paging_matrix() {
    let Some(engine) = engine() else { return };
    if on_qemu_cpu() {
        return println!("skipped: {PAGE_FAULTS}");
    }
    well(paging::check(&engine));
}

#[test]
fn triple_fault() {
    let Some(engine) = engine() else { return };
    well(scenario::triple_fault(&engine));
}

#[test]
fn kick() {
    let Some(engine) = engine() else { return };
    well(scenario::kick(&engine));
}

#[test]
fn reset_state() {
    let Some(engine) = engine() else { return };
    well(scenario::reset_state(&engine));
}

#[test]
fn save_and_restore() {
    let Some(engine) = engine() else { return };
    well(scenario::migrate(&engine, &engine));
}

#[test]
fn to_the_soft_engine_and_back() {
    let Some(engine) = engine() else { return };
    let soft = SoftEngine::new().unwrap();
    well(scenario::migrate(&engine, &soft));
    well(scenario::migrate(&soft, &engine));
}

#[test]
fn accesses() {
    let Some(engine) = engine() else { return };
    well(scenario::accesses(&engine));
}
