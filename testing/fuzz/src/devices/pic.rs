//! The interrupt controllers.

use std::sync::Arc;

use visor_chipset::{IntrSink, Pic};

use crate::pc::Pc;
use crate::{Input, Script};

struct Intr;

impl IntrSink for Intr {
    fn set_intr(&self, _level: bool) {}
}

pub(super) fn run(data: &[u8]) {
    let mut pc = Pc::new();
    let pic = pc.device(Pic::new(Arc::new(Intr)));
    pc.claim(&pic);
    pc.drive(&mut Input::new(data), |_, op, input| {
        let mut pic = pic.lock().expect("nobody panicked");
        match op {
            0 | 1 => pic.set(u32::from(input.u8()), op == 0),
            _ => _ = (pic.acknowledge(), pic.intr()),
        }
    });
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let init = Script::new()
        .outs(0, &[(0, 0x11), (1, 0x20), (1, 4), (1, 1), (1, 0)])
        .outs(1, &[(0, 0x11), (1, 0x28), (1, 2), (1, 3), (1, 0)]);
    let rotating = init.clone().outs(0, &[(0, 0x80), (0, 0x68), (0, 0x0b), (0, 0xc3)]).inp(0, 0, 1);
    vec![
        init.clone().extra(0).raw(&[3]).extra(2).inp(0, 0, 1).out(0, 0, 0x20).extra(1).raw(&[3]).end(),
        init.extra(0).raw(&[12]).extra(2).outs(1, &[(0, 0x20)]).out(0, 0, 0x0c).inp(0, 0, 1).end(),
        rotating.extra(0).raw(&[7]).extra(2).outs(2, &[(0, 0xff), (1, 0xff)]).end(),
    ]
}
