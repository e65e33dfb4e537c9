//! Arithmetic, logic, data movement, shifts, bit and stack instructions.

use iced_x86::{Mnemonic, OpKind};

use crate::decode::operands::{Decoding, Form};
use crate::exec::int::{CF, OF};
use crate::exec::{alu, atomic, bits, mov, muldiv, shift, stack};
use crate::op::Handler;

/// The handler, if the instruction belongs here.
pub(super) fn handler(d: &mut Decoding) -> Option<Handler> {
    use Mnemonic::*;
    match d.ins.mnemonic() {
        Mov => moves(d),
        Movnti => sized!(d.size, mov::mr),
        Movzx => extend::<false>(d),
        Movsx | Movsxd => extend::<true>(d),
        Lea => wide!(d.size, mov::lea),
        Add => binary::<alu::Add>(d),
        Or => binary::<alu::Or>(d),
        Adc => binary::<alu::Adc>(d),
        Sbb => binary::<alu::Sbb>(d),
        And => binary::<alu::And>(d),
        Sub => binary::<alu::Sub>(d),
        Xor => binary::<alu::Xor>(d),
        Cmp => binary::<alu::Cmp>(d),
        Test => binary::<alu::Test>(d),
        Inc => unary::<alu::Inc>(d),
        Dec => unary::<alu::Dec>(d),
        Neg => unary::<alu::Neg>(d),
        Not => unary::<alu::Not>(d),
        Shl | Sal => shifts::<shift::Shl>(d),
        Shr => shifts::<shift::Shr>(d),
        Sar => shifts::<shift::Sar>(d),
        Rol => shifts::<shift::Rol>(d),
        Ror => shifts::<shift::Ror>(d),
        Rcl => shifts::<shift::Rcl>(d),
        Rcr => shifts::<shift::Rcr>(d),
        Shld => double_shift::<false>(d),
        Shrd => double_shift::<true>(d),
        Mul => multiply::<false>(d),
        Imul => multiply::<true>(d),
        Div => divide::<false>(d),
        Idiv => divide::<true>(d),
        Cmovo | Cmovno | Cmovb | Cmovae | Cmove | Cmovne | Cmovbe | Cmova | Cmovs | Cmovns | Cmovp | Cmovnp | Cmovl
        | Cmovge | Cmovle | Cmovg => cmov(d),
        Seto | Setno | Setb | Setae | Sete | Setne | Setbe | Seta | Sets | Setns | Setp | Setnp | Setl | Setge
        | Setle | Setg => set(d),
        _ => bits_and_exchanges(d),
    }
}

fn bits_and_exchanges(d: &mut Decoding) -> Option<Handler> {
    use Mnemonic::*;
    match d.ins.mnemonic() {
        Bt => bit_test::<bits::Bt>(d),
        Bts => bit_test::<bits::Bts>(d),
        Btr => bit_test::<bits::Btr>(d),
        Btc => bit_test::<bits::Btc>(d),
        Bsf => scan::<bits::Bsf>(d),
        Bsr => scan::<bits::Bsr>(d),
        Tzcnt if std::is_x86_feature_detected!("bmi1") => scan::<bits::Tzcnt>(d),
        Lzcnt if std::is_x86_feature_detected!("lzcnt") => scan::<bits::Lzcnt>(d),
        Popcnt if std::is_x86_feature_detected!("popcnt") => scan::<bits::Popcnt>(d),
        Adcx => adx::<CF>(d),
        Adox => adx::<OF>(d),
        Xchg | Xadd | Cmpxchg => exchange(d),
        Cmpxchg8b if d.op.lock => Some(atomic::cmpxchg8b::<true>),
        Cmpxchg8b => Some(atomic::cmpxchg8b::<false>),
        Cmpxchg16b if std::is_x86_feature_detected!("cmpxchg16b") => Some(atomic::cmpxchg16b),
        Bswap => wide!(d.size, mov::bswap),
        Movbe if d.is_memory(0) => wide!(d.size, mov::movbe_mr),
        Movbe => wide!(d.size, mov::movbe_rm),
        Xlatb => Some(mov::xlat),
        Cbw => Some(mov::extend_acc::<u16, u8>),
        Cwde => Some(mov::extend_acc::<u32, u16>),
        Cdqe => Some(mov::extend_acc::<u64, u32>),
        Cwd => Some(mov::sign_to_dx::<u16>),
        Cdq => Some(mov::sign_to_dx::<u32>),
        Cqo => Some(mov::sign_to_dx::<u64>),
        Push | Pop | Pusha | Pushad | Popa | Popad | Enter | Leave => stack_op(d),
        _ => None,
    }
}

