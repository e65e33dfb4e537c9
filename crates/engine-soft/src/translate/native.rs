//! Instructions that stay what they are: other registers, a checked address in place of the memory operand.

use iced_x86::{Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess, OpKind, Register};
use smallvec::SmallVec;

use super::address::{Access, Check, Spot, Which};
use super::asm::{Holes, Rm, Sum};
use super::build::Build;
use super::classify::Kind;
use super::frame::field;
use super::regs::{self, Host, Place};
use super::unit::Insn;

/// A guest register in memory that the instruction has in a scratch register.
#[derive(Clone, Copy)]
struct Borrowed {
    guest: usize,
    scratch: Host,
    read: bool,
    written: bool,
}

/// What has to be done around an instruction besides its memory operand.
#[derive(Default)]
struct Plan {
    /// The instruction with the host's registers.
    host: Instruction,
    borrowed: SmallVec<[Borrowed; 2]>,
    /// RCX must hold the guest's RCX: the instruction reads it without saying so, or names it where only the first four
    /// registers can be named.
    rcx_in: bool,
    /// And it has changed it: all of it, or 32 bits that clear the others.
    rcx_out: Option<bool>,
    /// No register that needs a REX prefix may be named.
    no_rex: bool,
}

impl Build<'_> {
    /// Emits `insn`; false if it cannot be done, with nothing emitted.
    pub(super) fn same(&mut self, insn: &Insn) -> bool {
        let ins = &insn.ins;
        let memory = (0..ins.op_count()).find(|i| ins.op_kind(*i) == OpKind::Memory);
        let Some(mut plan) = plan(ins, memory.is_some()) else { return false };
        let rcx_used = plan.no_rex
            || plan.rcx_in
            || plan.rcx_out.is_some()
            || plan.borrowed.iter().any(|b| b.scratch == Host::RCX);
        let anchored = memory.and_then(|_| self.anchored(insn, rcx_used)).filter(|_| !plan.no_rex);
        if let Some(a) = &anchored {
            a.redirect(&mut plan.host);
        } else if memory.is_some() {
            let at = self.member(0).or_else(|| self.walker(0)).map_or(0, |m| m.at);
            redirect(&mut plan.host, if plan.no_rex { Register::RCX } else { Register::R14 }, at.into());
        }
        // What cannot be named in the same encoding is left to the interpreter.
        let Some(code) = self.encode(&plan.host) else { return false };
        match insn.kind {
            Kind::Vector => self.need_vectors(),
            Kind::X87 => self.need_x87(),
            _ => {}
        }
        let start = self.asm.here();
        let Some(access) = memory.map(|i| access(ins, i)) else {
            self.run(&plan, &code);
            return true;
        };
        if let Some(a) = &anchored {
            self.take_anchor(a);
            self.run(&plan, &code);
            return true;
        }
        let size = ins.memory_size().size() as u32;
        let check = Check { access, size, align: alignment(insn), keep_flags: insn.live_in != 0 };
        let spot = self.reach(insn, Which::Operand, check);
        // One that demands an alignment faults where it lies in two pages.
        let ready = (access == Access::Load && check.align == 1).then(|| self.asm.here());
        if access == Access::Store && rcx_used {
            self.keep_entry(&spot);
        }
        if plan.no_rex {
            self.loses(Host::RCX);
            self.asm.mov(Host::RCX, Host::R14);
        }
        self.run(&plan, &code);
        if access == Access::Store {
            self.stored(&spot, !rcx_used, insn.live_out != 0, Some(insn));
        }
        self.or_collect(spot.misses(), start, ready, insn);
        true
    }

    /// The bytes of `host`, if it can be encoded.
    fn encode(&mut self, host: &Instruction) -> Option<SmallVec<[u8; 16]>> {
        let encoded = self.encoder.encode(host, 0).is_ok();
        let mut buffer = self.encoder.take_buffer();
        let code = encoded.then(|| SmallVec::from_slice(&buffer));
        // It is used again for the next one.
        buffer.clear();
        self.encoder.set_buffer(buffer);
        code
    }

    /// The instruction itself, with what it needs before and after.
    fn run(&mut self, plan: &Plan, code: &[u8]) {
        for b in &plan.borrowed {
            self.loses(b.scratch);
        }
        for b in plan.borrowed.iter().filter(|b| b.read) {
            self.fetch(b.scratch, b.guest);
        }
        if plan.rcx_in {
            self.fetch(Host::RCX, regs::RCX);
        }
        if plan.rcx_out.is_some() {
            self.loses(Host::RCX);
        }
        self.asm.raw(code);
        match plan.rcx_out {
            Some(true) => self.put(regs::RCX, Host::RCX),
            Some(false) => self.put_32(regs::RCX, Host::RCX),
            None => {}
        }
        for b in plan.borrowed.iter().filter(|b| b.written) {
            self.put(b.guest, b.scratch);
        }
    }

    fn put_32(&mut self, guest: usize, from: Host) {
        if let Place::Host(h) = regs::place(guest) {
            self.asm.load32(h, Rm::Reg(from));
        }
    }

    /// LEA of 32 or 64 bits.
    pub(super) fn lea(&mut self, insn: &Insn) {
        let ins = &insn.ins;
        let to = ins.op0_register();
        let guest = to.full_register().number();
        if ins.is_ip_rel_memory_operand() {
            self.effective_address(ins, 0);
        } else if let (Place::Host(host), true) = (regs::place(guest), ins.memory_base() != Register::None) {
            self.sum(ins, host, to.is_gpr64());
            return;
        } else {
            self.effective_address(ins, 0);
        }
        if !to.is_gpr64() {
            self.asm.load32(Host::R14, Rm::Reg(Host::R14));
        }
        self.put(guest, Host::R14);
    }

    /// The effective address of `ins`, which has a base register, in `to`.
    fn sum(&mut self, ins: &Instruction, to: Host, wide: bool) {
        let base = self.part(ins.memory_base(), Host::R14);
        let index = (ins.memory_index() != Register::None).then(|| self.part(ins.memory_index(), Host::RCX));
        let scale = ins.memory_index_scale().trailing_zeros() as u8;
        let wide = wide && ins.memory_base().is_gpr64();
        let disp = ins.memory_displacement64() as i32;
        self.asm.lea(wide, to, Sum { base: Some(base), index: index.map(|i| (i, scale)), disp });
    }

    /// PUSH of a word.
    pub(super) fn push(&mut self, insn: &Insn) {
        let ins = &insn.ins;
        let mut misses = Holes::new();
        if ins.op0_kind() == OpKind::Memory {
            // Whoever tries again comes here with another value in R14.
            self.loses(Host::R14);
        }
        let start = self.asm.here();
        let (keep_flags, word) = (insn.live_in != 0, self.word());
        if ins.op0_kind() == OpKind::Memory {
            self.operand_address(ins, 0);
            misses = self.check(Check { access: Access::Load, size: word as u32, align: 1, keep_flags });
            self.load_word(Host::RCX, Rm::Checked(0));
            self.asm.store(Rm::State(field!(jump_lin)), Host::RCX);
        }
        let check = Check { access: Access::Store, size: word as u32, align: 1, keep_flags };
        let spot = self.reach(insn, Which::Stack(regs::RSP, -word), check);
        let rcx_kept = match ins.op0_kind() {
            OpKind::Register => match regs::place(ins.op0_register().number()) {
                Place::Host(h) => {
                    self.store_word(spot.rm(), h);
                    true
                }
                Place::Slot(at) => self.store_through_rcx(&spot, at),
            },
            OpKind::Memory => self.store_through_rcx(&spot, field!(jump_lin)),
            _ => {
                self.store_word_imm(spot.rm(), ins.immediate(0) as i32);
                true
            }
        };
        self.move_stack(-word);
        self.stored(&spot, rcx_kept, insn.live_out != 0, Some(insn));
        if self.leads() && !misses.is_empty() {
            // Where the operand is not served the check of the stack's range has not been made, and those who follow rely on it.
            self.go_apart(misses, start, insn);
            misses = Holes::new();
        }
        misses.extend(spot.misses());
        self.or_interpret(misses, start, insn);
    }

    pub(super) fn store_through_rcx(&mut self, spot: &Spot, from: i32) -> bool {
        self.keep_entry(spot);
        self.loses(Host::RCX);
        self.asm.load(Host::RCX, Rm::State(from));
        self.store_word(spot.rm(), Host::RCX);
        false
    }

    /// POP of a register of a word.
    pub(super) fn pop(&mut self, insn: &Insn) {
        let guest = insn.ins.op0_register().number();
        let start = self.asm.here();
        let size = self.word() as u32;
        let check = Check { access: Access::Load, size, align: 1, keep_flags: insn.live_in != 0 };
        let spot = self.reach(insn, Which::Stack(regs::RSP, 0), check);
        match regs::place(guest) {
            Place::Host(h) => self.load_word(h, spot.rm()),
            Place::Slot(at) => {
                self.loses(Host::RCX);
                self.load_word(Host::RCX, spot.rm());
                self.asm.store(Rm::State(at), Host::RCX);
            }
        }
        if guest != regs::RSP {
            self.move_stack(self.word());
        }
        self.or_interpret(spot.misses(), start, insn);
    }

    /// LEAVE.
    pub(super) fn leave_frame(&mut self, insn: &Insn) {
        let (Place::Host(sp), Place::Host(bp)) = (regs::place(regs::RSP), regs::place(regs::RBP)) else { return };
        let start = self.asm.here();
        let word = self.word();
        let check = Check { access: Access::Load, size: word as u32, align: 1, keep_flags: insn.live_in != 0 };
        let spot = self.reach(insn, Which::Stack(regs::RBP, 0), check);
        self.asm.lea(self.context.is_64(), sp, Sum { base: Some(bp), index: None, disp: word });
        self.load_word(bp, spot.rm());
        self.or_interpret(spot.misses(), start, insn);
    }
}

