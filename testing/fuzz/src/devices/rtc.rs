//! The real-time clock.

use visor_chipset::{LegacyReplacement, Rtc, RtcConfig, RtcWires};

use crate::pc::Pc;
use crate::{Input, Script};

pub(super) fn run(data: &[u8]) {
    let mut pc = Pc::new();
    let (clock, irq) = (pc.clock.clone(), pc.line(8));
    let config = RtcConfig { memory_below_4g: 2 << 20, memory_above_4g: 0 };
    let rtc = pc.timed(|timer| {
        Rtc::new(RtcWires { clock, timer, wake: irq.clone(), irq, legacy: LegacyReplacement::default() }, config)
    });
    pc.claim(&rtc);
    pc.drive(&mut Input::new(data), |_, _, _| _ = rtc.lock().expect("nobody panicked").nmi_masked());
}

/// Index and data of each register, in order.
fn registers(all: &[(u8, u8)]) -> Script {
    all.iter().fold(Script::new(), |s, (index, value)| s.outs(0, &[(0, *index), (1, *value)]))
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let set = [(11, 0x86), (0, 0x59), (2, 0x59), (4, 0x23), (6, 7), (7, 0x31), (8, 0x12), (9, 0x99), (0x32, 0x99)];
    let wait = |s: Script| s.wait(3_000_000_000).out(0, 0, 12).inp(0, 1, 1).wait(1 << 50).inp(0, 1, 1);
    vec![
        wait(registers(&set).outs(0, &[(0, 11), (1, 0x06)])).end(),
        wait(registers(&[(10, 0x26), (11, 0x72), (1, 0xff), (3, 0xc0), (5, 0xff)])).end(),
        wait(registers(&[(10, 0x23), (11, 0x42)])).end(),
        wait(registers(&[(10, 0x7f), (11, 0xff), (8, 0), (7, 0), (9, 0xff), (11, 0)])).end(),
    ]
}
