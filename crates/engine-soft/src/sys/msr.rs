//! Model-specific registers (SDM 4, table 2-2).

use visor_x86::cpuid::feature;
use visor_x86::exception::Exception;
use visor_x86::msr::*;
use visor_x86::paging::{PHYS_BITS, is_canonical};
use visor_x86::regs::{Cr0, Cr4, Efer};

use crate::cpu::Cpu;
use crate::op::{Flow, Guest, Op};
use crate::sys::descriptor::{FS, GS};
use crate::sys::keys::Keys;
use crate::sys::operand::end;

/// Machine-check banks.
const BANKS: u32 = 4;
/// IA32_MCG_CAP: the number of banks, and MCG_CTL is absent.
const MCG_CAP: u64 = BANKS as u64;

/// Model-specific registers without a field of their own in [`crate::cpu::Cpu`].
#[derive(Clone, Debug)]
pub(crate) struct MsrFile {
    pub(crate) star: u64,
    pub(crate) lstar: u64,
    pub(crate) cstar: u64,
    pub(crate) fmask: u64,
    pub(crate) kernel_gs_base: u64,
    pub(crate) tsc_aux: u64,
    pub(crate) sysenter_cs: u64,
    pub(crate) sysenter_esp: u64,
    pub(crate) sysenter_eip: u64,
    pub(crate) pat: u64,
    pub(crate) tsc_adjust: u64,
    /// Rights of protection keys: IA32_PKRS, and PKRU, which is none of the MSRs.
    pub(crate) keys: Keys,
    misc_enable: u64,
    mtrr_def_type: u64,
    mtrr_fixed: [u64; 11],
    mtrr_variable: [u64; 16],
    mcg_status: u64,
    /// CTL, STATUS, ADDR, MISC of each bank.
    banks: [u64; 4 * BANKS as usize],
    bios_sign_id: u64,
    feature_control: u64,
}

impl Default for MsrFile {
    /// The values after RESET.
    fn default() -> Self {
        MsrFile {
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            tsc_aux: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            pat: PAT_RESET,
            tsc_adjust: 0,
            keys: Keys::default(),
            misc_enable: MISC_ENABLE_RESET,
            mtrr_def_type: 0,
            mtrr_fixed: [0; 11],
            mtrr_variable: [0; 16],
            mcg_status: 0,
            banks: [0; 4 * BANKS as usize],
            bios_sign_id: 0,
            feature_control: 1,
        }
    }
}

/// Registers that a snapshot keeps, in the order in which they are restored.
pub(super) const SAVED: [u32; 15] = [
    IA32_STAR,
    IA32_LSTAR,
    IA32_CSTAR,
    IA32_FMASK,
    IA32_KERNEL_GS_BASE,
    IA32_TSC_AUX,
    IA32_SYSENTER_CS,
    IA32_SYSENTER_ESP,
    IA32_SYSENTER_EIP,
    IA32_PAT,
    IA32_MISC_ENABLE,
    IA32_MTRR_DEF_TYPE,
    IA32_MCG_STATUS,
    IA32_FEATURE_CONTROL,
    IA32_PKRS,
];

/// All MSRs that a snapshot keeps: [`SAVED`], then the MTRRs and machine-check banks, then the TSC.
pub(super) fn saved() -> impl Iterator<Item = u32> {
    SAVED
        .into_iter()
        .chain(IA32_MTRR_PHYSBASE0..=IA32_MTRR_PHYSMASK7)
        .chain([IA32_MTRR_FIX64K_00000, IA32_MTRR_FIX16K_80000, IA32_MTRR_FIX16K_A0000])
        .chain(IA32_MTRR_FIX4K_C0000..=IA32_MTRR_FIX4K_F8000)
        .chain(IA32_MC0_CTL..IA32_MC0_CTL + 4 * BANKS)
        .chain([IA32_TSC_ADJUST, IA32_TSC])
}

/// Index into `mtrr_fixed`.
fn fixed_index(msr: u32) -> usize {
    match msr {
        IA32_MTRR_FIX64K_00000 => 0,
        IA32_MTRR_FIX16K_80000 => 1,
        IA32_MTRR_FIX16K_A0000 => 2,
        _ => 3 + (msr - IA32_MTRR_FIX4K_C0000) as usize % 8,
    }
}