/// Which registers become which. `None` if there are not enough.
fn plan(ins: &Instruction, memory: bool) -> Option<Plan> {
    let mut plan = Plan { host: *ins, ..Plan::default() };
    super::narrow::recode(&mut plan.host);
    clear_prefixes(&mut plan.host);
    implicit_rcx(ins, &mut plan);
    plan.no_rex = (0..ins.op_count()).any(|i| ins.op_kind(i) == OpKind::Register && is_high(ins.op_register(i)));
    let mut factory = None;
    for i in 0..ins.op_count() {
        if ins.op_kind(i) != OpKind::Register {
            continue;
        }
        let register = ins.op_register(i);
        if !register.is_gpr() || is_count(ins, i) {
            continue;
        }
        let guest = if is_high(register) {
            register as usize - Register::AH as usize
        } else {
            register.full_register().number()
        };
        if plan.no_rex {
            no_rex_operand(ins, i, guest, memory, &mut plan)?;
            continue;
        }
        match regs::place(guest) {
            Place::Host(h) => plan.host.set_op_register(i, named(h, register.size())),
            Place::Slot(_) => {
                let f = factory.get_or_insert_with(InstructionInfoFactory::new);
                let access = f.info_options(
                    ins,
                    InstructionInfoOptions::NO_MEMORY_USAGE | InstructionInfoOptions::NO_REGISTER_USAGE,
                );
                let access = access.op_access(i);
                let scratch = borrow(&mut plan, guest, access, register.size(), memory)?;
                plan.host.set_op_register(i, named(scratch, register.size()));
            }
        }
    }
    Some(plan)
}

