//! VMCALL and VMMCALL: calls of a guest to its hypervisor, by the numbers and registers that Linux's KVM interface uses
//! (Documentation/virt/kvm/x86/hypercalls.rst): number in RAX, arguments in RBX, RCX, RDX, RSI, result in RAX.

use visor_apic::{DeliveryMode, Ipi, Message, Shorthand, Trigger};
use visor_x86::exception::Exception;

use crate::cpu::Cpu;
use crate::op::{Flow, Guest, Op};

/// Sends an IPI to up to 128 CPUs at once.
const SEND_IPI: u64 = 10;
/// Results: no such call, and not from ring 3 (-KVM_ENOSYS, -KVM_EPERM).
const ENOSYS: u64 = -1000i64 as u64;
const EPERM: u64 = -1i64 as u64;

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const RSI: usize = 6;

/// VMCALL. Outside protected mode it is undefined.
pub(super) fn vmcall(cpu: &mut Cpu, _op: &Op) -> Guest<Flow> {
    if !cpu.mode.protected {
        return cpu.fail(Exception::UD);
    }
    let result = match cpu.gpr[RAX] {
        _ if cpu.cpl != 0 => EPERM,
        SEND_IPI => send_ipi(cpu),
        _ => ENOSYS,
    };
    cpu.gpr[RAX] = if cpu.is_64() { result } else { result & 0xffff_ffff };
    Ok(Flow::Next)
}

/// Sends the interrupt that RSI describes as the low half of an ICR to the CPUs whose bits are set in RCX:RBX, counted from APIC
/// id RDX. Returns the number of CPUs addressed; an illegal vector reaches none.
fn send_ipi(cpu: &Cpu) -> u64 {
    let icr = cpu.gpr[RSI] as u32;
    let Some(mode) = DeliveryMode::from_bits(icr >> 8) else { return 0 };
    let vector = icr as u8;
    if !matches!(mode, DeliveryMode::Fixed | DeliveryMode::Nmi) || (mode == DeliveryMode::Fixed && vector < 16) {
        return 0;
    }
    let wanted = u128::from(cpu.gpr[RBX]) | u128::from(cpu.gpr[RCX]) << 64;
    let first = cpu.gpr[RDX] as u32;
    let mut sent = 0;
    for port in cpu.fabric.ports() {
        let Some(bit) = port.id.0.checked_sub(first).filter(|b| *b < 128) else { continue };
        if wanted >> bit & 1 != 0 {
            let message = Message { destination: port.id.0, logical: false, mode, vector, trigger: Trigger::Edge };
            cpu.fabric.ipi(&Ipi { message, shorthand: Shorthand::None, source: cpu.id.0 });
            sent += 1;
        }
    }
    sent
}
