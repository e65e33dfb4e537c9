//! CPU features by name, as CPUID tells them (SDM 2A, CPUID).

use visor_x86::cpuid::Cpuid;

/// Whether the table announces `name`; names are those of Linux's `/proc/cpuinfo`.
///
/// # Panics
/// For a name that no program uses.
pub fn has(cpuid: &Cpuid, name: &str) -> bool {
    let leaf = |l, s| cpuid.get(l, s).unwrap_or_default();
    let bit = |word: u32, n: u32| word >> n & 1 == 1;
    match name {
        "vme" => bit(leaf(1, 0).edx, 1),
        "pse" => bit(leaf(1, 0).edx, 3),
        "pae" => bit(leaf(1, 0).edx, 6),
        "de" => bit(leaf(1, 0).edx, 2),
        "sep" => bit(leaf(1, 0).edx, 11),
        "pge" => bit(leaf(1, 0).edx, 13),
        "sse2" => bit(leaf(1, 0).edx, 26),
        "pcid" => bit(leaf(1, 0).ecx, 17),
        "x2apic" => bit(leaf(1, 0).ecx, 21),
        "tsc_deadline_timer" => bit(leaf(1, 0).ecx, 24),
        "xsave" => bit(leaf(1, 0).ecx, 26),
        "avx" => bit(leaf(1, 0).ecx, 28),
        "fsgsbase" => bit(leaf(7, 0).ebx, 0),
        "smep" => bit(leaf(7, 0).ebx, 7),
        "invpcid" => bit(leaf(7, 0).ebx, 10),
        "smap" => bit(leaf(7, 0).ebx, 20),
        "umip" => bit(leaf(7, 0).ecx, 2),
        "syscall" => bit(leaf(0x8000_0001, 0).edx, 11),
        "nx" => bit(leaf(0x8000_0001, 0).edx, 20),
        "pdpe1gb" => bit(leaf(0x8000_0001, 0).edx, 26),
        "lm" => bit(leaf(0x8000_0001, 0).edx, 29),
        "rdtscp" => bit(leaf(0x8000_0001, 0).edx, 27),
        "intel" => leaf(0, 0).ebx == u32::from_le_bytes(*b"Genu"),
        "amd" => leaf(0, 0).ebx == u32::from_le_bytes(*b"Auth"),
        other => panic!("unknown CPU feature {other}"),
    }
}
