//! Reset, INIT, start-up, and the conversion to and from the engine-neutral state (SDM 3A §9.1, table 9-1).

use std::sync::atomic::Ordering;

use visor_apic::IA32_APIC_BASE;
use visor_fpu::{FpuFeatures, FpuState, FxLayout, XCR0_SUPPORTED, host_features};
use visor_x86::cpuid::{Cpuid, Feature, Model, ModelConfig, feature};
use visor_x86::paging::is_canonical;
use visor_x86::regs::{Cr0, Cr4, Efer};
use visor_x86::segment::{SegAttr, Segment, TableReg};
use visor_x86::state::CpuState;

use crate::cpu::Cpu;
use crate::sys::descriptor::{CS, SS};
use crate::sys::event::ResetKind;
use crate::sys::msr::{self, MsrFile};

/// CPUID bits that need the host's help, and what of it.
const NEEDS_HOST: &[(Feature, FpuFeatures)] = &[
    (feature::SSE3, FpuFeatures::SSE3),
    (feature::SSSE3, FpuFeatures::SSSE3),
    (feature::SSE4_1, FpuFeatures::SSE41),
    (feature::SSE4_2, FpuFeatures::SSE42),
    (feature::AES, FpuFeatures::AES),
    (feature::PCLMULQDQ, FpuFeatures::PCLMUL),
    (feature::SHA, FpuFeatures::SHA),
    (feature::AVX, FpuFeatures::AVX),
    (feature::AVX2, FpuFeatures::AVX2),
    (feature::FMA, FpuFeatures::FMA),
    (feature::F16C, FpuFeatures::F16C),
    (feature::GFNI, FpuFeatures::GFNI),
    (feature::VAES, FpuFeatures::VAES),
    (feature::VPCLMULQDQ, FpuFeatures::VPCLMULQDQ),
];

/// The CPUID table of `model` without what this host cannot execute and what is `absent`.
pub(crate) fn announced(model: Model, config: &ModelConfig, absent: FpuFeatures) -> Cpuid {
    let there = host_features().difference(absent);
    let ideal = model.cpuid(config);
    let mut possible = ideal.clone();
    for (feature, needed) in NEEDS_HOST {
        if !there.contains(*needed) {
            possible.set(*feature, false);
        }
    }
    let mut table = ideal;
    table.restrict_to(&possible);
    table
}

impl Cpu {
    /// Resets the CPU: CPU 0 starts at the reset vector, others wait for a start-up IPI.
    pub(crate) fn reset(&mut self, kind: ResetKind) {
        let start = CpuState::default();
        let power = kind == ResetKind::Power;
        self.gpr = [0; 18];
        // DX holds the signature: family, model, stepping.
        self.gpr[2] = self.cpuid.get(1, 0).map_or(0, |r| u64::from(r.eax));
        self.status = 0;
        self.sysflags = 2;
        self.rip = start.rip;
        self.seg = start.seg;
        self.ldtr = start.ldtr;
        self.tr = start.tr;
        self.gdtr = start.gdtr;
        self.idtr = start.idtr;
        self.cpl = 0;
        let cache = (Cr0::CD | Cr0::NW).bits();
        self.cr0 = if power { start.cr0 } else { (self.cr0 & cache) | Cr0::ET.bits() };
        (self.cr2, self.cr3, self.cr4, self.efer) = (0, 0, 0, 0);
        self.dr = [0; 4];
        self.set_dr6(0);
        self.set_dr7(0);
        self.shadow = false;
        self.nmi_blocked = false;
        self.halted = false;
        self.shutdown = false;
        self.irq_waiting = false;
        self.debug = Default::default();
        self.wait_for_sipi = self.id.0 != 0;
        self.mmu.pdpte = [0; 4];
        if power {
            self.xcr0 = 1;
            *self.fpu = FpuState::power_on();
            self.msr = MsrFile::default();
            self.tsc_offset = self.epoch_tsc.wrapping_neg();
            self.port.clear_nmis();
            self.port.init.store(false, Ordering::Relaxed);
            self.port.sipi.store(0, Ordering::Relaxed);
        }
        self.reset_apic(power);
        self.mmu.switch(0, false);
        self.mmu.flush_all();
        self.mode_changed();
    }

    fn reset_apic(&mut self, power: bool) {
        {
            let mut apic = self.port.apic();
            if power {
                apic.reset();
                if !self.cpuid.has(feature::APIC) {
                    // A processor without a local APIC: INTR and NMI are plain pins. Disabling is always accepted.
                    let base = apic.base() & !(1 << 11 | 1 << 10);
                    let _ = apic.set_base(base);
                }
            } else {
                apic.init();
            }
        }
        self.mmu.apic_page = self.port.apic().page().map_or(!0, |p| p.0);
        self.rearm_timer();
    }

    /// Starts at page `vector` after a start-up IPI (SDM 3A §8.4.3).
    pub(super) fn start_up(&mut self, vector: u8) {
        self.wait_for_sipi = false;
        self.seg[CS] = Segment {
            selector: u16::from(vector) << 8,
            base: u64::from(vector) << 12,
            limit: 0xffff,
            attr: SegAttr(0x9b),
        };
        self.rip = 0;
        self.mode_changed();
    }

