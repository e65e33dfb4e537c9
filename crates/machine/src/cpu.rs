//! CPU models: which of an engine's CPUID features a guest is shown.
//!
//! The levels are those of the x86-64 psABI ("x86-64-v2" and so on), cut to what the engine can honour.

use visor_x86::cpuid::{Cpuid, Regs};

/// A CPU model.
#[derive(Clone, Copy, Debug)]
pub struct CpuModel {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    hidden: &'static [Hide],
    /// Poses as an AMD processor.
    amd: bool,
}

/// Feature bits that a model hides: leaf, subleaf, and a mask per register.
type Hide = (u32, u32, Regs);

const AVX_512: u32 = 1 << 16 | 1 << 17 | 1 << 21 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 30 | 1 << 31;
const NOTHING: Regs = Regs { eax: 0, ebx: 0, ecx: 0, edx: 0 };

/// Beyond x86-64-v3: AVX-512 and protection keys.
const BEYOND_V3: Hide = (7, 0, Regs { ebx: AVX_512, ecx: KEYS, ..NOTHING });
/// PKU, OSPKE and PKS.
const KEYS: u32 = 1 << 3 | 1 << 4 | 1 << 31;
/// PKRU among the extended states; it is the last one and takes eight bytes.
const NO_PKRU: Hide = (0xd, 0, Regs { eax: 1 << 9, ebx: 8, ecx: 8, ..NOTHING });
const NO_PKRU_LEAF: Hide = (0xd, 9, Regs { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX });
/// Beyond x86-64-v2: FMA, MOVBE, XSAVE, AVX, F16C.
const BEYOND_V2: Hide = (1, 0, Regs { ecx: 1 << 12 | 1 << 22 | 1 << 26 | 1 << 28 | 1 << 29, ..NOTHING });
/// BMI1, AVX2, BMI2, and what needs the AVX state: VAES, VPCLMULQDQ, GFNI stays.
const BEYOND_V2_7: Hide =
    (7, 0, Regs { ebx: AVX_512 | 1 << 3 | 1 << 5 | 1 << 8, ecx: 1 << 9 | 1 << 10 | KEYS, ..NOTHING });
/// LZCNT.
const BEYOND_V2_EXT: Hide = (0x8000_0001, 0, Regs { ecx: 1 << 5, ..NOTHING });
/// The XSAVE leaf itself.
const NO_XSAVE: Hide = (0xd, 0, Regs { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX });

/// What x86-64-v2 lacks.
const V2: &[Hide] = &[BEYOND_V2, BEYOND_V2_7, BEYOND_V2_EXT, NO_XSAVE];

/// All models.
pub const MODELS: &[CpuModel] = &[
    CpuModel { name: "max", about: "everything the engine can do", hidden: &[], amd: false },
    CpuModel {
        name: "x86-64-v3",
        about: "AVX2, BMI, FMA; no AVX-512",
        hidden: &[BEYOND_V3, NO_PKRU, NO_PKRU_LEAF],
        amd: false,
    },
    CpuModel { name: "x86-64-v2", about: "SSE4.2 and POPCNT; no AVX", hidden: V2, amd: false },
    CpuModel {
        name: "x86-64-v2-amd",
        about: "as x86-64-v2, but of AMD: SYSCALL works in 32-bit programs",
        hidden: V2,
        amd: true,
    },
];

/// The CPUID table of a machine with CPUs of the model called `name`; `None` if there is no such model.
pub(crate) fn table(name: &str, offered: &Cpuid, cpus: u32) -> Option<Cpuid> {
    let model = MODELS.iter().find(|m| m.name == name)?;
    let mut table = offered.clone();
    for (leaf, subleaf, mask) in model.hidden {
        let found = |e: &&mut visor_x86::cpuid::Entry| e.leaf == *leaf && e.subleaf.is_none_or(|s| s == *subleaf);
        for e in table.entries.iter_mut().filter(|e| found(e)) {
            e.regs.eax &= !mask.eax;
            e.regs.ebx &= !mask.ebx;
            e.regs.ecx &= !mask.ecx;
            e.regs.edx &= !mask.edx;
        }
    }
    if model.amd {
        pose_as_amd(&mut table);
    }
    topology(&mut table, cpus);
    Some(table)
}

/// Vendor and signature of an Opteron (family 0Fh, model 6, stepping 1).
fn pose_as_amd(table: &mut Cpuid) {
    for e in &mut table.entries {
        match e.leaf {
            0 | 0x8000_0000 => {
                e.regs.ebx = u32::from_le_bytes(*b"Auth");
                e.regs.edx = u32::from_le_bytes(*b"enti");
                e.regs.ecx = u32::from_le_bytes(*b"cAMD");
            }
            1 | 0x8000_0001 => e.regs.eax = 0x0f61,
            _ => {}
        }
    }
}

/// One package of `cpus` cores without threads (SDM 2A, CPUID leaves 1, 4 and 0Bh).
fn topology(table: &mut Cpuid, cpus: u32) {
    for e in &mut table.entries {
        match (e.leaf, e.subleaf) {
            (1, _) => {
                e.regs.ebx = e.regs.ebx & !0x00ff_0000 | cpus.min(255) << 16;
                // HTT: the field above is valid.
                e.regs.edx = e.regs.edx & !(1 << 28) | u32::from(cpus > 1) << 28;
            }
            (4, _) if e.regs.eax & 0x1f != 0 => {
                let cores = cpus.next_power_of_two().min(64) - 1;
                e.regs.eax = e.regs.eax & 0x03ff_ffff | cores << 26;
            }
            (0xb, Some(0)) => (e.regs.eax, e.regs.ebx, e.regs.ecx) = (0, 1, 1 << 8),
            (0xb, Some(1)) => {
                (e.regs.eax, e.regs.ebx, e.regs.ecx) = (cpus.next_power_of_two().trailing_zeros(), cpus, 2 << 8 | 1);
            }
            _ => {}
        }
    }
}

/// The processor's brand string (leaves 80000002h to 80000004h).
pub(crate) fn brand(table: &Cpuid) -> String {
    let leaves = (0x8000_0002..=0x8000_0004).filter_map(|leaf| table.get(leaf, 0));
    let bytes: Vec<u8> = leaves.flat_map(|r| [r.eax, r.ebx, r.ecx, r.edx]).flat_map(u32::to_le_bytes).collect();
    let text: String = bytes.iter().take_while(|b| **b != 0).map(|b| char::from(*b)).collect();
    text.trim().to_owned()
}
