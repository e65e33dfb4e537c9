//! The I/O APIC.

use visor_apic::{IOAPIC_BASE, IOAPIC_LEN, IoApic};

use crate::pc::Pc;
use crate::{Input, Script};

pub(super) fn run(data: &[u8]) {
    let mut pc = Pc::new();
    let mut input = Input::new(data);
    let sink = pc.interrupts.clone();
    let apic = if input.u8() & 1 == 0 { IoApic::new(sink) } else { IoApic::with_remapping(sink) };
    let apic = pc.device(apic);
    pc.at_memory(IOAPIC_BASE, IOAPIC_LEN, apic.clone());
    pc.drive(&mut input, |_, op, input| {
        let mut apic = apic.lock().expect("nobody panicked");
        match op {
            0 | 1 => apic.set(u32::from(input.u8()), op == 0),
            2 => apic.end_of_interrupt(input.u8()),
            _ => {
                let saved = apic.save();
                apic.restore(&saved);
            }
        }
    });
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let entry = |s: Script, n: u32, low: u64, high: u64| {
        let s = s.store(0, 0, 4, u64::from(0x10 + 2 * n)).store(0, 0x10, 4, low);
        s.store(0, 0, 4, u64::from(0x11 + 2 * n)).store(0, 0x10, 4, high)
    };
    let go = |remapping: u8, low: u64| {
        let s = entry(entry(Script::new().raw(&[remapping]), 3, low, 0), 23, low | 0x8000, 0xff00_0000);
        s.extra(0).raw(&[3]).extra(0).raw(&[23]).extra(2).raw(&[low as u8]).store(0, 0x40, 4, low & 0xff)
    };
    vec![go(0, 0x31).end(), go(1, 0x0931).load(0, 0x10, 4).extra(3).end(), go(0, 0x0700).end()]
}
