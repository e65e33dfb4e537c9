//! Port instructions and the I/O permission bitmap (SDM 1 §19.5).

use std::sync::atomic::Ordering;

use visor_x86::exception::Exception;
use visor_x86::regs::Rflags;

use crate::account::Phase;
use crate::changed;
use crate::cpu::Cpu;
use crate::op::{Flow, Guest, Op};
use crate::sys::operand::{end, ones};

/// Elements of a repeated INS or OUTS between two looks at interrupts.
const BATCH: u32 = 256;

const RAX: u8 = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RSI: usize = 6;
const RDI: usize = 7;

impl Cpu {
    /// #GP(0) unless the running code may access `size` ports at `port`.
    fn check_ports(&mut self, port: u16, size: u8) -> Guest<()> {
        if self.is_real() || (self.cpl <= self.iopl() && !self.is_v86()) {
            return Ok(());
        }
        let limit = u64::from(self.tr.limit);
        // The map's address is in 32- and 64-bit TSSs only.
        if self.tr.attr.unusable() || self.tr.attr.kind() & 8 == 0 || limit < 0x67 {
            return self.fail(Exception::gp(0));
        }
        let map = u64::from(self.sys_read::<u16>(self.tr.base.wrapping_add(0x66))?);
        let at = map + u64::from(port / 8);
        // Two bytes are read, since ports may straddle them.
        if at + 1 > limit {
            return self.fail(Exception::gp(0));
        }
        let bits = self.sys_read::<u16>(self.tr.base.wrapping_add(at))?;
        let mask = (1 << size) - 1;
        if bits >> (port % 8) & mask != 0 { self.fail(Exception::gp(0)) } else { Ok(()) }
    }

    fn port_read(&mut self, port: u16, size: u8) -> u64 {
        let mut data = [0; 4];
        let entered = self.account.enter(Phase::Devices);
        let acting = changed::as_device();
        self.io().pio_read(port, &mut data[..usize::from(size)]);
        drop(acting);
        let ticks = self.account.leave(entered);
        self.stats.exits.pio.add(ticks);
        self.watch_port(port, u64::from(size));
        u64::from(u32::from_le_bytes(data)) & ones(size)
    }

    fn port_write(&mut self, port: u16, size: u8, value: u64) {
        let entered = self.account.enter(Phase::Devices);
        let acting = changed::as_device();
        self.io().pio_write(port, &value.to_le_bytes()[..usize::from(size)]);
        drop(acting);
        let ticks = self.account.leave(entered);
        self.stats.exits.pio.add(ticks);
        self.watch_port(port, u64::from(size));
    }
}

fn size_of(op: &Op) -> u8 {
    match op.aux {
        1 | 2 => op.aux,
        _ => 4,
    }
}

fn input(cpu: &mut Cpu, op: &Op, port: u16) -> Guest<Flow> {
    cpu.check_ports(port, size_of(op))?;
    let value = cpu.port_read(port, size_of(op));
    cpu.reg_put(RAX, size_of(op), value);
    Ok(Flow::Next)
}

fn output(cpu: &mut Cpu, op: &Op, port: u16) -> Guest<Flow> {
    cpu.check_ports(port, size_of(op))?;
    let value = cpu.reg_get(RAX, size_of(op));
    cpu.port_write(port, size_of(op), value);
    // Who resets the machine or puts it to sleep relies on nothing after the OUT being executed.
    if cpu.port.attention.load(Ordering::Relaxed) != 0 { end(cpu, op) } else { Ok(Flow::Next) }
}

/// IN with an immediate port.
pub(super) fn in_imm(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    input(cpu, op, op.imm as u8 as u16)
}

/// IN from the port in DX.
pub(super) fn in_dx(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    input(cpu, op, cpu.gpr[RDX] as u16)
}

/// OUT with an immediate port.
pub(super) fn out_imm(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    output(cpu, op, op.imm as u8 as u16)
}

/// OUT to the port in DX.
pub(super) fn out_dx(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    output(cpu, op, cpu.gpr[RDX] as u16)
}

/// Runs one INS or OUTS element after another. `index` is the register that walks.
fn string(cpu: &mut Cpu, op: &Op, index: usize, element: fn(&mut Cpu, &Op, u16, u8, u64) -> Guest<()>) -> Guest<Flow> {
    let (size, mask) = (size_of(op), op.mem.mask);
    let port = cpu.gpr[RDX] as u16;
    cpu.check_ports(port, size)?;
    let step = |cpu: &Cpu| match cpu.sysflags & Rflags::DF.bits() {
        0 => u64::from(size),
        _ => u64::from(size).wrapping_neg(),
    };
    if op.imm == 0 {
        element(cpu, op, port, size, cpu.gpr[index] & mask)?;
        cpu.gpr[index] = merge(cpu.gpr[index], cpu.gpr[index].wrapping_add(step(cpu)), mask);
        return Ok(Flow::Next);
    }
    // With single-stepping and data breakpoints each element is an instruction of its own.
    let batch = if cpu.mode.single { 1 } else { BATCH };
    for _ in 0..batch {
        if cpu.gpr[RCX] & mask == 0 {
            return Ok(Flow::Next);
        }
        element(cpu, op, port, size, cpu.gpr[index] & mask)?;
        cpu.gpr[index] = merge(cpu.gpr[index], cpu.gpr[index].wrapping_add(step(cpu)), mask);
        cpu.gpr[RCX] = merge(cpu.gpr[RCX], cpu.gpr[RCX].wrapping_sub(1), mask);
    }
    Ok(if cpu.gpr[RCX] & mask == 0 { Flow::Next } else { Flow::Again })
}

/// Replaces a register by address size: 32 bits clear the upper half, 16 bits leave the rest.
fn merge(old: u64, new: u64, mask: u64) -> u64 {
    if mask == 0xffff { (old & !mask) | (new & mask) } else { new & mask }
}

/// INS. `mem` gives the ES segment and the address size; `imm` is 1 with REP.
pub(super) fn ins(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    string(cpu, op, RDI, |cpu, op, port, size, offset| {
        let lin = cpu.linear_at(op, offset, u64::from(size), true)?;
        // The device is read only once the store cannot fault any more.
        cpu.probe_store(lin, u64::from(size), op.mem.seg)?;
        let value = cpu.port_read(port, size);
        cpu.write_sized(lin, op.mem.seg, size, value, op)
    })
}

/// OUTS. `mem` gives the source segment and the address size; `imm` is 1 with REP.
pub(super) fn outs(cpu: &mut Cpu, op: &Op) -> Guest<Flow> {
    string(cpu, op, RSI, |cpu, op, port, size, offset| {
        let lin = cpu.linear_at(op, offset, u64::from(size), false)?;
        let value = cpu.read_sized(lin, op.mem.seg, size)?;
        cpu.port_write(port, size, value);
        Ok(())
    })
}