/// Event selectors and counters that every AMD processor since the K7 has without CPUID saying so (AMD64 APM 2 §13.2); here
/// they never count.
const K7_COUNTERS_FIRST: u32 = 0xc001_0000;
const K7_COUNTERS_LAST: u32 = 0xc001_0007;

/// A memory type that PAT entries (`pat`: UC- too) and MTRRs hold.
fn is_memory_type(t: u64, pat: bool) -> bool {
    matches!(t, 0 | 1 | 4 | 5 | 6) || (pat && t == 7)
}

fn all_memory_types(value: u64, pat: bool) -> bool {
    value.to_le_bytes().into_iter().all(|t| is_memory_type(u64::from(t), pat))
}

impl Cpu {
    /// Reads `msr`; #GP(0) if it does not exist.
    pub(super) fn read_msr(&mut self, msr: u32) -> Guest<u64> {
        let m = &self.msr;
        Ok(match msr {
            IA32_P5_MC_ADDR | IA32_P5_MC_TYPE | IA32_PLATFORM_ID => 0,
            IA32_TSC => self.tsc(),
            IA32_APIC_BASE | X2APIC_FIRST..=X2APIC_LAST => return self.apic_read_msr(msr),
            IA32_PKRS if self.cpuid.has(feature::PKS) => u64::from(self.msr.keys.pkrs),
            IA32_TSC_DEADLINE if self.cpuid.has(feature::TSC_DEADLINE) => return self.apic_read_msr(msr),
            IA32_FEATURE_CONTROL => m.feature_control,
            IA32_TSC_ADJUST if self.cpuid.has(feature::TSC_ADJUST) => m.tsc_adjust,
            IA32_BIOS_SIGN_ID => m.bios_sign_id,
            MSR_PLATFORM_INFO => (self.clock.hz / 100_000_000).min(0xff) << 8,
            IA32_MTRRCAP => MTRRCAP,
            IA32_ARCH_CAPABILITIES if self.cpuid.has(feature::ARCH_CAPABILITIES) => arch_capabilities::ALL,
            IA32_SYSENTER_CS => m.sysenter_cs,
            IA32_SYSENTER_ESP => m.sysenter_esp,
            IA32_SYSENTER_EIP => m.sysenter_eip,
            IA32_MCG_CAP => MCG_CAP,
            IA32_MCG_STATUS => m.mcg_status,
            IA32_MISC_ENABLE => m.misc_enable,
            IA32_MTRR_PHYSBASE0..=IA32_MTRR_PHYSMASK7 => m.mtrr_variable[(msr - IA32_MTRR_PHYSBASE0) as usize],
            IA32_MTRR_FIX64K_00000
            | IA32_MTRR_FIX16K_80000
            | IA32_MTRR_FIX16K_A0000
            | IA32_MTRR_FIX4K_C0000..=IA32_MTRR_FIX4K_F8000 => m.mtrr_fixed[fixed_index(msr)],
            IA32_PAT => m.pat,
            IA32_MTRR_DEF_TYPE => m.mtrr_def_type,
            _ if msr.wrapping_sub(IA32_MC0_CTL) < 4 * BANKS => m.banks[(msr - IA32_MC0_CTL) as usize],
            IA32_EFER => self.efer,
            IA32_STAR => m.star,
            IA32_LSTAR => m.lstar,
            IA32_CSTAR => m.cstar,
            IA32_FMASK => m.fmask,
            IA32_FS_BASE => self.seg[FS].base,
            IA32_GS_BASE => self.seg[GS].base,
            IA32_KERNEL_GS_BASE => m.kernel_gs_base,
            IA32_TSC_AUX if self.cpuid.has(feature::RDTSCP) => m.tsc_aux,
            K7_COUNTERS_FIRST..=K7_COUNTERS_LAST if self.is_amd() => 0,
            _ => {
                tracing::trace!(msr, "read of an unknown MSR");
                return self.fail(Exception::gp(0));
            }
        })
    }

