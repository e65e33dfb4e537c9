//! The engine-neutral CPU state, to and from KVM's structures.

use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_dtable, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, kvm_xcr, kvm_xcrs,
};
use kvm_ioctls::VcpuFd;
use visor_engine::{EngineError, EngineErrorKind};
use visor_x86::segment::{SegAttr, Segment, TableReg};
use visor_x86::state::CpuState;

use crate::failed;

/// The model-specific registers that are saved, beside those with a field of their own (SDM 4).
const MSRS: [u32; 13] = [
    0x10,
    0x174,
    0x175,
    0x176,
    0x277,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0102,
    0xc000_0103,
    0x1a0,
    0x2ff,
];
/// KVM_MP_STATE_RUNNABLE, _UNINITIALIZED, _HALTED.
const RUNNABLE: u32 = 0;
const UNINITIALIZED: u32 = 1;
const HALTED: u32 = 3;

/// Offset of XSTATE_BV in an XSAVE area.
const XSTATE_BV: usize = 512;

/// Index of PKRU among the double words of the host's XSAVE area (CPUID leaf 0Dh, subleaf 9), if it has a place there.
fn pkru_word() -> Option<usize> {
    let place = std::arch::x86_64::__cpuid_count(0xd, 9);
    (place.eax >= 4 && place.ebx >= 576).then_some(place.ebx as usize / 4)
}

/// Reads the state of a vCPU that is not running.
pub(crate) fn save(fd: &VcpuFd) -> Result<CpuState, EngineError> {
    let regs = fd.get_regs().map_err(failed("KVM_GET_REGS"))?;
    let sregs = fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    let debug = fd.get_debug_regs().map_err(failed("KVM_GET_DEBUGREGS"))?;
    let events = fd.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"))?;
    let mp = fd.get_mp_state().map_err(failed("KVM_GET_MP_STATE"))?.mp_state;
    let mut state = CpuState { rip: regs.rip, rflags: regs.rflags, ..CpuState::default() };
    state.gpr = [
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8, regs.r9, regs.r10,
        regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ];
    state.seg = [&sregs.es, &sregs.cs, &sregs.ss, &sregs.ds, &sregs.fs, &sregs.gs].map(from_kvm);
    state.ldtr = from_kvm(&sregs.ldt);
    state.tr = from_kvm(&sregs.tr);
    state.gdtr = TableReg { base: sregs.gdt.base, limit: sregs.gdt.limit };
    state.idtr = TableReg { base: sregs.idt.base, limit: sregs.idt.limit };
    (state.cr0, state.cr2, state.cr3, state.cr4, state.cr8) = (sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.cr8);
    state.efer = sregs.efer;
    state.dr = [debug.db[0], debug.db[1], debug.db[2], debug.db[3], debug.dr6, debug.dr7];
    let xsave = fd.get_xsave().map_err(failed("KVM_GET_XSAVE"))?;
    for (chunk, word) in state.xsave.chunks_exact_mut(4).zip(xsave.region) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    // The header names components that the neutral state has elsewhere or not at all.
    state.xsave[XSTATE_BV] &= 7;
    state.xsave[XSTATE_BV + 1..XSTATE_BV + 8].fill(0);
    state.pkru = pkru_word().and_then(|at| xsave.region.get(at).copied()).unwrap_or(0);
    state.xcr0 = fd.get_xcrs().ok().and_then(|x| x.xcrs.iter().find(|x| x.xcr == 0).map(|x| x.value)).unwrap_or(1);
    state.msrs = read_msrs(fd)?;
    state.halted = mp == HALTED;
    state.wait_for_sipi = mp == UNINITIALIZED;
    state.interrupt_shadow = events.interrupt.shadow != 0;
    state.nmi_blocked = events.nmi.masked != 0;
    Ok(state)
}

/// Writes `state` to a vCPU that is not running.
pub(crate) fn restore(fd: &VcpuFd, state: &CpuState) -> Result<(), EngineError> {
    restore_system(fd, state)?;
    fd.set_regs(&general(state)).map_err(failed("KVM_SET_REGS"))?;
    let debug = kvm_debugregs {
        db: [state.dr[0], state.dr[1], state.dr[2], state.dr[3]],
        dr6: state.dr[4],
        dr7: state.dr[5],
        ..Default::default()
    };
    fd.set_debug_regs(&debug).map_err(failed("KVM_SET_DEBUGREGS"))?;
    restore_fpu(fd, state)?;
    write_msrs(fd, &state.msrs)?;
    let mp_state = match (state.wait_for_sipi, state.halted) {
        (true, _) => UNINITIALIZED,
        (false, true) => HALTED,
        (false, false) => RUNNABLE,
    };
    fd.set_mp_state(kvm_mp_state { mp_state }).map_err(failed("KVM_SET_MP_STATE"))?;
    let mut events = fd.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"))?;
    events.interrupt.shadow = u8::from(state.interrupt_shadow);
    events.nmi.masked = u8::from(state.nmi_blocked);
    fd.set_vcpu_events(&events).map_err(failed("KVM_SET_VCPU_EVENTS"))
}

