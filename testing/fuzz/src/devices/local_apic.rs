//! A local APIC, as an engine drives it.

use visor_apic::{
    DeliveryMode, Effect, LocalApic, LocalApicConfig, LocalSource, Lowest, Message, Now, Trigger, X2APIC_FIRST,
};

use crate::{Input, Script};

pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let config =
        LocalApicConfig { id: 3, boot: true, x2apic: true, tsc_deadline: true, phys_bits: 40, tsc_hz: 2_500_000_000 };
    let mut apic = LocalApic::new(config);
    let mut now = Now::default();
    while !input.is_empty() {
        let effect = operate(&mut apic, &mut now, &mut input);
        if let Effect::Ipi(ipi) = effect
            && apic.takes(&ipi)
        {
            let mut lowest = Lowest::default();
            lowest.offer(0, &apic);
            let _ = lowest.winner();
            let _ = apic.deliver(&ipi.message);
        }
        let _ = (apic.has_pending(), apic.pending(), apic.page(), apic.mode());
        if let Some(at) = apic.next_deadline(now) {
            assert!(
                at >= now.nanos || {
                    apic.tick(now);
                    apic.next_deadline(now).is_none_or(|at| at > now.nanos)
                },
                "the timer does not let time go on"
            );
        }
    }
}

fn operate(apic: &mut LocalApic, now: &mut Now, input: &mut Input<'_>) -> Effect {
    let mut data = [0; 8];
    match input.u8() % 16 {
        0 => {
            let (at, width) = (u32::from(input.u16() & 0xfff), input.width(8));
            apic.mmio_read(at, &mut data[..width], *now);
        }
        1 | 2 => {
            let (at, width) = (u32::from(input.u16() & 0xfff), input.width(8));
            return apic.mmio_write(at, &input.u64().to_le_bytes()[..width], *now);
        }
        3 => _ = apic.read_msr(msr(input), *now),
        4 | 5 => return apic.write_msr(msr(input), input.u64(), *now).unwrap_or(Effect::None),
        6 => _ = apic.set_base(input.u64()),
        7 => {
            let by = input.u64() >> 1;
            // Of the order of a century, so that neither clock wraps.
            *now = Now { nanos: (now.nanos + by % (1 << 60)).min(1 << 61), tsc: now.tsc.saturating_add(by) };
            apic.tick(*now);
        }
        8 => _ = apic.acknowledge(),
        9 => apic.set_cr8(input.u8()),
        10 => _ = (apic.set_lint0(input.u8() & 1 != 0), apic.set_lint1(input.u8() & 1 != 0)),
        11 => _ = apic.raise(if input.u8() & 1 == 0 { LocalSource::Thermal } else { LocalSource::PerfCounter }),
        12 => {
            let mode = DeliveryMode::from_bits(u32::from(input.u8() & 7)).unwrap_or(DeliveryMode::Fixed);
            let trigger = if input.u8() & 1 == 0 { Trigger::Edge } else { Trigger::Level };
            let message =
                Message { destination: input.u32(), logical: input.u8() & 1 != 0, mode, vector: input.u8(), trigger };
            let _ = (apic.matches(message.destination, message.logical), apic.deliver(&message));
        }
        13 => _ = Message::decode(input.u64(), input.u32()).map(|m| apic.deliver(&m)),
        14 => {
            let state = apic.save();
            apic.restore(&state);
        }
        _ if input.u8() & 1 == 0 => apic.init(),
        _ => apic.reset(),
    }
    Effect::None
}

fn msr(input: &mut Input<'_>) -> u32 {
    match input.u8() {
        0xff => 0x1b,
        0xfe => 0x6e0,
        n => X2APIC_FIRST + u32::from(n),
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let store = |s: Script, at: u16, value: u64| s.raw(&[1]).raw(&at.to_le_bytes()).raw(&[2]).raw(&value.to_le_bytes());
    let wait = |s: Script, n: u64| s.raw(&[7]).raw(&n.to_le_bytes());
    let wrmsr = |s: Script, msr: u8, value: u64| s.raw(&[4, msr]).raw(&value.to_le_bytes());
    let on = store(Script::new(), 0xf0, 0x1ff);
    let timer = store(store(store(on.clone(), 0x320, 0x2_0040), 0x3e0, 3), 0x380, 1000);
    let deadline = wrmsr(store(on.clone(), 0x320, 0x4_0040), 0xfe, 5000);
    let ipi = store(store(on.clone(), 0x310, 0x0300_0000), 0x300, 0x8_4041).raw(&[8]);
    let x2apic = wrmsr(wrmsr(wrmsr(Script::new(), 0xff, 0xfee0_0d00), 0x0f, 0x1ff), 0x30, 0x0000_0003_0000_4041);
    vec![
        store(wait(wait(timer, 100_000), 1 << 50).raw(&[8]), 0xb0, 0).end(),
        wait(deadline, 1 << 40).raw(&[8]).end(),
        store(ipi, 0xb0, 0).end(),
        wrmsr(x2apic.raw(&[8]), 0x0b, 0).raw(&[3, 0x02, 14]).end(),
        on.raw(&[12, 0, 1, 3, 0, 0, 0, 0, 0x45, 8, 12, 7, 0, 3, 0, 0, 0, 0, 0x45, 10, 1, 1]).end(),
    ]
}