/// A scratch register for guest register `guest`.
fn borrow(plan: &mut Plan, guest: usize, access: OpAccess, size: usize, memory: bool) -> Option<Host> {
    // A write of one or two bytes keeps the others, and a conditional one may keep all.
    let written = !matches!(access, OpAccess::Read | OpAccess::CondRead);
    let read = access != OpAccess::Write || size < 4;
    if let Some(b) = plan.borrowed.iter_mut().find(|b| b.guest == guest) {
        b.read |= read;
        b.written |= written;
        return Some(b.scratch);
    }
    let rcx_taken = plan.rcx_in || plan.rcx_out.is_some();
    let free = [(Host::RCX, !rcx_taken), (Host::R14, !memory)];
    let scratch = free.iter().find(|(h, free)| *free && plan.borrowed.iter().all(|b| b.scratch != *h))?.0;
    plan.borrowed.push(Borrowed { guest, scratch, read, written });
    Some(scratch)
}

/// Operand `i` of an instruction with AH, CH, DH or BH, none of whose operands may need a REX prefix.
fn no_rex_operand(ins: &Instruction, i: u32, guest: usize, memory: bool, plan: &mut Plan) -> Option<()> {
    match guest {
        0 | 2 | 3 => Some(()),
        // CL and CH: RCX itself stands in.
        1 if !memory => {
            plan.rcx_in = true;
            plan.rcx_out = Some(true);
            Some(())
        }
        5..=7 if !is_high(ins.op_register(i)) => Some(()),
        _ => None,
    }
}