    /// Writes `msr`; #GP(0) if it does not exist or refuses the value.
    pub(super) fn write_msr(&mut self, msr: u32, value: u64) -> Guest<()> {
        if !self.accepts_msr(msr, value) {
            tracing::trace!(msr, value, "refused write to an MSR");
            return self.fail(Exception::gp(0));
        }
        let m = &mut self.msr;
        match msr {
            IA32_TSC => self.set_tsc(value),
            IA32_APIC_BASE | IA32_TSC_DEADLINE | X2APIC_FIRST..=X2APIC_LAST => {
                return self.apic_write_msr(msr, value);
            }
            IA32_FEATURE_CONTROL => m.feature_control = value,
            IA32_TSC_ADJUST => {
                let delta = value.wrapping_sub(m.tsc_adjust);
                m.tsc_adjust = value;
                self.tsc_offset = self.tsc_offset.wrapping_add(delta);
                self.rearm_timer();
            }
            IA32_PKRS => self.set_pkrs(value as u32),
            IA32_BIOS_SIGN_ID => m.bios_sign_id = value,
            IA32_SYSENTER_CS => m.sysenter_cs = value & 0xffff_ffff,
            IA32_SYSENTER_ESP => m.sysenter_esp = value,
            IA32_SYSENTER_EIP => m.sysenter_eip = value,
            IA32_MCG_STATUS => m.mcg_status = value,
            IA32_MISC_ENABLE => {
                m.misc_enable = (value & MISC_ENABLE_WRITABLE) | (MISC_ENABLE_RESET & !MISC_ENABLE_WRITABLE);
            }
            IA32_MTRR_PHYSBASE0..=IA32_MTRR_PHYSMASK7 => {
                m.mtrr_variable[(msr - IA32_MTRR_PHYSBASE0) as usize] = value;
            }
            IA32_MTRR_FIX64K_00000
            | IA32_MTRR_FIX16K_80000
            | IA32_MTRR_FIX16K_A0000
            | IA32_MTRR_FIX4K_C0000..=IA32_MTRR_FIX4K_F8000 => m.mtrr_fixed[fixed_index(msr)] = value,
            IA32_PAT => m.pat = value,
            IA32_MTRR_DEF_TYPE => m.mtrr_def_type = value,
            _ if msr.wrapping_sub(IA32_MC0_CTL) < 4 * BANKS => m.banks[(msr - IA32_MC0_CTL) as usize] = value,
            IA32_EFER => self.set_efer(value),
            IA32_STAR => m.star = value,
            IA32_LSTAR => m.lstar = value,
            IA32_CSTAR => m.cstar = value,
            IA32_FMASK => m.fmask = value & 0xffff_ffff,
            IA32_FS_BASE => self.set_base(FS, value),
            IA32_GS_BASE => self.set_base(GS, value),
            IA32_KERNEL_GS_BASE => m.kernel_gs_base = value,
            IA32_TSC_AUX => m.tsc_aux = value,
            _ => {}
        }
        Ok(())
    }