    /// The architectural state between two instructions. The local APIC's is separate but for what MSRs hold.
    pub(crate) fn save_state(&mut self) -> CpuState {
        let mut xsave = Box::new([0u8; 832]);
        visor_fpu::xsave(&self.fpu, FxLayout::LongRexW, XCR0_SUPPORTED, XCR0_SUPPORTED, &mut xsave);
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&self.gpr[..16]);
        let mut msrs: Vec<_> = msr::saved().filter_map(|n| self.read_msr(n).ok().map(|value| (n, value))).collect();
        msrs.push((IA32_APIC_BASE, self.port.apic().base()));
        CpuState {
            gpr,
            rip: self.rip,
            rflags: self.rflags(),
            seg: self.seg,
            ldtr: self.ldtr,
            tr: self.tr,
            gdtr: self.gdtr,
            idtr: self.idtr,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            cr8: self.cr8(),
            efer: self.efer,
            xcr0: self.xcr0,
            pkru: self.msr.keys.pkru,
            dr: [self.dr[0], self.dr[1], self.dr[2], self.dr[3], self.dr6, self.dr7],
            xsave,
            msrs,
            halted: self.halted,
            wait_for_sipi: self.wait_for_sipi,
            interrupt_shadow: self.shadow,
            nmi_blocked: self.nmi_blocked,
        }
    }

    /// Takes over a state; false if no CPU of this model can be in it, and then the CPU is as after a reset or unchanged.
    pub(crate) fn restore_state(&mut self, s: &CpuState) -> bool {
        if !self.accepts(s) {
            return false;
        }
        self.reset(ResetKind::Power);
        self.gpr[..16].copy_from_slice(&s.gpr);
        self.rip = s.rip;
        self.set_rflags(s.rflags & 0x3f_7fd7);
        self.seg = s.seg;
        self.ldtr = s.ldtr;
        self.tr = s.tr;
        self.gdtr = s.gdtr;
        self.idtr = s.idtr;
        (self.cr0, self.cr2, self.cr3, self.cr4) = (s.cr0 | Cr0::ET.bits(), s.cr2, s.cr3 & !(1 << 63), s.cr4);
        (self.efer, self.xcr0, self.msr.keys.pkru) = (s.efer, s.xcr0, s.pkru);
        self.dr.copy_from_slice(&s.dr[..4]);
        self.cpl = match (self.is_real(), self.is_v86()) {
            (true, _) => 0,
            (_, true) => 3,
            _ => s.seg[SS].attr.dpl().max((s.seg[CS].selector & 3) as u8),
        };
        self.halted = s.halted;
        self.wait_for_sipi = s.wait_for_sipi;
        self.shadow = s.interrupt_shadow;
        self.release_debug();
        self.nmi_blocked = s.nmi_blocked;
        self.restore_paging();
        self.set_dr6(s.dr[4]);
        self.set_dr7(s.dr[5]);
        let fpu = visor_fpu::xrstor(&mut self.fpu, FxLayout::LongRexW, XCR0_SUPPORTED, XCR0_SUPPORTED, &s.xsave);
        if fpu.is_err() {
            return false;
        }
        for (n, value) in &s.msrs {
            let restored = match *n {
                IA32_APIC_BASE => self.port.apic().set_base(*value).is_ok(),
                n => self.restore_msr(n, *value),
            };
            if !restored {
                return false;
            }
        }
        self.port.apic().set_cr8(s.cr8 as u8);
        self.apic_moved();
        self.mode_changed();
        self.look_again();
        true
    }

    fn restore_paging(&mut self) {
        self.mode_changed();
        let pcid = if self.cr4 & Cr4::PCIDE.bits() != 0 { self.cr3 as u16 & 0xfff } else { 0 };
        self.mmu.switch(pcid, false);
        self.mmu.flush_all();
        if self.mmu.paging == crate::mmu::Paging::Pae {
            // Entries that a running CPU would have refused are treated as absent.
            if self.load_pdptes(self.cr3).is_err() {
                self.mmu.pdpte = [0; 4];
            }
        }
    }

    /// The invariants of a running CPU that everything else relies on.
    fn accepts(&self, s: &CpuState) -> bool {
        let (pe, pg) = (s.cr0 & Cr0::PE.bits() != 0, s.cr0 & Cr0::PG.bits() != 0);
        let lma = s.efer & Efer::LMA.bits() != 0;
        let long = s.efer & Efer::LME.bits() != 0 && pg;
        let is_64 = lma && s.seg[CS].attr.long();
        let tables = [s.gdtr, s.idtr].iter().all(|t: &TableReg| is_canonical(t.base));
        s.cr0 & !Cr0::all().bits() == 0
            && (pe || !pg)
            && s.cr4 & !self.cr4_bits() == 0
            && lma == long
            && (!lma || s.cr4 & Cr4::PAE.bits() != 0)
            && (!lma || self.cpuid.has(feature::LM))
            && (!is_64 || is_canonical(s.rip))
            && s.efer & !(Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE).bits() == 0
            && s.xcr0 & !self.xcr0_bits() == 0
            && s.xcr0 & 1 == 1
            && s.cr8 < 16
            && tables
    }
}
