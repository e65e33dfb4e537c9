//! The interval timer.

use visor_chipset::{LegacyReplacement, Pit, PitWires};

use crate::pc::Pc;
use crate::{Input, Script};

pub(super) fn run(data: &[u8]) {
    let mut pc = Pc::new();
    let (clock, irq) = (pc.clock.clone(), pc.line(0));
    let pit = pc.timed(|timer| Pit::new(PitWires { clock, timer, irq, legacy: LegacyReplacement::default() }));
    pc.claim(&pit);
    pc.drive(&mut Input::new(data), |_, _, _| _ = pit.lock().expect("nobody panicked").speaker());
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mode = |mode: u8, low: u8, high: u8| {
        let s = Script::new().outs(0, &[(3, 0x30 | mode << 1), (0, low), (0, high)]).wait(1_000_000);
        s.out(0, 3, 0).inp(0, 0, 1).out(0, 3, 0xe2).inp(0, 0, 2).wait(1 << 40).inp(0, 0, 1)
    };
    (0..8).map(|m| mode(m, m, 0).outs(1, &[(0, 3)]).outs(0, &[(3, 0xb6 | m), (2, 1), (2, 0)]).extra(0).end()).collect()
}
