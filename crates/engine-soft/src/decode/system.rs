//! System instructions: which handler of [`crate::sys::ops`], and the operands as it wants them.

use iced_x86::{Code, Mnemonic, OpKind, Register};

use crate::decode::operands::{Decoding, address_mask, segment_operand, with_segment};
use crate::op::{Handler, Mem, REG_ZERO};
use crate::sys::ops;

/// The handler, if the instruction belongs here.
pub(super) fn handler(d: &mut Decoding) -> Option<Handler> {
    segments(d).or_else(|| control(d)).or_else(|| leaves(d)).or_else(|| stays(d))
}

/// Segment registers, far transfers and returns.
fn segments(d: &mut Decoding) -> Option<Handler> {
    use Mnemonic::*;
    let segment = segment_operand(d.ins);
    let far = !matches!(d.ins.op0_kind(), OpKind::Memory);
    let (handler, ends): (Handler, bool) = match (d.ins.mnemonic(), segment) {
        (Mov, Some(seg)) => {
            d.op.imm = seg;
            let to = d.ins.op0_kind() == OpKind::Register && d.ins.op0_register().is_segment_register();
            // A load of SS holds interrupts off for one instruction.
            if to { (ops::mov_to_seg, seg == 2) } else { (ops::mov_from_seg, false) }
        }
        (Push, Some(seg)) => {
            d.op.imm = seg;
            d.op.aux = d.stack_size() as u8;
            (ops::push_seg, false)
        }
        (Pop, Some(seg)) => {
            d.op.imm = seg;
            d.op.aux = d.stack_size() as u8;
            (ops::pop_seg, seg == 2)
        }
        (Les, _) => load_far(d, 0),
        (Lss, _) => load_far(d, 2),
        (Lds, _) => load_far(d, 3),
        (Lfs, _) => load_far(d, 4),
        (Lgs, _) => load_far(d, 5),
        (Jmp, _) if far => (far_immediate(d, ops::jmp_far_imm)?, true),
        (Call, _) if far => (far_immediate(d, ops::call_far_imm)?, true),
        (Jmp, _) => (far_memory(d, ops::jmp_far_mem), true),
        (Call, _) => (far_memory(d, ops::call_far_mem), true),
        (Retf, _) => {
            d.op.aux = ((d.stack_size() - d.op.imm) / 2) as u8;
            (ops::ret_far, true)
        }
        (Iret, _) => sized_end(d, 2, ops::iret),
        (Iretd, _) => sized_end(d, 4, ops::iret),
        (Iretq, _) => sized_end(d, 8, ops::iret),
        _ => return None,
    };
    d.ends |= ends;
    Some(handler)
}

fn load_far(d: &mut Decoding, seg: u64) -> (Handler, bool) {
    d.op.imm = seg;
    (ops::load_far_ptr, seg == 2)
}

fn sized_end(d: &mut Decoding, size: u8, handler: Handler) -> (Handler, bool) {
    d.op.aux = size;
    (handler, true)
}

fn far_immediate(d: &mut Decoding, handler: Handler) -> Option<Handler> {
    (d.op.imm, d.op.aux) = match d.ins.op0_kind() {
        OpKind::FarBranch16 => (u64::from(d.ins.far_branch16()), 2),
        OpKind::FarBranch32 => (u64::from(d.ins.far_branch32()), 4),
        _ => return None,
    };
    d.op.mem.disp = i64::from(d.ins.far_branch_selector());
    Some(handler)
}

fn far_memory(d: &mut Decoding, handler: Handler) -> Handler {
    use iced_x86::MemorySize::*;
    d.op.aux = match d.ins.memory_size() {
        SegPtr16 => 2,
        SegPtr32 => 4,
        _ => 8,
    };
    handler
}

/// Control, debug and descriptor-table registers.
fn control(d: &mut Decoding) -> Option<Handler> {
    use Mnemonic::*;
    let kind = |r: Register| {
        let n = r.number() as u64;
        if r.is_cr() { Some((true, n)) } else { r.is_dr().then_some((false, n)) }
    };
    let handler: Handler = match d.ins.mnemonic() {
        Mov if d.ins.op_count() == 2 => match (kind(d.ins.op0_register()), kind(d.ins.op1_register())) {
            (Some((true, n)), _) => numbered(d, n, ops::mov_to_cr, true),
            (Some((false, n)), _) => numbered(d, n, ops::mov_to_dr, true),
            (_, Some((true, n))) => numbered(d, n, ops::mov_from_cr, false),
            (_, Some((false, n))) => numbered(d, n, ops::mov_from_dr, false),
            _ => return None,
        },
        Lgdt => table(d, ops::lgdt, true),
        Lidt => table(d, ops::lidt, true),
        Sgdt => table(d, ops::sgdt, false),
        Sidt => table(d, ops::sidt, false),
        _ => return None,
    };
    Some(handler)
}

fn numbered(d: &mut Decoding, n: u64, handler: Handler, ends: bool) -> Handler {
    d.op.imm = n;
    d.op.aux = if d.is_64() { 8 } else { 4 };
    d.ends = ends;
    handler
}