    /// `msr` exists and takes `value`.
    fn accepts_msr(&self, msr: u32, value: u64) -> bool {
        let phys = (1u64 << PHYS_BITS) - 1;
        let long = self.cpuid.has(feature::LM);
        match msr {
            IA32_P5_MC_ADDR | IA32_P5_MC_TYPE | IA32_TSC | IA32_APIC_BASE | IA32_BIOS_SIGN_ID => true,
            IA32_BIOS_UPDT_TRIG => true,
            X2APIC_FIRST..=X2APIC_LAST => true,
            IA32_TSC_DEADLINE => self.cpuid.has(feature::TSC_DEADLINE),
            IA32_PKRS => self.cpuid.has(feature::PKS) && value >> 32 == 0,
            IA32_TSC_ADJUST => self.cpuid.has(feature::TSC_ADJUST),
            // Locked by reset.
            IA32_FEATURE_CONTROL => self.msr.feature_control & 1 == 0,
            IA32_SYSENTER_CS | IA32_MCG_STATUS | IA32_MISC_ENABLE => true,
            IA32_SYSENTER_ESP | IA32_SYSENTER_EIP => is_canonical(value),
            IA32_MTRR_PHYSBASE0..=IA32_MTRR_PHYSMASK7 if msr & 1 == 0 => {
                value & !(phys & !0xfff | 0xff) == 0 && is_memory_type(value & 0xff, false)
            }
            IA32_MTRR_PHYSBASE0..=IA32_MTRR_PHYSMASK7 => value & !(phys & !0xfff | 0x800) == 0,
            IA32_MTRR_FIX64K_00000
            | IA32_MTRR_FIX16K_80000
            | IA32_MTRR_FIX16K_A0000
            | IA32_MTRR_FIX4K_C0000..=IA32_MTRR_FIX4K_F8000 => all_memory_types(value, false),
            IA32_PAT => all_memory_types(value, true),
            IA32_MTRR_DEF_TYPE => value & !0xcff == 0 && is_memory_type(value & 0xff, false),
            _ if msr.wrapping_sub(IA32_MC0_CTL) < 4 * BANKS => {
                // CTL takes all zeros or all ones, STATUS only zero (SDM 3B §15.3.2); ADDR and MISC are plain storage.
                match msr & 3 {
                    0 => value == 0 || value == !0,
                    1 => value == 0,
                    _ => true,
                }
            }
            IA32_EFER => self.accepts_efer(value),
            K7_COUNTERS_FIRST..=K7_COUNTERS_LAST => self.is_amd(),
            IA32_STAR | IA32_FMASK => long,
            IA32_LSTAR | IA32_CSTAR | IA32_FS_BASE | IA32_GS_BASE | IA32_KERNEL_GS_BASE => long && is_canonical(value),
            IA32_TSC_AUX => self.cpuid.has(feature::RDTSCP) && value >> 32 == 0,
            _ => false,
        }
    }

    fn accepts_efer(&self, value: u64) -> bool {
        let has = |f, bit: Efer| if self.cpuid.has(f) { bit.bits() } else { 0 };
        let bits =
            has(feature::SYSCALL, Efer::SCE) | has(feature::LM, Efer::LME | Efer::LMA) | has(feature::NX, Efer::NXE);
        let lme_changes = (self.efer ^ value) & Efer::LME.bits() != 0;
        value & !bits == 0 && !(lme_changes && self.cr0 & Cr0::PG.bits() != 0)
    }

    fn set_efer(&mut self, value: u64) {
        let lma = self.efer & Efer::LMA.bits();
        let changed = self.efer ^ value;
        self.efer = (value & !Efer::LMA.bits()) | lma;
        if changed & Efer::NXE.bits() != 0 {
            self.mmu.flush_all();
        }
        self.mode_changed();
    }

    /// Writes IA32_TSC: TSC_ADJUST moves by as much (SDM 3B §17.17.3).
    pub(super) fn set_tsc(&mut self, value: u64) {
        let delta = value.wrapping_sub(self.tsc());
        self.tsc_offset = self.tsc_offset.wrapping_add(delta);
        self.msr.tsc_adjust = self.msr.tsc_adjust.wrapping_add(delta);
        self.rearm_timer();
    }
}

fn ring0(cpu: &mut Cpu) -> Guest<()> {
    if cpu.cpl != 0 { cpu.fail(Exception::gp(0)) } else { Ok(()) }
}

/// RDMSR.
pub(super) fn rdmsr(cpu: &mut Cpu, _op: &Op) -> Guest<Flow> {
    ring0(cpu)?;
    let value = cpu.read_msr(cpu.gpr[1] as u32)?;
    cpu.set_edx_eax(value);
    Ok(Flow::Next)
}

/// WRMSR.
pub(super) fn wrmsr(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    ring0(cpu)?;
    let msr = cpu.gpr[1] as u32;
    let value = (cpu.gpr[2] << 32) | (cpu.gpr[0] & 0xffff_ffff);
    let next = op.next_rip(cpu);
    cpu.write_msr(msr, value)?;
    if matches!(msr, IA32_EFER | IA32_APIC_BASE | IA32_PKRS) {
        cpu.rip = next;
        return Ok(Flow::End);
    }
    Ok(Flow::Next)
}

