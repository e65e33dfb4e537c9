//! What becomes of a guest instruction.

use iced_x86::{Code, EncodingKind, FlowControl, Instruction, Mnemonic, OpKind};

use super::context::Context;
use super::narrow;
use super::system::{self, System};

/// How an instruction is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The same integer instruction with other registers and a checked address.
    Plain,
    /// The same vector instruction.
    Vector,
    /// The same x87 or MMX instruction.
    X87,
    /// Nothing at all.
    Nop,
    /// Nothing, but now and then the host's other threads.
    Pause,
    /// Address arithmetic.
    Lea,
    /// PUSH of a 64-bit register, constant or memory.
    Push,
    /// POP of a 64-bit register.
    Pop,
    /// LEAVE.
    Leave,
    /// Conditional near branch.
    Jcc,
    /// LOOP and JRCXZ without other address sizes.
    Counted,
    /// Relative near jump.
    Jmp,
    /// Relative near call.
    Call,
    /// Near jump through a register or memory.
    Indirect,
    /// Near call through a register or memory.
    CallIndirect,
    /// Near return.
    Return,
    /// An instruction on the system's state.
    System(System),
    /// The interpreter executes it.
    Interpret {
        /// The unit ends behind it.
        ends: bool,
    },
}

impl Kind {
    /// The unit ends behind it.
    pub(super) fn ends(self) -> bool {
        use Kind::*;
        matches!(
            self,
            Jmp | Call
                | Indirect
                | CallIndirect
                | Return
                | Counted
                | Interpret { ends: true }
                | System(self::System::Syscall | self::System::Sysret)
        )
    }

    /// If the unit ends behind it, the code goes on with the next instruction.
    pub(super) fn falls_through(self) -> bool {
        use Kind::*;
        self == Counted || !self.ends()
    }
}

/// How `ins` is translated for `context`.
pub(super) fn classify(ins: &Instruction, context: Context) -> Kind {
    let own = if context.is_64() { branch(ins) } else { narrow::classify(ins) };
    if let Some(kind) = own.or_else(|| system::classify(ins, context)) {
        return kind;
    }
    if ins.is_invalid() || ins.flow_control() != FlowControl::Next {
        return Kind::Interpret { ends: true };
    }
    if changes_units(ins.mnemonic()) {
        return Kind::Interpret { ends: true };
    }
    let general = Kind::Interpret { ends: false };
    if is_odd(ins) || (!context.is_64() && narrow::is_different(ins, context)) {
        return general;
    }
    if let Some(kind) = stack(ins) {
        return kind;
    }
    match ins.mnemonic() {
        Mnemonic::Lea if ins.op0_register().size() >= 4 => Kind::Lea,
        Mnemonic::Nop if crate::decode::is_pause(ins) => Kind::Pause,
        Mnemonic::Nop | Mnemonic::Endbr64 | Mnemonic::Endbr32 => Kind::Nop,
        Mnemonic::Prefetchnta | Mnemonic::Prefetcht0 | Mnemonic::Prefetcht1 | Mnemonic::Prefetcht2 => Kind::Nop,
        Mnemonic::Prefetchw => Kind::Nop,
        m if is_integer(m) => Kind::Plain,
        m if is_new_integer(m) => Kind::Plain,
        _ => unit(ins, context).unwrap_or(general),
    }
}

fn branch(ins: &Instruction) -> Option<Kind> {
    use Code::*;
    if ins.is_jcc_short_or_near() && ins.op0_kind() == OpKind::NearBranch64 {
        return Some(Kind::Jcc);
    }
    Some(match ins.code() {
        Jmp_rel8_64 | Jmp_rel32_64 => Kind::Jmp,
        Call_rel32_64 => Kind::Call,
        Jmp_rm64 => Kind::Indirect,
        Call_rm64 => Kind::CallIndirect,
        Retnq | Retnq_imm16 => Kind::Return,
        Jrcxz_rel8_64 | Loop_rel8_64_RCX => Kind::Counted,
        _ => return None,
    })
}

fn stack(ins: &Instruction) -> Option<Kind> {
    use Code::*;
    Some(match ins.code() {
        Push_r64 | Pushq_imm8 | Pushq_imm32 | Push_rm64 => Kind::Push,
        Pop_r64 => Kind::Pop,
        Leaveq => Kind::Leave,
        _ => return None,
    })
}