/// RCX as an operand that the encoding does not name.
fn implicit_rcx(ins: &Instruction, plan: &mut Plan) {
    use Mnemonic::*;
    let last = ins.op_count().wrapping_sub(1);
    match ins.mnemonic() {
        Cmpxchg8b | Cmpxchg16b => plan.rcx_in = true,
        Pcmpestri | Pcmpestri64 | Pcmpistri | Vpcmpestri | Vpcmpestri64 | Vpcmpistri => plan.rcx_out = Some(false),
        _ if ins.op_count() > 0 && is_count(ins, last) => plan.rcx_in = true,
        _ => {}
    }
}

/// Operand `i` is the CL of a shift.
fn is_count(ins: &Instruction, i: u32) -> bool {
    use Mnemonic::*;
    i > 0
        && i == ins.op_count() - 1
        && ins.op_kind(i) == OpKind::Register
        && ins.op_register(i) == Register::CL
        && matches!(ins.mnemonic(), Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd)
}

fn is_high(r: Register) -> bool {
    matches!(r, Register::AH | Register::CH | Register::DH | Register::BH)
}

/// The name of the `size` low bytes of a host register.
pub(super) fn named(Host(n): Host, size: usize) -> Register {
    let n = u32::from(n);
    match size {
        8 => Register::RAX + n,
        4 => Register::EAX + n,
        2 => Register::AX + n,
        _ if n < 4 => Register::AL + n,
        _ => Register::AL + n + 4,
    }
}

/// The name of guest register `n`.
pub(super) fn named_64(n: usize) -> Register {
    Register::RAX + n as u32
}

pub(super) fn access(ins: &Instruction, operand: u32) -> Access {
    use Mnemonic::*;
    // What nearly every instruction is, without the long way.
    match ins.mnemonic() {
        Mov | Movzx | Movsx | Movsxd | Cmp | Test | Movaps | Movups | Movdqa | Movdqu | Vmovdqa | Vmovdqu | Movss
        | Movsd | Movq | Movd | Movapd | Movupd | Movntdq | Movntps | Movntpd | Movnti | Vmovaps | Vmovups
        | Vmovapd | Vmovupd | Vmovntdq | Vmovntps | Vmovntpd | Vmovss | Vmovsd | Vmovq | Vmovd => {
            let stores = operand == 0 && !matches!(ins.mnemonic(), Cmp | Test);
            return if stores { Access::Store } else { Access::Load };
        }
        _ => {}
    }
    let options = InstructionInfoOptions::NO_MEMORY_USAGE | InstructionInfoOptions::NO_REGISTER_USAGE;
    match InstructionInfoFactory::new().info_options(ins, options).op_access(operand) {
        OpAccess::Read | OpAccess::CondRead => Access::Load,
        _ => Access::Store,
    }
}

pub(super) fn alignment(insn: &Insn) -> u32 {
    match (insn.kind, insn.ins.mnemonic()) {
        (Kind::Vector | Kind::X87, _) => visor_fpu::operand_alignment(&insn.ins).into(),
        (_, Mnemonic::Cmpxchg16b) => 16,
        _ => 1,
    }
}

/// Makes the memory operand `[base + at]`.
pub(super) fn redirect(host: &mut Instruction, base: Register, at: i64) {
    host.set_memory_base(base);
    host.set_memory_index(Register::None);
    host.set_memory_index_scale(1);
    host.set_memory_displacement64(at as u64);
    host.set_memory_displ_size(if at == 0 { 0 } else { 1 });
    host.set_segment_prefix(Register::None);
}

fn clear_prefixes(host: &mut Instruction) {
    if !host.has_lock_prefix() {
        host.set_has_rep_prefix(false);
        host.set_has_repne_prefix(false);
    }
    host.set_has_xacquire_prefix(false);
    host.set_has_xrelease_prefix(false);
    host.set_segment_prefix(Register::None);
}