impl Cpu {
    pub(super) fn set_edx_eax(&mut self, value: u64) {
        self.gpr[0] = value & 0xffff_ffff;
        self.gpr[2] = value >> 32;
    }

    fn tsc_allowed(&mut self) -> Guest<()> {
        if self.cr4 & Cr4::TSD.bits() != 0 && self.cpl != 0 { self.fail(Exception::gp(0)) } else { Ok(()) }
    }
}

/// RDTSC.
pub(super) fn rdtsc(cpu: &mut Cpu, _op: &Op) -> Guest<Flow> {
    cpu.tsc_allowed()?;
    cpu.set_edx_eax(cpu.tsc());
    Ok(Flow::Next)
}

/// RDTSCP.
pub(super) fn rdtscp(cpu: &mut Cpu, _op: &Op) -> Guest<Flow> {
    if !cpu.cpuid.has(feature::RDTSCP) {
        return cpu.fail(Exception::UD);
    }
    cpu.tsc_allowed()?;
    cpu.set_edx_eax(cpu.ordered_tsc());
    cpu.gpr[1] = cpu.msr.tsc_aux;
    Ok(Flow::Next)
}

/// RDPID.
pub(super) fn rdpid(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    if !cpu.cpuid.has(feature::RDPID) {
        return cpu.fail(Exception::UD);
    }
    cpu.reg_put(op.r0, if cpu.is_64() { 8 } else { 4 }, cpu.msr.tsc_aux);
    Ok(Flow::Next)
}

/// RDPMC: there are no counters (CPUID leaf 0Ah is empty).
pub(super) fn rdpmc(cpu: &mut Cpu, _op: &Op) -> Guest<Flow> {
    cpu.fail(Exception::gp(0))
}

/// XGETBV.
pub(super) fn xgetbv(cpu: &mut Cpu, _op: &Op) -> Guest<Flow> {
    if cpu.cr4 & Cr4::OSXSAVE.bits() == 0 {
        return cpu.fail(Exception::UD);
    }
    match cpu.gpr[1] as u32 {
        0 => cpu.set_edx_eax(cpu.xcr0),
        1 if cpu.cpuid.has(feature::XGETBV1) => {
            let in_use = cpu.xinuse();
            cpu.set_edx_eax(in_use & cpu.xcr0);
        }
        _ => return cpu.fail(Exception::gp(0)),
    }
    Ok(Flow::Next)
}

/// XSETBV.
pub(super) fn xsetbv(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    if cpu.cr4 & Cr4::OSXSAVE.bits() == 0 {
        return cpu.fail(Exception::UD);
    }
    ring0(cpu)?;
    let value = (cpu.gpr[2] << 32) | (cpu.gpr[0] & 0xffff_ffff);
    // SDM 1 §13.3: x87 is always on, AVX needs SSE.
    let bad = value & !cpu.xcr0_bits() != 0 || value & 1 == 0 || value & 6 == 4;
    if cpu.gpr[1] as u32 != 0 || bad {
        return cpu.fail(Exception::gp(0));
    }
    cpu.xcr0 = value;
    end(cpu, op)
}

/// CPUID.
pub(super) fn cpuid(cpu: &mut Cpu, _op: &Op) -> Guest<Flow> {
    let r = cpu.cpuid_now(cpu.gpr[0] as u32, cpu.gpr[1] as u32);
    for (i, value) in [r.eax, r.ecx, r.edx, r.ebx].into_iter().enumerate() {
        cpu.gpr[i] = u64::from(value);
    }
    Ok(Flow::Next)
}

impl Cpu {
    /// Sets an MSR of a snapshot: as WRMSR, but for TSC and TSC_ADJUST, which do not move each other, and for those that
    /// software may not write.
    pub(super) fn restore_msr(&mut self, msr: u32, value: u64) -> bool {
        match msr {
            IA32_TSC => self.tsc_offset = self.tsc_offset.wrapping_add(value.wrapping_sub(self.tsc())),
            IA32_TSC_ADJUST => self.msr.tsc_adjust = value,
            IA32_FEATURE_CONTROL => self.msr.feature_control = value,
            _ => return self.write_msr(msr, value).is_ok(),
        }
        true
    }
}
