//! The high precision event timer.

use visor_chipset::{HPET_BASE, HPET_LEN, Hpet, HpetWires, LegacyReplacement};

use crate::pc::Pc;
use crate::{Input, Script};

pub(super) fn run(data: &[u8]) {
    let mut pc = Pc::new();
    let clock = pc.clock.clone();
    let legacy_irqs = [pc.line(0), pc.line(8)];
    let routes = (20..24).map(|n| pc.line(n)).collect();
    let legacy = LegacyReplacement::default();
    let hpet = pc.timed(|timer| Hpet::new(HpetWires { clock, timer, legacy_irqs, routes, legacy }));
    pc.at_memory(HPET_BASE, HPET_LEN, hpet);
    pc.drive(&mut Input::new(data), |_, _, _| ());
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let start = |timer: u32, conf: u64, at: u64| {
        let (c, v) = (0x100 + 0x20 * timer, 0x108 + 0x20 * timer);
        let s = Script::new().store(0, c, 8, conf).store(0, v, 8, at).store(0, v, 4, 1000).store(0, 0x10, 8, 1);
        s.wait(10_000_000).load(0, 0xf0, 8).store(0, 0x20, 8, 7).wait(1 << 45).load(0, 0x20, 4)
    };
    vec![
        start(0, 0x2844, 100).store(0, 0x10, 8, 3).end(),
        start(0, 0x4c, 1).store(0, 0x10, 8, 0).store(0, 0xf0, 8, u64::MAX - 5).store(0, 0x10, 8, 1).wait(1 << 30).end(),
        start(1, 0x2e06, 0).end(),
        start(2, 0x0104, 0xffff_ffff).store(0, 0xf4, 4, 0xffff_ffff).end(),
    ]
}