fn table(d: &mut Decoding, handler: Handler, ends: bool) -> Handler {
    use Code::*;
    d.op.aux = match d.ins.code() {
        Lgdt_m1632_16 | Lidt_m1632_16 | Sgdt_m1632_16 | Sidt_m1632_16 => 2,
        Lgdt_m1632 | Lidt_m1632 | Sgdt_m1632 | Sidt_m1632 => 4,
        _ => 8,
    };
    d.ends = ends;
    handler
}

/// Instructions that branch, or after which code may run or decode otherwise.
fn leaves(d: &mut Decoding) -> Option<Handler> {
    use Mnemonic::*;
    let handler: Handler = match d.ins.mnemonic() {
        Int => ops::int_n,
        Int3 => ops::int3,
        Into => ops::into,
        Int1 => ops::int1,
        Syscall => ops::syscall,
        Sysret => sized_end(d, 4, ops::sysret).0,
        Sysretq => sized_end(d, 8, ops::sysret).0,
        Sysenter => ops::sysenter,
        Sysexit => sized_end(d, 4, ops::sysexit).0,
        Sysexitq => sized_end(d, 8, ops::sysexit).0,
        Hlt => ops::hlt,
        Sti => ops::sti,
        Popf => sized_end(d, 2, ops::popf).0,
        Popfd => sized_end(d, 4, ops::popf).0,
        Popfq => sized_end(d, 8, ops::popf).0,
        Lldt => ops::lldt,
        Ltr => ops::ltr,
        Lmsw => ops::lmsw,
        Clts => ops::clts,
        Invlpg => ops::invlpg,
        Invpcid => ops::invpcid,
        Wrmsr => ops::wrmsr,
        Xsetbv => ops::xsetbv,
        Wrpkru => ops::wrpkru,
        Monitor => {
            d.op.mem = monitored(d);
            ops::monitor
        }
        Mwait => ops::mwait,
        Ud0 | Ud1 | Ud2 => ops::ud,
        _ => return None,
    };
    d.ends = true;
    Some(handler)
}

/// The address that MONITOR looks at: DS:rAX, or with another segment.
fn monitored(d: &Decoding) -> Mem {
    let mask = address_mask(d.ins.op0_register().size() as u32);
    let segment = match d.ins.segment_prefix() {
        Register::None => Register::DS,
        other => other,
    };
    with_segment(Mem { base: 0, index: REG_ZERO, mask, ..Mem::default() }, segment, d.mode)
}

/// Instructions after which the block goes on.
fn stays(d: &mut Decoding) -> Option<Handler> {
    use Mnemonic::*;
    Some(match d.ins.mnemonic() {
        Cli => ops::cli,
        Pushf => sized_end(d, 2, ops::pushf).0,
        Pushfd => sized_end(d, 4, ops::pushf).0,
        Pushfq => sized_end(d, 8, ops::pushf).0,
        Sldt => ops::sldt,
        Str => ops::str,
        Smsw => ops::smsw,
        Lar => ops::lar,
        Lsl => ops::lsl,
        Verr => ops::verr,
        Verw => ops::verw,
        Arpl => ops::arpl,
        Wbinvd | Wbnoinvd => ops::wbinvd,
        Invd => ops::invd,
        Rdmsr => ops::rdmsr,
        Rdtsc => ops::rdtsc,
        Rdtscp => ops::rdtscp,
        Rdpmc => ops::rdpmc,
        Rdpid => ops::rdpid,
        Cpuid => ops::cpuid,
        Xgetbv => ops::xgetbv,
        Rdpkru => ops::rdpkru,
        Swapgs => ops::swapgs,
        Vmcall | Vmmcall => ops::vmcall,
        Rdfsbase => ops::rdfsbase,
        Rdgsbase => ops::rdgsbase,
        Wrfsbase => ops::wrfsbase,
        Wrgsbase => ops::wrgsbase,
        Clac => ops::clac,
        Stac => ops::stac,
        In if d.ins.op1_kind() == OpKind::Register => ops::in_dx,
        In => ops::in_imm,
        Out => {
            d.op.aux = d.size_of(1) as u8;
            if d.ins.op0_kind() == OpKind::Register { ops::out_dx } else { ops::out_imm }
        }
        Fxsave | Fxsave64 => image(d, Fxsave64, ops::fxsave),
        Fxrstor | Fxrstor64 => image(d, Fxrstor64, ops::fxrstor),
        Xsave | Xsave64 => image(d, Xsave64, ops::xsave),
        Xsaveopt | Xsaveopt64 => image(d, Xsaveopt64, ops::xsaveopt),
        Xsavec | Xsavec64 => image(d, Xsavec64, ops::xsavec),
        Xrstor | Xrstor64 => image(d, Xrstor64, ops::xrstor),
        _ => return None,
    })
}

/// FXSAVE and relatives: `imm` bit 0 is REX.W.
fn image(d: &mut Decoding, wide: Mnemonic, handler: Handler) -> Handler {
    d.op.imm = u64::from(d.ins.mnemonic() == wide);
    handler
}
