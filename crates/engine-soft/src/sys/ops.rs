//! Handlers of system instructions, by the names the decoder knows them.
//!
//! Operand layout: `r0` and `r1` are the first and second general register operands as byte offsets into [`Cpu::gpr`]
//! (segment, control and debug registers do not count), `mem` the memory operand, `r2` is 1 if the r/m operand is memory,
//! `aux` the operand size in bytes, `imm` as each handler says.

use crate::cpu::Cpu;
use crate::op::{Faulted, Flow, Op};

macro_rules! handlers {
    ($($module:ident: $($name:ident)*;)*) => {$($(
        pub(crate) fn $name(cpu: &mut Cpu, op: &Op) -> Flow {
            match super::$module::$name(cpu, op) {
                Ok(flow) => flow,
                Err(Faulted) => Flow::Fault,
            }
        }
    )*)*};
}

handlers! {
    descriptor: mov_from_seg mov_to_seg push_seg pop_seg load_far_ptr lgdt lidt sgdt sidt lldt ltr sldt str;
    access_rights: lar lsl verr verw arpl;
    far: jmp_far_imm call_far_imm jmp_far_mem call_far_mem ret_far;
    iret: iret;
    ints: int_n int3 into int1 ud;
    syscall: syscall sysret sysenter sysexit swapgs rdfsbase rdgsbase wrfsbase wrgsbase;
    flags: cli sti pushf popf clac stac;
    control: hlt smsw lmsw clts mov_from_cr mov_to_cr invlpg invpcid wbinvd;
    debug: mov_from_dr mov_to_dr;
    msr: rdmsr wrmsr rdtsc rdtscp rdpmc rdpid cpuid xgetbv xsetbv;
    keys: rdpkru wrpkru;
    hypercall: vmcall;
    port: in_imm in_dx out_imm out_dx ins outs;
    xstate: fxsave fxrstor xsave xsaveopt xsavec xrstor;
}

/// INVD: like WBINVD, since the caches are always coherent with memory.
pub(crate) fn invd(cpu: &mut Cpu, op: &Op) -> Flow {
    wbinvd(cpu, op)
}

/// MONITOR: not announced by CPUID.
pub(crate) fn monitor(cpu: &mut Cpu, op: &Op) -> Flow {
    ud(cpu, op)
}

/// MWAIT: not announced by CPUID.
pub(crate) fn mwait(cpu: &mut Cpu, op: &Op) -> Flow {
    ud(cpu, op)
}