/// Number of the condition as encoded (SDM 2 table B-10).
pub(super) fn condition(d: &Decoding) -> u8 {
    (d.ins.condition_code() as u8).wrapping_sub(1)
}

fn moves(d: &Decoding) -> Option<Handler> {
    match d.form {
        Form::RR => sized!(d.size, mov::rr),
        Form::RI => sized!(d.size, mov::ri),
        Form::RM => sized!(d.size, mov::rm),
        Form::MR => sized!(d.size, mov::mr),
        Form::MI => sized!(d.size, mov::mi),
        _ => None,
    }
}

fn extend<const SIGNED: bool>(d: &Decoding) -> Option<Handler> {
    macro_rules! from {
        ($zx:ident, $sx:ident, $s:ty) => {
            match (d.size, SIGNED) {
                (2, false) => Some(mov::$zx::<u16, $s> as Handler),
                (4, false) => Some(mov::$zx::<u32, $s> as Handler),
                (8, false) => Some(mov::$zx::<u64, $s> as Handler),
                (2, true) => Some(mov::$sx::<u16, $s> as Handler),
                (4, true) => Some(mov::$sx::<u32, $s> as Handler),
                (8, true) => Some(mov::$sx::<u64, $s> as Handler),
                _ => None,
            }
        };
    }
    match (d.form, d.size_of(1)) {
        (Form::RR, 1) => from!(zx_rr, sx_rr, u8),
        (Form::RR, 2) => from!(zx_rr, sx_rr, u16),
        (Form::RR, 4) => from!(zx_rr, sx_rr, u32),
        (Form::RM, 1) => from!(zx_rm, sx_rm, u8),
        (Form::RM, 2) => from!(zx_rm, sx_rm, u16),
        (Form::RM, 4) => from!(zx_rm, sx_rm, u32),
        _ => None,
    }
}

fn binary<O: alu::Binary>(d: &Decoding) -> Option<Handler> {
    match (d.form, d.op.lock) {
        (Form::RR, _) => sized!(d.size, alu::rr, <O>),
        (Form::RI, _) => sized!(d.size, alu::ri, <O>),
        (Form::RM, _) => sized!(d.size, alu::rm, <O>),
        (Form::MR, false) => sized!(d.size, alu::mr, <O>, {false}),
        (Form::MR, true) => sized!(d.size, alu::mr, <O>, {true}),
        (Form::MI, false) => sized!(d.size, alu::mi, <O>, {false}),
        (Form::MI, true) => sized!(d.size, alu::mi, <O>, {true}),
        _ => None,
    }
}

fn unary<O: alu::Unary>(d: &Decoding) -> Option<Handler> {
    match (d.form, d.op.lock) {
        (Form::R, _) => sized!(d.size, alu::r, <O>),
        (Form::M, false) => sized!(d.size, alu::m, <O>, {false}),
        (Form::M, true) => sized!(d.size, alu::m, <O>, {true}),
        _ => None,
    }
}

fn adx<const FLAG: u64>(d: &Decoding) -> Option<Handler> {
    match d.form {
        Form::RR => double!(d.size, alu::adx_rr, { FLAG }),
        Form::RM => double!(d.size, alu::adx_rm, { FLAG }),
        _ => None,
    }
}

fn shifts<O: shift::Shift>(d: &Decoding) -> Option<Handler> {
    match (d.is_memory(0), d.ins.op1_kind() == OpKind::Register) {
        (false, false) => sized!(d.size, shift::ri, <O>),
        (false, true) => sized!(d.size, shift::rc, <O>),
        (true, false) => sized!(d.size, shift::mi, <O>),
        (true, true) => sized!(d.size, shift::mc, <O>),
    }
}

fn double_shift<const RIGHT: bool>(d: &mut Decoding) -> Option<Handler> {
    d.op.aux = u8::from(d.ins.op2_kind() == OpKind::Register);
    if d.is_memory(0) { wide!(d.size, shift::double_m, { RIGHT }) } else { wide!(d.size, shift::double_r, { RIGHT }) }
}

fn multiply<const SIGNED: bool>(d: &Decoding) -> Option<Handler> {
    match (d.ins.op_count(), d.form) {
        (1, Form::R) => sized!(d.size, muldiv::mul_r, { SIGNED }),
        (1, Form::M) => sized!(d.size, muldiv::mul_m, { SIGNED }),
        (2, Form::RR) => wide!(d.size, muldiv::imul_rr),
        (2, Form::RM) => wide!(d.size, muldiv::imul_rm),
        (3, Form::RR) => wide!(d.size, muldiv::imul_rri),
        (3, Form::RM) => wide!(d.size, muldiv::imul_rmi),
        _ => None,
    }
}