fn restore_system(fd: &VcpuFd, state: &CpuState) -> Result<(), EngineError> {
    let s = &state.seg;
    let old = fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    let table = |t: &TableReg| kvm_dtable { base: t.base, limit: t.limit, ..Default::default() };
    let sregs = kvm_sregs {
        es: to_kvm(&s[0]),
        cs: to_kvm(&s[1]),
        ss: to_kvm(&s[2]),
        ds: to_kvm(&s[3]),
        fs: to_kvm(&s[4]),
        gs: to_kvm(&s[5]),
        ldt: to_kvm(&state.ldtr),
        tr: to_kvm(&state.tr),
        gdt: table(&state.gdtr),
        idt: table(&state.idtr),
        cr0: state.cr0,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        cr8: state.cr8,
        efer: state.efer,
        apic_base: old.apic_base,
        interrupt_bitmap: [0; 4],
    };
    fd.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))
}

fn general(state: &CpuState) -> kvm_regs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = state.gpr;
    let (rip, rflags) = (state.rip, state.rflags);
    kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

fn restore_fpu(fd: &VcpuFd, state: &CpuState) -> Result<(), EngineError> {
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0] = kvm_xcr { xcr: 0, value: state.xcr0, ..Default::default() };
    // A host whose KVM has no XSAVE keeps x87 and SSE only, which is what XCR0 = 1 says.
    if let Err(e) = fd.set_xcrs(&xcrs)
        && state.xcr0 != 1
    {
        return Err(failed("KVM_SET_XCRS")(e));
    }
    let mut xsave = fd.get_xsave().map_err(failed("KVM_GET_XSAVE"))?;
    for (word, chunk) in xsave.region.iter_mut().zip(state.xsave.chunks_exact(4)) {
        *word = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
    }
    if let Some(word) = pkru_word().and_then(|at| xsave.region.get_mut(at)) {
        *word = state.pkru;
        xsave.region[XSTATE_BV / 4] |= u32::from(state.pkru != 0) << 9;
    }
    // SAFETY: the structure is complete; XCR0 names no component larger than it (x87, SSE, AVX, PKRU).
    unsafe { fd.set_xsave(&xsave) }.map_err(failed("KVM_SET_XSAVE"))
}

fn read_msrs(fd: &VcpuFd) -> Result<Vec<(u32, u64)>, EngineError> {
    let mut found = Vec::new();
    // One by one: KVM stops at the first register it does not have.
    for index in MSRS {
        let mut list = one_msr(index, 0)?;
        if fd.get_msrs(&mut list).map_err(failed("KVM_GET_MSRS"))? == 1 {
            found.push((index, list.as_slice()[0].data));
        }
    }
    Ok(found)
}

fn write_msrs(fd: &VcpuFd, msrs: &[(u32, u64)]) -> Result<(), EngineError> {
    for &(index, data) in msrs {
        if fd.set_msrs(&one_msr(index, data)?).map_err(failed("KVM_SET_MSRS"))? != 1 {
            // What this engine never saves comes from another one, and may not exist here.
            if !MSRS.contains(&index) {
                tracing::warn!("KVM has no model-specific register {index:#x}; its value {data:#x} is lost");
                continue;
            }
            let what = format!("KVM refuses {data:#x} for model-specific register {index:#x}");
            return Err(EngineError::new(EngineErrorKind::Invalid, what));
        }
    }
    Ok(())
}

fn one_msr(index: u32, data: u64) -> Result<Msrs, EngineError> {
    Msrs::from_entries(&[kvm_msr_entry { index, data, ..Default::default() }])
        .map_err(|_| EngineError::new(EngineErrorKind::Host, "no memory for an MSR list"))
}

fn from_kvm(s: &kvm_segment) -> Segment {
    let bit = |v: u8, at: u32| u32::from(v & 1) << at;
    let attr = u32::from(s.type_ & 0xf)
        | bit(s.s, 4)
        | u32::from(s.dpl & 3) << 5
        | bit(s.present, 7)
        | bit(s.avl, 12)
        | bit(s.l, 13)
        | bit(s.db, 14)
        | bit(s.g, 15)
        | bit(s.unusable, 16);
    Segment { selector: s.selector, base: s.base, limit: s.limit, attr: SegAttr(attr) }
}

fn to_kvm(s: &Segment) -> kvm_segment {
    let bit = |at: u32| (s.attr.0 >> at & 1) as u8;
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: s.attr.kind(),
        present: bit(7),
        dpl: s.attr.dpl(),
        db: bit(14),
        s: bit(4),
        l: bit(13),
        g: bit(15),
        avl: bit(12),
        unusable: bit(16),
        padding: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_survive_the_round_trip() {
        for attr in [0xc09b, 0xa09b, 0xc093, 0x8b, 0x82, 0x10000] {
            let s = Segment { selector: 8, base: 0x1234, limit: 0xffff_ffff, attr: SegAttr(attr) };
            assert_eq!(from_kvm(&to_kvm(&s)), s);
        }
    }
}