/// Operands that the translator does not know how to rewrite.
fn is_odd(ins: &Instruction) -> bool {
    let mut memory = 0;
    for i in 0..ins.op_count() {
        match ins.op_kind(i) {
            OpKind::Memory => memory += 1,
            OpKind::Register => {
                let r = ins.op_register(i);
                if !(r.is_gpr() || r.is_vector_register() || r.is_mm() || r.is_st()) || r.is_zmm() {
                    return true;
                }
            }
            kind if crate::decode::is_immediate(kind) => {}
            _ => return true,
        }
    }
    memory > 1 || ins.is_vsib() || is_bit_string(ins)
}

/// The bit may lie far from the address.
fn is_bit_string(ins: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(ins.mnemonic(), Bt | Bts | Btr | Btc)
        && ins.op0_kind() == OpKind::Memory
        && ins.op1_kind() == OpKind::Register
}

/// Integer instructions of every x86-64 processor.
#[rustfmt::skip]
fn is_integer(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
            Mov | Movzx | Movsx | Movsxd | Add | Or | Adc | Sbb | And | Sub | Xor | Cmp | Test | Inc | Dec | Neg | Not
            | Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd | Imul | Mul | Bsf | Bsr | Bswap | Cbw | Cwde
            | Cdqe | Cwd | Cdq | Cqo | Xchg | Xadd | Cmpxchg | Cmpxchg8b | Lahf | Sahf | Clc | Stc | Cmc | Mfence
            | Lfence | Sfence | Movnti | Bt | Bts | Btr | Btc | Seto | Setno | Setb | Setae | Sete | Setne | Setbe
            | Seta | Sets | Setns | Setp | Setnp | Setl | Setge | Setle | Setg | Cmovo | Cmovno | Cmovb | Cmovae
            | Cmove | Cmovne | Cmovbe | Cmova | Cmovs | Cmovns | Cmovp | Cmovnp | Cmovl | Cmovge | Cmovle | Cmovg
    )
}

/// Integer instructions that the host may lack.
fn is_new_integer(m: Mnemonic) -> bool {
    use Mnemonic::*;
    match m {
        Andn | Bextr | Blsi | Blsmsk | Blsr | Tzcnt => std::is_x86_feature_detected!("bmi1"),
        Bzhi | Mulx | Pdep | Pext | Rorx | Sarx | Shlx | Shrx => std::is_x86_feature_detected!("bmi2"),
        Lzcnt => std::is_x86_feature_detected!("lzcnt"),
        Popcnt => std::is_x86_feature_detected!("popcnt"),
        Movbe => std::is_x86_feature_detected!("movbe"),
        Adcx | Adox => std::is_x86_feature_detected!("adx"),
        Crc32 => std::is_x86_feature_detected!("sse4.2"),
        Cmpxchg16b => std::is_x86_feature_detected!("cmpxchg16b"),
        _ => false,
    }
}

/// Vector, x87 and MMX instructions that run as they are.
fn unit(ins: &Instruction, context: Context) -> Option<Kind> {
    use Mnemonic::*;
    if !visor_fpu::host_executes(ins.code()) {
        return None;
    }
    let m = ins.mnemonic();
    if matches!(m, Maskmovdqu | Maskmovq | Vmaskmovdqu | Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq) {
        return None;
    }
    let mut vector = false;
    for i in 0..ins.op_count() {
        if ins.op_kind(i) == OpKind::Register {
            let r = ins.op_register(i);
            vector |= r.is_vector_register();
            if r.is_mm() || r.is_st() {
                return (context.x87() && context.simd()).then_some(Kind::X87);
            }
        }
    }
    let vex = ins.encoding() == EncodingKind::VEX;
    if vex || vector {
        let ok = if vex { context.avx() } else { context.simd() };
        return ok.then_some(Kind::Vector);
    }
    let plain_x87 = !matches!(m, Wait | Ldmxcsr | Stmxcsr) && ins.cpuid_features().iter().any(is_x87) && is_small(ins);
    (plain_x87 && context.x87() && context.simd()).then_some(Kind::X87)
}

fn is_x87(f: &iced_x86::CpuidFeature) -> bool {
    use iced_x86::CpuidFeature::*;
    matches!(f, FPU | FPU287 | FPU387)
}

/// The memory operand, if any, is a number rather than an environment.
fn is_small(ins: &Instruction) -> bool {
    ins.memory_size().size() <= 10 || ins.op_count() == 0
}

/// Instructions after which the floating-point units may be in another state, which is part of the context.
fn changes_units(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Ldmxcsr
            | Vldmxcsr
            | Fxrstor
            | Fxrstor64
            | Xrstor
            | Xrstor64
            | Xrstors
            | Xrstors64
            | Fldcw
            | Fldenv
            | Frstor
            | Finit
            | Fninit
            | Fclex
            | Fnclex
            | Fnsave
            | Fsave
            | Fnstenv
            | Fstenv
    )
}