fn divide<const SIGNED: bool>(d: &Decoding) -> Option<Handler> {
    match d.form {
        Form::R => sized!(d.size, muldiv::div_r, { SIGNED }),
        Form::M => sized!(d.size, muldiv::div_m, { SIGNED }),
        _ => None,
    }
}

fn bit_test<O: bits::BitTest>(d: &Decoding) -> Option<Handler> {
    match (d.form, d.op.lock) {
        (Form::RR, _) => wide!(d.size, bits::test_rr, <O>),
        (Form::RI, _) => wide!(d.size, bits::test_ri, <O>),
        (Form::MR, false) => wide!(d.size, bits::test_mr, <O>, {false}),
        (Form::MR, true) => wide!(d.size, bits::test_mr, <O>, {true}),
        (Form::MI, false) => wide!(d.size, bits::test_mi, <O>, {false}),
        (Form::MI, true) => wide!(d.size, bits::test_mi, <O>, {true}),
        _ => None,
    }
}

fn scan<O: bits::Scan>(d: &Decoding) -> Option<Handler> {
    match d.form {
        Form::RR => wide!(d.size, bits::scan_rr, <O>),
        Form::RM => wide!(d.size, bits::scan_rm, <O>),
        _ => None,
    }
}

fn exchange(d: &Decoding) -> Option<Handler> {
    match (d.ins.mnemonic(), d.form, d.op.lock) {
        (Mnemonic::Xchg, Form::RR, _) => sized!(d.size, mov::xchg_rr),
        (Mnemonic::Xchg, Form::MR | Form::RM, _) => sized!(d.size, mov::xchg_mr),
        (Mnemonic::Xadd, Form::RR, _) => sized!(d.size, atomic::xadd_rr),
        (Mnemonic::Xadd, Form::MR, false) => sized!(d.size, atomic::xadd_mr, { false }),
        (Mnemonic::Xadd, Form::MR, true) => sized!(d.size, atomic::xadd_mr, { true }),
        (Mnemonic::Cmpxchg, Form::RR, _) => sized!(d.size, atomic::cmpxchg_rr),
        (Mnemonic::Cmpxchg, Form::MR, false) => sized!(d.size, atomic::cmpxchg_mr, { false }),
        (Mnemonic::Cmpxchg, Form::MR, true) => sized!(d.size, atomic::cmpxchg_mr, { true }),
        _ => None,
    }
}

fn stack_op(d: &mut Decoding) -> Option<Handler> {
    let size = d.stack_size();
    match (d.ins.mnemonic(), d.form) {
        (Mnemonic::Push, Form::R) => wide!(size, stack::push_r),
        (Mnemonic::Push, Form::M) => wide!(size, stack::push_m),
        (Mnemonic::Push, Form::I) => wide!(size, stack::push_i),
        (Mnemonic::Pop, Form::R) => wide!(size, stack::pop_r),
        (Mnemonic::Pop, Form::M) => wide!(size, stack::pop_m),
        (Mnemonic::Pusha | Mnemonic::Pushad, _) => wide!(size / 8, stack::pusha),
        (Mnemonic::Popa | Mnemonic::Popad, _) => wide!(size / 8, stack::popa),
        (Mnemonic::Enter, _) => {
            d.op.imm = u64::from(d.ins.immediate16());
            d.op.aux = d.ins.immediate8_2nd();
            wide!(frame_size(d), stack::enter)
        }
        (Mnemonic::Leave, _) => wide!(frame_size(d), stack::leave),
        _ => None,
    }
}

/// Operand size of ENTER and LEAVE, whose effect on the stack pointer tells nothing.
fn frame_size(d: &Decoding) -> u64 {
    use iced_x86::Code::*;
    match d.ins.code() {
        Enterw_imm16_imm8 | Leavew => 2,
        Enterd_imm16_imm8 | Leaved => 4,
        _ => 8,
    }
}

fn cmov(d: &Decoding) -> Option<Handler> {
    let cc = condition(d);
    match d.form {
        Form::RR => by_condition!(cc, CC => wide!(d.size, mov::cmov_rr, {CC})),
        Form::RM => by_condition!(cc, CC => wide!(d.size, mov::cmov_rm, {CC})),
        _ => None,
    }
}

fn set(d: &Decoding) -> Option<Handler> {
    let cc = condition(d);
    match d.form {
        Form::R => by_condition!(cc, CC => Some(mov::set_r::<CC> as Handler)),
        Form::M => by_condition!(cc, CC => Some(mov::set_m::<CC> as Handler)),
        _ => None,
    }
}
