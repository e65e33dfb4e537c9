//! Handlers of system instructions, by the names the decoder knows them.
//!
//! Operand layout: `r0` and `r1` are the first and second register operands as byte offsets into [`Cpu::gpr`], `mem` the
//! memory operand, `r2` is 1 if the r/m operand is memory, `aux` the operand size in bytes, `imm` as each handler says.

use visor_x86::exception::Exception;

use crate::cpu::Cpu;
use crate::op::{Flow, Op};

macro_rules! pending {
    ($($name:ident)*) => {$(
        /// Not there yet.
        pub(crate) fn $name(cpu: &mut Cpu, _op: &Op) -> Flow {
            cpu.fault = Exception::UD;
            Flow::Fault
        }
    )*};
}

pending! {
    mov_from_seg mov_to_seg push_seg pop_seg load_far_ptr jmp_far_imm call_far_imm jmp_far_mem call_far_mem ret_far
    iret int_n int3 into int1 syscall sysret sysenter sysexit hlt cli sti pushf popf lgdt lidt sgdt sidt lldt ltr sldt
    str smsw lmsw clts mov_from_cr mov_to_cr mov_from_dr mov_to_dr lar lsl verr verw arpl invlpg invpcid wbinvd invd
    rdmsr wrmsr rdtsc rdtscp rdpmc rdpid cpuid xgetbv xsetbv swapgs rdfsbase rdgsbase wrfsbase wrgsbase clac stac
    monitor mwait in_imm in_dx out_imm out_dx ins outs ud fxsave fxrstor xsave xsaveopt xsavec xrstor
}
