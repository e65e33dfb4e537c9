//! CPUID leaves as a running CPU returns them: the table, with the bits that follow its state (SDM 2A, CPUID).

use visor_fpu::XCR0_AVX;
use visor_x86::cpuid::{Regs, feature};
use visor_x86::regs::Cr4;

use crate::cpu::Cpu;
use crate::sys::keys::XCR0_PKRU;
use crate::sys::xstate::{compact_len, standard_len};

impl Cpu {
    /// What CPUID returns for `leaf` and `subleaf`. Basic leaves beyond the last one give the last one's data.
    pub(super) fn cpuid_now(&self, leaf: u32, subleaf: u32) -> Regs {
        let max = self.cpuid.get(leaf & 0xf000_0000, 0).map_or(0, |r| r.eax);
        let leaf = match leaf {
            _ if leaf <= max => leaf,
            0x4000_0000..=0x4fff_ffff => return Regs::default(),
            _ => self.cpuid.get(0, 0).map_or(0, |r| r.eax),
        };
        let mut r = self.cpuid.get(leaf, subleaf).unwrap_or_default();
        match leaf {
            1 => {
                r.ebx = (r.ebx & 0x00ff_ffff) | (self.id.0 << 24);
                if self.cr4 & Cr4::OSXSAVE.bits() != 0 {
                    r.ecx |= 1 << 27;
                }
                if !self.apic_enabled() {
                    r.edx &= !(1 << 9);
                }
            }
            // The x2APIC id is in every subleaf, valid or not; an invalid one names its own number only.
            0xb | 0x1f => {
                r.edx = self.id.0;
                if self.cpuid.get(leaf, subleaf).is_none() {
                    r.ecx = subleaf & 0xff;
                }
            }
            7 if subleaf == 0 && self.cr4 & Cr4::PKE.bits() != 0 => r.ecx |= 1 << 4,
            0xd if subleaf == 0 => r.ebx = standard_len(self.xcr0) as u32,
            0xd if subleaf == 1 => r.ebx = compact_len(self.xcr0) as u32,
            _ => {}
        }
        r
    }

    /// CPUID says "AuthenticAMD": where the vendors' instructions differ, the CPU is AMD's.
    pub(super) fn is_amd(&self) -> bool {
        self.cpuid.get(0, 0).is_some_and(|r| r.ebx == u32::from_le_bytes(*b"Auth"))
    }

    /// XCR0 bits that exist with this CPUID.
    pub(super) fn xcr0_bits(&self) -> u64 {
        if !self.cpuid.has(feature::XSAVE) {
            return 1;
        }
        let avx = if self.cpuid.has(feature::AVX) { XCR0_AVX } else { 0 };
        3 | avx | if self.cpuid.has(feature::PKU) && avx != 0 { XCR0_PKRU } else { 0 }
    }
}
